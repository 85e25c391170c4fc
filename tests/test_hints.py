"""Errors that say what was meant: names that are elsewhere, classes without parentheses, files that are no SPEC."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import tritonparam
from tritonparam import Parameter, Tensor
from tritonparam.initializer import Normal, initializer

Run = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("XavierUniform", "it is tritonparam.initializer.XavierUniform"),
        ("float32", "it is tritonparam.dtype.float32"),
        ("materailize", "did you mean 'materialize'?"),
    ],
)
def test_a_name_that_the_package_does_not_have(name: str, told: str) -> None:
    with pytest.raises(AttributeError) as error:
        getattr(tritonparam, name)
    assert str(error.value).endswith(told)


def test_what_torch_s_tensors_have_is_on_torch() -> None:
    for each in (Tensor([1.0]), Parameter([1.0], name="w")):
        with pytest.raises(AttributeError, match=r"has no attribute 'detach'; its .torch has: .torch.detach$"):
            each.detach()
        with pytest.raises(AttributeError, match=r"has no attribute 'value_of'$"):
            each.value_of()
        assert not hasattr(each, "_nothing")


def test_an_initializer_that_is_nearly_one() -> None:
    with pytest.raises(ValueError, match=r"got 'normall'; did you mean 'normal'\?"):
        initializer("normall", [2])
    with pytest.raises(TypeError, match=r"must be an Initializer object, such as Normal\(\), got the class Normal"):
        initializer(Normal, [2])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="did you mean 'float8_e4m3fn'"):
        initializer("ones", [2], "float8")


def test_a_spec_that_is_nearly_one(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hinted.py").write_text("import torch\nimport no_such_package\n")
    (tmp_path / "built.py").write_text("import torch\nmodel = torch.nn.Linear(2, 2)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for spec, told in (
        ("hinted.py", "SPEC must name what builds a model in hinted.py, as hinted:NAME"),
        ("hinted:build", "importing hinted for SPEC 'hinted:build' failed: No module named 'no_such_package'"),
        ("built:model", "must name what builds a model, a class or a function, got Linear"),
    ):
        code, _, err = run("init", spec, "--out", tmp_path / "out")
        assert code != 0
        assert told in err
    assert not (tmp_path / "out").exists()
