"""JAX on CUDA devices: XLA's own matrix products around the recurrence of `lstm_fast._cuda`, its foreign functions.

This is what the primitives of `lstm_fast.backends.jax` become when XLA compiles them for CUDA. Products of float32 are
as precise as `jax_default_matmul_precision` has them:

    None, "default", "bfloat16", "high", "tensorfloat32", "BF16_BF16_F32", "TF32_TF32_F32"    TF32, as XLA's own on CUDA
    "TF32_TF32_F32_X3"                                                                        three times TF32
    all others, among them "highest" and "float32"                                            float32

In the recurrence, LSTM_FAST_PRECISION takes the place of this.
"""

import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lstm_fast.backends import (
    PRECISIONS,
    RESERVE_GATES,
    Direction,
    LibraryError,
    Unavailable,
    core,
    cuda,
    forced_precision,
    least_capability,
    once,
)

_TF32 = (None, "default", "bfloat16", "high", "tensorfloat32", "BF16_BF16_F32", "TF32_TF32_F32")


@once("on a GPU, ")
def _register() -> bool:
    for name, handler in cuda().xla_handlers().items():
        jax.ffi.register_ffi_target(name, handler, platform="CUDA")
    return True


def library() -> bool:
    """Registers the kernels with JAX; raises LibraryError if that is not possible."""
    cuda()
    return _register()


def unavailable() -> Unavailable | None:
    """Returns why the kernels cannot run on JAX's GPUs, None if they can."""
    try:
        library()
        least = least_capability()
    except LibraryError as error:
        return Unavailable(f"JAX runs on a GPU: {error}")
    for device in jax.local_devices():
        version = re.fullmatch(r"(\d+)\.(\d+)", str(getattr(device, "compute_capability", "")))
        if not version:
            return Unavailable(f"{device} is not a CUDA device: no kernel for it")
        if tuple(map(int, version.groups())) < least:
            needed = ".".join(map(str, least))
            return Unavailable(f"{device} has compute capability {version[0]}: the kernel needs {needed} or later")
    return None


def precision(products: str | None) -> str:
    """Returns how the recurrence computes products of float32, where JAX computes them in the precision `products`."""
    if forced := forced_precision():
        return forced
    if products in _TF32:
        return "tf32"
    return "tf32x3" if products == "TF32_TF32_F32_X3" else "exact"


def run(*arrays: Any, call: Any) -> list[Any]:
    """Computes the results of a call, a `jax._Call`, on one device: a function to be compiled for it."""
    library()
    operands = call.spread(arrays)
    last = 2 + len(Direction._fields) * call.directions
    x, mask = operands[:2]
    directions = [Direction(*operands[2 + n : last : call.directions]) for n in range(call.directions)]
    given = next((d.recurrent_dropout for d in directions if d.recurrent_dropout is not None), None)
    if given is not None:  # the recurrence has multipliers for every direction or for none
        directions = [
            d._replace(recurrent_dropout=jnp.ones_like(given)) if d.recurrent_dropout is None else d for d in directions
        ]
    # float32 only: of others, JAX takes the precision for a wish that cannot be had.
    products = call.products if x.dtype == jnp.float32 else None
    if call.wanted is None:
        results = _forward(call, x, mask, directions, products, keep=call.keeps and call.reserve_mode == RESERVE_GATES)
        if not call.keeps:
            return results[:-1]
        if call.reserve_mode != RESERVE_GATES:  # of which the backward pass here does not need any
            *_, kept = call.types(x, directions[0].recurrent_kernel.shape[0])
            results[-1] = jnp.zeros(kept.shape, kept.dtype)
        return results
    reserve, *gradients = operands[last:]
    if reserve is None or call.reserve_mode != RESERVE_GATES:
        *_, reserve = _forward(call, x, mask, directions, products, keep=True)
    return _backward(call, x, mask, directions, products, reserve, gradients)


def _forward(
    call: Any, x: Any, mask: Any, directions: Sequence[Direction], products: str | None, *, keep: bool
) -> list[Any]:
    """Returns y, h_n and c_n for every direction, and the reserve, which is empty if it is not kept."""
    (batch, time, _), n = x.shape, len(directions)
    units = directions[0].recurrent_kernel.shape[0]
    z = _project(x, directions, products)
    y = (batch, time if call.return_sequences else 1, n * units)
    kept = (batch, n, time, core().reserve_step_bytes(RESERVE_GATES, x.dtype.name, units)) if keep else (0,)
    results = [
        *(jax.ShapeDtypeStruct(shape, x.dtype) for shape in (y, *[(batch, units)] * 2 * n)),
        jax.ShapeDtypeStruct(kept, jnp.uint8),
    ]
    return _call("lstm_fast_cuda_forward", call, x, results, [z, *_operands(x, mask, directions)], directions)


def _backward(
    call: Any,
    x: Any,
    mask: Any,
    directions: Sequence[Direction],
    products: str | None,
    reserve: Any,
    gradients: Sequence[Any],
) -> list[Any]:
    """Returns the gradients that are wanted. `gradients` are those of y, h_n and c_n, or None."""
    (batch, time, _), n = x.shape, len(directions)
    units = directions[0].recurrent_kernel.shape[0]
    shapes = [(batch, time, n, 4 * units), (batch, time, n, units), *[(batch, units)] * 2 * n]
    results = [jax.ShapeDtypeStruct(shape, x.dtype) for shape in shapes]
    operands = [*_operands(x, mask, directions), reserve, *(_present(gradient, x.dtype) for gradient in gradients)]
    dz, h_prev, *dstates = _call("lstm_fast_cuda_backward", call, x, results, operands, directions)
    # What nobody wants is not part of the program in the end. What is padding may be NaN. Of a boolean, where() reads
    # the lowest bit alone, and the kernels the whole byte.
    real = x if mask is None else jnp.where(mask[..., None].astype(jnp.uint8) != 0, x, 0)
    computed = [_input_gradient(dz, directions, products)]
    each = list(enumerate(directions))
    computed += [_weight_gradient(real, dz[:, :, i], d.input_dropout, products) for i, d in each]
    computed += [_weight_gradient(h_prev[:, :, i], dz[:, :, i], d.recurrent_dropout, products) for i, d in each]
    asked: list[Any] = call.asked([*computed, *jnp.sum(dz, (0, 1)), *dstates])
    return asked


