"""FSDP1 makes a deferred model real unit by unit: gathered, every element is as `materialize` gives it to the whole."""

import itertools
import math
import subprocess
import sys
import weakref

import pytest
import torch
from torch import nn

from tritonparam import deferred_init, fingerprint, ledger, load, materialize, param_init_fn, save

fsdp = pytest.importorskip("torch.distributed.fsdp")
wrap = pytest.importorskip("torch.distributed.fsdp.wrap")
FSDP = fsdp.FullyShardedDataParallel


class Block(nn.Module):
    """Two boxes with laws, a replayed tensor, parameters and buffers of a module that has no reset_parameters."""

    def __init__(self, width):
        super().__init__()
        self.up, self.down = nn.Linear(width, 2 * width + 1), nn.Linear(2 * width + 1, width)
        self.norm = nn.LayerNorm(width)
        self.turn = nn.Parameter(nn.init.orthogonal_(torch.empty(width, width)))
        self.register_buffer("steps", torch.arange(width).float())
        self.register_buffer("scratch", torch.rand(width), persistent=False)
        self.plain = torch.rand(width)
        with torch.no_grad():
            self.down.weight[:3].zero_()

    def forward(self, x):
        return self.norm(x + self.down(self.up(x @ self.turn)) * self.steps + self.scratch + self.plain)


class Model(nn.Module):
    """A head tied to an embedding, a frozen block, layers that copy one draw."""

    def __init__(self, width=7):
        super().__init__()
        self.emb = nn.Embedding(11, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(2))
        self.copies = nn.TransformerEncoder(nn.TransformerEncoderLayer(width, 1, 9, 0.0), 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, 11, bias=False)
        self.head.weight = self.emb.weight
        self.blocks[1].requires_grad_(False)

    def forward(self, x):
        x = self.emb(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.copies(x))


def built():
    with deferred_init():
        return Model()


def named(model):
    found = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return found | {f"blocks.{n}.plain": block.plain for n, block in enumerate(model.blocks)}


def clean(name):
    return name.replace("_fsdp_wrapped_module.", "")


def _all_at_once(model, **options):
    return FSDP(model, param_init_fn=param_init_fn(model, seed=5), **options)


def _by_policy(model, **options):
    options["auto_wrap_policy"] = wrap.ModuleWrapPolicy({Block, nn.TransformerEncoderLayer})
    return _all_at_once(model, **options)


def _nested(model, **options):
    """The last layers first, and a new function for each."""
    for layers in (model.copies.layers, model.blocks):
        for n in reversed(range(len(layers))):
            layers[n] = FSDP(layers[n], param_init_fn=param_init_fn(model, seed=5), **options)
    return _all_at_once(model, **options)


WAYS = {"all at once": _all_at_once, "by policy": _by_policy, "nested": _nested}


def _gathered(rank, world, way, original):
    torch.manual_seed(rank)
    before = torch.get_rng_state()
    model = WAYS[way](built(), use_orig_params=original, device_id=torch.device("cpu"))
    untouched = torch.equal(before, torch.get_rng_state())
    kept = fingerprint(model).tensors
    with FSDP.summon_full_params(model):
        found = {clean(name): tensor.detach().clone() for name, tensor in named(model).items()}
        frozen = {clean(name) for name, tensor in model.named_parameters() if not tensor.requires_grad}
    loss = model(torch.arange(11)[None]).square().mean()
    loss.backward()
    return found, frozen, kept, untouched, loss.item()


@pytest.mark.parametrize(
    ("way", "original"), [("all at once", True), ("by policy", True), ("by policy", False), ("nested", True)]
)
@pytest.mark.filterwarnings("ignore")
def test_the_gathered_state_is_that_of_the_whole(launch, way, original):
    model = materialize(built(), seed=5)
    want, digests = named(model), fingerprint(model).tensors
    loss = model(torch.arange(11)[None]).square().mean().item()
    results = launch(_gathered, 2, way=way, original=original)
    for found, frozen, kept, untouched, got in results:
        assert {name.replace("head", "emb") for name in found} == want.keys()
        assert not [name for name in found if not torch.equal(found[name], want[name.replace("head", "emb")])]
        assert frozen == {name for name, tensor in model.named_parameters() if not tensor.requires_grad}
        assert {name: digest for name, digest in digests.items() if name in kept} == kept
        assert kept.keys() >= {"emb.weight", "blocks.1.turn", "copies.layers.1.linear1.weight"}
        assert untouched
        assert math.isclose(got, loss, rel_tol=1e-5)


def _without(rank, world):
    told = []
    for options in ({}, {"auto_wrap_policy": wrap.ModuleWrapPolicy({nn.Linear})}):
        for model in (built(), built().blocks[0].up):
            with pytest.raises(RuntimeError, match="tritonparam") as error:
                FSDP(model, device_id=torch.device("cpu"), **options)
            told.append(str(error.value))
            assert all(tensor.is_meta for tensor in model.parameters())
            materialize(model)
    return told


