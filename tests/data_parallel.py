"""Data-parallel training for the tests of every backend: one problem, processes that share it, and the expected result.

The scripts that train run outside pytest, with this folder as their current one. The number of devices of a process,
and its place among the others, must be set before its framework starts.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import tolerances

STEPS, BATCH, TIME, WORDS = 6, 8, 11, 20
# Large, so that the weights move far in few steps.
LEARNING_RATE, MOMENTUM = 0.5, 0.9
LIMIT = 240  # seconds, on a busy machine; processes that remain are then killed


def make_data() -> tuple[np.ndarray, np.ndarray]:
    """Sentences of different lengths, padded with 0, one of them empty; and a label for each."""
    rng = np.random.default_rng(0)
    x = rng.integers(1, WORDS, (STEPS * BATCH, TIME)).astype(np.int32)
    lengths = rng.integers(1, TIME, len(x), endpoint=True)
    lengths[1] = 0
    x[np.arange(TIME) >= lengths[:, None]] = 0
    return x, rng.integers(0, 2, (len(x), 1)).astype(np.float32)


def half_data() -> tuple[np.ndarray, np.ndarray]:
    """The half that one of two workers would have."""
    rows = np.arange(STEPS * BATCH) % BATCH < BATCH // 2
    x, y = make_data()
    return x[rows], y[rows]


def make_model(masked: bool) -> Any:
    """A model whose LSTM makes two fused calls a step, with the same weights each time."""
    import keras

    import lstm_fast

    return model_around(keras.layers.Bidirectional(lstm_fast.FastLSTM(6)), masked)


def model_around(layer: Any, masked: bool) -> Any:
    import keras

    words = keras.layers.Embedding(WORDS, 8, mask_zero=masked)
    model = keras.Sequential([keras.Input((None,), dtype="int32"), words, layer, keras.layers.Dense(1)])
    # Not by keras.utils.set_random_seed, which imports TensorFlow into every process.
    rng = np.random.default_rng(1)
    model.set_weights([rng.uniform(-0.5, 0.5, weight.shape).astype(np.float32) for weight in model.weights])
    return model


def make_optimizer() -> Any:
    import keras

    return keras.optimizers.SGD(LEARNING_RATE, MOMENTUM)


def compiled(model: Any, **options: Any) -> Any:
    import keras

    model.compile(make_optimizer(), keras.losses.BinaryCrossentropy(from_logits=True), **options)
    return model


@contextlib.contextmanager
def recorded(path: Path, weights: Callable[[], Any]) -> Iterator[None]:
    """Saves the weights after training, and the number of compiled passes in it."""
    import lstm_fast
    from lstm_fast import _core

    before = _core.fused_calls()
    yield
    after = _core.fused_calls()
    assert lstm_fast.status().fallbacks == {}
    np.savez(path, *weights(), **{name: after[name] - before[name] for name in after})


def check(folder: Path, name: str, reference: str, passes: int, alone: str | None = None) -> None:
    """Compares the weights of two trainings. The weights of `alone` must be far from them."""
    found, expected = (dict(np.load(folder / f"{run}.npz")) for run in (name, reference))
    counts = [int(found.pop(direction)) for direction in ("forward", "backward")]
    assert counts == [passes] * 2, counts
    del expected["forward"], expected["backward"]
    assert found.keys() == expected.keys()
    allowed = {key: tolerances.between_trainings("float32", STEPS, value) for key, value in expected.items()}
    print(name, "differs by", max(np.abs(found[key] - value).max() for key, value in expected.items()))
    for key, value in expected.items():
        tolerances.assert_close(found[key], value, allowed[key])
    if alone is not None:  # this comparison can fail
        other = np.load(folder / f"{alone}.npz")
        assert all(np.abs(other[key] - value).max() > 100 * allowed[key] for key, value in expected.items())


def free_ports(number: int) -> list[int]:
    """Ports of the loopback interface on which nobody listens."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def in_processes(tasks: Mapping[str, Callable[[], Any]]) -> None:
    """Runs every task in a fork of this process, all at once. If one fails, ends the others, and fails.

    The tasks are forks, because the import of a framework takes longer than the training. The frameworks are imported
    before the fork, and not used yet.
    """
    running = {_fork(name, task): name for name, task in tasks.items()}
    while running:
        pid, status = os.wait()
        name = running.pop(pid)
        if status != 0:
            for other in running:
                os.kill(other, signal.SIGKILL)
            sys.exit(f"{name} ended with exit code {os.waitstatus_to_exitcode(status)}")


def _fork(name: str, task: Callable[[], Any]) -> int:
    pid = os.fork()
    return pid if pid > 0 else _run(name, task)


def _run(name: str, task: Callable[[], Any]) -> NoReturn:
    signal.alarm(LIMIT)  # even if the waiting process has gone
    try:
        task()
        code = 0
    except BaseException:
        print(f"{name}:\n{traceback.format_exc()}", file=sys.stderr, flush=True)
        code = 1
    os._exit(code)  # without the exit handlers of the parent's frameworks


def run_script(script: str, *arguments: Any, **environment: str) -> None:
    """Runs a script. The processes that it has started end with it. If it fails, its output is shown."""
    local = {"no_proxy": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"}  # nothing leaves this machine
    process = subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        env={**os.environ, **local, **environment},
        cwd=Path(__file__).parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        raise AssertionError(f"not finished after {LIMIT} s:\n{output}") from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, output
