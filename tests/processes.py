"""Real processes for tests: N of them run a function of a test module, in a gloo group on this machine.

They are forks of a process that has imported torch and done nothing else, as N imports would take most of the time.

    def _sum(rank, world, start):
        ...
        return total

    def test_sum(launch):
        assert launch(_sum, 3, start=5) == [...]

The fixture `launch` is in tests/conftest.py. What a process prints is shown where one of them fails.
"""

import ctypes
import functools
import importlib
import json
import os
import pickle
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
HOST = "127.0.0.1"


class Launcher:
    """Starts processes whose files are in `folder`."""

    def __init__(self, folder):
        self._folder = folder
        self._count = 0

    def __call__(self, function, world, *, lost=(), timeout=100, store_in_rank_0=False, **arguments):
        """What `function(rank, world, **arguments)` returns in each of `world` processes, in order.

        Args:
            function: At the top of a module; its results and arguments can be pickled.
            world: How many processes there are.
            lost: Ranks that do not end by themselves, or are killed; they return None and are killed in the end.
            timeout: Seconds after which all are killed, and the test fails.
            store_in_rank_0: Whether the store of the group ends with rank 0, and not with the test.
            arguments: As above.

        Raises:
            AssertionError: A process raised, ended, or took too long; with what all of them printed.
        """
        self._count += 1
        folder = self._folder / f"run-{self._count}"
        folder.mkdir()
        job = (function.__module__, function.__qualname__, world, store_in_rank_0, arguments)
        (folder / "job").write_bytes(pickle.dumps(job))
        if not store_in_rank_0:
            store = torch.distributed.TCPStore(HOST, 0, is_master=True, wait_for_workers=False)
            _write(folder / "port", str(store.port).encode())
        started = [_Process(rank, folder) for rank in range(world)]
        waited = [rank for rank in range(world) if rank not in lost]
        try:
            end = time.monotonic() + timeout
            while not all((folder / f"result-{rank}").exists() for rank in waited):
                ended = [rank for rank in waited if started[rank].has_ended()]
                if ended and not all((folder / f"result-{rank}").exists() for rank in ended):
                    raise AssertionError(f"processes {ended} ended or raised\n{_told(folder, world)}")
                if time.monotonic() > end:
                    raise AssertionError(f"not done after {timeout} s\n{_told(folder, world)}")
                time.sleep(0.01)
        finally:
            for each in started:
                each.kill()
        return [
            pickle.loads((folder / f"result-{rank}").read_bytes()) if rank in waited else None for rank in range(world)
        ]


class _Process:
    """A fork that runs its part of a job."""

    def __init__(self, rank, folder):
        environment = os.environ | {"PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
        self._pid = _forks().ask("start", rank, str(folder), environment)

    def has_ended(self):
        """Whether it is gone."""
        return _forks().ask("has_ended", self._pid)

    def kill(self):
        """Let it be gone."""
        _forks().ask("kill", self._pid)


class _Forks:
    """The process that forks, which ends with this one."""

    def __init__(self):
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        words = [sys.executable, "-W", "ignore", "-m", "tests.processes"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._process = subprocess.Popen(words, env=environment, cwd=ROOT, text=True, **pipes)

    def ask(self, *message):
        """What it answers."""
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


@functools.cache
def _forks():
    return _Forks()


def _serve():
    """Fork, look and kill as asked, until nobody asks."""
    for name in ("fsdp", "tensor.parallel", "checkpoint.state_dict", "device_mesh"):
        importlib.import_module(f"torch.distributed.{name}")
    for name in ("pytest", "tritonparam.checkpoint", "tritonparam.distributed", "tritonparam.module"):
        importlib.import_module(name)
    ended = set()
    for line in sys.stdin:
        act, first, *rest = json.loads(line)
        if act == "start":
            answer = os.fork()
            if not answer:
                _run(first, Path(rest[0]), rest[1])
        else:
            if act == "kill" and first not in ended:
                os.kill(first, signal.SIGKILL)
            if first not in ended and os.waitpid(first, 0 if act == "kill" else os.WNOHANG)[0]:
                ended.add(first)
            answer = first in ended
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _run(rank, folder, environment):
    """What a fork does; it never returns."""
    try:
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: no fork outlives the tests
        output = os.open(folder / f"output-{rank}", os.O_WRONLY | os.O_CREAT)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for own, number in ((nothing, 0), (output, 1), (output, 2)):
            os.dup2(own, number)
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        main(folder, rank)
    except BaseException:
        traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(1)  # and not wait for those that wait for this one


def _told(folder, world):
    texts = [(folder / f"output-{rank}").read_text(errors="replace")[-4000:] for rank in range(world)]
    return "\n".join(f"--- process {rank} ---\n{text}" for rank, text in enumerate(texts))


def _write(path, data):
    """All of it at once, as others look for it."""
    path.with_suffix(".tmp").write_bytes(data)
    path.with_suffix(".tmp").replace(path)


def _store(folder, rank, in_rank_0):
    if in_rank_0 and rank == 0:
        store = torch.distributed.TCPStore(HOST, 0, is_master=True, wait_for_workers=False)
        _write(folder / "port", str(store.port).encode())
        return store
    while not (folder / "port").exists():
        time.sleep(0.01)
    return torch.distributed.TCPStore(HOST, int((folder / "port").read_text()), is_master=False)


def main(folder, rank):
    module, name, world, in_rank_0, arguments = pickle.loads((folder / "job").read_bytes())
    torch.set_num_threads(1)
    store = _store(folder, rank, in_rank_0)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=world)
    function = importlib.import_module(module)
    for part in name.split("."):
        function = getattr(function, part)
    result = function(rank, world, **arguments)
    path = folder / f"result-{rank}"
    path.with_name(f"{path.name}.tmp").write_bytes(pickle.dumps(result))
    path.with_name(f"{path.name}.tmp").replace(path)
    sys.stdout.flush()
    while True:  # until all are done: others may still need what this one keeps
        signal.pause()


if __name__ == "__main__":
    _serve()
