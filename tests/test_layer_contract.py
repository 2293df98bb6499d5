"""The contract of FastLSTM and FastBidirectional beyond the numbers: construction, configs, files, the choice of the
path, its reasons, and errors for bad arguments. Parity is in test_parity_*.py.
"""

import doctest
import inspect
import logging
import pathlib
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import keras
import numpy as np
import pytest
import tolerances
from keras_side import BACKEND, MODES, framework, fused, keras_copy, run, to_numpy

import lstm_fast
from lstm_fast import FastBidirectional, FastLSTM
from lstm_fast import fused as fused_layers

pytestmark = pytest.mark.backends("tensorflow", "jax", "torch")

BATCH, TIME, FEATURES, UNITS = 3, 5, 4, 6
TERMS = BATCH * TIME * (FEATURES + UNITS)

OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "all": {
        "use_bias": False,
        "kernel_initializer": "he_normal",
        "kernel_regularizer": "l2",
        "recurrent_constraint": "max_norm",
        "dropout": 0.1,
        "recurrent_dropout": 0.2,
        "seed": 7,
        "return_sequences": True,
        "return_state": True,
        "go_backwards": True,
        "zero_output_for_mask": True,
        "recompute": True,
        "dtype": "mixed_bfloat16",
        "name": "all",
    },
    "activations": {"activation": "relu", "recurrent_activation": "hard_sigmoid", "unroll": True, "stateful": True},
}


@pytest.fixture
def fallback_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LSTM_FAST_KERNEL", "auto")


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((BATCH, TIME, FEATURES)).astype(np.float32)


def pair(units: int = UNITS, **options: Any) -> tuple[keras.layers.LSTM, FastLSTM]:
    """Keras's layer and ours with the same weights."""
    plain, fast = keras.layers.LSTM(units, **options), FastLSTM(units, **options)
    for layer in (plain, fast):
        layer.build((BATCH, TIME, FEATURES))
    fast.set_weights(plain.get_weights())
    return plain, fast


def assert_close(found: Any, expected: Any) -> None:
    found, expected = to_numpy(found), to_numpy(expected)
    np.testing.assert_allclose(found, expected, rtol=0.0, atol=tolerances.between_layers("float32", TERMS, expected))


def model_of(*layers: keras.Layer) -> keras.Sequential:
    return keras.Sequential([keras.Input((None, FEATURES)), *layers, keras.layers.Dense(1)])


@pytest.mark.parametrize("name", ["FastLSTM", "FastRNN", "FastBidirectional", "lstm"])
def test_documented_examples_run(name: str) -> None:
    finder, runner = doctest.DocTestFinder(recurse=False), doctest.DocTestRunner()
    (example,) = finder.find(getattr(lstm_fast, name), name, globs={"np": np, "keras": keras, "lstm_fast": lstm_fast})
    assert runner.run(example).failed == 0
    assert runner.tries > 0


# Construction, configs, files


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.fast
def test_config_round_trip(options: dict[str, Any]) -> None:
    layer = FastLSTM(UNITS, **options)
    assert FastLSTM.from_config(layer.get_config()).get_config() == layer.get_config()
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert type(again) is FastLSTM
    assert again.get_config() == layer.get_config()


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_bidirectional_config_round_trip(options: dict[str, Any]) -> None:
    layer = FastBidirectional(FastLSTM(UNITS, **{**options, "go_backwards": False}), merge_mode="sum")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert type(again) is FastBidirectional
    assert type(again.forward_layer) is type(again.backward_layer) is FastLSTM
    assert again.get_config() == layer.get_config()


def test_positional_arguments_are_those_of_keras() -> None:
    layer = FastLSTM(UNITS, "relu", "hard_sigmoid", False)
    assert (layer.activation, layer.recurrent_activation) == (keras.activations.relu, keras.activations.hard_sigmoid)
    assert not layer.use_bias


@pytest.mark.parametrize("units", [0, -3])
def test_units_must_be_positive(units: int) -> None:
    with pytest.raises(ValueError, match=f"`units`: expected a positive integer, found {units}"):
        FastLSTM(units)


