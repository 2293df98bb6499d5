"""Checks of the shape and dtype of an array, whatever its framework."""

from collections.abc import Sequence
from typing import Any

Shape = tuple[int | None, ...]


def check_shape(name: str, value: Any, **expected: int | None) -> Shape:
    """Returns the shape of an argument; raises ValueError if it is not the expected one (None: any, or unknown)."""
    shape = value.shape
    if getattr(shape, "rank", 0) is None:  # tf.TensorShape(None)
        return (None,) * len(expected)
    found, wanted = tuple(shape), tuple(expected.values())
    if found != wanted and (
        len(found) != len(wanted)
        or any(None not in (size, other) and size != other for size, other in zip(found, wanted, strict=True))
    ):
        sizes = ", ".join(key if size is None else f"{key}={size}" for key, size in expected.items())
        raise ValueError(f"`{name}`: expected shape ({sizes}), found {found}")
    return found


def check_dtype(name: str, value: Any, expected: Sequence[str]) -> str:
    """Returns the name of an argument's dtype; raises TypeError if it is not among the expected ones."""
    found = _dtype_name(value)
    if found not in expected:
        raise TypeError(f"`{name}`: expected dtype {' or '.join(expected)}, found {found}")
    return found


def check_mask(mask: Any, batch: int | None, time: int | None) -> None:
    """Raises TypeError or ValueError if a mask does not have the dtype or shape that Keras accepts."""
    if not _dtype_name(mask).startswith(("bool", "int", "uint", "float", "bfloat")):
        raise TypeError(f"`mask`: expected a boolean or numeric dtype, found {_dtype_name(mask)}")
    if len(mask.shape) == 3:
        check_shape("mask", mask, batch=batch, time=time, last=1)
    else:
        check_shape("mask", mask, batch=batch, time=time)


def _dtype_name(value: Any) -> str:
    return getattr(value.dtype, "name", None) or str(value.dtype).removeprefix("torch.")
