"""clone, copy, and clones and copies of a ParameterTuple: what is taken along, what is new; nothing is shared."""

import copy
import io
import pickle

import numpy as np
import pytest
import torch

from tritonparam import (
    Box,
    Fill,
    Generator,
    Parameter,
    ParameterTuple,
    Plan,
    Tensor,
    deferred_init,
    derive_key,
    materialize,
)
from tritonparam import dtype as mstype
from tritonparam.initializer import HeNormal, Normal, Zero, initializer
from tritonparam.tensor import writes as _writes

TAKEN = {
    "name": "w",
    "requires_grad": False,
    "layerwise_parallel": True,
    "parallel_optimizer": False,
    "comm_fusion": 2,
    "cache_enable": True,
    "cache_shape": [3, 4],
    "is_param_ps": True,
    "init_in_server": True,
}
RESET = {"unique": True, "sliced": True, "is_init": True, "my_note": 5}


def drawn(law, key, shape):
    out = torch.full(shape, 7.0)
    Plan([Fill(out, law, key)]).run()
    return out.numpy()


def normal(name="w", shape=(2, 3), dtype="float32", **flags):
    return Parameter(initializer("normal", shape, dtype), name, **flags)


@pytest.mark.parametrize("init", ["same", "zeros"])
@pytest.mark.parametrize("lazy", [True, False])
@pytest.mark.parametrize("grad", [True, False])
def test_flags_are_taken_and_states_are_not(init, lazy, grad):
    parameter = normal() if lazy else normal().init_data()
    for name, value in {**TAKEN, **RESET, "requires_grad": grad}.items():
        setattr(parameter, name, value)
    clone = parameter.clone(init)
    assert {name: getattr(clone, name) for name in TAKEN} == {**TAKEN, "requires_grad": grad}
    assert clone.torch.requires_grad is grad
    assert (clone.unique, clone.sliced, clone.is_init, clone.inited_param) == (False, False, False, None)
    assert not hasattr(clone, "my_note")
    clone.cache_shape.append(9)
    for name, value in {"name": "x", "comm_fusion": 0, "requires_grad": not grad}.items():
        setattr(clone, name, value)
    assert (parameter.name, parameter.comm_fusion, parameter.cache_shape) == ("w", 2, [3, 4])
    assert parameter.requires_grad is grad


@pytest.mark.parametrize("make", [Parameter.clone, Parameter.copy])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32"])
def test_same_gives_the_same_values_lazy_where_the_original_is(make, dtype):
    """Before and after the original becomes real, with no key taken: bit for bit, on memory of its own."""
    parameter = Parameter(initializer(Normal(9.0), [2, 3], dtype), "w")
    with Generator(0) as generator:
        early = make(parameter)
        assert early.has_init
        parameter.init_data()
        late = make(parameter)
        assert not generator._occurrences
    assert (early.has_init, late.has_init, type(early), type(late)) == (True, False, Parameter, Parameter)
    want = parameter.torch.detach().clone()
    assert torch.equal(late.torch, want)
    parameter.set_data(Zero())
    assert torch.equal(early.init_data().torch, want)
    assert torch.equal(late.torch, want)


def test_clone_leaves_gradient_hooks_and_history_behind():
    parameter = normal().init_data()
    torch.sum(parameter * 2).backward()
    parameter.torch.register_hook(lambda gradient: pytest.fail("a hook of the original"))
    clone = parameter.clone()
    assert (clone.torch.grad, clone.torch.is_leaf, type(clone.torch)) == (None, True, torch.nn.Parameter)
    torch.sum(clone * 2).backward()


def test_clone_of_a_view_is_contiguous_and_small():
    parameter = Parameter(np.arange(6, dtype=np.float32).reshape(2, 3), "w")
    parameter.torch.data = parameter.torch.data.T
    clone = parameter.clone()
    assert clone.torch.is_contiguous()
    assert clone.asnumpy().tolist() == [[0, 3], [1, 4], [2, 5]]


