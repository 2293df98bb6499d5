"""Broken installations and bad settings: a clear message, and the result of a Keras layer if one can still run."""

import importlib.machinery
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import pytest

import lstm_fast

pytestmark = pytest.mark.backends("tensorflow", "jax", "torch")

PACKAGE = Path(lstm_fast.__file__).parent

# Runs for every case, in another process: calls Keras's layer and ours, and reports what happened. It removes the
# finder of an editable installation, which would find the missing files of a damaged copy of the package.
SCRIPT = """
import json, os, sys, warnings
import keras, numpy as np
sys.meta_path[:] = [finder for finder in sys.meta_path if "__editable__" not in getattr(finder, "__module__", "")]
warnings.simplefilter("ignore")
for folder, environment in json.loads(sys.argv[1]):
    child = os.fork()
    if child > 0:
        assert os.waitpid(child, 0)[1] == 0
        continue
    os.environ.update(environment)
    sys.path.insert(0, folder)
    import lstm_fast
    report = {"package": lstm_fast.__file__}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            fast, plain = lstm_fast.FastLSTM(3), keras.layers.LSTM(3)
            x = np.random.default_rng(0).standard_normal((2, 5, 4)).astype("float32")
            for layer in (fast, plain):
                layer.build(x.shape)
            fast.set_weights(plain.get_weights())
            for _ in range(2):
                found, expected = map(keras.ops.convert_to_numpy, (fast(x), plain(x)))
                report["same"] = bool((found == expected).all())
        except Exception as error:
            report["error"] = f"{type(error).__name__}: {error}"
    report["warnings"] = [str(w.message) for w in caught if issubclass(w.category, lstm_fast.LstmFastWarning)]
    print(json.dumps(report | lstm_fast.status().as_dict()), flush=True)
    os._exit(0)
"""


def delete(library: Path) -> None:
    library.unlink()


def truncate(library: Path) -> None:
    os.truncate(library, library.stat().st_size // 2)


def empty(library: Path) -> None:
    os.truncate(library, 0)


def overwrite(library: Path) -> None:
    library.write_bytes(b"\0" * library.stat().st_size)


CORE = f"_core{importlib.machinery.EXTENSION_SUFFIXES[0]}"
REASONS = {delete: "is missing", truncate: "cut off", empty: "cannot be loaded", overwrite: "cannot be loaded"}

Damage = tuple[str, Callable[[Path], None]]
# Faults that do not depend on the framework are tested once, with TensorFlow.
DAMAGES: list[Damage] = (
    [(library, damage) for library in ("liblstm_fast.so", CORE, "_tensorflow_cpu.so") for damage in REASONS]
    if keras.backend.backend() == "tensorflow"
    else [("liblstm_fast.so", delete), (CORE, overwrite)]
)
BAD_SETTINGS = [
    ("LSTM_FAST_KERNEL", "bogus"),
    ("LSTM_FAST_ISA", "sse9"),
    ("LSTM_FAST_ISA", "AVX2"),
    ("LSTM_FAST_KEEP_MIB", "-1"),
    ("LSTM_FAST_SKIP_REPEATS", "no"),
    ("LSTM_FAST_NUM_THREADS", "0"),
    ("LSTM_FAST_NUM_THREADS", "-2"),
    ("LSTM_FAST_NUM_THREADS", "two"),
    ("LSTM_FAST_NUM_THREADS", "3.5"),
    ("LSTM_FAST_NUM_THREADS", "99999999999999999999"),
    ("LSTM_FAST_KEEP_MIB", "much"),
    ("LSTM_FAST_KEEP_MIB", "99999999999"),
][: None if keras.backend.backend() == "tensorflow" else 6]
GOOD_SETTINGS = {
    "LSTM_FAST_ISA": "generic",
    "LSTM_FAST_NUM_THREADS": "3",
    "LSTM_FAST_KEEP_MIB": "0",
    "LSTM_FAST_SKIP_REPEATS": "0",
    "LSTM_FAST_KERNEL": "fused",
}


def run(*cases: tuple[Path, dict[str, str]]) -> list[dict[str, Any]]:
    """Reports of the script. A case is the folder that contains the package, and settings."""
    process = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps([(str(folder), settings) for folder, settings in cases])],
        env={**os.environ, "LSTM_FAST_KERNEL": "auto"},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return [json.loads(line) for line in process.stdout.splitlines()]


def damaged_copy(folder: Path, library: str, damage: Callable[[Path], None]) -> Path:
    """Copies the package into the folder and damages one of its libraries."""
    shutil.copytree(PACKAGE, folder / "lstm_fast", ignore=shutil.ignore_patterns("__pycache__"))
    (damaged,) = (folder / "lstm_fast").glob(library)
    damage(damaged)
    return folder


@pytest.fixture(scope="module")
def with_damage(tmp_path_factory: pytest.TempPathFactory) -> dict[Damage, dict[str, Any]]:
    folders = [damaged_copy(tmp_path_factory.mktemp("damaged"), *damage) for damage in DAMAGES]
    reports = run(*((folder, {}) for folder in folders))
    for folder, report in zip(folders, reports, strict=True):
        assert report["package"] == str(folder / "lstm_fast" / "__init__.py")
    return dict(zip(DAMAGES, reports, strict=True))


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: f"{damage[0]}-{damage[1].__name__}")
def test_damaged_library_leaves_the_keras_layer(with_damage: dict[Damage, dict[str, Any]], damage: Damage) -> None:
    report = with_damage[damage]
    name = damage[0].removesuffix(".so").removesuffix("*")
    assert "error" not in report
    assert report["same"]
    assert len(report["warnings"]) == 1
    assert name in report["warnings"][0]
    assert any(name in problem and REASONS[damage[1]] in problem for problem in report["problems"])
    assert list(report["fallbacks"].values()) == [2]
    assert all(name in reason for reason in report["fallbacks"])


def test_damaged_library_is_an_error_where_fused_is_asked_for(tmp_path: Path) -> None:
    (report,) = run((damaged_copy(tmp_path, "liblstm_fast.so", delete), {"LSTM_FAST_KERNEL": "fused"}))
    assert report["error"].startswith("RuntimeError: ")
    assert "LSTM_FAST_KERNEL=fused" in report["error"]
    assert "liblstm_fast" in report["error"]


def test_settings() -> None:
    bad = [{variable: value} for variable, value in BAD_SETTINGS]
    followed, *refused = run(*((PACKAGE.parent, settings) for settings in [GOOD_SETTINGS, *bad]))
    assert "error" not in followed
    assert (followed["isa"], followed["threads"]) == ("generic", 3)
    assert followed["fused_calls"]["forward"] == 2
    assert followed["problems"] == []
    for report, (variable, value) in zip(refused, BAD_SETTINGS, strict=True):
        assert report["error"].startswith("ValueError: ")
        assert variable in report["error"]
        assert value in report["error"]
        assert any(variable in problem for problem in report["problems"])
