"""save: files that load, transformers and safetensors read back bit for bit, there only when whole."""

import json
import os
import shutil
import threading

import pytest
import torch
from torch import nn

pytest.importorskip("safetensors")

from safetensors import safe_open
from safetensors.torch import load_file, save_file

import tritonparam
from tritonparam import Generator, Parameter, deferred_init, load, materialize, save
from tritonparam.checkpoint import assembly, outgoing
from tritonparam.checkpoint.errors import CheckpointError, UsageError
from tritonparam.checkpoint.saving import SaveReport
from tritonparam.initializer import initializer

INDEX = "model.safetensors.index.json"


def bits(tensor):
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).tolist()


def same(one, other):
    return one.dtype == other.dtype and one.shape == other.shape and bits(one) == bits(other)


def declare(init="normal", shape=(4, 6), name="w", dtype="float32"):
    with Generator(9):
        return Parameter(initializer(init, shape, dtype), name)


def everything():
    """Tensors of every dtype and many strides."""
    integers = {
        str(dtype).removeprefix("torch."): torch.arange(6).to(dtype)
        for dtype in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint64)
    }
    floats = {
        f"floats/{dtype}": torch.randn(5, 3).to(dtype)
        for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn)
    }
    strides = {
        "t": torch.randn(7, 5).t(),
        "steps": torch.randn(20, 6)[::3, 1::2],
        "expanded": torch.randn(1, 4).expand(3, 4),
        "permuted": torch.randn(2, 3, 4).permute(2, 0, 1).bfloat16(),
        "empty": torch.zeros(0, 4),
        "scalar": torch.tensor(3.5),
        "mask": torch.tensor([True, False, True]),
        "größe.层": torch.ones(3),
        "complex": torch.randn(3, dtype=torch.complex64),
        "grad": nn.Parameter(torch.randn(3)),
    }
    return integers | floats | strides


def tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ------------------------------------------------------------------ what is in the files


@pytest.mark.parametrize("staged", [16, 40, 1 << 25], ids=["tiny", "small", "usual"])
def test_safetensors_reads_what_was_saved(staged, tmp_path, monkeypatch):
    """Any dtype, strides, size and name, bit for bit, whatever the size of the staging buffer."""
    monkeypatch.setattr(outgoing.ByteStream.__init__, "__defaults__", (staged,))
    tensors = everything()
    report = save(tensors, tmp_path / "all.safetensors")
    got = load_file(tmp_path / "all.safetensors")
    assert set(got) == set(report.tensors) == set(tensors)
    assert all(same(got[name], each) for name, each in tensors.items())
    assert report == SaveReport(tmp_path / "all.safetensors", tuple(tensors), ("all.safetensors",), report.nbytes, True)
    assert report.nbytes == sum(each.numel() * each.element_size() for each in tensors.values())
    into = {name: torch.zeros(each.shape, dtype=each.dtype) for name, each in tensors.items()}
    load(into, tmp_path / "all.safetensors")
    assert all(same(into[name], each) for name, each in tensors.items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e5m2, torch.float64, "float32"], ids=str)
def test_floats_are_cast_and_nothing_else(dtype, tmp_path):
    tensors = {name: each for name, each in everything().items() if not each.is_complex()}
    save(tensors, tmp_path / "all.safetensors", dtype=dtype)
    wanted = torch.float32 if dtype == "float32" else dtype
    got = load_file(tmp_path / "all.safetensors")
    for name, each in tensors.items():
        assert same(got[name], each.to(wanted) if each.is_floating_point() else each), name


def test_lazy_parameters_are_drawn_on_the_way_and_stay_lazy(tmp_path):
    target = [declare("normal", name="a"), declare("orthogonal", name="b"), declare("ones", (3,), "c", "int32")]
    kept = [each.torch for each in target]
    save(target, tmp_path / "w.safetensors")
    assert all(each.has_init and each.torch is one for each, one in zip(target, kept, strict=True))
    got = load_file(tmp_path / "w.safetensors")
    assert all(same(got[each.name], each.init_data().torch) for each in target)