@pytest.mark.parametrize(
    ("init", "want"),
    [
        ("zeros", 0),
        ("ONES", 1),
        (0.5, 0.5),
        (True, 1),
        (np.float32(2), 2),
        (Zero(), 0),
        (Tensor(np.full((2, 3), 5, np.float32)), 5),
        (Tensor(np.full((2, 3), 6, np.int32)), 6),
        (initializer(7, [2, 3], "float16"), 7),
        (Parameter(np.full((2, 3), 8.0, np.float16)), 8),
    ],
)
@pytest.mark.parametrize("lazy", [True, False])
def test_init_says_what_the_clone_holds(init, want, lazy):
    """It keeps the dtype of the original, and is lazy where that is and init is no data."""
    parameter = normal() if lazy else normal().init_data()
    clone = parameter.clone(init)
    is_data = isinstance(init, Tensor) and not init.has_init
    assert clone.has_init == (lazy and not is_data)
    assert str(clone) == str(parameter)
    assert clone.asnumpy().tolist() == [[want] * 3] * 2
    clone[0, 0] = 77
    assert not isinstance(init, Tensor) or init.has_init or init.asnumpy()[0, 0] == want


@pytest.mark.parametrize("lazy", [True, False])
@pytest.mark.parametrize("init", ["he_normal", HeNormal(), initializer("he_normal", [2, 3])])
def test_random_clone_is_the_next_parameter_of_its_name(init, lazy):
    with Generator(4) as generator:
        parameter = normal()
        if not lazy:
            parameter.init_data()
        first, second = parameter.clone(init), parameter.clone(init)
        assert generator._occurrences == {"": 1, "w": 3}  # the one without a name is what the parameter was made from
    law = HeNormal().law((2, 3))
    np.testing.assert_array_equal(first.asnumpy(), drawn(law, derive_key(4, "w", 1), (2, 3)))
    np.testing.assert_array_equal(second.asnumpy(), drawn(law, derive_key(4, "w", 2), (2, 3)))


@pytest.mark.parametrize(
    ("init", "error"),
    [
        (None, TypeError),
        ([1.0], TypeError),
        ("nosuch", ValueError),
        ("Same", ValueError),
        (Tensor(np.ones((3, 2), np.float32)), ValueError),
        (initializer("ones", [3, 2]), ValueError),
        (Tensor(np.ones((2, 3))), TypeError),
    ],
)
def test_bad_init_takes_no_key(init, error):
    group = ParameterTuple([normal("a"), normal("b").init_data()])
    with Generator(0) as generator:
        for clone in (group[0].clone, group[1].clone, lambda init: group.clone("m", init)):
            with pytest.raises(error, match="init"):
                clone(init)
        assert not generator._occurrences


def test_tuple_clone_puts_the_prefix_before_the_names():
    group = ParameterTuple([normal("x"), Parameter(2.0, "y")])
    clones = group.clone("a").clone(prefix="b")
    assert type(clones) is ParameterTuple
    assert [member.name for member in clones] == ["b.a.x", "b.a.y"]
    assert [member.name for member in group] == ["x", "y"]
    assert [member.has_init for member in clones] == [True, False]
    for mine, theirs in zip(group, clones, strict=True):
        np.testing.assert_array_equal(mine.asnumpy(), theirs.asnumpy())
    with pytest.raises(TypeError, match="prefix"):
        group.clone()


@pytest.mark.parametrize("prefix", ["12_sf.asdf_", "x12_sf.asdf.", "_x12_sf.asdf", "a", "_"])
def test_good_prefixes(prefix):
    assert ParameterTuple([Parameter(1.0, "x")]).clone(prefix)[0].name == f"{prefix}.x"


@pytest.mark.parametrize(
    ("prefix", "error"),
    [
        *((prefix, ValueError) for prefix in ("", ".a", "a$b", "a-b", "a b", "a\n", "权", "é", "x" * 1023)),
        *((prefix, TypeError) for prefix in (None, 3, b"a", ["a"])),
    ],
)
def test_bad_prefixes(prefix, error):
    group = ParameterTuple([normal("x")])
    with Generator(0) as generator:
        with pytest.raises(error, match=r"prefix|name"):
            group.clone(prefix, "normal")
        assert not generator._occurrences


def test_member_that_comes_twice_has_one_clone_that_comes_twice():
    x, y = Parameter([1.0], "x"), Parameter(2.0, "y")
    clones = ParameterTuple([x, y, x]).clone("m")
    assert [member.name for member in clones] == ["m.x", "m.y", "m.x"]
    assert clones[0] is clones[2] is not x


