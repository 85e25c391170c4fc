"""Two and three processes that save to one place at once, each of them fully or with an error that says so.

    python -m tests.checkpoint.races FOLDER ROUNDS

prints a row of JSON for each round: what was raced for, how many had saved, and what was wrong.
"""

import json
import os
import random
import shutil
import sys
import time
import traceback
from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.cli.jobs import job, write
from tritonparam import save
from tritonparam.checkpoint import CheckpointError

SAVED, REFUSED, BROKEN = 0, 5, 1
OPERATIONS = ("mkdir", "rmdir", "unlink", "rename", "replace", "lstat", "listdir", "open")
LONGEST = 0.004  # seconds


def start(act, gate):
    """A child that waits for the gate and then acts; its pid and where it writes what went wrong."""
    read, sent = os.pipe()
    child = os.fork()
    if not child:
        code = BROKEN
        try:
            os.close(read)
            os.read(gate, 1)
            dawdle()
            act()
            code = SAVED
        except CheckpointError:
            code = REFUSED
        finally:
            if code == BROKEN:
                os.write(sent, traceback.format_exc().encode())
            os._exit(code)
    os.close(sent)
    return child, read


def dawdle():
    """Wait a moment, of any length, before each file operation: other orders of them come up."""
    draw = random.Random(os.getpid())
    for name in OPERATIONS:
        setattr(os, name, late(getattr(os, name), draw))


def late(function, draw):
    def call(*arguments, **options):
        time.sleep(draw.random() * LONGEST)
        return function(*arguments, **options)

    return call


def race(acts):
    """The status of each, and the texts of those that are broken."""
    gate, opened = os.pipe()
    started = [start(act, gate) for act in acts]
    os.write(opened, b"x" * len(acts))
    codes, texts = [], []
    for child, read in started:
        with os.fdopen(read) as file:
            texts.append(file.read())
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    os.close(gate)
    os.close(opened)
    return codes, "".join(texts)


def saver(number, path, overwrite):
    values = torch.full((5,), float(number))
    return lambda: save({"v": values, "w": values.clone()}, path, overwrite=overwrite, max_shard_size=20)


def found(path):
    """The number of who saved what is there; None where it is a mix."""
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    tensors = {name: each for file in files for name, each in load_file(file).items()}
    numbers = {float(number) for each in tensors.values() for number in each}
    return numbers.pop() if set(tensors) == {"v", "w"} and len(numbers) == 1 else None


def a_round(folder, name, savers, overwrite):
    """How many had saved, and what was wrong."""
    path = folder / name
    if overwrite:
        codes, texts = race([saver(0, path, False)])
        assert codes == [SAVED], texts
    acts = [saver(number, path, overwrite) for number in range(1, savers + 1)]
    codes, texts = race(acts)
    if BROKEN in codes or set(codes) - {SAVED, REFUSED}:
        return 0, f"ends with {codes}: {texts}"
    winners = [number for number, code in enumerate(codes, 1) if code == SAVED]
    if not winners:
        return 0, "nobody saved"
    if len(winners) > 1 and not overwrite:
        return len(winners), f"{winners} replaced each other"
    if found(path) not in winners:
        return len(winners), f"{winners} saved, and there is {found(path)}"
    left = sorted(set(os.listdir(folder)) - {name})
    return len(winners), f"left {left}" if left else ""


def mixed_round(folder):
    """A save and an `init` of the same folder."""
    path = folder / "out"
    codes, texts = race([saver(1, path, True), lambda: write(job(), path, overwrite=True, backend="numpy")])
    if set(codes) - {SAVED, REFUSED} or SAVED not in codes:
        return 0, f"ends with {codes}: {texts}"
    names = set(os.listdir(path))
    of_save = {*(f"model-0000{n}-of-00002.safetensors" for n in (1, 2)), "model.safetensors.index.json"}
    if names not in (of_save, {"model.safetensors", "tritonparam.json"}) or os.listdir(folder) != ["out"]:
        return 2, f"left {sorted(names)} and {os.listdir(folder)}"
    return codes.count(SAVED), ""


def main():
    folder, rounds = Path(sys.argv[1]), int(sys.argv[2])
    for _ in range(rounds):
        for name in ("out", "out.safetensors"):
            for savers in (2, 3):
                for overwrite in (False, True):
                    shutil.rmtree(folder, ignore_errors=True)
                    folder.mkdir()
                    saved, wrong = a_round(folder, name, savers, overwrite)
                    row = {"path": name, "savers": savers, "overwrite": overwrite, "saved": saved, "wrong": wrong}
                    sys.stdout.write(json.dumps(row) + "\n")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        saved, wrong = mixed_round(folder)
        sys.stdout.write(json.dumps({"path": "save and init", "saved": saved, "wrong": wrong}) + "\n")


if __name__ == "__main__":
    main()
