"""Converts models to lstm_fast and back: their layers change class in place."""

import contextlib
import inspect
import logging
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple, overload

import keras
from keras.layers import RNN, Bidirectional, Layer

from lstm_fast import fused, layers
from lstm_fast.checks import of_keras_2

logger = logging.getLogger("lstm_fast")


class Change(NamedTuple):
    """What became of one recurrent layer of a model.

    Attributes:
        name: The name of the layer.
        layer: Its class, as Keras calls it.
        done: "fast": it was changed, or was fast already. "runs as Keras's": likewise, but the kernels cannot compute
            this layer, or cannot run here. "left": it was not changed.
        reason: Why, if it is not "fast".
    """

    name: str
    layer: str
    done: Literal["fast", "runs as Keras's", "left"]
    reason: str = ""

    def __str__(self) -> str:
        return f"'{self.name}' ({self.layer}): {self.done}" + (f", {self.reason}" if self.reason else "")


class Report(tuple[Change, ...]):
    """What became of each recurrent layer of a model, in the order of the model. As text it has a line for each."""

    __slots__ = ()

    def __str__(self) -> str:
        return "\n".join(map(str, self)) or "no recurrent layer"


@overload
def accelerate(model: Any, *, return_report: Literal[False] = False) -> Any: ...
@overload
def accelerate(model: Any, *, return_report: Literal[True]) -> tuple[Any, Report]: ...
@overload
def accelerate(model: Any, *, return_report: bool) -> Any: ...
def accelerate(model: Any, *, return_report: bool = False) -> Any:
    """Makes the LSTMs of a model run on the fused kernels, and returns the model: the same object.

    Each `keras.layers.LSTM` becomes a `FastLSTM`, each `RNN` of `LSTMCell` a `FastRNN`, and each `Bidirectional` of two
    of them a `FastBidirectional`, wherever Keras knows of the layer: in Sequential, Functional and subclassed models,
    nested, shared, wrapped, in lists and dicts. Nothing is copied: a layer keeps its variables, and only its class
    changes. So weights, optimizer, loss, metrics and callbacks stay as they were, and training goes on from there.
    Every reference to the model or to one of its layers now leads to the fast one.

    Layers that compute something else stay as they are: subclasses of LSTM, other cells, methods that were replaced.
    The logger `lstm_fast` says in one line which layers were changed and which not, and why.

    Some compiled functions keep the old speed, with the same results, until they are traced again: those that you have
    made with `tf.function`, `jax.jit` or `torch.compile`, and those of a larger model that contains this one and was
    trained before. The functions that Keras has made for this model itself are made anew. Other threads may call the
    model during the change; each call takes either path. During `fit`, call this from a callback only, and with the
    model that is in `fit`, not with a part of it.

    To keep the original, copy it first: `accelerate(copy.deepcopy(model))`. If Keras cannot copy a subclassed model,
    build it again and copy the weights: `new.set_weights(model.get_weights())`.

    Args:
        model: A model or layer of Keras 3.
        return_report: Boolean (default: `False`). Whether to return also what became of each recurrent layer.

    Returns:
        `model`, or with `return_report` the tuple of `model` and a `Report`.

    Raises:
        TypeError: `model` is not a model or layer of Keras 3.

    Examples:
        >>> lstm_fast.accelerate(model)
        >>> model.fit(x, y)
    """
    check_model("accelerate", model)
    changed = _change(model, layers.make_fast)
    report = Report(_change_of(part) for part in layers.parts_of(model) if isinstance(part, (RNN, Bidirectional)))
    _log(model, changed, report)
    return (model, report) if return_report else model


def to_keras(model: Any) -> Any:
    """Makes the layers of this package in a model Keras's own, and returns the model: the same object.

    This is the way back from `accelerate`, with the same promises. The model then does not need this package: it can be
    saved, converted and served without it. `as_keras` does the same for the time of a `with` block.

    Args:
        model: A model or layer of Keras 3.

    Returns:
        `model`.

    Raises:
        TypeError: As `accelerate`.

    Examples:
        >>> lstm_fast.to_keras(model).save("model.keras")
    """
    check_model("to_keras", model)
    _change_to_plain("to_keras", model)
    return model


@contextlib.contextmanager
def as_keras(model: Any) -> Iterator[Any]:
    """Makes the layers of this package in a model Keras's own inside a `with` block, and fast again after it.

    It is for files that cannot contain the kernels: files for machines without this package, and converters.
    `model.export`, `tf.saved_model.save`, tf2onnx and TensorFlow Lite do not need it: they write Keras's operations
    anyway. The layers are fast again also after an exception.

    Args:
        model: A model or layer of Keras 3.

    Yields:
        `model`.

    Raises:
        TypeError: As `accelerate`.

    Examples:
        >>> with lstm_fast.as_keras(model):
        ...     model.save("plain.keras")
    """
    check_model("as_keras", model)
    changed = _change_to_plain("as_keras", model)
    try:
        yield model
    finally:
        sync(model)
        for layer in reversed(changed):
            layers.make_fast(layer, again=True)
        _trace_anew(model)


