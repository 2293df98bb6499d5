"""JAX on CUDA devices: XLA's own matrix products around the recurrence, a foreign function of `lstm_fast._cuda`.

The primitives of `lstm_fast.backends.jax` become this when XLA compiles them for CUDA. `jax_default_matmul_precision`
decides how products of float32 are computed:

    None, "default", "bfloat16", "high", "tensorfloat32", "BF16_BF16_F32", "TF32_TF32_F32"    TF32, as XLA's own on CUDA
    "TF32_TF32_F32_X3"                                                                        three times TF32
    all others, among them "highest" and "float32"                                            float32

In the recurrence, the setting `precision` (LSTM_FAST_PRECISION) comes before this.
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lstm_fast.backends import (
    RESERVE_GATES,
    LibraryError,
    Operands,
    Unavailable,
    core,
    cuda,
    least_capability,
    once,
    products,
)
from lstm_fast.backends.jax_call import Call
from lstm_fast.settings import config

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


def precision(matmul: str | None) -> str:
    """Returns how the recurrence computes products of float32, if JAX's own have the precision `matmul`."""
    if forced := config.precision:
        return forced
    if matmul in _TF32:
        return "tf32"
    return "tf32x3" if matmul == "TF32_TF32_F32_X3" else "exact"


def run(*values: Any, call: Call) -> list[Any]:
    """Computes the results of a call on one device. XLA compiles this function."""
    library()
    operands, reserve, gradients = call.spread(values)
    # For float32 only: for other dtypes JAX refuses some precisions.
    arrays = _Arrays(call.products if operands.x.dtype == jnp.float32 else None)
    operands = operands._replace(directions=products.for_all_or_none(arrays, operands.directions))
    gates = call.options.reserve_mode == RESERVE_GATES
    if call.wanted is None:
        results = _forward(call, arrays, operands, keep=call.keeps and gates)
        if not call.keeps:
            return results[:-1]
        if not gates:  # the backward pass here recomputes everything, and does not read the reserve
            *_, kept = call.types(operands)
            results[-1] = jnp.zeros(kept.shape, kept.dtype)
        return results
    if reserve is None or not gates:
        *_, reserve = _forward(call, arrays, operands, keep=True)
    return _backward(call, arrays, operands, reserve, gradients)


def _forward(call: Call, arrays: "_Arrays", operands: Operands, *, keep: bool) -> list[Any]:
    """Returns y, h_n and c_n for every direction, and the reserve, which is empty if it is not kept."""
    x, units, n = operands.x, operands.units, call.directions
    batch, time, _ = x.shape
    z = products.project(arrays, x, operands.directions)
    kept = (batch, n, time, core().reserve_step_bytes(RESERVE_GATES, x.dtype.name, units)) if keep else (0,)
    results = call._replace(differentiated=False, wanted=None).types(operands)
    results.append(jax.ShapeDtypeStruct(kept, jnp.uint8))
    return _call("lstm_fast_cuda_forward", call, operands, results, [z, *_operands(operands)])


def _backward(call: Call, arrays: "_Arrays", operands: Operands, reserve: Any, gradients: Sequence[Any]) -> list[Any]:
    """Returns the gradients that are wanted. `gradients` are those of y, h_n and c_n, or None."""
    x, units, n = operands.x, operands.units, call.directions
    batch, time, _ = x.shape
    shapes = [(batch, time, n, 4 * units), (batch, time, n, units), *[(batch, units)] * 2 * n]
    results = [jax.ShapeDtypeStruct(shape, x.dtype) for shape in shapes]
    values = [*_operands(operands), reserve, *(_present(gradient, x.dtype) for gradient in gradients)]
    dz, h_prev, *dstates = _call("lstm_fast_cuda_backward", call, operands, results, values)
    # XLA leaves out what is not wanted.
    return call.only_wanted(
        [
            products.input_gradient(arrays, dz, operands.directions),
            *products.kernel_gradients(arrays, x, operands.mask, dz, operands.directions),
            *products.recurrent_gradients(arrays, h_prev, dz, operands.directions),
            *arrays.sum_of_rows(dz),
            *dstates,
        ]
    )


