"""The arguments of the kernels: the arrays of a call, in one fixed order, and its options.

The order is that of `csrc/bindings/operands.h`: x, the mask, and then, field by field of `Direction`, an entry for each
direction. The same types hold other values too, if there is one for each array: gradients, ranks, dtypes, or whether
the array is present.
"""

import functools
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

# What the forward pass keeps for the backward pass: lstm_fast::Reserve in csrc/include/lstm_fast/lstm.h.
RESERVE_NONE, RESERVE_GATES, RESERVE_RECOMPUTE = 0, 1, 2

# How the CUDA kernels compute products of float32: lstm_fast::cuda::Precision in csrc/cuda/recurrence.h.
PRECISIONS = ("exact", "tf32", "tf32x3")

T = TypeVar("T")


class Options(NamedTuple):
    """The options of a call, in the order in which the compiled functions take them."""

    go_backwards: bool
    return_sequences: bool
    zero_output_for_mask: bool
    reserve_mode: int

    def of_recurrence(self, precision: str) -> dict[str, int]:
        """Returns the attributes of the CUDA kernels, as an op or as a foreign function."""
        attributes: dict[str, int] = self._asdict()
        del attributes["reserve_mode"]  # the shape of the result says what they keep
        return {**attributes, "precision": PRECISIONS.index(precision)}


class Direction(NamedTuple):
    """Parameters, states and dropout multipliers of one direction, as in `lstm_fast::DirectionInput`."""

    kernel: Any  # [D, 4H]; None: x is projected already, [B, T, N * 4H], and only the recurrence runs
    recurrent_kernel: Any  # [H, 4H]
    bias: Any = None  # [4H]
    h0: Any = None  # [B, H]; None: zeros
    c0: Any = None  # [B, H]; None: zeros
    input_dropout: Any = None  # [4, B, D]; None: ones
    recurrent_dropout: Any = None  # [4, B, H]; None: ones


# The fields that the recurrence uses. The CUDA kernels compute the recurrence only; the framework projects the input.
RECURRENCE = ("recurrent_kernel", "bias", "h0", "c0", "recurrent_dropout")

# Dropout multipliers have no gradient.
_HAS_GRADIENT = Direction(True, True, True, True, True, input_dropout=False, recurrent_dropout=False)


class Operands(NamedTuple):
    """The arrays of a call, None in the place of an absent one."""

    x: Any  # [B, T, D]
    mask: Any  # [B, T], boolean
    directions: Sequence[Direction]

    @property
    def units(self) -> Any:
        """The number of units."""
        return self.directions[0].recurrent_kernel.shape[0]

    @property
    def masked(self) -> bool:
        """Whether there is a mask."""
        return self.mask is not None

    @property
    def dropout(self) -> bool:
        """Whether there are multipliers of the states."""
        return any(direction.recurrent_dropout is not None for direction in self.directions)

    def lists(self) -> list[list[Any]]:
        """Returns for each field of Direction a list with an entry for each direction."""
        return [*map(list, zip(*self.directions, strict=True))]

    def lists_of_recurrence(self) -> list[list[Any]]:
        """Returns the same for the fields in `RECURRENCE`."""
        return [[getattr(direction, field) for direction in self.directions] for field in RECURRENCE]

    def flatten(self) -> list[Any]:
        """Returns the arrays one by one, in the order of the kernels' operands."""
        return [self.x, self.mask, *itertools.chain.from_iterable(zip(*self.directions, strict=True))]

    @classmethod
    def unflatten(cls, values: Sequence[Any], directions: int) -> "Operands":
        """The inverse of `flatten`."""
        operands, further = cls.split(values, directions)
        assert not further, "more values than operands"
        return operands

    @classmethod
    def split(cls, values: Sequence[Any], directions: int) -> tuple["Operands", Sequence[Any]]:
        """Returns the operands at the beginning of a list, and the values after them."""
        x, mask, *others = values
        count = len(Direction._fields) * directions
        each = [Direction(*others[n:count:directions]) for n in range(directions)]
        return cls(x, mask, each), others[count:]

    @classmethod
    def of_each(cls, x: T, mask: T, direction: Direction, directions: int) -> "Operands":
        """Returns operands, or values for them, that are the same for all directions."""
        return cls(x, mask, [direction] * directions)


class Outputs(NamedTuple):
    """The results of the forward pass, or their gradients."""

    y: Any  # [B, T or 1, N * H]
    h_n: Sequence[Any]  # [B, H] for each direction
    c_n: Sequence[Any]

    def flatten(self) -> list[Any]:
        """Returns the arrays one by one, in the order of the kernels' results."""
        return [self.y, *self.h_n, *self.c_n]

    @classmethod
    def unflatten(cls, values: Sequence[Any]) -> "Outputs":
        """The inverse of `flatten`."""
        y, *states = values
        directions = len(states) // 2
        return cls(y, states[:directions], states[directions:])


@functools.cache
def with_gradient(directions: int) -> tuple[int, ...]:
    """Returns the places of the operands that have a gradient. The results of the backward pass have this order."""
    flags = Operands.of_each(True, False, _HAS_GRADIENT, directions).flatten()
    return tuple(place for place, flag in enumerate(flags) if flag)


def present(values: Sequence[T | None]) -> list[T]:
    """Returns the entries that are not None."""
    return [value for value in values if value is not None]


def spread(values: Sequence[Any], others: Sequence[Any]) -> list[Any]:
    """Returns `values` with one of `others` in the place of each entry that is not None: the inverse of `present`."""
    remaining = iter(others)
    return [None if value is None else next(remaining) for value in values]
