"""Kills, interrupts and full disks at each file operation of `save` and `init`, each in a process of its own.

    python -m tests.checkpoint.faults FOLDER [--every N] [--first K]

prints a row of JSON for each that was tried: the scenario, the fault, the number of the operation, and what was wrong.
"""

import argparse
import builtins
import errno
import fcntl
import functools
import json
import os
import shutil
import signal
import stat
import sys
import traceback
from pathlib import Path

import torch

from tests.checkpoint.halves import halves
from tests.cli.jobs import job, write
from tritonparam import save

OLD, NEW = torch.ones(6), torch.arange(6.0)
WHOLE = torch.arange(12.0).reshape(4, 3)
KILL, BEFORE, AFTER, FULL = "kill", "interrupt before", "interrupt after", "full disk"
LINE = "interrupt at a line"  # of these files
TRACED = tuple(
    f"/{name}.py" for name in ("writing", "places", "partial_folder", "assembly", "saving", "workspace", "making")
)
LINES = 7  # of so many, one is tried
OPERATIONS = ("mkdir", "rmdir", "unlink", "remove", "rename", "replace", "write", "fsync", "chmod", "chown", "open")
TAKE_SPACE = ("mkdir", "write", "fsync", "open", "builtins.open")


class Fault:
    """Counts file operations, and lets one go wrong.

    Args:
        kind: KILL, BEFORE, AFTER or FULL; a full disk stays full.
        at: The number of the operation.
    """

    def __init__(self, kind, at):
        self.kind, self.at, self.count = kind, at, 0

    def install(self):
        if self.kind == LINE:
            sys.settrace(self.trace)
            return
        for name in OPERATIONS:
            setattr(os, name, self.wrapped(name, getattr(os, name)))
        builtins.open = self.wrapped("builtins.open", builtins.open)
        fcntl.flock = self.wrapped("flock", fcntl.flock)

    def trace(self, frame, event, _):
        if not frame.f_code.co_filename.endswith(TRACED):
            return None
        if event == "line" and self.count < self.at:
            self.count += 1
            if self.count == self.at:
                raise KeyboardInterrupt
        return self.trace

    def wrapped(self, name, function):
        @functools.wraps(function)
        def call(*arguments, **options):
            if (name == "builtins.open" and "x" not in str(arguments[1:2])) or (
                name == "open" and not arguments[1] & os.O_CREAT and arguments[1] & os.O_DIRECTORY
            ):
                return function(*arguments, **options)
            self.count += 1
            now = self.count == self.at
            if now and self.kind == KILL:
                os.kill(os.getpid(), signal.SIGKILL)
            if now and self.kind == BEFORE:
                raise KeyboardInterrupt
            if self.count >= self.at and self.kind == FULL and name in TAKE_SPACE:
                if (name == "open" and not arguments[1] & os.O_CREAT) or (
                    name == "mkdir" and os.path.lexists(arguments[0])
                ):
                    return function(*arguments, **options)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            result = function(*arguments, **options)
            if now and self.kind == AFTER:
                if hasattr(result, "close"):
                    result.close()
                elif name == "open":
                    os.close(result)
                raise KeyboardInterrupt
            return result

        return call


def in_a_process(act, *arguments, fault=None):
    """What `act` ends with in a child: 0, or -SIGKILL, or 2 for an interrupt, 3 for a full disk; else the traceback."""
    read, sent = os.pipe()
    child = os.fork()
    if not child:
        code = 1
        try:
            os.close(read)
            if fault is not None:
                fault.install()
            act(*arguments)
            code = 0 if fault is None or fault.count >= fault.at else 4
        except KeyboardInterrupt:
            code = 2
        except OSError as error:
            code = 3 if error.errno == errno.ENOSPC else 1
        finally:
            if code == 1:
                with os.fdopen(sent, "w") as file:
                    file.write(traceback.format_exc())
            os._exit(code)
    os.close(sent)
    with os.fdopen(read) as file:
        text = file.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return text if code == 1 else code


class Scenario:
    """Something that is written in a folder.

    Args:
        act: Writes what is new.
        prepare: Makes what is there before.
        keeps: Whether an interrupt may leave a run to go on with.
    """

    def __init__(self, act, prepare=lambda folder: None, keeps=False):
        self.act, self.prepare, self.keeps = act, prepare, keeps


def save_file(folder):
    save({"w": NEW}, folder / "out.safetensors", overwrite=True)


def save_folder(folder):
    save({"w": NEW, "v": NEW + 1}, folder / "out", overwrite=True, max_shard_size=24)


