"""The masks that a layer gets, with other shapes and dtypes, and the masks that it passes on."""

import pathlib
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tolerances
from keras_side import BACKEND, MODES, fused, keras_copy, run, to_numpy

import lstm_fast
from lstm_fast import FastBidirectional, FastLSTM, ReversedMaskWarning

pytestmark = pytest.mark.backends("tensorflow", "jax", "torch")

BATCH, TIME, FEATURES, UNITS = 3, 5, 4, 6
TERMS = BATCH * TIME * (FEATURES + UNITS)
WORDS, SENTENCES, VOCABULARY = 4, 3, 9

LSTM, Bidirectional = keras.layers.LSTM, keras.layers.Bidirectional

WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "lstm": lambda layer: layer,
    "bidirectional": FastBidirectional,
    "keras_bidirectional": Bidirectional,
}
wrappers = pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((BATCH, TIME, FEATURES)).astype(np.float32)


def assert_close(found: Any, expected: Any) -> None:
    found, expected = to_numpy(found), to_numpy(expected)
    np.testing.assert_allclose(found, expected, rtol=0.0, atol=tolerances.between_layers("float32", TERMS, expected))


# Masks [batch, time, k]


def deep_mask() -> np.ndarray:
    return np.random.default_rng(1).random((BATCH, TIME, 3)) < 0.3


@pytest.mark.backends("jax")
@pytest.mark.parametrize("dtype", [bool, np.int32, np.float32])
@wrappers
def test_deep_masks_are_reduced(wrap: Callable[[Any], Any], dtype: type, x: np.ndarray) -> None:
    layer = wrap(FastLSTM(UNITS, return_sequences=True, return_state=True))
    plain = keras_copy(layer)
    plain.build(x.shape)
    layer.build(x.shape)
    layer.set_weights(plain.get_weights())
    mask = deep_mask()
    assert 0 < mask.any(-1).sum() < BATCH * TIME
    states = [np.full((BATCH, UNITS), 0.5, np.float32)] * (2 if isinstance(layer, FastLSTM) else 4)
    for options in ({}, {"initial_state": states}):
        expected = plain(x, mask=mask.astype(dtype), **options)
        for mode in MODES:
            found, _ = run(
                layer,
                lambda x, mask, options=options: layer(x, mask=mask, **options),
                [x, mask.astype(dtype)],
                None,
                mode,
            )
            for a, b in zip(found, expected, strict=True):
                assert_close(a, b)


ON_NUMPY = """
import sys
sys.path.insert(0, "tests")
import keras, numpy as np
from lstm_fast import FastBidirectional, FastLSTM
rng = np.random.default_rng(0)
x, mask = rng.standard_normal((3, 5, 4)).astype("float32"), rng.random((3, 5, 3)) < 0.3
for layer in (FastLSTM(6, return_sequences=True), FastBidirectional(FastLSTM(6, return_sequences=True))):
    np.testing.assert_array_equal(layer(x, mask=mask), layer(x, mask=mask.any(-1)))
    assert np.abs(layer(x, mask=mask) - layer(x)).max() > 0.01
"""


@pytest.mark.backends("tensorflow")
def test_deep_masks_on_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("jax", reason="Keras's NumPy backend imports it")
    monkeypatch.setenv("KERAS_BACKEND", "numpy")
    subprocess.run([sys.executable, "-c", ON_NUMPY], check=True, timeout=120, cwd=pathlib.Path(__file__).parent.parent)


@pytest.mark.backends("tensorflow", "torch")
@wrappers
def test_deep_masks_are_refused(wrap: Callable[[Any], Any], x: np.ndarray) -> None:
    layer = wrap(FastLSTM(UNITS))
    layer.build(x.shape)
    message = rf"'.*': `mask`: expected .*found \(3, 5, 3\).*TimeDistributed.*fails there as well on {BACKEND}.*Lambda"
    with pytest.raises(ValueError, match=message):
        layer(x, mask=deep_mask())


