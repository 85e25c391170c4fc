"""Stages of pipelines: cut from a deferred model in whatever way, each has the values of the whole model's names."""

import copy

import pytest
import torch
from torch import nn

from tritonparam import deferred_init, ledger, materialize, param_init_fn

pipelining = pytest.importorskip("torch.distributed.pipelining")
pytestmark = pytest.mark.filterwarnings("ignore")  # of torch.export
INPUT = torch.arange(6).view(2, 3)
STAGES = 3


class Block(nn.Module):
    """A replayed parameter, both kinds of buffers, tensors that torch.export gives other names."""

    def __init__(self, width):
        super().__init__()
        self.up = nn.Linear(width, width)
        self.turn = nn.Parameter(nn.init.orthogonal_(torch.empty(width, width)))
        self.register_buffer("scale", torch.rand(width))
        self.register_buffer("scratch", torch.rand(width), persistent=False)
        self.plain = torch.rand(width)
        self.tables = [torch.rand(width), torch.rand(width)]

    def forward(self, x):
        return self.up(x @ self.turn) * self.scale + self.scratch + self.plain + self.tables[0] * self.tables[1]


class Model(nn.Module):
    """A head in the last stage that is tied to the embedding in the first; layers in two stages that copy one draw."""

    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(7, 4)
        self.blocks = nn.ModuleList(Block(4) for _ in range(2))
        self.copies = nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 1, 8, 0.0), 2, enable_nested_tensor=False)
        self.head = nn.Linear(4, 7, bias=False)
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


def cut(model):
    begin = pipelining.SplitPoint.BEGINNING
    split = {"blocks.1": begin, "copies.layers.1": begin}
    return pipelining.pipeline(model, mb_args=(INPUT.to("meta"),), split_spec=split)


def named(module):
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


@pytest.fixture(scope="module")
def whole():
    return materialize(built(), seed=5)


def check(stage, whole):
    """Every tensor of a stage is that of the whole; which of them the whole does not know by name."""
    want = named(whole) | {"head.weight": whole.emb.weight}
    lifted = {}
    for name, tensor in named(stage).items():
        if name in want:
            assert torch.equal(tensor, want[name]), name
            assert tensor.requires_grad == want[name].requires_grad, name
        else:
            lifted[name] = tensor
    return lifted


@pytest.mark.parametrize("there", [True, False], ids=["beside the model", "without it"])
@pytest.mark.parametrize("n", range(STAGES))
def test_a_stage_alone_has_the_values_of_the_whole(n, there, whole):
    model = built()
    stage = cut(model).get_stage_module(n)
    optimizer = torch.optim.SGD(stage.parameters(), lr=1.0)
    if not there:
        del model
    assert materialize(stage, seed=5) is stage
    lifted = check(stage, whole)
    block = whole.blocks[min(n, 1)]
    want = [block.plain, *block.tables] if n < 2 else []
    assert len(lifted) == len(want)
    assert all(any(torch.equal(one, two) for two in want) for one in lifted.values())
    assert {id(tensor) for tensor in optimizer.param_groups[0]["params"]} == {id(one) for one in stage.parameters()}
    assert {row.state for row in ledger(stage)} <= {"initialized", "cloned"}
    if there:
        own = {*named(stage), "emb.weight"}
        assert all(tensor.is_meta for name, tensor in named(model).items() if name not in own)


def test_stages_of_one_process_and_the_model_itself_agree(whole):
    model = built()
    pipe = cut(model)
    for n in reversed(range(STAGES)):
        check(materialize(pipe.get_stage_module(n), seed=5), whole)
    check(materialize(model, seed=5), whole)


@pytest.mark.parametrize("decide", [lambda model: materialize(model.blocks[0], seed=5), param_init_fn])
def test_what_was_decided_before_is_so_for_a_stage(decide, whole):
    model = built()
    pipe = cut(model)
    decide(model)
    check(materialize(pipe.get_stage_module(2), seed=5), whole)


