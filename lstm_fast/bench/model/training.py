"""A training step of the model: with its own loss and optimizer, or with those that take their place."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np

from lstm_fast import variables
from lstm_fast.bench.model.inputs import Batch
from lstm_fast.errors import in_one_line

Gradients = list[np.ndarray]  # in the order of the trainable variables

_CANNOT = "as it is, the model cannot be trained on this batch"

_LOSS_SCALE = 1024.0  # of float16, whose small gradients would else be zero


class Training(NamedTuple):
    """How a model is trained here.

    Attributes:
        y: the targets.
        words: what the loss is.
        stand_in: whether it is not the model's own.
    """

    y: Any
    words: str
    stand_in: bool


def choose(model: Any, batch: Batch, outputs: Any) -> tuple[Training, Gradients] | str:
    """Returns how a model can be trained on a batch, and its gradients, or why it cannot; leaves its variables alone.

    Args:
        model: The model, with Keras's layers. A stand-in loss is compiled into it where its own does not do.
        batch: What it is given.
        outputs: What it makes of it, as NumPy arrays.
    """
    if not model.trainable_variables:
        return "the model has no trainable weights"
    reason = "the model is not compiled"
    if model.compiled:
        y = batch.y if batch.y is not None or model.loss is None else _made_up(model, outputs)
        of_targets = "" if batch.y is not None or y is None else ", of made-up targets"
        own = Training(y, f"the model's own{of_targets}", stand_in=False)
        try:
            return own, gradients(model, batch, own)
        except Exception as error:  # of the framework, or of the model's own code
            if batch.y is not None:
                return f"{_CANNOT}: {in_one_line(error)}"
            reason = f"the model's own cannot be computed ({in_one_line(error)})"
    words = f"{reason}, so a stand-in: the sum of the squares of the outputs"
    stand_in = Training(keras.tree.map_structure(np.zeros_like, outputs), words, stand_in=True)
    try:
        return stand_in, gradients(model, batch, stand_in)
    except Exception as error:  # likewise
        return f"{_CANNOT}: {in_one_line(error)}"


def step(model: Any, batch: Batch, training: Training) -> Callable[[], Any]:
    """Returns a training step, which does not change the weights: a learning rate of zero takes as long as another."""
    _compile(model, training)
    with contextlib.suppress(TypeError):  # of a schedule; then the weights do change
        model.optimizer.learning_rate = 0.0
    return lambda: model.train_on_batch(batch.x, training.y)


def gradients(model: Any, batch: Batch, training: Training) -> Gradients:
    """Returns the gradient of each trainable variable in a step as Keras's trainer takes it.

    Taken from the momentum of another optimizer, which after one step from zero is the negative gradient. So it is
    that of the model's own training step, also where a user has written it, and on every backend. The result is empty
    where the step does not ask the optimizer, or where that refuses numbers that are not finite. All variables get the
    values back that they had.
    """
    _compile(model, training)
    own = model.optimizer
    judge = keras.optimizers.SGD(1.0, momentum=0.5)
    model.optimizer = judge
    if isinstance(own, keras.optimizers.LossScaleOptimizer):
        model.optimizer = keras.optimizers.LossScaleOptimizer(judge, initial_scale=_LOSS_SCALE)
    model.optimizer.build(model.trainable_variables)
    try:
        model.make_train_function(force=True)
        with variables.undone(model):
            model.train_on_batch(batch.x, training.y)
            if int(keras.ops.convert_to_numpy(judge.iterations)) == 0:
                return []
            return [-np.array(keras.ops.convert_to_numpy(momentum), np.float64) for momentum in judge.momentums]
    finally:
        model.optimizer = own
        model.make_train_function(force=True)


def _compile(model: Any, training: Training) -> None:
    """Compiles the stand-in into a model that needs it."""
    if training.stand_in and model.loss is not _sum_of_squares:
        model.compile(optimizer=keras.optimizers.SGD(), loss=_sum_of_squares)


def _sum_of_squares(_: Any, outputs: Any) -> Any:
    return keras.ops.sum(keras.ops.square(outputs), axis=-1)


def _made_up(model: Any, outputs: Any) -> Any:
    """Returns random targets that suit the outputs and the losses of a model, in the structure of the outputs."""
    rng = np.random.default_rng(1)
    flat = keras.tree.flatten(outputs)
    losses = _losses(model, outputs)
    targets = []
    for output, loss in zip(flat, losses, strict=True):
        name = loss if isinstance(loss, str) else getattr(loss, "__name__", type(loss).__name__)
        if "sparse" in name.lower():
            targets.append(rng.integers(0, output.shape[-1], output.shape[:-1]))
        else:
            targets.append(rng.integers(0, 2, output.shape).astype("float32"))
    return keras.tree.pack_sequence_as(outputs, targets)


def _losses(model: Any, outputs: Any) -> list[Any]:
    """Returns the loss of each output, in the order in which `outputs` is flattened; None for one without a loss."""
    losses: list[Any] = keras.tree.flatten(model.loss)
    places = [path for path, _ in keras.tree.flatten_with_path(outputs)]
    if isinstance(model.loss, dict) and len(places) > 1:  # flattened by key, where outputs in a list keep their order
        by_place = dict(keras.tree.flatten_with_path(model.loss))
        names = [(name,) for name in getattr(model, "output_names", None) or ()]
        return [by_place.get(path, by_place.get(name)) for path, name in itertools.zip_longest(places, names)]
    return losses if len(losses) == len(places) else losses[:1] * len(places)
