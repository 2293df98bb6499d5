"""The LSTM in plain NumPy and float64: here one can read what the compiled kernels compute.

The kernels are tested against it. The arguments are those of `lstm_fast._core`; lists hold one entry per direction.

Letters: B batch, T time, D input features, H units, N directions (1 or 2). The gate order is Keras's, `i, f, c, o`.

    z_t = (m_x * x_t) W + (m_h * h_{t-1}) U + b      i, f, o = sigmoid(z_i, z_f, z_o)      g = tanh(z_c)
    c_t = f * c_{t-1} + i * g                        h_t = o * tanh(c_t)

A masked timestep leaves h and c as they are, and its x is never read. With `zero_output_for_mask` its output is zero.
Otherwise it is the previous output in processing order, or zero before the first real timestep, whatever h0 is.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Optionals = Sequence[ArrayLike | None]


class Forward(NamedTuple):
    """What the layer returns."""

    y: Array  # [B, T, N * H], the directions side by side; [B, N * H] without return_sequences
    h_n: list[Array]  # [B, H] each
    c_n: list[Array]  # [B, H] each


class Gradients(NamedTuple):
    """Gradients of sum(dy * y) + sum(dh_n * h_n) + sum(dc_n * c_n)."""

    dx: Array  # [B, T, D]
    dkernels: list[Array]  # [D, 4H] each
    drecurrent_kernels: list[Array]  # [H, 4H] each
    dbiases: list[Array | None]  # [4H] each, None where there is no bias
    dh0: list[Array]  # [B, H] each, also where the state was absent, which means zeros
    dc0: list[Array]  # [B, H] each
    dz: list[Array]  # [B, T, 4H] each: of the pre-activations, from which the weights' gradients follow


class _Direction(NamedTuple):
    """The parameters of one direction, gates first where there are gates."""

    steps: Sequence[int]  # the timesteps in processing order
    kernel: Array  # [4, D, H]
    recurrent_kernel: Array  # [4, H, H]
    bias: Array  # [4, 1, H]
    h0: Array  # [B, H]
    c0: Array  # [B, H]
    input_dropout: Array  # [4, B, D], or [4, 1, 1]
    recurrent_dropout: Array  # [4, B, H], or [4, 1, 1]


class _Step(NamedTuple):
    """One timestep after it was computed. In masked rows x and h_before are zero; gates and tanh_c mean nothing."""

    real: NDArray[np.bool_]  # [B, 1]
    x: Array  # [4, B, D], after dropout
    h_before: Array  # [4, B, H], after dropout
    c_before: Array  # [B, H]
    gates: Array  # [4, B, H]: i, f, g, o
    tanh_c: Array  # [B, H]
    h: Array  # [B, H], masked rows carried
    c: Array  # [B, H], masked rows carried


def forward(
    x: ArrayLike,
    mask: ArrayLike | None,
    kernels: Sequence[ArrayLike],
    recurrent_kernels: Sequence[ArrayLike],
    biases: Optionals,
    h0: Optionals,
    c0: Optionals,
    input_dropout: Optionals,
    recurrent_dropout: Optionals,
    *,
    go_backwards: bool = False,
    return_sequences: bool = False,
    zero_output_for_mask: bool = False,
) -> Forward:
    """Runs the layer.

    With one direction, `go_backwards` reverses time and y is in processing order. With two, direction 0 runs forward
    and direction 1 backward in time, and y is in input order.
    """
    inputs, real = _inputs(x, mask)
    directions = _directions(
        inputs, kernels, recurrent_kernels, biases, h0, c0, input_dropout, recurrent_dropout, go_backwards
    )
    y, h_n, c_n = [], [], []
    for direction in directions:
        h, c = direction.h0, direction.c0
        output = np.zeros_like(h)
        outputs = np.zeros((len(h), len(direction.steps), h.shape[-1]))
        for t, step in zip(direction.steps, _run(direction, inputs, real), strict=True):
            h, c = step.h, step.c
            output = np.where(step.real, h, 0.0 if zero_output_for_mask else output)
            outputs[:, t] = output
        h_n.append(h)
        c_n.append(c)
        y.append(outputs if return_sequences else output)
    merged = np.concatenate(y, axis=-1)
    if return_sequences and _in_processing_order(directions, go_backwards):
        merged = merged[:, ::-1]
    return Forward(merged, h_n, c_n)


def backward(
    x: ArrayLike,
    mask: ArrayLike | None,
    kernels: Sequence[ArrayLike],
    recurrent_kernels: Sequence[ArrayLike],
    biases: Optionals,
    h0: Optionals,
    c0: Optionals,
    input_dropout: Optionals,
    recurrent_dropout: Optionals,
    dy: ArrayLike | None,
    dh_n: Optionals,
    dc_n: Optionals,
    *,
    go_backwards: bool = False,
    return_sequences: bool = False,
    zero_output_for_mask: bool = False,
) -> Gradients:
    """Differentiates `forward`; an absent incoming gradient is zero."""
    inputs, real = _inputs(x, mask)
    directions = _directions(
        inputs, kernels, recurrent_kernels, biases, h0, c0, input_dropout, recurrent_dropout, go_backwards
    )
    batch, time, _ = inputs.shape
    units = directions[0].h0.shape[-1]
    dy_in_order = np.zeros((batch, time, len(directions) * units))
    if dy is not None and return_sequences:
        dy_in_order[:] = _float64(dy)
        if _in_processing_order(directions, go_backwards):
            dy_in_order = dy_in_order[:, ::-1]

    dx = np.zeros_like(inputs)
    gradients = Gradients(dx, [], [], [], [], [], [])
    for n, direction in enumerate(directions):
        columns = slice(n * units, (n + 1) * units)
        doutputs = dy_in_order[:, :, columns]
        if dy is not None and not return_sequences and time > 0:
            doutputs[:, direction.steps[-1]] = _float64(dy)[:, columns]
        dkernel, drecurrent_kernel = np.zeros_like(direction.kernel), np.zeros_like(direction.recurrent_kernel)
        dz_all = np.zeros((4, batch, time, units))
        dh, dc = (_or_zeros(given[n], (batch, units)) for given in (dh_n, dc_n))
        # Masked timesteps repeat the output of a real one. Their gradients belong to it, and the loop meets it later.
        drepeated = np.zeros((batch, units))

        trace = list(_run(direction, inputs, real))
        for t, step in zip(reversed(direction.steps), reversed(trace), strict=True):
            doutput = doutputs[:, t] + drepeated
            drepeated = np.where(step.real | zero_output_for_mask, 0.0, doutput)
            i, f, g, o = step.gates
            dh_real = dh + doutput
            dc_real = dc + dh_real * o * (1 - step.tanh_c**2)
            dz = np.stack(
                [
                    dc_real * g * i * (1 - i),
                    dc_real * step.c_before * f * (1 - f),
                    dc_real * i * (1 - g**2),
                    dh_real * step.tanh_c * o * (1 - o),
                ]
            )
            dz = np.where(step.real, dz, 0.0)
            dz_all[:, :, t] = dz
            dkernel += step.x.swapaxes(1, 2) @ dz
            drecurrent_kernel += step.h_before.swapaxes(1, 2) @ dz
            dx[:, t] += (direction.input_dropout * (dz @ direction.kernel.swapaxes(1, 2))).sum(0)
            dh_before = (direction.recurrent_dropout * (dz @ direction.recurrent_kernel.swapaxes(1, 2))).sum(0)
            dh = np.where(step.real, dh_before, dh)
            dc = np.where(step.real, dc_real * f, dc)

        dz_merged = _gates_last(dz_all)
        gradients.dkernels.append(_gates_last(dkernel))
        gradients.drecurrent_kernels.append(_gates_last(drecurrent_kernel))
        gradients.dbiases.append(None if biases[n] is None else dz_merged.sum((0, 1)))
        gradients.dh0.append(dh)
        gradients.dc0.append(dc)
        gradients.dz.append(dz_merged)
    return gradients


def _run(direction: _Direction, inputs: Array, real: NDArray[np.bool_]) -> Iterator[_Step]:
    """Runs the recurrence, one timestep at a time in processing order."""
    h, c = direction.h0, direction.c0
    for t in direction.steps:
        x_t = direction.input_dropout * inputs[:, t]
        h_before, c_before = direction.recurrent_dropout * np.where(real[:, t], h, 0.0), c
        z = x_t @ direction.kernel + h_before @ direction.recurrent_kernel + direction.bias
        i, f, g, o = gates = np.stack([_sigmoid(z[0]), _sigmoid(z[1]), np.tanh(z[2]), _sigmoid(z[3])])
        c_real = f * c + i * g
        tanh_c = np.tanh(c_real)
        h = np.where(real[:, t], o * tanh_c, h)
        c = np.where(real[:, t], c_real, c)
        yield _Step(real[:, t], x_t, h_before, c_before, gates, tanh_c, h, c)


def _inputs(x: ArrayLike, mask: ArrayLike | None) -> tuple[Array, NDArray[np.bool_]]:
    """Returns x with zeros at masked timesteps, so that no NaN gets out of them, and the mask as [B, T, 1]."""
    inputs = _float64(x)
    real = np.ones(inputs.shape[:2], bool) if mask is None else np.asarray(mask, bool)
    return np.where(real[..., None], inputs, 0.0), real[..., None]


def _directions(
    inputs: Array,
    kernels: Sequence[ArrayLike],
    recurrent_kernels: Sequence[ArrayLike],
    biases: Optionals,
    h0: Optionals,
    c0: Optionals,
    input_dropout: Optionals,
    recurrent_dropout: Optionals,
    go_backwards: bool,
) -> list[_Direction]:
    batch, time, _ = inputs.shape
    if len(kernels) == 2 and go_backwards:
        raise ValueError("go_backwards: two directions already run both ways; expected False, found True")
    directions = []
    for n, recurrent_kernel in enumerate(recurrent_kernels):
        units = np.shape(recurrent_kernel)[0]
        steps = range(time)
        directions.append(
            _Direction(
                steps=steps[::-1] if go_backwards or n == 1 else steps,
                kernel=_gates_first(kernels[n]),
                recurrent_kernel=_gates_first(recurrent_kernel),
                bias=_or_zeros(biases[n], (4 * units,)).reshape(4, 1, units),
                h0=_or_zeros(h0[n], (batch, units)),
                c0=_or_zeros(c0[n], (batch, units)),
                input_dropout=_or_ones(input_dropout[n]),
                recurrent_dropout=_or_ones(recurrent_dropout[n]),
            )
        )
    return directions


def _in_processing_order(directions: Sequence[_Direction], go_backwards: bool) -> bool:
    """Returns whether y runs against the input's time."""
    return go_backwards and len(directions) == 1


def _sigmoid(z: Array) -> Array:
    e = np.exp(-np.abs(z))  # never overflows, and keeps the relative accuracy of the negative tail
    return np.where(z >= 0, 1.0, e) / (1.0 + e)


def _gates_first(weights: ArrayLike) -> Array:
    """Turns [rows, 4H] into [4, rows, H]."""
    matrix = _float64(weights)
    gates: Array = matrix.reshape(len(matrix), 4, -1).swapaxes(0, 1)
    return gates


def _gates_last(array: Array) -> Array:
    """Turns [4, ..., H] into [..., 4H]."""
    moved = np.moveaxis(array, 0, -2)
    merged: Array = moved.reshape(*moved.shape[:-2], 4 * moved.shape[-1])
    return merged


def _float64(array: ArrayLike) -> Array:
    return np.asarray(array).astype(np.float64)


def _or_zeros(array: ArrayLike | None, shape: tuple[int, ...]) -> Array:
    return np.zeros(shape) if array is None else _float64(array)


def _or_ones(dropout: ArrayLike | None) -> Array:
    return np.ones((4, 1, 1)) if dropout is None else _float64(dropout)
