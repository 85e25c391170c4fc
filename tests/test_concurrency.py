"""Threads and forks: parameters that are made and become real at the same time get the values that they have alone."""

import concurrent.futures
import contextvars
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

import tritonparam
from tritonparam import Fill, Generator, Normal, Parameter, ParameterTuple, Plan, derive_key, initializer
from tritonparam.checkpoint import loading
from tritonparam.parameter import attributes

THREADS, EACH = 4, 40


def drawn(key, shape):
    out = torch.full(shape, 7.0)
    Plan([Fill(out, Normal(mean=0.0, std=0.01), key)]).run()
    return out.numpy()


def together(*tasks):
    """Run the tasks at the same time, in threads that have the caller's generator, and switch between them often."""
    barrier, interval = threading.Barrier(len(tasks)), sys.getswitchinterval()

    def start(task):
        barrier.wait()
        return task()

    sys.setswitchinterval(1e-6)
    try:
        with concurrent.futures.ThreadPoolExecutor(len(tasks)) as pool:
            futures = [pool.submit(contextvars.copy_context().run, start, task) for task in tasks]
            return [future.result() for future in futures]
    finally:
        sys.setswitchinterval(interval)


def declare(name="w", shape=(5,)):
    return Parameter(initializer.initializer("normal", shape), name)


def test_threads_that_make_and_realize_parameters_of_one_name_lose_nothing():
    """Every occurrence of the name is drawn exactly once, whoever got it; other names are not disturbed."""

    def work(index):
        made = []
        for step in range(EACH):
            made.append(declare())
            declare(f"other{index}").clone("normal")
            if step % 3 == 0:
                ParameterTuple(made[-1:]).init_data()
        return made

    with Generator(6):
        made = [each for some in together(*(lambda i=i: work(i) for i in range(THREADS))) for each in some]
    got = sorted(parameter.asnumpy().tobytes() for parameter in made)
    want = sorted(drawn(derive_key(6, "w", occurrence), (5,)).tobytes() for occurrence in range(THREADS * EACH))
    assert got == want


def test_threads_that_realize_the_same_parameters_fill_each_once(monkeypatch):
    filled, run = [], Plan.run

    def counted(plan):
        filled.extend(plan.operations)
        run(plan)

    with Generator(6):
        parameters = [declare(f"w{index}") for index in range(EACH)]
    with monkeypatch.context() as patch:
        patch.setattr(Plan, "run", counted)
        ways = [
            lambda: [parameter.asnumpy() for parameter in parameters],
            lambda: [parameter.init_data() for parameter in reversed(parameters)],
            lambda: ParameterTuple(parameters).init_data(),
            lambda: [parameter + 1 for parameter in parameters],
        ]
        together(*ways)
    assert len(filled) == EACH
    for index, parameter in enumerate(parameters):
        np.testing.assert_array_equal(parameter.asnumpy(), drawn(derive_key(6, f"w{index}", 0), (5,)))


def test_clones_made_while_the_original_becomes_real_have_its_values():
    for attempt in range(EACH):
        with Generator(attempt):
            parameter = declare()
        results = together(
            parameter.init_data,
            parameter.clone,
            lambda p=parameter: Parameter(p, "copy"),
            lambda p=parameter: Parameter(np.zeros(5, np.float32), "set").set_data(p),
        )
        for result in results:
            np.testing.assert_array_equal(result.asnumpy(), drawn(derive_key(attempt, "w", 0), (5,)))


def test_lazy_tensor_cannot_become_real_while_a_parameter_is_made_of_it(monkeypatch):
    """Between seeing that it is lazy and taking its law, the other thread has to wait."""
    source, threads, declared = declare(), [], attributes.lazy_cast

    def interrupted(*arguments):
        threads.append(threading.Thread(target=source.init_data))
        threads[-1].start()
        threads[-1].join(0.2)
        return declared(*arguments)

    monkeypatch.setattr(attributes, "lazy_cast", interrupted)
    parameter = Parameter(source, "copy")
    threads.pop().join()
    assert (source.has_init, parameter.has_init) == (False, True)
    np.testing.assert_array_equal(parameter.asnumpy(), source.asnumpy())


FORK = """
import hashlib, os, sys
from tritonparam import Parameter, ParameterTuple, set_seed
from tritonparam.initializer import initializer

def digest(parameters):
    return hashlib.sha256(b"".join(p.asnumpy().tobytes() for p in parameters)).hexdigest().encode()

set_seed(5)
made = ParameterTuple(Parameter(initializer("normal", [300, 7]), f"w{i}") for i in range(3))
made[0].init_data()
read, write = os.pipe()
child = os.fork()
if not child:
    made.init_data()
    late = Parameter(initializer("normal", [4]), "late").init_data()
    os.write(write, digest([*made, late]))
    os._exit(0)
_, status = os.waitpid(child, 0)
assert status == 0, status
assert [p.has_init for p in made] == [False, True, True]
late = Parameter(initializer("normal", [4]), "late").init_data()
assert os.read(read, 64) == digest([*made, late])
print("agrees")
"""