def check_model(name: str, model: Any) -> None:
    """Raises TypeError if `model` is not a model or layer of Keras 3. The message begins with `name`, the caller's."""
    if of_keras_2(model):
        raise TypeError(
            f"{name}: `model`: expected a model or layer of Keras 3, found {of_keras_2(model)}, which is of Keras 2. "
            "Build it anew with the package `keras`, without TF_USE_LEGACY_KERAS. Its weights fit: "
            "`new.load_weights(file)` reads an old .h5 file, `new.set_weights(old.get_weights())` copies them. Then "
            f"call {name}(new)"
        )
    if not isinstance(model, Layer):
        found = f"the class {model.__qualname__}" if isinstance(model, type) else type(model).__qualname__
        raise TypeError(
            f"{name}: `model`: expected a Keras model or layer, found {found}"
            + (f"; call {name}(keras.models.load_model({model!r}))" if isinstance(model, str) else "")
        )
    if not hasattr(model, "_layers"):
        raise NotImplementedError(
            f"{name}: Keras {keras.__version__} does not tell what layers are in a model; nothing was changed. Write "
            "FastLSTM and FastBidirectional in the model's code, or install an older Keras"
        )


def _change(model: Any, change: Callable[[Any], bool]) -> list[Any]:
    """Changes the classes of the layers of a model. Returns the changed layers, in the order of the changes."""
    sync(model)
    parts = layers.parts_of(model)
    wrappers = [part for part in parts if isinstance(part, Bidirectional)]
    inner = [part for part in parts if isinstance(part, RNN)]
    # Other threads must never see a fast wrapper around layers of Keras. So layers become fast first, and plain last.
    order = (*inner, *wrappers) if change is layers.make_fast else (*wrappers, *inner)
    changed = [part for part in order if change(part)]
    if changed:
        _trace_anew(model)
    return changed


def _change_to_plain(name: str, model: Any) -> list[Any]:
    changed = _change(model, layers.make_plain)
    if left := [f"'{part.name}' ({type(part).__qualname__})" for part in layers.parts_of(model) if _is_fast(part)]:
        text = "%s: subclasses of this package's layers stay as they are, and need it: %s"
        logger.warning(text, name, ", ".join(left))
    return changed


def _models(model: Any) -> list[Any]:
    return [part for part in layers.parts_of(model) if isinstance(part, keras.Model)]


def sync(model: Any) -> None:
    """Gives the variables their values back, which Keras's trainer on JAX takes for the time of `fit`."""
    for part in _models(model):
        if hasattr(part, "jax_state_sync"):
            part.jax_state_sync()


def _trace_anew(model: Any) -> None:
    """Makes Keras's functions for `fit`, `evaluate` and `predict` anew, if there are any."""
    for part in _models(model):
        # Before Keras 3.12, the trainer on JAX records once in a `fit` where each variable is. There may be more
        # variables now. If the trainer of a larger model has the values, this record is an old one, of another call.
        note = getattr(part, "_record_training_state_sharding_spec", None)
        noted = getattr(part, "_trainable_variable_shardings", None) is not None
        if note and noted and all(getattr(variable, "_value", None) is not None for variable in part.variables):
            note()
        for name in ("train", "test", "predict"):
            if getattr(part, f"{name}_function", None) is None:
                continue
            make = getattr(part, f"make_{name}_function")
            if "force" in inspect.signature(make).parameters:
                make(force=True)  # never None in between: another thread may be about to call the function
            else:  # a method of the user
                setattr(part, f"{name}_function", None)
                make()


def _change_of(layer: Any) -> Change:
    """Says what a layer is, after the change."""
    name, cls = layer.name, type(layer).__name__
    if not _is_fast(layer):
        return Change(name, cls, "left", layers.left_alone(layer))
    for part in layers.directions_of(layer) if isinstance(layer, Bidirectional) else (layer,):
        if _is_fast(part) and (unavailable := fused.fallback(part, None, None)):
            return Change(name, cls, "runs as Keras's", unavailable.reason)
    return Change(name, cls, "fast")


def _is_fast(layer: Any) -> bool:
    return isinstance(layer, (fused.Fused, layers.FastBidirectional))


def _log(model: Any, changed: list[Any], report: Report) -> None:
    parts = [f"accelerate: layers of '{model.name}' changed: {len(changed) or 'none'}"]
    if fast := [change.name for change in report if change.done == "fast"]:
        parts.append(f"fast: {', '.join(fast)}")
    if not report:
        parts.append("there is no recurrent layer in it")
    others = [change for change in report if change.done != "fast"]
    parts += map(str, others)
    expected = all(change.reason.startswith((layers.NO_LSTM, layers.INSIDE)) for change in others)
    logger.log(logging.INFO if fast and expected else logging.WARNING, "%s", "; ".join(parts))
