"""Sharded models that are loaded before they have values, and are used then: of transformers, and in real processes."""

import pytest
import torch
from torch import nn

pytest.importorskip("safetensors")
pytest.importorskip("torch.distributed.fsdp")

from torch.distributed import fsdp
from torch.distributed import tensor as distributed

from tests.checkpoint.bits import same
from tests.fake_mesh import new_mesh_of as mesh_of
from tests.module.sharding import named
from tritonparam import deferred_init, load, materialize, save

DTensor, SEED = distributed.DTensor, 9


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("rank", range(3))
def test_a_llama_of_transformers(rank, tied, tmp_path):
    """Its head is tied or not; the frequencies of its rotary embedding are in no checkpoint."""
    transformers = pytest.importorskip("transformers")
    from tests.checkpoint.test_transformers import config

    settings = config("llama")
    settings.tie_word_embeddings = tied
    want = transformers.LlamaForCausalLM(settings)
    want.save_pretrained(tmp_path / "model", max_shard_size="20KB")
    with deferred_init():
        model = transformers.LlamaForCausalLM(settings)
    with mesh_of([3], rank) as mesh:
        for layer in model.model.layers:
            fsdp.fully_shard(layer, mesh=mesh)
        fsdp.fully_shard(model, mesh=mesh)
        assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
        load(model, tmp_path / "model")
        whole = named(want)
        for name, got in named(model).items():
            mine = got.to_local() if isinstance(got, DTensor) else got
            rows = [*torch.chunk(whole[name].detach(), 3), *[whole[name].detach()[:0]] * 2][rank]
            assert same(mine, rows if isinstance(got, DTensor) else whole[name]), name
        assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(11, 7)
        self.layers = nn.ModuleList(nn.Linear(7, 7) for _ in range(2))
        self.head = nn.Linear(7, 11, bias=False)
        self.head.weight = self.emb.weight
        self.register_buffer("scale", torch.tensor(0.5))

    def forward(self, tokens):
        x = self.emb(tokens)
        for layer in self.layers:
            x = x + layer(x).relu()
        return self.head(x * self.scale)


def trained(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    return stepped(model, optimizer)


def stepped(model, optimizer):
    tokens = torch.arange(11).repeat(3).view(3, 11)
    loss = nn.functional.cross_entropy(model(tokens).view(-1, 11), tokens.view(-1).roll(1))
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


def sharded(inside=False):
    with deferred_init():
        model = Net()
        if inside:
            by_layers(model)
    if not inside:
        by_layers(model)
    return model


def by_layers(model):
    for layer in model.layers:
        fsdp.fully_shard(layer)
    fsdp.fully_shard(model)


def full(model):
    tensors = model.state_dict().items()
    return {
        name: (each.full_tensor() if isinstance(each, DTensor) else each).detach().clone() for name, each in tensors
    }


def _saving(rank, world, folder):
    model = materialize(sharded(), seed=SEED)
    trained(model)
    save(model, folder / "out")
    return full(model)


def _loading(rank, world, folder, how):
    model = sharded(how == "in the block")
    if how == "memory of to_empty":
        model.to_empty(device="cpu")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    load(model, folder / "out")
    found = full(model)
    return found, stepped(model, optimizer), full(model)


@pytest.mark.parametrize("how", ["after the block", "in the block", "memory of to_empty"])
def test_three_processes_train_on_with_what_two_have_saved(how, launch, tmp_path):
    want = launch(_saving, 2, folder=tmp_path)[0]
    alone = Net()
    load(alone, tmp_path / "out")
    loss = trained(alone)
    for found, got, after in launch(_loading, 3, folder=tmp_path, how=how):
        assert found.keys() == want.keys()
        assert all(same(found[name], want[name]) for name in want)
        assert got == pytest.approx(loss, rel=1e-5)
        for name, each in alone.state_dict().items():
            torch.testing.assert_close(after[name], each, rtol=1e-4, atol=1e-6)
            assert name == "scale" or not torch.equal(after[name], want[name])