def documents() -> np.ndarray:
    """Documents of sentences of words. 0 is padding: of words, and of whole sentences."""
    words = np.random.default_rng(2).integers(1, VOCABULARY, (BATCH, SENTENCES, WORDS))
    words[0, 1, 2:] = 0
    words[1, 2] = 0
    words[2, 0, 1:] = 0
    return words


def unchanged(y: Any) -> Any:
    return y


def any_of_words(y: Any, mask: Any) -> Any:
    del y
    return keras.ops.any(mask, axis=-1)


def hierarchical(lstm: Any, bidirectional: Any, reduce: bool) -> keras.Model:
    """Words to sentences, sentences to a document, as in Keras's guide on masking, one level up."""
    words = keras.Input((SENTENCES, WORDS), dtype="int32")
    y = keras.layers.Embedding(VOCABULARY, FEATURES, mask_zero=True)(words)
    y = keras.layers.TimeDistributed(lstm(FEATURES))(y)
    if reduce:
        y = keras.layers.Lambda(unchanged, mask=any_of_words, output_shape=lambda shape: shape)(y)
    y = bidirectional(lstm(UNITS, return_sequences=True))(y)
    return keras.Model(words, keras.layers.Dense(1)(lstm(UNITS)(y)))


def by_hand(model: keras.Model, words: np.ndarray) -> np.ndarray:
    """The same by Keras's layers, with every mask passed explicitly."""
    embedding, sentences, both, last, dense = [layer for layer in model.layers if layer.weights]
    mask = words != 0
    y = to_numpy(embedding(words))

    def plain(layer: Any, **options: Any) -> Any:
        copy = keras_copy(layer)
        assert copy.built
        return to_numpy(copy(**options))

    y = np.stack([plain(sentences.layer, sequences=y[:, i], mask=mask[:, i]) for i in range(SENTENCES)], axis=1)
    y = plain(both, sequences=y, mask=mask.any(-1))
    return to_numpy(dense(plain(last, sequences=y, mask=mask.any(-1))))


@pytest.mark.parametrize("reduce", [True, False] if BACKEND == "jax" else [True])
def test_hierarchical_model(reduce: bool) -> None:
    """As Keras on JAX. With the advice from the error message it works on every backend."""
    model = hierarchical(FastLSTM, FastBidirectional, reduce)
    words = documents()
    with fused(forward=SENTENCES + 2):
        found = model.predict(words, verbose=0)
    assert_close(found, by_hand(model, words))
    model.compile("sgd", "mse")
    model.fit(words, np.ones((BATCH, 1)), verbose=0)
    assert np.isfinite(model.predict(words, verbose=0)).all()


@pytest.mark.backends("tensorflow", "torch")
def test_hierarchical_model_is_refused_before_it_runs() -> None:
    with pytest.raises(ValueError, match=r"`mask`: .*found \(None, 3, 4\).*TimeDistributed"):
        hierarchical(FastLSTM, FastBidirectional, reduce=False)


# Masks and states of one row, and masks of every dtype


@wrappers
@pytest.mark.parametrize("mode", MODES)
def test_one_row_serves_the_batch(wrap: Callable[[Any], Any], mode: str, x: np.ndarray) -> None:
    """Keras repeats masks of one row on every backend, and states on some."""
    layer = wrap(FastLSTM(UNITS, return_sequences=True, return_state=True))
    layer.build(x.shape)
    rng = np.random.default_rng(3)
    mask = np.array([[True, True, False, True, False]])
    states = [
        rng.standard_normal((1, UNITS)).astype(np.float32) for _ in range(2 if isinstance(layer, FastLSTM) else 4)
    ]

    def call(x: Any, mask: Any, *states: Any) -> Any:
        return layer(x, mask=mask, initial_state=list(states))

    def ones(*outputs: Any) -> Callable[[Any], np.ndarray]:
        del outputs
        return lambda y: np.ones(tuple(y.shape), np.float32)

    found, gradients = run(layer, call, [x, mask, *states], ones(), mode)
    rows = [np.repeat(value, BATCH, axis=0) for value in (mask, *states)]
    expected, expected_gradients = run(layer, call, [x, *rows], ones(), mode)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b, of in zip(gradients, expected_gradients, [x, *states, *layer.trainable_variables], strict=True):
        assert a.shape == tuple(of.shape)
        assert_close(a, b if a.shape == b.shape else b.sum(axis=0, keepdims=True))


