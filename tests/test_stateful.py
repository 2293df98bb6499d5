"""stateful=True: states go from batch to batch, as in a loop that passes them by hand, with every Keras backend."""

import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import data_parallel
import keras
import numpy as np
import pytest
import tolerances
from keras_side import BACKEND, fused, keras_copy, to_numpy

import lstm_fast
from lstm_fast import FastBidirectional, FastLSTM

pytestmark = pytest.mark.backends("tensorflow", "jax", "torch")

BATCH, TIME, FEATURES, UNITS, BATCHES = 2, 4, 3, 5, 3
TERMS = BATCH * TIME * (FEATURES + UNITS)
RATE = 0.5

LSTM, Bidirectional = keras.layers.LSTM, keras.layers.Bidirectional

# The recurrent layers of a model, made of an LSTM and a Bidirectional, and the kernel calls that they take.
STACKS: dict[str, tuple[Callable[[Any, Any], list[keras.Layer]], int]] = {
    "lstm": (lambda lstm, _: [lstm(UNITS)], 1),
    "bidirectional": (lambda lstm, bidirectional: [bidirectional(lstm(UNITS))], 1),
    "keras_bidirectional": (lambda lstm, _: [Bidirectional(lstm(UNITS))], 2),
    "stacked": (lambda lstm, bidirectional: [lstm(UNITS), bidirectional(lstm(UNITS), merge_mode="sum"), lstm(2)], 3),
}
stacks = pytest.mark.parametrize("name", STACKS)


def fast_layers(name: str, **options: Any) -> list[keras.Layer]:
    def lstm(units: int) -> FastLSTM:
        return FastLSTM(units, stateful=True, return_sequences=True, **options)

    return STACKS[name][0](lstm, FastBidirectional)


def stateful_model(name: str = "lstm", **options: Any) -> keras.Sequential:
    inputs = keras.Input((None, FEATURES), batch_size=BATCH)
    return keras.Sequential([inputs, *fast_layers(name, **options), keras.layers.Dense(1)])


class ByHand:
    """The same model with Keras's layers, without `stateful`: its caller passes the states."""

    def __init__(self, name: str, model: keras.Model) -> None:
        x = y = keras.Input((None, FEATURES), batch_size=BATCH)
        before, after = [], []
        for layer in STACKS[name][0](lambda n: LSTM(n, return_sequences=True, return_state=True), Bidirectional):
            units = layer.units if isinstance(layer, LSTM) else layer.forward_layer.units
            given = [keras.Input((units,), batch_size=BATCH) for _ in range(2 if isinstance(layer, LSTM) else 4)]
            y, *last = layer(y, initial_state=given)
            before += given
            after += last
        y = keras.layers.Dense(1)(y)
        self.states = [np.zeros(state.shape, np.float32) for state in before]
        self.trained = keras.Model([x, *before], y)
        self.run = keras.Model([x, *before], [y, *after])
        self.trained.set_weights(model.get_weights())
        self.trained.compile(keras.optimizers.SGD(RATE), "mse", jit_compile=False)

    def predict(self, x: np.ndarray) -> np.ndarray:
        y, *states = self.run.predict_on_batch([x, *self.states])
        self.states, before = states, self.states
        del before
        return np.asarray(y)

    def train(self, x: np.ndarray, y: np.ndarray) -> None:
        before = self.states
        self.predict(x)
        self.trained.train_on_batch([x, *before], y)


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((BATCHES * BATCH, TIME, FEATURES)).astype(np.float32)


@pytest.fixture
def y() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((BATCHES * BATCH, TIME, 1)).astype(np.float32)


def batches(*arrays: np.ndarray) -> Iterator[Any]:
    for i in range(0, len(arrays[0]), BATCH):
        parts = tuple(array[i : i + BATCH] for array in arrays)
        yield parts if len(parts) > 1 else parts[0]


