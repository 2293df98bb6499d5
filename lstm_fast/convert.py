"""Keras models to lstm_fast and back: one table of rules, read in either direction."""

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
from keras import ops
from keras.layers import LSTM, Bidirectional, Layer

from lstm_fast import states
from lstm_fast.layers import FastBidirectional, FastLSTM, copy_settings, of_keras_2

logger = logging.getLogger("lstm_fast")


class _Rule(NamedTuple):
    """A class of Keras and the class that takes its place."""

    keras: Any
    fast: Any
    added: tuple[str, ...] = ()  # arguments that only the fast class has
    around: type | None = None  # take its place only where its `layer` is one of these, after the other rules


_RULES = (
    _Rule(LSTM, FastLSTM, added=("recompute", "use_cudnn")),
    _Rule(Bidirectional, FastBidirectional, around=FastLSTM),
)


def accelerate(model: Any) -> Any:
    """Returns a copy of a model on the fused kernels; the original is left as it is.

    Every `LSTM` is replaced by a `FastLSTM`, and every `Bidirectional` over an LSTM by a `FastBidirectional`.
    Nested models, shared layers and wrappers such as `TimeDistributed` are handled. Names, weights, trainable flags,
    dtype policies, regularizers, the states of stateful layers and of random number generators are kept. A compiled
    model is compiled alike: same loss, metrics and optimizer, with the variables of the optimizer (iterations, learning
    rate, moments), so that training goes on where it was; metrics start anew. Layers of your own that make an LSTM
    inside themselves are copied as they are: use `FastLSTM` in their code.

    Args:
        model: A Sequential or Functional model, or a single layer.

    Returns:
        The copy, of the same class unless `model` is itself one of the layers that are replaced.

    Raises:
        TypeError: `model` is not a layer, or is a subclassed model, whose structure Keras does not know.

    Example:
    >>> fast = lstm_fast.accelerate(model)
    >>> fast.fit(x, y)
    """
    return _converted(model, _Conversion("accelerate", to_fast=True))


def to_keras(model: Any) -> Any:
    """Returns a copy of a model with Keras's own layers in place of `FastLSTM` and `FastBidirectional`.

    The inverse of `accelerate`, with the same promises. The result does not need this package: use it for export,
    serving, other runtimes and other machines.

    Args:
        model: A Sequential or Functional model, or a single layer.

    Returns:
        The copy.

    Raises:
        TypeError: As `accelerate`.

    Example:
    >>> lstm_fast.to_keras(model).export("saved_model")
    """
    return _converted(model, _Conversion("to_keras", to_fast=False))


@dataclasses.dataclass
class _Conversion:
    """The rules, read in one direction."""

    name: str  # of the public function, for messages
    to_fast: bool
    replaced: int = 0

    def clone(self, layer: Any) -> Any:
        """Returns an unbuilt copy of a layer, or of another operation of a model, with the rules applied."""
        cls = type(layer)
        copy = keras.saving.deserialize_keras_object(
            self.rewrite(keras.saving.serialize_keras_object(layer)),
            custom_objects={keras.saving.get_registered_name(cls): cls},
            safe_mode=False,  # nothing here comes from a file
        )
        if copy.name != layer.name:  # Keras 3.8: an operation's config is without its name
            copy.name = layer.name
        return copy

    def rewrite(self, config: Any) -> Any:
        """Returns a config, or any part of one, with the serialized layers in it replaced."""
        if isinstance(config, (list, tuple)):
            return type(config)(self.rewrite(value) for value in config)
        if not isinstance(config, dict):
            return config
        config = {key: self.rewrite(value) for key, value in config.items()}
        if _HEADER.issubset(config):
            config.pop("build_config", None)  # the model that it is part of builds it, as it did the original
            self.replace(config)
        return config

    def replace(self, config: dict[str, Any]) -> None:
        """Changes the class of a serialized layer if a rule says so. Layers inside of it are replaced already."""
        for rule in _RULES:
            old, new = (rule.keras, rule.fast) if self.to_fast else (rule.fast, rule.keras)
            if not _is_serialized(config, old):
                continue
            if not self.to_fast:
                for argument in rule.added:
                    del config["config"][argument]
            elif rule.around is not None and not _is_serialized(config["config"]["layer"], rule.around):
                continue
            self.replaced += 1
            config.update(_header(new))


