"""What MindSpore scripts rely on beyond the guide: what a line prints, and which built-in exception a mistake is."""

import contextlib
import io

import numpy as np
import pytest

import tritonparam
from tritonparam import Generator, Parameter, ParameterTuple, Tensor
from tritonparam.initializer import Initializer, Normal, initializer

NAMES = {
    "np": np,
    "mstype": tritonparam.dtype,
    "Parameter": Parameter,
    "ParameterTuple": ParameterTuple,
    "Tensor": Tensor,
    "Initializer": Initializer,
    "Normal": Normal,
    "initializer": initializer,
}


def run(code):
    """What the script prints."""
    printed = io.StringIO()
    with Generator(0), contextlib.redirect_stdout(printed):
        exec(code, dict(NAMES))
    return printed.getvalue()


def line(name, shape, dtype, grad=True):
    return f"Parameter (name={name}, shape={shape}, dtype={dtype}, requires_grad={grad})"


PRINTS = {
    "containers print what they hold": (
        "print([Parameter(1, 'a')], {'a': Parameter(2.0, 'b')})",
        f"[{line('a', '()', 'Int32')}] {{'a': {line('b', '()', 'Float32')}}}\n",
    ),
    "format is str": (
        "a = Parameter(1, 'a')\nprint('{}|%s|%r'.format(a) % (a, a))",
        "|".join([line("a", "()", "Int32")] * 3) + "\n",
    ),
    "what prints is the present state": (
        "w = Parameter(initializer('normal', [2, 3]), 'w')\nw.name, w.requires_grad = 'v', False\n"
        "w.set_dtype(mstype.float16)\nprint(w, w.has_init)\n"
        "w.set_data(Tensor(np.ones((4,), np.float16)), slice_shape=True)\nprint(w, w.has_init)",
        f"{line('v', '(2, 3)', 'Float16', False)} True\n{line('v', '(4,)', 'Float16', False)} False\n",
    ),
    "a tuple prints like one, empty and of one too": (
        "print(ParameterTuple([]), ParameterTuple([Parameter(1.0, 'a')]))",
        f"() ({line('a', '()', 'Float32')},)\n",
    ),
    "members are found by iteration, index and name": (
        "g = ParameterTuple(Parameter(float(i), f'p{i}') for i in range(3))\n"
        "print([p.name for p in g], g[-1].name, len(g), g.index(g[1]), {p.name: p.asnumpy().item() for p in g})",
        "['p0', 'p1', 'p2'] p2 3 1 {'p0': 0.0, 'p1': 1.0, 'p2': 2.0}\n",
    ),
    "a tuple equals that of its members": (
        "a = Parameter(1.0, 'a')\nprint(ParameterTuple([a]) == (a,), hash(ParameterTuple([a])) == hash((a,)))",
        "True True\n",
    ),
    "results of arithmetic print their values": (
        "w = Parameter(np.array([1, 2], np.float32), 'w')\nprint(w * 2, 1 / w, w ** 2 - w, w > 1)\nprint(repr(w + w))",
        "[2. 4.] [1.  0.5] [0. 2.] [False  True]\n"
        "Tensor(shape=[2], dtype=Float32, value= [ 2.00000000e+00,  4.00000000e+00])\n",
    ),
    "rows, elements and the transpose of a Parameter are Tensors": (
        "w = Parameter([[1, 2], [3, 4]], 'w')\nfor row in w:\n    print(row, type(row).__name__, row[0].shape)\n"
        "print(w.T)\nprint(w[:, 1], w[-1, 0])",
        "[1 2] Tensor ()\n[3 4] Tensor ()\n[[1 3]\n [2 4]]\n[2 4] 3\n",
    ),
    "a loop that accumulates rebinds its name and leaves the Parameter alone": (
        "w = Parameter(1.0, 'w')\ntotal = w\nfor _ in range(3):\n    total += w\nprint(total, w.asnumpy())",
        "4.0 1.0\n",
    ),
    "scalars are numbers where Python wants one": (
        "import math\nw = Parameter(4.0)\nprint(math.sqrt(w), float(w), int(w), bool(w), 'yes' if w > 3 else 'no')",
        "2.0 4.0 4 True yes\n",
    ),
    "sorting and the largest go by value where that is one number": (
        "b = [Parameter(2.0, 'b'), Parameter(1.0, 'a')]\nprint([p.name for p in sorted(b)], max(b).name)",
        "['a', 'b'] b\n",
    ),
    "nothing equals a Parameter but by value": (
        "w = Parameter([1.0], 'w')\nprint(w == None, w != 'w', w == 1, w in [w])",
        "False True [ True] True\n",
    ),
    "set_dtype of a Parameter cuts": (
        "w = Parameter([1.5, -2.5], 'w')\nprint(w.set_dtype(mstype.int32) is w, w.asnumpy(), w.dtype == mstype.int32)",
        "True [ 1 -2] True\n",
    ),
    "True is the number one": ("print(Parameter([5, 6], 'w').clone(init=True).asnumpy())", "[1 1]\n"),
    "what is real already ignores every argument of init_data": (
        "w = Parameter(1.0, 'w')\nprint(w.init_data([1, 2], 3) is w, w.sliced)",
        "True False\n",
    ),
    "an update step in a script's own loop": (
        "w = Parameter(np.ones((2,), np.float32), 'w')\nfor step in range(2):\n"
        "    w.set_data(w - 0.25 * Tensor(np.array([1, 2], np.float32)))\nprint(w.asnumpy(), w)",
        f"[0.5 0. ] {line('w', '(2,)', 'Float32')}\n",
    ),
}


@pytest.mark.parametrize(("code", "want"), PRINTS.values(), ids=PRINTS)
def test_script_prints(code, want):
    assert run(code) == want


MISTAKES = [
    ("Parameter(1.0, nme='w')", TypeError),
    ("Parameter(1.0, 'w', True, False, True, 1)", TypeError),
    ("w.dtype = mstype.int32", AttributeError),
    ("w.nosuch", AttributeError),
    ("w.set_data()", TypeError),
    ("w.clone('nosuch')", ValueError),
    ("w.clone(Normal)", TypeError),
    ("w[5]", IndexError),
    ("w + 'a'", TypeError),
    ("w + None", TypeError),
    ("w @ None", TypeError),
    ("bool(w)", ValueError),
    ("w in [Parameter([1.0, 2.0], 'v')]", ValueError),
    ("f'{w:>9}'", TypeError),
    ("ParameterTuple([w]).clone()", TypeError),
    ("ParameterTuple([w]).append(w)", AttributeError),
    ("ParameterTuple([w, None])", TypeError),
    ("initializer('nosuch', [2])", ValueError),
    ("initializer(Tensor(np.ones(2)), [3])", ValueError),
    ("initializer(Initializer(), [2])", NotImplementedError),
]


@pytest.mark.parametrize(("code", "error"), MISTAKES, ids=[code for code, _ in MISTAKES])
def test_mistake_is_this_error_exactly_and_changes_nothing(code, error):
    setup = "w = Parameter([1.0, 2.0], 'w')\n"
    caught = f"try:\n    {code}\nexcept Exception as error:\n    print(type(error).__name__)\nprint(w, w.tolist())"
    assert run(setup + caught) == f"{error.__name__}\n{line('w', '(2,)', 'Float32')} [1.0, 2.0]\n"
