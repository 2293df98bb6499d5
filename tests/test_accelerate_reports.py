"""The parts of users' models beside their LSTMs, which `accelerate` and `to_keras` must not change.

Each test stands for something that went wrong when models were copied by their configs.
"""

import logging
import pathlib
import re
import types
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tolerances
from keras import ops
from keras_side import fused, to_numpy
from twins import (
    BACKEND,
    assert_changes_nothing,
    assert_close,
    assert_trains_alike,
    classes,
    computed,
    random,
)

import lstm_fast
from lstm_fast import FastBidirectional, FastLSTM, FastRNN, accelerate, as_keras, to_keras
from lstm_fast.layers import INSIDE, NO_LSTM

pytestmark = pytest.mark.backends("tensorflow", "jax", "torch")
with_strings = pytest.mark.backends("tensorflow")  # the other frameworks have no strings

K = keras.layers
BATCH, TIME, FEATURES, UNITS = 4, 5, 3, 2
JIT = "auto" if BACKEND == "jax" else False  # with TensorFlow, XLA takes seconds for each model: see test_xla.py
X, Y = random(BATCH, TIME, FEATURES), random(BATCH, 1, seed=1)


@pytest.fixture
def fallback_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LSTM_FAST_KERNEL", "auto")


def sequential(*layers: keras.Layer, shape: tuple[int | None, ...] = (TIME, FEATURES)) -> keras.Model:
    return keras.Sequential([keras.Input(shape), *layers])


def regression(**compiled: Any) -> Callable[[], keras.Model]:
    def make() -> keras.Model:
        model = sequential(K.LSTM(UNITS), K.Dense(1))
        model.compile(
            **{"optimizer": "adam", "loss": "mse", "jit_compile": JIT, **{k: v() for k, v in compiled.items()}}
        )
        return model

    return make


def fallbacks() -> str:
    return " ".join(lstm_fast.status().fallbacks)


# Layers with state that is not a plain variable


def adapted(data: np.ndarray, **kwargs: Any) -> keras.Layer:
    layer = K.Normalization(**kwargs)
    layer.adapt(data)
    return layer


FAR = 7.0 * X + 3.0


NORMALIZATIONS: dict[str, Callable[[], keras.Model]] = {
    "first": lambda: sequential(adapted(FAR), K.LSTM(UNITS)),
    "one_mean_for_all": lambda: sequential(adapted(FAR, axis=None), K.LSTM(UNITS)),
    "per_timestep": lambda: sequential(adapted(FAR, axis=(1, 2)), K.LSTM(UNITS)),
    "inverse_last": lambda: sequential(K.LSTM(FEATURES), adapted(FAR[:, 0], invert=True)),
    "nested": lambda: sequential(sequential(sequential(adapted(FAR), K.Dense(2))), K.LSTM(UNITS)),
    "time_distributed": lambda: sequential(K.TimeDistributed(adapted(FAR[:, 0])), K.LSTM(UNITS)),
    "given_as_arguments": lambda: sequential(K.Normalization(mean=3.0, variance=49.0), K.LSTM(UNITS)),
}


@pytest.mark.parametrize("make", NORMALIZATIONS.values(), ids=NORMALIZATIONS)
def test_adapted_normalization(make: Callable[[], keras.Model]) -> None:
    model = make()
    assert_changes_nothing(model, FAR, forward=1)
    parts = [part for part in model._flatten_layers() if isinstance(part, K.Normalization)]
    assert np.all(to_numpy(parts[0].mean) != 0.0)


@pytest.mark.backends("tensorflow", "torch")  # JAX compiles it for 20 s
def test_adapted_normalization_inside_of_a_model_of_keras_applications() -> None:
    images = np.random.default_rng(0).normal(90.0, 30.0, (2, 3, 32, 32, 3)).astype(np.float32)
    frames = keras.applications.EfficientNetB0(
        weights=None, include_top=False, input_shape=images.shape[2:], pooling="avg", name="frames"
    )
    norm = next(layer for layer in frames.layers if isinstance(layer, K.Normalization))
    norm.adapt(images[0] / 255.0)
    model = keras.Sequential([keras.Input(images.shape[1:]), K.TimeDistributed(frames), K.LSTM(UNITS)])
    assert_changes_nothing(model, images, forward=1)
    assert np.all(to_numpy(norm.mean) > 0.1)


def test_normalization_is_adapted_again_after_accelerate() -> None:
    model = accelerate(sequential(adapted(X), K.LSTM(UNITS)))
    model.layers[0].adapt(FAR)
    with fused(forward=1):
        found = computed(lambda: model(FAR))
    assert_close(found, computed(lambda: to_keras(model)(FAR)))
    np.testing.assert_allclose(to_numpy(model.layers[0].mean).ravel(), FAR.mean(axis=(0, 1)), rtol=1e-4)


@with_strings
@pytest.mark.parametrize("mode", ["int", "multi_hot", "count", "tf_idf"])
def test_adapted_text_vectorization(mode: str, tmp_path: pathlib.Path) -> None:
    import tensorflow as tf

    text = tf.constant(["a good film", "a bad film", "good good"])
    encoder = K.TextVectorization(output_mode=mode)
    encoder.adapt(text)
    words = encoder.get_vocabulary()
    lstm = [K.Embedding(9, 4, mask_zero=True), K.Bidirectional(K.LSTM(3))]
    if mode != "int":
        lstm = [K.Reshape((-1, 1)), K.LSTM(3)]
    model = keras.Sequential([keras.Input((), dtype="string"), encoder, *lstm])
    assert_changes_nothing(model, text, forward=1)
    accelerate(model)
    assert encoder.get_vocabulary() == words
    expected = computed(lambda: model(text))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert [cls for cls in classes(loaded) if cls in (FastLSTM, FastBidirectional)]
    assert_close(computed(lambda: loaded(text)), expected)


