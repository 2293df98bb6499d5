"""The training loop of several processes, in the place of `keras.Model.fit`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import keras
import numpy as np

from lstm_fast.distribute.group import Group, working

Batches = Iterable[tuple[np.ndarray, np.ndarray]]


def fit(
    model: keras.Model,
    group: Group,
    training: Batches,
    testing: Batches,
    *,
    steps_per_epoch: int,
    initial_epoch: int,
    epochs: int,
    callbacks: Sequence[keras.callbacks.Callback],
    verbose: int | str,
) -> None:
    """Trains and validates as `fit` does: the same loss, the same weights, the same calls of the callbacks.

    Args:
        model: A model that was built in the group's scope and compiled by `lstm_fast.text.models`.
        group: The processes. All of them call this, with the same model and batches.
        training: Endless whole batches, ids int64 `[B, T]` and labels int64 `[B]`. Each process computes a part of one.
        testing: Whole batches.
        steps_per_epoch: Training batches in an epoch.
        initial_epoch: Number of the first epoch.
        epochs: Number of the last epoch, plus 1.
        callbacks: The callbacks of this process.
        verbose: As for Keras.

    Raises:
        LostError: Another process has ended.
    """
    steps = group.steps(model)
    listeners = keras.callbacks.CallbackList(
        callbacks, add_progbar=verbose != 0, model=model, verbose=verbose, epochs=epochs, steps=steps_per_epoch
    )
    batches = iter(training)
    logs: dict[str, float] = {}
    listeners.on_train_begin()
    for epoch in range(initial_epoch, epochs):
        listeners.on_epoch_begin(epoch)
        mean = _Mean(steps.train, group)
        for index in range(steps_per_epoch):
            listeners.on_train_batch_begin(index)
            mean.add(next(batches))
            listeners.on_train_batch_end(index, mean.logs())
        logs = mean.logs()
        steps.finish()
        listeners.on_test_begin()
        mean = _Mean(steps.test, group)
        for index, batch in enumerate(testing):
            listeners.on_test_batch_begin(index)
            mean.add(batch)
            listeners.on_test_batch_end(index, mean.logs())
        listeners.on_test_end(mean.logs())
        logs.update({f"val_{name}": value for name, value in mean.logs().items()})
        listeners.on_epoch_end(epoch, logs)
    listeners.on_train_end(logs)


class _Mean:
    """Loss and accuracy of the rows so far."""

    def __init__(self, step: Callable[..., tuple[float, float]], group: Group) -> None:
        self._step = step
        self._group = group
        self._rows = 0
        self._sums = np.zeros(2)

    def add(self, batch: tuple[np.ndarray, np.ndarray]) -> None:
        """Takes the step. Adds rows of weight 0 to the batch if the replicas would not get equally many rows."""
        ids, labels = map(np.asarray, batch)
        rows = len(ids)
        more = -rows % self._group.replicas
        weights = np.append(np.full(rows, 1 / rows), np.zeros(more)).astype(np.float32)
        with working(self._group):
            figures = self._step(np.pad(ids, ((0, more), (0, 0))), np.pad(labels, (0, more)), weights)
        self._rows += rows
        self._sums += rows * np.array(figures)

    def logs(self) -> dict[str, float]:
        return dict(zip(("loss", "accuracy"), (self._sums / self._rows).tolist(), strict=True))
