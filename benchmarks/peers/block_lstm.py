"""TensorFlow's own fused op for the CPU, BlockLSTMV2, which no Keras layer uses. It has no lengths per row."""

from typing import Any

import numpy as np
import tensorflow as tf

from lstm_fast.bench.prepared import Prepared
from lstm_fast.bench.scenarios import Problem


def prepare(problem: Problem, training: bool) -> Prepared:
    x = tf.constant(problem.x.swapaxes(0, 1))  # [T, B, D]
    time, batch, features = x.shape
    units = problem.weights[0].recurrent_kernel.shape[0]
    # Gates i, f, c, o, unlike those of version 1; w is [D + H, 4H].
    weights = [(tf.constant(np.concatenate([k, r])), tf.constant(b)) for k, r, b in problem.weights]
    state, peephole = tf.zeros([batch, units]), tf.zeros([units])

    def inputs(x: tf.Tensor, w: tf.Tensor, b: tf.Tensor) -> dict[str, Any]:
        states = {"cs_prev": state, "h_prev": state}
        peepholes = {"wci": peephole, "wcf": peephole, "wco": peephole, "use_peephole": False}
        return {"seq_len_max": tf.constant(time, tf.int64), "x": x, "w": w, "b": b, **states, **peepholes}

    def run(x: tf.Tensor, weights: list[tuple[tf.Tensor, tf.Tensor]]) -> list[tf.Tensor]:
        given = [inputs(x if n == 0 else tf.reverse(x, [0]), w, b) for n, (w, b) in enumerate(weights)]
        outputs = [tf.raw_ops.BlockLSTMV2(**direction, cell_clip=0.0) for direction in given]
        y = tf.concat([out.h if n == 0 else tf.reverse(out.h, [0]) for n, out in enumerate(outputs)], -1)
        if not training:
            return [y]
        # TensorFlow registers the gradient of version 1, whose gates have another order.
        dy = tf.split(y * (2 / (time * batch * units * len(weights))), len(weights), axis=-1)
        gradients = [
            tf.raw_ops.BlockLSTMGradV2(
                **direction, **out._asdict(), cs_grad=tf.zeros_like(out.cs), h_grad=d if n == 0 else tf.reverse(d, [0])
            )
            for n, (direction, out, d) in enumerate(zip(given, outputs, dy, strict=True))
        ]
        dx = tf.add_n([g.x_grad if n == 0 else tf.reverse(g.x_grad, [0]) for n, g in enumerate(gradients)])
        return [y, dx, *(array for g in gradients for array in (g.w_grad, g.b_grad))]

    compiled = tf.function(run, autograph=False)

    def results(arrays: list[np.ndarray]) -> list[np.ndarray]:
        batch_major = [array.swapaxes(0, 1) for array in arrays[:2]]  # y and dx
        split = (np.split(a, [features]) if a.ndim == 2 else [a] for a in arrays[2:])
        return [*batch_major, *(array for pair in split for array in pair)]

    return Prepared(lambda: [array.numpy() for array in compiled(x, weights)], results)
