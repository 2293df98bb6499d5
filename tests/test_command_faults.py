"""Faults around the commands: the environment, missing packages, long silences, closed pipes."""

import contextlib
import io
import itertools
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lstm_fast import _core
from lstm_fast.cli import main
from lstm_fast.commands import heartbeat
from lstm_fast.commands.packages import require
from lstm_fast.errors import CommandError

COMMANDS = {
    "train": ["train", "--data", "sample"],
    "compare": ["compare", "--data", "sample"],
    "predict": ["predict", "--model", "nowhere", "-"],
    "bench": ["bench"],
}


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the command in a process of its own."""
    line = [sys.executable, "-m", "lstm_fast", *arguments]
    return subprocess.run(
        line, capture_output=True, text=True, check=False, env={**os.environ, **environment}, input="", timeout=300
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_a_bad_variable_is_one_line(name: str, tmp_path: Path) -> None:
    output = [] if name == "predict" else ["--output", str(tmp_path / "new")]
    result = command(*COMMANDS[name], *output, LSTM_FAST_ISA="bogus")
    assert result.returncode == 2
    assert result.stderr.startswith(
        f"lstm-fast: error: LSTM_FAST_ISA: expected one of {', '.join(_core.compiled_isas())}; found 'bogus'"
    )
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("LSTM_FAST_KERNEL", "quick", "LSTM_FAST_KERNEL: expected one of auto, fused, keras, found 'quick'"),
        ("LSTM_FAST_PRECISION", "high", "LSTM_FAST_PRECISION: expected one of exact, tf32, tf32x3, found 'high'"),
        ("LSTM_FAST_NUM_THREADS", "x", "LSTM_FAST_NUM_THREADS: expected an integer from 1 to 4096; found 'x'"),
    ],
)
def test_other_variables(name: str, value: str, message: str, tmp_path: Path) -> None:
    """The message does not wait for Keras, which looks for this backend."""
    result = command("train", "--output", str(tmp_path / "new"), **{name: value}, KERAS_BACKEND="none")
    assert (result.returncode, result.stderr) == (2, f"lstm-fast: error: {message}\n")


def test_status_names_a_bad_variable() -> None:
    result = command("status", LSTM_FAST_ISA="bogus")
    assert result.returncode == 1
    assert f"LSTM_FAST_ISA: expected one of {', '.join(_core.compiled_isas())}; found 'bogus'" in result.stdout


@pytest.mark.parametrize(
    ("name", "package"),
    [
        *itertools.product(("train", "compare", "predict"), ("tensorflow", "tensorflow_datasets")),
        *itertools.product(("train", "compare", "bench"), ("matplotlib",)),
    ],
)
def test_without_a_package(name: str, package: str, tmp_path: Path) -> None:
    """With Keras on another backend: texts still need TensorFlow."""
    pytest.importorskip("jax")
    output = [] if name == "predict" else ["--output", str(tmp_path / "new")]
    program = f"""
