"""NumPy arrays through `lstm_fast._core`: inference without a framework."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lstm_fast.backends import Direction, LibraryError, Unavailable, core

library = core


def gpus() -> tuple[str, ...]:
    """Returns none: NumPy knows no GPUs."""
    return ()


def unavailable(x: Any = None) -> Unavailable | None:  # noqa: ARG001
    """Returns why the compiled module cannot be used, None if it can."""
    try:
        core()
    except LibraryError as error:
        return Unavailable(str(error), announced=True)
    return None


def array(value: Any, like: Any = None) -> np.ndarray:
    """Returns a C-contiguous array, which is what the compiled module takes."""
    typed = hasattr(value, "dtype")
    return np.ascontiguousarray(value, dtype=None if typed or like is None else like.dtype)


def boolean(mask: np.ndarray) -> np.ndarray:
    """Returns a mask [B, T] or [B, T, 1] as booleans [B, T]."""
    return mask.reshape(mask.shape[:2]).astype(np.bool_)


def lstm(
    x: np.ndarray,
    mask: np.ndarray | None,
    directions: Sequence[Direction],
    *,
    go_backwards: bool,
    return_sequences: bool,
    zero_output_for_mask: bool,
    reserve_mode: int,
) -> tuple[np.ndarray, Sequence[np.ndarray], Sequence[np.ndarray]]:
    """Runs the forward pass; see `lstm_fast.backends.Backend`."""
    parameters = [list(column) for column in zip(*directions, strict=True)]
    y, h_n, c_n, _ = core().forward(
        x, mask, *parameters, go_backwards, return_sequences, zero_output_for_mask, reserve_mode
    )
    return y, h_n, c_n
