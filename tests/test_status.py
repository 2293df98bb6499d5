"""status(), and how libraries are checked before they are loaded."""

import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

import lstm_fast
from lstm_fast import _core
from lstm_fast.backends import LibraryError, check_library

PACKAGE = pathlib.Path(lstm_fast.__file__).parent
CORE = pathlib.Path(_core.__file__).name

# Runs Keras's layer and ours where ours falls back.
FALLS_BACK = """
import warnings
import keras, numpy as np, lstm_fast
x = np.ones((2, 3, 4), "float32")
plain, fast = keras.layers.LSTM(5), lstm_fast.FastLSTM(5)
plain.build(x.shape), fast.build(x.shape)
fast.set_weights(plain.get_weights())
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    found = fast(x), fast(x)
    lstm_fast.status()
for y in found:
    np.testing.assert_array_equal(y, plain(x))
problems = lstm_fast.status().problems
announced = [str(w.message) for w in caught if w.category is lstm_fast.LstmFastWarning]
"""


def run_python(script: str, folder: pathlib.Path, **environment: str) -> str:
    """Runs a script with `folder` first on the path of modules."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("LSTM_FAST_")}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**inherited, "PYTHONPATH": os.pathsep.join([str(folder), inherited.get("PYTHONPATH", "")]), **environment},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def copied_package(tmp_path: pathlib.Path) -> pathlib.Path:
    """A copy of the installed package, to be damaged."""
    return shutil.copytree(PACKAGE, tmp_path / "lstm_fast", ignore=shutil.ignore_patterns("__pycache__"))


def test_status_of_a_sound_installation() -> None:
    status = lstm_fast.status()
    assert status.problems == ()
    assert status.version == lstm_fast.__version__
    assert status.isa == _core.isa()
    assert status.isa in status.available_isas
    assert set(status.available_isas) <= set(status.compiled_isas)
    assert status.threads == _core.threads()
    assert (status.keras_backend, status.library) == ("tensorflow", "loaded")
    assert status.environment["LSTM_FAST_KERNEL"] == "fused"
    assert status.fused_calls.keys() == {"forward", "backward"}
    with pytest.raises(dataclasses.FrozenInstanceError):
        status.isa = "mine"


def test_status_as_text_and_as_json() -> None:
    status = lstm_fast.status()
    text = str(status)
    for part in (status.version, "avx2", "threads", "tensorflow", "cuda", "LSTM_FAST_KERNEL=fused", "problems"):
        assert part in text
    assert json.loads(json.dumps(status.as_dict()))["isa"] == status.isa


def test_fused_calls_are_counted() -> None:
    before = lstm_fast.status().fused_calls
    lstm_fast.FastLSTM(2)(np.ones((1, 1, 1), np.float32))
    assert lstm_fast.status().fused_calls == {**before, "forward": before["forward"] + 1}


def test_numpy_needs_no_framework(copied_package: pathlib.Path) -> None:
    """With another Keras backend TensorFlow is not imported, the layer says why it falls back, the function works."""
    pytest.importorskip("jax", reason="Keras's NumPy backend imports it")
    script = """
import sys
assert "tensorflow" not in sys.modules
y, h, c = lstm_fast.lstm(x, *(weight.numpy() for weight in plain.weights))
np.testing.assert_allclose(y, plain(x), rtol=1e-5)
assert not problems and not announced
assert list(lstm_fast.status().fallbacks) == ["no kernel for the Keras backend numpy yet"]
"""
    run_python(FALLS_BACK + script, copied_package.parent, KERAS_BACKEND="numpy")


def test_cut_off_libraries_are_found_before_they_are_mapped(tmp_path: pathlib.Path) -> None:
    path = tmp_path / CORE
    whole = (PACKAGE / CORE).read_bytes()
    path.write_bytes(whole)
    check_library(path)
    for size in (len(whole) - 1, len(whole) // 2, 4096, 64, 63, 16):
        path.write_bytes(whole[:size])
        with pytest.raises(LibraryError, match=f"cut off .{size} bytes"):
            check_library(path)
    with pytest.raises(LibraryError, match="is missing"):
        check_library(tmp_path / "absent.so")
