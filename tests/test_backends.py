"""What a Keras backend requires beyond the numbers: shapes without data, calls without state, compilation, Keras's own
shortcuts, imports, files that go from one backend to another.
"""

import os
import pathlib
import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tolerances
from cases import assert_same_bits, make_problem, with_other_bytes
from keras_side import BACKEND, MODES, fused, keras_copy, solve_by_layer, to_numpy

import lstm_fast
from lstm_fast import FastBidirectional, FastLSTM
from lstm_fast.fused import use_cudnn_of
from lstm_fast.layers import directions_of

pytestmark = pytest.mark.backends("tensorflow", "jax", "torch")

BATCH, TIME, FEATURES, UNITS = 3, 5, 4, 6
TERMS = BATCH * TIME * (FEATURES + UNITS)

FRAMEWORKS = ("tensorflow", "jax", "torch")

WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "lstm": lambda layer: layer,
    "FastBidirectional": FastBidirectional,
    "Bidirectional": keras.layers.Bidirectional,
}
wrappers = pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((BATCH, TIME, FEATURES)).astype(np.float32)


def run_python(script: str, *arguments: Any, backend: str = BACKEND, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        env={**os.environ, "KERAS_BACKEND": backend, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# Symbols


@wrappers
def test_shapes_of_a_model_that_calls_the_layer_itself(wrap: Callable[[Any], Any], x: np.ndarray) -> None:
    """Keras infers the shapes of such a layer by a call, with its backend's placeholders for data."""

    class Own(keras.layers.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.inner = wrap(FastLSTM(UNITS, return_sequences=True))

        def build(self, shape: Any) -> None:
            self.inner.build(shape)

        def call(self, x: Any) -> Any:
            return 2.0 * self.inner(x)

    inputs = keras.Input((None, FEATURES))
    with fused(forward=0):
        outputs = Own()(inputs)
    directions = 1 if outputs.shape[-1] == UNITS else 2
    assert outputs.shape == (None, None, directions * UNITS)
    assert outputs.dtype == "float32"
    model = keras.Model(inputs, outputs)
    passes = 2 if wrap is keras.layers.Bidirectional else 1
    with fused(forward=passes):
        assert model(x).shape == (BATCH, TIME, directions * UNITS)


@pytest.mark.fast
def test_symbolic_output_has_the_layers_dtype() -> None:
    for policy, dtype in (("float32", "float32"), ("mixed_bfloat16", "bfloat16")):
        for layer in (
            FastLSTM(UNITS, return_state=True, dtype=policy),
            FastBidirectional(FastLSTM(UNITS, dtype=policy)),
        ):
            symbols = keras.tree.flatten(layer(keras.Input((TIME, FEATURES))))
            if isinstance(layer, FastLSTM):
                assert [(symbol.shape, symbol.dtype) for symbol in symbols] == [((None, UNITS), dtype)] * 3
            else:
                assert symbols[0].shape == (None, 2 * UNITS)


# Calls without state


@wrappers
def test_stateless_call(wrap: Callable[[Any], Any], x: np.ndarray) -> None:
    """The values of variables are arguments and results; the layer's own variables do not change."""
    layer = wrap(FastLSTM(UNITS, dropout=0.5, seed=3))
    layer.build(x.shape)
    trainable = [variable.value for variable in layer.trainable_variables]
    states = [variable.value for variable in layer.non_trainable_variables]
    before = [to_numpy(value) for value in states]
    first, after = layer.stateless_call(trainable, states, x, training=True)
    for variable, value in zip(layer.non_trainable_variables, before, strict=True):
        np.testing.assert_array_equal(to_numpy(variable), value)
    assert any((to_numpy(a) != b).any() for a, b in zip(after, before, strict=True))
    again, _ = layer.stateless_call(trainable, states, x, training=True)
    np.testing.assert_array_equal(to_numpy(first), to_numpy(again))
    second, _ = layer.stateless_call(trainable, after, x, training=True)
    np.testing.assert_array_equal(to_numpy(layer(x, training=True)), to_numpy(first))
    np.testing.assert_array_equal(to_numpy(layer(x, training=True)), to_numpy(second))


# Keras's shortcuts


@pytest.mark.backends("jax", "torch")
@pytest.mark.parametrize("wrapper", [FastBidirectional, keras.layers.Bidirectional])
def test_cudnn_does_not_take_the_layers_place(wrapper: type, x: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine with a GPU, Keras would call cuDNN for both directions of a Bidirectional."""
    layer, plain = wrapper(FastLSTM(UNITS)), keras.layers.Bidirectional(keras.layers.LSTM(UNITS))
    for each in (layer, plain):
        each.build(x.shape)
    before = to_numpy(layer(x))
    calls = []

    def cudnn(*args: Any, **_: Any) -> Any:
        calls.append(args)
        output = keras.ops.zeros((BATCH, UNITS))
        return ((output, output[:, None], [output] * 2),) * 2

    monkeypatch.setattr(keras.src.backend, "bidirectional_lstm", cudnn)
    assert not to_numpy(plain(x)).any()
    assert len(calls) == 1
    with fused(forward=1 if wrapper is FastBidirectional else 2):
        np.testing.assert_array_equal(to_numpy(layer(x)), before)
    assert len(calls) == 1
    # If the layers run as Keras's, FastBidirectional uses cuDNN as Keras does, and says so.
    monkeypatch.setenv("LSTM_FAST_KERNEL", "keras")
    counted = lstm_fast.status().fallbacks.get("LSTM_FAST_KERNEL=keras", 0)
    assert to_numpy(layer(x)).any() == (wrapper is keras.layers.Bidirectional)
    assert lstm_fast.status().fallbacks["LSTM_FAST_KERNEL=keras"] == counted + 2


@pytest.mark.parametrize("use_cudnn", ["auto", False, True])
@pytest.mark.fast
def test_use_cudnn_is_kept(use_cudnn: Any) -> None:
    layer, plain = (layer_class(UNITS, use_cudnn=use_cudnn) for layer_class in (FastLSTM, keras.layers.LSTM))
    for kept in (
        layer,
        FastLSTM.from_config(layer.get_config()),
        FastBidirectional(layer).forward_layer,
        FastBidirectional(plain).backward_layer,
        keras.layers.Bidirectional(layer).backward_layer,
        lstm_fast.accelerate(keras.layers.Bidirectional(plain)).forward_layer,
        lstm_fast.accelerate(plain),
    ):
        assert use_cudnn_of(kept) == use_cudnn
        assert type(kept) is FastLSTM
        assert lstm_fast.to_keras(kept).use_cudnn == use_cudnn
        assert use_cudnn_of(lstm_fast.accelerate(kept)) == use_cudnn
    # Outside calls that run as Keras's, only a wrapper that tries the kernels first may see it.
    assert not any(direction.use_cudnn for direction in (layer, *directions_of(keras.layers.Bidirectional(layer))))
    assert all(direction.use_cudnn == use_cudnn for direction in directions_of(FastBidirectional(layer)))
    for wrapper in (FastBidirectional, keras.layers.Bidirectional):
        for direction in directions_of(lstm_fast.to_keras(wrapper(layer))):
            assert (type(direction), direction.use_cudnn) == (keras.layers.LSTM, use_cudnn)


# Compilation


@pytest.mark.fast
def test_jit_compile_auto() -> None:
    model = keras.Sequential([keras.Input((TIME, FEATURES)), FastBidirectional(FastLSTM(UNITS)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    assert model.jit_compile == (BACKEND == "jax")
    model.compile("sgd", "mse", jit_compile=True)
    assert model.jit_compile
    plain = keras_copy(model)
    plain.compile("sgd", "mse")
    assert plain.jit_compile == (BACKEND == "jax")
    lstm_fast.accelerate(plain).compile("sgd", "mse")
    assert plain.jit_compile == (BACKEND == "jax")


@pytest.mark.backends("tensorflow")
@pytest.mark.parametrize("options", [{}, {"use_bias": False}, {"use_cudnn": False}], ids=str)
def test_jit_compile_auto_with_a_gpu(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """With a GPU, Keras would have XLA compile the model anew for every padded length."""
    import tensorflow as tf

    devices = [*tf.config.list_physical_devices("CPU"), tf.config.PhysicalDevice("/physical_device:GPU:0", "GPU")]
    monkeypatch.setattr(
        tf.config, "list_physical_devices", lambda kind=None: [d for d in devices if kind in (None, d.device_type)]
    )

    def resolved(layer: keras.Layer) -> bool:
        model = keras.Sequential([keras.Input((TIME, FEATURES)), layer])
        model.compile("sgd", "mse")
        return model.jit_compile

    assert resolved(keras.layers.SimpleRNN(UNITS))  # without the layer, Keras compiles
    assert not resolved(FastLSTM(UNITS, **options))
    assert not resolved(FastBidirectional(FastLSTM(UNITS, **options)))
    assert not resolved(keras.layers.Bidirectional(FastLSTM(UNITS, **options)))
    plain = keras.layers.LSTM(UNITS, **options)
    before = resolved(plain)
    assert not resolved(lstm_fast.accelerate(plain))
    assert resolved(lstm_fast.to_keras(plain)) == before


# Imports


def test_import_brings_in_no_other_framework() -> None:
    """It also does not import the command line, the worked example and their packages."""
    run_python(
        """
        import sys
        import keras
        before = set(sys.modules)
        import lstm_fast
        new = {name.partition(".")[0] for name in set(sys.modules) - before}
        assert new <= {"lstm_fast"} | sys.stdlib_module_names, new
        loaded = {name for name in sys.modules if name.startswith("lstm_fast.")}
        of_command = ("lstm_fast.text", "lstm_fast.cli", "lstm_fast.commands")
        assert not {name for name in loaded if name.startswith(of_command)}, loaded
        assert "lstm_fast._core" not in loaded
        """
    )


@pytest.mark.backends("tensorflow")
@pytest.mark.parametrize("other", [name for name in FRAMEWORKS if name != "tensorflow"])
def test_a_file_goes_from_one_backend_to_another(other: str, tmp_path: pathlib.Path) -> None:
    pytest.importorskip(other)
    rng = np.random.default_rng(0)
    ids = np.where(np.arange(TIME) < rng.integers(1, TIME, (BATCH, 1)), rng.integers(1, 20, (BATCH, TIME)), 0)
    np.save(tmp_path / "ids.npy", ids)
    model = keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            keras.layers.Embedding(20, FEATURES, mask_zero=True),
            FastBidirectional(FastLSTM(UNITS, return_sequences=True)),
            keras.layers.Bidirectional(FastLSTM(UNITS, return_sequences=True, recompute=True), merge_mode="sum"),
            FastLSTM(UNITS, go_backwards=True),
        ]
    )
    model.save(tmp_path / "model.keras")
    with fused(forward=4):
        expected = model.predict(ids, verbose=0)
    calls = run_python(
        """
        import sys
        import keras, numpy as np, lstm_fast
        folder = sys.argv[1]
        model = keras.models.load_model(folder + "/model.keras")
        np.save(folder + "/found.npy", model.predict(np.load(folder + "/ids.npy"), verbose=0))
        model.save(folder + "/back.keras")
        print(lstm_fast.status().fused_calls["forward"])
        """,
        tmp_path,
        backend=other,
    )
    assert int(calls.splitlines()[-1]) == 4
    tolerance = tolerances.between_layers("float32", TERMS, expected)
    np.testing.assert_allclose(np.load(tmp_path / "found.npy"), expected, rtol=0.0, atol=tolerance)
    back = keras.models.load_model(tmp_path / "back.keras")
    assert back.to_json() == model.to_json()
    np.testing.assert_array_equal(back.predict(ids, verbose=0), expected)


# Masks


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gradients_with_a_mask_whose_true_is_not_1(dtype: str, mode: str) -> None:
    problem = make_problem(BATCH, TIME, FEATURES, UNITS, mask="holes", dtype=dtype)
    with fused(forward=2, backward=2):
        other, one = (solve_by_layer(each, FastLSTM, mode) for each in (with_other_bytes(problem), problem))
    assert_same_bits(other, one)


@wrappers
def test_a_mask_whose_true_is_not_1(wrap: Callable[[Any], Any], x: np.ndarray) -> None:
    layer = wrap(FastLSTM(UNITS, return_sequences=True))
    real = np.random.default_rng(1).random((BATCH, TIME)) < 0.6
    odd = np.where(real, 255 - np.arange(TIME), 0).astype(np.uint8).view(bool)
    to_numpy(layer(x))  # builds it, and waits: JAX would still compute while the next calls are counted
    with fused(forward=2 * (1 + isinstance(layer, keras.layers.Bidirectional) - isinstance(layer, FastBidirectional))):
        expected, found = (to_numpy(layer(x, mask=keras.ops.convert_to_tensor(mask))) for mask in (real, odd))
    np.testing.assert_array_equal(found, expected)
