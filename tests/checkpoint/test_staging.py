"""Values reach a GPU by two buffers in turn, and neither is written again before the device is done with it."""

import pytest
import torch

from tests.checkpoint.bits import same
from tests.checkpoint.models import Net, deferred
from tritonparam import load
from tritonparam.checkpoint import staging
from tritonparam.checkpoint.staging import Move, Staging


class Event:
    """Stands for a CUDA event."""

    log: list

    def record(self):
        self.log.append(("record", self))

    def synchronize(self):
        self.log.append(("wait", self))


def test_staging_uses_two_buffers_in_turn_and_waits_for_each(monkeypatch):
    """What a CUDA device does, on the host: no buffer is written again before the device is done with it."""
    log = []
    monkeypatch.setattr(Event, "log", log, raising=False)
    values = [torch.randn(10, 30), torch.randint(-9, 9, (7,)), torch.randn(3, 5)[:, ::2], torch.zeros(0, 2)]
    outs = [
        torch.zeros(10, 30, dtype=torch.bfloat16),
        torch.zeros(7, dtype=torch.int64),
        torch.zeros(3, 3),
        torch.ones(0, 2),
    ]
    moves = [Move(out, source) for out, source in zip(outs, values, strict=True)]
    read = []
    size = 256
    batches = list(staging._batches(moves, size))
    Staging(torch.device("cpu"), size, pinned=False, event=Event).run(batches, None, read.append)
    for out, source in zip(outs, values, strict=True):
        assert same(out, source.to(out.dtype))
    assert sum(read) == sum(each.numel() * each.element_size() for each in values)
    assert max(read) <= size
    recorded = [event for what, event in log if what == "record"]
    assert len(recorded) == len(batches) > 4
    for turn in range(2, len(batches)):  # before the third batch is recorded, the first was waited for
        assert log.index(("wait", recorded[turn - 2])) < log.index(("record", recorded[turn]))
    assert {event for what, event in log if what == "wait"} == set(recorded)


def test_staging_refuses_what_does_not_fit():
    batch = [Move(torch.zeros(100), torch.zeros(100))]
    with pytest.raises(ValueError, match="must fit into the 256 bytes"):
        Staging(torch.device("cpu"), 256, pinned=False, event=Event).run([batch], None, lambda _: None)


def test_what_is_widened_fits_the_buffers(monkeypatch):
    """What a CUDA device does with dtypes that a plan does not cast, on the host."""
    monkeypatch.setattr(Event, "log", [], raising=False)
    source = torch.arange(240, dtype=torch.uint8).view(torch.float8_e5m2fnuz).view(5, 48)[:, ::2]
    for own in (torch.float64, torch.float16, torch.float8_e4m3fn):
        out, read, size = torch.zeros(5, 24, dtype=own), [], 64
        batches = staging._widened([Move(out, source)], size // staging._WIDEST)
        Staging(torch.device("cpu"), size, pinned=False, event=Event).run(batches, None, read.append)
        want = source.to(torch.float32).to(own)
        number = ~want.double().isnan()
        assert same(out[number], want[number])
        assert sum(read) == source.numel()


@pytest.mark.gpu
@pytest.mark.parametrize("size", [1 << 10, 1 << 26])
def test_loading_to_a_cuda_device(size, checkpoint, monkeypatch):
    source, path = checkpoint
    monkeypatch.setattr(staging, "STAGING", size)
    for net in (deferred(), Net().cuda()):
        load(net, path, device="cuda", dtype=torch.bfloat16)
        for name, want in source.state_dict().items():
            got = net.state_dict()[name]
            assert got.is_cuda
            assert same(got.cpu(), want.to(got.dtype))
