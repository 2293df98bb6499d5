"""Typical models, trained with `accelerate` and without: the losses are the same, and the kernels run."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tolerances
from keras import ops
from keras_side import fused
from twins import BACKEND, assert_changes_nothing, assert_close, assert_trains_alike, computed, random, seeded

from lstm_fast import accelerate, to_keras

pytestmark = pytest.mark.backends("tensorflow", "jax", "torch")

K = keras.layers
BATCH, TIME, FEATURES, UNITS, WORDS = 4, 5, 3, 4, 9


def tokens(*shape: int, seed: int = 0) -> np.ndarray:
    """Words, padded at the end with a different number of zeros in each sequence."""
    words = np.random.default_rng(seed).integers(1, WORDS, shape).astype(np.int32)
    for i, row in enumerate(words):
        row[..., row.shape[-1] - i % 3 :] = 0
    return words


def embedding(**kwargs: Any) -> keras.Layer:
    return K.Embedding(WORDS, UNITS, mask_zero=True, **kwargs)


def compiled(model: keras.Model, loss: Any = "mse", **kwargs: Any) -> keras.Model:
    if BACKEND == "tensorflow":  # TensorFlow takes seconds to trace a training step, and more to compile it
        kwargs = {"run_eagerly": not kwargs, "jit_compile": False, **kwargs}
    model.compile(keras.optimizers.Adam(0.05, clipnorm=1.0), loss, **kwargs)
    return model


WORD_LOSS = "sparse_categorical_crossentropy"


def sentiment() -> keras.Model:
    layers = [
        embedding(),
        K.SpatialDropout1D(0.2, seed=1),
        K.Bidirectional(K.LSTM(UNITS, return_sequences=True, dropout=0.2, seed=2)),
        K.Bidirectional(K.LSTM(UNITS, recurrent_dropout=0.2, seed=3), merge_mode="sum"),
        K.Dense(1, "sigmoid"),
    ]
    return compiled(
        keras.Sequential([keras.Input((None,), dtype="int32"), *layers]), "binary_crossentropy", run_eagerly=False
    )


def seq2seq() -> keras.Model:
    """The states of the encoder go to the decoder."""
    source, target = keras.Input((None,), dtype="int32"), keras.Input((None,), dtype="int32")
    _, *states = K.LSTM(UNITS, return_state=True)(embedding()(source))
    decoded, *_ = K.LSTM(UNITS, return_sequences=True, return_state=True)(embedding()(target), initial_state=states)
    return compiled(keras.Model([source, target], K.Dense(WORDS, "softmax")(decoded)), WORD_LOSS)


def bidirectional_seq2seq() -> keras.Model:
    """As above, with the states of both directions side by side, and a decoder of two cells."""
    source, target = keras.Input((TIME,), dtype="int32"), keras.Input((TIME,), dtype="int32")
    words = embedding()
    encoded = K.Bidirectional(K.LSTM(UNITS, return_state=True))(words(source))
    h, c = ops.concatenate(encoded[1::2], axis=-1), ops.concatenate(encoded[2::2], axis=-1)
    decoder = K.RNN([K.LSTMCell(2 * UNITS), K.LSTMCell(UNITS)], return_sequences=True)
    zero = ops.zeros_like(h[:, :UNITS])
    decoded = decoder(words(target), initial_state=[[h, c], [zero, zero]])
    return compiled(keras.Model([source, target], K.Dense(WORDS, "softmax")(decoded)), WORD_LOSS)


class Attending(keras.Model):
    """A decoder that looks at the encoder's outputs, written as a class."""

    def __init__(self) -> None:
        super().__init__()
        self.words = embedding()
        self.encoder = K.Bidirectional(K.LSTM(UNITS, return_sequences=True), merge_mode="ave")
        self.decoder = [K.LSTM(UNITS, return_sequences=True) for _ in range(2)]
        self.attention = K.AdditiveAttention()
        self.heads = {"out": K.Dense(WORDS, "softmax"), "norm": K.LayerNormalization()}

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        source, target = inputs
        encoded = self.encoder(self.words(source), training=training)
        x = self.words(target)
        for layer in self.decoder:
            x = layer(x, training=training)
        x = self.heads["norm"](x + self.attention([x, encoded]))
        return self.heads["out"](x)


