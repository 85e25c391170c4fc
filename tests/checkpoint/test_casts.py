"""Floats of a checkpoint go into all floats, rounded as torch rounds them; integers go where nothing is lost."""

import math

import pytest
import torch

pytest.importorskip("safetensors")

from safetensors.torch import save_file

from tests.checkpoint.bits import same
from tritonparam import load
from tritonparam.checkpoint.casts import goes_into

FLOATS = [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2]
INTS = [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64]


@pytest.mark.parametrize("own", FLOATS, ids=str)
@pytest.mark.parametrize("saved", FLOATS, ids=str)
def test_floats_are_cast_among_each_other(saved, own, tmp_path):
    """As torch casts, NaN and infinities and all, and e4m3fn as it does from 2.12 on; of one dtype the bits stay."""
    values = torch.tensor([0.0, -0.0, 1.0, -2.7, 1e-7, 3e4, math.inf, math.nan, 448.0, 5e-5], dtype=torch.float64)
    save_file({"w": values.to(saved)}, tmp_path / "w.safetensors")
    target = {"w": torch.zeros(10, dtype=own)}
    load(target, tmp_path / "w.safetensors")
    stored = values.to(saved)
    if own == torch.float8_e4m3fn:
        stored = stored.double().clamp(-448, 448)
    assert same(target["w"], stored.to(own))


@pytest.mark.parametrize("saved", [*INTS, torch.bool], ids=str)
def test_integers_go_where_nothing_is_lost(saved, tmp_path):
    """The extremes of every dtype come back from every dtype that takes it; the others are refused."""
    low, high = (0, 1) if saved == torch.bool else (torch.iinfo(saved).min, torch.iinfo(saved).max)
    values = torch.tensor([low, high, 1], dtype=saved)
    save_file({"w": values}, tmp_path / "w.safetensors")
    for own in (*INTS, torch.bool, *FLOATS):
        target = {"w": torch.zeros(3, dtype=own)}
        if not goes_into(saved, own):
            with pytest.raises(TypeError, match=f"w is {own}, in the checkpoint {saved}"):
                load(target, tmp_path / "w.safetensors")
            assert not target["w"].to(torch.float64).any()
            continue
        load(target, tmp_path / "w.safetensors")
        assert [int(each) for each in target["w"].to(torch.float64 if own in FLOATS else own).tolist()] == [
            low,
            high,
            1,
        ]


def test_which_integers_go_into_which():
    assert goes_into(torch.int8, torch.float16)
    assert goes_into(torch.uint8, torch.bfloat16)
    assert goes_into(torch.int32, torch.float64)
    for saved, own in [("int64", "float64"), ("int16", "bfloat16"), ("int8", "uint8"), ("int32", "int16")]:
        assert not goes_into(getattr(torch, saved), getattr(torch, own)), saved
    assert not goes_into(torch.complex64, torch.float32)
    assert goes_into(torch.complex64, torch.complex64)
