"""Declarations say what each tensor will be, and each can be made alone."""

import pytest
import torch

from tests.module.deferred_models import deferred_model, tensors
from tritonparam import Constant, Normal, Plan, declarations, materialize
from tritonparam.module import BoxLaw


def test_declarations_say_what_each_tensor_will_be():
    """In the order of the module, parameters first; the first name is the name; nothing is changed."""
    module = deferred_model()
    found = declarations(module)
    names = ["0.weight", "1.weight", "1.bias", "2.weight", "2.bias", "3.bias"]
    names += [f"4.{name}" for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")]
    buffers = ["1.mask", "1.table", "2.running_mean", "2.running_var", "2.num_batches_tracked"]
    assert [each.name for each in found] == names + buffers
    assert [each.kind for each in found] == ["parameter"] * len(names) + ["buffer"] * len(buffers)
    by_name = {each.name: each for each in found}
    assert by_name["0.weight"].aliases == ("3.weight",)
    assert [each.name for each in found if each.aliases] == ["0.weight"]
    assert [each.name for each in found if not each.persistent] == ["1.mask"]
    assert [each.name for each in found if each.laws is None] == ["1.weight", "1.mask", "1.table"]
    assert by_name["2.num_batches_tracked"].dtype == torch.int64
    assert by_name["0.weight"].shape == (20, 8)
    want = (BoxLaw((0, 0), (1, 8), Constant(0)), BoxLaw((1, 0), (19, 8), Normal()))
    assert by_name["0.weight"].laws == want
    assert all(tensor.is_meta for tensor in tensors(module).values())


def test_each_tensor_can_be_made_alone():
    """`fills` and `replay` of one declaration give what `materialize` gives, in any layout of `out`."""
    want = tensors(materialize(deferred_model(), seed=4))
    for each in declarations(deferred_model()):
        assert torch.equal(each.replay(4), want[each.name])
        if each.laws is not None:
            out = torch.full((*each.shape, 2), 7, dtype=each.dtype)[..., 1]
            Plan(each.fills(out, 4)).run()
            assert torch.equal(out, want[each.name])
            with pytest.raises(ValueError, match="out must have the shape"):
                each.fills(torch.empty(99), 4)
        else:
            with pytest.raises(ValueError, match=f"{each.name} has no laws"):
                each.fills(torch.empty(each.shape), 4)