def run_alone(script):
    """What `script` prints, in a process of its own, since this one has threads."""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": str(Path(tritonparam.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.stdout or done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_child_of_a_fork_realizes_what_its_parent_declared():
    """Made in the parent, made real in the child: the values that the parent gets, and the parent's stay lazy."""
    assert run_alone(FORK) == "agrees\n"


# The main thread forks while the other is in the middle of `slow`, holding the lock; the child has twenty seconds.
FORK_WHILE_HELD = """
import os, signal, threading, time, warnings
import torch
from tritonparam import Generator, Parameter, Plan
from tritonparam.module.recording import patches, trunc_normal
from tritonparam.stream import generator
from tritonparam.initializer import initializer

warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of threads and forks
inside, run, derive_key = threading.Event(), Plan.run, generator.derive_key

def slow(function):
    def slowly(*arguments):
        if threading.current_thread() is not threading.main_thread():
            inside.set()
            time.sleep(1)
        return function(*arguments)
    return slowly

def declare():
    return Parameter(initializer("normal", [3]), "w")

def noted():
    with patches._lock:
        slow(lambda: None)()

w = declare()
Plan.run, generator.derive_key = slow(run), slow(derive_key)
thread = threading.Thread(target=TARGET)
thread.start()
inside.wait()
child = os.fork()
if not child:
    signal.alarm(20)
    assert w.has_init is LAZY
    v = declare()
    with trunc_normal.truncated_normals_noted(lambda tensor: None):
        v.init_data(), w.init_data()
    got = []
    other = threading.Thread(target=lambda: got.append(Parameter(initializer("ones", [2]), "u").asnumpy().tolist()))
    other.start()
    other.join()
    os._exit(got != [[1.0, 1.0]])
_, status = os.waitpid(child, 0)
thread.join()
declare().init_data(), w.init_data()
print("child ended with", status)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(
    ("target", "lazy"), [("w.init_data", False), ("declare", True), ("noted", True)], ids=["realizing", "key", "hook"]
)
def test_child_of_a_fork_is_not_locked_out_by_a_thread_that_it_does_not_have(target, lazy):
    """The fork waits: what the other thread was at is done in the child, which goes on, also in threads of its own."""
    script = FORK_WHILE_HELD.replace("TARGET", target).replace("LAZY", str(lazy))
    assert run_alone(script) == "child ended with 0\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_thread_that_makes_a_parameter_real_may_fork():
    """An initializer of the user's own runs inside, and may start processes; both go on."""
    script = """
import os
from tritonparam import Parameter
from tritonparam.initializer import Constant, Initializer

class Forking(Initializer):
    def law(self, shape):
        self.child = os.fork()
        return Constant(2).law(shape)

init = Forking()
w = Parameter([1.0, 1.0]).set_data(init)
assert w.tolist() == [2.0, 2.0]
if not init.child:
    os._exit(0)
print("child ended with", os.waitpid(init.child, 0)[1])
"""
    assert run_alone(script) == "child ended with 0\n"


def test_cuda_in_the_fork_of_a_process_that_used_it_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: True)
    parameter = declare()
    for ask in (parameter.init_data, ParameterTuple([parameter]).init_data):
        with pytest.raises(RuntimeError, match=r"forked .* got cuda: .* 'spawn'"):
            ask(device="cuda")
    with torch.device("cuda"), pytest.raises(RuntimeError, match=r"got None: .* 'spawn'"):
        parameter.asnumpy()
    assert parameter.has_init
    assert not parameter.init_data(device="cpu").has_init


def test_nobody_waits_for_the_files_of_a_load(tmp_path, monkeypatch):
    """Forks, and all other Parameters, waited as long as it took to read them."""
    tritonparam.save({"w": torch.ones(4)}, tmp_path / "w.safetensors")
    reading, go_on = threading.Event(), threading.Event()
    move = loading.move

    def slow(*arguments):
        reading.set()
        assert go_on.wait(30)
        move(*arguments)

    monkeypatch.setattr(loading, "move", slow)
    w, other = (Parameter(tritonparam.initializer.initializer("ones", [4]), name=name) for name in "wo")
    thread = threading.Thread(target=tritonparam.load, args=(w, tmp_path / "w.safetensors"))
    thread.start()
    try:
        assert reading.wait(30)
        assert other.init_data().asnumpy().tolist() == [1.0] * 4
        child = os.fork()
        if not child:
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        assert w.has_init
    finally:
        go_on.set()
        thread.join()
    assert not w.has_init
