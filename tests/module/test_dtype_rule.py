"""dtype= of materialize, load and init is for parameters, and for buffers as from_pretrained(dtype=) has it."""

import numpy as np
import pytest
import torch
from torch import nn

from tests.module.deferred_models import deferred, real, tensors
from tritonparam import declarations, deferred_init, load, materialize, save

BFLOAT16 = torch.bfloat16


def buffers():
    """Every way to a buffer: by the default dtype, by a named one, by what comes from either."""
    named = torch.arange(4, dtype=torch.float32)
    default = torch.ones(4)
    table = torch.zeros(4, 2)
    table[:, 0] = named
    return {
        "arange": named,
        "inv_freq": 1.0 / (10000 ** (torch.arange(0, 8, 2, dtype=torch.int64).to(dtype=torch.float) / 8)),
        "float_call": torch.arange(4).float(),
        "division": torch.arange(4) / 3,
        "ones": default,
        "named_ones": torch.ones(4, dtype=torch.float32),
        "copied": named.clone(),
        "like": torch.zeros_like(named),
        "mixed": default * named,
        "scaled": default * torch.tensor(2.0, dtype=torch.float32),
        "number": torch.tensor(3.0),
        "numbers": torch.tensor([3.0, 4.0]),
        "named_number": torch.tensor(3.0, dtype=torch.float32),
        "array": torch.tensor(np.ones(3, dtype=np.float32)),
        "table": table,
        "twice": torch.ones(2, dtype=torch.float64),
        "whole": torch.arange(3),
    }


def holder(persistent):
    module = nn.Module()
    for name, tensor in buffers().items():
        module.register_buffer(name, tensor, persistent=persistent)
    return module


@pytest.mark.parametrize("persistent", [True, False])
def test_buffers_have_the_dtype_that_a_model_built_in_it_gives_them(persistent):
    """torch with another default dtype, in which transformers builds what it loads, says which."""
    torch.set_default_dtype(BFLOAT16)
    try:
        want = {name: tensor.dtype for name, tensor in holder(persistent).named_buffers()}
    finally:
        torch.set_default_dtype(torch.float32)
    with deferred_init():
        module = holder(persistent)
    got = {name: tensor.dtype for name, tensor in materialize(module, dtype=BFLOAT16).named_buffers()}
    assert got == want
    assert got["inv_freq"] == torch.float32
    assert got["ones"] == BFLOAT16


def test_parameters_are_cast_whatever_the_constructor_named():
    got = real(lambda: {"w": torch.ones(2, dtype=torch.float32), "v": torch.ones(2)}, dtype=BFLOAT16)
    assert {tensor.dtype for tensor in got.parameters()} == {BFLOAT16}


def test_a_buffer_that_shows_a_parameter_goes_with_it():
    def make():
        w = torch.ones(4, dtype=torch.float32)
        return {"w": w, "w_buffer": w[:2]}

    got = real(make, dtype=BFLOAT16)
    assert got.w_buffer.dtype == BFLOAT16
    assert got.w_buffer.data_ptr() == got.w.data_ptr()


@pytest.mark.parametrize("named", [None, torch.float32])
def test_running_statistics_go_with_their_weights(named):
    """Else torch refuses the forward pass."""
    with deferred_init():
        norm = nn.BatchNorm1d(4, dtype=named)
    materialize(norm, dtype=BFLOAT16)
    assert norm.running_mean.dtype == norm.weight.dtype == BFLOAT16
    assert norm(torch.ones(3, 4, dtype=BFLOAT16)).dtype == BFLOAT16


def test_load_follows_the_same_rule(tmp_path):
    pytest.importorskip("safetensors")
    source = materialize(deferred(lambda: {f"{name}_buffer": tensor for name, tensor in buffers().items()}))
    save(source, tmp_path / "model")
    again = deferred(lambda: {f"{name}_buffer": tensor for name, tensor in buffers().items()})
    want = {declaration.name: declaration.dtype_in(BFLOAT16) for declaration in declarations(again)}
    load(again, tmp_path / "model", dtype=BFLOAT16)
    assert {name: tensor.dtype for name, tensor in tensors(again).items()} == want
    assert want["inv_freq_buffer"] == torch.float32
    assert torch.equal(again.inv_freq_buffer, source.inv_freq_buffer)


@pytest.mark.parametrize("how", ["materialize", "load"])
def test_rotary_embeddings_stay_exact(how, tmp_path):
    """As from_pretrained leaves them: cos of far positions is not off."""
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=8192,
    )
    eager = transformers.LlamaForCausalLM(config)
    eager.save_pretrained(tmp_path)
    theirs = transformers.LlamaForCausalLM.from_pretrained(tmp_path, dtype=BFLOAT16)
    with deferred_init():
        ours = transformers.LlamaForCausalLM(config)
    if how == "load":
        load(ours, tmp_path, dtype=BFLOAT16)
    else:
        materialize(ours, dtype=BFLOAT16)
    assert {name: each.dtype for name, each in tensors(ours).items()} == {
        name: each.dtype for name, each in tensors(theirs).items()
    }
    states, positions = torch.zeros(1, 16, 64), torch.arange(5000, 5016)[None]
    want = eager.model.rotary_emb(states, positions)[0]
    assert torch.equal(ours.model.rotary_emb(states, positions)[0], want)