import sys
sys.modules[{package!r}] = None
from lstm_fast.cli import main
sys.exit(main({[*COMMANDS[name], *output]!r}))
"""
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, env=environment, timeout=300
    )
    distribution = package.replace("_", "-")
    expected = f"lstm-fast: error: {name}: expected the package {package}, found none; run pip install {distribution}\n"
    assert (result.returncode, result.stderr) == (2, expected)
    assert not (tmp_path / "new").exists()


@pytest.mark.fast
def test_required_packages() -> None:
    require("bench", "os", "keras")
    expected = "bench: expected the package no_such_package, found none; run pip install no-such-package nor-this"
    with pytest.raises(CommandError, match=expected):
        require("bench", "keras", "no_such_package", "nor_this")


def test_compare_is_for_tensorflow(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    result = command("compare", "--data", "sample", "--output", str(tmp_path / "new"), KERAS_BACKEND="torch")
    assert result.returncode == 2
    assert result.stderr.startswith("lstm-fast: error: compare: expected Keras on tensorflow, found 'torch'")


@pytest.mark.parametrize("name", ["train", "bench"])
def test_a_backend_that_cannot_train(name: str, tmp_path: Path) -> None:
    pytest.importorskip("jax")  # Keras needs it for NumPy
    result = command(*COMMANDS[name], "--output", str(tmp_path / "new"), KERAS_BACKEND="numpy")
    expected = "lstm-fast: error: KERAS_BACKEND: expected one of tensorflow, jax, torch, found 'numpy'\n"
    assert (result.returncode, result.stderr) == (2, expected)
    assert not (tmp_path / "new").exists()


# Output


@pytest.mark.parametrize(
    "line", [["train", "--mod", "single"], ["bench", "--pad", "0.5"], ["predict", "--mod", "x", "-"]]
)
def test_names_are_not_abbreviated(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(line)
    assert error.value.code == 2
    assert "error:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            ["compare", "--batch", "3"],
            "lstm-fast compare: error: unrecognized arguments: --batch 3; did you mean --batch-size?",
        ),
        (["bench", "--shapes=1,2,3,4"], "unrecognized arguments: --shapes=1,2,3,4; did you mean --shape?"),
        (["status", "--colour"], "unrecognized arguments: --colour\n"),
        (["train", "films.csv", "--epoch", "3"], "unrecognized arguments: films.csv --epoch 3; did you mean --epochs?"),
        (["--versoin", "status"], "unrecognized arguments: --versoin; did you mean --version?"),
        (["train", "model.csv"], "unrecognized arguments: model.csv\n"),
        (["train", "--", "films.csv"], "unrecognized arguments: -- films.csv\n"),
    ],
)
def test_an_unknown_option_names_one_like_it(line: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(line)
    assert error.value.code == 2
    assert message in capsys.readouterr().err


def test_long_work_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Also if the work calls nothing that could report."""
    monkeypatch.setattr(heartbeat, "INTERVAL", 0.05)
    with heartbeat.Heartbeat() as beat:
        beat.report("building")
        time.sleep(0.4)
        beat.now("batch 1")
        time.sleep(0.2)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "building"
    assert printed.count("0 s: building") >= 2
    assert printed[-1].endswith(" s: batch 1")
    time.sleep(0.15)
    assert capsys.readouterr().out == ""  # it has ended


def test_training_says_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorflow_datasets")
    said: list[str] = []
    monkeypatch.setattr(heartbeat.Heartbeat, "now", lambda _, doing: said.append(doing))
    lines = [f"{'good' if n % 2 else 'bad'} film {n},{n % 2}" for n in range(20)]
    (tmp_path / "a.csv").write_text("\n".join(["text,label", *lines]), encoding="utf-8")
    given = ["--data", str(tmp_path / "a.csv"), "--batch-size", "8", "--output", str(tmp_path / "run")]
    assert main(["train", *given, "--epochs", "2"]) == 0
    assert "epoch 1/2: first batch" in said
    assert any(line.startswith("epoch 2/2: batch 2 of 2, loss ") for line in said)
    assert "epoch 2/2: validation, batch 1" in said
    assert "encoding 20 texts" in said
    capsys.readouterr()


def test_a_terminal_gets_no_lines_of_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "INTERVAL", 0.02)
    screen = io.StringIO()
    screen.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stdout", screen)
    with heartbeat.Heartbeat() as beat:
        beat.now("batch 1")
        time.sleep(0.1)
    assert screen.getvalue() == ""


def test_a_reader_that_has_seen_enough() -> None:
    """A pipe that its reader has closed, such as `head`, gives no traceback."""
    reader, writer = os.pipe()
    os.close(reader)
    line = [sys.executable, "-m", "lstm_fast", "status"]
    result = subprocess.run(line, stdout=writer, stderr=subprocess.PIPE, text=True, check=False, timeout=300)
    os.close(writer)
    assert (result.returncode, result.stderr) == (1, "")


@pytest.mark.parametrize("closed", [False, True])
def test_nobody_hears_the_heartbeat(monkeypatch: pytest.MonkeyPatch, closed: bool) -> None:
    """An error in its thread would fail the test."""
    monkeypatch.setattr(heartbeat, "INTERVAL", 0.02)
    reader, writer = os.pipe()
    os.close(reader)
    stdout = os.fdopen(writer, "w")
    monkeypatch.setattr(sys, "stdout", stdout)
    with heartbeat.Heartbeat() as beat:
        if closed:
            stdout.close()
        beat.now("batch 1")
        beat._thread.join(10)
        assert not beat._thread.is_alive()
    with contextlib.suppress(BrokenPipeError):  # for its unwritten output
        stdout.close()
