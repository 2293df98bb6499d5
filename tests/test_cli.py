"""The command `lstm-fast`, in this process where possible, and in another where it is killed."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import lstm_fast
from lstm_fast import _core, files
from lstm_fast.cli import main

pytest.importorskip("tensorflow")

from lstm_fast.text import sample
from lstm_fast.text import vocabulary as subwords

FILES = {"model.keras", "history.json", "history.png", "run.json", "vocabulary.subwords"}
KEYS = {"loss", "accuracy", "val_loss", "val_accuracy"}
PNG = b"\x89PNG"

# Keras's own warnings, when it saves a model.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Short reviews in aclImdb's layout."""
    root = tmp_path_factory.mktemp("reviews")
    for split, seed in (("train", 0), ("test", 1)):
        for index, (text, label) in enumerate(zip(*sample.generate(40, seed, median_length=20), strict=True)):
            file = root / split / ("pos" if label else "neg") / f"{index}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vocabulary") / "words.subwords"
    subwords.save(subwords.encoder_class()(list(sample.vocabulary())), path)
    return path


@pytest.fixture
def options(folder: Path, vocabulary: Path) -> list[str]:
    return ["--data", str(folder), "--vocabulary", str(vocabulary), "--batch-size", "8", "--learning-rate", "0.01"]


def read(output: Path, name: str = "history") -> dict[str, Any]:
    content: dict[str, Any] = json.loads((output / f"{name}.json").read_text(encoding="utf-8"))
    return content