@with_strings
@pytest.mark.parametrize("mode", ["int", "one_hot"])
@pytest.mark.parametrize("kind", ["StringLookup", "IntegerLookup"])
def test_adapted_lookups(kind: str, mode: str) -> None:
    import tensorflow as tf

    values = [["up", "down", "up"], ["left", "up", "down"]] if kind == "StringLookup" else [[7, 42, 7], [1, 7, 42]]
    data = tf.constant(values)
    lookup = getattr(K, kind)(output_mode=mode)
    lookup.adapt(data)
    words = lookup.get_vocabulary()
    rest = [K.Embedding(9, 4), K.LSTM(3)] if mode == "int" else [K.LSTM(3)]
    model = keras.Sequential([keras.Input((3,), dtype=data.dtype.name), lookup, *rest])
    assert_changes_nothing(model, data, forward=1)
    assert lookup.get_vocabulary() == words


# Functions and classes of the user


def softmax(x: Any, axis: int = 1) -> Any:
    """Softmax over time, for the weights of attention. Keras's is over features."""
    return ops.softmax(x, axis=axis)


def relu(x: Any) -> Any:
    return ops.maximum(0.01 * x, x)


def gelu(x: Any) -> Any:
    return x * ops.sigmoid(1.5 * x)


def tanh(x: Any) -> Any:
    return 1.7159 * ops.tanh(2.0 / 3.0 * x)


def test_own_softmax_over_time() -> None:
    x = keras.Input((TIME, FEATURES))
    h = K.LSTM(UNITS, return_sequences=True)(x)
    weights = K.Activation(softmax)(K.Dense(1)(h))
    model = keras.Model(x, [weights, K.Dot(axes=1)([weights, h])])
    assert_changes_nothing(model, X, forward=1)
    found, _ = computed(lambda: accelerate(model)(X))
    np.testing.assert_allclose(found.sum(axis=1), 1.0, rtol=1e-5)
    assert np.all(found < 1.0)


@pytest.mark.parametrize("activation", [relu, gelu, tanh])
def test_own_activations_in_dense(activation: Any) -> None:
    model = sequential(K.LSTM(UNITS, return_sequences=True), K.Dense(4, activation), K.LSTM(UNITS))
    assert_changes_nothing(model, X, forward=2)
    assert model.layers[1].activation is activation


def sigmoid(x: Any) -> Any:
    return ops.clip(0.25 * x + 0.5, 0.0, 1.0)


OWN_ACTIVATIONS: dict[str, dict[str, Any]] = {
    "tanh": {"activation": tanh},
    "sigmoid": {"recurrent_activation": sigmoid},
}


def with_own(layer: Any, own: dict[str, Any]) -> Any:
    """Sets activations afterwards. Bidirectional would lose arguments, because it knows functions by name only."""
    for name, function in own.items():
        setattr(layer.cell, name, function)
    return layer


@pytest.mark.usefixtures("fallback_allowed")
@pytest.mark.parametrize("own", OWN_ACTIVATIONS.values(), ids=OWN_ACTIVATIONS)
@pytest.mark.parametrize("where", ["lstm", "rnn", "backward"])
def test_own_functions_with_the_names_of_the_kernels(where: str, own: dict[str, Any]) -> None:
    name, function = next(iter(own.items()))
    if where == "lstm":
        model = sequential(K.LSTM(UNITS, **own))
    elif where == "rnn":
        model = sequential(K.RNN([K.LSTMCell(UNITS), K.LSTMCell(UNITS, **own)]))
    else:
        model = sequential(K.Bidirectional(K.LSTM(UNITS)))
        with_own(model.layers[0].backward_layer, own)
    expected = computed(lambda: model(X))
    changed, report = accelerate(model, return_report=True)
    assert changed is model
    change = report[0]  # of the wrapper, if there is one
    assert change.done == "runs as Keras's"
    reason = f"{name}={function.__name__} of {__name__}, another function of this name: the kernel computes"
    assert reason in change.reason
    assert_close(computed(lambda: model(X)), expected)
    assert reason in fallbacks()


def frameworks_functions() -> list[tuple[Any, Any]]:
    """Functions of the framework that are tanh and sigmoid."""
    pairs = [(keras.ops.tanh, keras.ops.sigmoid), (keras.activations.tanh, keras.activations.sigmoid)]
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return [*pairs, (tf.nn.tanh, tf.sigmoid), (tf.tanh, tf.nn.sigmoid), (tf.math.tanh, tf.math.sigmoid)]
    if BACKEND == "jax":
        import jax

        return [*pairs, (jax.numpy.tanh, jax.nn.sigmoid), (jax.lax.tanh, jax.lax.logistic)]
    import torch

    return [*pairs, (torch.tanh, torch.sigmoid)]


@pytest.mark.parametrize(("activation", "recurrent_activation"), frameworks_functions())
def test_functions_of_the_framework_run_fused(activation: Any, recurrent_activation: Any) -> None:
    functions = {"activation": activation, "recurrent_activation": recurrent_activation}
    model = sequential(K.LSTM(UNITS, return_sequences=True, **functions), K.RNN(K.LSTMCell(UNITS, **functions)))
    assert_changes_nothing(model, X, forward=2)


class Twice(K.Layer):
    def call(self, x: Any) -> Any:
        return 2.0 * x


class OwnCell(K.LSTMCell):
    def call(self, inputs: Any, states: Any, training: bool = False) -> Any:
        h, (_, c) = super().call(inputs, states, training=training)
        return 0.5 * h + 0.5 * states[0], [0.5 * h + 0.5 * states[0], c]


class Ones(keras.initializers.Initializer):
    def __call__(self, shape: Any, dtype: Any = None) -> Any:
        return ops.ones(shape, dtype)


