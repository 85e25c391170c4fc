"""load takes no memory but the result, save one staging buffer, and of a file only what is asked for is read.

Each case runs in a process of its own, which is watched from outside itself by a thread; each has a counterpart that
takes more, so that the bound is seen to be one.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("safetensors")

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")

MB = 1 << 20
SLACK = 24 * MB  # Python's own, and one chunk of temporaries
ROOT = Path(__file__).parents[2]

WATCH = """
import json, sys, threading, time
import torch
import tritonparam
from tritonparam.checkpoint import loading as load_module, outgoing, saving as save_module, stored
from tritonparam.initializer import initializer

torch.set_num_threads(1)

def memory(field):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith(field))

class Watch:
    def __init__(self, field):
        self.field, self.most, self.on = field, 0, True
        self.base = memory(field)
        self.thread = threading.Thread(target=self.look)
    def look(self):
        while self.on:
            self.most = max(self.most, memory(self.field))
            time.sleep(0.0005)
    def __enter__(self):
        self.thread.start()
        return self
    def __exit__(self, *_):
        self.most = max(self.most, memory(self.field))
        self.on = False
        self.thread.join()
        print(json.dumps(self.most - self.base))

def lazy(count=4, shape=(4096, 4096), dtype="float32"):
    return [tritonparam.Parameter(initializer("normal", shape, dtype), f"w{i}") for i in range(count)]

def warm():
    import tempfile
    with tempfile.TemporaryDirectory() as folder:
        few = lazy(2, (8, 8))
        tritonparam.save(few, folder + "/out")
        tritonparam.load(lazy(2, (8, 8), "bfloat16"), folder + "/out")

warm()
path = sys.argv[1]
"""


def grown(code, path):
    """By how many bytes the memory of a process grew at most while it ran `code`."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WATCH + code, str(path)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Four float32 tensors of 64 MiB, in four files."""
    from tritonparam import save

    folder = tmp_path_factory.mktemp("memory") / "out"
    save({f"w{i}": torch.full((4096, 4096), float(i)) for i in range(4)}, folder, max_shard_size="70MB")
    return folder


LOAD = """
target = lazy(dtype="bfloat16")
with Watch("RssAnon"):
    tritonparam.load(target, path)
assert [float(each.torch[5, 5]) for each in target] == [0, 1, 2, 3]
"""
LOAD_BOXES = """
target = lazy()
with Watch("RssAnon"):
    tritonparam.load(target, path, layouts=tritonparam.Box((64, 0), (128, 4096)))
assert [float(each.torch[5, 5]) for each in target] == [0, 1, 2, 3]
"""
LOAD_DEFERRED = """
with tritonparam.deferred_init():
    net = torch.nn.ParameterDict({f"w{i}": torch.nn.Parameter(torch.randn(4096, 4096)) for i in range(4)})
with Watch("RssAnon"):
    tritonparam.load(net, path)
assert [float(each[5, 5]) for each in net.values()] == [0, 1, 2, 3]
"""
COPIED = """
view = stored.Checkpoint.view
stored.Checkpoint.view = lambda *arguments: view(*arguments).clone()
"""


@pytest.mark.parametrize(("code", "result"), [(LOAD, 128), (LOAD_BOXES, 8), (LOAD_DEFERRED, 256)])
def test_load_takes_the_memory_of_the_result(code, result, checkpoint):
    """On a host nothing is staged; casts are made on the way."""
    got = grown(code, checkpoint)
    assert result * MB - MB <= got <= result * MB + SLACK


def test_load_that_copies_what_it_reads_would_be_noticed(checkpoint):
    assert grown(COPIED + LOAD, checkpoint) > 128 * MB + SLACK


SAVE = """
target = {f"w{i}": torch.full((4096, 4096), float(i)).t() for i in range(2)}
with Watch("RssAnon"):
    tritonparam.save(target, path, dtype=torch.bfloat16, overwrite=True)
"""
SAVE_LAZY = """
target = lazy()
with Watch("RssAnon"):
    tritonparam.save(target, path, overwrite=True)
assert all(each.has_init for each in target)
"""


@pytest.mark.parametrize(("code", "bound"), [(SAVE, 32), (SAVE_LAZY, 32 + 64)])
def test_save_takes_one_buffer_and_one_lazy_tensor(code, bound, tmp_path):
    assert grown(code, tmp_path / "out") <= bound * MB + SLACK


def test_save_that_stages_everything_would_be_noticed(tmp_path):
    assert grown("outgoing.ByteStream.__init__.__defaults__ = (1 << 28,)\n" + SAVE, tmp_path / "out") > 32 * MB + SLACK
    held = "save_module._drawn = lambda draft, keep=[]: keep.append(draft.init_data()) or keep[-1].torch\n"
    assert grown(held + SAVE_LAZY, tmp_path / "out") > (32 + 64) * MB + SLACK


SPARSE = """
target = tritonparam.Parameter(initializer("normal", (1 << 20, 1 << 14)), "w")
rows = int(sys.argv[2]) if len(sys.argv) > 2 else ROWS
with Watch("VmRSS"):
    tritonparam.load(target, path, layouts=tritonparam.Box((700_000, 0), (rows, 1 << 14)))
assert target.torch[0].eq(3).all() and target.torch[-1].eq(0).all()
assert target.global_shape == (1 << 20, 1 << 14)
"""


def test_box_of_a_file_of_64_gigabytes(tmp_path):
    """Everything else is a hole in the file; reading it would take far more than there is."""
    header = json.dumps({"w": {"dtype": "F32", "shape": [1 << 20, 1 << 14], "data_offsets": [0, 1 << 36]}}).encode()
    header += b" " * (-len(header) % 8)
    path = tmp_path / "huge.safetensors"
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + (1 << 36))
        file.seek(8 + len(header) + 700_000 * (1 << 16))
        file.write(torch.full((1 << 14,), 3.0).numpy().tobytes())
    assert path.stat().st_blocks * 512 < MB
    assert grown(SPARSE.replace("ROWS", "16"), path) < SLACK
    assert grown(SPARSE.replace("ROWS", "2048"), path) > 128 * MB  # what is read does count
