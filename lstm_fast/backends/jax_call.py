"""The static part of a call, known when JAX traces it: the kinds of operands and results, and which are present."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lstm_fast.backends import RESERVE_NONE, RESERVE_RECOMPUTE, Direction, Operands, Options, Outputs, core
from lstm_fast.backends.operands import spread, with_gradient


class Kind(NamedTuple):
    """A kind of operands or results: how many axes, which of them is the batch, and the dtype if it is not that of x.

    Without a batch it is a weight, which is the same for all rows, or its gradient, which is a sum over the rows.
    """

    rank: int
    batch: int | None = None
    dtype: Any = None


_SEQUENCE, _STATE, _MATRIX, _VECTOR, _MULTIPLIERS = Kind(3, 0), Kind(2, 0), Kind(2), Kind(1), Kind(3, 1)
_MASK, _RESERVE = Kind(2, 0, jnp.bool_), Kind(4, 0, jnp.uint8)
_DIRECTION = Direction(_MATRIX, _MATRIX, _VECTOR, _STATE, _STATE, _MULTIPLIERS, _MULTIPLIERS)


class Call(NamedTuple):
    """A call of the forward pass or, where `wanted` says which gradients, of the backward pass.

    The operands are those of `Operands`; the backward pass has further ones, the reserve and the gradients of the
    forward pass's results.
    """

    directions: int
    options: Options
    # On CUDA, how products of float32 are computed: by JAX, and in the recurrence.
    products: str | None
    precision: str
    # Which of all operands are present.
    present: tuple[bool, ...]
    # Forward: whether it keeps the reserve. Backward: which gradients are computed, in the order of `with_gradient`.
    differentiated: bool = False
    wanted: tuple[bool, ...] | None = None

    @property
    def all_operands(self) -> list[Kind]:
        """Kinds of all operands, present or not."""
        kinds = Operands.of_each(_SEQUENCE, _MASK, _DIRECTION, self.directions).flatten()
        return kinds if self.wanted is None else [*kinds, _RESERVE, *self._outputs]

    @property
    def operands(self) -> list[Kind]:
        """Kinds of the operands that are present."""
        return [kind for kind, there in zip(self.all_operands, self.present, strict=True) if there]

    @property
    def results(self) -> list[Kind]:
        """Kinds of the wanted results."""
        if self.wanted is None:
            return [*self._outputs, _RESERVE] if self.keeps else self._outputs
        kinds = Operands.of_each(_SEQUENCE, _MASK, _DIRECTION, self.directions).flatten()
        return self.only_wanted([kinds[place] for place in with_gradient(self.directions)])

    @property
    def keeps(self) -> bool:
        """Whether the forward pass has the reserve for a result."""
        return self.differentiated and self.options.reserve_mode != RESERVE_NONE

    @property
    def _outputs(self) -> list[Kind]:
        states = [_STATE] * self.directions
        return Outputs(_SEQUENCE, states, states).flatten()

    def types(self, operands: Operands) -> list[Any]:
        """Types of all results on one device, wanted or not."""
        x, units, n = operands.x, operands.units, self.directions
        batch, time, features = x.shape
        state = (batch, units)
        if self.wanted is not None:
            direction = Direction((features, 4 * units), (units, 4 * units), (4 * units,), state, state)
            shapes = Operands.of_each(x.shape, None, direction, n).flatten()
            return [jax.ShapeDtypeStruct(shapes[place], x.dtype) for place in with_gradient(n)]
        y = (batch, time if self.options.return_sequences else 1, n * units)
        types = [jax.ShapeDtypeStruct(shape, x.dtype) for shape in Outputs(y, [state] * n, [state] * n).flatten()]
        if self.keeps:
            mode = self.options.reserve_mode
            steps = -(-time // core().checkpoint_interval) if mode == RESERVE_RECOMPUTE else time
            step = core().reserve_step_bytes(mode, x.dtype.name, units)
            types.append(jax.ShapeDtypeStruct((batch, n, steps, step), jnp.uint8))
        return types

    def only_wanted(self, results: Sequence[Any]) -> list[Any]:
        """Returns the wanted ones of all results."""
        wanted = self.wanted or [True] * len(results)
        return [result for result, keep in zip(results, wanted, strict=True) if keep]

    def spread(self, arrays: Sequence[Any]) -> tuple[Operands, Any, Sequence[Any]]:
        """Returns the operands, the reserve, and the gradients of the results; None for each that is not present."""
        every = spread([there or None for there in self.present], arrays)
        operands, further = Operands.split(every, self.directions)
        reserve, *gradients = further or [None]
        return operands, reserve, gradients