def test_clones_of_real_members_become_real_in_one_plan(plans):
    """Random numbers by the new names; the lazy ones stay lazy."""
    with Generator(3):
        group = ParameterTuple([normal("a").init_data(), normal("b").init_data(), normal("c")])
        del plans[:]
        clones = group.clone("m", "normal")
    assert len(plans) == 1
    assert [member.has_init for member in clones] == [False, False, True]
    for member in clones:
        key = derive_key(3, member.name, 0)
        np.testing.assert_array_equal(member.asnumpy(), drawn(Normal().law((2, 3)), key, (2, 3)))


def test_cached_member_must_be_called_a_table():
    table = Parameter([1.0], "embedding_table")
    table.cache_enable = True
    assert ParameterTuple([table]).clone("m")[0].cache_enable
    table.name = "w"
    with pytest.raises(RuntimeError, match="cache_enable"):
        ParameterTuple([table]).clone("m")


def test_two_members_of_one_name_are_refused_and_not_renamed():
    same = [Parameter(1.0), Parameter(2.0)]
    with pytest.raises(ValueError, match="different names, got 'Parameter' at 0 and at 1"):
        ParameterTuple(same)
    assert [parameter.name for parameter in same] == ["Parameter", "Parameter"]
    same[1].name = "other"
    assert len(ParameterTuple([*same, *same])) == 4


def test_sums_and_slices_are_tuples_even_where_names_meet():
    one, two = ParameterTuple([Parameter(1.0, "w")]), ParameterTuple([Parameter(2.0, "w")])
    assert type(one + two) is type(one[:1]) is type(one * 2) is tuple
    assert (one + two)[1] is two[0]
    with pytest.raises(TypeError, match="item assignment"):
        one[0] = two[0]


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda group: pickle.loads(pickle.dumps(group))])
def test_copies_of_a_tuple_keep_flags_and_repetitions(duplicate):
    member = normal("w")
    for name, value in {**TAKEN, **RESET}.items():
        setattr(member, name, value)
    group = ParameterTuple([member, Parameter(1.0, "y"), member])
    other = duplicate(group)
    assert (type(other), str(other)) == (ParameterTuple, str(group))
    assert other[0] is other[2] is not member
    for name, value in {**TAKEN, **RESET}.items():
        assert getattr(other[0], name) == value
    other[0].cache_shape.append(1)
    assert member.cache_shape == [3, 4]
    assert copy.copy(group) == group


FLOATS = ["float64", "float32", "bfloat16", "float16", "float8_e4m3fn", "float8_e5m2"]
MIXED = [*FLOATS, "int64", "int8", "uint16", "bool_"]


def bits(tensor):
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def mixed():
    """Real parameters of many dtypes, a scalar and one without elements among them."""
    group = [
        Parameter(initializer(Normal(50.0), [5, n + 1], dtype), f"p{n}").init_data() for n, dtype in enumerate(MIXED)
    ]
    return ParameterTuple([*group[:3], Parameter(2.5, "s"), Parameter(np.zeros((0, 3), np.float32), "e"), *group[3:]])


def through_a_file(thing):
    file = io.BytesIO()
    torch.save(thing, file)
    size = file.tell()
    file.seek(0)
    return torch.load(file, weights_only=False), size