@pytest.mark.parametrize("units", ["64", 2.5, 4.0, None, True, np.True_, [3]])
def test_units_must_be_an_integer(units: Any) -> None:
    with pytest.raises(TypeError, match=f"`units`: expected a positive integer, found {re.escape(repr(units))}"):
        FastLSTM(units)


def test_units_may_be_an_integer_of_any_library() -> None:
    layer = FastLSTM(np.int64(UNITS))
    assert type(layer.units) is int
    assert layer.get_config()["units"] == UNITS


@pytest.mark.parametrize("name", ["dropout", "recurrent_dropout"])
@pytest.mark.parametrize(
    ("share", "error"),
    [
        (20, ValueError),
        (-0.1, ValueError),
        (float("nan"), ValueError),
        ("a", TypeError),
        (None, TypeError),
        (True, TypeError),
    ],
)
def test_dropout_must_be_a_share(name: str, share: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=f"`{name}`: expected a number from 0 to 1, found "):
        FastLSTM(UNITS, **{name: share})
    for share, taken in ((np.float32(0.5), 0.5), (0.3 - 3 * 0.1, 0.0), (np.float32(1.0000001), 1.0)):
        assert getattr(FastLSTM(UNITS, **{name: share}), name) == taken


def test_dropout_is_checked_in_its_position_as_well() -> None:
    parameters = inspect.signature(keras.layers.LSTM.__init__).parameters
    before = [parameter.default for parameter in parameters.values()][2 : list(parameters).index("dropout")]
    with pytest.raises(ValueError, match="`dropout`: expected a number from 0 to 1, found 7"):
        FastLSTM(UNITS, *before, 7)


@pytest.mark.parametrize("make", [lambda: keras.layers.Dense(3), lambda: FastBidirectional(FastLSTM(UNITS))])
def test_what_has_no_direction_cannot_run_in_both(make: Callable[[], Any]) -> None:
    with pytest.raises(TypeError, match="`layer`: expected a recurrent layer, such as FastLSTM, found <"):
        FastBidirectional(make())
    with pytest.raises(TypeError, match="`backward_layer`: expected a recurrent layer, such as FastLSTM, found <"):
        FastBidirectional(FastLSTM(UNITS), backward_layer=make())


def test_unknown_arguments_are_refused() -> None:
    with pytest.raises((TypeError, ValueError), match="colour"):
        FastLSTM(UNITS, colour="blue")


FILES: dict[str, Callable[[type], keras.Sequential]] = {
    "lstm": lambda lstm: model_of(lstm(3, return_sequences=True), lstm(UNITS)),
    "bidirectional": lambda lstm: model_of(
        (FastBidirectional if lstm is FastLSTM else keras.layers.Bidirectional)(lstm(UNITS))
    ),
    "keras_bidirectional": lambda lstm: model_of(keras.layers.Bidirectional(lstm(UNITS))),
    "time_distributed": lambda lstm: keras.Sequential(
        [keras.Input((None, TIME, FEATURES)), keras.layers.TimeDistributed(lstm(UNITS))]
    ),
}