class Regularizer(keras.regularizers.Regularizer):
    def __call__(self, x: Any) -> Any:
        return 0.3 * ops.sum(ops.abs(x))


class Halved(keras.constraints.Constraint):
    def __call__(self, w: Any) -> Any:
        return 0.5 * w


def swish(x: Any) -> Any:
    return x * ops.sigmoid(2.0 * x)


BELOW: dict[str, tuple[Callable[[], keras.Layer], int]] = {
    "layer": (Twice, 1),
    "in_time_distributed": (lambda: K.TimeDistributed(Twice()), 1),
    "sequential_in_time_distributed": (lambda: K.TimeDistributed(keras.Sequential([Twice(), K.Dense(2)])), 1),
    "cell": (lambda: K.RNN(OwnCell(3)), 1),
    "cell_in_stack": (lambda: K.RNN([K.LSTMCell(3), OwnCell(3)]), 1),
    "initializer": (lambda: K.LSTM(3, kernel_initializer=Ones()), 2),
    "regularizer": (lambda: K.LSTM(3, kernel_regularizer=Regularizer()), 2),
    "activity_regularizer": (lambda: K.LSTM(3, activity_regularizer=Regularizer()), 2),
    "constraint": (lambda: K.LSTM(3, recurrent_constraint=Halved()), 2),
    "activation_in_dense": (lambda: K.Dense(3, swish), 1),
}


@pytest.mark.parametrize(("make", "forward"), BELOW.values(), ids=BELOW)
def test_own_classes_at_any_depth(make: Callable[[], keras.Layer], forward: int) -> None:
    assert_changes_nothing(sequential(K.LSTM(4, return_sequences=True), make(), K.Flatten()), X, forward=forward)


def test_own_classes_in_training() -> None:
    def make() -> keras.Model:
        own = {"kernel_initializer": Ones(), "bias_regularizer": Regularizer(), "activity_regularizer": Regularizer()}
        model = sequential(
            K.LSTM(4, return_sequences=True, recurrent_constraint=Halved(), **own),
            Twice(),
            K.Dense(2, swish),
            K.RNN([K.LSTMCell(3), K.LSTMCell(2, **{**own, "activity_regularizer": None})]),
            K.Dense(1),
        )
        model.layers[0].cell.bias.constraint = Halved()  # no config contains it
        model.compile("adam", "mse", jit_compile=JIT)
        return model

    assert_trains_alike(make, X, Y, per_step=3)


@pytest.mark.usefixtures("fallback_allowed")
def test_own_activation_of_another_name() -> None:
    model = sequential(K.LSTM(3, activation=swish, return_sequences=True), K.LSTM(3))
    expected = computed(lambda: model(X))
    _, report = accelerate(model, return_report=True)
    assert [change.done for change in report] == ["runs as Keras's", "fast"]
    assert report[0].reason == "activation=swish: the kernel computes tanh"
    assert_close(computed(lambda: model(X)), expected)


@with_strings
def test_own_functions_of_text_vectorization() -> None:
    import tensorflow as tf

    def standardize(text: Any) -> Any:
        return tf.strings.regex_replace(text, "X", " ")

    def split(text: Any) -> Any:
        return tf.strings.split(text, "-")

    encoder = K.TextVectorization(standardize=standardize, split=split, output_sequence_length=4)
    text = tf.constant(["aX-b-c", "b-b"])
    encoder.adapt(text)
    model = keras.Sequential([keras.Input((), dtype="string"), encoder, K.Embedding(9, 4), K.LSTM(3)])
    assert_changes_nothing(model, text, forward=1)


def expand(x: Any) -> Any:
    return ops.expand_dims(x, -1)


factor = 3.0

LAMBDAS: dict[str, tuple[Callable[[], list[keras.Layer]], tuple[int, ...]]] = {
    "global_name": (lambda: [K.Lambda(lambda x: keras.ops.expand_dims(x, -1)), K.LSTM(4)], (TIME,)),
    "named_function": (lambda: [K.Lambda(expand), K.LSTM(4)], (TIME,)),
    "numpy": (lambda: [K.LSTM(4), K.Lambda(lambda y: np.float32(2.0) * y)], (TIME, FEATURES)),
    "last": (lambda: [K.LSTM(4), K.Lambda(lambda y: ops.relu(factor * y))], (TIME, FEATURES)),
    "arguments": (
        lambda: [K.LSTM(4), K.Lambda(lambda y, a: a * y, output_shape=(4,), arguments={"a": 0.5})],
        (TIME, FEATURES),
    ),
}


@pytest.mark.parametrize(("make", "shape"), LAMBDAS.values(), ids=LAMBDAS)
@pytest.mark.parametrize("functional", [False, True])
def test_lambda_layers(make: Callable[[], list[keras.Layer]], shape: tuple[int, ...], functional: bool) -> None:
    if functional:
        inputs = outputs = keras.Input(shape)
        for layer in make():
            outputs = layer(outputs)
        model = keras.Model(inputs, outputs)
    else:
        model = sequential(*make(), shape=shape)
    assert_changes_nothing(model, random(BATCH, *shape), forward=1)


# Layers that are not Keras's LSTM stay as they are


def patched_call(inputs: Any, states: Any, training: bool = False) -> Any:
    del training
    h = ops.tanh(states[0] + ops.sum(inputs, axis=-1, keepdims=True))
    return h, [h, states[1]]


def patched_state(self: Any, batch_size: Any) -> Any:
    del self
    return [ops.full((batch_size, UNITS), 0.7), ops.full((batch_size, UNITS), -0.4)]


def state_of_cell(self: Any, batch_size: Any = None, **kwargs: Any) -> Any:
    del kwargs
    return patched_state(self, batch_size)


class CellWithState(K.LSTMCell):
    def get_initial_state(self, batch_size: Any = None) -> Any:
        return patched_state(self, batch_size)