def train(output: Path, *arguments: str) -> int:
    return main(["train", "--output", str(output), *arguments])


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Runs a command that must end with 2; returns its message: one line, no traceback."""
    assert main(arguments) == 2
    message = capsys.readouterr().err
    assert message.startswith("lstm-fast: error: ")
    assert message.count("\n") == 1
    return message


# train


@pytest.mark.parametrize("model", ["single", "stacked"])
def test_train(tmp_path: Path, options: list[str], model: str, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "new" / "run"
    before = _core.fused_calls()["backward"]
    assert train(output, *options, "--model", model, "--epochs", "2", "--mask", "--bucket") == 0
    assert _core.fused_calls()["backward"] > before
    assert "\b" not in capsys.readouterr().out
    assert {path.name for path in output.iterdir()} == FILES
    history = read(output)
    assert set(history) == KEYS
    assert {len(values) for values in history.values()} == {2}
    assert (output / "history.png").read_bytes().startswith(PNG)
    run = read(output, "run")
    assert run["settings"]["model"] == model
    assert run["settings"]["mask"] is run["settings"]["bucket"] is True
    assert len(run["training_seconds"]) == len(run["validation_seconds"]) == 2
    assert len(run["step_loss"]) == 5
    # The mean of the stored losses is the mean that Keras shows.
    assert np.mean(run["step_loss"]) == pytest.approx(history["loss"][0], rel=1e-5)

    restored = keras.saving.load_model(output / "model.keras")
    encoder = subwords.load(output / "vocabulary.subwords")
    logits = restored.predict(np.array([encoder.encode("not good but great anyway")]), verbose=0)
    assert logits.shape == (1, 1)
    assert any(isinstance(layer, lstm_fast.FastBidirectional) for layer in restored.layers)


def test_both_layers_train_alike(tmp_path: Path, options: list[str]) -> None:
    runs = []
    for layer in ("fast", "keras"):
        assert train(tmp_path / layer, *options, "--layer", layer, "--epochs", "1") == 0
        runs.append(read(tmp_path / layer, "run"))
    np.testing.assert_allclose(runs[0]["step_loss"], runs[1]["step_loss"], atol=1e-5)
    assert runs[0]["data"] == runs[1]["data"]


@pytest.mark.parametrize("model", ["single", "stacked"])
def test_a_resumed_run_ends_as_an_uninterrupted_one(tmp_path: Path, options: list[str], model: str) -> None:
    arguments = [*options, "--model", model, "--mask"]
    assert train(tmp_path / "whole", *arguments, "--epochs", "3") == 0
    assert train(tmp_path / "parts", *arguments, "--epochs", "1") == 0
    assert train(tmp_path / "parts", "--resume", "--epochs", "3") == 0  # settings are the run's own
    whole, parts = read(tmp_path / "whole"), read(tmp_path / "parts")
    for name in KEYS:
        np.testing.assert_allclose(parts[name], whole[name], rtol=1e-5)
    assert read(tmp_path / "parts", "run")["step_loss"] == read(tmp_path / "whole", "run")["step_loss"]


def test_a_killed_run_is_resumed(tmp_path: Path, options: list[str]) -> None:
    """kill -9 in the middle of an epoch leaves the epochs before it."""
    output = tmp_path / "run"
    command = [sys.executable, "-m", "lstm_fast", "train", "--output", str(output), *options, "--epochs", "100000"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while not (output / "model.keras").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    keras.saving.load_model(output / "model.keras")
    kept = read(output)
    epochs = len(kept["loss"])
    assert epochs >= 1
    assert train(output, "--resume", "--epochs", str(epochs + 1)) == 0
    history = read(output)
    # The history may have been one epoch ahead of the model; that epoch is then done again.
    assert len(history["loss"]) == epochs + 1
    np.testing.assert_allclose(history["loss"][:epochs], kept["loss"], rtol=1e-5)


def test_a_history_ahead_of_its_model_is_cut(
    tmp_path: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """After a kill between the two files."""
    output = tmp_path / "run"
    assert train(output, *options, "--epochs", "1") == 0
    model = (output / "model.keras").read_bytes()
    assert train(output, "--resume", "--epochs", "2") == 0
    before = read(output)
    (output / "model.keras").write_bytes(model)
    capsys.readouterr()
    assert train(output, "--resume", "--epochs", "2") == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("epochs: 2, ")  # not "nothing to train"
    for name, values in read(output).items():
        np.testing.assert_allclose(values, before[name], rtol=1e-5)


def test_ctrl_c(tmp_path: Path, options: list[str]) -> None:
    output = tmp_path / "run"
    command = [sys.executable, "-m", "lstm_fast", "train", "--output", str(output), *options, "--epochs", "100000"]
    # Tests that run in the background of a shell ignore the signal, and so would this process.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            deadline = time.monotonic() + 120
            while not (output / "model.keras").exists():
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.02)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
            signal.signal(signal.SIGINT, before)
    assert process.returncode == 130
    assert "interrupted" in errors
    assert "--resume goes on" in errors
    assert "Traceback" not in errors
    assert {path.name for path in output.iterdir()} == FILES


def test_much_padding_without_a_mask_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    films = tmp_path / "films.csv"
    films.write_text("text,label\n" + "".join(f"{'good ' * (40 if n == 0 else 1)},{n % 2}\n" for n in range(20)))
    arguments = ["--data", str(films), "--epochs", "1", "--batch-size", "20", "--overwrite"]
    for mask, told in (([], True), (["--mask"], False), (["--bucket", "--batch-size", "1"], False)):
        assert train(tmp_path / "run", *arguments, *mask) == 0
        lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("padding: ")]
        assert len(lines) == told
        assert not told or re.fullmatch(
            r"padding: [5-9]\d% of the timesteps, not masked: .*; --mask leaves it out", lines[0]
        )


def test_nothing_left_to_train(tmp_path: Path, options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert train(tmp_path, *options, "--epochs", "1") == 0
    model = (tmp_path / "model.keras").read_bytes()
    before = read(tmp_path, "run")
    capsys.readouterr()
    assert train(tmp_path, "--resume", "--epochs", "1") == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(f"nothing to train: the run in {tmp_path} has its 1 epochs already, validation accuracy ")
    assert "s of training" not in last
    assert read(tmp_path, "run") == before
    assert (tmp_path / "model.keras").read_bytes() == model


def test_a_run_is_not_overwritten_by_accident(
    tmp_path: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path, *options, "--epochs", "1") == 0
    before = (tmp_path / "model.keras").read_bytes()
    message = fails(capsys, "train", "--output", str(tmp_path), *options)
    assert "--resume goes on with it, --overwrite replaces it" in message
    assert (tmp_path / "model.keras").read_bytes() == before
    assert train(tmp_path, *options, "--epochs", "1", "--seed", "9", "--overwrite") == 0
    assert (tmp_path / "model.keras").read_bytes() != before


# Bad input


def test_resume_refuses_other_settings(tmp_path: Path, options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    output = ("--output", str(tmp_path / "run"))
    assert "found no model.keras in" in fails(capsys, "train", *output, "--resume")
    assert main(["train", *output, *options, "--epochs", "1"]) == 0
    for name, *arguments in (
        ("model, 'single', found 'stacked'", "--model", "stacked"),
        ("layer, 'fast', found 'keras'", "--layer", "keras"),
        ("batch size, 8, found 16", "--batch-size", "16"),
        ("mask, False, found True", "--mask"),
        ("reviews,", "--data", "sample"),
    ):
        assert f"resume: expected the run's {name}" in fails(capsys, "train", *output, "--resume", *arguments)
    other = tmp_path / "other.subwords"
    subwords.save(subwords.encoder_class()(["the_", "of_"]), other)
    message = fails(capsys, "train", *output, "--resume", "--vocabulary", str(other))
    assert "resume: expected the run's vocabulary" in message
    assert len(read(tmp_path / "run")["loss"]) == 1


@pytest.mark.parametrize("name", ["model.keras", "run.json", "history.json"])
def test_resume_refuses_a_damaged_run(
    tmp_path: Path, options: list[str], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path, *options, "--epochs", "1") == 0
    capsys.readouterr()
    (tmp_path / name).write_bytes(b"damaged")
    assert "resume: expected" in fails(capsys, "train", "--output", str(tmp_path), "--resume", "--epochs", "2")


@pytest.mark.parametrize("command", ["train", "compare"])
def test_output_that_cannot_be_written(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Below a file: not even root can make a folder there. Found before any data are loaded."""
    (tmp_path / "file").write_text("", encoding="utf-8")
    start = time.monotonic()
    message = fails(capsys, command, "--data", "sample", "--output", str(tmp_path / "file" / "run"))
    assert "error: --output: expected a folder that can be written, found" in message
    assert time.monotonic() - start < 5


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tmp_path.chmod(0o500)
    message = fails(capsys, "train", "--data", "sample", "--output", str(tmp_path))
    assert "output: expected a folder that can be written" in message


