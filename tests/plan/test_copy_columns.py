"""CopyColumns: copies that no object is made for move the same bits as those that are."""

import pytest
import torch

from tests.parameter.contents import bits
from tritonparam import Copy, Plan
from tritonparam.plan import CAST_DTYPES, CopyColumns
from tritonparam.plan.backends import host_copy

DTYPES = sorted(CAST_DTYPES, key=str)


def sources(dtype):
    """Any bits, in a run, in none, and none at all."""
    words = torch.randint(0, 256, (5, 8 * 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    whole = words.view(dtype)
    return [whole, whole.T, whole[:, ::2], whole[:, :0], whole[0, 0]]


@pytest.mark.parametrize("backend", ["cpu", "numpy"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("out_dtype", [torch.bool, torch.int8, torch.bfloat16, torch.float8_e4m3fn, torch.float64])
def test_columns_move_what_copies_move(dtype, out_dtype, backend):
    pytest.importorskip("numba" if backend == "cpu" else "numpy")
    for wanted in (out_dtype, dtype):
        values = sources(dtype)
        got, want = ([torch.empty(each.shape, dtype=wanted) for each in values] for _ in range(2))
        Plan(CopyColumns(got, values), backend).run()
        Plan([Copy(out, each) for out, each in zip(want, values, strict=True)], backend).run()
        for one, other in zip(got, want, strict=True):
            assert torch.equal(bits(one), bits(other))


def test_columns_read_as_copies():
    outs, values = [torch.empty(2), torch.empty(3)], [torch.ones(2), torch.ones(3)]
    columns = CopyColumns(outs, values)
    assert len(columns) == 2
    for copies in (list(columns), columns[:], [columns[0], columns[-1]]):
        assert [copy.out for copy in copies] == outs
        assert [copy.source for copy in copies] == values
        assert {copy.backwards for copy in copies} == {()}
    with pytest.raises(ValueError, match="one length"):
        CopyColumns(outs, values[:1])


def test_no_object_is_made_for_a_copy_on_a_host(monkeypatch):
    def refuse(cls, *_):
        pytest.fail("a Copy was made")

    monkeypatch.setattr(Copy, "_checked", classmethod(refuse))
    outs = [torch.empty(2) for _ in range(4)]
    Plan(CopyColumns(outs, [torch.ones(2)] * 4)).run()
    assert all(out.tolist() == [1, 1] for out in outs)
    assert host_copy.HostCopies(CopyColumns(outs, outs))._outs is outs


def test_kernels_read_columns_as_a_list_of_copies():
    """Into parameters too, as clones are made."""
    pytest.importorskip("triton")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    values = [torch.arange(each, dtype=torch.float32, device=device) for each in (1, 5, 300)]
    outs = [torch.nn.Parameter(torch.empty(each.shape, dtype=torch.bfloat16, device=device)) for each in values]
    with torch.no_grad():
        Plan(CopyColumns(outs, values), "triton").run()
    assert all(torch.equal(out, each.bfloat16()) for out, each in zip(outs, values, strict=True))
