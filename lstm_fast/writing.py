"""Calls of a layer that are written to a file: who writes it, and what would be wrong with it.

Keras and the converters report success for some files that no runtime loads, or that compute something else.
"""

import sys
from typing import Any, NamedTuple

import keras

from lstm_fast import functional
from lstm_fast.backends import Unavailable

# Modules that call a model to write its operations to a file. The readers of such a file do not have the kernels.
_WRITERS = ("keras.src.export.", "tf2onnx.", "tensorflow.lite.", "tensorflow.python.saved_model.")


class _Writer(NamedTuple):
    """Who writes.

    Attributes:
        modules: The writing modules among the callers, from the inside out.
        specs: The inputs of the file, as Keras's export functions have them; None if they are not known.
    """

    modules: list[str]
    specs: list[Any] | None


def _writer() -> _Writer:
    frame, modules, specs = sys._getframe(), [], None
    while caller := frame.f_back:
        frame = caller
        module = frame.f_globals.get("__name__") or ""
        if module.startswith(_WRITERS):
            modules.append(module)
            if module.startswith("keras.") and (found := frame.f_locals.get("input_signature")):
                specs = [spec for spec in keras.tree.flatten(found) if getattr(spec, "shape", None) is not None]
    return _Writer(modules, specs)


def written(layer: Any, sequences: Any, mask: Any) -> Unavailable | None:
    """Returns a reason if the operations of the call are written to a file; else None.

    If something is wrong with the file, the reason says so, and the user is warned.
    """
    modules = _writer().modules
    if not modules:
        return None
    by = modules[-1].split(".")[0]
    trouble = _trouble(layer, sequences, mask, modules)
    reason = f"written to a file by {by}: it cannot contain the kernel"
    return Unavailable(f"{reason}. Note: {trouble}" if trouble else reason, announced=not trouble)


def _trouble(layer: Any, sequences: Any, mask: Any, modules: list[str]) -> str:
    """Returns what is wrong with a file although it is written without an error; empty if nothing is known."""
    onnx = any(module.startswith(("tf2onnx.", "keras.src.export.onnx")) for module in modules)
    lite = any(module.startswith(("tensorflow.lite.", "keras.src.export.litert")) for module in modules)
    dtype = layer.cell.compute_dtype
    if onnx and layer.stateful:
        return "an ONNX file forgets the states of a layer with stateful=True after each call"
    if onnx and dtype == "bfloat16":
        return "ONNX Runtime refuses bfloat16; lstm_fast.export(model, path, format='onnx') writes float32"
    if onnx and dtype == "float64" and mask is None:
        return "ONNX Runtime has no LSTM of float64; lstm_fast.export(model, path, format='onnx') writes float32"
    if lite and sequences.shape[0] is None:
        return (
            "with a free batch the LiteRT file needs the Flex delegate, which no Python package has; "
            "lstm_fast.export(model, path, format='litert', batch_size=...) writes one that does not"
        )
    return ""


def check_length(layer: Any, sequences: Any) -> Unavailable | None:
    """Finds a trace by PyTorch that computes one timestep, although the number of timesteps was to be free.

    A trace by PyTorch computes as many timesteps as its sample has, and Keras makes a sample of one timestep.

    Args:
        layer: The layer.
        sequences: Its input.

    Returns:
        A reason if the traced program computes one timestep and that may be intended; else None.

    Raises:
        ValueError: The file would take any number of timesteps, and compute one.
    """
    if keras.backend.backend() != "torch":
        return None
    if functional.traced_length("torch", sequences) != 1 or not _built_for_any_length(layer):
        return None
    writer = _writer()
    if any(module.startswith(("keras.src.export.onnx", "keras.src.export.openvino")) for module in writer.modules):
        if writer.specs and all(None not in tuple(spec.shape)[1:] for spec in writer.specs):
            return None
        raise ValueError(
            f"'{layer.name}': PyTorch would write a file that takes any number of timesteps and computes one, because "
            "Keras traces it with one. Use lstm_fast.export(model, path, format=...), which writes by TensorFlow, or "
            "give the number: model.export(..., input_signature=[keras.InputSpec(shape=(None, timesteps, features), "
            "dtype='float32')])"
        )
    return Unavailable("traced by PyTorch with one timestep: the program computes one timestep of every input")


def _built_for_any_length(layer: Any) -> bool:
    config = layer.get_build_config() or {}
    shape = config.get("input_shape") or (config.get("shapes_dict") or {}).get("sequences_shape")
    return shape is not None and len(shape) == 3 and shape[1] is None
