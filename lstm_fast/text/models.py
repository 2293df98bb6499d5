"""The two models of TensorFlow's tutorial on text classification with an RNN."""

from __future__ import annotations

from typing import Any, Literal

import keras

from lstm_fast.layers import FastBidirectional, FastLSTM

LayerName = Literal["fast", "keras"]
# With 2,500 film reviews, four epochs reach a validation accuracy of .57 with 1e-4 and .68 with this rate; .60 and .79
# if padding is masked.
LEARNING_RATE = 1e-3


def single(
    vocab_size: int,
    layer: LayerName = "fast",
    *,
    classes: int = 2,
    mask: bool = False,
    learning_rate: float = LEARNING_RATE,
    seed: int | None = None,
) -> keras.Model:
    """Builds and compiles `Bidirectional(LSTM(64))`: 598,209 parameters with the 8,185 entries of `subwords8k`.

    Args:
        vocab_size: Number of token ids, with padding.
        layer: "fast" for `FastLSTM`, "keras" for `keras.layers.LSTM`. With the same seed, both have the same initial
            weights.
        classes: Number of classes.
        mask: Whether padding (id 0) is masked.
        learning_rate: The learning rate of Adam.
        seed: If not None, seeds Python, NumPy and the framework (`keras.utils.set_random_seed`) before building.

    Returns:
        A model from ids int64 `[B, T]` to logits float32 `[B, 1]` for two classes, `[B, classes]` for more.
    """
    return _compiled(
        vocab_size,
        layer,
        classes=classes,
        mask=mask,
        learning_rate=learning_rate,
        seed=seed,
        lstm_units=(64,),
        dropout=0.0,
    )


def stacked(
    vocab_size: int,
    layer: LayerName = "fast",
    *,
    classes: int = 2,
    mask: bool = False,
    learning_rate: float = LEARNING_RATE,
    seed: int | None = None,
) -> keras.Model:
    """Builds and compiles two bidirectional layers, of 64 and 32 units: 635,329 parameters with `subwords8k`.

    Arguments and result are those of `single`.
    """
    return _compiled(
        vocab_size,
        layer,
        classes=classes,
        mask=mask,
        learning_rate=learning_rate,
        seed=seed,
        lstm_units=(64, 32),
        dropout=0.5,
    )


MODELS = {"single": single, "stacked": stacked}


def _compiled(
    vocab_size: int,
    layer: LayerName,
    *,
    classes: int,
    mask: bool,
    learning_rate: float,
    seed: int | None,
    lstm_units: tuple[int, ...],
    dropout: float,
) -> keras.Model:
    if layer not in ("fast", "keras"):
        raise ValueError(f"layer: expected 'fast' or 'keras', found {layer!r}")
    if classes < 2:
        raise ValueError(f"classes: expected at least 2, found {classes}")
    if seed is not None:
        keras.utils.set_random_seed(seed)
    layers: list[Any] = [keras.Input((None,), dtype="int64"), keras.layers.Embedding(vocab_size, 64, mask_zero=mask)]
    for units in lstm_units:
        return_sequences = units is not lstm_units[-1]
        if layer == "fast":
            layers.append(FastBidirectional(FastLSTM(units, return_sequences=return_sequences)))
        else:
            layers.append(keras.layers.Bidirectional(keras.layers.LSTM(units, return_sequences=return_sequences)))
    layers.append(keras.layers.Dense(64, activation="relu"))
    if dropout:
        layers.append(keras.layers.Dropout(dropout, seed=seed))
    layers.append(keras.layers.Dense(1 if classes == 2 else classes))
    model = keras.Sequential(layers)
    loss, metric = (
        # Outputs are logits: the border between the classes is 0, not Keras's default of 0.5.
        (keras.losses.BinaryCrossentropy, keras.metrics.BinaryAccuracy(threshold=0.0, name="accuracy"))
        if classes == 2
        else (keras.losses.SparseCategoricalCrossentropy, keras.metrics.SparseCategoricalAccuracy(name="accuracy"))
    )
    model.compile(keras.optimizers.Adam(learning_rate), loss(from_logits=True), metrics=[metric])
    return model