def assert_close(found: Any, expected: Any) -> None:
    found, expected = to_numpy(found), to_numpy(expected)
    np.testing.assert_allclose(found, expected, rtol=0.0, atol=tolerances.between_layers("float32", TERMS, expected))


def assert_trained_alike(model: keras.Model, by_hand: ByHand, steps: int) -> None:
    for found, expected in zip(model.get_weights(), by_hand.trained.get_weights(), strict=True):
        allowed = tolerances.between_trainings("float32", steps, expected)
        np.testing.assert_allclose(found, expected, rtol=0.0, atol=allowed)
    states = [to_numpy(state) for layer in model.layers[:-1] for state in layer.states]
    for found, expected in zip(states, by_hand.states, strict=True):
        np.testing.assert_allclose(
            found, expected, rtol=0.0, atol=tolerances.between_trainings("float32", steps, expected)
        )


def compiled(model: keras.Model, **options: Any) -> keras.Model:
    model.compile(keras.optimizers.SGD(RATE), "mse", **options)
    return model


# Calls in a row


@stacks
def test_predict_goes_on(name: str, x: np.ndarray) -> None:
    model = stateful_model(name)
    by_hand = ByHand(name, model)
    expected = np.concatenate([by_hand.predict(part) for part in batches(x)])
    assert np.abs(expected - np.concatenate([ByHand(name, model).predict(part) for part in batches(x)])).max() > 1e-3
    with fused(forward=BATCHES * STACKS[name][1]):
        assert_close(model.predict(x, batch_size=BATCH, verbose=0), expected)
    # From call to call, in every order.
    for predict in (lambda part: model.predict(part, batch_size=BATCH, verbose=0), model.predict_on_batch, model):
        assert_close(predict(x[:BATCH]), by_hand.predict(x[:BATCH]))
    for layer in model.layers[:-1]:
        layer.reset_states()
        assert not any(to_numpy(state).any() for state in layer.states)
    assert_close(model.predict(x, batch_size=BATCH, verbose=0), expected)


@stacks
@pytest.mark.parametrize("eager", [False, True], ids=["compiled", "eager"])
def test_fit_goes_on(name: str, eager: bool, x: np.ndarray, y: np.ndarray) -> None:
    model = stateful_model(name)
    by_hand = ByHand(name, model)
    compiled(model, run_eagerly=eager)
    calls = BATCHES * STACKS[name][1]
    with fused(forward=2 * calls, backward=2 * calls):
        model.fit(x, y, batch_size=BATCH, epochs=2, shuffle=False, verbose=0)
    for _ in range(2):
        for part in batches(x, y):
            by_hand.train(*part)
    model.train_on_batch(x[:BATCH], y[:BATCH])
    by_hand.train(x[:BATCH], y[:BATCH])
    assert_trained_alike(model, by_hand, steps=2 * BATCHES + 1)


def test_evaluate_goes_on(x: np.ndarray, y: np.ndarray) -> None:
    model = compiled(stateful_model())
    by_hand = ByHand("lstm", model)
    for evaluate in (lambda: model.evaluate(x, y, batch_size=BATCH, verbose=0),) * 2:
        expected = np.mean([np.mean((by_hand.predict(a) - b) ** 2) for a, b in batches(x, y)])
        assert_close(np.float32(evaluate()), expected)
    assert_close(
        np.float32(model.test_on_batch(x[:BATCH], y[:BATCH])), np.mean((by_hand.predict(x[:BATCH]) - y[:BATCH]) ** 2)
    )