@pytest.mark.parametrize("init", ["same", "zeros", 1, Normal(3.0)])
def test_clones_lie_in_one_buffer_but_have_storages_of_their_own(init):
    """At multiples of 256 bytes, in order, each with its own bytes only, and no autograd views."""
    group = mixed()
    clones = [clone.torch for clone in group.clone("m", init) if clone.size]
    at = [tensor.data_ptr() for tensor in clones]
    assert all(address % 256 == 0 for address in at)
    assert at == sorted(at)
    assert at[-1] - at[0] <= sum(-(-tensor.nbytes // 256) * 256 for tensor in clones[:-1])
    for tensor in clones:
        assert tensor.untyped_storage().nbytes() == tensor.nbytes
        assert (tensor._base, tensor.is_contiguous(), tensor.storage_offset()) == (None, True, 0)
    if init == "same":
        for clone, member in zip(group.clone("m"), group, strict=True):
            assert torch.equal(bits(clone.torch), bits(member.torch))


@pytest.mark.parametrize("init", ["same", "ones", Tensor(np.full((2, 3), 5.0, np.float32))])
def test_clones_of_a_group_are_one_allocation_and_one_plan(init, plans, monkeypatch):
    """What torch.empty is asked for: a buffer of bytes, and tensors without any."""
    group = ParameterTuple([normal(f"w{n}", dtype=dtype).init_data() for n, dtype in enumerate(["float32"] * 5)])
    made, empty = [], torch.empty

    def counted(*arguments, **keywords):
        tensor = empty(*arguments, **keywords)
        if tensor.numel() and not tensor.is_meta:
            made.append(tensor.dtype)
        return tensor

    monkeypatch.setattr(torch, "empty", counted)
    del plans[:]
    clones = group.clone("m", init)
    assert made == [torch.uint8]
    assert [len(plan.operations) for plan in plans] == [5]
    del made[:], plans[:]
    clones[0].clone(init)
    assert made == [torch.float32]
    assert len(plans) == 1


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p)), lambda p: through_a_file(p)[0]]
)
def test_copy_of_one_clone_takes_its_bytes_alone(duplicate):
    big = Parameter(np.zeros(100_000, np.float32), "big")
    clones = ParameterTuple([normal("a").init_data(), big, normal("b", dtype="bfloat16").init_data()]).clone("m")
    for index in (0, 2):
        other = duplicate(clones[index])
        assert other.torch.untyped_storage().nbytes() == clones[index].nbytes
        assert torch.equal(bits(other.torch), bits(clones[index].torch))
        assert max(len(pickle.dumps(clones[index])), through_a_file(clones[index].torch)[1]) < 8000


def test_clones_go_to_safetensors_and_come_back(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    group = ParameterTuple(member for member in mixed() if member.size)
    clones = group.clone("m")
    safetensors.save_file({clone.name: clone.torch.detach() for clone in clones}, tmp_path / "clones.safetensors")
    back = safetensors.load_file(tmp_path / "clones.safetensors")
    for clone, member in zip(clones, group, strict=True):
        assert torch.equal(bits(back[clone.name]), bits(member.torch))
    safetensors.save_model(
        torch.nn.ParameterList(c.torch for c in clones if c.dtype.is_floating_point), tmp_path / "model.safetensors"
    )


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (torch.optim.SGD, {"momentum": 0.9}),
        (torch.optim.AdamW, {"foreach": True}),
        (torch.optim.AdamW, {"fused": True}),
    ],
)
def test_clones_train_like_any_parameter(kind, options):
    group = ParameterTuple([normal("w", (3, 2)).init_data(), normal("b", (2,)).init_data()])
    clones = group.clone("m")
    plain = [torch.nn.Parameter(member.torch.detach().clone()) for member in group]
    mine = [clone.torch for clone in clones]
    for parameters in (mine, plain):
        optimizer = kind(parameters, lr=0.1, **options)
        for _ in range(3):
            optimizer.zero_grad()
            (torch.ones(4, 3) @ parameters[0] + parameters[1]).square().sum().backward()
            optimizer.step()
    assert all(torch.equal(one, other) for one, other in zip(mine, plain, strict=True))
    clones[0].set_data(np.zeros(6, np.float32), slice_shape=True)  # swapped for other storage
    assert (mine[0].shape, clones[0].torch is mine[0]) == ((6,), True)
    assert torch.equal(mine[1], plain[1])


def test_clone_can_be_shared_and_its_storage_cannot_be_resized():
    group = ParameterTuple([normal("w").init_data(), normal("v").init_data()])
    clones = group.clone("m")
    clones[0].torch.share_memory_()
    assert clones[0].torch.is_shared()
    assert not clones[1].torch.is_shared()
    assert torch.equal(clones[0].torch, group[0].torch)
    with pytest.raises(RuntimeError, match="not resizable"):
        clones[1].torch.detach().resize_(100)


def _double(queue, tensor):
    with torch.no_grad():
        tensor.mul_(2)
    queue.put(None)


def test_clone_goes_to_another_process_by_shared_memory():
    context = torch.multiprocessing.get_context("spawn")
    clone = ParameterTuple([normal("w").init_data(), normal("v").init_data()]).clone("m")[1].torch.detach()
    want, queue = clone * 2, context.SimpleQueue()
    process = context.Process(target=_double, args=(queue, clone))
    process.start()
    process.join(60)
    assert (process.exitcode, torch.equal(clone, want)) == (0, True)


