"""The library and its process: fork, processors, memory, Python objects of other threads."""

import os
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
from cases import make_problem, solve_by_kernel

import lstm_fast
from lstm_fast import _core

MIB = 2**20


def run_python(script: str, **environment: str) -> str:
    """Runs a script in another process, with no LSTM_FAST_* set; returns its output."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LSTM_FAST_")}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env={**clean, **environment},
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# fork


FORK_WHILE_OTHERS_COMPUTE = """
    import os, signal, threading
    import numpy as np
    from lstm_fast import _core

    def run(x, w, u):
        return _core.forward(x, None, [w], [u], [None], [None], [None], [None], [None], False, True, False, 1)[0]

    tiny = [np.ones(shape, np.float32) for shape in ((1, 3, 8), (8, 32), (8, 32))]
    # Large enough that its tasks go to the pool's threads.
    large = [np.full(shape, 0.01, np.float32) for shape in ((64, 20, 64), (64, 256), (64, 256))]
    _core.set_threads(3)
    expected = run(*tiny), run(*large)
    stop = False

    def busy(arrays):
        while not stop:
            run(*arrays)

    threads = [threading.Thread(target=busy, args=(arrays,)) for arrays in (tiny, tiny, large)]
    for thread in threads:
        thread.start()
    bad = 0
    for _ in range(400):
        child = os.fork()
        if child == 0:
            signal.alarm(20)  # what ends a child that hangs
            same = all((run(*arrays) == y).all() for arrays, y in zip((tiny, large), expected))
            os._exit(0 if same else 1)
        bad += os.waitpid(child, 0)[1] != 0
        if bad:
            break
    stop = True
    for thread in threads:
        thread.join()
    print(bad)
"""


def test_a_child_computes_that_was_forked_while_others_computed() -> None:
    options = {"PYTHONWARNINGS": "ignore::DeprecationWarning", "OPENBLAS_NUM_THREADS": "1"}
    assert int(run_python(FORK_WHILE_OTHERS_COMPUTE, **options)) == 0


FORK_WHILE_ANOTHER_LOADS = """
    import os, signal, threading, time
    from lstm_fast.backends import once

    begun = threading.Event()

    @once()
    def inner():
        time.sleep(0.2)
        return 1

    @once()
    def outer():
        begun.set()
        time.sleep(0.2)
        return inner() + 1

    thread = threading.Thread(target=outer)
    thread.start()
    begun.wait()
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # what ends a child that hangs
        os._exit(0 if outer() == 2 else 1)
    thread.join()
    print(os.waitpid(child, 0)[1])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_child_loads_that_was_forked_while_another_thread_loaded() -> None:
    assert int(run_python(FORK_WHILE_ANOTHER_LOADS, PYTHONWARNINGS="ignore::DeprecationWarning")) == 0


# Processors

needs_two_processors = pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2, reason="needs two processors"
)

BOUND_CALLER = """
    import os, threading, time
    import numpy as np

    arrays = [np.full(shape, 0.01, np.float32) for shape in ((64, 20, 64), (64, 256), (64, 256))]
    before = os.sched_getaffinity(0)
    found = []

    def is_free(helper):  # it may keep away from its caller's processor
        return os.sched_getaffinity(helper) | {min(before)} == before

    def first_call():
        os.sched_setaffinity(0, {min(before)})  # of this thread
        from lstm_fast import _core
        x, w, u = arrays
        threads = set(os.listdir("/proc/self/task"))
        _core.forward(x, None, [w], [u], [None], [None], [None], [None], [None], False, True, False, 0)
        helpers = {int(helper) for helper in set(os.listdir("/proc/self/task")) - threads}
        deadline = time.monotonic() + 20  # a helper frees itself when it starts, on a busy machine after the call
        while not all(map(is_free, helpers)) and time.monotonic() < deadline:
            time.sleep(0.01)
        found.append((_core.threads(), list(map(is_free, helpers))))
        assert os.sched_getaffinity(0) == {min(before)}

    import lstm_fast
    thread = threading.Thread(target=first_call)
    thread.start()
    thread.join()
    (threads, helpers_free), = found
    print(threads == len(before), len(helpers_free), all(helpers_free))
"""


@needs_two_processors
def test_a_first_call_from_a_bound_thread_binds_nobody_else() -> None:
    counts, helpers, free = run_python(BOUND_CALLER).split()
    assert counts == "True"
    assert int(helpers) >= 1
    assert free == "True"


@needs_two_processors
def test_a_process_that_is_bound_has_as_many_threads() -> None:
    script = """
        import os
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        from lstm_fast import _core
        print(_core.threads())
    """
    assert int(run_python(script)) == 1


# Memory


