"""Laws take their parameters by name: MindSpore's initializers of the same names have others first."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import pytest

import tritonparam
from tritonparam import Constant, Normal, TruncatedNormal, Uniform
from tritonparam.initializer import initializer


@pytest.mark.parametrize("law", [Normal, Uniform, TruncatedNormal])
def test_a_parameter_without_its_name_is_refused(law: type) -> None:
    with pytest.raises(TypeError) as told:
        law(0.02)
    first = next(iter(dataclasses.fields(law))).name
    text = str(told.value)
    assert text.startswith(f"{law.__name__} must get its parameters by name, {law.__name__}({first}=..., ")
    assert text.endswith(f"got 0.02 of type float; tritonparam.initializer.{law.__name__} is MindSpore's")


def test_a_parameter_of_another_name_is_refused() -> None:
    with pytest.raises(TypeError, match=r"Normal\(mean=..., std=...\), got sigma; tritonparam.initializer.Normal is"):
        Normal(sigma=0.02)  # type: ignore[call-arg]


def test_laws_are_values() -> None:
    for law in (Normal(std=0.02), Uniform(low=-1), TruncatedNormal(mean=1, low=0, high=2), Constant(3)):
        assert copy.deepcopy(law) == law == pickle.loads(pickle.dumps(law))
        assert len({law, copy.copy(law)}) == 1
    assert dataclasses.replace(Normal(std=2.0), mean=1.0) == Normal(mean=1.0, std=2.0)


@pytest.mark.parametrize("name", ["Normal", "Uniform", "TruncatedNormal", "Constant"])
def test_a_law_is_no_initializer_and_the_error_says_which_is(name: str) -> None:
    with pytest.raises(TypeError, match=rf"such as tritonparam.initializer.{name}, got tritonparam.{name}, the law of"):
        initializer(getattr(tritonparam, name)(), [2])
