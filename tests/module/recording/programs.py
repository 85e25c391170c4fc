"""Random programs of operators on deferred tensors, and what the tape says once one was run: with no ids of objects."""

import random
import warnings

import numpy as np
import torch
from torch.utils._pytree import tree_flatten, tree_map

from tritonparam import deferred_init
from tritonparam.module.tape import Drawn, GeneratorState, History, Node, Read

DTYPES = (
    *(torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2),
    *(torch.int64, torch.uint8, torch.bool, torch.complex64),
)
SHAPES = ((), (1,), (0,), (3,), (2, 3), (1, 4), (2, 0, 3), (2, 3, 2, 2), (4, 1))
NUMBERS = (
    0,
    1,
    2,
    0.0,
    -0.0,
    1.0,
    0.5,
    -3,
    1e-3,
    300,
    3.7,
    -1,
    1e39,
    2**62,
    True,
    False,
    float("inf"),
    float("nan"),
    2j,
)
DEVICES = (None, None, None, "cpu", "meta", "cuda", "cuda:1")


class Own(torch.nn.Parameter):
    """A parameter with a type of its own, as lazy and quantized layers have."""


class Program:
    """Steps that follow from a number alone, and from what the steps before left.

    Attributes:
        pool: The tensors made so far.
        outcomes: What each step came to: the names of the steps and of what they raised.
    """

    def __init__(self, number):
        self._number = number
        self._choices = random.Random(number)
        self.pool = []
        self.outcomes = []
        self._kept = []

    def run(self):
        """Three blocks with steps outside between them."""
        with torch.random.fork_rng(devices=()):  # what shares memory with an array is drawn at once
            torch.manual_seed(self._number)
            self._blocks()
        return self

    def _blocks(self):
        for _ in range(3):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with deferred_init():
                    for _ in range(self._choices.randint(1, 20)):
                        self._step(self._choices.choices(INSIDE, WEIGHTS)[0])
            for _ in range(self._choices.randint(0, 2)):
                self._step(self._choices.choice(OUTSIDE))

    def _step(self, step):
        try:
            made = step(self, self._choices)
        except (RuntimeError, TypeError, ValueError, IndexError, ArithmeticError, AssertionError) as error:
            self.outcomes.append((step.__name__, type(error).__name__, str(error)))
        else:
            self.outcomes.append((step.__name__, tree_map(self._shown, made)))
            self.pool += [leaf for leaf in tree_flatten(made)[0] if isinstance(leaf, torch.Tensor)]

    def _shown(self, value):
        """Which tensor of before it is, or how a new one looks."""
        if not isinstance(value, torch.Tensor):
            return repr(value)
        return next((number for number, each in enumerate(self.pool) if each is value), "new")

    def any(self):
        """One of the tensors, mostly of the last ones."""
        if not self.pool:
            self.pool.append(torch.empty(2, 3))
        recent = self.pool[-6:] if self._choices.random() < 0.7 else self.pool
        return self._choices.choice(recent)

    def said(self):
        """The tape of all tensors, and what else can be told of them."""
        return Said(self.pool).rows, self.outcomes


def options(choose, *names):
    given = {"dtype": choose.choice((None, None, *DTYPES)), "device": choose.choice(DEVICES)}
    given["layout"] = choose.choice((*[None] * 12, torch.strided, torch.sparse_coo))
    given["pin_memory"] = choose.choice((*[None] * 12, False, True))
    given["memory_format"] = choose.choice((None, None, torch.contiguous_format, torch.channels_last))
    given["requires_grad"] = choose.choice((False, False, False, True))
    return {name: given[name] for name in ("dtype", "device", *names) if given[name] is not None}


def number(choose):
    return choose.choice(NUMBERS)


def shape(choose):
    return (-1, 2) if choose.random() < 0.02 else choose.choice(SHAPES)


def make_empty(program, choose):
    return torch.empty(shape(choose), **options(choose, "layout", "pin_memory", "memory_format", "requires_grad"))


def make_filled(program, choose):
    make = choose.choice((torch.zeros, torch.ones, torch.rand, torch.randn))
    return make(shape(choose), **options(choose, "layout", "pin_memory", "requires_grad"))


