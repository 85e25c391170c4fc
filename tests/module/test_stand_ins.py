"""What stands in the place of deferred tensors, sharded or not: what is done to it counts, or is refused."""

import copy

import pytest
import torch
from torch import nn

from tests.fake_mesh import new_mesh_of as mesh_of
from tests.module.sharding import DTensor, built, by_rows, check, distributed
from tritonparam import deferred_init, materialize
from tritonparam.tensor import mesh_boxes


@pytest.mark.filterwarnings("ignore::tritonparam.DeferredWarning")
@pytest.mark.filterwarnings("ignore::tritonparam.KeptWarning")
@pytest.mark.parametrize("write", ["state dict", "data", "to_local", "itself"])
def test_what_is_written_to_a_shard_without_values_counts_or_is_an_error(write, whole):
    """In memory of to_empty it is there to stay; without memory nothing could take note of it."""
    for empty in (True, False):
        with mesh_of([2]) as mesh:
            model = built()
            by_rows(model, mesh)
            if empty:
                model.to_empty(device="cpu")
            with torch.no_grad():
                weight = model.emb.weight
                if write == "state dict":  # as torch.distributed.checkpoint does
                    model.state_dict()["emb.weight"].to_local().fill_(3.0)
                elif write == "data":
                    weight.data.fill_(3.0)
                elif write == "to_local":
                    weight.to_local().fill_(3.0)
                else:
                    weight.fill_(3.0)
            if not empty and write in ("state dict", "data"):
                continue  # torch does not count it: docs/limits.md
            if not empty:
                with pytest.raises(RuntimeError, match=r"written to while they had no memory.*emb\.weight"):
                    materialize(model, seed=5)
                continue
            materialize(model, seed=5)
            assert (weight.to_local() == 3).all()
            rest = {name: tensor for name, tensor in whole.items() if name != "emb.weight"}
            check(model, rest | {"emb.weight": nn.Parameter(torch.full((11, 7), 3.0))}, lean=False)


@pytest.mark.filterwarnings("ignore::tritonparam.KeptWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("cast", [True, False], ids=["cast", "materialize"])
def test_memory_without_values_has_none_after_a_cast(dtype, cast, whole):
    with mesh_of([2], 1) as mesh:
        model = built()
        by_rows(model, mesh)
        model.to_empty(device="cpu")
        materialize(model.to(dtype) if cast else model, seed=5, dtype=None if cast else dtype)
        want = {
            name: nn.Parameter(t.to(dtype), t.requires_grad) if isinstance(t, nn.Parameter) else t
            for name, t in whole.items()
        }
        for name, tensor in model.named_parameters():
            held = mesh_boxes((mesh, tuple(tensor.placements)), tuple(tensor.shape))
            assert tensor.dtype == dtype
            for each in held:
                assert torch.equal(each.place.of(tensor.to_local()), each.box.of(want[name])), name
        again = {name: tensor.to_local().clone() for name, tensor in model.named_parameters()}
        materialize(model, seed=6)
        assert all(torch.equal(tensor.to_local(), again[name]) for name, tensor in model.named_parameters())


def test_tensors_that_were_put_in_the_place_of_deferred_ones_are_refused(whole):
    """What they are to hold, nobody has said, or said of another one."""
    for make in (torch.zeros_like, lambda weight: weight.detach() * 2, torch.empty_like):
        model = built()
        model.blocks[0].up.weight = nn.Parameter(make(model.blocks[0].up.weight))
        with pytest.raises(ValueError, match=r"nothing says what they are to hold: blocks\.0\.up\.weight; put them"):
            materialize(model)
    with mesh_of([2]) as mesh:
        model = built()
        by_rows(model, mesh)
        model.blocks[0].up.load_state_dict(model.blocks[0].up.state_dict(), assign=True)  # the same shards
        check(materialize(model, seed=5), whole)
        for case in ("tied", "copied", "zeros", "another's"):
            model, other = built(), built()
            by_rows(model, mesh)
            by_rows(other, mesh)
            weight = model.blocks[0].up.weight
            own = {"copied": copy.deepcopy(weight), "zeros": nn.Parameter(torch.zeros_like(weight)), "tied": weight}
            model.blocks[1].up.weight = own.get(case, other.blocks[1].up.weight)
            text = r"nothing says what they are to hold: blocks\.1\.up\.weight; put them"
            with pytest.raises(ValueError, match=text):
                materialize(model)


def test_a_write_to_a_shard_without_memory_is_an_error_that_changes_nothing():
    with mesh_of([2]) as mesh:
        model = built()
        by_rows(model, mesh)
        nn.init.zeros_(model.blocks[0].up.weight)
        with pytest.raises(RuntimeError, match=r"written to while they had no memory.*blocks\.0\.up\.weight"):
            materialize(model)
        assert model.emb.weight.is_meta


def test_partial_placements_are_refused():
    with mesh_of([2]) as mesh, deferred_init():
        model = nn.Linear(4, 4)
    with mesh_of([2]) as mesh:
        local = torch.empty(4, 4, device="meta")
        model.weight = nn.Parameter(DTensor.from_local(local, mesh, [distributed.Partial()], run_check=False))
        with pytest.raises(ValueError, match=r"weight holds no boxes.*Shard and Replicate"):
            materialize(model)


def test_another_shape_than_what_was_replaced_is_refused():
    with deferred_init():
        model = nn.Linear(4, 4)
    model.weight = nn.Parameter(torch.empty(4, 5, device="meta"))
    with pytest.raises(ValueError, match=r"other shapes.*weight \(\(4, 5\), and not \(4, 4\)\)"):
        materialize(model)


def test_a_dtensor_that_the_constructor_made_under_a_name_of_its_own_is_refused_as_what_it_is():
    """It stands in the place of nothing; and it was made inside the block, which no error may deny."""

    def constructor():
        model = nn.Linear(4, 4)
        own = distributed.distribute_tensor(torch.randn(8, 6), mesh, [distributed.Shard(0)], src_data_rank=None)
        model.own = nn.Parameter(own)
        return model

    with mesh_of([2]) as mesh:
        with deferred_init():
            model = constructor()
        with pytest.raises(ValueError, match=r"wrap deferred ones.*: own \(DTensor\); take them out of the module"):
            materialize(model)
        assert model.weight.is_meta