@pytest.mark.filterwarnings("ignore")
def test_without_the_function_fsdp_is_refused(launch):
    for told in launch(_without, 1):
        assert len(told) == 4
        assert all(
            "FullyShardedDataParallel(model, param_init_fn=tritonparam.param_init_fn(model" in one for one in told
        )


class Plain(nn.Module):
    """What tensor parallelism cuts evenly."""

    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(12, 8)
        self.up, self.down, self.norm = nn.Linear(8, 16), nn.Linear(16, 8), nn.LayerNorm(8)

    def forward(self, x):
        x = self.emb(x)
        return self.norm(x + self.down(self.up(x)))


def _over_tensor_parallelism(rank, world, folder):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import parallel

    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    with deferred_init():
        model = Plain()
    parallel.parallelize_module(
        model, mesh["tp"], {"up": parallel.ColwiseParallel(), "down": parallel.RowwiseParallel()}
    )
    init = param_init_fn(model, seed=5)
    options = {"use_orig_params": True, "device_id": torch.device("cpu"), "device_mesh": mesh["dp"]}
    model = FSDP(model, param_init_fn=init, **options)
    told = []
    for call in (lambda: save(model, f"{folder}/model"), lambda: fingerprint(model), lambda: load(model, folder)):
        with pytest.raises(ValueError, match="use fully_shard instead of FullyShardedDataParallel") as error:
            call()
        told.append(str(error.value))
    loss = model(torch.arange(12)[None]).square().mean().item()
    with FSDP.summon_full_params(model):
        found = {
            clean(name): each.full_tensor() if hasattr(each, "full_tensor") else each.detach().clone()
            for name, each in model.named_parameters()
        }
    return {name: each.detach() for name, each in found.items()}, loss, told


@pytest.mark.filterwarnings("ignore")
def test_fsdp1_over_tensor_parallelism_has_the_values_of_the_whole_and_is_no_target(launch, tmp_path):
    with deferred_init():
        model = Plain()
    want = dict(materialize(model, seed=5).named_parameters())
    loss = model(torch.arange(12)[None]).square().mean().item()
    for found, got, told in launch(_over_tensor_parallelism, 4, folder=str(tmp_path)):
        assert found.keys() == want.keys()
        assert not [name for name in found if not torch.equal(found[name], want[name])]
        assert math.isclose(got, loss, rel_tol=1e-5)
        assert len(told) == 3
    assert not list(tmp_path.iterdir())


def _in_the_block(rank, world):
    with deferred_init():
        model = Plain()
        for options in ({"param_init_fn": param_init_fn(model, seed=5)}, {}):
            with pytest.raises(RuntimeError, match=r"build the model in the block, and wrap it after it"):
                FSDP(model, device_id=torch.device("cpu"), **options)
    FSDP(_whole_plain(), device_id=torch.device("cpu"))
    return torch.equal(materialize(model, seed=5).up.weight, _whole_plain().up.weight)


def _whole_plain():
    with deferred_init():
        model = Plain()
    return materialize(model, seed=5)


@pytest.mark.filterwarnings("ignore")
def test_fsdp1_in_a_block_is_refused_and_the_model_is_as_before(launch):
    assert launch(_in_the_block, 1) == [True]