class LayerWithCell(K.LSTM):
    def __init__(self, units: int, **kwargs: Any) -> None:
        super().__init__(units, **kwargs)
        self.cell = OwnCell(units)


def exchanged(cell: Any, layer: Any = None) -> Any:
    layer = layer or K.LSTM(UNITS)
    layer.cell = cell
    return layer


def with_call(layer: Any) -> Any:
    layer.cell.call = patched_call
    return layer


def with_state(layer: Any) -> Any:
    layer.get_initial_state = types.MethodType(patched_state, layer)
    return layer


def with_state_of_cell(layer: Any) -> Any:
    layer.cell.get_initial_state = types.MethodType(state_of_cell, layer.cell)
    return layer


def with_layer_call(layer: Any) -> Any:
    of_keras = layer.call
    layer.call = lambda sequences, **kwargs: 3.0 * of_keras(sequences, **kwargs)
    return layer


def with_loop(layer: Any) -> Any:
    of_keras = layer.inner_loop
    layer.inner_loop = lambda sequences, **kwargs: of_keras(2.0 * sequences, **kwargs)
    return layer


OTHERS: dict[str, tuple[Callable[[], Any], str]] = {
    "cell_of_a_subclass": (lambda: exchanged(OwnCell(UNITS)), "its cell is a OwnCell, not a keras.layers.LSTMCell"),
    "cell_of_another_kind": (
        lambda: exchanged(K.GRUCell(UNITS), K.RNN(K.LSTMCell(UNITS))),
        "its cell is a GRUCell, not a keras.layers.LSTMCell",
    ),
    "cell_with_states": (lambda: exchanged(CellWithState(UNITS)), "its cell is a CellWithState, not a"),
    "subclass_with_cell": (lambda: LayerWithCell(UNITS), "a subclass of LSTM"),
    "rnn_of_own_cell": (lambda: K.RNN(OwnCell(UNITS)), "its cell is a OwnCell, not a"),
    "rnn_with_own_cell_in_stack": (lambda: K.RNN([K.LSTMCell(UNITS), OwnCell(UNITS)]), "its cell is a OwnCell, not a"),
    "rnn_of_gru": (lambda: K.RNN(K.GRUCell(UNITS)), f"{NO_LSTM}: its cell is a GRUCell, not a"),
    "gru": (lambda: K.GRU(UNITS), NO_LSTM),
    "patched_cell_call": (lambda: with_call(K.LSTM(UNITS)), "call of its LSTMCell is not Keras's"),
    "patched_cell_call_of_rnn": (lambda: with_call(K.RNN(K.LSTMCell(UNITS))), "call of its LSTMCell is not Keras's"),
    "patched_cell_state": (
        lambda: with_state_of_cell(K.LSTM(UNITS)),
        "get_initial_state of its LSTMCell is not Keras's",
    ),
    "patched_state": (lambda: with_state(K.LSTM(UNITS)), "its get_initial_state is not Keras's"),
    "patched_state_of_rnn": (lambda: with_state(K.RNN(K.LSTMCell(UNITS))), "its get_initial_state is not Keras's"),
    "patched_call": (lambda: with_layer_call(K.LSTM(UNITS)), "its call is not Keras's"),
    "patched_loop": (lambda: with_loop(K.LSTM(UNITS)), "its inner_loop is not Keras's"),
}
others = pytest.mark.parametrize(("make", "reason"), OTHERS.values(), ids=OTHERS)


@others
def test_what_is_no_lstm_is_left(make: Callable[[], Any], reason: str, caplog: pytest.LogCaptureFixture) -> None:
    layer = make()
    model = sequential(K.LSTM(4, return_sequences=True, name="real"), layer)
    assert_changes_nothing(model, X, forward=1, changed=["real"])
    with caplog.at_level(logging.INFO, "lstm_fast"):
        _, report = accelerate(model, return_report=True)
    assert report[0] == ("real", "LSTM", "fast", "")
    assert report[1][:3] == (layer.name, type(layer).__name__, "left")
    assert report[1].reason.startswith(reason)
    assert f"'{layer.name}' ({type(layer).__name__}): left, {reason}" in caplog.text
    assert str(report[1]) in caplog.text


PATCHES: dict[str, Callable[[Any], Any]] = {
    "call_of_cell": with_call,
    "state": with_state,
    "state_of_cell": with_state_of_cell,
    "cell": lambda layer: exchanged(OwnCell(UNITS, name="own"), layer),
}
patches = pytest.mark.parametrize("patch", PATCHES.values(), ids=PATCHES)


@patches
@pytest.mark.parametrize("side", ["forward_layer", "backward_layer"])
def test_bidirectional_with_a_direction_that_is_no_lstm(side: str, patch: Callable[[Any], Any]) -> None:
    wrapper = K.Bidirectional(K.LSTM(UNITS))
    other = patch(getattr(wrapper, side))
    (real,) = {wrapper.forward_layer, wrapper.backward_layer} - {other}
    assert_changes_nothing(sequential(wrapper), X, forward=1, changed=[real.name])
    _, report = accelerate(sequential(wrapper), return_report=True)
    by_name = {change.name: change for change in report}
    assert by_name[wrapper.name].done == by_name[other.name].done == "left"
    assert by_name[wrapper.name].reason == f"{INSIDE} {other.name}"
    assert by_name[real.name].done == "fast"


def test_bidirectional_with_a_call_of_its_own() -> None:
    wrapper = K.Bidirectional(K.LSTM(UNITS))
    of_keras = wrapper.call
    wrapper.call = lambda sequences, **kwargs: 3.0 * of_keras(sequences, **kwargs)
    model = sequential(wrapper)
    assert_changes_nothing(model, X, forward=2, changed=[wrapper.forward_layer.name, wrapper.backward_layer.name])


