"""copy_slices against a model in NumPy: random boxes, casts, and memory that is read and written at once."""

from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses import FakeTensorMode
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata

from tritonparam import (
    Box,
    Constant,
    Copy,
    Fill,
    Generator,
    Parameter,
    Plan,
    Tensor,
    copy_slices,
    deferred_init,
    materialize,
)
from tritonparam.initializer import Initializer, Normal, Pattern, initializer
from tritonparam.plan.boxes import meeting_pair, meets_any
from tritonparam.stream.constant import constant_tensor


def index(box):
    return tuple(slice(o, o + n) for o, n in zip(box.offsets, box.sizes, strict=True))


def model(dst, src, pairs):
    """What NumPy makes of copies of which all are read before any is written."""
    read = [src[index(source)].copy() for _, source in pairs]
    for (out, _), values in zip(pairs, read, strict=True):
        dst[index(out)] = values


def covered(pairs, shape):
    """How often each element is written."""
    count = np.zeros(shape, int)
    for out, _ in pairs:
        count[index(out)] += 1
    return count


@st.composite
def shapes_and_pairs(draw, same=False):
    """Shapes of two tensors, and pairs of boxes in them; those of the first are disjoint."""
    rank = draw(st.integers(0, 3))
    shape = tuple(draw(st.integers(0, 6)) for _ in range(rank))
    other = shape if same else tuple(draw(st.integers(0, 6)) for _ in range(rank))
    pairs = []
    for _ in range(draw(st.integers(0, 5))):
        sizes = tuple(draw(st.integers(0, min(n, m))) for n, m in zip(shape, other, strict=True))
        out, source = (
            Box(tuple(draw(st.integers(0, n - s)) for n, s in zip(whole, sizes, strict=True)), sizes)
            for whole in (shape, other)
        )
        if covered([*pairs, (out, source)], shape).max(initial=0) < 2:
            pairs.append((out, source))
    return shape, other, pairs


def laid_out(array, layout):
    """A torch tensor with the values of `array`: contiguous, transposed, or every second element of a larger one."""
    tensor = torch.from_numpy(array.copy())
    if layout == "transposed":
        turned = tuple(range(tensor.ndim))[::-1]
        return tensor.permute(turned).contiguous().permute(turned)
    if layout == "strided" and tensor.ndim:
        wide = tensor.new_zeros((*tensor.shape[:-1], 2 * tensor.shape[-1]))
        wide[..., ::2] = tensor
        return wide[..., ::2]
    return tensor


LAYOUTS = ["contiguous", "transposed", "strided"]


@settings(max_examples=300, deadline=None)
@given(shapes_and_pairs(), st.sampled_from(LAYOUTS), st.sampled_from([*LAYOUTS, "numpy", "backwards"]), st.booleans())
def test_random_boxes_are_what_numpy_makes_of_them(case, layout, source_layout, widened):
    shape, other, pairs = case
    source = np.random.default_rng(1).integers(0, 2**32, other, np.uint32).view(np.float32)
    want = np.full(shape, 7, np.float64 if widened else np.float32)
    dst = laid_out(want, layout)
    if source_layout == "backwards":
        src = np.flip(np.flip(source).copy()) if source.ndim else source
    else:
        src = source if source_layout == "numpy" else laid_out(source, source_layout)
    with np.errstate(invalid="ignore"):
        model(want, source, pairs)
    assert copy_slices(dst, src, pairs) is None
    if widened:
        np.testing.assert_array_equal(dst.numpy(), want)
    else:
        assert dst.contiguous().numpy().tobytes() == want.tobytes()


@settings(max_examples=300, deadline=None)
@given(shapes_and_pairs(same=True), st.sampled_from(LAYOUTS), st.sampled_from(["tensor", "array", "view"]))
def test_copies_within_one_tensor_read_all_before_they_write(case, layout, seen_as):
    shape, _, pairs = case
    want = np.arange(np.prod(shape, dtype=int), dtype=np.int32).reshape(shape)
    x = laid_out(want, layout)
    src = {"tensor": x, "array": x.numpy(), "view": x.view(x.shape)}[seen_as]
    model(want, want, pairs)
    copy_slices(x, src, pairs)
    np.testing.assert_array_equal(x.numpy(), want)


