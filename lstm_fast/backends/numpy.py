"""NumPy arrays through `lstm_fast._core`: inference without a framework."""

from typing import Any

import numpy as np

from lstm_fast.backends import LibraryError, Operands, Options, Outputs, Unavailable, core

library = core


def gpus() -> tuple[str, ...]:
    """Returns none: NumPy knows no GPUs."""
    return ()


def threads() -> tuple[int, str]:
    """Returns 0: NumPy has no such setting."""
    return 0, ""


def gpu_ops() -> str | None:
    """Returns None: there are none."""
    return None


def unavailable(_x: Any = None) -> Unavailable | None:
    """Returns why the compiled module cannot be used, None if it can."""
    try:
        core()
    except LibraryError as error:
        return Unavailable(str(error), announced=True)
    return None


def slower_than_keras(_dtype: str, _batch: int | None, _units: int) -> str | None:
    """Returns None: there is no cuDNN."""
    return None


def array(value: Any, like: Any = None) -> np.ndarray:
    """Returns a C-contiguous array, as the compiled module needs it."""
    typed = hasattr(value, "dtype")
    return np.ascontiguousarray(value, dtype=None if typed or like is None else like.dtype)


def boolean(mask: np.ndarray) -> np.ndarray:
    """Returns a mask [B, T] or [B, T, 1] as booleans [B, T]."""
    return mask.reshape(mask.shape[:2]).astype(np.bool_)


def with_batch(x: np.ndarray, _size: int, _message: str) -> np.ndarray:
    """Returns x: its size is known."""
    return x


def traced_length(_x: np.ndarray) -> int | None:
    """Returns None: nothing is traced."""
    return None


def lstm(operands: Operands, options: Options) -> Outputs:
    """Runs the forward pass; see `lstm_fast.backends.backend.Backend`."""
    y, h_n, c_n, _ = core().forward(operands.x, operands.mask, *operands.lists(), *options)
    return Outputs(y, h_n, c_n)