def save_old_file(folder):
    save({"w": OLD}, folder / "out.safetensors")
    (folder / "out.safetensors").chmod(0o600)


def save_old_folder(folder):
    save({"w": OLD}, folder / "out")
    (folder / "out" / "notes.txt").write_text("old")


def save_second_half(folder):
    save([halves(WHOLE)[1]], folder / "out", rank=1, world_size=2, overwrite=True)


def save_first_half(folder):
    save([halves(WHOLE)[0]], folder / "out", rank=0, world_size=2, overwrite=True)


def save_both_halves(folder):
    save_second_half(folder)
    save_first_half(folder)


def init(folder):
    write(job(max_shard_size=4000), folder / "out", overwrite=True, backend="numpy")


def in_a_new_folder(act):
    """`act` in folders that are to be made."""
    return lambda folder: act(folder / "deep" / "er")


SCENARIOS = {
    "file": Scenario(in_a_new_folder(save_file)),
    "file over a file": Scenario(save_file, save_old_file),
    "folder": Scenario(in_a_new_folder(save_folder)),
    "folder over a folder": Scenario(save_folder, save_old_folder),
    "two processes over a folder": Scenario(save_both_halves, save_old_folder, keeps=True),
    "init": Scenario(in_a_new_folder(init), keeps=True),
    "init over a folder": Scenario(init, save_old_folder, keeps=True),
    "init over an init": Scenario(init, init, keeps=True),
}


def tree(folder):
    """All that is in a folder: what each file holds, by its path, and its mode."""
    found = {}
    for path in sorted(folder.rglob("*")):
        info = path.lstat()
        found[str(path.relative_to(folder))] = (
            stat.S_IMODE(info.st_mode),
            path.read_bytes().hex() if path.is_file() else "",
        )
    return found


def wrong_after(scenario, fault, folder, wanted, before):
    """What is wrong once `fault` has happened in `folder`, in words; None where the operation was never reached."""
    code = in_a_process(scenario.act, folder, fault=fault)
    if code == 4:
        return None
    if isinstance(code, str):
        return f"raises {code}"
    if code != {KILL: -signal.SIGKILL, FULL: 3}.get(fault.kind, 2) and code != 0:
        return f"ends with {code}"
    after = tree(folder)
    if not is_whole(after, before, wanted):
        return f"left neither the old nor the new: {sorted(after)}"
    if code and fault.kind != KILL and not scenario.keeps and after not in (before, wanted):
        return f"left {sorted(set(after) - set(before))}"
    again = in_a_process(scenario.act, folder)
    if again != 0:
        return f"cannot be done again: {again}"
    if tree(folder) != wanted:
        return f"ends otherwise: {sorted(tree(folder))} for {sorted(wanted)}"
    return ""


def is_whole(after, before, wanted):
    """Whether the old checkpoint is there, under its name or put aside, or the new one."""
    kept = {name: each for name, each in after.items() if not name.startswith("out.partial")}
    kept = {name: each for name, each in kept.items() if not name.endswith(".tritonparam-partial")}
    aside = {
        name.replace("out.partial/replaced", "out", 1): each
        for name, each in after.items()
        if name.startswith("out.partial/replaced")
    }
    if not before:
        kept = {name: each for name, each in kept.items() if ".partial" not in name}
        return kept == wanted or all(stat.S_IMODE(each[0]) and not each[1] for each in kept.values())
    return before in (kept, aside) or kept == wanted


def rows(folder, every, first):
    for name, scenario in SCENARIOS.items():
        made, done, here = (folder / each for each in ("made", "done", "here"))
        for each in (made, done):
            shutil.rmtree(each, ignore_errors=True)
        made.mkdir(parents=True)
        assert in_a_process(scenario.prepare, made) == 0
        shutil.copytree(made, done)
        assert in_a_process(scenario.act, done) == 0
        before, wanted = tree(made), tree(done)
        for kind in (KILL, BEFORE, AFTER, FULL, LINE):
            step = every * (LINES if kind == LINE else 1)
            at = 1 + (first + len(name) + len(kind)) % min(step, 8)
            while True:
                shutil.rmtree(here, ignore_errors=True)
                shutil.copytree(made, here)
                wrong = wrong_after(scenario, Fault(kind, at), here, wanted, before)
                if wrong is None:
                    break
                yield {"scenario": name, "fault": kind, "at": at, "wrong": wrong}
                at += step


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args()
    for row in rows(options.folder, options.every, options.first):
        sys.stdout.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
