"""What crosses from Python to the kernels: the arrays of a call, in their one order, and the options of a call.

The order is that of `csrc/bindings/operands.h`: x, the mask, and then, field by field of `Direction`, an entry for each
direction. Whatever goes with the arrays, one for one, comes in the same types: their gradients, ranks, dtypes, or
whether there are any.
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
        """Returns the attributes that the CUDA kernels have as an op or as a foreign function."""
        attributes: dict[str, int] = self._asdict()
        del attributes["reserve_mode"]  # what they keep shows in the shape of the result
        return {**attributes, "precision": PRECISIONS.index(precision)}


class Direction(NamedTuple):
    """Parameters, states and dropout multipliers of one direction, as in `lstm_fast::DirectionInput`."""

    kernel: Any  # [D, 4H]; None: x is projected already, [B, T, N * 4H], and what runs is the recurrence alone
    recurrent_kernel: Any  # [H, 4H]
    bias: Any = None  # [4H]
    h0: Any = None  # [B, H]; None: zeros
    c0: Any = None  # [B, H]; None: zeros
    input_dropout: Any = None  # [4, B, D]; None: ones
    recurrent_dropout: Any = None  # [4, B, H]; None: ones


# The fields that the recurrence knows: what the CUDA kernels have, which leave the input's projection to the framework.
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
        """Returns what `flatten` has made a list of."""
        operands, rest = cls.split(values, directions)
        assert not rest, "more values than operands"
        return operands

    @classmethod
    def split(cls, values: Sequence[Any], directions: int) -> tuple["Operands", Sequence[Any]]:
        """Returns the operands at the beginning of a list, and what follows them."""
        x, mask, *others = values
        count = len(Direction._fields) * directions
        each = [Direction(*others[n:count:directions]) for n in range(directions)]
        return cls(x, mask, each), others[count:]

    @classmethod
    def of_each(cls, x: T, mask: T, direction: Direction, directions: int) -> "Operands":
        """Returns operands, or what goes with them, that are alike for all directions."""
        return cls(x, mask, [direction] * directions)


class Outputs(NamedTuple):
    """What the forward pass returns, or the gradients of that."""

    y: Any  # [B, T or 1, N * H]
    h_n: Sequence[Any]  # [B, H] for each direction
    c_n: Sequence[Any]

    def flatten(self) -> list[Any]:
        """Returns the arrays one by one, in the order of the kernels' results."""
        return [self.y, *self.h_n, *self.c_n]

    @classmethod
    def unflatten(cls, values: Sequence[Any]) -> "Outputs":
        """Returns what `flatten` has made a list of."""
        y, *states = values
        directions = len(states) // 2
        return cls(y, states[:directions], states[directions:])


@functools.cache
def with_gradient(directions: int) -> tuple[int, ...]:
    """Returns which operands have a gradient, by their places: the backward pass has its results in this order."""
    flags = Operands.of_each(True, False, _HAS_GRADIENT, directions).flatten()
    return tuple(place for place, flag in enumerate(flags) if flag)


def present(values: Sequence[T | None]) -> list[T]:
    """Returns the entries that there are."""
    return [value for value in values if value is not None]


def spread(values: Sequence[Any], given: Sequence[Any]) -> list[Any]:
    """Returns `values` with what is `given` in the place of the entries that there are: the inverse of `present`."""
    remaining = iter(given)
    return [None if value is None else next(remaining) for value in values]