def _call(target: str, call: Call, operands: Operands, results: list[Any], values: list[Any]) -> list[Any]:
    """Calls a handler. Its scratch memory is one more result, which is dropped."""
    dtype, (batch, time, _) = operands.x.dtype.name, operands.x.shape
    others = (operands.units, call.directions, operands.masked, operands.dropout)
    # Device 0, because all devices of one program are alike.
    if isinstance(batch, int) and isinstance(time, int):
        size = cuda().scratch_bytes(0, dtype, call.precision, batch, time, *others)
    else:  # left open in an export
        of_timestep, of_row, at_most = cuda().scratch_bound(0, dtype, call.precision, *others)
        size = of_timestep * batch * time + of_row * batch + at_most
    attributes = {"directions": call.directions, **call.options.of_recurrence(call.precision)}
    outputs: list[Any]
    *outputs, _ = jax.ffi.ffi_call(target, [*results, jax.ShapeDtypeStruct((size,), jnp.uint8)])(
        *values, **{name: np.int64(value) for name, value in attributes.items()}
    )
    return outputs


def _operands(operands: Operands) -> list[Any]:
    """The mask, and the fields of Direction that the recurrence uses, each for all directions."""
    values = (value for values in operands.lists_of_recurrence() for value in values)
    return [_present(operands.mask, bool), *(_present(value, operands.x.dtype) for value in values)]


def _present(value: Any, dtype: Any) -> Any:
    return jnp.zeros(0, dtype) if value is None else value


class _Arrays(NamedTuple):
    """JAX's operations for `lstm_fast.backends.products`; see `DifferentiatedArrays` there."""

    precision: str | None  # of products

    def ones_like(self, array: Any) -> Any:
        return jnp.ones_like(array)

    def concatenate(self, arrays: Sequence[Any], axis: int) -> Any:
        return jnp.concatenate(arrays, axis)

    def split(self, array: Any, parts: int) -> Sequence[Any]:
        return jnp.split(array, parts, axis=1)

    def by_direction(self, z: Any, directions: int) -> Any:
        return z.reshape(*z.shape[:2], directions, z.shape[2] // directions)

    def room(self, _x: Any, _directions: int, _columns: int) -> Any:
        return None

    def without_padding(self, x: Any, mask: Any) -> Any:
        # where() reads only the lowest bit of a boolean, the kernels the whole byte.
        return jnp.where(mask[..., None].astype(jnp.uint8) != 0, x, 0)

    def project(self, x: Any, kernel: Any, directions: int, _out: Any = None) -> Any:
        return self.by_direction(jnp.matmul(x, kernel, precision=self.precision), directions)

    def project_by_gate(self, x: Any, kernel: Any, _out: Any) -> Any:
        z = jnp.einsum("gbtd,dgh->btgh", x, _by_gate(kernel), precision=self.precision)
        return z.reshape(*z.shape[:2], 1, kernel.shape[1])

    def project_back(self, dz: Any, kernel: Any) -> Any:
        return jnp.matmul(dz, kernel.T, precision=self.precision)

    def project_back_by_gate(self, dz: Any, kernel: Any) -> Any:
        return jnp.einsum("btgh,dgh->gbtd", _by_gate(dz), _by_gate(kernel), precision=self.precision)

    def sum_products(self, values: Any, dz: Any) -> Any:
        return jnp.einsum("btn,btz->nz", values, dz, precision=self.precision)

    def sum_products_by_gate(self, values: Any, dz: Any) -> Any:
        gradient = jnp.einsum("gbtn,btgh->ngh", values, _by_gate(dz), precision=self.precision)
        return gradient.reshape(values.shape[3], dz.shape[2])

    def sum_of_rows(self, dz: Any) -> Any:
        return jnp.sum(dz, (0, 1))


def _by_gate(array: Any) -> Any:
    """Returns an array [..., 4H] as [..., 4, H]."""
    return array.reshape(*array.shape[:-1], 4, array.shape[-1] // 4)