@pytest.mark.backends("tensorflow")
def test_one_row_and_an_unknown_batch(x: np.ndarray) -> None:
    import tensorflow as tf

    layer = FastLSTM(UNITS)
    layer.build(x.shape)
    mask = np.arange(TIME)[None] < 3
    states = [np.ones((1, UNITS), np.float32)] * 2
    call = tf.function(
        lambda x: layer(x, mask=tf.constant(mask), initial_state=states),
        input_signature=[tf.TensorSpec((None, None, FEATURES))],
    )
    np.testing.assert_array_equal(
        call(x),
        layer(x, mask=np.repeat(mask, BATCH, 0), initial_state=[np.repeat(state, BATCH, 0) for state in states]),
    )


DTYPES = ["bool", "int8", "uint8", "int16", "int64", "float16", "bfloat16", "float64"]


@pytest.mark.parametrize("dtype", DTYPES)
@wrappers
@pytest.mark.fast
def test_masks_of_every_dtype(wrap: Callable[[Any], Any], dtype: str, x: np.ndarray) -> None:
    if BACKEND == "jax" and dtype.endswith("64"):
        pytest.skip("JAX without x64 has no such arrays")
    layer = wrap(FastLSTM(UNITS, return_sequences=True))
    layer.build(x.shape)
    mask = np.arange(TIME) < np.array([[1], [0], [4]])
    values = keras.ops.cast(np.where(mask, 3 if dtype != "bool" else 1, 0), dtype)
    with fused(forward=2 if wrap is Bidirectional else 1):
        found = to_numpy(layer(x, mask=values))
    np.testing.assert_array_equal(found, to_numpy(layer(x, mask=mask)))


# What can be known of a symbolic call

