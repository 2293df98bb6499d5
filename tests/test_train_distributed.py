"""`lstm-fast train --distribute` on every backend: two processes give the result of one process."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from data_parallel import LIMIT, free_ports

from lstm_fast import _core
from lstm_fast.cli import main
from lstm_fast.distribute import group as groups
from lstm_fast.distribute.fit import fit

pytest.importorskip("tensorflow")
pytestmark = [
    pytest.mark.backends("tensorflow", "jax", "torch"),
    # Keras's own warnings, when it saves a model.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning"),
]

BACKEND = keras.backend.backend()
# 33 is not a multiple of two. The last batch has one text, so one of the processes gets none of it.
OPTIONS = ["--data", "sample", "--limit", "33", "--batch-size", "16", "--mask"]
EPOCHS = 2


def environments() -> list[dict[str, str]]:
    """The variables that a launcher of this backend sets for each of two processes."""
    first, second = (f"127.0.0.1:{port}" for port in free_ports(2))
    if BACKEND == "tensorflow":
        cluster = {"chief": [first], "worker": [second]}
        tasks = [{"type": "chief", "index": 0}, {"type": "worker", "index": 0}]
        return [{"TF_CONFIG": json.dumps({"cluster": cluster, "task": task})} for task in tasks]
    if BACKEND == "jax":
        shared = {"KERAS_DISTRIBUTION_JOB_ADDRESSES": first, "KERAS_DISTRIBUTION_NUM_PROCESSES": "2"}
        return [{**shared, "KERAS_DISTRIBUTION_PROCESS_ID": str(rank)} for rank in range(2)]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": first.partition(":")[2], "WORLD_SIZE": "2"}
    return [{**shared, "RANK": str(rank)} for rank in range(2)]


@contextlib.contextmanager
def started(outputs: list[Path], epochs: int = EPOCHS) -> Iterator[list[subprocess.Popen[str]]]:
    """Two processes, each with its output. They are killed at the end."""
    local = {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "LSTM_FAST_KERNEL": "fused"}
    # JAX takes it for the variable of a proxy, and warns.
    inherited = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    command = [sys.executable, "-m", "lstm_fast", "train", "--distribute", "--epochs", str(epochs), *OPTIONS]
    with contextlib.ExitStack() as stack:
        processes = []
        for output, environment in zip(outputs, environments(), strict=True):
            process = subprocess.Popen(
                [*command, "--output", str(output)],
                env={**inherited, **local, **environment},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            processes.append(stack.enter_context(process))
            stack.callback(process.kill)
        yield processes


def weights(output: Path) -> list[np.ndarray]:
    """The weights of the model and of its optimizer."""
    model = keras.saving.load_model(output / "model.keras")
    variables = [*model.trainable_variables, *model.optimizer.variables]
    variables = [variable for variable in variables if variable.name != "learning_rate"]  # which stays
    return [np.asarray(keras.ops.convert_to_numpy(variable)) for variable in variables]


def history(output: Path) -> dict[str, list[float]]:
    content: dict[str, list[float]] = json.loads((output / "history.json").read_text())
    return content


def assert_same(found: Path, expected: Path, one_epoch: list[np.ndarray]) -> None:
    """Asserts that two runs agree: no weight may differ by more than a thousandth of its change in an epoch."""
    for mine, theirs, before in zip(weights(found), weights(expected), one_epoch, strict=True):
        moved = np.linalg.norm(theirs.astype(np.float64) - before)
        assert moved > 0
        assert np.linalg.norm(mine.astype(np.float64) - theirs) <= 1e-3 * moved
    mine, theirs = history(found), history(expected)
    assert mine.keys() == theirs.keys()
    for name, values in theirs.items():
        np.testing.assert_allclose(mine[name], values, rtol=1e-5, err_msg=name)


def test_two_processes_leave_what_one_leaves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And one process can go on with a run that two processes have begun."""
    outputs = [tmp_path / "first", tmp_path / "second"]
    alone = tmp_path / "alone"
    with started(outputs) as processes:
        before = _core.fused_calls()
        assert main(["train", *OPTIONS, "--epochs", "1", "--output", str(alone)]) == 0
        one_epoch = weights(alone)
        assert main(["train", "--resume", "--epochs", str(EPOCHS), "--output", str(alone)]) == 0
        assert _core.fused_calls()["backward"] > before["backward"]
        (first, errors), (second, others_errors) = (process.communicate(timeout=LIMIT) for process in processes)
        assert [process.returncode for process in processes] == [0, 0], errors + others_errors
    assert_same(outputs[0], alone, one_epoch)
    assert json.loads((outputs[0] / "run.json").read_text())["processes"] == 2
    assert "distribute: process 0 of 2\n" in first
    assert f"Epoch {EPOCHS}/{EPOCHS}" in first
    assert "distribute: process 1 of 2\n" in second
    assert "Epoch" not in second, "the first one tells what all of them do"
    assert not outputs[1].exists()
    capsys.readouterr()
    for output in (outputs[0], alone):
        assert main(["train", "--resume", "--epochs", str(EPOCHS + 1), "--output", str(output)]) == 0
    assert_same(outputs[0], alone, one_epoch)
    assert json.loads((outputs[0] / "run.json").read_text())["processes"] == 1


