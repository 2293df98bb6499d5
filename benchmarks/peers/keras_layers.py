"""Keras layers on TensorFlow in a tf.function: Keras's own, as a graph or through XLA, and those of lstm_fast."""

from typing import Any

import keras
import tensorflow as tf

from benchmarks.peers import Prepared
from benchmarks.scenarios import Problem


def prepare(
    problem: Problem,
    training: bool,
    *,
    layer_class: type[keras.layers.LSTM],
    wrapper: type[keras.layers.Bidirectional],
    jit: bool = False,
    **options: Any,
) -> Prepared:
    """`wrapper` is for two directions; `options` are further arguments of the layer."""
    x = tf.constant(problem.x)
    mask = None if problem.mask is None else tf.constant(problem.mask)
    units = problem.weights[0].recurrent_kernel.shape[0]
    # Zero, because that is what Bidirectional and the other frameworks return at padding.
    layer = layer_class(units, return_sequences=True, zero_output_for_mask=True, **options)
    if len(problem.weights) == 2:
        layer = wrapper(layer)
    layer.build(x.shape)
    layer.set_weights([array for direction in problem.weights for array in direction])

    def run(x: tf.Tensor, mask: tf.Tensor | None) -> list[tf.Tensor]:
        if not training:
            return [layer(x, mask=mask)]
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, mask=mask, training=True)
            loss = tf.reduce_mean(tf.square(y))
        return [y, *tape.gradient(loss, [x, *(weight.value for weight in layer.trainable_weights)])]

    compiled = tf.function(run, jit_compile=jit, autograph=False)
    return Prepared(lambda: [array.numpy() for array in compiled(x, mask)], list)