BAD_SYMBOLS: dict[str, tuple[dict[str, Any], str]] = {
    "mask time": (
        {"mask": keras.Input((TIME + 1,), dtype="bool")},
        r"`mask`: expected shape .*time=5.*found \(None, 6\)",
    ),
    "mask rank": ({"mask": keras.Input((), dtype="bool")}, r"`mask`: expected shape"),
    "state units": (
        {"initial_state": [keras.Input((UNITS + 1,))] * 4},
        r"`initial_state\[0\]`: .*units=6.*\(None, 7\)",
    ),
    "state count": ({"initial_state": [keras.Input((UNITS,))] * 3}, r"`initial_state`: expected . tensors.*found 3"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD_SYMBOLS.values(), ids=BAD_SYMBOLS)
@pytest.mark.parametrize("wrap", [WRAPPERS["lstm"], FastBidirectional], ids=["lstm", "bidirectional"])
@pytest.mark.fast
def test_bad_symbolic_calls(wrap: Callable[[Any], Any], arguments: dict[str, Any], message: str) -> None:
    """An error here comes before the first step of `fit`. On JAX, an error in that step would lose the weights."""
    layer = wrap(FastLSTM(UNITS))
    if isinstance(layer, FastLSTM) and len(arguments.get("initial_state", ())) == 4:
        arguments = {"initial_state": arguments["initial_state"][:2]}
    with pytest.raises(ValueError, match=message):
        layer(keras.Input((TIME, FEATURES)), **arguments)


def test_symbolic_masks_of_one_row(x: np.ndarray) -> None:
    inputs, mask = keras.Input((TIME, FEATURES), batch_size=BATCH), keras.Input((TIME,), batch_size=1, dtype="bool")
    layer = FastLSTM(UNITS)
    model = keras.Model([inputs, mask], layer(inputs, mask=mask))
    row = np.arange(TIME)[None] < 2
    np.testing.assert_array_equal(to_numpy(model([x, row])), to_numpy(layer(x, mask=np.repeat(row, BATCH, 0))))


def refusals() -> tuple[type[Exception], ...]:
    """The errors of a layer inside a step, which may know its batch size or not."""
    if BACKEND != "tensorflow":
        return (ValueError,)
    import tensorflow as tf

    return ValueError, tf.errors.InvalidArgumentError


@pytest.mark.parametrize("method", ["fit", "evaluate", "train_on_batch", "test_on_batch"])
def test_model_survives_a_bad_first_batch(method: str, x: np.ndarray) -> None:
    """On JAX, Keras's trainer empties a model if its first step fails. The layer raises before that step."""
    layer = FastLSTM(UNITS, stateful=True)
    model = keras.Sequential([keras.Input((TIME, FEATURES), batch_size=BATCH), layer])
    model.compile("sgd", "mse")
    before = model.get_weights()
    wrong = np.ones((BATCH + 1, TIME, FEATURES), np.float32)
    with pytest.raises(refusals(), match="stateful=True must keep its batch size"):
        getattr(model, method)(wrong, np.ones((BATCH + 1, UNITS)))
    for found, expected in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert np.isfinite(model.predict(x, verbose=0)).all()


# Masks that are passed on


def backwards(**options: Any) -> FastLSTM:
    return FastLSTM(UNITS, go_backwards=True, return_sequences=True, **options)


NEXT: dict[str, Callable[[], list[keras.Layer]]] = {
    "fast": lambda: [FastLSTM(UNITS)],
    "keras": lambda: [keras.layers.GRU(UNITS)],
    "pooling": lambda: [keras.layers.Dense(2), keras.layers.GlobalAveragePooling1D()],
    "loss": lambda: [],
}


@pytest.mark.parametrize("after", NEXT.values(), ids=NEXT)
def test_reversed_mask_is_warned_of_once(after: Callable[[], list[keras.Layer]], x: np.ndarray) -> None:
    x[:, 3:] = 0.0
    layer = backwards()

    def use() -> None:
        model = keras.Sequential([keras.Input((TIME, FEATURES)), keras.layers.Masking(), layer, *after()])
        model.compile("sgd", "mse")
        model.fit(x, np.zeros((BATCH, *model.output_shape[1:])), verbose=0)
        model.predict(x, verbose=0)

    (text,) = warnings_of(use)
    assert re.search(f"{layer.name}.*begin with the last timestep.*keras.ops.flip", text)
    mask = layer.compute_mask(None, keras.ops.ones((BATCH, TIME), "bool"))  # the mask itself is the same as Keras's
    assert to_numpy(mask).all()


def warnings_of(use: Callable[[], Any]) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        use()
    return [str(warning.message) for warning in caught if issubclass(warning.category, ReversedMaskWarning)]


class Eager(keras.Model):
    """Layers that are not called before the model is."""

    def __init__(self) -> None:
        super().__init__()
        self.masking, self.backwards, self.last = keras.layers.Masking(), backwards(), FastLSTM(UNITS)

    def call(self, x: Any) -> Any:
        return self.last(self.backwards(self.masking(x)))


def test_reversed_mask_of_a_subclassed_model(x: np.ndarray) -> None:
    model = Eager()
    assert len(warnings_of(lambda: (model.predict(x, verbose=0), model(x)))) == 1


def test_warned_of_mask_again_after_loading(x: np.ndarray, tmp_path: pathlib.Path) -> None:
    with pytest.warns(ReversedMaskWarning):
        model = keras.Sequential([keras.Input((TIME, FEATURES)), keras.layers.Masking(), backwards()])
    model.save(tmp_path / "model.keras")
    with pytest.warns(ReversedMaskWarning):
        loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))


