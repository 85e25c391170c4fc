"""A load that fails or is interrupted while tensors are swapped leaves everything as it was."""

import itertools

import pytest
import torch

pytest.importorskip("safetensors")

from safetensors.torch import save_file

from tests.checkpoint.bits import same
from tests.checkpoint.models import declare, deferred
from tritonparam import Parameter, load
from tritonparam.module import takeover


def test_a_swap_that_fails_changes_nothing_of_a_module(checkpoint):
    net = deferred()
    held = torch._C._WeakTensorRef(net.norm.bias)
    with pytest.raises(RuntimeError, match=r"norm\.bias cannot be made real"):
        load(net, checkpoint[1])
    assert all(each.is_meta for each in net.parameters())
    assert not held.expired()


def interrupted(method, after):
    """`method`, with an interrupt in place of one call."""
    calls = itertools.count()

    def call(*arguments):
        if next(calls) == after:
            raise KeyboardInterrupt
        return method(*arguments)

    return call


def test_an_interrupt_while_tensors_are_swapped_changes_nothing_of_a_module(checkpoint, monkeypatch):
    net = deferred()
    with monkeypatch.context() as patch:
        patch.setattr(takeover, "exchange", interrupted(takeover.exchange, 2))
        with pytest.raises(KeyboardInterrupt):
            load(net, checkpoint[1])
    assert all(each.is_meta for each in net.parameters())
    load(net, checkpoint[1])


def test_an_interrupt_while_tensors_are_swapped_changes_no_parameter(tmp_path, monkeypatch):
    save_file({"a": torch.randn(4, 6), "b": torch.randn(4, 6)}, tmp_path / "w.safetensors")
    pair = [declare(name="a"), declare(name="b")]
    with monkeypatch.context() as patch:
        patch.setattr(Parameter, "_become", interrupted(Parameter._become, 1))
        with pytest.raises(KeyboardInterrupt):
            load(pair, tmp_path / "w.safetensors")
    assert [each.has_init for each in pair] == [True, True]
    assert same(pair[0].init_data().torch, declare(name="a").init_data().torch)


def test_a_swap_that_fails_changes_no_parameter(tmp_path):
    save_file({"a": torch.randn(4, 6), "b": torch.randn(4, 6)}, tmp_path / "w.safetensors")
    pair = [declare(name="a"), declare(name="b")]
    held = torch._C._WeakTensorRef(pair[1].torch)
    with pytest.raises(RuntimeError, match="b cannot become real"):
        load(pair, tmp_path / "w.safetensors")
    assert [each.has_init for each in pair] == [True, True]
    assert pair[1].torch.is_meta
    assert not held.expired()
    assert same(pair[0].init_data().torch, declare(name="a").init_data().torch)