def test_files_of_at_most_the_size_asked_for(tmp_path):
    tensors = {f"w{i}": torch.randn(10, 10) for i in range(7)} | {"large": torch.randn(500)}
    report = save(tensors, tmp_path / "out", max_shard_size=900)
    assert report.files == tuple(f"model-{i:05}-of-00005.safetensors" for i in range(1, 6))
    index = json.loads((tmp_path / "out" / INDEX).read_text())
    assert index["metadata"] == {"total_parameters": 1200, "total_size": 4800}
    assert set(index["weight_map"]) == set(tensors)
    for name, file in index["weight_map"].items():
        with safe_open(tmp_path / "out" / file, "pt") as opened:
            assert opened.metadata() == {"format": "pt"}
            assert same(opened.get_tensor(name), tensors[name])
    into = {name: torch.zeros_like(each) for name, each in tensors.items()}
    load(into, tmp_path / "out")
    assert all(same(into[name], each) for name, each in tensors.items())
    assert str(report) == f"{tmp_path / 'out'}: 8 tensors, 4.8 KB, 5 files"


def test_names_are_mapped_and_tied_tensors_written_once(tmp_path):
    net = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3, bias=False)})
    net["b"].weight = net["a"].weight
    net.register_buffer("kept", torch.arange(3))
    net.register_buffer("left", torch.arange(3), persistent=False)
    save(net, tmp_path / "out", mapping=lambda name: f"model.{name}", metadata={"step": "7"})
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as opened:
        assert set(opened.keys()) == {"model.a.weight", "model.a.bias", "model.kept"}
        assert opened.metadata() == {"format": "pt", "step": "7"}
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.safetensors"]
    with pytest.raises(ValueError, match="different names, got 'x'"):
        save(net, tmp_path / "other", mapping=lambda _: "x")
    assert not (tmp_path / "other").exists()


# ------------------------------------------------------------------ transformers


def config(kind):
    transformers = pytest.importorskip("transformers")
    if kind == "gpt2":
        return transformers.GPT2Config(
            n_layer=2, n_embd=32, n_head=2, vocab_size=60, n_positions=16, bos_token_id=0, eos_token_id=1
        )
    return transformers.LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=60,
    )


def built(kind):
    import transformers

    return transformers.AutoModelForCausalLM.from_config(config(kind))


@pytest.mark.parametrize("size", ["5GB", "20KB"])
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_transformers_reads_what_was_saved(kind, size, tmp_path):
    """from_pretrained gets the model back, tied weights and all, from a folder that has nothing else."""
    model = built(kind)
    save(model, tmp_path / "out", max_shard_size=size)
    again = type(model).from_pretrained(tmp_path / "out")
    assert all(same(again.state_dict()[name], want) for name, want in model.state_dict().items())
    assert again.config.architectures == [type(model).__name__]
    half = tmp_path / "half"
    save(model, half, max_shard_size=size, dtype="bfloat16")
    again = type(model).from_pretrained(half, dtype="auto")
    assert all(same(again.state_dict()[name], want.bfloat16()) for name, want in model.state_dict().items())


@pytest.mark.parametrize("size", ["5GB", "20KB"])
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_transformers_writes_what_is_loaded(kind, size, tmp_path):
    """save_pretrained, then a deferred and a real model; the buffers it does not write are as they would be."""
    model = built(kind)
    model.save_pretrained(tmp_path / "out", max_shard_size=size)
    with deferred_init():
        lazy = built(kind)
    for again in (lazy, built(kind)):
        report = load(again, tmp_path / "out")
        assert all(same(again.state_dict()[name], want) for name, want in model.state_dict().items())
        buffers = dict(model.named_buffers())
        assert all(same(buffer, buffers[name]) for name, buffer in again.named_buffers())
        assert not report.unexpected
    inputs = torch.arange(8).view(1, 8)
    with torch.no_grad():
        assert torch.equal(model.eval()(inputs).logits, lazy.eval()(inputs).logits)