@pytest.mark.usefixtures("fallback_allowed")
@patches
def test_layers_of_this_package_that_are_patched_run_as_keras_says(patch: Callable[[Any], Any]) -> None:
    plain, fast = patch(K.LSTM(UNITS)), patch(FastLSTM(UNITS))
    plain.build(X.shape)
    fast.build(X.shape)
    fast.set_weights(plain.get_weights())
    assert_close(computed(lambda: fast(X)), computed(lambda: plain(X)))
    if patch is not with_state:  # the kernel takes it like any other initial state
        assert "is not Keras's: the kernel computes LSTMs" in fallbacks() or "its cell is a OwnCell" in fallbacks()


@pytest.mark.usefixtures("fallback_allowed")
@patches
@pytest.mark.parametrize("side", ["forward_layer", "backward_layer"])
def test_directions_of_this_package_that_are_patched(side: str, patch: Callable[[Any], Any]) -> None:
    keras.utils.set_random_seed(1)
    plain = K.Bidirectional(K.LSTM(UNITS), merge_mode="sum")
    fast = FastBidirectional(FastLSTM(UNITS), merge_mode="sum")
    for wrapper in (plain, fast):
        patch(getattr(wrapper, side))
        wrapper.build(X.shape)
    fast.set_weights(plain.get_weights())
    assert_close(computed(lambda: fast(X)), computed(lambda: plain(X)))


def test_patched_initial_state_runs_fused() -> None:
    layer = with_state(FastLSTM(UNITS))
    with fused(forward=1):
        found = computed(lambda: layer(X))
    plain = with_state(K.LSTM(UNITS))
    plain.build(X.shape)
    plain.set_weights(layer.get_weights())
    assert_close(found, computed(lambda: plain(X)))


class Trickling(keras.layers.Layer):
    """A mixin that gives a layer its own states."""

    def get_initial_state(self, batch_size: Any) -> Any:
        return patched_state(self, batch_size)


class OwnFast(Trickling, FastLSTM):
    pass


class OwnPlain(Trickling, K.LSTM):
    pass


def test_subclass_with_initial_states_of_its_own_runs_fused() -> None:
    fast, plain = OwnFast(UNITS), OwnPlain(UNITS)
    plain.build(X.shape)
    with fused(forward=1):
        fast.build(X.shape)
        fast.set_weights(plain.get_weights())
        found = computed(lambda: fast(X))
    assert_close(found, computed(lambda: plain(X)))
    assert type(to_keras(fast)) is OwnFast  # the user's class


@pytest.mark.parametrize("wrap", [False, True])
def test_cell_exchanged_for_another_lstm_cell(wrap: bool) -> None:
    layer: Any = K.Bidirectional(K.LSTM(UNITS)) if wrap else K.LSTM(UNITS)
    exchanged(K.LSTMCell(UNITS, recurrent_initializer="ones"), layer.forward_layer if wrap else layer)
    assert_changes_nothing(sequential(layer), X, forward=1)


# Losses, metrics and optimizers


def rmse(y: Any, predicted: Any) -> Any:
    return ops.sqrt(ops.mean(ops.square(y - predicted)))


def quantile(q: float) -> Callable[[Any, Any], Any]:
    return lambda y, predicted: ops.mean(ops.maximum(q * (y - predicted), (q - 1.0) * (y - predicted)))


class Pinball(keras.losses.Loss):
    """A loss with a parameter that its config does not contain."""

    def __init__(self, q: float = 0.5, **kwargs: Any) -> None:
        super().__init__(name="pinball", **kwargs)
        self.q = q

    def call(self, y: Any, predicted: Any) -> Any:
        return ops.maximum(self.q * (y - predicted), (self.q - 1.0) * (y - predicted))


