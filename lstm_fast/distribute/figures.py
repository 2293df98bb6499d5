"""The loss and the accuracy of a step, in operations of Keras for any backend."""

from __future__ import annotations

from typing import Any

import keras


def loss_and_accuracy(model: keras.Model, outputs: Any, labels: Any, weights: Any) -> Any:
    """Returns the weighted sums over the rows of the loss and of the right answers, float32 `[2]`.

    Args:
        model: A model that was compiled by `lstm_fast.text.models`.
        outputs: Logits, float32 `[B, 1]` for two classes, `[B, classes]` for more.
        labels: int64 `[B]`.
        weights: float32 `[B]`.
    """
    ops = keras.ops
    if outputs.shape[-1] == 1:
        labels = ops.expand_dims(labels, -1)
        right = keras.metrics.binary_accuracy(labels, outputs, threshold=0.0)
    else:
        right = keras.metrics.sparse_categorical_accuracy(labels, outputs)
    losses = model.loss.call(labels, outputs)  # one for each row: a mean would be over the rows of this process only
    return ops.stack([ops.sum(ops.cast(ops.reshape(values, (-1,)), "float32") * weights) for values in (losses, right)])
