"""`jax.distributed` and `keras.distribution.DataParallel`: the processes that Keras's or JAX's environment names."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from typing import Any

import jax
import keras
import numpy as np
from jax.experimental import multihost_utils

from lstm_fast.distribute.figures import loss_and_accuracy
from lstm_fast.distribute.group import DistributeError


class JaxGroup:
    """The processes of `keras.distribution.initialize`; see `lstm_fast.distribute.group.Group`."""

    def __init__(self, waiting: Callable[[str], None]) -> None:
        waiting(os.environ.get("KERAS_DISTRIBUTION_JOB_ADDRESSES", "the addresses of the launcher"))
        try:
            keras.distribution.initialize()
        except (ValueError, RuntimeError) as error:
            raise DistributeError(
                "distribute: expected KERAS_DISTRIBUTION_JOB_ADDRESSES with the address of process 0, "
                "KERAS_DISTRIBUTION_NUM_PROCESSES and KERAS_DISTRIBUTION_PROCESS_ID, or a launcher that JAX knows, as "
                f"Slurm's srun is; found {str(error) or type(error).__name__}"
            ) from error
        self.rank, self.size, self.replicas = jax.process_index(), jax.process_count(), jax.device_count()
        self.errors: tuple[type[Exception], ...] = (RuntimeError,)
        self.seed_offset = 0  # JAX draws for the rows of all
        devices = keras.distribution.list_devices()
        keras.distribution.set_distribution(keras.distribution.DataParallel(devices=devices))

    def scope(self) -> contextlib.AbstractContextManager[object]:  # noqa: D102
        return contextlib.nullcontext()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:  # noqa: D102
        # Keras makes variables even while it saves a model, such as those of an optimizer. With a distribution it then
        # waits until all processes make them.
        distribution = keras.distribution.distribution()
        keras.distribution.set_distribution(None)
        try:
            yield
        finally:
            keras.distribution.set_distribution(distribution)

    def gather(self, numbers: np.ndarray) -> np.ndarray:  # noqa: D102
        of_all = np.asarray(multihost_utils.process_allgather(numbers))
        found: np.ndarray = of_all.reshape(self.size, *numbers.shape)  # with one process, JAX omits the first axis
        return found

    def steps(self, model: keras.Model) -> _Steps:  # noqa: D102
        return _Steps(self, model)

    def leave(self) -> None:  # noqa: D102
        jax.distributed.shutdown()


class _Steps:
    def __init__(self, group: JaxGroup, model: keras.Model) -> None:
        self._group = group
        self._rows = jax.sharding.NamedSharding(
            jax.sharding.Mesh(np.array(jax.devices()), ("batch",)), jax.sharding.PartitionSpec("batch")
        )
        model.optimizer.build(model.trainable_variables)
        self._variables = (model.trainable_variables, model.non_trainable_variables, model.optimizer.variables)
        self._state = [[variable.value for variable in kind] for kind in self._variables]

        def figures(trainable: Any, others: Any, batch: Any, training: bool) -> Any:
            ids, labels, weights = batch
            outputs, others = model.stateless_call(trainable, others, ids, training=training)
            found = loss_and_accuracy(model, outputs, labels, weights)
            return found[0], (found, others)

        def train(state: Any, *batch: Any) -> Any:
            trainable, others, optimizer = state
            gradient_of = jax.grad(functools.partial(figures, training=True), has_aux=True)
            gradients, (found, others) = gradient_of(trainable, others, batch)
            trainable, optimizer = model.optimizer.stateless_apply(optimizer, gradients, trainable)
            return [trainable, others, optimizer], found

        def test(state: Any, *batch: Any) -> Any:
            return figures(state[0], state[1], batch, training=False)[1][0]

        self._train = jax.jit(train, donate_argnums=0)
        self._test = jax.jit(test)

    def train(self, *batch: np.ndarray) -> tuple[float, float]:
        self._state, found = self._train(self._state, *self._parts(batch))
        loss, accuracy = np.asarray(found).tolist()
        return loss, accuracy

    def test(self, *batch: np.ndarray) -> tuple[float, float]:
        loss, accuracy = np.asarray(self._test(self._state, *self._parts(batch))).tolist()
        return loss, accuracy

    def finish(self) -> None:
        for variables, values in zip(self._variables, self._state, strict=True):
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)

    def _parts(self, batch: tuple[np.ndarray, ...]) -> list[jax.Array]:
        def part(array: np.ndarray) -> jax.Array:
            rows = len(array) // self._group.size
            mine = array[self._group.rank * rows : (self._group.rank + 1) * rows]
            return jax.make_array_from_process_local_data(self._rows, mine)

        return [part(array) for array in batch]