class Scaled(keras.metrics.Mean):
    """A metric with a parameter that its config does not contain."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__(name="scaled")
        self.factor = factor

    def update_state(self, y: Any, predicted: Any, sample_weight: Any = None) -> Any:
        return super().update_state(self.factor * ops.abs(y - predicted), sample_weight)


class Warmup(keras.optimizers.schedules.LearningRateSchedule):
    def __call__(self, step: Any) -> Any:
        return 0.01 * (1.0 + ops.cast(step, "float32"))


class Sign(keras.optimizers.SGD):
    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        super().update_step(ops.sign(gradient), variable, learning_rate)


def excluding() -> keras.optimizers.Optimizer:
    optimizer = keras.optimizers.AdamW(0.1, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    return optimizer


COMPILED: dict[str, dict[str, Callable[[], Any]]] = {
    "loss_function": {"loss": lambda: rmse},
    "loss_lambda": {"loss": lambda: lambda y, predicted: ops.mean(ops.abs(y - predicted))},
    "loss_closure": {"loss": lambda: quantile(0.9)},
    "loss_class": {"loss": lambda: Pinball(0.9)},
    "metric_function": {"metrics": lambda: [rmse]},
    "metric_class": {"metrics": lambda: [Scaled(3.0)]},
    "schedule": {"optimizer": lambda: keras.optimizers.Adam(Warmup())},
    "optimizer_class": {"optimizer": lambda: Sign(0.01)},
    "excluded_from_decay": {"optimizer": excluding},
    "momentum": {"optimizer": lambda: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True, clipnorm=0.5)},
    "average": {"optimizer": lambda: keras.optimizers.Adam(0.1, use_ema=True, ema_overwrite_frequency=2)},
}


@pytest.mark.parametrize("compiled", COMPILED.values(), ids=COMPILED)
def test_own_losses_metrics_and_optimizers(compiled: dict[str, Callable[[], Any]]) -> None:
    model = regression(**compiled)()
    model.optimizer.build(model.trainable_variables)

    def loss() -> Any:
        return model.compute_loss(X, Y, model(X)), ops.convert_to_tensor(model.optimizer.learning_rate)

    expected, given = computed(loss), (model.loss, model.optimizer, model._compile_metrics)
    assert_changes_nothing(model, X, forward=1)
    accelerate(model)
    now = model.loss, model.optimizer, model._compile_metrics
    assert all(one is other for one, other in zip(now, given, strict=True))
    assert_close(computed(loss), expected)


def test_training_with_own_losses_metrics_and_optimizers() -> None:
    own = {"loss": "loss_closure", "metrics": "metric_class"}
    own = {name: COMPILED[key][name] for name, key in own.items()}
    make = regression(**own, optimizer=lambda: Sign(Warmup()))
    assert_trains_alike(make, X, Y, per_step=1)


def test_training_with_decay_that_leaves_out_biases() -> None:
    assert_trains_alike(regression(optimizer=excluding), X, Y, per_step=1)


def test_settings_that_are_in_no_config() -> None:
    model = regression(loss=lambda: Pinball(0.9), metrics=lambda: [Scaled(3.0)], optimizer=excluding)()
    for change in (accelerate, to_keras):
        change(model)
        assert model.loss.q == 0.9
        assert model.optimizer._exclude_from_weight_decay_pattern == re.compile("bias")
        assert model.evaluate(X, Y, verbose=0, return_dict=True)["scaled"] == pytest.approx(
            3.0 * np.abs(Y - computed(lambda: model(X))[0]).mean(), rel=1e-4
        )


class Beta(K.Layer):
    """A layer with a number that a callback changes, and with its own variables."""

    beta = 1.0

    def call(self, x: Any) -> Any:
        return self.beta * x


class Augmented(keras.Model):
    """A Functional model with its own argument and attribute."""

    def __init__(self, inputs: Any, outputs: Any, beta: float = 1.0, **kwargs: Any) -> None:
        super().__init__(inputs, outputs, **kwargs)
        self.beta = beta

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        return self.beta * super().call(inputs, training=training, mask=mask)


class Subclassed(keras.Model):
    def __init__(self, units: int) -> None:
        super().__init__()
        self.lstm = K.LSTM(units)

    def call(self, x: Any) -> Any:
        return self.lstm(x)


def test_attributes_of_layers() -> None:
    model = sequential(K.LSTM(4), Beta())
    model.layers[-1].beta = 0.1
    assert_changes_nothing(model, X, forward=1)
    assert model.layers[-1].beta == 0.1


def test_attributes_of_functional_models_with_arguments_of_their_own() -> None:
    x = keras.Input((TIME, FEATURES))
    model = Augmented(x, K.LSTM(4)(x), beta=2.0)
    model.beta = 9.0
    assert_changes_nothing(model, X, forward=1)
    assert model.beta == 9.0


def test_subclassed_model_inside_of_a_functional_one() -> None:
    x = keras.Input((TIME, FEATURES))
    model = keras.Model(x, Subclassed(4)(K.LSTM(3, return_sequences=True)(x)))
    assert_changes_nothing(model, X, forward=2)


SETTINGS: dict[str, Callable[[Any], None]] = {
    "return_sequences": lambda layer: setattr(layer, "return_sequences", True),
    "go_backwards": lambda layer: setattr(layer, "go_backwards", True),
    "regularizer": lambda layer: setattr(layer.cell, "kernel_regularizer", Regularizer()),
    "dropout": lambda layer: setattr(layer.cell, "dropout", 0.5),
}


@pytest.mark.parametrize("change", SETTINGS.values(), ids=SETTINGS)
def test_arguments_that_were_changed_before_and_after(change: Callable[[Any], None]) -> None:
    layer = K.LSTM(4)
    change(layer)
    layer.build(X.shape)
    assert_changes_nothing(layer, X, forward=1, training=True)
    plain = K.LSTM(4)
    plain.build(X.shape)
    change(accelerate(plain))
    assert_changes_nothing(to_keras(plain), X, forward=1)


# Files


OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "adam": lambda: keras.optimizers.Adam(0.02, clipvalue=0.5),
    "momentum": lambda: keras.optimizers.SGD(0.5, momentum=0.9),
    "sgd": lambda: keras.optimizers.SGD(0.5),
    "rmsprop": lambda: keras.optimizers.RMSprop(0.03, rho=0.8),
}


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Turns off Keras's warning that .h5 is an old format."""
    with caplog.at_level(logging.CRITICAL, "absl"):
        yield


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("built", [False, True])
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_optimizer_after_saving_to_h5(make: Callable[[], Any], built: bool, tmp_path: pathlib.Path) -> None:
    model = regression(optimizer=make)()
    optimizer = model.optimizer
    if built:
        optimizer.build(model.trainable_variables)
        for variable in optimizer.variables[2:]:
            variable.assign(0.5 * ops.ones(variable.shape))
    model.save(tmp_path / "model.h5")
    config, values = optimizer.get_config(), [np.array(to_numpy(v)) for v in optimizer.variables]
    for change in (accelerate, to_keras):
        change(model)
        assert model.optimizer is optimizer
        assert optimizer.get_config() == config
        for variable, value in zip(optimizer.variables, values, strict=True):
            np.testing.assert_array_equal(to_numpy(variable), value)