def captioning() -> keras.Model:
    """An image, as the first state of a language model."""
    image, words = keras.Input((6, 6, 3)), keras.Input((TIME,), dtype="int32")
    features = K.GlobalAveragePooling2D()(K.Conv2D(UNITS, 3, activation="relu")(image))
    x = K.LSTM(UNITS, return_sequences=True)(embedding()(words), initial_state=[features, K.Dense(UNITS)(features)])
    return compiled(keras.Model([image, words], K.Dense(WORDS, "softmax")(x)), WORD_LOSS, jit_compile="auto")


def ctc_loss(labels: Any, probabilities: Any) -> Any:
    frames = ops.full((ops.shape(probabilities)[0],), TIME, dtype="int32")
    letters = ops.full((ops.shape(labels)[0],), 2, dtype="int32")
    return ops.mean(ops.ctc_loss(labels, probabilities, letters, frames))


def speech(loss: Any) -> keras.Model:
    layers = [
        K.Conv1D(UNITS, 2, padding="causal"),
        K.BatchNormalization(),
        K.Bidirectional(K.LSTM(UNITS, return_sequences=True)),
        K.Dense(WORDS, "softmax" if isinstance(loss, keras.losses.Loss) else None),
    ]
    return compiled(keras.Sequential([keras.Input((TIME, FEATURES)), *layers]), loss)


def hierarchical() -> keras.Model:
    """Words to sentences, sentences to a document."""
    sentence = keras.Sequential([keras.Input((3,), dtype="int32"), embedding(), K.Bidirectional(K.LSTM(UNITS))])
    layers = [K.TimeDistributed(sentence), K.LSTM(UNITS), K.Dense(3, "softmax")]
    return compiled(keras.Sequential([keras.Input((2, 3), dtype="int32"), *layers]), WORD_LOSS)


def stacked_cells() -> keras.Model:
    cells = [K.LSTMCell(UNITS, dropout=0.2, seed=1), K.LSTMCell(UNITS, kernel_regularizer="l2")]
    layers = [K.Masking(), K.RNN(cells, return_sequences=True, go_backwards=True), K.RNN(K.LSTMCell(2)), K.Dense(1)]
    return compiled(keras.Sequential([keras.Input((TIME, FEATURES)), *layers]), run_eagerly=False)


def several_inputs() -> keras.Model:
    """Two series by one shared LSTM, words, and numbers; two outputs."""
    a, b = keras.Input((TIME, FEATURES), name="a"), keras.Input((TIME, FEATURES), name="b")
    text, numbers = keras.Input((None,), dtype="int32", name="text"), keras.Input((2,), name="numbers")
    shared = K.LSTM(UNITS)
    x = K.Concatenate()([shared(a), shared(b), K.LSTM(UNITS)(embedding()(text)), numbers])
    outputs = {"value": K.Dense(1, name="value")(x), "kind": K.Dense(3, "softmax", name="kind")(x)}
    model = keras.Model({"a": a, "b": b, "text": text, "numbers": numbers}, outputs)
    return compiled(model, {"value": "mse", "kind": WORD_LOSS}, loss_weights={"value": 0.3, "kind": 1.0})


