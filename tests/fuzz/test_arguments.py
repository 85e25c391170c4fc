"""Bad arguments: a call works, or raises an error that its docstring has, names an argument in it, and changes nothing.

Every bad value stands once in the place of every argument of every public call; two or three at a time are drawn.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from tests.fuzz import tally
from tests.fuzz.calls import CALLS, FILES, MODULES, Call, uncovered
from tests.fuzz.values import VALUES
from tritonparam import Tensor, get_seed, set_seed

SUITE = "arguments"
LONGEST = 1000  # characters of a message


def fingerprint(value: Any, depth: int = 2) -> Any:
    """What must be the same before and after."""
    if isinstance(value, Tensor):
        held = {name: fingerprint(each, depth - 1) for name, each in vars(value).items() if name != "_torch"}
        return id(value._torch), repr(value._law), fingerprint(value._torch), sorted(held.items(), key=lambda x: x[0])
    if isinstance(value, torch.Tensor):
        try:
            shown = value.detach().resolve_conj().resolve_neg().clone().numpy().tobytes()
        except (RuntimeError, TypeError, NotImplementedError, AssertionError, ValueError):
            shown = b""
        return type(value), str(value.dtype), value.requires_grad, value.device, shown
    if isinstance(value, np.ndarray):
        return value.shape, value.dtype, value.strides, b"" if value.dtype.hasobject else value.tobytes()
    if type(value) in (list, tuple) and depth:
        return type(value), len(value), [fingerprint(each, depth - 1) for each in value[:10]]
    if type(value) is dict and depth:
        return [(id(key), fingerprint(each, depth - 1)) for key, each in value.items()]
    if type(value) in (int, float, str, bool, type(None)):
        return type(value), value if value == value else None
    return id(value)


def what_is_wrong(name: str, call: Call, replaced: dict[str, str]) -> str | None:
    """None if the call is clean with these arguments replaced by bad values."""
    title = f"{name}({', '.join(f'{argument}={value}' for argument, value in replaced.items())})"
    arguments = {
        argument: VALUES[replaced[argument]]() if argument in replaced else make()
        for argument, make in call.arguments.items()
    }
    own = [call.own()] if call.own else []
    before = [fingerprint(each) for each in (*own, *arguments.values())]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            call.function(*own, **arguments)
    except (ValueError, TypeError, ImportError, *call.errors) as error:
        message = str(error)
        if len(message) >= LONGEST:
            return f"{title}: a message of {len(message)} characters: {message[:100]}"
        names = (*call.arguments, *call.other_names)
        if not any(re.search(rf"(?<![a-z]){re.escape(each)}(?![a-z])", message) for each in names):
            return f"{title}: names no argument: {type(error).__name__}: {message[:200]}"
        after = [fingerprint(each) for each in (*own, *arguments.values())]
        if before != after:
            return f"{title}: raised and changed something: {message[:200]}"
        return None
    except Exception as error:
        return f"{title}: {type(error).__name__}: {str(error)[:200]}"
    for argument, old in zip(arguments, before[len(own) :], strict=True):
        value = arguments[argument]
        becomes_real = isinstance(value, Tensor) and not value.has_init  # where it was asked for
        if argument not in call.written and not becomes_real and fingerprint(value) != old:
            return f"{title}: changed {argument}"
    return None


@pytest.fixture(autouse=True)
def as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Bad values are names of files too: they go nowhere else. The default generator is what it was."""
    monkeypatch.chdir(tmp_path)
    seed = get_seed()
    yield
    set_seed(seed or 0)


def try_all(name: str, each: list[dict[str, str]]) -> None:
    found = []
    for replaced in each:
        wrong = what_is_wrong(name, CALLS[name], replaced)
        tally.tried(SUITE, wrong)
        if wrong is not None:
            found.append(wrong)
    assert not found, "\n".join([f"{len(found)} of {len(each)}:", *found[:40]])


@pytest.mark.parametrize("name", CALLS)
def test_good_arguments_work(name: str) -> None:
    call = CALLS[name]
    own = [call.own()] if call.own else []
    call.function(*own, **{argument: make() for argument, make in call.arguments.items()})


def test_every_public_call_is_covered() -> None:
    assert uncovered() == set()


@pytest.mark.parametrize("name", CALLS)
def test_every_bad_value_in_the_place_of_every_argument(name: str) -> None:
    step = 5 if name in (*MODULES, *FILES) and tally.FACTOR == 1 else 1  # a module or a file each time is slow
    try_all(name, [{argument: value} for argument in CALLS[name].arguments for value in list(VALUES)[::step]])


@st.composite
def several_bad_values(draw: st.DrawFn) -> tuple[str, dict[str, str]]:
    name = draw(st.sampled_from([name for name in CALLS if len(CALLS[name].arguments) > 1]))
    arguments = draw(st.lists(st.sampled_from(sorted(CALLS[name].arguments)), min_size=2, max_size=4, unique=True))
    return name, {argument: draw(st.sampled_from(sorted(VALUES))) for argument in arguments}


@tally.examples(500)
@hypothesis.given(several_bad_values())
def test_several_bad_values_at_a_time(case: tuple[str, dict[str, str]]) -> None:
    name, replaced = case
    try_all(name, [replaced])