@pytest.mark.parametrize("change", [lambda model: model.to(torch.bfloat16), copy.deepcopy], ids=["cast", "copy"])
def test_a_model_may_change_before_it_is_cut(change):
    want = materialize(change(built()), seed=5)
    model = change(built())
    pipe = cut(model)
    del model
    for n in (2, 0):
        check(materialize(pipe.get_stage_module(n), seed=5), want)


def test_manual_stages_have_the_values_of_the_whole(whole):
    model = built()
    del model.emb, model.blocks[0]
    model.copies.layers = model.copies.layers[1:]
    got = named(materialize(model, seed=5))
    want = named(whole) | {"head.weight": whole.emb.weight}
    for name, tensor in got.items():
        before = name.replace("blocks.0.", "blocks.1.").replace("copies.layers.0.", "copies.layers.1.")
        assert torch.equal(tensor, want[before]), name


def test_a_module_of_tensors_of_a_model_has_their_names(whole):
    model = built()
    stage = nn.Module()
    stage.table = model.head.weight
    stage.turn = model.blocks[1].turn
    materialize(stage, seed=5)
    assert torch.equal(stage.table, whole.emb.weight)
    assert torch.equal(stage.turn, whole.blocks[1].turn)
    stage = nn.Module()
    stage.turn = built().blocks[1].turn  # of a model that is gone: it is what it is called here
    assert not torch.equal(materialize(stage, seed=5).turn, whole.blocks[1].turn)


def test_a_cut_in_the_block_is_refused():
    model = built()
    with (
        deferred_init(),
        pytest.raises(RuntimeError, match=r"call pipeline\(\) after it, with example inputs on the meta"),
    ):
        cut(model)


def _run(rank, world, manual):
    torch.manual_seed(rank)
    with deferred_init():
        model = Model()
    if manual:
        first, last = list(model.blocks[:1]), [model.blocks[1], model.copies, model.head]
        submodule = nn.Sequential(*([model.emb, *first] if rank == 0 else last))
        for each in submodule:
            materialize(each, seed=5)
        stage = pipelining.PipelineStage(submodule, rank, world, torch.device("cpu"))
    else:
        split = {"blocks.1": pipelining.SplitPoint.BEGINNING}
        pipe = pipelining.pipeline(model, mb_args=(INPUT.to("meta"),), split_spec=split)
        stage = pipe.build_stage(rank, torch.device("cpu"))
        materialize(stage.submod, seed=5)
    before = {name: tensor.detach().clone() for name, tensor in named(stage.submod).items()}
    schedule = pipelining.ScheduleGPipe(stage, 2, loss_fn=lambda got, _: got.square().mean())
    got = schedule.step(torch.cat([INPUT, INPUT])) if rank == 0 else schedule.step(target=torch.zeros(4, 3, 7))
    grads = {name: tensor.grad for name, tensor in stage.submod.named_parameters() if tensor.requires_grad}
    return before, got, grads


@pytest.mark.parametrize("manual", [False, True], ids=["pipeline()", "PipelineStage"])
def test_a_step_of_two_processes_is_that_of_the_whole(launch, manual):
    whole = materialize(built(), seed=5)
    first, second = launch(_run, 2, manual=manual)
    want = whole(torch.cat([INPUT, INPUT]))
    assert torch.allclose(second[1], want, atol=1e-5)
    want.square().mean().backward()
    name = "1.up.weight" if manual else "blocks.0.up.weight"
    assert torch.allclose(first[2][name], whole.blocks[0].up.weight.grad, atol=1e-5)
    if not manual:
        for before, _, _ in (first, second):
            check_named(before, whole)


def check_named(before, whole):
    want = named(whole) | {"head.weight": whole.emb.weight}
    assert len(before.keys() & want.keys()) > 5
    assert not [name for name in before.keys() & want.keys() if not torch.equal(before[name], want[name])]