@pytest.mark.parametrize("command", ["train", "compare"])
@pytest.mark.parametrize("kind", ["missing", "empty", "corrupt", "vocabulary"])
def test_bad_data(command: str, kind: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / kind
    arguments = ["--data", str(source)]
    if kind == "empty":
        source.mkdir()
    elif kind == "corrupt":
        source.write_bytes(b"\x1f\x8b not gzip")
    elif kind == "vocabulary":
        arguments = ["--data", str(folder), "--vocabulary", str(source)]
    message = fails(capsys, command, *arguments, "--output", str(tmp_path / "run"))
    assert "expected" in message
    assert "found" in message
    assert not (tmp_path / "run").exists()


def test_tfds_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    arguments = ("train", "--data", "tfds", "--data-dir", str(tmp_path), "--output", str(tmp_path / "run"))
    assert "use --data sample" in fails(capsys, *arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["frobnicate"],
        ["train", "--epochs", "0"],
        ["train", "--epochs", "-1"],
        ["train", "--batch-size", "0"],
        ["train", "--limit", "0"],
        ["train", "--seed", "-1"],
        ["train", "--learning-rate", "0"],
        ["train", "--learning-rate", "nan"],
        ["train", "--model", "triple"],
        ["train", "--layer", "cudnn"],
        ["train", "--resume", "--overwrite"],
        ["train", "--epochs", "zero"],
        ["compare", "--steps", "0"],
    ],
)
@pytest.mark.fast
def test_bad_arguments(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert error.value.code == 2
    printed = capsys.readouterr().err
    assert "error:" in printed
    assert " value: " not in printed  # argparse would print the name of a function


# compare, status


def test_compare(tmp_path: Path, options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *options, "--mask", "--steps", "2", "--output", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    for text in ("training step", "prediction", "logits", "gradients", "fused forward calls", "100% of the timesteps"):
        assert text in printed
    assert (tmp_path / "compare.png").read_bytes().startswith(PNG)
    result = read(tmp_path, "compare")
    assert result["fused"]
    assert result["problems"] == []
    assert result["train_ratio"] > 0
    assert len(result["train_ms"]["fast"]) == len(result["train_ms"]["keras"]) == 2


def test_compare_that_fell_back_fails(
    tmp_path: Path, options: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It shows no times and no picture of FastLSTM, and removes the picture of an earlier run."""
    monkeypatch.setenv("LSTM_FAST_KERNEL", "keras")
    (tmp_path / "compare.png").write_bytes(PNG)
    assert main(["compare", *options, "--mask", "--steps", "1", "--output", str(tmp_path)]) == 1
    printed = capsys.readouterr()
    message = printed.err
    assert {path.name for path in tmp_path.iterdir()} == {"compare.json"}
    assert "training step" not in printed.out.partition("parity")[0]
    assert "FastLSTM ran as keras.layers.LSTM, so nothing was compared" in message
    assert "LSTM_FAST_KERNEL=keras" in message


@pytest.mark.fast
def test_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status"]) == 0
    assert _core.isa() in capsys.readouterr().out
    assert main(["status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["isa"] == _core.isa()


def test_status_of_calls_is_not_promised(capsys: pytest.CaptureFixture[str]) -> None:
    """A process that runs no model has no calls."""
    assert main(["status"]) == 0
    rows = [line.split("  ")[1] for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert "instruction set" in rows
    assert "problems" in rows
    assert not {"fallbacks", "fused calls", "timesteps", "kept memory"} & set(rows)


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_status_with_a_problem(
    options: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LSTM_FAST_THREADS", "2")
    assert main(["status", *options]) == 1
    assert "did you mean LSTM_FAST_NUM_THREADS?" in capsys.readouterr().out


def test_module_is_the_command() -> None:
    command = [sys.executable, "-m", "lstm_fast", "status", "--json"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(result.stdout)["version"] == lstm_fast.__version__


def test_interrupted_writing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "history.json"
    files.write_json(path, {"loss": [1.0]})

    def broken(part: Path) -> None:
        part.write_text("half", encoding="utf-8")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        files.replace(path, broken)
    assert read(tmp_path) == {"loss": [1.0]}
    assert list(tmp_path.iterdir()) == [path]