def _call(
    target: str, call: Any, x: Any, results: list[Any], operands: list[Any], directions: Sequence[Direction]
) -> list[Any]:
    """Calls a handler, with scratch memory for a further result, which is dropped."""
    batch, time, _ = x.shape
    units = directions[0].recurrent_kernel.shape[0]
    masked, dropout = call.present[1], directions[0].recurrent_dropout is not None
    rest = (units, len(directions), masked, dropout)
    # Devices that XLA compiles one program for are alike.
    if isinstance(batch, int) and isinstance(time, int):
        size = cuda().scratch_bytes(0, x.dtype.name, call.precision, batch, time, *rest)
    else:  # left open in an export
        of_timestep, of_row, at_most = cuda().scratch_bound(0, x.dtype.name, call.precision, *rest)
        size = of_timestep * batch * time + of_row * batch + at_most
    attributes = {
        "directions": call.directions,
        "go_backwards": call.go_backwards,
        "return_sequences": call.return_sequences,
        "zero_output_for_mask": call.zero_output_for_mask,
        "precision": PRECISIONS.index(call.precision),
    }
    outputs: list[Any]
    *outputs, _ = jax.ffi.ffi_call(target, [*results, jax.ShapeDtypeStruct((size,), jnp.uint8)])(
        *operands, **{name: np.int64(value) for name, value in attributes.items()}
    )
    return outputs


def _operands(x: Any, mask: Any, directions: Sequence[Direction]) -> list[Any]:
    """The mask, and the fields of Direction that the recurrence knows, each for all directions."""
    fields = ("recurrent_kernel", "bias", "h0", "c0", "recurrent_dropout")
    values = [getattr(direction, field) for field in fields for direction in directions]
    return [_present(mask, bool), *(_present(value, x.dtype) for value in values)]


def _present(value: Any, dtype: Any) -> Any:
    return jnp.zeros(0, dtype) if value is None else value


# Products. Multipliers differ by gate, so that where there are some each gate has a product of its own.


def _project(x: Any, directions: Sequence[Direction], products: str | None) -> Any:
    """Returns z [B, T, N, 4H]."""
    batch, time, _ = x.shape
    columns = directions[0].recurrent_kernel.shape[1]
    if directions[0].kernel is None:  # x is projected already
        return x.reshape(batch, time, len(directions), columns)
    if _shared(directions):
        z = jnp.matmul(x, _side_by_side(directions), precision=products)
        return z.reshape(batch, time, len(directions), columns)
    each = []
    for direction in directions:
        if direction.input_dropout is None:
            z = jnp.matmul(x, direction.kernel, precision=products)
        else:
            dropped = _dropped(x, direction.input_dropout)
            z = jnp.einsum("gbtd,dgh->btgh", dropped, _by_gate(direction.kernel), precision=products)
        each.append(z.reshape(batch, time, columns))
    return jnp.stack(each, axis=2)


def _input_gradient(dz: Any, directions: Sequence[Direction], products: str | None) -> Any:
    """Returns dx [B, T, D]."""
    if directions[0].kernel is None:
        return dz.reshape(*dz.shape[:2], -1)
    if _shared(directions):
        kernels = _side_by_side(directions)
        return jnp.matmul(dz.reshape(*dz.shape[:2], kernels.shape[1]), kernels.T, precision=products)
    total = 0
    for n, direction in enumerate(directions):
        if direction.input_dropout is None:
            part = jnp.matmul(dz[:, :, n], direction.kernel.T, precision=products)
        else:
            kernel = _by_gate(direction.kernel)
            dropped = jnp.einsum("btgh,dgh->gbtd", _by_gate(dz[:, :, n]), kernel, precision=products)
            part = jnp.sum(direction.input_dropout[:, :, None] * dropped, axis=0)
        total += part
    return total


def _weight_gradient(values: Any, dz: Any, multipliers: Any, products: str | None) -> Any:
    """Returns the gradient of weights that z [B, T, 4H] has got by values [B, T, n], multiplied by gate or not."""
    if multipliers is None:
        return jnp.einsum("btn,btz->nz", values, dz, precision=products)
    gradient = jnp.einsum("gbtn,btgh->ngh", _dropped(values, multipliers), _by_gate(dz), precision=products)
    return gradient.reshape(values.shape[2], dz.shape[2])


def _shared(directions: Sequence[Direction]) -> bool:
    """Whether one product can serve all directions."""
    return all(direction.input_dropout is None for direction in directions)


def _side_by_side(directions: Sequence[Direction]) -> Any:
    kernels = [direction.kernel for direction in directions]
    return kernels[0] if len(kernels) == 1 else jnp.concatenate(kernels, axis=1)


def _dropped(values: Any, multipliers: Any) -> Any:
    """Returns values [B, T, n] times multipliers [4, B, n] as [4, B, T, n]."""
    return multipliers[:, :, None] * values


def _by_gate(array: Any) -> Any:
    """Returns an array [..., 4H] as [..., 4, H]."""
    return array.reshape(*array.shape[:-1], 4, array.shape[-1] // 4)