@pytest.mark.usefixtures("quiet")
def test_checkpoints_in_h5(tmp_path: pathlib.Path) -> None:
    model = accelerate(regression(optimizer=OPTIMIZERS["adam"])())
    callback = keras.callbacks.ModelCheckpoint(tmp_path / "best.h5")
    model.fit(X, Y, verbose=0, callbacks=[callback])
    assert float(to_numpy(accelerate(model).optimizer.learning_rate)) == pytest.approx(0.02)
    with fused(forward=1, backward=1):
        model.fit(X, Y, verbose=0)
    assert int(to_numpy(model.optimizer.iterations)) == 2


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_compiled_model_out_of_an_h5_file(make: Callable[[], Any], tmp_path: pathlib.Path) -> None:
    model = regression(optimizer=make, loss=keras.losses.MeanSquaredError)()
    model.optimizer.build(model.trainable_variables)
    expected = computed(lambda: model(X))
    model.save(tmp_path / "model.h5")
    loaded = keras.models.load_model(tmp_path / "model.h5")
    optimizer = loaded.optimizer
    assert_changes_nothing(loaded, X, forward=1)
    assert accelerate(loaded).optimizer is optimizer
    assert_close(computed(lambda: loaded(X)), expected)
    if make is OPTIMIZERS["adam"]:
        # Keras builds the optimizer of such a model without variables, and cannot train it further.
        loaded.compile(make(), "mse")
        with fused(forward=1, backward=1):
            loaded.fit(X, Y, verbose=0)


@pytest.mark.parametrize("middle", [False, True])
def test_files_without_this_package(middle: bool, tmp_path: pathlib.Path) -> None:
    model = accelerate(sequential(K.Bidirectional(K.LSTM(UNITS, return_sequences=True)), K.RNN(K.LSTMCell(2))))
    fast = classes(model)
    expected = computed(lambda: model(X))
    if middle:
        with as_keras(model) as same:
            assert same is model
            model.save(tmp_path / "model.keras")
    else:
        to_keras(model).save(tmp_path / "model.keras")
        accelerate(model)
    assert classes(model) == fast
    with fused(forward=2):
        assert_close(computed(lambda: model(X)), expected)
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert not {FastLSTM, FastRNN, FastBidirectional} & set(classes(loaded))
    with fused(forward=0):
        assert_close(computed(lambda: loaded(X)), expected)


def test_layers_are_fast_again_after_an_exception() -> None:
    model = accelerate(sequential(K.Bidirectional(K.LSTM(UNITS))))
    fast = classes(model)

    def fail() -> None:
        assert not {FastLSTM, FastBidirectional} & set(classes(model))
        raise RuntimeError("no disk")

    with pytest.raises(RuntimeError, match="no disk"), as_keras(model):
        fail()
    assert classes(model) == fast


def test_as_keras_gives_every_layer_its_class_back() -> None:
    """Also layers that `accelerate` would not change: they were made of this package's classes."""
    with keras.saving.custom_object_scope({"OwnCell": OwnCell}):
        layers = [FastRNN(OwnCell(2), return_sequences=True), FastBidirectional(K.GRU(2, return_sequences=True))]
    model = sequential(*layers, with_state(FastLSTM(UNITS)))
    before = classes(model)
    with as_keras(model):
        assert not {FastLSTM, FastRNN, FastBidirectional} & set(classes(model))
    assert classes(model) == before


def test_as_keras_leaves_plain_layers_plain() -> None:
    """A layer that was Keras's before is Keras's after it."""
    model = sequential(FastLSTM(UNITS, return_sequences=True), K.LSTM(UNITS))
    before = classes(model)
    with as_keras(model):
        assert FastLSTM not in classes(model)
    assert classes(model) == before