def test_validation_goes_on_from_training(x: np.ndarray, y: np.ndarray) -> None:
    model = compiled(stateful_model())
    by_hand = ByHand("lstm", model)
    rest = (x[:BATCH], y[:BATCH])
    history = model.fit(x, y, batch_size=BATCH, shuffle=False, validation_data=rest, verbose=0).history
    for part in batches(x, y):
        by_hand.train(*part)
    by_hand.run.set_weights(by_hand.trained.get_weights())
    expected = np.mean((by_hand.predict(rest[0]) - rest[1]) ** 2)
    allowed = tolerances.between_trainings("float32", BATCHES, expected)
    np.testing.assert_allclose(history["val_loss"][0], expected, rtol=0.0, atol=allowed)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", *(["float64"] if BACKEND != "jax" else [])])
def test_dtypes_go_on(policy: str, x: np.ndarray) -> None:
    model = stateful_model(dtype=policy)
    found = model.predict(x, batch_size=BATCH, verbose=0)
    for layer in model.layers[:-1]:
        layer.reset_states()
    expected = np.concatenate([to_numpy(model(part)) for part in batches(x)])
    np.testing.assert_array_equal(found, expected)


def test_masks_go_on(x: np.ndarray) -> None:
    """A batch in which a row is wholly masked does not change the states of this row."""
    x[BATCH, :] = 0.0
    layer = FastLSTM(UNITS, stateful=True)
    model = keras.Sequential([keras.Input((TIME, FEATURES), batch_size=BATCH), keras.layers.Masking(), layer])
    model.predict(x[:BATCH], batch_size=BATCH, verbose=0)
    before = [to_numpy(state) for state in layer.states]
    model.predict(x[BATCH : 2 * BATCH], batch_size=BATCH, verbose=0)
    for old, new in zip(before, layer.states, strict=True):
        np.testing.assert_array_equal(old[0], to_numpy(new)[0])
        assert (old[1] != to_numpy(new)[1]).any()


@pytest.mark.parametrize("wrap", [lambda layer: layer, FastBidirectional, Bidirectional])
def test_initial_states_are_for_one_call(wrap: Callable[[Any], Any], x: np.ndarray) -> None:
    """They replace the stored states, and the states after the call are stored."""
    layer = wrap(FastLSTM(UNITS, stateful=True))
    layer(x[:BATCH])
    last = [to_numpy(state) for state in layer.states]
    expected = to_numpy(layer(x[:BATCH]))
    layer.reset_states()
    assert_close(layer(x[:BATCH], initial_state=last), expected)
    kept = [to_numpy(state) for state in layer.states]
    assert_close(layer(x[:BATCH]), wrap_plain(layer, x[:BATCH], kept))


def wrap_plain(layer: Any, x: np.ndarray, states: list[np.ndarray]) -> Any:
    plain = (Bidirectional if len(states) == 4 else lambda layer: layer)(LSTM(UNITS))
    plain.build(x.shape)
    plain.set_weights(layer.get_weights())
    return plain(x, initial_state=states)


# Building, resetting, saving


@pytest.mark.backends("tensorflow", "jax")  # Keras on PyTorch refuses, with any stateful layer
def test_built_by_the_first_batch(x: np.ndarray, y: np.ndarray) -> None:
    models = [keras.Sequential([*fast_layers("stacked"), keras.layers.Dense(1)]) for _ in range(2)]
    compiled(models[0]).fit(x, y, batch_size=BATCH, shuffle=False, verbose=0)
    states = [state for layer in models[0].layers[:-1] for state in layer.states]
    assert all(to_numpy(state).any() for state in states)
    models[1](x[:BATCH])
    models[1].set_weights(models[0].get_weights())
    for state, value in zip([s for layer in models[1].layers[:-1] for s in layer.states], states, strict=True):
        state.assign(to_numpy(value))
    expected = np.concatenate([to_numpy(models[1](part)) for part in batches(x)])
    assert_close(models[0].predict(x, batch_size=BATCH, verbose=0), expected)