def test_head_that_the_checkpoint_lacks(tmp_path):
    """A classifier over a pretrained trunk: the trunk is loaded under other names, the head initialized."""
    transformers = pytest.importorskip("transformers")
    model = built("llama")
    save(model.model, tmp_path / "trunk")
    with deferred_init():
        lazy = transformers.LlamaForSequenceClassification(config("llama"))
        want = transformers.LlamaForSequenceClassification(config("llama"))
    report = load(lazy, tmp_path / "trunk", strict=False, seed=3, mapping=lambda name: name.removeprefix("model."))
    assert "score.weight" in report.initialized
    assert same(lazy.score.weight, materialize(want, seed=3).score.weight)
    assert same(lazy.model.norm.weight, model.model.norm.weight)
    assert same(lazy.model.layers[1].mlp.up_proj.weight, model.model.layers[1].mlp.up_proj.weight)


# ------------------------------------------------------------------ all or nothing


def test_what_is_there_is_replaced_only_when_asked_and_only_by_a_whole(tmp_path, monkeypatch):
    out = tmp_path / "out"
    save({"w": torch.ones(3)}, out)
    before = tree(tmp_path)
    with pytest.raises(UsageError, match=r"exists; use overwrite=True to replace it"):
        save({"w": torch.zeros(3)}, out)
    assert tree(tmp_path) == before

    def full(*_, **__):
        raise OSError(28, "No space left on device", "there")

    with monkeypatch.context() as patched:
        patched.setattr("tritonparam.checkpoint.saving.write_file", full)
        with pytest.raises(OSError, match="No space"):
            save({"w": torch.zeros(3)}, out, overwrite=True)
    assert {name: data for name, data in tree(tmp_path).items() if name.startswith("out/")} == before
    save({"w": torch.zeros(3)}, out, overwrite=True)
    assert not load_file(out / "model.safetensors")["w"].any()
    assert os.listdir(tmp_path) == ["out"]


def test_single_file_is_replaced_only_when_asked_and_only_by_a_whole(tmp_path, monkeypatch):
    out = tmp_path / "deep" / "w.safetensors"
    save({"w": torch.ones(3)}, out)
    before = tree(tmp_path)
    with pytest.raises(UsageError, match="overwrite=True"):
        save({"w": torch.zeros(3)}, out)

    def full(*_):
        raise OSError(28, "No space left on device")
        yield

    with monkeypatch.context() as patched:
        patched.setattr(outgoing.ByteStream, "parts", full)
        with pytest.raises(OSError, match="No space"):
            save({"w": torch.zeros(3)}, out, overwrite=True)
    assert tree(tmp_path) == before
    save({"w": torch.zeros(3)}, out, overwrite=True)
    assert not load_file(out)["w"].any()
    assert os.listdir(out.parent) == ["w.safetensors"]
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(UsageError, match="is a folder"):
        save({"w": torch.zeros(3)}, tmp_path / "folder.safetensors", overwrite=True)


def test_only_checkpoints_are_replaced(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years of work")
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "thesis.tex").write_text("years of work")
    before = tree(tmp_path)
    with pytest.raises(UsageError, match="not a checkpoint"):
        save({"w": torch.zeros(3)}, tmp_path / "home", overwrite=True)
    with pytest.raises(UsageError, match="in the way"):
        save({"w": torch.zeros(3)}, tmp_path / "out", overwrite=True)
    assert tree(tmp_path) == before


def test_leftovers_of_a_save_are_discarded_and_those_of_init_are_not(tmp_path):
    for name, run, kept in (("mine", {"save": 1}, False), ("foreign", {"spec": "x:y"}, True)):
        out, partial = tmp_path / name, tmp_path / f"{name}.partial"
        state = partial / "state"
        state.mkdir(parents=True)
        (partial / "weights").mkdir()
        (partial / "weights" / "model-00009-of-00009.safetensors").write_bytes(b"old")
        (state / "run.json").write_text(json.dumps(run))
        if kept:
            with pytest.raises(UsageError, match="unfinished run"):
                save({"w": torch.zeros(3)}, out)
            assert (partial / "weights" / "model-00009-of-00009.safetensors").exists()
        save({"w": torch.zeros(3)}, out, overwrite=kept)
        assert os.listdir(out) == ["model.safetensors"]
        assert not partial.exists()


