"""Broken installations and bad settings: a clear message, and where a Keras layer can still run, its result."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lstm_fast

PACKAGE = Path(lstm_fast.__file__).parent

# Runs Keras's layer and ours, and tells what happened.
LAYER = """
import json, warnings
import numpy as np
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import keras
    import lstm_fast
    report = {}
    try:
        fast, plain = lstm_fast.FastLSTM(3), keras.layers.LSTM(3)
        x = np.random.default_rng(0).standard_normal((2, 5, 4)).astype("float32")
        for layer in (fast, plain):
            layer.build(x.shape)
        fast.set_weights(plain.get_weights())
        for _ in range(2):
            report["agrees"] = bool((fast(x).numpy() == plain(x).numpy()).all())
    except Exception as error:
        report["error"] = f"{type(error).__name__}: {error}"
report["warnings"] = [str(w.message) for w in caught if issubclass(w.category, lstm_fast.LstmFastWarning)]
print(json.dumps(report | lstm_fast.status().as_dict()))
"""

# Runs the kernels on NumPy arrays.
FUNCTION = """
import json
import numpy as np
import lstm_fast
report = {}
try:
    lstm_fast.lstm(*(np.ones(shape, np.float32) for shape in ((2, 5, 4), (4, 12), (3, 12))))
except Exception as error:
    report["error"] = f"{type(error).__name__}: {error}"
print(json.dumps(report | lstm_fast.status().as_dict()))
"""


def run(script: str, environment: dict[str, str], folder: Path) -> dict[str, Any]:
    """What `script` reports when it runs in a new process with `folder` first on its path."""
    process = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "LSTM_FAST_KERNEL": "auto", "PYTHONPATH": str(folder), **environment},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    report: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return report


def delete(library: Path) -> None:
    library.unlink()


def truncate(library: Path) -> None:
    os.truncate(library, library.stat().st_size // 2)


def empty(library: Path) -> None:
    os.truncate(library, 0)


def overwrite(library: Path) -> None:
    library.write_bytes(b"\0" * library.stat().st_size)


@pytest.mark.parametrize(
    ("library", "damage"),
    [
        ("liblstm_fast.so", delete),
        ("liblstm_fast.so", truncate),
        ("_core*.so", delete),
        ("_core*.so", overwrite),
        ("_tensorflow_cpu.so", truncate),
        ("_tensorflow_cpu.so", empty),
    ],
)
def test_damaged_library_leaves_the_keras_layer(tmp_path: Path, library: str, damage: Callable[[Path], None]) -> None:
    copy = tmp_path / "lstm_fast"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (damaged,) = copy.glob(library)
    damage(damaged)
    report = run(LAYER, {}, tmp_path)
    assert "error" not in report
    assert report["agrees"]
    assert len(report["warnings"]) == 1
    stem = library.split("*")[0].removesuffix(".so")
    assert stem in report["warnings"][0]
    assert any(stem in problem for problem in report["problems"])
    assert sum(report["fallbacks"].values()) == 2
    assert all(stem in reason for reason in report["fallbacks"])


def test_damaged_library_is_an_error_where_fused_is_asked_for(tmp_path: Path) -> None:
    copy = tmp_path / "lstm_fast"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    delete(copy / "liblstm_fast.so")
    report = run(LAYER, {"LSTM_FAST_KERNEL": "fused"}, tmp_path)
    assert report["error"].startswith("RuntimeError: LSTM_FAST_KERNEL=fused")
    assert "liblstm_fast" in report["error"]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("LSTM_FAST_ISA", "sse9"),
        ("LSTM_FAST_ISA", "AVX2"),
        ("LSTM_FAST_NUM_THREADS", "0"),
        ("LSTM_FAST_NUM_THREADS", "-2"),
        ("LSTM_FAST_NUM_THREADS", "two"),
        ("LSTM_FAST_NUM_THREADS", "3.5"),
        ("LSTM_FAST_NUM_THREADS", "99999999999999999999"),
    ],
)
def test_bad_setting_is_named(variable: str, value: str) -> None:
    report = run(FUNCTION, {variable: value, "KERAS_BACKEND": "numpy"}, PACKAGE.parent)
    assert report["error"].startswith("ValueError: ")
    assert variable in report["error"]
    assert value in report["error"]
    assert any(variable in problem for problem in report["problems"])


@pytest.mark.parametrize(("variable", "value"), [("LSTM_FAST_ISA", "sse9"), ("LSTM_FAST_KERNEL", "bogus")])
def test_bad_setting_is_named_by_the_layer(variable: str, value: str) -> None:
    report = run(LAYER, {variable: value}, PACKAGE.parent)
    assert "ValueError" in report["error"]
    assert variable in report["error"]
    assert value in report["error"]
    assert any(variable in problem for problem in report["problems"])


def test_settings_are_followed() -> None:
    settings = {"LSTM_FAST_ISA": "generic", "LSTM_FAST_NUM_THREADS": "3", "KERAS_BACKEND": "numpy"}
    report = run(FUNCTION, settings, PACKAGE.parent)
    assert "error" not in report
    assert (report["isa"], report["threads"]) == ("generic", 3)
    assert report["fused_calls"]["forward"] == 1
    assert report["problems"] == []