class Penalized(keras.Model):
    """A model with a training loss of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = K.LSTM(UNITS, return_sequences=True)
        self.decoder = keras.Sequential([K.LSTM(UNITS, return_sequences=True), K.Dense(FEATURES)])

    def call(self, x: Any) -> Any:
        return self.decoder(self.encoder(x))

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        del y, sample_weight, training
        return ops.mean(ops.square(x - y_pred)) + 0.1 * ops.mean(ops.abs(y_pred))


SERIES, IMAGES = random(BATCH, TIME, FEATURES), random(BATCH, 6, 6, 3)
SOURCE, TARGET = tokens(BATCH, TIME), tokens(BATCH, TIME, seed=1)
VALUE = random(BATCH, 1, seed=2)
KIND = np.arange(BATCH, dtype=np.int32)[:, None] % 3
LETTERS = tokens(BATCH, 4, seed=3)[:, :2] % (WORDS - 1) + 1

# A model, its inputs and targets, and the number of its kernel calls in each direction.
MODELS: dict[str, tuple[Callable[[], keras.Model], Any, Any, int]] = {
    "sentiment": (sentiment, SOURCE, KIND % 2, 2),
    "seq2seq": (seq2seq, [SOURCE, TARGET], TARGET, 2),
    "bidirectional_seq2seq": (bidirectional_seq2seq, [SOURCE, TARGET], TARGET, 3),
    "attention": (lambda: compiled(Attending(), WORD_LOSS), [SOURCE, TARGET], TARGET, 3),
    "captioning": (captioning, [IMAGES, SOURCE], TARGET, 1),
    "ctc": (lambda: speech(keras.losses.CTC()), SERIES, LETTERS, 1),
    "ctc_function": (lambda: speech(ctc_loss), SERIES, LETTERS, 1),
    "hierarchical": (hierarchical, tokens(BATCH, 2, 3), KIND, 3),
    "stacked_cells": (stacked_cells, SERIES, VALUE, 3),
    "several_inputs": (
        several_inputs,
        {"a": SERIES, "b": SERIES[::-1].copy(), "text": SOURCE, "numbers": random(BATCH, 2)},
        {"value": VALUE, "kind": KIND},
        3,
    ),
    "own_loss": (lambda: compiled(Penalized(), None), SERIES, SERIES, 2),
}


# JAX compiles each of them, which takes seconds. So with JAX a model is either trained or called.
CALLED = {"seq2seq", "captioning", "ctc_function", "hierarchical", "several_inputs"}
TRAINED = [name for name in MODELS if BACKEND != "jax" or name not in CALLED]


@pytest.mark.parametrize(("make", "x", "y", "per_step"), [MODELS[name] for name in TRAINED], ids=TRAINED)
def test_training(make: Callable[[], keras.Model], x: Any, y: Any, per_step: int) -> None:
    assert_trains_alike(make, x, y, per_step=per_step)


NOT_TRAINED = [name for name in MODELS if BACKEND != "jax" or name in CALLED]


@pytest.mark.parametrize(("make", "x", "y", "per_step"), [MODELS[name] for name in NOT_TRAINED], ids=NOT_TRAINED)
def test_inference(make: Callable[[], keras.Model], x: Any, y: Any, per_step: int) -> None:
    """Before any training: also of models that Keras has not built yet."""
    del y
    model = make()
    model(x)
    assert_changes_nothing(model, x, forward=per_step)


def test_training_from_the_start() -> None:
    """A model that has not been built, nor compiled."""
    keras.utils.set_random_seed(1)
    plain = keras.Sequential([K.LSTM(UNITS, return_sequences=True), K.Bidirectional(K.LSTM(UNITS)), K.Dense(1)])
    keras.utils.set_random_seed(1)
    fast = accelerate(
        keras.Sequential([K.LSTM(UNITS, return_sequences=True), K.Bidirectional(K.LSTM(UNITS)), K.Dense(1)])
    )
    losses = []
    for model, forward in ((plain, 0), (fast, 3 * 2)):
        compiled(model, run_eagerly=False)
        keras.utils.set_random_seed(2)
        with fused(forward=forward, backward=forward):
            losses.append(model.fit(SERIES, VALUE, epochs=3, shuffle=False, verbose=0).history["loss"])
    atol = 3 * tolerances.DRIFT_PER_STEP * tolerances.ROUNDOFF["float32"] * max(1.0, *losses[0])
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.0, atol=atol)


# Keras's own layers cannot be trained like this on the other backends: see test_stateful.py.
@pytest.mark.backends("tensorflow")
def test_stateful_forecasting() -> None:
    """Trained window by window, the states kept from one to the next, and reset after each epoch."""

    def make() -> keras.Model:
        keras.utils.set_random_seed(1)
        layers = [
            K.LSTM(UNITS, stateful=True, return_sequences=True),
            K.Bidirectional(K.LSTM(2, stateful=True, return_sequences=True)),
            K.RNN(K.LSTMCell(2), stateful=True),
            K.Dense(1),
        ]
        return compiled(keras.Sequential([keras.Input((TIME, FEATURES), batch_size=2), *layers]), run_eagerly=False)

    windows, values = random(4, TIME, FEATURES), random(4, 1, seed=1)

    def train(model: keras.Model) -> list[float]:
        losses = []
        for _ in range(2):
            losses += model.fit(windows, values, batch_size=2, shuffle=False, verbose=0).history["loss"]
            for layer in model.layers[:-1]:
                layer.reset_states() if hasattr(layer, "reset_states") else layer.reset_state()
        return losses

    plain, fast = make(), make()
    expected = [train(plain), computed(lambda: plain.predict(windows, batch_size=2, verbose=0)), train(plain)]
    found = [train(accelerate(fast)), computed(lambda: fast.predict(windows, batch_size=2, verbose=0)), train(fast)]
    atol = 8 * tolerances.DRIFT_PER_STEP * tolerances.ROUNDOFF["float32"] * max(1.0, *expected[0], *expected[2])
    np.testing.assert_allclose(found[0], expected[0], rtol=0.0, atol=atol)
    np.testing.assert_allclose(found[1][0], expected[1][0], rtol=0.0, atol=atol)
    np.testing.assert_allclose(found[2], expected[2], rtol=0.0, atol=atol)


def test_step_by_step_inference_with_the_parts_of_a_trained_model() -> None:
    """The decoder of a translation model, made of layers of the whole model: these are the fast ones."""
    keras.utils.set_random_seed(1)
    source, target = keras.Input((None,), dtype="int32"), keras.Input((None,), dtype="int32")
    words, decoder, head = embedding(), K.LSTM(UNITS, return_sequences=True, return_state=True), K.Dense(WORDS)
    _, *states = K.LSTM(UNITS, return_state=True)(words(source))
    decoded, *_ = decoder(words(target), initial_state=states)
    whole = keras.Model([source, target], head(decoded))
    encoder = keras.Model(source, states)
    before = [keras.Input((UNITS,)), keras.Input((UNITS,))]
    step, *after = decoder(words(target), initial_state=before)
    stepwise = keras.Model([target, *before], [head(step), *after])

    def decode() -> Any:
        states, word, found = encoder(SOURCE), ops.convert_to_tensor(SOURCE[:, :1]), []
        for _ in range(3):
            logits, *states = stepwise([word, *states])
            found.append(logits)
            word = ops.cast(ops.argmax(logits, axis=-1), "int32")
        return found, states

    expected = computed(decode)
    accelerate(whole)
    with fused(forward=4):
        found = computed(decode)
    assert_close(found, expected)
    to_keras(encoder)
    with fused(forward=3):
        assert_close(computed(decode), expected)


class Switching(keras.callbacks.Callback):
    """Accelerates the model at the end of the first epoch."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        del logs
        if epoch == 0:
            accelerate(self.model)


