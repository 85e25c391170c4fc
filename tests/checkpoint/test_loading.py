"""load: what is held here gets the checkpoint's values bit for bit, whatever the tensors, modes, graphs and threads."""

import threading
import time

import pytest
import torch

pytest.importorskip("safetensors")

from safetensors.torch import save_file

import tritonparam
from tests.checkpoint.bits import same
from tests.checkpoint.models import Net, declare, deferred
from tritonparam import load
from tritonparam.checkpoint import staging
from tritonparam.checkpoint.loading import LoadReport


def test_unusual_tensors(tmp_path):
    """Empty ones, scalars, 8-bit floats, bools of odd bytes, complex numbers, names of all kinds."""
    values = {
        "empty": torch.zeros(0, 3),
        "empty.too": torch.zeros(3, 0, 2, dtype=torch.int8),
        "scalar": torch.tensor(2.5),
        "a.b/c d": torch.randn(3).to(torch.float8_e4m3fn),
        "größe.层": torch.randn(3).to(torch.float8_e5m2),
        "mask": torch.tensor([True, False]),
        "complex": torch.randn(3, dtype=torch.complex64),
        "fnuz": torch.tensor([1, 2, 128], dtype=torch.uint8).view(torch.float8_e4m3fnuz),
        "": torch.ones(1),
    }
    save_file(values, tmp_path / "w.safetensors")
    target = {name: torch.empty_like(each) for name, each in values.items()}
    report = load(target, tmp_path / "w.safetensors")
    assert set(report.loaded) == set(values)
    assert all(same(target[name], want) for name, want in values.items())


def test_ten_thousand_small_tensors_take_no_time(tmp_path):
    values = {f"layers.{index}.weight": torch.full((3, 4), float(index)) for index in range(10_000)}
    save_file(values, tmp_path / "w.safetensors")
    target = {name: torch.zeros(3, 4) for name in values}
    start = time.process_time()
    load(target, tmp_path / "w.safetensors")
    assert time.process_time() - start < 4
    assert torch.equal(torch.stack(list(target.values())), torch.stack(list(values.values())))


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_modes_change_nothing(mode, checkpoint):
    """What is loaded inside can be trained outside; an inference tensor is loaded wherever."""
    source, path = checkpoint
    with mode():
        net, real = deferred(), Net()
        load(net, path)
        load(real, path)
    net.embed.weight.sum().backward()
    assert not net.embed.weight.is_inference()
    load(real, path)
    for each in (net, real):
        assert same(each.odd, source.odd)


def test_graphs_find_out_that_a_real_tensor_was_loaded(tmp_path):
    save_file({"w": torch.ones(3)}, tmp_path / "w.safetensors")
    weight = torch.zeros(3, requires_grad=True)
    loss = (weight * weight).sum()
    load({"w": weight}, tmp_path / "w.safetensors")
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_threads_that_load_and_draw_one_parameter(tmp_path, monkeypatch):
    """Whoever draws does not wait for files; what is loaded counts."""
    values = torch.full((300, 300), 7.0)
    save_file({"w": values}, tmp_path / "w.safetensors")
    parameter, drawing = declare(shape=(300, 300)), []
    move = staging.move

    def slow(*arguments):
        move(*arguments)
        if not drawing:
            drawing.append(threading.Thread(target=parameter.init_data))
            drawing[0].start()
            drawing[0].join(30)
        assert not parameter.has_init

    with monkeypatch.context() as patched:
        patched.setattr("tritonparam.checkpoint.loading.move", slow)
        load(parameter, tmp_path / "w.safetensors")
    drawing[0].join()
    assert same(parameter.torch, values)
    for _ in range(10):
        parameter = declare(shape=(300, 300))
        work = [parameter.init_data, lambda p=parameter: load(p, tmp_path / "w.safetensors")]
        threads = [threading.Thread(target=each) for each in work]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        assert same(parameter.torch, values)


def test_progress_is_shown_when_asked_for(checkpoint, capsys):
    load(Net(), checkpoint[1])
    assert capsys.readouterr() == ("", "")
    load(Net(), checkpoint[1], progress=True)
    out, err = capsys.readouterr()
    assert (out, "loading" in err) == ("", True)
    load(Net(), checkpoint[1], progress=False)
    assert capsys.readouterr() == ("", "")


def test_scales_of_eight_bits(tmp_path):
    scales = torch.arange(6, dtype=torch.uint8).view(torch.float8_e8m0fnu)
    save_file({"w": scales}, tmp_path / "theirs.safetensors")
    tritonparam.save({"w": scales}, tmp_path / "ours.safetensors")
    for file in ("theirs", "ours"):
        got = torch.zeros(6, dtype=torch.uint8).view(torch.float8_e8m0fnu)
        load({"w": got}, tmp_path / f"{file}.safetensors")
        assert got.view(torch.uint8).tolist() == list(range(6)), file


def test_public_names():
    assert tritonparam.load is load
    assert tritonparam.LoadReport is LoadReport