@pytest.mark.parametrize("own", MIXED)
@pytest.mark.parametrize("wanted", FLOATS)
@pytest.mark.parametrize("lazy", [True, False])
def test_dtype_of_a_clone_is_that_of_its_values_cast(own, wanted, lazy):
    """Of a real one as of a lazy one: the values that the original has, rounded as torch rounds them, bit for bit."""
    with Generator(3):
        parameter = Parameter(initializer(Normal(30.0, 1.0), [7, 11], own), "w")
    clone = (parameter if lazy else parameter.init_data()).clone(dtype=wanted)
    assert (clone.has_init, clone.dtype.name, parameter.has_init) == (lazy, wanted, lazy)
    wide = clone.clone(dtype="float64")
    assert wide.has_init == lazy
    values = parameter.init_data().torch.detach()
    if wanted == "float8_e4m3fn":  # torch saturates from 2.12 on
        values = values.double().clamp(-448, 448)
    want = values.to(clone.dtype.torch)
    assert torch.equal(bits(clone.init_data().torch), bits(want))
    assert torch.equal(wide.init_data().torch, want.double())


@pytest.mark.parametrize("value", [0.1, 3, -1e30, float("nan"), float("inf"), 2.0**53 + 2])
@pytest.mark.parametrize("own", FLOATS)
@pytest.mark.parametrize("wanted", FLOATS)
def test_constant_that_was_rounded_stays_rounded(value, own, wanted):
    parameter = Parameter(initializer(value, [3], own), "w")
    clone = parameter.clone(dtype=wanted)
    want = parameter.init_data().clone(dtype=wanted)
    assert clone.has_init
    torch.testing.assert_close(clone.init_data().torch, want.torch, rtol=0, atol=0, equal_nan=True)


def test_deferred_init_takes_note_of_clones_as_of_all_else():
    """What it hands out are tensors without values, in which nothing can be written yet."""

    def build():
        group = ParameterTuple([Parameter(torch.ones(3), "a"), Parameter(torch.ones(2), "b")])
        module = torch.nn.Module()
        module.a = group.clone("m")[0].torch
        module.b = group[1].clone().set_data(np.full(2, 3, np.float32)).torch
        return module

    with deferred_init():
        module = build()
    assert module.a.is_meta
    materialize(module)
    assert (module.a.tolist(), module.b.tolist()) == ([1, 1, 1], [3, 3])


def test_default_device_has_no_say_in_what_a_constant_is():
    with torch.device("meta"):
        parameter = Parameter(initializer(0.3, [2], "bfloat16"), "w")
        clone = parameter.clone(dtype="float32")
    assert clone.init_data(device="cpu").tolist() == parameter.init_data(device="cpu").tolist()


def test_whole_numbers_beyond_what_float64_holds_are_rounded_once():
    parameter = Parameter(initializer(2**54 + 2**30 + 1, [2], "int64"), "w")
    clone = parameter.clone(dtype="float32")
    assert torch.equal(clone.init_data().torch, parameter.init_data().torch.to(torch.float32))


@pytest.mark.parametrize("lazy", [True, False])
def test_boxes_of_a_rounded_clone_are_parts_of_it(lazy, monkeypatch):
    """Drawn piece by piece, whatever the pieces."""
    with Generator(1):
        clone = normal("w", (30, 7), "bfloat16").clone(dtype="float32")
    part = clone.slice(Box((4, 2), (20, 3)))
    monkeypatch.setattr(_writes, "_AT_ONCE", 5)
    again = clone.slice(Box((4, 2), (20, 3)))
    if not lazy:
        clone.init_data()
    assert torch.equal(part.torch, again.torch)
    assert torch.equal(part.torch, clone.init_data().torch[4:24, 2:5])


def test_optimizer_state_in_another_dtype():
    group = ParameterTuple([normal("w", dtype="bfloat16").init_data(), Parameter([1, 2], "n")])
    state = group.clone("exp_avg", init="zeros", dtype=torch.float32)
    assert [str(p) for p in state] == [
        "Parameter (name=exp_avg.w, shape=(2, 3), dtype=Float32, requires_grad=True)",
        "Parameter (name=exp_avg.n, shape=(2,), dtype=Float32, requires_grad=True)",
    ]
    assert [p.tolist() for p in state] == [[[0] * 3] * 2, [0, 0]]