def test_accelerate_in_a_callback() -> None:
    histories = []
    for callbacks, calls in (([], 0), ([Switching()], 2)):
        keras.utils.set_random_seed(1)
        layers = [K.LSTM(UNITS, dropout=0.2, seed=1), K.Dense(1)]
        model = compiled(keras.Sequential([keras.Input((TIME, FEATURES)), *layers]), run_eagerly=False)
        with fused(forward=calls, backward=calls):
            fit = {"epochs": 3, "shuffle": False, "verbose": 0, "callbacks": callbacks}
            histories.append(seeded(lambda m=model, f=fit: m.fit(SERIES, VALUE, **f)).history["loss"])
    atol = 3 * tolerances.DRIFT_PER_STEP * tolerances.ROUNDOFF["float32"] * max(1.0, *histories[0])
    np.testing.assert_allclose(histories[1], histories[0], rtol=0.0, atol=atol)


@pytest.mark.parametrize("method", ["evaluate", "predict", "train_on_batch"])
def test_functions_that_keras_has_traced_are_made_anew(method: str) -> None:
    """In both directions: the kernels run while the layers are fast, and only then."""
    model = compiled(keras.Sequential([keras.Input((TIME, FEATURES)), K.LSTM(UNITS), K.Dense(1)]), metrics=["mae"])

    def call() -> Any:
        if method == "predict":
            return model.predict(SERIES, verbose=0)
        return model.evaluate(SERIES, VALUE, verbose=0) if method == "evaluate" else model.train_on_batch(SERIES, VALUE)

    training = method == "train_on_batch"
    results = []
    for change, calls in ((to_keras, 0), (accelerate, 1), (to_keras, 0), (accelerate, 1)):
        change(model)
        with fused(forward=calls, backward=calls * training):
            results.append(computed(call))
        if BACKEND == "jax" and len(results) == 3:  # JAX compiles every time
            break
    if not training:
        for result in results[1:]:
            assert_close(result, results[0])
