"""A torch module takes the `.torch` of a Parameter; it refuses the Parameter, which it would not register."""

import pytest
import torch
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
    ],
)
def test_a_module_refuses_a_parameter_and_names_its_torch(put):
    module = nn.Linear(2, 2)
    before = dict(vars(module)), dict(module._parameters)
    with pytest.raises(TypeError, match=r"must be a torch.nn.Parameter, got a tritonparam.Parameter: assign its"):
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


def test_a_module_that_sets_attributes_while_it_runs_still_compiles():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin, self.count = nn.Linear(2, 2), 0

        def forward(self, x):
            self.count = self.count + 1
            self.last = self.lin(x)
            return self.last * self.count

    parameter()
    model = Counting()
    x = torch.ones(1, 2)
    assert torch.equal(torch.compile(model, backend="eager", fullgraph=True)(x), model.lin(x))