@pytest.mark.parametrize("numpy", [True, False])
def test_views_that_share_memory_otherwise_are_staged_too(numpy):
    """A transpose, and a window that is shifted by one row: what is written there must not be read."""
    x = torch.arange(36.0).reshape(6, 6)
    want = x.numpy().copy()
    boxes = [Box((0, 0), (3, 6)), Box((3, 0), (3, 6))]
    model(want, want.T.copy(), [(box, box) for box in boxes])
    copy_slices(x, x.numpy().T if numpy else x.T, boxes)
    np.testing.assert_array_equal(x.numpy(), want)
    boxes = [Box((row, 0), (1, 6)) for row in range(5)]
    model(want[1:], want[:-1].copy(), [(box, box) for box in boxes])
    copy_slices(x[1:], x.numpy()[:-1] if numpy else x[:-1], boxes)
    np.testing.assert_array_equal(x.numpy(), want)
    want = x.numpy()[::-1].copy()
    copy_slices(x, x.numpy()[::-1], [Box.whole(x.shape)])
    np.testing.assert_array_equal(x.numpy(), want)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(*[st.tuples(st.integers(0, 5), st.integers(0, 3))] * 2), max_size=8), st.integers(0, 2))
def test_boxes_that_meet_are_found(sides, rank):
    boxes = [Box(tuple(o for o, _ in box[:rank]), tuple(n for _, n in box[:rank])) for box in sides]

    def meet(one, other):
        return one.meet(other) is not None if rank else True

    pairs = [(i, j) for j in range(len(boxes)) for i in range(j) if meet(boxes[i], boxes[j])]
    found = meeting_pair(boxes)
    assert (found in pairs) if pairs else found is None
    half = len(boxes) // 2
    want = [any(meet(box, other) for other in boxes[half:]) for box in boxes[:half]]
    assert meets_any(boxes[:half], boxes[half:]) == want


def test_many_boxes_are_one_plan(plans):
    x, y = torch.zeros(64, 64), torch.rand(64, 64)
    copy_slices(x, y, (Box((r, c), (8, 8)) for r in range(0, 64, 8) for c in range(0, 64, 8)))
    assert torch.equal(x, y)
    assert [len(plan.operations) for plan in plans] == [64]


def test_boxes_of_torch_checkpoints_and_pairs_are_taken():
    chunk = ChunkStorageMetadata(torch.Size([1]), torch.Size([2]))
    x = torch.zeros(4)
    copy_slices(x, torch.arange(4.0), [chunk, (Box((0,), (1,)), Box((3,), (1,))), [Box((3,), (1,)), Box((0,), (1,))]])
    assert x.tolist() == [3, 1, 2, 0]


def test_boxes_that_are_named_tuples_are_boxes_and_no_pairs():
    class Chunk(NamedTuple):
        offsets: tuple
        sizes: tuple

    x = torch.zeros(4)
    copy_slices(x, torch.arange(4.0), [Chunk((1,), (2,))])
    assert x.tolist() == [0, 1, 2, 0]


SWAP = [(Box((0,), (1,)), Box((1,), (1,))), (Box((1,), (1,)), Box((0,), (1,)))]
SHIFT = [(Box((1,), (3,)), Box((0,), (3,)))]


@pytest.mark.parametrize(("boxes", "want"), [(SWAP, [1, 0, 2, 3]), (SHIFT, [0, 0, 1, 2])], ids=["swap", "shift"])
def test_deferred_init_takes_note_of_copies_within_one_tensor(boxes, want):
    with deferred_init():
        module = torch.nn.Module()
        module.x = torch.nn.Parameter(torch.arange(4.0))
        copy_slices(module.x, module.x, boxes)
        parameter = Parameter(torch.arange(4.0)).set_data(torch.tensor([7.0, 8.0]), box=Box((1,), (2,)))
        module.y = parameter.torch
    materialize(module)
    assert (module.x.tolist(), module.y.tolist()) == (want, [0, 7, 8, 3])


@pytest.mark.parametrize("mode", [deferred_init, FakeTensorMode])
def test_constants_first_asked_for_inside_a_mode_have_values_outside(mode):
    value = {deferred_init: 1.25, FakeTensorMode: 2.25}[mode]  # which no other test has made known
    with mode():
        constant_tensor(Constant(value), torch.bfloat16)
    assert Parameter(initializer(value, [2], "bfloat16"), "w").init_data().torch.tolist() == [value, value]


