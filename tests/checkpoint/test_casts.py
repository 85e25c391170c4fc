"""Floats of a checkpoint go into all floats, rounded as torch rounds them; integers go where nothing is lost."""

import math

import pytest
import torch

pytest.importorskip("safetensors")

from safetensors.torch import save_file

from tests.checkpoint.bits import same
from tritonparam import load
from tritonparam.checkpoint import staging
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


NARROW = [torch.float8_e8m0fnu, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz]


def codes(dtype, count=256):
    return torch.arange(count).to(torch.uint8).view(dtype)


@pytest.mark.parametrize("own", FLOATS, ids=str)
@pytest.mark.parametrize("saved", NARROW, ids=str)
def test_floats_that_are_only_read_become_what_torch_makes_of_them(saved, own, tmp_path, monkeypatch):
    """All 256 codes, in pieces, into a tensor with gaps too; NaN becomes NaN."""
    values = codes(saved, 1024)
    save_file({"w": values.view(32, 32)}, tmp_path / "w.safetensors")
    want = values.to(torch.float32).to(own) if own == torch.float8_e4m3fn else values.to(own)
    for pieces in (1 << 22, 7, 100):
        monkeypatch.setattr(staging, "_WIDENED", pieces)
        gaps = torch.zeros(32, 70, dtype=own)
        for target in (torch.zeros(32, 32, dtype=own), gaps[:, 3:67:2]):
            load({"w": target}, tmp_path / "w.safetensors")
            got, good = target.double().flatten(), want.double()
            assert torch.equal(got.isnan(), good.isnan())
            assert same(target.flatten()[~good.isnan()], want[~good.isnan()])
        assert not gaps[:, :3].double().any()
        assert not gaps[:, 4:66:2].double().any()


@pytest.mark.parametrize("saved", NARROW, ids=str)
def test_floats_that_are_only_read_are_not_written_by_a_cast(saved, tmp_path):
    save_file({"w": torch.ones(256), "x": codes(saved)}, tmp_path / "w.safetensors")
    for name, others in (
        ("w", [saved]),
        ("x", [each for each in (*NARROW, *INTS, torch.bool, torch.complex64) if each != saved]),
    ):
        for own in others:
            target = {
                name: torch.zeros(256, dtype=torch.uint8).view(own)
                if own.itemsize == 1
                else torch.zeros(256, dtype=own)
            }
            with pytest.raises(TypeError, match=f"{name} is {own}, in the checkpoint"):
                load(target, tmp_path / "w.safetensors", strict=False)
    target = {"x": codes(torch.uint8).view(saved)}
    load(target, tmp_path / "w.safetensors", strict=False)
    assert same(target["x"], codes(saved))  # of one dtype the bits stay


@pytest.mark.gpu
@pytest.mark.parametrize("size", [1 << 10, 1 << 26])
@pytest.mark.parametrize("saved", NARROW, ids=str)
def test_floats_that_are_only_read_reach_a_cuda_device(saved, size, tmp_path, monkeypatch):
    monkeypatch.setattr(staging, "STAGING", size)
    values = codes(saved, 4096)
    save_file({"w": values, "plain": torch.arange(300.0)}, tmp_path / "w.safetensors")
    for own in FLOATS:
        target = {"w": torch.zeros(4096, dtype=own, device="cuda"), "plain": torch.zeros(300, dtype=own, device="cuda")}
        load(target, tmp_path / "w.safetensors")
        here = {name: torch.zeros(each.shape, dtype=own) for name, each in target.items()}
        load(here, tmp_path / "w.safetensors")
        for name, want in here.items():
            number = ~want.double().isnan()
            assert torch.equal(target[name].cpu().double().isnan(), ~number), own
            assert same(target[name].cpu()[number], want[number]), own