def masked(*layers: keras.Layer) -> keras.Model:
    return keras.Sequential([keras.Input((TIME, FEATURES)), keras.layers.Masking(), *layers])


def with_states() -> keras.Model:
    inputs, states = keras.Input((TIME, FEATURES)), [keras.Input((UNITS,)) for _ in range(4)]
    y = keras.layers.Masking()(inputs)
    y = Bidirectional(FastLSTM(UNITS, return_sequences=True))(y, initial_state=states)
    zeros = [keras.layers.Lambda(lambda x: 0.0 * x[:, 0], output_shape=(FEATURES,))(inputs)] * 4
    zeros = [keras.layers.Dense(UNITS, use_bias=False)(zero) for zero in zeros]
    both = FastBidirectional(FastLSTM(UNITS, return_sequences=True))
    return keras.Model([inputs, *states], both(y, initial_state=zeros))


QUIET: dict[str, Callable[[], keras.Model]] = {
    "keras_bidirectional": lambda: masked(Bidirectional(FastLSTM(UNITS, return_sequences=True)), FastLSTM(2)),
    "bidirectional": lambda: masked(FastBidirectional(FastLSTM(UNITS, return_sequences=True)), FastLSTM(2)),
    "two_calls": lambda: masked(
        FastBidirectional(FastLSTM(UNITS, return_sequences=True, activity_regularizer="l2")), FastLSTM(2)
    ),
    "backward_layer": lambda: masked(
        Bidirectional(FastLSTM(UNITS, return_sequences=True), backward_layer=backwards()), FastLSTM(2)
    ),
    "accelerated": lambda: lstm_fast.accelerate(masked(Bidirectional(LSTM(UNITS, return_sequences=True)), LSTM(2))),
    "last_output": lambda: masked(FastLSTM(UNITS, go_backwards=True), keras.layers.Dense(2)),
    "unmasked": lambda: keras.Sequential([keras.Input((TIME, FEATURES)), backwards(), FastLSTM(2)]),
    "states": with_states,
}


@pytest.mark.parametrize("make", QUIET.values(), ids=QUIET)
def test_no_warning_where_masks_fit(make: Callable[[], keras.Model], x: np.ndarray, tmp_path: pathlib.Path) -> None:
    inputs = [x, *[np.zeros((BATCH, UNITS), np.float32)] * 4] if make is with_states else x
    with warnings.catch_warnings():
        warnings.simplefilter("error", ReversedMaskWarning)
        model = make()
        model.compile("sgd", "mse")
        model.fit(inputs, np.zeros((BATCH, *model.output_shape[1:])), verbose=0)
        model.predict(inputs, verbose=0)
        model(inputs)
        if make is not with_states:  # its Lambda cannot be loaded
            model.save(tmp_path / "model.keras")
            keras.models.load_model(tmp_path / "model.keras").predict(inputs, verbose=0)


@pytest.mark.parametrize("functional", [True, False])
def test_advice_on_reversed_masks_is_right(functional: bool, x: np.ndarray) -> None:
    """With reversed outputs, and the mask passed to both layers, padding changes nothing, and there is no warning."""
    layer, following = backwards(), FastLSTM(UNITS)
    mask = np.tile(np.arange(TIME) < 3, (BATCH, 1))

    def call(x: Any, mask: Any) -> Any:
        y = keras.ops.flip(layer(x, mask=mask), axis=1)
        return following(y, mask=mask)

    if functional:
        inputs = keras.Input((TIME, FEATURES)), keras.Input((TIME,), dtype="bool")
        words = keras.layers.Masking()(inputs[0])
        model = keras.Model(inputs, call(words, inputs[1]))
        found = model.predict([x, mask], verbose=0)
    else:
        found = call(x, mask)
    short = x[:, :3]
    assert_close(found, following(keras.ops.flip(layer(short), axis=1)))