def test_deferred_init_takes_note_of_what_is_drawn_and_cast():
    source = Parameter(initializer("normal", [6], "bfloat16"), "w")
    with deferred_init():
        module = torch.nn.Module()
        module.x = torch.nn.Parameter(torch.zeros(4))
        copy_slices(module.x, source, [(Box((1,), (2,)), Box((3,), (2,)))])
    materialize(module)
    assert module.x.tolist() == [0, *source.init_data().torch[3:5].tolist(), 0]


@pytest.mark.parametrize("kind", [Tensor, Parameter, lambda x: torch.nn.Parameter(torch.from_numpy(x))])
def test_everything_that_holds_values_is_taken(kind):
    """Also what requires a gradient: its history stays as it was, and a graph that needs old values finds out."""
    dst, src = kind(np.zeros(3, np.float32)), kind(np.arange(3, dtype=np.float32))
    storage = dst if isinstance(dst, torch.Tensor) else dst.torch
    loss = (storage * storage).sum() if storage.requires_grad else None
    version = storage._version
    copy_slices(dst, src, [Box((1,), (2,))])
    assert storage.tolist() == [0, 1, 2]
    assert storage.is_leaf
    assert storage._version > version
    if loss is not None:
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


FLOATS = ["float32", "float64", "bfloat16", "float16", "float8_e5m2", "int32"]


@pytest.mark.parametrize("own", FLOATS)
@pytest.mark.parametrize("wanted", [*FLOATS, "bool_"])
def test_boxes_of_a_lazy_source_are_those_that_it_will_have(own, wanted):
    """In the dtype of the source first, and then cast; it stays lazy, as large as it is."""
    with Generator(2):
        src = Parameter(initializer("normal", [40, 30], own), "w")
    dst = Parameter(initializer("zeros", [9, 9], wanted), "d")
    pairs = [(Box((0, 0), (4, 3)), Box((36, 27), (4, 3))), (Box((4, 3), (5, 6)), Box((1, 20), (5, 6)))]
    copy_slices(dst, src, pairs)
    assert (src.has_init, dst.has_init) == (True, False)
    want = torch.zeros_like(dst.torch)
    Plan([Copy(want, src.init_data().torch, *pair) for pair in pairs]).run()
    assert torch.equal(dst.torch.detach().view(torch.uint8), want.view(torch.uint8))


def test_lazy_source_of_ten_terabytes_is_drawn_box_by_box(plans):
    src = Tensor(shape=(2_500_000, 1_000_000), dtype="float32", init=Normal())
    x = torch.zeros(2, 3)
    copy_slices(x, src, [(Box((0, 0), (2, 3)), Box((2_000_000, 5), (2, 3)))])
    assert src.has_init
    assert (x != 0).all()
    assert [(operation.out.data_ptr(), type(operation)) for operation in plans[0].operations] == [(x.data_ptr(), Fill)]
    assert len(plans) == 1


def test_tensor_that_is_lazy_can_be_both():
    with Generator(3):
        x = Parameter(initializer("normal", [4, 2]), "w")
    with Generator(3):
        want = Parameter(initializer("normal", [4, 2]), "w").asnumpy().copy()
    pairs = [(Box((1, 0), (3, 2)), Box((0, 0), (3, 2)))]
    model(want, want, pairs)
    copy_slices(x, x, pairs)
    np.testing.assert_array_equal(x.asnumpy(), want)


class Failing(Initializer):
    def law(self, shape):
        return FailingPattern()


class FailingPattern(Pattern):
    def fills(self, out, key, offsets):
        return ()

    def finish(self, out, key, offsets):
        out.fill_(9)
        raise OSError("no")


def test_source_that_fails_while_it_is_drawn_has_written_nothing():
    x = torch.zeros(3)
    parameter = Parameter(np.zeros(3, np.float32), "w")
    with pytest.raises(OSError, match="no"):
        copy_slices(x, initializer(Failing(), [3]), [Box((0,), (2,))])
    for box in (None, Box((0,), (2,))):
        with pytest.raises(OSError, match="no"):
            parameter.set_data(Failing(), box=box)
    assert x.tolist() == parameter.tolist() == [0, 0, 0]


BOX = Box((0, 0), (2, 2))
HALF = SimpleNamespace(offsets=(0, 0), sizes=(2, 2.5))