# What names the class of a serialized layer.
_HEADER = {"module", "class_name", "registered_name"}


def _header(cls: type) -> dict[str, str | None]:
    """Returns how a serialized layer names its class, for the classes of the rules."""
    name = keras.saving.get_registered_name(cls)
    registered = name != cls.__name__
    return {
        "module": cls.__module__ if registered else "keras.layers",
        "class_name": cls.__name__,
        "registered_name": name if registered else None,
    }


def _is_serialized(config: dict[str, Any], cls: type) -> bool:
    return all(config[key] == value for key, value in _header(cls).items())


def _converted(model: Any, conversion: _Conversion) -> Any:
    name = conversion.name
    if of_keras_2(model):
        raise TypeError(
            f"{name}: `model`: expected a model or layer of Keras 3, found {of_keras_2(model)}, which is of Keras 2. "
            "Build it anew with the package `keras`, without TF_USE_LEGACY_KERAS. Its weights fit: "
            "`new.load_weights(file)` reads an old .h5 file, `new.set_weights(old.get_weights())` copies them. Then "
            f"call {name}(new)"
        )
    if not isinstance(model, Layer):
        raise TypeError(f"{name}: `model`: expected a Keras model or layer, found {type(model).__qualname__}")
    copy = None
    if not isinstance(model, keras.Model):
        copy = conversion.clone(model)
        if model.built and not copy.built:
            copy.build_from_config(model.get_build_config())
    elif isinstance(model, keras.Sequential) or hasattr(model, "operations"):  # the latter: a Functional model
        try:
            copy = keras.models.clone_model(model, clone_function=conversion.clone, recursive=True)
        except TypeError:
            # Keras 3.8 calls a subclass with the arguments of a Functional model: refused below.
            if type(model).__module__.partition(".")[0] == "keras":
                raise
    if isinstance(model, keras.Model) and type(copy) is not type(model):
        raise TypeError(
            f"{name}: `model`: expected a Sequential or Functional model or a layer, found {type(model).__qualname__}, "
            "a subclassed model: change the layers in its code, and copy the weights with "
            "`new.set_weights(old.get_weights())`"
        )
    _copy_state(model, copy)
    if not conversion.replaced:
        logger.warning("%s: nothing to replace in '%s'", name, model.name)
    return copy


def _copy_state(model: Layer, copy: Layer) -> None:
    """Copies what is not in the configs: variables, and a few settings."""
    for old, new in zip(model._flatten_layers(), copy._flatten_layers(), strict=True):
        if new.name != old.name:
            new.name = old.name  # clone_model renames unnamed inputs of a model
        if new.trainable != old.trainable:
            new.trainable = old.trainable
        if isinstance(old, LSTM):
            copy_settings(old, new)
            _assign(old.states or (), new.states or ())
    _assign(states.variables_without(model), states.variables_without(copy))
    if getattr(model, "compiled", False) and not copy.compiled:  # older releases of clone_model leave that out
        copy.compile_from_config(model.get_compile_config())
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None and optimizer.built:
        if not copy.optimizer.built:
            copy.optimizer.build(copy.trainable_variables)
        _assign(optimizer.variables, copy.optimizer.variables)


def _assign(sources: Sequence[Any], targets: Sequence[Any]) -> None:
    for source, target in zip(sources, targets, strict=True):
        target.assign(ops.copy(source))  # JAX's trainer takes the arrays of a model for itself: none may be shared