def make_full(program, choose):
    return torch.full(shape(choose), number(choose), **options(choose, "layout", "requires_grad"))


def make_like(program, choose):
    name = choose.choice(("empty_like", "zeros_like", "ones_like", "rand_like", "randn_like", "full_like"))
    more = (number(choose),) if name == "full_like" else ()
    return getattr(torch, name)(program.any(), *more, **options(choose, "layout", "memory_format"))


def make_new(program, choose):
    name = choose.choice(("new_empty", "new_zeros", "new_ones", "new_full"))
    more = (number(choose),) if name == "new_full" else ()
    return getattr(program.any(), name)(shape(choose), *more, **options(choose, "layout"))


def make_known(program, choose):
    kind = choose.choice((0, 1, 2))
    if kind == 0:
        return torch.tensor(choose.choice((0, [1.0, 2.0], [[True]], [3, 4])))
    array = np.arange(6, dtype=choose.choice((np.float32, np.int64))).reshape(2, 3)
    program._kept.append(array)
    return torch.from_numpy(array) if kind == 1 else torch.as_tensor(array)


def draw(program, choose):
    with torch.no_grad():
        return _drawn(program.any(), choose)


def draw_with_gradients(program, choose):
    return _drawn(program.any(), choose)


def _drawn(tensor, choose):
    generator = torch.Generator() if choose.random() < 0.05 else None
    one, other = choose.choice(((), (0.0, 1.0), (-0.5, 0.5), (1.0, -1.0), (-0.0, 0.02), (1e38, 1e39), (3, 3))) or (0, 1)
    name = choose.choice(("normal_", "uniform_"))
    if choose.random() < 0.2:
        return getattr(tensor, name)(generator=generator)
    return getattr(tensor, name)(one, other, generator=generator)


def fill(program, choose):
    with torch.no_grad():
        tensor = program.any()
        return tensor.zero_() if choose.random() < 0.3 else tensor.fill_(number(choose))


def fill_inferring(program, choose):
    with torch.inference_mode():
        return program.any().fill_(number(choose)) if choose.random() < 0.5 else torch.ones(shape(choose))


def initialize(program, choose):
    tensor, init = program.any(), torch.nn.init
    return choose.choice(
        (init.kaiming_uniform_, init.xavier_normal_, init.zeros_, init.ones_, init.trunc_normal_, init.orthogonal_)
    )(tensor)


def view(program, choose):
    tensor = program.any()
    last = choose.randint(-2, 2)
    views = (
        tensor.detach,
        lambda: tensor.data,
        lambda: tensor[choose.randint(-2, 2)],
        lambda: tensor[choose.randint(-1, 1) :],
        lambda: tensor.transpose(0, last),
        tensor.t,
        lambda: tensor.view(-1),
        lambda: tensor.unsqueeze(last),
        lambda: tensor.squeeze(last),
        lambda: tensor.expand(2, *tensor.shape),
        lambda: tensor.permute(*reversed(range(tensor.dim()))),
        lambda: tensor.unbind(0),
        lambda: tensor.split(2),
        lambda: tensor.split([1, 1]),
        lambda: tensor.view(torch.int32),
        tensor.conj,
        lambda: tensor.conj().imag,
        lambda: torch.view_as_real(tensor),
        tensor.diagonal,
    )
    return choose.choice(views)()


def copy(program, choose):
    tensor, kind = program.any(), choose.randint(0, 4)
    if kind == 0:
        return tensor.clone()
    if kind == 1:
        return tensor.clone(memory_format=choose.choice((torch.contiguous_format, torch.preserve_format)))
    if kind == 2:
        return tensor.to(choose.choice(DTYPES))
    if kind == 3:
        with torch.no_grad():
            return tensor.copy_(program.any())
    return type(tensor)(tensor) if isinstance(tensor, torch.nn.Parameter) else tensor.contiguous()


def as_parameter(program, choose):
    return choose.choice((torch.nn.Parameter, Own))(program.any(), requires_grad=choose.random() < 0.7)


def compute(program, choose):
    with torch.no_grad():
        tensor = program.any()
        done = (
            lambda: tensor.mul_(2),
            lambda: tensor + 1,
            lambda: tensor.add_(program.any()),
            lambda: tensor.cumsum(0),
        )
        return choose.choice(done)()


