"""ledger: of every parameter and buffer, where its values come from or came from."""

import copy
import pickle

import pytest
import torch
from torch import nn

from tests.module.deferred_models import deferred, deferred_model, real
from tritonparam import Ledger, Normal, Uniform, deferred_init, ledger, load, materialize


def test_before_and_after():
    """Declared, then initialized; the law, the key and the reason of a replay are the same."""
    module = deferred_model()
    before = ledger(module)
    assert isinstance(before, Ledger)
    assert {row.state for row in before} == {"declared"}
    after = ledger(materialize(module))
    assert {row.state for row in after} == {"initialized"}
    assert [(row.name, row.laws, row.key, row.why) for row in before] == [
        (row.name, row.laws, row.key, row.why) for row in after
    ]
    assert [row.name for row in after] == [name for name, _ in module.named_parameters()] + [
        name for name, _ in module.named_buffers()
    ]
    embedding = after["3.weight"]
    assert (embedding.name, embedding.aliases) == ("0.weight", ("3.weight",))
    assert {type(box.law) for box in embedding.laws} >= {Normal}
    assert (after["1.bias"].key, type(after["1.bias"].laws[0].law)) == ("1.bias", Uniform)
    assert (after["2.weight"].key, after["2.weight"].law) == ("", "Constant(value=1.0)")
    assert (after["1.mask"].key, after["1.mask"].law) == ("1.mask#1", "replayed")


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: torch.randn(4).cumsum_(0), "aten::cumsum_"),
        (lambda: nn.init.orthogonal_(torch.empty(4, 4)), "linalg_qr"),
        (lambda: torch.arange(4.0) / 7, "aten::div after aten::arange"),
        (lambda: torch.tensor([1.0, 2.0]), "values that were given"),
        (lambda: torch.empty(3), "never written"),
        (lambda: torch.randn(3), ""),
    ],
)
def test_a_replay_says_why(make, why):
    row = ledger(deferred(lambda: {"w": make()}))["w"]
    assert why in row.why
    assert bool(row.why) == bool(why) == (row.laws is None)


def test_clones_say_whose_values_they_have():
    with deferred_init():
        layers = nn.ModuleList([nn.Linear(3, 3)])
        layers.append(copy.deepcopy(layers[0]))
    rows = ledger(materialize(layers))
    assert [(row.name, row.state, row.key) for row in rows] == [
        ("0.weight", "initialized", "0.weight"),
        ("0.bias", "initialized", "0.bias"),
        ("1.weight", "cloned", "0.weight"),
        ("1.bias", "cloned", "0.bias"),
    ]


def test_loaded_and_given(tmp_path):
    """What a checkpoint has is loaded, real or not; what it lacks is initialized or given."""
    pytest.importorskip("safetensors")
    from safetensors.torch import save_file

    save_file({"0.weight": torch.ones(2, 2), "1.weight": torch.ones(2, 2)}, tmp_path / "a.safetensors")
    module = nn.Sequential(nn.Linear(2, 2), nn.Identity())
    with deferred_init():
        module[1] = nn.Linear(2, 2)
    assert [row.state for row in ledger(module)] == ["given", "given", "declared", "declared"]
    load(module, tmp_path / "a.safetensors", strict=False)
    assert [row.state for row in ledger(module)] == ["loaded", "given", "loaded", "initialized"]
    assert ledger(module)["1.weight"].law == ""


def test_what_is_skipped_stays_declared():
    module = deferred_model()
    materialize(module, skip="*.bias")
    assert {row.name: row.state for row in ledger(module)} == {
        row.name: "declared" if row.name.endswith(".bias") else "initialized" for row in ledger(module)
    }


def test_zeros_say_that_nothing_was_written():
    with pytest.warns(UserWarning, match="never written"):
        module = real(lambda: {"w": torch.empty(2)}, strict=False)
    assert (ledger(module)["w"].state, ledger(module)["w"].why) == ("initialized", "never written: 0")


def test_a_module_that_moves_keeps_it_and_what_is_replaced_does_not():
    module = materialize(deferred_model()).double()
    assert {row.state for row in ledger(module)} == {"initialized"}
    assert ledger(module)["1.weight"].dtype == torch.float64
    module[1].bias = nn.Parameter(torch.ones(8))
    assert ledger(module)["1.bias"].state == "given"
    assert ledger(module)["1.weight"].state == "initialized"


def test_nothing_of_it_is_in_the_module():
    """Neither in its attributes nor its state, its copies or its pickles."""
    module, plain = real(lambda: {"w": torch.ones(2)}), real(lambda: {"w": torch.ones(2)})
    ledger(module)
    assert list(vars(module)) == list(vars(plain))
    assert list(vars(module.w)) == []
    assert list(module.state_dict()) == ["w"]
    assert [row.state for row in ledger(copy.deepcopy(module))] == ["given"]
    linear = materialize(deferred_linear())
    assert [row.state for row in ledger(pickle.loads(pickle.dumps(linear)))] == ["given", "given"]


def deferred_linear():
    with deferred_init():
        return nn.Linear(2, 2)


def test_it_prints_as_a_table():
    text = str(ledger(materialize(deferred_model())))
    lines = text.splitlines()
    assert lines[0].split() == ["name", "kind", "shape", "dtype", "state", "law", "key", "why"]
    assert lines[1].startswith("0.weight = 3.weight ")
    assert lines[-1] == f"{len(lines) - 2} tensors: {len(lines) - 2} initialized (seed 0)"
    assert str(ledger(nn.ReLU())).splitlines()[-1] == "0 tensors"


def test_a_report_says_what_it_took(capsys):
    module = deferred_linear()
    assert materialize(module, report=True) is module
    out = capsys.readouterr().out
    assert str(ledger(module)) in out
    assert "made 2 tensors, 24 bytes on cpu, in 0." in out
    assert "memory of the process" in out
    materialize(deferred_linear())
    assert capsys.readouterr().out == ""


def test_bad_arguments_are_refused():
    with pytest.raises(TypeError, match=r"module must be a torch\.nn\.Module, got 5"):
        ledger(5)
    with pytest.raises(KeyError, match="name must be one of a tensor of the module, got 'x'"):
        ledger(nn.Linear(2, 2))["x"]