def test_a_save_cut_between_two_renames_loses_nothing(tmp_path):
    """The old checkpoint had been put aside: it comes back, and is not replaced unless asked."""
    out = tmp_path / "out"
    save({"w": torch.ones(3)}, out)
    (tmp_path / "out.partial" / "state").mkdir(parents=True)
    (tmp_path / "out.partial" / "state" / "run.json").write_text('{"save": 1}')
    out.rename(tmp_path / "out.partial" / "replaced")
    with pytest.raises(UsageError, match="overwrite=True"):
        save({"w": torch.zeros(3)}, out)
    assert load_file(out / "model.safetensors")["w"].all()


def test_two_that_save_at_once(tmp_path, monkeypatch):
    """The second is told that the first is at work; what the first wrote is whole."""
    caught = []
    monkeypatch.setattr(assembly, "_PATIENCE", 5.0)
    inside, done = threading.Event(), threading.Event()

    class Slow(outgoing.ByteStream):
        def parts(self, tensors):
            inside.set()
            done.wait(20)
            yield from super().parts(tensors)

    monkeypatch.setattr("tritonparam.checkpoint.saving.ByteStream", Slow)
    first = threading.Thread(target=save, args=({"w": torch.ones(3)}, tmp_path / "out"))
    first.start()
    inside.wait(20)
    try:
        save({"w": torch.zeros(3)}, tmp_path / "out")
    except CheckpointError as error:
        caught.append(str(error))
    done.set()
    first.join()
    assert "another process is writing" in caught[0]
    assert load_file(tmp_path / "out" / "model.safetensors")["w"].all()
    assert os.listdir(tmp_path) == ["out"]


# ------------------------------------------------------------------ arguments


def test_deferred_modules_have_nothing_to_save(tmp_path):
    with deferred_init():
        net = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    with pytest.raises(ValueError, match=r"materialize it first; deferred are 0\.weight, 0\.bias"):
        save(net, tmp_path / "out")
    assert os.listdir(tmp_path) == []
    save(materialize(net), tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"max_shard_size": "huge"}, ValueError, "max_shard_size must be"),
        ({"max_shard_size": 0}, ValueError, "max_shard_size must be"),
        ({"max_shard_size": 1.5}, TypeError, "max_shard_size must be"),
        ({"dtype": torch.int8}, ValueError, "floating-point dtype"),
        ({"overwrite": "yes"}, TypeError, "overwrite must be a bool"),
        ({"progress": 1}, TypeError, "progress must be"),
        ({"metadata": {"step": 3}}, TypeError, "metadata must map strings to strings"),
        ({"metadata": {"format": "np"}}, ValueError, "must not have the keys"),
        ({"mapping": 3}, TypeError, "mapping must be"),
        ({"rank": 0}, ValueError, "rank and world_size go together"),
        ({"rank": 2, "world_size": 2}, ValueError, r"rank must be in \[0, world_size\)"),
        ({"rank": 0.0, "world_size": 2}, TypeError, "rank must be an int"),
    ],
)
def test_bad_arguments(options, error, text, tmp_path):
    with pytest.raises(error, match=text):
        save({"w": torch.ones(2)}, tmp_path / "out", **options)
    assert os.listdir(tmp_path) == []