@pytest.mark.parametrize(
    ("dst", "src", "boxes", "error", "text"),
    [
        (
            np.zeros((4, 4)),
            torch.ones(4, 4),
            [BOX],
            TypeError,
            "dst must be a torch tensor, a Tensor or a Parameter, got",
        ),
        (torch.zeros(4, 4), [[1]], [BOX], TypeError, "src must be .* NumPy array, got"),
        (torch.zeros(4, 4), torch.ones(4, 4), [(0, 2)], TypeError, "boxes must be a Box, or have offsets"),
        (torch.zeros(4, 4), torch.ones(4, 4), [(BOX,)], TypeError, "pairs of boxes, got .* at 0"),
        (torch.zeros(4, 4), torch.ones(4, 4), [HALF], TypeError, "boxes must be a Box"),
        (torch.zeros(4, 4), torch.ones(4, 4), [BOX, Box((3, 0), (2, 2))], ValueError, r"lie in dst of .* at 1"),
        (torch.zeros(4, 4), torch.ones(4, 4), [Box((0, -1), (2, 2))], ValueError, "lie in dst"),
        (torch.zeros(4, 4), torch.ones(4, 4), [Box((0,), (2,))], ValueError, "lie in dst"),
        (torch.zeros(4, 4), torch.ones(3, 1), [BOX], ValueError, "lie in src of shape"),
        (torch.zeros(4, 4), torch.ones(4, 4), [(BOX, Box((0, 0), (2, 1)))], ValueError, "same sizes in dst and src"),
        (
            torch.zeros(4, 4),
            torch.ones(4, 4),
            [BOX, Box((1, 1), (2, 2))],
            ValueError,
            "must not meet .* at 0 and .* at 1",
        ),
        (torch.zeros(1, 4).expand(4, 4), torch.ones(4, 4), [BOX], ValueError, "dst must not overlap itself"),
        (torch.zeros(4, 4, device="meta"), torch.ones(4, 4), [BOX], ValueError, "dst must be a strided tensor"),
        (torch.zeros(4, 4), torch.ones(4, 4).to_sparse(), [BOX], ValueError, "src must be a strided tensor"),
        (torch.zeros(4, 4), torch.ones(4, 4, dtype=torch.complex64), [BOX], TypeError, "cast to torch.float32, got"),
    ],
)
def test_bad_arguments_change_nothing(dst, src, boxes, error, text):
    """Not even a lazy dst, and not by the boxes that are good."""
    with pytest.raises(error, match=text):
        copy_slices(dst, src, boxes)
    if isinstance(dst, torch.Tensor) and not dst.is_meta:
        assert not dst.any()
    lazy = Parameter(initializer("zeros", [4, 4]), "w")
    if isinstance(dst, torch.Tensor) and dst.is_contiguous() and not dst.is_meta:
        with pytest.raises(error):
            copy_slices(lazy, src, boxes)
        assert lazy.has_init


def test_dtype_that_has_no_casts_is_moved_into_itself():
    x, y = torch.zeros(3, dtype=torch.complex64), torch.tensor([1j, 2, 3])
    copy_slices(x, y, [Box((1,), (2,))])
    assert x.tolist() == [0, 2, 3]
    copy_slices(x, x, [(Box((0,), (2,)), Box((1,), (2,)))])
    assert x.tolist() == [2, 3, 3]


def test_nothing_to_copy_is_nothing_done(plans):
    x = torch.zeros(3)
    copy_slices(x, torch.ones(3), [])
    copy_slices(x, torch.ones(3), [Box((3,), (0,)), Box((1,), (0,))])
    assert not x.any()


@pytest.mark.gpu
def test_what_lies_on_another_device_is_moved():
    x, y = torch.zeros(4, 4, device="cuda"), torch.arange(16.0).reshape(4, 4)
    version = x._version
    copy_slices(x, y, [BOX])
    copy_slices(x, y.numpy()[::-1], [Box((2, 2), (2, 2))])
    assert x.tolist() == [[0, 1, 0, 0], [4, 5, 0, 0], [0, 0, 6, 7], [0, 0, 2, 3]]
    assert x._version > version
    copy_slices(y, x, [(Box((0, 0), (1, 4)), Box((3, 0), (1, 4)))])
    assert y[0].tolist() == [0, 0, 2, 3]
