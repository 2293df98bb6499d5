"""`tf.distribute.MultiWorkerMirroredStrategy`: the processes of TF_CONFIG.

The steps call `Strategy.run`. Keras's own `fit` fails under this strategy with every layer (keras-team/keras, issue
20585).
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from lstm_fast.distribute.figures import loss_and_accuracy
from lstm_fast.distribute.group import DistributeError

_EXAMPLE = (
    '{"cluster": {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]}, "task": {"type": "worker", "index": 0}} with another '
    "index in each process"
)


class TensorFlowGroup:
    """The processes of TF_CONFIG; see `lstm_fast.distribute.group.Group`."""

    def __init__(self, waiting: Callable[[str], None]) -> None:
        self.rank, self.size = _place(os.environ.get("TF_CONFIG", ""))
        waiting(os.environ["TF_CONFIG"])
        try:
            self._strategy = tf.distribute.MultiWorkerMirroredStrategy()
        except (tf.errors.OpError, RuntimeError, TypeError, ValueError) as error:
            raise DistributeError(
                f"distribute: TensorFlow cannot connect the processes of TF_CONFIG: {error}"
            ) from error
        self.replicas = self._strategy.num_replicas_in_sync
        self.errors: tuple[type[Exception], ...] = (tf.errors.OpError,)
        self.seed_offset = self.rank

    def scope(self) -> contextlib.AbstractContextManager[object]:  # noqa: D102
        scope: contextlib.AbstractContextManager[object] = self._strategy.scope()
        return scope

    def alone(self) -> contextlib.AbstractContextManager[object]:  # noqa: D102
        return contextlib.nullcontext()

    def gather(self, numbers: np.ndarray) -> np.ndarray:  # noqa: D102
        def of_replica() -> tf.Tensor:
            return tf.distribute.get_replica_context().all_gather(tf.constant(numbers)[None], axis=0)

        found = self._strategy.run(tf.function(of_replica))
        # One row for each replica. The rows of one process are equal.
        return np.asarray(self._strategy.experimental_local_results(found)[0])[:: self.replicas // self.size]

    def steps(self, model: keras.Model) -> _Steps:  # noqa: D102
        return _Steps(self._strategy, model)

    def leave(self) -> None:
        """Nothing: TensorFlow ends the connection at the end of the process."""


class _Steps:
    def __init__(self, strategy: tf.distribute.Strategy, model: keras.Model) -> None:
        self._strategy = strategy

        def train(ids: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
            with tf.GradientTape() as tape:
                figures = loss_and_accuracy(model, model(ids, training=True), labels, weights)
                loss = figures[0]
            # This also sums the gradients over the replicas.
            model.optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
            return figures

        def test(ids: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
            return loss_and_accuracy(model, model(ids, training=False), labels, weights)

        # Batches differ in length. With reduce_retracing only the first two are traced.
        self._train = tf.function(lambda *batch: self._sum(strategy.run(train, batch)), reduce_retracing=True)
        self._test = tf.function(lambda *batch: self._sum(strategy.run(test, batch)), reduce_retracing=True)
        with strategy.scope():
            model.optimizer.build(model.trainable_variables)

    def train(self, *batch: np.ndarray) -> tuple[float, float]:
        loss, accuracy = self._train(*self._parts(batch)).numpy().tolist()
        return loss, accuracy

    def test(self, *batch: np.ndarray) -> tuple[float, float]:
        loss, accuracy = self._test(*self._parts(batch)).numpy().tolist()
        return loss, accuracy

    def finish(self) -> None:
        """Nothing: the steps change the model's own variables."""

    def _sum(self, figures: Any) -> tf.Tensor:
        return self._strategy.reduce(tf.distribute.ReduceOp.SUM, figures, axis=None)

    def _parts(self, batch: tuple[np.ndarray, ...]) -> list[Any]:
        def parts(array: np.ndarray) -> Any:
            rows = len(array) // self._strategy.num_replicas_in_sync

            def part(context: tf.distribute.ValueContext) -> tf.Tensor:
                start = context.replica_id_in_sync_group * rows
                return tf.constant(array[start : start + rows])

            return self._strategy.experimental_distribute_values_from_function(part)

        return [parts(array) for array in batch]


def _place(config: str) -> tuple[int, int]:
    """Returns the number of this process and the number of processes."""
    try:
        content = json.loads(config)
        cluster, kind, index = content["cluster"], content["task"]["type"], content["task"]["index"]
        processes = [(name, number) for name in ("chief", "worker") for number in range(len(cluster.get(name, ())))]
        place = processes.index((kind, int(index)))
        whole = cluster.keys() <= {"chief", "worker"} and all(isinstance(part, list) for part in cluster.values())
    except (ValueError, KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        found = repr(config) if config else "none"
        raise DistributeError(
            f"distribute: expected TF_CONFIG with the addresses of all workers and the place of this one, {_EXAMPLE}; "
            f"found {found}"
        )
    return place, len(processes)
