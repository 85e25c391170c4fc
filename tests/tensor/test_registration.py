"""A torch module takes the `.torch` of a Parameter; it refuses the Parameter, which it would not register."""

import subprocess
import sys

import pytest
from torch import nn

from tritonparam import Parameter
from tritonparam.initializer import initializer


def parameter():
    return Parameter(initializer("ones", [2, 2]), name="w")


def assigned(module, name):
    setattr(module, name, parameter())


@pytest.mark.parametrize(
    "put",
    [
        lambda module: assigned(module, "weight"),
        lambda module: assigned(module, "new"),
        lambda module: module.register_parameter("new", parameter()),
        lambda module: module.register_parameter(name="new", param=parameter()),
        lambda module: module.register_buffer("new", parameter()),
        lambda module: setattr(module, "new", initializer("ones", [2])),
    ],
)
def test_a_module_refuses_a_parameter_and_names_its_torch(put):
    module = nn.Linear(2, 2)
    before = dict(vars(module)), dict(module._parameters)
    with pytest.raises(
        TypeError, match=r"must be a torch.nn.Parameter or torch.Tensor, got a tritonparam.\w+: give its"
    ):
        put(module)
    assert before == (dict(vars(module)), dict(module._parameters))


def test_a_module_takes_its_torch():
    module, own = nn.Linear(2, 2), parameter()
    module.weight = own.torch
    module.other = 5
    module.child = nn.ReLU()
    own.init_data()
    assert module.weight is own.torch
    assert module.weight.tolist() == [[1, 1], [1, 1]]
    assert [name for name, _ in module.named_parameters()] == ["weight", "bias"]


PROGRAM = """
import torch
from torch import nn
from tritonparam import Parameter

class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin, self.count = nn.Linear(2, 2), 0

    def forward(self, x):
        self.count = self.count + 1
        self.last = self.lin(x)
        return self.last * self.count

def compiled():
    model, x = Counting(), torch.ones(1, 2)
    assert torch.equal(torch.compile(model, backend="eager", fullgraph=True)(x), model.lin(x))

{first}
Parameter([1.0])
compiled()
"""


@pytest.mark.parametrize("first", ["", "compiled()"], ids=["patched before the compiler", "after it"])
def test_a_module_that_sets_attributes_while_it_runs_still_compiles(first):
    program = PROGRAM.format(first=first)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], check=False, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


def test_what_others_put_in_the_place_of_torch_s_methods_stays(monkeypatch):
    """As those do that build models on the meta device; where they put torch's back, a later Parameter sees to it."""
    seen = []
    plain = nn.Module.__setattr__
    while hasattr(plain, "__wrapped__"):
        plain = plain.__wrapped__

    def audited(self, name, value):
        seen.append(name)
        plain(self, name, value)

    monkeypatch.setattr(nn.Module, "__setattr__", audited)
    parameter()
    module = nn.Linear(2, 2)
    with pytest.raises(TypeError, match=r"give its \.torch"):
        module.new = parameter()
    assert "in_features" in seen
    monkeypatch.setattr(nn.Module, "__setattr__", plain)
    kept = parameter()
    with pytest.raises(TypeError, match=r"give its \.torch"):
        module.new = kept