class Subclassed(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = FastLSTM(UNITS, stateful=True)

    def call(self, x: Any) -> Any:
        return self.lstm(x)


def test_predict_builds_a_subclassed_model(x: np.ndarray) -> None:
    model = Subclassed()
    found = model.predict(x, batch_size=BATCH, verbose=0)
    model.lstm.reset_states()
    if BACKEND != "jax":  # there, Keras calls the layer once with the first batch, to build it
        model.predict(x[:BATCH], batch_size=BATCH, verbose=0)
        model.lstm.reset_states()
    assert_close(found, np.concatenate([to_numpy(model(part)) for part in batches(x)]))


class Reset(keras.callbacks.Callback):
    def __init__(self, model: keras.Model) -> None:
        super().__init__()
        self.recurrent = model.layers[:-1]

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        del batch, logs
        for layer in self.recurrent:
            layer.reset_states()


class ResetByModel(Reset):
    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.recurrent = self.model.layers[:-1]  # this makes Keras's trainer on JAX give the values back
        super().on_train_batch_end(batch, logs)


@pytest.mark.parametrize("name", ["lstm", "bidirectional"])
def test_reset_in_callbacks(name: str, x: np.ndarray, y: np.ndarray) -> None:
    model = stateful_model(name)
    by_hand = ByHand(name, model)
    callbacks = [ResetByModel(model)]
    compiled(model).fit(x, y, batch_size=BATCH, epochs=2, shuffle=False, verbose=0, callbacks=callbacks)
    zeros = by_hand.states
    for _ in range(2):
        for part in batches(x, y):
            by_hand.states = zeros
            by_hand.train(*part)
    by_hand.states = zeros
    assert_trained_alike(model, by_hand, steps=2 * BATCHES)


@pytest.mark.backends("jax")
@pytest.mark.parametrize("name", ["lstm", "keras_bidirectional"])
def test_reset_while_the_trainer_has_the_states(name: str, x: np.ndarray, y: np.ndarray) -> None:
    model = compiled(stateful_model(name))
    with pytest.raises(RuntimeError, match=r"lstm.*': its states have no values now.*jax_state_sync"):
        model.fit(x, y, batch_size=BATCH, verbose=0, callbacks=[Reset(model)])
    assert all(np.isfinite(weight).all() for weight in model.get_weights())
    model.predict(x, batch_size=BATCH, verbose=0)


@stacks
@pytest.mark.fast
def test_states_are_no_weights(name: str, x: np.ndarray) -> None:
    model = stateful_model(name)
    plain = keras.Sequential([keras.Input((None, FEATURES)), *fast_layers_without_states(name), keras.layers.Dense(1)])
    assert [weight.shape for weight in model.weights] == [weight.shape for weight in plain.weights]
    assert model.count_params() == plain.count_params()
    assert model.non_trainable_weights == []
    states = [state for layer in model.layers[:-1] for state in layer.states]
    carried = [variable for variable in model.non_trainable_variables if any(variable is state for state in states)]
    assert len(carried) == (len(states) if BACKEND == "jax" else 0)
    model.trainable = False
    assert model.trainable_variables == []
    assert_close(model.predict(x[:BATCH], batch_size=BATCH, verbose=0), ByHand(name, model).predict(x[:BATCH]))


def fast_layers_without_states(name: str) -> list[keras.Layer]:
    return STACKS[name][0](lambda units: FastLSTM(units, return_sequences=True), FastBidirectional)


@pytest.mark.backends("jax")
def test_state_tree(x: np.ndarray, y: np.ndarray) -> None:
    """The whole state of a model, with the states of its layers. They need different names there."""
    models = [compiled(stateful_model("bidirectional")) for _ in range(2)]
    models[0].fit(x, y, batch_size=BATCH, verbose=0)
    models[1].fit(x, y, batch_size=BATCH, verbose=0)
    tree = models[0].get_state_tree(value_format="numpy_array")
    found = keras.tree.flatten(tree["non_trainable_variables"])
    states = models[0].layers[0].states
    assert sum(any(np.array_equal(value, to_numpy(state)) for value in found) for state in states) == len(states) == 4
    own = models[1].get_state_tree()
    own["non_trainable_variables"] = keras.tree.pack_sequence_as(own["non_trainable_variables"], found)
    models[1].set_state_tree(own)
    for a, b in zip(states, models[1].layers[0].states, strict=True):
        np.testing.assert_array_equal(to_numpy(a), to_numpy(b))


@pytest.mark.parametrize("suffix", ["keras", "weights.h5"])
@pytest.mark.parametrize(("source", "target"), [(FastLSTM, LSTM), (LSTM, FastLSTM), (FastLSTM, FastLSTM)])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_files(
    suffix: str, source: type, target: type, bidirectional: bool, x: np.ndarray, tmp_path: pathlib.Path
) -> None:
    def make(lstm: type) -> keras.Model:
        layer = lstm(UNITS, stateful=True, name="recurrent")
        if bidirectional:
            layer = (FastBidirectional if lstm is FastLSTM else Bidirectional)(layer, name="both")
        return keras.Sequential([keras.Input((None, FEATURES), batch_size=BATCH), layer])

    saved, path = make(source), tmp_path / f"model.{suffix}"
    saved.predict(x, batch_size=BATCH, verbose=0)
    if suffix == "keras":
        saved.save(path)
        loaded = keras.models.load_model(path)
        loaded = (
            loaded if source is target else (lstm_fast.accelerate if target is FastLSTM else lstm_fast.to_keras)(loaded)
        )
    else:
        saved.save_weights(path)
        loaded = make(target)
        loaded.load_weights(path)
    assert not any(to_numpy(state).any() for state in loaded.layers[0].states)  # as in Keras, not in the file
    for layer in saved.layers:
        layer.reset_states()
    assert_close(loaded(x[:BATCH]), saved(x[:BATCH]))


def assert_same_states(model: keras.Model, other: keras.Model, exact: bool = True) -> None:
    pairs = [[to_numpy(state) for layer in each.layers[:-1] for state in layer.states] for each in (model, other)]
    for found, expected in zip(*pairs, strict=True):
        assert np.any(expected)
        np.testing.assert_array_equal(found, expected) if exact else assert_close(found, expected)


def test_conversion_keeps_the_states(x: np.ndarray) -> None:
    model = stateful_model("stacked")
    model.predict(x, batch_size=BATCH, verbose=0)
    copies = [keras_copy(model) for _ in range(3)]
    for convert in (lstm_fast.to_keras, lstm_fast.accelerate, lstm_fast.to_keras, lstm_fast.accelerate):
        assert convert(copies[0]) is copies[0]
        assert_same_states(copies[0], model)
    expected = copies[1](x[:BATCH])
    with lstm_fast.as_keras(lstm_fast.accelerate(copies[2])):
        assert_same_states(copies[2], model)
        assert_close(copies[2](x[:BATCH]), expected)
    assert_same_states(copies[2], copies[1], exact=False)
    for fast in (model, copies[0]):
        with fused(forward=3):
            found = fast.predict(x[:BATCH], batch_size=BATCH, verbose=0)
        assert_close(found, expected)
        assert_same_states(fast, copies[1], exact=False)


@stacks
def test_accelerated_after_it_ran_as_keras(name: str, x: np.ndarray, y: np.ndarray) -> None:
    layers = STACKS[name][0](lambda units: LSTM(units, stateful=True, return_sequences=True), Bidirectional)
    inputs = keras.Input((None, FEATURES), batch_size=BATCH)
    model = compiled(keras.Sequential([inputs, *layers, keras.layers.Dense(1)]))
    model.predict(x, batch_size=BATCH, verbose=0)
    if BACKEND != "torch":  # Keras's layer cannot be trained there with stateful=True
        model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0)
    lstm_fast.accelerate(model)
    for layer in layers:
        layer.reset_states()
    by_hand = ByHand(name, model)
    calls = BATCHES * min(STACKS[name][1], len(layers))
    with fused(forward=calls, backward=calls):
        model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0)
    for part in batches(x, y):
        by_hand.train(*part)
    assert_trained_alike(model, by_hand, steps=BATCHES)


