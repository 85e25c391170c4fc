"""Changed files: what reads one works, or says in a short error of ours what is wrong, and changes nothing."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
from hypothesis import strategies as st

pytest.importorskip("safetensors")

from tests.fuzz import tally
from tests.fuzz.documents import changed_bytes, changed_object, text_of
from tritonparam import load, save
from tritonparam.checkpoint import CheckpointError

LONGEST = 1000  # characters of a message
TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(4, dtype=torch.bfloat16), "c": torch.tensor([True])}


def targets() -> dict[str, torch.Tensor]:
    return {name: torch.full_like(tensor, 0) for name, tensor in TENSORS.items()}


def reads(suite: str, path: Path, read: Callable[[], Any], errors: tuple[type[Exception], ...], shown: str) -> None:
    """Count one reading of a changed file, which is clean if it works or ends in one of `errors`."""
    wrong = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read()
    except errors as error:
        if len(str(error)) >= LONGEST:
            wrong = f"a message of {len(str(error))} characters: {str(error)[:100]}"
        elif "\n" in str(error).strip() and isinstance(error, CheckpointError):
            wrong = f"a message of several lines: {str(error)[:200]}"
    except Exception as error:
        wrong = f"{type(error).__name__}: {str(error)[:200]}"
    tally.tried(suite, None if wrong is None else f"{shown}: {wrong}")
    assert wrong is None, (shown, wrong)


def loads(suite: str, path: Path, shown: str, strict: bool) -> None:
    """Load from `path`: the targets are as before after an error."""
    mine = targets()

    def read() -> None:
        try:
            load(mine, path, strict=strict)
        except Exception:
            assert all(not tensor.any() for tensor in mine.values()), "raised, and changed a target"
            raise

    reads(suite, path, read, (CheckpointError, ValueError, TypeError), shown)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an index and its two files, and one file beside it."""
    folder = tmp_path_factory.mktemp("fuzz")
    save(dict(TENSORS), folder / "sharded", max_shard_size=30)
    save(dict(TENSORS), folder / "whole.safetensors")
    return folder


@tally.examples(150)
@hypothesis.given(data=st.data())
def test_bytes_of_a_file(saved: Path, data: st.DataObject) -> None:
    original = (saved / "whole.safetensors").read_bytes()
    changed = data.draw(changed_bytes(original))
    (saved / "changed.safetensors").write_bytes(changed)
    loads("bytes of safetensors", saved / "changed.safetensors", repr(changed), data.draw(st.booleans()))


@tally.examples(200)
@hypothesis.given(data=st.data())
def test_headers(saved: Path, data: st.DataObject) -> None:
    original = (saved / "whole.safetensors").read_bytes()
    length = int.from_bytes(original[:8], "little")
    header = text_of(data.draw(changed_object(json.loads(original[8 : 8 + length]))))
    (saved / "changed.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + original[8 + length :])
    loads("headers", saved / "changed.safetensors", repr(header), data.draw(st.booleans()))


@tally.examples(120)
@hypothesis.given(data=st.data())
def test_sharding_information(saved: Path, data: st.DataObject) -> None:
    rows = {name: {"saved_offsets": [0] * t.dim(), "global_shape": list(t.shape)} for name, t in TENSORS.items()}
    changed = data.draw(changed_object(rows))
    metadata = {"DCP_SHARDING_INFO": json.dumps(changed).encode(errors="replace").decode(), "DCP_VERSION": "1.0"}
    original = (saved / "whole.safetensors").read_bytes()
    length = int.from_bytes(original[:8], "little")
    header = text_of(json.loads(original[8 : 8 + length]) | {"__metadata__": metadata})
    (saved / "changed.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + original[8 + length :])
    loads("sharding information", saved / "changed.safetensors", repr(changed), data.draw(st.booleans()))


@tally.examples(150)
@hypothesis.given(data=st.data())
def test_indexes(saved: Path, data: st.DataObject) -> None:
    path = saved / "sharded" / "model.safetensors.index.json"
    original = path.read_bytes()
    try:
        if data.draw(st.booleans()):
            changed = text_of(data.draw(changed_object(json.loads(original))))
        else:
            changed = data.draw(changed_bytes(original))
        path.write_bytes(changed)
        loads("indexes", path if data.draw(st.booleans()) else path.parent, repr(changed), data.draw(st.booleans()))
    finally:
        path.write_bytes(original)


CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 16,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "tie_word_embeddings": False,
    "dtype": "float32",
    "eos_token_id": [1, 2],
}


@tally.examples(30)
@hypothesis.given(data=st.data())
def test_configs(saved: Path, data: st.DataObject) -> None:
    pytest.importorskip("transformers")
    from tritonparam.cli.init import prepare

    changed = data.draw(changed_object(CONFIG))
    path = saved / "changed.json"
    path.write_bytes(text_of(changed))
    reads("configs", path, lambda: prepare(str(path)), (CheckpointError,), repr(changed))


@pytest.fixture(scope="module")
def record(saved: Path) -> dict[str, Any]:
    """What `init` wrote beside the weights of a model of `CONFIG`."""
    pytest.importorskip("transformers")
    from tritonparam.cli.init import prepare, write_checkpoint

    path = saved / "config.json"
    path.write_bytes(text_of(CONFIG))
    write_checkpoint(prepare(str(path)), saved / "made", device=torch.device("cpu"), backend="numpy")
    values: dict[str, Any] = json.loads((saved / "made" / "tritonparam.json").read_text())
    return values


@tally.examples(150)
@hypothesis.given(data=st.data())
def test_records(saved: Path, record: dict[str, Any], data: st.DataObject) -> None:
    from tritonparam.cli.init import prepare

    changed = data.draw(changed_object(record))
    path = saved / "tritonparam.json"
    path.write_bytes(text_of(changed))
    reads("records", path, lambda: prepare(str(path)), (CheckpointError,), repr(changed)[:2000])