@pytest.mark.parametrize("make", FILES.values(), ids=FILES)
@pytest.mark.parametrize(("source", "target"), [(FastLSTM, keras.layers.LSTM), (keras.layers.LSTM, FastLSTM)])
def test_weights_files_fit_both_ways(
    make: Callable[[type], keras.Sequential], source: type, target: type, tmp_path: pathlib.Path
) -> None:
    saved, loaded = make(source), make(target)
    saved.save_weights(tmp_path / "model.weights.h5")
    loaded.load_weights(tmp_path / "model.weights.h5")
    for a, b in zip(saved.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("make", FILES.values(), ids=FILES)
@pytest.mark.fast
def test_keras_file_round_trip(make: Callable[[type], keras.Sequential], tmp_path: pathlib.Path) -> None:
    model = make(FastLSTM)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.to_json() == model.to_json()
    assert [type(layer) for layer in loaded.layers] == [type(layer) for layer in model.layers]
    inputs = np.ones((BATCH, *(TIME if size is None else size for size in model.input_shape[1:])), np.float32)
    np.testing.assert_array_equal(to_numpy(loaded(inputs)), to_numpy(model(inputs)))


def test_variables_have_keras_paths() -> None:
    plain, fast = pair(name="lstm")
    weights = [[weight.path for weight in layer.weights] for layer in (plain, fast)]
    assert weights[0] == weights[1]


# The choice of the path

FALLBACKS: dict[str, tuple[dict[str, Any], str]] = {
    "activation": ({"activation": "relu"}, "activation=relu"),
    "recurrent_activation": ({"recurrent_activation": "hard_sigmoid"}, "recurrent_activation=hard_sigmoid"),
    "unroll": ({"unroll": True}, "unroll=True"),
}


@pytest.mark.usefixtures("fallback_allowed")
@pytest.mark.parametrize(("options", "reason"), FALLBACKS.values(), ids=FALLBACKS)
def test_falls_back_with_a_reason(
    options: dict[str, Any], reason: str, x: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    plain, fast = pair(**options)
    with caplog.at_level(logging.INFO, "lstm_fast"):
        before = count(reason)
        np.testing.assert_array_equal(to_numpy(fast(x)), to_numpy(plain(x)))
        fast(x)
    assert count(reason) == before + 2
    assert sum(reason in record.getMessage() for record in caplog.records) == (before == 0)


def count(reason: str) -> int:
    return sum(n for key, n in lstm_fast.status().fallbacks.items() if key.startswith(reason))


@pytest.mark.parametrize(("options", "reason"), FALLBACKS.values(), ids=FALLBACKS)
@pytest.mark.parametrize("wrap", [lambda layer: layer, FastBidirectional], ids=["lstm", "bidirectional"])
@pytest.mark.fast
def test_fallback_is_an_error_on_request(
    wrap: Callable[[Any], Any], options: dict[str, Any], reason: str, x: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LSTM_FAST_KERNEL", "fused")
    with pytest.raises(RuntimeError, match=f"LSTM_FAST_KERNEL=fused.*{reason}"):
        wrap(FastLSTM(UNITS, **options))(x)


def test_keras_path_on_request(x: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, fast = pair()
    monkeypatch.setenv("LSTM_FAST_KERNEL", "keras")
    before = count("LSTM_FAST_KERNEL=keras")
    np.testing.assert_array_equal(to_numpy(fast(x)), to_numpy(plain(x)))
    assert count("LSTM_FAST_KERNEL=keras") == before + 1


def test_unknown_kernel_mode(x: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = FastLSTM(UNITS)
    monkeypatch.setenv("LSTM_FAST_KERNEL", "turbo")
    with pytest.raises(ValueError, match="LSTM_FAST_KERNEL: expected one of auto, fused, keras, found 'turbo'"):
        layer(x)
    assert any("turbo" in problem for problem in lstm_fast.status().problems)


@pytest.mark.usefixtures("fallback_allowed")
def test_a_fallback_changes_nothing_that_other_threads_see(x: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = FastLSTM(UNITS, activation="relu", use_cudnn="auto")
    layer.build(x.shape)
    threads, seen = 4, []
    inside, looked = threading.Barrier(threads + 1, timeout=60), threading.Barrier(threads + 1, timeout=60)

    def inner_loop(self: FastLSTM, sequences: Any, initial_state: Any, mask: Any, training: bool = False) -> Any:
        seen.append(self.use_cudnn)
        inside.wait()
        looked.wait()
        return keras.layers.RNN.inner_loop(self, sequences, initial_state, mask, training)

    monkeypatch.setattr(keras.layers.LSTM, "inner_loop", inner_loop)
    with ThreadPoolExecutor(threads) as pool:
        calls = [pool.submit(layer, x) for _ in range(threads)]
        inside.wait()
        shown = layer.use_cudnn
        looked.wait()
        results = [to_numpy(call.result()) for call in calls]
    assert (seen, shown, layer.use_cudnn) == (["auto"] * threads, False, False)
    for result in results:
        np.testing.assert_array_equal(result, results[0])


def test_a_loop_of_the_users_own_is_no_fallback(x: np.ndarray) -> None:
    class Own(FastLSTM):
        def inner_loop(self, sequences: Any, *args: Any, **kwargs: Any) -> Any:
            return keras.layers.RNN.inner_loop(self, sequences, *args, **kwargs)

    plain, own = pair()[0], Own(UNITS)
    own.build(x.shape)
    plain.build(x.shape)
    own.set_weights(plain.get_weights())
    with fused(0):
        assert_close(own(x), plain(x))


def test_a_keras_that_calls_cudnn_by_another_method_is_not_shown_it(
    x: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"activity_regularizer": "l2"}  # two calls, one after the other
    layer = FastBidirectional(FastLSTM(UNITS, **options))
    layer.build(x.shape)
    call, shown = keras.layers.Bidirectional.call, []

    def seen() -> tuple[Any, Any]:
        return layer.forward_layer.use_cudnn, layer.backward_layer.use_cudnn

    def recorded(self: FastBidirectional, *args: Any, **kwargs: Any) -> Any:
        shown.append(seen())
        return call(self, *args, **kwargs)

    monkeypatch.setattr(keras.layers.Bidirectional, "call", recorded)
    monkeypatch.setattr(keras.layers.Bidirectional, "_call_fused_lstm", None, raising=False)
    with fused(2):
        layer(x)
    monkeypatch.delattr(keras.layers.Bidirectional, "_call_fused_lstm")
    with fused(2):
        layer(x)
    assert shown == [("auto", "auto"), (False, False)]
    assert seen() == (False, False)


@pytest.mark.backends("tensorflow", "jax")  # torch.compile is slow: its test is in test_torch.py
@pytest.mark.parametrize("wrap", [lambda layer: layer, FastBidirectional], ids=["lstm", "bidirectional"])
def test_jit_compile_runs_fused(wrap: Callable[[Any], Any], x: np.ndarray) -> None:
    model = model_of(wrap(FastLSTM(UNITS)))
    model.compile("sgd", "mse", jit_compile=True)
    assert model.jit_compile
    with fused(forward=1, backward=1):
        model.fit(x, np.zeros((BATCH, 1)), verbose=0)
    with fused(forward=1):
        predicted = model.predict(x, verbose=0)
    assert_close(predicted, model(x))


@pytest.mark.backends("tensorflow")
def test_gradient_of_gradient_is_refused(x: np.ndarray) -> None:
    import tensorflow as tf

    layer, inputs = FastLSTM(UNITS), tf.constant(x)
    with tf.GradientTape() as outer:
        outer.watch(inputs)
        with tf.GradientTape() as inner:
            inner.watch(inputs)
            y = layer(inputs)
        gradient = inner.gradient(y, inputs)
    with pytest.raises(NotImplementedError, match="gradients of gradients"):
        outer.gradient(gradient, inputs)


BIDIRECTIONAL_CALLS: dict[str, tuple[Callable[[], keras.Layer], int]] = {
    "one": (lambda: FastBidirectional(FastLSTM(UNITS)), 1),
    "keras_inside": (lambda: FastBidirectional(keras.layers.LSTM(UNITS)), 1),
    "no_bias_backward": (
        lambda: FastBidirectional(
            FastLSTM(UNITS), backward_layer=keras.layers.LSTM(UNITS, use_bias=False, go_backwards=True)
        ),
        1,
    ),
    "keras_outside": (lambda: keras.layers.Bidirectional(FastLSTM(UNITS)), 2),
    "different_units": (
        lambda: FastBidirectional(FastLSTM(UNITS), backward_layer=FastLSTM(UNITS + 1, go_backwards=True)),
        2,
    ),
    "forward_backwards": (
        lambda: FastBidirectional(FastLSTM(UNITS, go_backwards=True), backward_layer=FastLSTM(UNITS)),
        2,
    ),
    "activity_regularizer": (lambda: FastBidirectional(FastLSTM(UNITS, activity_regularizer="l2")), 2),
    "other_dtype": (lambda: FastBidirectional(FastLSTM(UNITS, dtype="mixed_bfloat16")), 2),
}


@pytest.mark.parametrize(("make", "calls"), BIDIRECTIONAL_CALLS.values(), ids=BIDIRECTIONAL_CALLS)
def test_bidirectional_kernel_calls(make: Callable[[], keras.Layer], calls: int, x: np.ndarray) -> None:
    layer = make()
    layer.build(x.shape)
    with fused(forward=calls):
        y = layer(x)
    assert len(layer.losses) == 2 * (layer.forward_layer.activity_regularizer is not None)
    plain = keras_copy(layer)
    assert type(plain) is keras.layers.Bidirectional
    y, expected = to_numpy(y), to_numpy(plain(x))
    dtype = layer.forward_layer.compute_dtype
    np.testing.assert_allclose(y, expected, rtol=0.0, atol=tolerances.between_layers(dtype, TERMS, expected))


def test_bidirectional_around_another_layer(x: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, reason = FastBidirectional(keras.layers.GRU(UNITS)), "GRU in FastBidirectional"
    with pytest.raises(RuntimeError, match=f"LSTM_FAST_KERNEL=fused.*{reason}"):
        layer(x)
    monkeypatch.setenv("LSTM_FAST_KERNEL", "auto")
    before = count(reason)
    assert layer(x).shape == (BATCH, 2 * UNITS)
    assert count(reason) == before + 2


def test_built_backward_layer_keeps_its_weights(x: np.ndarray) -> None:
    backward = keras.layers.LSTM(UNITS, go_backwards=True)
    backward.build(x.shape)
    before = backward.get_weights()
    layer = FastBidirectional(FastLSTM(UNITS), backward_layer=backward)
    layer.build(x.shape)
    assert layer.backward_layer is backward
    assert type(backward) is FastLSTM
    for found, expected in zip(backward.get_weights(), before, strict=True):
        np.testing.assert_array_equal(found, expected)


# Random numbers

DROPOUTS = [
    {"dropout": 0.4},
    {"dropout": 0.4, "implementation": 1, "use_cudnn": False},
    {"recurrent_dropout": 0.4},
    {"dropout": 0.4, "recurrent_dropout": 0.3},
    {"dropout": 1.0, "use_cudnn": False},  # with "auto", Keras 3.15 on PyTorch drops more than its cell
    {"recurrent_dropout": 1.0},
]


@pytest.mark.parametrize("options", DROPOUTS, ids=str)
def test_same_seed_same_masks(options: dict[str, Any], x: np.ndarray) -> None:
    plain, fast = pair(seed=11, **options)
    for training in (True, False, True):
        assert_close(fast(x, training=training), plain(x, training=training))


@pytest.mark.parametrize("options", DROPOUTS[::2], ids=str)
def test_bidirectional_same_seed_same_masks(options: dict[str, Any], x: np.ndarray) -> None:
    plain = keras.layers.Bidirectional(keras.layers.LSTM(UNITS, seed=11, **options))
    fast = FastBidirectional(FastLSTM(UNITS, seed=11, **options))
    for layer in (plain, fast):
        layer.build(x.shape)
    fast.set_weights(plain.get_weights())
    for training in (True, False, True):
        assert_close(fast(x, training=training), plain(x, training=training))


def test_no_dropout_mask_outlives_an_error(x: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = [FastLSTM(UNITS, dropout=0.5, activation="relu"), FastLSTM(UNITS, recurrent_dropout=0.5, unroll=True)]
    for layer in layers:
        monkeypatch.setenv("LSTM_FAST_KERNEL", "fused")
        with pytest.raises(RuntimeError):
            layer(x, training=True)
        monkeypatch.setenv("LSTM_FAST_KERNEL", "auto")
        assert layer(x[:1], training=True).shape == (1, UNITS)


# Empty and odd input


@pytest.mark.parametrize("return_sequences", [False, True])
@pytest.mark.parametrize("wrap", [lambda layer: layer, FastBidirectional], ids=["lstm", "bidirectional"])
def test_no_timesteps(wrap: Callable[[Any], Any], return_sequences: bool, x: np.ndarray) -> None:
    layer = wrap(FastLSTM(UNITS, return_sequences=return_sequences, return_state=True))
    layer.build(x.shape)
    directions = 1 if isinstance(layer, FastLSTM) else 2
    states = [np.full((BATCH, UNITS), i, np.float32) for i in range(2 * directions)]

    def check(output: Any, *last: Any) -> None:
        size = directions * UNITS
        expected = np.zeros((BATCH, 0, size) if return_sequences else (BATCH, size))
        if BACKEND == "jax" and not return_sequences:  # if no timestep is real, the output is the state
            expected = np.concatenate(states[::2], axis=-1)
        np.testing.assert_array_equal(to_numpy(output), expected)
        for found, state in zip(last, states, strict=True):
            np.testing.assert_array_equal(to_numpy(found), state)

    for mode in MODES:
        outputs, _ = run(layer, lambda x: layer(x, initial_state=states), [x[:, :0]], None, mode)
        check(*outputs)
    if BACKEND == "tensorflow":
        import tensorflow as tf

        signature = [tf.TensorSpec([None, None, FEATURES])]
        check(*tf.function(lambda x: layer(x, initial_state=states), input_signature=signature)(x[:, :0]))


def test_empty_batch(x: np.ndarray) -> None:
    assert FastLSTM(UNITS)(x[:0]).shape == (0, UNITS)
    assert FastBidirectional(FastLSTM(UNITS))(x[:0]).shape == (0, 2 * UNITS)


def test_integers_are_cast_as_in_keras(x: np.ndarray) -> None:
    plain, fast = pair()
    integers = (3 * x).astype(np.int64)
    assert_close(fast(integers), plain(integers))


def test_nan_stays_in_its_row(x: np.ndarray) -> None:
    x[1, 2, 3] = np.nan
    y = to_numpy(FastLSTM(UNITS, return_sequences=True)(x))
    nan = np.isnan(y).all(-1)
    assert nan[1, 2:].all()
    assert nan.sum() == TIME - 2
    assert not np.isnan(to_numpy(FastLSTM(UNITS)(x, mask=np.tile(np.arange(TIME) != 2, (BATCH, 1))))).any()


@pytest.mark.parametrize("dtype", [np.bool_, np.int32, np.float32])
@pytest.mark.parametrize("shape", [(BATCH, TIME), (BATCH, TIME, 1)])
def test_masks_of_any_dtype(dtype: type, shape: tuple[int, ...], x: np.ndarray) -> None:
    layer = FastLSTM(UNITS)
    mask = np.arange(TIME) < np.array([[1], [3], [5]])
    assert_close(layer(x, mask=mask.astype(dtype).reshape(shape)), layer(x, mask=mask))


# Bad arguments, of the layers and of the function under them

BAD_CALLS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "rank": ({"sequences": np.ones((BATCH, FEATURES))}, ValueError, "expected ndim=3, found ndim=2"),
    "features": (
        {"sequences": np.ones((BATCH, TIME, 2))},
        ValueError,
        r"`sequences`: .*features=4\), found \(3, 5, 2\)",
    ),
    "state count": ({"initial_state": [np.ones((BATCH, UNITS))] * 3}, ValueError, "`initial_state`: .*found 3"),
    "state shape": (
        {"initial_state": [np.ones((BATCH, UNITS)), np.ones((BATCH, 2))] * 2},
        ValueError,
        r"`initial_state\[1\]`: expected shape \(batch=3, units=6\), found \(3, 2\)",
    ),
    "mask shape": (
        {"mask": np.ones((BATCH, 2), bool)},
        ValueError,
        r"`mask`: expected shape \(batch=3, time=5\), found \(3, 2\)",
    ),
    "mask rank": ({"mask": np.ones((BATCH, TIME, 2, 2), bool)}, ValueError, r"`mask`: .*found \(3, 5, 2, 2\)"),
    "mask dtype": (
        {"mask": np.ones((BATCH, TIME), np.complex64)},
        TypeError,
        "`mask`: expected a boolean .* found complex64",
    ),
}


@pytest.mark.parametrize(("arguments", "error", "message"), BAD_CALLS.values(), ids=BAD_CALLS)
@pytest.mark.parametrize("wrap", [lambda layer: layer, FastBidirectional], ids=["lstm", "bidirectional"])
@pytest.mark.fast
def test_bad_call_arguments(
    wrap: Callable[[Any], Any], arguments: dict[str, Any], error: type[Exception], message: str, x: np.ndarray
) -> None:
    layer = wrap(FastLSTM(UNITS))
    layer.build(x.shape)
    before = layer.get_weights()
    if "initial_state" in arguments and isinstance(layer, FastLSTM) and len(arguments["initial_state"]) == 4:
        arguments = {"initial_state": arguments["initial_state"][:2]}
    with pytest.raises(error, match=message):
        layer(**{"sequences": x, **arguments})
    for found, expected in zip(layer.get_weights(), before, strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.backends("tensorflow")  # only its tensors may hold strings; on other backends Keras refuses them
def test_mask_of_strings(x: np.ndarray) -> None:
    with pytest.raises(TypeError, match=r"`mask`: expected a boolean .* found string"):
        FastLSTM(UNITS)(x, mask=np.full((BATCH, TIME), "yes"))


def test_feature_size_is_checked_symbolically(x: np.ndarray) -> None:
    layer = FastLSTM(UNITS)
    layer.build(x.shape)
    with pytest.raises(ValueError, match=r"`sequences`: .*features=4\), found \(None, None, 5\)"):
        layer(keras.Input((None, FEATURES + 1)))


@pytest.fixture
def parameters(x: np.ndarray) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    shapes = {"kernel": (FEATURES, 4 * UNITS), "recurrent_kernel": (UNITS, 4 * UNITS), "bias": (4 * UNITS,)}
    return {"x": x, **{name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}}


BAD_PARAMETERS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "x type": ({"x": [[[1.0]]]}, TypeError, "`x`: expected a tf.Tensor, .* found builtins.list"),
    "x rank": ({"x": np.ones((2, 3), np.float32)}, ValueError, r"`x`: expected shape \(batch, time, features\)"),
    "x dtype": ({"x": np.ones((BATCH, TIME, FEATURES), int)}, TypeError, "`x`: expected dtype float32 .* found int"),
    "kernel shape": ({"kernel": np.ones((2, 4 * UNITS), np.float32)}, ValueError, "`kernel`: .*features=4"),
    "kernel dtype": (
        {"kernel": np.ones((FEATURES, 4 * UNITS), np.float16)},
        TypeError,
        "`kernel`: .*float32, found float16",
    ),
    "recurrent shape": ({"recurrent_kernel": np.ones((UNITS, 5), np.float32)}, ValueError, "`recurrent_kernel`"),
    "no units": (
        {"kernel": np.ones((FEATURES, 0), np.float32), "recurrent_kernel": np.ones((0, 0), np.float32)},
        ValueError,
        "`recurrent_kernel`: expected at least 1 unit",
    ),
    "bias shape": ({"bias": np.ones(3, np.float32)}, ValueError, r"`bias`: expected shape \(4 \* units=24\)"),
    "state count": (
        {"initial_state": [np.ones((BATCH, UNITS), np.float32)]},
        ValueError,
        "`initial_state`: .* found 1",
    ),
    "kernel type": ({"kernel": object()}, TypeError, "`kernel`: object cannot be converted to the array type of `x`: "),
    "state type": ({"initial_state": np.ones((2, BATCH, UNITS))}, ValueError, "`initial_state`: .* found ndarray"),
    "dropout shape": (
        {"input_dropout": np.ones((BATCH, FEATURES), np.float32)},
        ValueError,
        r"`input_dropout`: expected shape \(gates=4, batch=3, features=4\)",
    ),
    "mask shape": ({"mask": np.ones((TIME, BATCH))}, ValueError, "`mask`: expected shape"),
}


@pytest.mark.parametrize(("arguments", "error", "message"), BAD_PARAMETERS.values(), ids=BAD_PARAMETERS)
@pytest.mark.parametrize("convert", [np.asarray, keras.ops.convert_to_tensor], ids=["numpy", "tensor"])
def test_bad_parameters(
    convert: Callable[[Any], Any],
    arguments: dict[str, Any],
    error: type[Exception],
    message: str,
    parameters: dict[str, Any],
) -> None:
    given = {**parameters, **arguments}
    if isinstance(given["x"], np.ndarray):
        given["x"] = convert(given["x"])
    with pytest.raises(error, match=message):
        lstm_fast.lstm(**given)


def test_symbolic_input_of_the_function(parameters: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=r"`x`: .*KerasTensor"):
        lstm_fast.lstm(**{**parameters, "x": keras.Input((TIME, FEATURES))})


@pytest.mark.parametrize("return_sequences", [False, True])
@pytest.mark.fast
def test_function_is_the_layer(return_sequences: bool, parameters: dict[str, Any]) -> None:
    x, *weights = parameters.values()
    layer = FastLSTM(UNITS, return_sequences=return_sequences, return_state=True)
    layer.build(x.shape)
    layer.set_weights(weights)
    options: dict[str, Any] = {
        "mask": np.arange(TIME) < np.array([[1], [3], [5]]),
        "initial_state": [np.full((BATCH, UNITS), 0.5, np.float32)] * 2,
    }
    expected = layer(x, **options)
    by_numpy = lstm_fast.lstm(x, *weights, return_sequences=return_sequences, **options)
    tensor = keras.ops.convert_to_tensor(x)
    by_tensor = lstm_fast.lstm(tensor, *weights, return_sequences=return_sequences, **options)
    for found_numpy, found_tensor, wanted in zip(by_numpy, by_tensor, expected, strict=True):
        assert isinstance(found_numpy, np.ndarray)
        assert type(found_tensor) is type(tensor)
        np.testing.assert_array_equal(found_numpy, to_numpy(wanted))
        np.testing.assert_array_equal(to_numpy(found_tensor), to_numpy(wanted))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("absent", [True, False])
def test_function_has_gradients(absent: bool, mode: str, parameters: dict[str, Any]) -> None:
    given = list(parameters.values())[: -1 if absent else None]
    with fused(forward=1, backward=1):
        _, gradients = framework.run(
            lambda *arrays: lstm_fast.lstm(*arrays)[0], given, [], [], lambda y: np.ones(tuple(y.shape)), mode
        )
    assert [gradient.shape for gradient in gradients] == [array.shape for array in given]
    assert all(to_numpy(gradient).any() for gradient in gradients)


class StartsElsewhere(FastLSTM):
    """A subclass with its own initial states, in the method through which keras.layers.RNN passes them."""

    def inner_loop(self, sequences: Any, initial_state: Any, mask: Any, training: bool | None = False) -> Any:
        return super().inner_loop(sequences, [state + 0.5 for state in initial_state], mask, training)


def states() -> list[np.ndarray]:
    return [np.full((BATCH, UNITS), 0.5, np.float32)] * 2


def test_subclass_may_change_the_states(x: np.ndarray) -> None:
    plain, _ = pair()
    changed = StartsElsewhere(UNITS)
    changed.build(x.shape)
    changed.set_weights(plain.get_weights())
    with fused(forward=1):
        found = changed(x)
    assert_close(found, plain(x, initial_state=states()))


def test_states_are_those_of_the_call(x: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call with states keeps them if another thread calls the layer without states. So does the next call."""
    plain, fast = pair()
    expected = plain(x, initial_state=states())
    choose, meanwhile = fused_layers.fallback, []

    def interrupted(layer: FastLSTM, sequences: Any, mask: Any) -> Any:
        if not meanwhile:
            meanwhile.append(None)
            with ThreadPoolExecutor() as pool:
                meanwhile.append(pool.submit(fast, x).result())
        return choose(layer, sequences, mask)

    monkeypatch.setattr(fused_layers, "fallback", interrupted)
    with fused(forward=2):
        found = fast(x, initial_state=states())
    assert_close(found, expected)
    assert_close(meanwhile[1], plain(x))
    given = [keras.ops.convert_to_tensor(state) for state in states()]
    with fused(forward=1):
        last, *_ = fast.inner_loop(sequences=keras.ops.convert_to_tensor(x), initial_state=given, mask=None)
    assert_close(last, expected)
