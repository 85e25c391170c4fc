"""Names, shapes, dtypes and arguments that load refuses are named, and nothing has changed."""

import pytest
import torch
from torch import nn

pytest.importorskip("safetensors")

from safetensors.torch import save_file

from tests.checkpoint.models import contents, deferred
from tritonparam import load
from tritonparam.checkpoint.errors import CheckpointError


def test_names_of_one_side_are_an_error_that_lists_them(checkpoint, unchanged):
    source, path = checkpoint
    values = contents(source)
    del values["odd"], values["steps"]
    save_file(values | {"more": torch.ones(1)}, path)
    unchanged(path, ValueError, r"missing in it: odd, steps; unexpected in it: more\. With strict=False")
    save_file(contents(source) | {"table": torch.ones(6)}, path)
    unchanged(path, ValueError, "unexpected in it: table")


def test_other_shapes_are_an_error_that_lists_them(checkpoint, unchanged):
    source, path = checkpoint
    save_file(contents(source) | {"odd": torch.ones(5, 3), "norm.bias": torch.ones(4, 1)}, path)
    for strict in (True, False):
        text = r"odd is of shape \(3, 5\), in the checkpoint of \(5, 3\), norm.bias is of shape \(4,\), .*\(4, 1\)"
        unchanged(path, ValueError, text, strict=strict)


def test_dtypes_that_do_not_go_into_each_other_are_an_error_that_names_both(checkpoint, unchanged):
    source, path = checkpoint
    save_file(contents(source) | {"steps": torch.tensor(1.0)}, path)
    unchanged(path, TypeError, "steps is torch.int64, in the checkpoint torch.float32")


def test_bad_arguments(checkpoint, unchanged):
    path = checkpoint[1]
    unchanged(path, TypeError, "strict must be a bool", strict=1)
    unchanged(path, TypeError, "progress must be", progress="yes")
    unchanged(path, ValueError, "dtype must be a floating-point dtype", dtype=torch.int32)
    unchanged(path, ValueError, "seed", seed=-1)
    unchanged(path, ValueError, "device", device="nowhere")
    unchanged(path, ValueError, "backend", backend="abacus")
    for meta in (nn.Linear(2, 2, device="meta").weight, deferred().norm.weight):
        with pytest.raises(ValueError, match="'w' "):
            load({"w": meta}, path)


LONG = "n" * 5000


@pytest.mark.parametrize(
    ("stored", "target", "options"),
    [
        ({f"{LONG}{number}": torch.ones(2) for number in range(20)}, {f"{LONG}x": torch.zeros(2)}, {}),
        ({LONG: torch.ones(2)}, {LONG: torch.zeros(3)}, {}),
        ({LONG: torch.ones([1] * 500)}, {LONG: torch.zeros(3)}, {}),
        ({LONG: torch.ones(2)}, {LONG: torch.zeros(2, dtype=torch.int32)}, {}),
        ({LONG: torch.ones(2)}, {LONG: torch.zeros(1).expand(2)}, {}),
        ({LONG: torch.ones(2), f"{LONG}x": torch.zeros(2)}, dict.fromkeys((LONG, f"{LONG}x"), torch.zeros(2)), {}),
        ({LONG: torch.ones(2), "x": torch.ones(1)}, {LONG: (two := torch.zeros(2)), "x": two[:1]}, {}),
        ({LONG: torch.ones(2)}, {"w": torch.zeros(2)}, {"mapping": lambda _: [LONG] * 1000}),
        ({LONG: torch.ones(2)}, {"w": torch.zeros(2)}, {"mapping": [LONG]}),
        ({LONG: torch.ones(2)}, {"w": torch.zeros(2)}, {"layouts": {LONG: 3}}),
        ({LONG: torch.ones(2)}, {"w": torch.zeros(2)}, {"strict": LONG}),
        ({LONG: torch.ones(2)}, {"w": torch.zeros(2), LONG: [0] * 10**6}, {}),
    ],
    ids=range(12),
)
def test_messages_are_short_whatever_the_names(stored, target, options, tmp_path):
    save_file(stored, tmp_path / "w.safetensors")
    with pytest.raises((ValueError, TypeError)) as caught:
        load(target, tmp_path / "w.safetensors", **options)
    assert len(str(caught.value)) < 1000
    assert type(caught.value) in (ValueError, TypeError)


def test_a_path_that_is_too_long_is_shown_shortly(tmp_path):
    for path in (LONG, tmp_path / LONG, f"{LONG}.json"):
        with pytest.raises(CheckpointError, match="cannot be read: File name too long") as caught:
            load({}, path)
        assert len(str(caught.value)) < 1000
