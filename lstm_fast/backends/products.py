"""The matrix products around the recurrence, where the framework computes them: on a GPU.

They are written once, with the few operations of `Arrays`, which each framework implements. Letters are those of
`lstm_fast.lstm`, and N is the number of directions. Dropout multipliers differ by gate: with them each gate has its own
product.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from lstm_fast.backends.operands import Direction


class Arrays(Protocol):
    """The operations of a framework for the forward pass, and for the gradients of the recurrence's operands."""

    def ones_like(self, array: Any, /) -> Any:
        """Returns ones of the shape and dtype of an array."""

    def concatenate(self, arrays: Sequence[Any], axis: int, /) -> Any:
        """Returns arrays side by side."""

    def by_direction(self, z: Any, directions: int, /) -> Any:
        """Returns z [B, T, N * 4H] as [B, T, N, 4H]."""

    def room(self, x: Any, directions: int, columns: int, /) -> Any:
        """Returns memory for z [B, T, N, columns]; None if products cannot be written to existing memory."""

    def without_padding(self, x: Any, mask: Any, /) -> Any:
        """Returns x [B, T, D] with zeros where the mask is false: padding may be NaN."""

    def project(self, x: Any, kernel: Any, directions: int, out: Any = None, /) -> Any:
        """Returns x [B, T, D] times a kernel [D, N * 4H] as [B, T, N, 4H], in `out` if that is not None."""

    def project_by_gate(self, x: Any, kernel: Any, out: Any, /) -> Any:
        """Returns x [4, B, T, D], by gate, times a kernel [D, 4H] as [B, T, 1, 4H], in `out` if that is not None."""

    def sum_products(self, values: Any, dz: Any, /) -> Any:
        """Returns the sum over B and T of the products of values [B, T, n] with dz [B, T, m], [n, m]."""

    def sum_products_by_gate(self, values: Any, dz: Any, /) -> Any:
        """Returns the same of values [4, B, T, n], by gate, with dz [B, T, 4H]: [n, 4H]."""

    def sum_of_rows(self, dz: Any, /) -> Any:
        """Returns the sum of dz [B, T, N, 4H] over B and T, [N, 4H]."""


class DifferentiatedArrays(Arrays, Protocol):
    """Further operations, for the gradients of the input and its kernel, if the framework does not know these."""

    def split(self, array: Any, parts: int, /) -> Sequence[Any]:
        """Returns a matrix cut into parts, each with as many columns."""

    def project_back(self, dz: Any, kernel: Any, /) -> Any:
        """Returns dz [B, T, m] times the transposed kernel [D, m], [B, T, D]."""

    def project_back_by_gate(self, dz: Any, kernel: Any, /) -> Any:
        """Returns dz [B, T, 4H] times the transposed kernel [D, 4H], for each gate by itself, [4, B, T, D]."""


def for_all_or_none(arrays: Arrays, directions: Sequence[Direction]) -> Sequence[Direction]:
    """Returns the directions with recurrent dropout for all, if one has it. The recurrence takes it for all or none."""
    first = next((d.recurrent_dropout for d in directions if d.recurrent_dropout is not None), None)
    if first is None:
        return directions
    ones = arrays.ones_like(first)
    return [d._replace(recurrent_dropout=ones) if d.recurrent_dropout is None else d for d in directions]


def project(arrays: Arrays, x: Any, directions: Sequence[Direction]) -> Any:
    """Returns z [B, T, N, 4H]."""
    if directions[0].kernel is None:  # x is projected already
        return arrays.by_direction(x, len(directions))
    if _shared(directions):
        return arrays.project(x, _side_by_side(arrays, directions), len(directions))
    z = arrays.room(x, len(directions), directions[0].recurrent_kernel.shape[1])
    parts = []
    for n, direction in enumerate(directions):
        out = None if z is None else z[:, :, n : n + 1]
        if direction.input_dropout is None:
            parts.append(arrays.project(x, direction.kernel, 1, out))
        else:
            parts.append(arrays.project_by_gate(_dropped(x, direction.input_dropout), direction.kernel, out))
    return arrays.concatenate(parts, 2) if z is None else z


def input_gradient(arrays: DifferentiatedArrays, dz: Any, directions: Sequence[Direction]) -> Any:
    """Returns dx [B, T, D], for dz [B, T, N, 4H]."""
    if directions[0].kernel is None:
        return _side_by_direction(dz)
    if _shared(directions):
        return arrays.project_back(_side_by_direction(dz), _side_by_side(arrays, directions))
    parts = []
    for n, direction in enumerate(directions):
        if direction.input_dropout is None:
            parts.append(arrays.project_back(dz[:, :, n], direction.kernel))
        else:
            dropped = arrays.project_back_by_gate(dz[:, :, n], direction.kernel)
            parts.append((direction.input_dropout[:, :, None] * dropped).sum(0))
    return sum(parts[1:], parts[0])


def kernel_gradients(
    arrays: DifferentiatedArrays, x: Any, mask: Any, dz: Any, directions: Sequence[Direction]
) -> Sequence[Any]:
    """Returns dW [D, 4H] for each direction, None where there is no W."""
    if directions[0].kernel is None:
        return [None] * len(directions)
    if mask is not None:
        x = arrays.without_padding(x, mask)
    if _shared(directions):
        return arrays.split(arrays.sum_products(x, _side_by_direction(dz)), len(directions))
    return [_weight_gradient(arrays, x, dz[:, :, n], d.input_dropout) for n, d in enumerate(directions)]


def recurrent_gradients(arrays: Arrays, h_prev: Any, dz: Any, directions: Sequence[Direction]) -> Sequence[Any]:
    """Returns dU [H, 4H] for each direction, for h before each timestep, [B, T, N, H]."""
    return [
        _weight_gradient(arrays, h_prev[:, :, n], dz[:, :, n], d.recurrent_dropout) for n, d in enumerate(directions)
    ]


def _weight_gradient(arrays: Arrays, values: Any, dz: Any, multipliers: Any) -> Any:
    """Returns the gradient of the weights from values [B, T, n] to z [B, T, 4H]; multipliers [4, B, n] or None."""
    if multipliers is None:
        return arrays.sum_products(values, dz)
    return arrays.sum_products_by_gate(_dropped(values, multipliers), dz)


def _shared(directions: Sequence[Direction]) -> bool:
    """Whether one product can serve all directions."""
    return all(direction.input_dropout is None for direction in directions)


def _side_by_side(arrays: Arrays, directions: Sequence[Direction]) -> Any:
    """Returns the kernels of all directions as one, [D, N * 4H]."""
    kernels = [direction.kernel for direction in directions]
    return kernels[0] if len(kernels) == 1 else arrays.concatenate(kernels, 1)


def _side_by_direction(dz: Any) -> Any:
    """Returns dz [B, T, N, 4H] as [B, T, N * 4H]."""
    batch, time, directions, columns = dz.shape
    return dz.reshape(batch, time, directions * columns)


def _dropped(values: Any, multipliers: Any) -> Any:
    """Returns values [B, T, n] times multipliers [4, B, n] as [4, B, T, n]."""
    return multipliers[:, :, None] * values