# States of the last batch as outputs


@pytest.mark.parametrize("merge_mode", ["concat", "sum", None])
@pytest.mark.parametrize("return_sequences", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.fast
def test_bidirectional_returns_its_states(
    merge_mode: str | None, return_sequences: bool, masked: bool, x: np.ndarray
) -> None:
    """keras.layers.Bidirectional raises a TypeError here, in its compute_mask."""
    options = {"return_sequences": return_sequences, "return_state": True}
    layer = FastBidirectional(FastLSTM(UNITS, stateful=True, **options), merge_mode=merge_mode)
    plain = Bidirectional(LSTM(UNITS, **options), merge_mode=merge_mode)
    plain.build((BATCH, TIME, FEATURES))
    inputs = keras.Input((TIME, FEATURES), batch_size=BATCH)
    outputs = layer(keras.layers.Masking()(inputs) if masked else inputs)
    model = keras.Model(inputs, outputs)
    plain.set_weights(layer.get_weights())
    x[:, TIME - 1] = 0.0
    mask = np.tile(np.arange(TIME) < TIME - 1, (BATCH, 1)) if masked else None
    for part in batches(x):
        before = [to_numpy(state) for state in layer.states]
        expected = plain(part, initial_state=before, mask=mask)
        with fused(forward=1):
            found = model.predict(part, batch_size=BATCH, verbose=0)
        assert len(found) == len(expected)
        for a, b in zip(found, expected, strict=True):
            assert_close(a, b)
        for state, b in zip(layer.states, before, strict=True):
            state.assign(b)
        for a, b in zip(layer(part, mask=mask), expected, strict=True):
            assert_close(a, b)
    # The outputs pass on the mask, the states have none.
    handed_on = [getattr(output, "_keras_mask", None) is not None for output in outputs]
    sequences = len(outputs) - 4
    assert handed_on == [masked and return_sequences] * sequences + [False] * 4


# Batches of another size

MESSAGE = rf"stateful=True must keep its batch size: expected {BATCH} sequences.*found"


@pytest.mark.parametrize("wrap", [lambda layer: layer, FastBidirectional], ids=["lstm", "bidirectional"])
@pytest.mark.parametrize("size", [1, BATCH + 1])
def test_batch_of_another_size(wrap: Callable[[Any], Any], size: int, x: np.ndarray) -> None:
    layer = wrap(FastLSTM(UNITS, stateful=True))
    layer(x[:BATCH])
    before = [to_numpy(state) for state in layer.states]
    with pytest.raises(ValueError, match=rf"{MESSAGE} {size}"):
        layer(x[:size])
    with pytest.raises(ValueError, match=MESSAGE):
        layer(keras.Input((None, FEATURES), batch_size=size))
    for old, new in zip(before, layer.states, strict=True):
        np.testing.assert_array_equal(old, to_numpy(new))


# XLA compiles for the sizes of a batch, and leaves TensorFlow's checks of values out.
ERRORS: dict[str, tuple[type[Exception], str]] = {
    "plain": (Exception, rf"(?s){MESSAGE}"),
    "xla": (Exception, rf"(?s){MESSAGE}|stateful_layer_must_keep_its_batch_size"),
}


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("mode", ["plain", "xla"] if BACKEND == "tensorflow" else ["plain"])
@pytest.mark.parametrize("wrap", [lambda layer: layer, FastBidirectional, Bidirectional])
def test_last_batch_of_another_size(
    wrap: Callable[[Any], Any], mode: str, activation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorFlow's predict repeated one sequence for all states, and returned too many rows."""
    monkeypatch.setenv("LSTM_FAST_KERNEL", "auto")
    layer = wrap(FastLSTM(UNITS, stateful=True, activation=activation))
    model = keras.Sequential([keras.Input((TIME, FEATURES), batch_size=BATCH), layer])
    compiled(model, jit_compile=mode == "xla")
    x = np.ones((2 * BATCH + 1, TIME, FEATURES), np.float32)
    error, message = ERRORS[mode]
    weights = model.get_weights()
    with pytest.raises(error, match=message) as caught:
        model.predict(x, batch_size=BATCH, verbose=0)
    if BACKEND == "jax":
        assert "model.jax_state_sync()" in str(caught.value)
        model.jax_state_sync()
    if BACKEND == "torch" and activation == "relu":  # Keras's layer cannot be trained there with stateful=True
        return
    with pytest.raises(error, match=message):
        model.fit(
            x, np.zeros((len(x), layer.compute_output_shape(x.shape)[-1])), batch_size=BATCH, shuffle=False, verbose=0
        )
    assert [weight.shape for weight in model.get_weights()] == [weight.shape for weight in weights]
    model.predict(x[:BATCH], batch_size=BATCH, verbose=0)


@pytest.mark.backends("tensorflow")
def test_graph_with_an_unknown_batch(x: np.ndarray) -> None:
    import tensorflow as tf

    layer = FastLSTM(UNITS, stateful=True)
    layer(x[:BATCH])
    call = tf.function(layer, input_signature=[tf.TensorSpec((None, None, FEATURES))])
    assert call(x[:BATCH]).shape == (BATCH, UNITS)
    with pytest.raises(tf.errors.InvalidArgumentError, match=rf"(?s){layer.name}.*{MESSAGE}"):
        call(x[:1])


# Several devices

SPREAD = """
import sys, warnings
from pathlib import Path
import jax, keras, numpy as np
import lstm_fast
from data_parallel import *
warnings.simplefilter("error")
folder = Path(sys.argv[1])

def make_stateful():
    layer = lstm_fast.FastLSTM(6, stateful=True)
    inputs = keras.Input((None,), batch_size=BATCH, dtype="int32")
    model = keras.Sequential([inputs, keras.layers.Embedding(WORDS, 8), layer, keras.layers.Dense(1)])
    rng = np.random.default_rng(1)
    model.set_weights([rng.uniform(-0.5, 0.5, weight.shape).astype(np.float32) for weight in model.weights])
    return compiled(model), layer

def fit(name, reset):
    model, layer = make_stateful()
    def forget(*_, logs):
        model.jax_state_sync()
        layer.reset_states()
    resets = keras.callbacks.LambdaCallback(on_train_batch_end=forget)
    values = lambda: jax.device_get([*(w.value for w in model.weights), *(s.value for s in layer.states)])
    with recorded(folder / f"{name}.npz", values):
        model.fit(*make_data(), batch_size=BATCH, shuffle=False, verbose=0, callbacks=[resets] if reset else [])
    assert {len(state.value.sharding.device_set) for state in layer.states} == {2 if name == "spread" else 1}

fit("whole", False)
fit("forgetful", True)
assert jax.device_count() == 2
keras.distribution.set_distribution(keras.distribution.DataParallel(devices=keras.distribution.list_devices()))
fit("spread", False)
"""


@pytest.mark.backends("jax")
def test_fit_of_a_model_spread_over_devices(tmp_path: pathlib.Path) -> None:
    devices = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2"
    data_parallel.run_script(SPREAD, tmp_path, KERAS_BACKEND="jax", XLA_FLAGS=devices)
    data_parallel.check(tmp_path, "spread", "whole", 2 * data_parallel.STEPS)
    forgetful, whole = (np.load(tmp_path / f"{name}.npz") for name in ("forgetful", "whole"))
    assert any(np.abs(forgetful[key] - whole[key]).max() > 1e-3 for key in whole.files)  # this comparison can fail