def test_dtype_that_safetensors_cannot_hold(tmp_path):
    with pytest.raises(CheckpointError, match=r"cannot hold the dtype torch\.complex128 of 'w'"):
        save({"w": torch.ones(2, dtype=torch.complex128)}, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    save({"w": torch.ones(2)}, tmp_path / "out")


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_modes_and_progress_change_nothing(mode, tmp_path, capsys):
    with mode():
        save(nn.Linear(2, 2), tmp_path / "quiet")
        assert capsys.readouterr() == ("", "")
        save([declare()], tmp_path / "out", progress=True)
    assert "saving" in capsys.readouterr().err
    assert same(load_file(tmp_path / "out" / "model.safetensors")["w"], declare().init_data().torch)


def test_public_names():
    assert tritonparam.save is save
    assert tritonparam.SaveReport is SaveReport


def test_what_safetensors_saves_is_the_same_file_content(tmp_path):
    """Of aligned, contiguous tensors even the bytes of the data are laid out alike."""
    tensors = {"b": torch.randn(3, 4), "a": torch.randn(5).half()}
    save(tensors, tmp_path / "ours.safetensors")
    save_file(tensors, tmp_path / "theirs.safetensors", {"format": "pt"})
    ours, theirs = ((tmp_path / f"{who}.safetensors").read_bytes() for who in ("ours", "theirs"))
    assert ours[-58:] == theirs[-58:]


@pytest.mark.parametrize("path", ["out", "out.safetensors"])
@pytest.mark.parametrize(
    ("name", "tensor", "error", "text"),
    [
        ("w", torch.ones(2, dtype=torch.complex128), CheckpointError, r"complex128 of 'w'"),
        ("w", torch.ones(2, dtype=torch.complex64).conj(), ValueError, "'w' cannot be saved: .* conjugate"),
        ("w", torch.eye(2).to_sparse(), ValueError, "'w' cannot be saved: .* strided"),
        ("__metadata__", torch.ones(2), ValueError, "'__metadata__'"),
        ("\ud800", torch.ones(2), ValueError, r"'\\ud800'"),
    ],
)
def test_what_no_file_can_hold_is_known_before_anything_is_written(path, name, tensor, error, text, tmp_path):
    with pytest.raises(error, match=text):
        save({"first": torch.ones(3), name: tensor}, tmp_path / path)
    assert os.listdir(tmp_path) == []


def test_tensors_are_called_what_the_state_dict_calls_them(tmp_path):
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            values = torch.ones(3)
            self.register_buffer("scratch", values, persistent=False)
            self.register_buffer("kept", values)

    saved = Shared()
    assert save(saved, tmp_path / "out").tensors == tuple(saved.state_dict()) == ("kept",)
    with deferred_init():
        module = Shared()
    assert load(module, tmp_path / "out").loaded == ("kept",)
    assert module.kept is module.scratch
    save_file({"scratch": torch.ones(3)}, tmp_path / "scratch.safetensors")
    with pytest.raises(ValueError, match=r"missing in it: kept; unexpected in it: scratch"):
        load(module, tmp_path / "scratch.safetensors")


def test_one_process_of_several_saves_alone_what_it_holds_whole(tmp_path):
    alone = {"rank": 0, "world_size": 1}
    assert save({"w": torch.ones(2)}, tmp_path / "out", **alone).files == ("model.safetensors",)
    assert save({"w": torch.ones(2)}, tmp_path / "out.safetensors", **alone).complete


def test_architecture_is_what_the_model_was_before_fully_shard(tmp_path):
    class Config:
        def to_json_string(self):
            return "{}"

    class FSDPNet(nn.Linear):  # fully_shard puts a class of such a name in place of Net
        config = Config()

    save(FSDPNet(2, 2), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["architectures"] == ["Net"]


def test_a_file_where_the_work_is_done_is_in_the_way(tmp_path):
    (tmp_path / "out.partial").write_text("mine")
    with pytest.raises(UsageError, match=r"out\.partial is in the way"):
        save({"w": torch.ones(2)}, tmp_path / "out", overwrite=True)
    assert (tmp_path / "out.partial").read_text() == "mine"


def test_a_save_that_is_being_published_is_waited_for(tmp_path):
    root = tmp_path / "out.partial"
    (root / "replaced" / "old").mkdir(parents=True)  # what there is after the last rename
    held = assembly.lock(root)
    if held is None:
        pytest.skip("the system has no locks")

    def publish():
        shutil.rmtree(root)
        os.close(held)

    timer = threading.Timer(0.2, publish)
    timer.start()
    assert save({"w": torch.ones(2)}, tmp_path / "out").complete
    timer.join()
    assert os.listdir(tmp_path) == ["out"]
