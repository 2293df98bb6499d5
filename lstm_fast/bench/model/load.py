"""The model of a file, twice: as Keras computes it, and accelerated."""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras

from lstm_fast import variables
from lstm_fast.convert import Report, accelerate, to_keras
from lstm_fast.errors import CommandError, in_one_line

_ADVICE = "if it has classes or functions of your own, --import my_module imports a module first that registers them"
_SUFFIXES = (".keras", ".h5", ".hdf5")


class Pair(NamedTuple):
    """Two models of the same weights."""

    plain: Any  # with Keras's own layers
    fast: Any  # accelerated
    report: Report  # what became of each recurrent layer
    notes: list[str]  # what could not be loaded, and can be done without


def import_modules(names: Sequence[str]) -> dict[str, Any]:
    """Imports modules, also from the current folder; returns what they define, for files that ask for it by name.

    Raises:
        CommandError: one cannot be imported.
    """
    if names and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    found: dict[str, Any] = {}
    for name in names:
        try:
            module = importlib.import_module(name)
        except Exception as error:  # whatever its code raises
            raise CommandError(
                f"--import: expected the name of a module that can be imported, found {name!r}: {in_one_line(error)}"
            ) from error
        found |= {key: value for key, value in vars(module).items() if callable(value) and not key.startswith("_")}
    return found


def load(path: Path, defined: dict[str, Any]) -> Pair:
    """Loads the model of a file twice, makes both alike and one of them fast.

    Args:
        path: of a `.keras` or `.h5` file.
        defined: of `import_modules`.

    Raises:
        CommandError: there is none, or Keras cannot load it.
    """
    if not path.is_file():
        raise CommandError(f"--model: expected a file of Keras, .keras or .h5, found {_instead(path)}")
    if path.suffix not in _SUFFIXES:
        raise CommandError(f"--model: expected a file that ends in .keras or .h5, found {path}")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Skipping variable loading for optimizer")  # whose state is not used here
        plain, problem = _load(path, defined)
        warnings.simplefilter("ignore")  # the same again
        fast, _ = _load(path, defined)
    # What a file does not keep, such as the states of random numbers.
    for variable, value in zip(variables.of(fast), variables.values(plain), strict=True):
        variable.assign(value)
    notes = [f"its loss and optimizer cannot be loaded: {problem} ({_ADVICE})"] if problem else []
    notes += _compiled_as_here(plain, fast)
    to_keras(plain)
    _, report = accelerate(fast, return_report=True)
    return Pair(plain, fast, report, notes)


def _compiled_as_here(*models: Any) -> list[str]:
    """Has models that another backend has compiled use jit as Keras chooses it on this one; says so."""
    backend = keras.backend.backend()
    if not models[0].compiled or backend not in ("jax", "torch"):
        return []
    found = models[0].jit_compile
    for model in models:
        model.jit_compile = None  # which Keras takes as not chosen yet
    usual = models[0].jit_compile
    if usual == found:
        return []
    return [
        f"the file has jit_compile={found}, from where it was compiled; measured with jit_compile={usual}, which "
        f'compile(jit_compile="auto") sets on {backend}: call compile again after you load it'
    ]


def _instead(path: Path) -> str:
    if path.is_dir():
        return f"the folder {path}"
    return f"no file {path}"


def _load(path: Path, defined: dict[str, Any]) -> tuple[Any, str]:
    """Returns a model, and why it is not compiled where the file has a compiled one; empty if it is."""
    problem = ""
    try:
        model = keras.saving.load_model(path, custom_objects=defined)
    except Exception as error:  # of zipfile, json, h5py or Keras, each in its own way
        problem = in_one_line(error)
        try:
            model = keras.saving.load_model(path, custom_objects=defined, compile=False)
        except Exception:
            raise CommandError(f"--model: Keras cannot load {path}: {problem} ({_ADVICE})") from error
    if not isinstance(model, keras.Model):
        raise CommandError(f"--model: expected a model in {path}, found a {type(model).__name__}")
    return model, problem
