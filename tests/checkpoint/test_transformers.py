"""transformers reads what was saved and writes what is loaded, tied weights, config and all."""

import json

import pytest
import torch
from torch import nn

pytest.importorskip("safetensors")

from tests.checkpoint.bits import same
from tritonparam import deferred_init, load, materialize, save


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


def test_architecture_is_what_the_model_was_before_fully_shard(tmp_path):
    class Config:
        def to_json_string(self):
            return "{}"

    class FSDPNet(nn.Linear):  # fully_shard puts a class of such a name in place of Net
        config = Config()

    save(FSDPNet(2, 2), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["architectures"] == ["Net"]