def look(program, choose):
    return program.any().sum().item()


def resize(program, choose):
    with torch.no_grad():
        return program.any().resize_(choose.choice(SHAPES))


def write_to_array(program, choose):
    if program._kept:
        program._kept[-1][0, 0] += 1


def forget(program, choose):
    if len(program.pool) > 3:
        del program.pool[choose.randint(0, len(program.pool) - 1)]


def write_outside(program, choose):
    with torch.no_grad():
        return program.any().fill_(1)


def write_data_outside(program, choose):
    return program.any().data.zero_()


WEIGHTED = {
    make_empty: 6,
    make_filled: 5,
    make_full: 2,
    make_like: 3,
    make_new: 2,
    make_known: 1,
    draw: 8,
    draw_with_gradients: 1,
    fill: 8,
    fill_inferring: 1,
    initialize: 2,
    view: 8,
    copy: 5,
    as_parameter: 2,
    compute: 2,
    look: 1,
    resize: 1,
    write_to_array: 1,
    forget: 1,
}
INSIDE, WEIGHTS = tuple(WEIGHTED), tuple(WEIGHTED.values())
OUTSIDE = (write_outside, write_data_outside, view, forget)


def graph(tensor):
    """What autograd says of a tensor, or raises."""
    try:
        return tensor.is_leaf, type(tensor.grad_fn).__name__
    except RuntimeError as error:
        return str(error)


class Said:
    """What can be told of tensors and of the tape behind them; things are numbered in the order they are met in."""

    def __init__(self, tensors):
        self._numbers = {}
        self._steps = {}
        self._pending = []
        self.rows = [self._tensor(tensor) for tensor in tensors]
        while self._pending:
            self.rows.append(self._pending.pop(0)())
        ordered = sorted(self._steps, key=self._steps.get)  # in which order things were done
        self.rows.append(("order", ordered))

    def _number(self, thing, tell):
        """The number of a thing, which is told of once."""
        if thing is None:
            return None
        if thing not in self._numbers:
            self._numbers[thing] = len(self._numbers)
            self._pending.append(lambda: (self._numbers[thing], *tell(thing)))
        return self._numbers[thing]

    def _tensor(self, tensor):
        facts = [type(tensor).__name__, tuple(tensor.shape), tensor.dtype, tensor.requires_grad, tensor.is_inference()]
        if not tensor.is_inference():
            facts.append(tensor._version)
        if tensor.layout == torch.strided:
            facts += [tensor.stride(), tensor.storage_offset(), tensor.is_conj(), tensor.is_neg()]
            facts.append(tensor.untyped_storage().nbytes())
        return (*facts, str(tensor.device), graph(tensor), self._number(History.of(tensor), self._history))

    def _history(self, history):
        self._steps["history", self._numbers[history]] = history.key
        live = None if history.live is None else history.live.nbytes()
        unseen = history.was_written_unseen(), len(history.watched)
        return str(history.device), history.names_dtype, live, unseen, self._number(history.head, self._version)

    def _version(self, version):
        self._steps["version", self._numbers[version]] = version.index
        content = version.content
        if isinstance(content, Drawn):
            told = repr(content.law), content.elements, content.reshaped, self._number(content.draw, self._draw)
        elif isinstance(content, Node):
            told = self._number(content, self._node)
        else:
            told = str(content.dtype), repr(content.resolve_conj().resolve_neg().tolist())
        return version.view, version.nbytes, told, self._number(version.previous, self._version)

    def _draw(self, draw):
        return draw.shape, draw.pinned, draw.settled

    def _node(self, node):
        self._steps["node", self._numbers[node]] = node.index
        flags = node.random, node.reads_unwritten, node.may_leave_unwritten, node.pinned, node.default_dtype
        arguments = repr(tree_map(self._argument, (node.args, node.kwargs)))
        results = [(place, self._number(version, self._version)) for place, version in node.results]
        return str(node.func), arguments, flags, len(node.reads), len(node.writes), results, len(node.checks)

    def _argument(self, value):
        if isinstance(value, Read):
            return self._number(value.version, self._version), value.nbytes, value.view
        return value.state.sum().item() if isinstance(value, GeneratorState) else value
