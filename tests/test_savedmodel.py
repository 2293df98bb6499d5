"""An exported model runs without this package: as it is, after `to_keras`, and inside `as_keras`."""

import contextlib
import pathlib
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tolerances
from keras_side import fused

import lstm_fast

SERVE = """
import sys
sys.modules["lstm_fast"] = None  # whoever imports it gets an ImportError
import numpy as np
import tensorflow as tf
folder = sys.argv[1]
model = tf.saved_model.load(folder + "/model")
np.save(folder + "/served.npy", model.serve(tf.constant(np.load(folder + "/x.npy"))))
"""


pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{warning}")
    for warning in (
        "The `native_serialization` parameter is deprecated",
        "In the future `np.object`",
        "__array__",
        "jax",
    )
]


@pytest.fixture(autouse=True)
def fallbacks_are_no_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets layers fall back: here `fused` proves that the kernels run."""
    monkeypatch.setenv("LSTM_FAST_KERNEL", "auto")


def make_model() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            keras.layers.Embedding(30, 4, mask_zero=True),
            lstm_fast.FastBidirectional(lstm_fast.FastLSTM(5, return_sequences=True)),
            lstm_fast.FastRNN(keras.layers.LSTMCell(4), return_sequences=True),
            lstm_fast.FastLSTM(3),
        ]
    )


def assert_serves(folder: pathlib.Path, x: np.ndarray, expected: np.ndarray) -> None:
    """Asserts that the SavedModel in a folder gives the expected result, in a process without this package."""
    np.save(folder / "x.npy", x)
    subprocess.run([sys.executable, "-c", SERVE, str(folder)], check=True, timeout=120)
    tolerance = tolerances.between_layers("float32", x.size, expected)
    np.testing.assert_allclose(np.load(folder / "served.npy"), expected, rtol=0.0, atol=tolerance)


def classes(model: keras.Model) -> list[type]:
    return [type(layer) for layer in model._flatten_layers()]


@pytest.mark.parametrize(
    "converted",
    [contextlib.nullcontext, lambda model: contextlib.nullcontext(lstm_fast.to_keras(model)), lstm_fast.as_keras],
    ids=["as_it_is", "to_keras", "as_keras"],
)
@pytest.mark.backends("tensorflow", "jax")
def test_exported_model_runs_without_this_package(
    converted: Callable[[Any], contextlib.AbstractContextManager[Any]], tmp_path: pathlib.Path
) -> None:
    model = make_model()
    before = classes(model)
    x = np.random.default_rng(0).integers(0, 30, (4, 9)).astype(np.int32)
    expected = model.predict(x, verbose=0)
    with converted(model) as plain:
        assert plain is model
        fast = set(classes(plain)) & {lstm_fast.FastLSTM, lstm_fast.FastRNN, lstm_fast.FastBidirectional}
        assert bool(fast) == (converted is contextlib.nullcontext)
        plain.export(tmp_path / "model", verbose=False)
    assert_serves(tmp_path, x, expected)
    if converted in (contextlib.nullcontext, lstm_fast.as_keras):
        assert classes(model) == before
        with fused(3):
            np.testing.assert_array_equal(model.predict(x, verbose=0), expected)


def test_onnx_file_runs_without_this_package(tmp_path: pathlib.Path) -> None:
    """The converter would write an op that ONNX does not have, and report success."""
    pytest.importorskip("tf2onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    model = make_model()
    x = np.random.default_rng(0).integers(0, 30, (4, 9)).astype(np.int32)
    with fused(3):
        expected = model.predict(x, verbose=0)
    model.export(tmp_path / "model.onnx", format="onnx", verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (found,) = session.run(None, {session.get_inputs()[0].name: x})
    np.testing.assert_allclose(found, expected, rtol=0.0, atol=tolerances.between_layers("float32", x.size, expected))


def test_tensorflow_saves_as_keras(tmp_path: pathlib.Path) -> None:
    """A function is traced when it is saved. One that was traced before does not change."""
    import tensorflow as tf

    model = make_model()
    x = np.random.default_rng(0).integers(0, 30, (4, 9)).astype(np.int32)
    expected = model.predict(x, verbose=0)
    module = tf.Module()
    module.model = model
    module.serve = tf.function(model.call, input_signature=[tf.TensorSpec((None, None), tf.int32)])
    tf.saved_model.save(module, tmp_path / "model")
    assert b"LstmFast" not in (tmp_path / "model" / "saved_model.pb").read_bytes()
    assert_serves(tmp_path, x, expected)


@pytest.mark.backends("tensorflow", "jax", "torch")
@pytest.mark.fast
def test_as_keras_is_over_after_an_exception() -> None:
    model = make_model()
    model.layers[-1].recompute = True
    before = classes(model)
    x = np.random.default_rng(0).integers(0, 30, (4, 9)).astype(np.int32)
    expected = model.predict(x, verbose=0)
    variables = list(map(id, model.variables))

    def fails() -> None:
        with lstm_fast.as_keras(model):
            tolerance = tolerances.between_layers("float32", x.size, expected)
            np.testing.assert_allclose(model.predict(x, verbose=0), expected, rtol=0.0, atol=tolerance)
            raise ZeroDivisionError

    with fused(0), pytest.raises(ZeroDivisionError):
        fails()
    assert classes(model) == before
    assert model.layers[-1].recompute
    assert list(map(id, model.variables)) == variables
    with fused(3):
        np.testing.assert_array_equal(model.predict(x, verbose=0), expected)