def test_fsdp1_that_is_imported_in_a_block_is_refused_too():
    program = """
import torch, tritonparam
torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
try:
    with tritonparam.deferred_init():
        from torch.distributed.fsdp import FullyShardedDataParallel
        FullyShardedDataParallel(torch.nn.Linear(2, 2), device_id=torch.device("cpu"))
except RuntimeError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], check=False, capture_output=True, text=True, timeout=300
    )
    assert "FullyShardedDataParallel was made inside deferred_init()" in done.stdout, done.stderr


@pytest.fixture(scope="module")
def whole():
    return named(materialize(built(), seed=5))


def check(model, whole):
    assert not [name for name, tensor in named(model).items() if not torch.equal(tensor, whole[name])]


@pytest.mark.parametrize("order", [list, reversed, lambda modules: sorted(modules, key=lambda m: type(m).__name__)])
def test_the_order_and_repetition_of_calls_change_no_value(order, whole):
    model = built()
    init = param_init_fn(model, seed=5)
    ids = {name: id(tensor) for name, tensor in model.named_parameters()}
    for module in order(list(model.modules())):
        init(module)
        init(module)
    check(model, whole)
    assert ids == {name: id(tensor) for name, tensor in model.named_parameters()}
    assert ledger(model)["blocks.0.turn"].state == "initialized"
    assert ledger(model)["head.weight"].key == "emb.weight"


def test_a_call_makes_what_is_the_module_s_own_and_what_is_tied_to_it(whole):
    model = built()
    init = param_init_fn(model, seed=5)
    init(model)
    assert all(tensor.is_meta for tensor in named(model).values())
    init(model.head)
    assert {name for name, tensor in named(model).items() if not tensor.is_meta} == {"emb.weight"}
    init(model.blocks[1])
    made = {"emb.weight", *(f"blocks.1.{name}" for name in ("turn", "steps", "scratch", "plain"))}
    assert {name for name, tensor in named(model).items() if not tensor.is_meta} == made
    check(materialize(model, seed=5), whole)


def test_a_part_of_a_model_has_the_values_of_the_whole(whole):
    model = built()
    init = param_init_fn(model.blocks, seed=5)
    for module in model.blocks.modules():
        init(module)
    assert torch.equal(model.blocks[1].down.weight, whole["blocks.1.down.weight"])
    with pytest.raises(ValueError, match=r"must be of the model that param_init_fn was called with.*Embedding.*weight"):
        init(model.emb)
    check(materialize(model, seed=5), whole)


def test_views_of_one_storage_become_real_together():
    def pair():
        with deferred_init():
            model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
            model[1].weight = nn.Parameter(model[0].weight.detach()[:2])
            return model

    want = materialize(pair(), seed=5)
    model = pair()
    param_init_fn(model, seed=5)(model[1])
    assert torch.equal(model[0].weight, want[0].weight)
    assert torch.equal(model[1].weight, want[1].weight)
    assert model[1].weight.data_ptr() == model[0].weight.data_ptr()
    assert {ledger(model)[name].state for name in ("0.weight", "1.weight")} == {"initialized"}
    assert model[0].bias.is_meta


def test_nothing_that_is_real_is_held():
    """FSDP1 flattens a unit and drops its tensors: that must give their memory back."""
    model = built()
    init = param_init_fn(model, seed=5)
    for module in model.blocks[0].modules():
        init(module)
    tensors = [weakref.ref(tensor) for tensor in model.blocks[0].parameters()]
    for module in model.blocks[0].modules():
        module._parameters.clear()
    assert not [each for each in tensors if each() is not None]
    init(model.emb)


def test_settings_are_those_of_materialize(whole):
    model = built()
    init = param_init_fn(model, seed=5, dtype=torch.bfloat16, device="cpu", backend="numpy")
    for module in model.modules():
        init(module)
    assert model.emb.weight.dtype is torch.bfloat16
    assert torch.equal(model.emb.weight, whole["emb.weight"].bfloat16())
    assert model.blocks[0].steps.dtype is torch.float32


def test_real_models_stay_as_they_are():
    model = nn.Linear(3, 3)
    want = model.weight.detach().clone()
    init = param_init_fn(model, seed=5)
    init(model)
    init(nn.Linear(2, 2))
    assert torch.equal(model.weight, want)
    model = materialize(built(), seed=4)
    want = {name: tensor.clone() for name, tensor in named(model).items()}
    for module, init in itertools.product(model.modules(), [param_init_fn(model, seed=5)]):
        init(module)
    check(model, want)


def _replace(model):
    with deferred_init():
        model.head = nn.Linear(7, 11)


def _write(model):
    with deferred_init():
        nn.init.zeros_(model.emb.weight)


@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        (_replace, ValueError, r"Linear with other tensors.*'weight', 'bias'"),
        (_write, RuntimeError, r"changed after param_init_fn was called: emb\.weight"),
        (lambda model: model.half(), RuntimeError, r"changed after param_init_fn was called: emb\.weight"),
        (lambda model: nn.init.ones_(model.emb.weight), RuntimeError, r"written to outside deferred_init.*emb\.weight"),
    ],
)
def test_what_changed_in_between_is_an_error_that_changes_nothing(change, error, told):
    model = built()
    init = param_init_fn(model, seed=5)
    change(model)
    with pytest.raises(error, match=told):
        init(model.head)
    assert all(tensor.is_meta for tensor in model.parameters())


def test_what_was_never_written_is_an_error_or_zero():
    with deferred_init():
        model = nn.Linear(2, 2)
        model.bias = nn.Parameter(torch.empty(2))
    with pytest.raises(ValueError, match=r"never written: bias"):
        param_init_fn(model)
    with pytest.warns(UserWarning, match=r"never written are 0: bias"):
        init = param_init_fn(model, strict=False)
    init(model)
    assert model.bias.tolist() == [0, 0]
    assert ledger(model)["bias"].why == "never written: 0"


@pytest.mark.parametrize(
    ("arguments", "error", "told"),
    [
        ({"model": 3}, TypeError, "module must be a torch.nn.Module"),
        ({"seed": -1}, ValueError, "seed"),
        ({"strict": 1}, TypeError, "strict must be a bool"),
        ({"device": "meta"}, ValueError, "device"),
        ({"dtype": torch.int8}, ValueError, "dtype"),
        ({"model": nn.Linear(2, 2, device="meta")}, ValueError, "do not know their values: weight, bias"),
    ],
)
def test_bad_arguments_are_refused(arguments, error, told):
    with pytest.raises(error, match=told):
        param_init_fn(**{"model": nn.Linear(2, 2)} | arguments)
    with pytest.raises(TypeError, match=r"module must be a torch\.nn\.Module"):
        param_init_fn(nn.Linear(2, 2))("weight")
