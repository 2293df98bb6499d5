"""One model before and after `accelerate`, and back: its attributes and its results."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tolerances
from keras_side import fused, to_numpy, variables_without

from lstm_fast import FastBidirectional, FastLSTM, FastRNN, accelerate, to_keras

BACKEND = keras.backend.backend()

FAST = {keras.layers.LSTM: FastLSTM, keras.layers.RNN: FastRNN, keras.layers.Bidirectional: FastBidirectional}


def classes(model: keras.Layer) -> list[type]:
    return [type(part) for part in model._flatten_layers()]


def is_lstm(layer: Any) -> bool:
    """Whether a layer of Keras should become fast, if nobody has changed it after it was made."""
    if type(layer) is keras.layers.Bidirectional:
        return is_lstm(layer.forward_layer) and is_lstm(layer.backward_layer)
    if type(layer) is keras.layers.RNN:
        cells = layer.cell.cells if isinstance(layer.cell, keras.layers.StackedRNNCells) else [layer.cell]
        return all(type(cell) is keras.layers.LSTMCell for cell in cells)
    return type(layer) is keras.layers.LSTM


def accelerated_classes(model: keras.Layer) -> list[type]:
    """The expected `classes` after `accelerate`."""
    return [FAST[type(part)] if is_lstm(part) else type(part) for part in model._flatten_layers()]


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def seeded(call: Callable[[], Any]) -> Any:
    """Keras on PyTorch draws dropout without a seed from PyTorch's own generator, which models share."""
    keras.utils.set_random_seed(5)
    return call()


def computed(call: Callable[[], Any]) -> list[np.ndarray]:
    """The results of a call, flattened. It waits for JAX, which returns before it has computed."""
    return [np.array(to_numpy(value)) for value in keras.tree.flatten(call())]


def assert_close(found: Sequence[np.ndarray], expected: Sequence[np.ndarray], terms: int = 100) -> None:
    for value, right in zip(found, expected, strict=True):
        assert (value.shape, value.dtype) == (right.shape, right.dtype)
        if np.issubdtype(right.dtype, np.floating):
            atol = tolerances.between_layers("float32", terms, right)
            np.testing.assert_allclose(value, right, rtol=0.0, atol=atol)
        else:
            np.testing.assert_array_equal(value, right)


def variables_of(model: Any) -> list[Any]:
    """All variables of a model and of its optimizer, without the states of stateful layers.

    On JAX those of this package's layers are among the variables, Keras's are not.
    """
    optimizer = getattr(model, "optimizer", None)
    return [*variables_without(model), *(optimizer.variables if optimizer is not None else ())]


@contextlib.contextmanager
def undone(model: Any) -> Iterator[None]:
    """Restores the values of all variables, also those of random number generators."""
    variables = variables_of(model)
    values = [np.array(to_numpy(variable)) for variable in variables]
    yield
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def described(model: Any) -> list[Any]:
    """The parts that `accelerate` must not change: variables by identity, names, flags, compiled parts."""
    variables = [(id(v), v.name, v.dtype, tuple(v.shape), v.trainable) for v in variables_of(model)]
    trained = [id(v) for v in model.trainable_variables]
    parts = [(id(part), part.name, part.trainable, part.built) for part in model._flatten_layers()]
    compiled = [id(getattr(model, name, None)) for name in ("optimizer", "loss", "_compile_loss", "_compile_metrics")]
    return [variables, trained, parts, compiled]


def assert_changes_nothing(
    model: Any, *inputs: Any, forward: int, changed: Sequence[str] | None = None, **kwargs: Any
) -> None:
    """Asserts that a model computes the same when it is accelerated, by `forward` kernel calls, and after it.

    Args:
        model: The model, of Keras's layers.
        *inputs: The arguments of a call.
        forward: How many forward passes of the kernel one call makes; nothing else may run in its place.
        changed: Names of the layers that become fast, wrappers included; all LSTMs by default.
        **kwargs: Further arguments of a call, by name.
    """

    def run() -> list[np.ndarray]:
        with undone(model):
            return computed(lambda: seeded(lambda: model(*inputs, **kwargs)))

    with fused(forward=0):
        expected = run()
    before, what = classes(model), described(model)
    if changed is None:
        right = accelerated_classes(model)
    else:
        right = [FAST[type(part)] if part.name in changed else type(part) for part in model._flatten_layers()]
    assert accelerate(model) is model
    assert classes(model) == right
    assert described(model) == what
    with fused(forward=forward):
        found = run()
    assert_close(found, expected)
    assert to_keras(model) is model
    assert classes(model) == before
    assert described(model) == what
    if BACKEND != "jax":  # JAX compiles Keras's loop anew for every call
        with fused(forward=0):
            again = run()
        assert_close(again, expected)


def assert_trains_alike(
    make: Callable[[], Any], x: Any, y: Any, *, before: int = 2, after: int = 2, per_step: int
) -> None:
    """Trains a model as Keras's, and goes on from there twice: as Keras's, and accelerated.

    Args:
        make: Makes the compiled model.
        x: Its inputs, one batch.
        y: The targets.
        before: Number of steps that are trained first.
        after: Number of steps that are compared.
        per_step: Kernel calls in a step, forward, and as many backward.
    """
    batch = len(next(iter(keras.tree.flatten(x))))

    def fit(steps: int) -> list[float]:
        options = {"epochs": steps, "batch_size": batch, "shuffle": False, "verbose": 0}
        return seeded(lambda: list(model.fit(x, y, **options).history["loss"]))

    keras.utils.set_random_seed(3)
    model = make()
    with fused(forward=0):
        first = fit(before)
        with undone(model):
            right = fit(after)
            expected = [np.array(to_numpy(variable)) for variable in variables_of(model)]
    what = described(model)
    assert accelerate(model) is model
    assert described(model) == what
    assert int(to_numpy(model.optimizer.iterations)) == before
    with fused(forward=per_step * after, backward=per_step * after):
        losses = fit(after)
    assert int(to_numpy(model.optimizer.iterations)) == before + after
    assert len({*first, *right}) > 2
    atol = tolerances.DRIFT_PER_STEP * after * tolerances.ROUNDOFF["float32"] * max(1.0, *map(abs, right))
    np.testing.assert_allclose(losses, right, rtol=0.0, atol=atol)
    for variable, value in zip(variables_of(model), expected, strict=True):
        if not np.issubdtype(value.dtype, np.floating):  # counters, and the states of random number generators
            np.testing.assert_array_equal(to_numpy(variable), value, err_msg=variable.path)