def reserve_of(mebibytes: float) -> np.ndarray:
    """A buffer of the library with about so many MiB: the reserve of a forward pass."""
    rows = int(mebibytes * MIB / (5 * 16 * 4 * 64))
    x, kernel, recurrent = (np.zeros(shape, np.float32) for shape in ((rows, 64, 1), (1, 64), (16, 64)))
    none = [None]
    return _core.forward(x, None, [kernel], [recurrent], none, none, none, none, none, False, False, False, 1)[3]


@pytest.mark.fast
def test_kept_memory_is_shown_and_given_back() -> None:
    lstm_fast.trim()
    assert _core.kept_bytes() == 0
    held = reserve_of(8)
    assert held.nbytes > 7 * MIB
    before = _core.kept_bytes()
    del held
    after = _core.kept_bytes()
    assert after - before > 7 * MIB
    assert lstm_fast.status().kept_bytes == (after, 512 * MIB)
    assert lstm_fast.trim() == after
    assert _core.kept_bytes() == 0
    assert lstm_fast.trim() == 0


def test_a_small_request_leaves_a_large_buffer_alone() -> None:
    lstm_fast.trim()
    del [reserve_of(32)][0]
    kept = _core.kept_bytes()
    small = reserve_of(9)
    assert _core.kept_bytes() > kept - 32 * MIB / 2, "the buffer of 32 MiB went to a request of 9"
    again = reserve_of(30)
    assert _core.kept_bytes() < 32 * MIB / 2, "a request of 30 MiB found none"
    del small, again
    lstm_fast.trim()


@pytest.mark.parametrize("limit", [0, 4])
def test_kept_memory_can_be_bounded(limit: int) -> None:
    script = """
        from test_process import MIB, reserve_of
        from lstm_fast import _core
        for size in (1, 2, 3, 9):
            reserve_of(size)
            assert _core.kept_bytes() <= _core.kept_bytes_limit(), size
        print(_core.kept_bytes_limit() // MIB)
    """
    assert int(run_python(script, LSTM_FAST_KEEP_MIB=str(limit), LSTM_FAST_KERNEL="fused")) == limit


# Python objects


def test_arrays_live_as_long_as_the_call_that_reads_them() -> None:
    """Another thread empties the lists while the call computes without the interpreter's lock."""
    problem = make_problem(64, 1000, 64, 128)
    expected = solve_by_kernel(problem, backward=False)
    options = (problem.go_backwards, problem.return_sequences, problem.zero_output_for_mask)
    x, mask, *lists = problem.kernel_inputs
    for _ in range(20):  # until the other thread comes in the middle of a call
        passed = [[None if array is None else array.copy() for array in arrays] for arrays in lists]
        alive = [weakref.ref(array) for arrays in passed for array in arrays if array is not None]
        calling, seen = threading.Event(), []

        def empty(passed=passed, alive=alive, calling=calling, seen=seen) -> None:
            calling.wait()
            time.sleep(0.005)
            for arrays in passed:
                arrays.clear()
            died = sum(reference() is None for reference in alive)
            seen.append((calling.is_set(), died))

        thread = threading.Thread(target=empty)
        thread.start()
        calling.set()
        y, *_ = _core.forward(x, mask, *passed, *options, 1)
        calling.clear()
        thread.join()
        ((during, died),) = seen
        if during:
            assert died == 0
            np.testing.assert_array_equal(y, expected.y)
            return
    pytest.fail("no call was long enough")


def test_modules_do_not_ask_for_the_lock_of_the_interpreter() -> None:
    """Py_mod_gil is among the slots of the module's definition. A Python without that lock reads it."""
    source = Path(__file__).resolve().parents[1] / "csrc" / "bindings"
    for name in ("python.cc", "cuda.cc"):
        assert "py::mod_gil_not_used()" in (source / name).read_text()


TOO_LARGE = """
    import resource
    import numpy as np
    {import_framework}
    import lstm_fast

    def run(batch, time, units):
        shapes = (batch, time, 1), (1, 4 * units), (units, 4 * units)
        return np.asarray(lstm_fast.lstm(*({convert}(np.full(shape, 0.01, np.float32)) for shape in shapes))[0])

    before = run(2, 3, 8)
    pages = int(open("/proc/self/statm").read().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**28, resource.RLIM_INFINITY))
    try:
        run(1024, 1024, 256)  # 1 GiB of results
    except {error}:
        print((run(2, 3, 8) == before).all())
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="this system does not tell its memory")
@pytest.mark.parametrize(
    ("import_framework", "convert", "error"),
    [("", "", "MemoryError"), ("import tensorflow as tf", "tf.constant", "tf.errors.ResourceExhaustedError")],
    ids=["numpy", "tensorflow"],
)
def test_too_little_memory_is_an_error_and_the_next_call_is_right(
    import_framework: str, convert: str, error: str
) -> None:
    script = TOO_LARGE.format(import_framework=import_framework, convert=convert, error=error)
    assert run_python(script).split() == ["True"]