@with_strings
def test_export_inside_of_as_keras_and_outside(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = accelerate(sequential(K.Bidirectional(K.LSTM(UNITS, return_sequences=True)), K.LSTM(3)))
    expected = computed(lambda: model(X))
    model.predict(X, verbose=0)  # Keras keeps its traced function
    with as_keras(model):
        model.export(tmp_path / "plain", verbose=False)
    with pytest.raises(RuntimeError, match=r"LSTM_FAST_KERNEL=fused, but .* written to a file by keras"):
        model.export(tmp_path / "fast", verbose=False)
    monkeypatch.setenv("LSTM_FAST_KERNEL", "auto")
    before = lstm_fast.status().fallbacks
    model.export(tmp_path / "fast", verbose=False)
    new = {reason for reason, count in lstm_fast.status().fallbacks.items() if count != before.get(reason)}
    assert new == {"written to a file by keras: it cannot contain the kernel"}
    import tensorflow as tf

    for name in ("plain", "fast"):
        assert b"LstmFast" not in (tmp_path / name / "saved_model.pb").read_bytes()
        loaded = tf.saved_model.load(tmp_path / name)
        assert_close(computed(lambda: loaded.serve(X)), expected)  # noqa: B023


@pytest.mark.backends("torch")
def test_torch_export_inside_of_as_keras() -> None:
    import torch

    model = accelerate(sequential(K.LSTM(UNITS)))
    x = torch.from_numpy(X)
    expected = computed(lambda: model(x))
    with as_keras(model), torch.no_grad():
        program = torch.export.export(model, (x,))
    assert not [node for node in program.graph.nodes if "lstm_fast" in str(node.target)]
    assert_close(computed(lambda: program.module()(x)), expected)


# Weights that are stored in another way


QUANTIZED: dict[str, tuple[str, Callable[[], keras.Model]]] = {
    f"{mode}_{kind}": (mode, make)
    for mode in ("int8", "float8")
    for kind, make in {
        "dense": lambda: sequential(K.LSTM(8), K.Dense(8), K.Dense(1)),
        "before": lambda: sequential(K.Dense(8), K.LSTM(4, return_sequences=True), K.LSTM(8)),
    }.items()
}


@pytest.mark.parametrize(("mode", "make"), QUANTIZED.values(), ids=QUANTIZED)
def test_quantized_layers(mode: str, make: Callable[[], keras.Model]) -> None:
    model = make()
    for layer in model.layers:
        if isinstance(layer, K.Dense):
            layer.quantize(mode)
    assert_changes_nothing(model, X, forward=sum(isinstance(layer, K.LSTM) for layer in model.layers))


def test_quantized_after_accelerate() -> None:
    model = accelerate(sequential(K.LSTM(8), K.Dense(1)))
    model.layers[-1].quantize("int8")
    assert_changes_nothing(to_keras(model), X, forward=1)


def test_lora() -> None:
    def make() -> keras.Model:
        words = np.arange(BATCH * TIME, dtype=np.int32).reshape(BATCH, TIME) % 7
        model = keras.Sequential([keras.Input((TIME,), dtype="int32"), K.Embedding(7, 3), K.LSTM(UNITS), K.Dense(1)])
        model(words)
        model.layers[0].enable_lora(2)
        model.layers[-1].enable_lora(1)
        model.compile("adam", "mse", jit_compile=JIT)
        return model

    words = np.arange(BATCH * TIME, dtype=np.int32).reshape(BATCH, TIME) % 7
    assert_changes_nothing(make(), words, forward=1)
    assert_trains_alike(make, words, Y, per_step=1)


def test_frozen_after_training() -> None:
    def trained(change: Callable[[Any], Any]) -> tuple[keras.Model, list[np.ndarray], list[float]]:
        keras.utils.set_random_seed(2)
        model = sequential(K.LSTM(4, return_sequences=True), K.LSTM(UNITS), K.Dense(1))
        model.compile("adam", "mse", jit_compile=JIT)
        model.fit(X, Y, verbose=0)
        model.layers[0].trainable = False
        model.layers[1].cell.bias.trainable = False
        model.compile("sgd", "mse", jit_compile=JIT)
        change(model)
        frozen = [np.array(to_numpy(v)) for v in (*model.layers[0].variables, model.layers[1].cell.bias)]
        return model, frozen, model.fit(X, Y, epochs=2, batch_size=BATCH, verbose=0).history["loss"]

    _, _, right = trained(lambda model: model)
    model, frozen, losses = trained(accelerate)
    assert len(model.trainable_variables) == 4
    for value, variable in zip(frozen, (*model.layers[0].variables, model.layers[1].cell.bias), strict=True):
        np.testing.assert_array_equal(to_numpy(variable), value)
    atol = 3 * tolerances.DRIFT_PER_STEP * tolerances.ROUNDOFF["float32"] * max(right)
    np.testing.assert_allclose(losses, right, rtol=0.0, atol=atol)


# Reports on layers that are not fast


class Block(K.Layer):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.inner = K.LSTM(4, return_sequences=True)

    def call(self, x: Any) -> Any:
        return self.inner(x)


class OwnLSTM(K.LSTM):
    pass


@pytest.mark.fast
def test_every_recurrent_layer_is_named(caplog: pytest.LogCaptureFixture) -> None:
    model = sequential(
        Block(name="block"),
        K.RNN(K.LSTMCell(2), return_sequences=True, name="cells"),
        OwnLSTM(2, return_sequences=True, name="own"),
        K.GRU(2, return_sequences=True, name="gru"),
        K.Bidirectional(K.GRU(2, return_sequences=True), name="both"),
        K.LSTM(2, name="last"),
    )
    model.layers[0].inner.name = "inner"
    assert_changes_nothing(model, X, forward=3)
    caplog.clear()
    with caplog.at_level(logging.INFO, "lstm_fast"):
        _, report = accelerate(model, return_report=True)
    assert isinstance(report, tuple)
    found = {change.name: change.done for change in report}
    directions = {layer.name: "left" for layer in model.get_layer("both")._flatten_layers() if isinstance(layer, K.GRU)}
    right = {"inner": "fast", "cells": "fast", "own": "left", "gru": "left", "both": "left", "last": "fast"}
    assert found == {**right, **directions}
    (record,) = [record for record in caplog.records if record.name == "lstm_fast"]
    assert record.levelno == logging.WARNING
    for name, done in found.items():
        assert name in record.getMessage()
        if done == "left":
            assert f"'{name}' (" in record.getMessage()
    assert str(report).count("\n") == len(report) - 1


def test_said_quietly_if_all_is_fast(caplog: pytest.LogCaptureFixture) -> None:
    model = sequential(K.Bidirectional(K.LSTM(2)))
    with caplog.at_level(logging.INFO, "lstm_fast"):
        accelerate(model)
    (record,) = [record for record in caplog.records if record.name == "lstm_fast"]
    assert record.levelno == logging.INFO
    assert "changed: 3" in record.getMessage()


INNER: dict[str, Callable[[], Any]] = {
    "subclass": lambda: OwnLSTM(2),
    "gru": lambda: K.GRU(2),
    "own_cell": lambda: FastRNN(OwnCell(2)),
}


@pytest.mark.parametrize("make", INNER.values(), ids=INNER)
def test_bidirectional_of_this_package_over_other_layers(
    make: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with keras.saving.custom_object_scope({"OwnLSTM": OwnLSTM, "OwnCell": OwnCell}):
        layer = FastBidirectional(make())
    with pytest.raises(RuntimeError, match="LSTM_FAST_KERNEL=fused, but the fused kernel cannot run the layer"):
        layer(X)
    monkeypatch.setenv("LSTM_FAST_KERNEL", "auto")
    before = sum(lstm_fast.status().fallbacks.values())
    computed(lambda: layer(X))
    assert sum(lstm_fast.status().fallbacks.values()) == before + 2  # one for each direction
    assert "the kernel computes LSTMs" in fallbacks()


def test_bidirectional_of_this_package_over_an_rnn_of_lstm_cells() -> None:
    plain, fast = K.Bidirectional(K.RNN(K.LSTMCell(2))), FastBidirectional(K.RNN(K.LSTMCell(2)))
    plain.build(X.shape)
    fast.build(X.shape)
    fast.set_weights(plain.get_weights())
    with fused(forward=1):
        found = computed(lambda: fast(X))
    assert_close(found, computed(lambda: plain(X)))
