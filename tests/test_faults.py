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

# Nothing of an editable installation, which would supply what is missing from a damaged copy.
PRELUDE = """
import sys
sys.meta_path[:] = [finder for finder in sys.meta_path if "__editable__" not in getattr(finder, "__module__", "")]
"""

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

# Runs the kernels on NumPy arrays, once under every pair of settings in a process of its own: they are read only once.
FUNCTION = """
import json, os, warnings
import numpy as np
import lstm_fast
warnings.simplefilter("ignore")
for settings in json.loads(sys.argv[1]):
    child = os.fork()
    if child == 0:
        os.environ.update(settings)
        report = {}
        try:
            lstm_fast.lstm(*(np.ones(shape, np.float32) for shape in ((2, 5, 4), (4, 12), (3, 12))))
        except Exception as error:
            report["error"] = f"{type(error).__name__}: {error}"
        print(json.dumps(report | lstm_fast.status().as_dict()), flush=True)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""


def run(script: str, folder: Path, argument: str = "", **environment: str) -> list[dict[str, Any]]:
    """What `script` reports, line by line, when it runs in a new process with `folder` first on its path."""
    process = subprocess.run(
        [sys.executable, "-c", PRELUDE + script, argument],
        env={**os.environ, "LSTM_FAST_KERNEL": "auto", "PYTHONPATH": str(folder), **environment},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return [json.loads(line) for line in process.stdout.splitlines()]


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
    (report,) = run(LAYER, tmp_path)
    assert "error" not in report
    assert report["agrees"]
    assert len(report["warnings"]) == 1
    stem = library.removesuffix(".so").removesuffix("*")
    assert stem in report["warnings"][0]
    assert any(stem in problem for problem in report["problems"])
    assert sum(report["fallbacks"].values()) == 2
    assert all(stem in reason for reason in report["fallbacks"])


def test_damaged_library_is_an_error_where_fused_is_asked_for(tmp_path: Path) -> None:
    copy = tmp_path / "lstm_fast"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    delete(copy / "liblstm_fast.so")
    (report,) = run(LAYER, tmp_path, LSTM_FAST_KERNEL="fused")
    assert report["error"].startswith("RuntimeError: ")
    assert "LSTM_FAST_KERNEL=fused" in report["error"]
    assert "liblstm_fast" in report["error"]


BAD_SETTINGS = [
    ("LSTM_FAST_ISA", "sse9"),
    ("LSTM_FAST_ISA", "AVX2"),
    ("LSTM_FAST_NUM_THREADS", "0"),
    ("LSTM_FAST_NUM_THREADS", "-2"),
    ("LSTM_FAST_NUM_THREADS", "two"),
    ("LSTM_FAST_NUM_THREADS", "3.5"),
    ("LSTM_FAST_NUM_THREADS", "99999999999999999999"),
]


def test_settings() -> None:
    good = {"LSTM_FAST_ISA": "generic", "LSTM_FAST_NUM_THREADS": "3"}
    settings = [good, *({variable: value} for variable, value in BAD_SETTINGS)]
    followed, *refused = run(FUNCTION, PACKAGE.parent, json.dumps(settings))
    assert "error" not in followed
    assert (followed["isa"], followed["threads"]) == ("generic", 3)
    assert followed["fused_calls"]["forward"] == 1
    assert followed["problems"] == []
    for report, (variable, value) in zip(refused, BAD_SETTINGS, strict=True):
        assert report["error"].startswith("ValueError: ")
        assert variable in report["error"]
        assert value in report["error"]
        assert any(variable in problem for problem in report["problems"])


@pytest.mark.parametrize(("variable", "value"), [("LSTM_FAST_ISA", "sse9"), ("LSTM_FAST_KERNEL", "bogus")])
def test_bad_setting_is_named_by_the_layer(variable: str, value: str) -> None:
    (report,) = run(LAYER, PACKAGE.parent, **{variable: value})
    assert report["error"].startswith("ValueError: ")
    assert variable in report["error"]
    assert value in report["error"]
    assert any(variable in problem for problem in report["problems"])