@pytest.mark.parametrize("init", ["same", "zeros", Normal()])
@pytest.mark.parametrize(
    ("own", "wanted"),
    [("float32", "int32"), ("float64", "bool_"), ("int64", "int32"), ("uint8", "int8"), ("int8", "bool_")],
)
@pytest.mark.parametrize("lazy", [True, False])
def test_dtype_that_loses_the_kind_is_refused(own, wanted, init, lazy):
    parameter = Parameter(initializer("ones", [2], own), "w")
    member = parameter if lazy else parameter.init_data()
    with Generator(0) as generator:
        for clone in (lambda: member.clone(init, wanted), lambda: ParameterTuple([member]).clone("m", init, wanted)):
            with pytest.raises(
                TypeError, match=rf"dtype must .* {member.dtype} goes into, got {mstype.as_dtype(wanted)}"
            ):
                clone()
        assert not generator._occurrences
    with pytest.raises(ValueError, match="dtype must be one of"):
        member.clone(init, "float31")


def test_init_tensor_must_go_into_the_dtype_of_the_clone():
    parameter, values = normal(dtype="bfloat16").init_data(), np.full((2, 3), 1 / 3, np.float32)
    with pytest.raises(TypeError, match="init must be of dtype BFloat16"):
        parameter.clone(Tensor(values))
    assert parameter.clone(Tensor(values), "float32").asnumpy().tobytes() == values.tobytes()


def test_random_clone_of_a_slice_is_its_box_of_the_whole():
    """Fans, keys and places of the whole: the clones of all slices together are the clone of the whole."""
    whole = normal("w", (8, 6)).init_data()
    boxes = [Box((row, column), (4, 3)) for row in (0, 4) for column in (0, 3)]
    slices = [whole.slice(box) for box in boxes]
    with Generator(9):
        want = whole.clone(HeNormal())
    for part, box in zip(slices, boxes, strict=True):
        with Generator(9):
            clone = part.clone(HeNormal())
        assert (clone.box, clone.global_shape, clone.sliced) == (box, (8, 6), False)
        assert torch.equal(clone.torch, box.of(want.torch))
        with Generator(9):
            assert torch.equal(part.set_data(HeNormal()).torch, box.of(want.torch))


@pytest.mark.parametrize(
    ("source", "error", "match"),
    [
        (torch.zeros(3), ValueError, r"source must have the shape of out, \(2,\), got \(3,\)"),
        (torch.zeros(2, dtype=torch.complex64), TypeError, "source must be of a dtype that can be cast"),
        (torch.zeros(2).to_sparse(), ValueError, "source must be a strided tensor"),
        (torch.zeros(2, dtype=torch.complex64).conj(), ValueError, "source must not be a conjugate"),
    ],
)
@pytest.mark.parametrize("fresh", [True, False])
def test_source_of_new_memory_is_checked_like_any(source, error, match, fresh):
    with pytest.raises(error, match=match):
        _writes.Writes().copy(torch.empty(2), source, fresh=fresh, stage=False)


def test_one_clone_keeps_the_memory_of_all_until_it_goes():
    group = ParameterTuple(Parameter(np.full(2**18, n, np.float32), f"w{n}") for n in range(4))
    clones = list(group.clone("m"))
    clone = clones.pop(2)
    del clones
    junk = [torch.full((2**18,), 9.0) for _ in range(8)]
    assert torch.equal(clone.torch, group[2].torch), len(junk)


@pytest.mark.gpu
def test_clones_on_a_gpu_are_one_block_that_is_given_back():
    group = ParameterTuple(normal(f"w{n}", (300, n + 1), "bfloat16").init_data(device="cuda") for n in range(9))
    before = torch.cuda.memory_allocated()
    clones = group.clone("m", dtype="float32")
    nbytes = sum(clone.nbytes for clone in clones)
    assert nbytes <= torch.cuda.memory_allocated() - before <= nbytes + 256 * 10 + 512
    for clone, member in zip(clones, group, strict=True):
        assert clone.torch.data_ptr() % 256 == 0
        assert clone.torch.untyped_storage().nbytes() == clone.nbytes
        assert torch.equal(clone.torch, member.torch.float())
    other = pickle.loads(pickle.dumps(clones[3]))
    assert torch.equal(other.torch, clones[3].torch)
    del clones, clone, other
    assert torch.cuda.memory_allocated() == before
