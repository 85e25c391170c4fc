"""A file that was made to do harm is refused at once: no memory is taken for it, and nothing waits."""

import json
import os
import socket
import threading
import tracemalloc

import pytest
import torch

from tests.checkpoint.models import declare
from tritonparam import load
from tritonparam.checkpoint.errors import CheckpointError
from tritonparam.checkpoint.stored import SHARDING_KEY

INDEX = "model.safetensors.index.json"
SIZE = 1 << 20
ROW = b'{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'
MANY = b"{}," * (SIZE // 3) + b"{}"
HEADERS = {
    "deep": b"[" * SIZE,
    "deep in an object": b'{"a":' * (SIZE // 5),
    "objects for a row": b'{"a":[' + MANY + b"]}",
    "objects in a row": b'{"a":{"x":[' + MANY + b']},"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
    "deep in a row": b'{"a":{"x":' + b"[" * SIZE + b"}}",
    "objects in the metadata": b'{"__metadata__":{"a":[' + MANY + b"]}}",
    "sizes": b'{"a":{"dtype":"F32","shape":[' + b"1," * (SIZE // 2) + b'1],"data_offsets":[0,4]}}',
    "offsets": b'{"a":{"dtype":"F32","shape":[],"data_offsets":[' + b"0," * (SIZE // 2) + b"4]}}",
    "digits": b'{"a":{"dtype":"F32","shape":[' + b"1" * SIZE + b'],"data_offsets":[0,4]}}',
    "escapes": b'{"' + b"\\n" * (SIZE // 2) + b'":3}',
    "a long dtype": b'{"a":{"dtype":"' + b"F" * SIZE + b'","shape":[],"data_offsets":[0,4]}}',
    "a long name twice": b'{"' + b"a" * SIZE + b'":' + ROW + b',"' + b"a" * SIZE + b'":' + ROW + b"}",
    "spaces": b'{"a":' + b" " * SIZE,
    "no end": b'{"' + b"a" * SIZE,
}


@pytest.mark.parametrize("kind", HEADERS)
def test_a_header_takes_no_more_memory_than_a_few_times_its_size(kind, tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(len(HEADERS[kind]).to_bytes(8, "little") + HEADERS[kind] + bytes(8))
    target = {"a": torch.zeros(2)}
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match="is not a whole safetensors file") as caught:
            load(target, path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert peak < 8 * SIZE


@pytest.mark.parametrize(
    "text",
    ["[" * SIZE, '{"a":' * SIZE, '{"a": [' + "{}," * SIZE + "{}]}", '{"a": {}, "a": {}}', "\ufeff{}", '{"a": NaN}'],
    ids=["deep", "deep objects", "objects", "twice", "mark", "NaN"],
)
def test_what_places_boxes_is_read_as_strictly(text, tmp_path):
    header = json.dumps({"__metadata__": {SHARDING_KEY: text}, "a": json.loads(ROW)}).encode()
    path = tmp_path / "w.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match=f"its {SHARDING_KEY} cannot be read") as caught:
            load({"a": torch.zeros(2)}, path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert peak < 16 * len(header) + SIZE


@pytest.mark.parametrize(
    "row",
    [
        {"saved_offsets": [0] * 100_000},
        {"saved_offsets": [2**70]},
        {"saved_offsets": [0], "global_shape": 3},
        "x" * 9999,
    ],
)
def test_a_row_that_places_nothing_is_shown_shortly(row, tmp_path):
    header = json.dumps({"__metadata__": {SHARDING_KEY: json.dumps({"a": row})}, "a": json.loads(ROW)}).encode()
    path = tmp_path / "w.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(CheckpointError, match=f"its {SHARDING_KEY} does not place 'a'") as caught:
        load({"a": torch.zeros(2)}, path)
    assert len(str(caught.value)) < 1000


def pipe(path):
    os.mkfifo(path)


def listener(path):
    made = socket.socket(socket.AF_UNIX)
    try:
        made.bind(os.path.relpath(path))  # such a name is short
    finally:
        made.close()


KINDS = {
    "pipe": pipe,
    "socket": listener,
    "device": lambda path: os.symlink("/dev/zero", path),
    "folder": os.mkdir,
    "link to nothing": lambda path: os.symlink("nothing", path),
    "link to itself": lambda path: os.symlink(path, path),
}
PLACES = {
    "the path": ("x.safetensors", lambda folder: folder / "x.safetensors"),
    "the only file of a folder": ("x.safetensors", lambda folder: folder),
    "the file of a folder": ("model.safetensors", lambda folder: folder),
    "one of the files of a process": ("shard-00001-model-00001-of-00001.safetensors", lambda folder: folder),
    "the index of a folder": (INDEX, lambda folder: folder),
    "the index": ("some.json", lambda folder: folder / "some.json"),
    "a file that an index names": ("named", lambda folder: folder / INDEX),
}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", PLACES)
def test_only_regular_files_are_opened(place, kind, tmp_path, monkeypatch):
    """Nobody writes into the pipe: who waits for that waits for ever."""
    monkeypatch.chdir(tmp_path)
    name, path_of = PLACES[place]
    if name == "named":
        (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"w": "named"}}))
    KINDS[kind](tmp_path / name)
    parameter, caught = declare(shape=(2,)), []

    def attempt():
        try:
            load(parameter, path_of(tmp_path))
        except Exception as error:
            caught.append(error)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive(), "it waits"
    assert isinstance(caught[0], CheckpointError), repr(caught)
    assert str(tmp_path) in str(caught[0])
    assert parameter.has_init