def test_a_process_that_has_lost_the_others_says_so(tmp_path: Path) -> None:
    """It ends with one line, and its saved epochs stay."""
    with started([tmp_path / "first", tmp_path / "second"], epochs=1000) as (first, second):
        for line in first.stdout or ():
            if line.startswith("Epoch 1/"):
                break
        second.send_signal(signal.SIGKILL)
        _, errors = first.communicate(timeout=LIMIT)
    assert first.returncode == 2, errors
    (message,) = [line for line in errors.splitlines() if line.startswith("lstm-fast: error: ")]
    assert "distribute: work with the other processes failed, perhaps because one of them has ended: " in message
    assert "Traceback" not in errors


class Others:
    """A group in which only this process is real. The test decides what the others report, and whether steps fail."""

    rank, size, replicas, seed_offset = 0, 2, 2, 0
    errors = (RuntimeError,)
    left = False

    def __init__(self, other: Any = lambda mine: mine) -> None:
        self.other = other

    def gather(self, numbers: np.ndarray) -> np.ndarray:
        return np.stack([numbers, self.other(numbers)])

    def leave(self) -> None:
        self.left = True

    def steps(self, _: keras.Model) -> "Others":
        return self

    def train(self, *_: np.ndarray) -> tuple[float, float]:
        raise RuntimeError("Connection closed by peer\nand more")


def digests(prepare: Any) -> np.ndarray:
    """The digests of a process that prepares this."""
    said: list[np.ndarray] = []
    others = Others(lambda mine: said.append(mine) or mine)
    with contextlib.suppress(ValueError):
        groups.agree(others, prepare)
    return said[0]


def failing() -> dict[str, object]:
    raise ValueError("no texts")


@pytest.mark.fast
def test_processes_that_agree_go_on() -> None:
    group = Others()
    groups.agree(group, lambda: {"settings": {"mask": True}, "texts": "abc"})
    assert not group.left


@pytest.mark.parametrize(
    ("theirs", "message"),
    [
        ({"settings": 1, "texts": "abd"}, "expected the same texts in all processes, found another in process 1"),
        ({"settings": 2, "texts": "abc"}, "expected the same settings in all processes, found another in process 1"),
        (None, "process 1 of 2 has failed; its own output says why"),
    ],
)
@pytest.mark.fast
def test_processes_that_differ_end(theirs: dict[str, object] | None, message: str) -> None:
    other = digests(failing if theirs is None else lambda: theirs)
    group = Others(lambda _: other)
    with pytest.raises(groups.DistributeError, match=message):
        groups.agree(group, lambda: {"settings": 1, "texts": "abc"})
    assert group.left


def test_a_process_that_fails_tells_the_others() -> None:
    group = Others()
    with pytest.raises(ValueError, match="no texts"):
        groups.agree(group, failing)
    assert group.left
    assert digests(failing)[-1] == 1


def test_a_failed_step_names_its_reason() -> None:
    batch = (np.ones((3, 4), np.int64), np.ones(3, np.int64))
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    options = {"steps_per_epoch": 1, "initial_epoch": 0, "epochs": 1, "callbacks": [], "verbose": 0}
    with pytest.raises(groups.LostError, match="one of them has ended: RuntimeError: Connection closed by peer; --"):
        fit(model, Others(), [batch], [batch], **options)


@pytest.mark.parametrize("wrong", ["", "{", '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}'])
def test_an_environment_that_does_not_name_the_others(
    wrong: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message names the missing variables, and there is no wait."""
    if BACKEND != "tensorflow" and wrong:
        pytest.skip("TensorFlow's variable")
    monkeypatch.setenv("TF_CONFIG", wrong)
    names = {
        "tensorflow": "TF_CONFIG with the addresses of all workers",
        "jax": "KERAS_DISTRIBUTION_JOB_ADDRESSES with the address of process 0",
        "torch": "MASTER_ADDR, MASTER_PORT, RANK, WORLD_SIZE as torchrun sets them",
    }
    assert main(["train", "--distribute", *OPTIONS]) == 2
    assert f"lstm-fast: error: --distribute: expected {names[BACKEND]}" in capsys.readouterr().err
