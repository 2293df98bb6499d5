"""TensorFlow on CUDA devices: TensorFlow's own matrix products around the recurrence of the CUDA kernels.

The recurrence is an op. Its library is for one release of TensorFlow: `_tensorflow_gpu.so` if the package was built for
the release that runs, else the library that `tensorflow_build` compiles. Where XLA compiles, or if there is no such
library, the recurrence is a foreign function of XLA. XLA compiles that anew for every shape.

Products of float32 in the recurrence are TF32 if TensorFlow's own are
(`tf.config.experimental.enable_tensor_float_32_execution`). The setting `precision` (LSTM_FAST_PRECISION) comes before
this.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import tensorflow as tf

from lstm_fast.backends import (
    RESERVE_GATES,
    SECOND_ORDER_OR_FORWARD,
    Direction,
    LibraryError,
    Operands,
    Options,
    Outputs,
    Unavailable,
    cuda,
    least_capability,
    library_path,
    once,
    products,
    tensorflow_build,
    tensorflow_ops_state,
    tensorflow_xla,
)
from lstm_fast.backends.operands import present, spread
from lstm_fast.settings import config

_PLATFORM = "CUDA"  # XLA's name of the device

# Microseconds, by units, that cuDNN's standard algorithm takes for both passes of a timestep at a batch of 64.
# TensorFlow runs this algorithm. Measured through PyTorch on an H100 (benchmarks/results/h100.md), without the products
# that the kernels leave to the framework, too. Fewer units take no less; more take more in proportion to the weights.
_CUDNN_UNITS = (256, 512, 1024)
_CUDNN_MICROSECONDS = {
    "exact": (32.7, 45.4, 86.1),
    "tf32": (27.6, 37.1, 46.0),
    "half": (27.5, 27.5, 27.8),
}
_CUDNN_FULL_BATCH = 170  # above it, the time is in proportion to the rows

_USUAL_BATCH = 64  # assumed if the batch size is not known

logger = logging.getLogger("lstm_fast")


class _Passes(Protocol):
    """A way to call the kernels."""

    def forward(
        self, options: Options, precision: str, z: tf.Tensor, operands: Operands, *, keep: bool
    ) -> tuple[Outputs, tf.Tensor]:
        """Returns the outputs, and the reserve, which is empty if it is not kept. z is [B, T, N, 4H]."""

    def backward(
        self, options: Options, precision: str, operands: Operands, reserve: tf.Tensor, gradients: Outputs
    ) -> Sequence[tf.Tensor]:
        """Returns dz [B, T, N, 4H], h_prev [B, T, N, H] and, for every direction, dh0 and then dc0."""


class _Ops(NamedTuple):
    """The ops of a library: functions."""

    run_forward: Any
    run_backward: Any

    def forward(
        self, options: Options, precision: str, z: tf.Tensor, operands: Operands, *, keep: bool
    ) -> tuple[Outputs, tf.Tensor]:
        """See `_Passes`."""
        attributes = options.of_recurrence(precision)
        *outputs, reserve = self.run_forward(z, *self._operands(operands), keep=keep, **attributes)
        return Outputs(*outputs), reserve

    def backward(
        self, options: Options, precision: str, operands: Operands, reserve: tf.Tensor, gradients: Outputs
    ) -> Sequence[tf.Tensor]:
        """See `_Passes`."""
        attributes = options.of_recurrence(precision)
        values = self._operands(operands)
        dz, h_prev, dh0, dc0 = self.run_backward(operands.x, *values, reserve, *gradients, **attributes)
        return [dz, h_prev, *dh0, *dc0]

    def _operands(self, operands: Operands) -> list[Any]:
        absent = tf.constant((), operands.x.dtype)
        lists = [[absent if value is None else value for value in values] for values in operands.lists_of_recurrence()]
        return [tf.constant((), tf.bool) if operands.mask is None else operands.mask, *lists]


class _Xla:
    """XLA's foreign functions; csrc/bindings/xla_cuda.h has their operands and results."""

    def forward(
        self, options: Options, precision: str, z: tf.Tensor, operands: Operands, *, keep: bool
    ) -> tuple[Outputs, tf.Tensor]:
        """See `_Passes`."""
        batch, time, n, _ = tensorflow_xla.sizes_of(z)
        units, directions = operands.units, len(operands.directions)
        states = [(z.dtype, [batch, units])] * directions
        y = (z.dtype, [batch, time if options.return_sequences else 1, directions * units])
        kept = [batch, n, time, cuda().reserve_step_bytes(z.dtype.name, units)] if keep else [0]
        results = [*Outputs(y, states, states).flatten(), (tf.uint8, kept)]
        values = [z, *self._operands(operands)]
        *outputs, reserve = self._call("forward", options, precision, operands, values, results, sized=0)
        return Outputs.unflatten(outputs), reserve

    def backward(
        self, options: Options, precision: str, operands: Operands, reserve: tf.Tensor, gradients: Outputs
    ) -> Sequence[tf.Tensor]:
        """See `_Passes`."""
        x, units, n = operands.x, operands.units, len(operands.directions)
        batch, time, _ = tensorflow_xla.sizes_of(x)
        results = [(x.dtype, [batch, time, n, size]) for size in (4 * units, units)]
        results += [(x.dtype, [batch, units])] * 2 * n
        # The handler does not read x: the open sizes are taken from it.
        values = [*self._operands(operands), reserve, *gradients.flatten(), x]
        return self._call("backward", options, precision, operands, values, results, sized=len(values) - 1)

    def _call(
        self,
        name: str,
        options: Options,
        precision: str,
        operands: Operands,
        values: list[Any],
        results: list[Any],
        sized: int,
    ) -> list[tf.Tensor]:
        """Calls a handler. Its scratch memory is one more result, which is dropped."""
        _register()
        attributes = {"directions": len(operands.directions), **options.of_recurrence(precision)}
        scratch = (tf.uint8, [_scratch(operands, precision)])
        *outputs, _ = tensorflow_xla.call(
            f"lstm_fast_cuda_{name}", attributes, values, [*results, scratch], sized=sized, platform=_PLATFORM
        )
        return outputs

    def _operands(self, operands: Operands) -> list[Any]:
        dtype = operands.x.dtype
        lists = [[dtype if value is None else value for value in values] for values in operands.lists_of_recurrence()]
        return [tf.bool if operands.mask is None else operands.mask, *(value for values in lists for value in values)]


def _scratch(operands: Operands, precision: str) -> tensorflow_xla.Size:
    """Returns the size of the scratch memory in bytes."""
    x = operands.x
    problem = (x.dtype.name, precision)
    others = (operands.units, len(operands.directions), operands.masked, operands.dropout)
    # Device 0, because all devices of one program are alike.
    if None not in x.shape[:2]:
        return int(cuda().scratch_bytes(0, *problem, *x.shape[:2], *others))
    of_timestep, of_row, at_most = cuda().scratch_bound(0, *problem, *others)
    return tensorflow_xla.Open([(of_timestep, [0, 1]), (of_row, [0]), (at_most, [])])


@once("on a GPU, ")
def _load() -> tuple[_Ops | None, str]:
    """Returns the ops, or None if there are none for this TensorFlow, and their state. `cuda()` must come before."""
    state = tensorflow_ops_state()
    # A release of the form 2.21.0: patches keep TensorFlow's binary interface.
    built_for = state.removeprefix("built for TensorFlow ")
    if state != built_for and built_for.split(".")[:2] != tf.__version__.split(".")[:2]:
        state = f"{state}, this is {tf.__version__}"
    elif state != built_for:
        try:
            return _ops_of(library_path("_tensorflow_gpu.so")), state
        except (tf.errors.OpError, LibraryError) as error:
            state = f"{state}, but {getattr(error, 'message', error)}"
    try:
        path = tensorflow_build.library(_recipe())
        return _ops_of(path), f"compiled for TensorFlow {tf.__version__} when first used: {path}"
    except (tf.errors.OpError, LibraryError) as error:
        reason = f"{state}; {getattr(error, 'message', error)}"
    reason += "; XLA calls the kernels, and compiles them anew for every shape; lstm-fast status tries again"
    logger.warning("TensorFlow's ops on GPUs: %s", reason)
    return None, reason


def _ops_of(path: Path) -> _Ops:
    library = tf.load_op_library(str(path))
    return _Ops(library.lstm_fast_cuda_forward, library.lstm_fast_cuda_backward)


def _recipe() -> tensorflow_build.Recipe:
    from lstm_fast import __version__

    # The ops find this library by its name, among those that are loaded.
    kernels = library_path("liblstm_fast_cuda.so")
    flags = tf.sysconfig.get_compile_flags(), tf.sysconfig.get_link_flags()
    return tensorflow_build.Recipe(kernels.parent / "sources", kernels, __version__, tf.__version__, *flags)


def ops_state() -> str:
    """Returns the state of TensorFlow's ops on GPUs: for which release they are compiled, or why there are none."""
    try:
        cuda()
    except LibraryError as error:
        return str(error)
    return _load()[1]


@once("on a GPU, ")
def _register() -> bool:
    tensorflow_xla.call_module()
    tensorflow_xla.register(cuda().register_xla_handlers)
    return True


def unavailable(compiled: bool) -> Unavailable | None:
    """Returns why the kernels cannot run on TensorFlow's GPUs, `compiled` by XLA or not; None if they can."""
    try:
        cuda()
        least = least_capability()
        precision()
    except (AttributeError, LibraryError) as error:  # AttributeError: tf.config.experimental may change
        return Unavailable(f"TensorFlow runs on a GPU: {error}")
    for device in tf.config.get_visible_devices("GPU"):
        capability = tf.config.experimental.get_device_details(device).get("compute_capability")
        if capability is None:
            return Unavailable(f"{device.name} is not a CUDA device: no kernel for it")
        if capability < least:
            found, needed = (".".join(map(str, version)) for version in (capability, least))
            return Unavailable(f"{device.name} has compute capability {found}: the kernel needs {needed} or later")
    try:
        if compiled or _load()[0] is None:
            _register()
    except LibraryError as error:
        return Unavailable(f"TensorFlow runs on a GPU: {error}")
    return None


def slower_than_cudnn(dtype: str, batch: int | None, units: int) -> str | None:
    """Returns why cuDNN is expected to be faster, for one direction without mask and dropout; None if it is not."""
    rows = batch or _USUAL_BATCH
    passes = cuda().describe(0, dtype, precision(), rows, units, 1, False)
    estimate = sum(cut["microseconds"] for cut in passes.values())
    expected = cudnn_microseconds(dtype, rows, units)
    if estimate <= expected:
        return None
    return (
        f"cuDNN is expected to be faster with {units} units: a timestep forward and back is estimated at "
        f"{estimate:.1f} us, and {expected:.1f} us there; "
        "LSTM_FAST_KERNEL=fused or use_cudnn=False force the kernels"
    )


def cudnn_microseconds(dtype: str, batch: int, units: int) -> float:
    """Returns the expected time of both passes of a timestep in TensorFlow's own LSTM, on a GPU like an H100."""
    numbers = {"float16": "half", "bfloat16": "half", "float32": "tf32" if precision() == "tf32" else "exact"}
    known = _CUDNN_MICROSECONDS[numbers.get(dtype, "exact")]
    at = float(2 ** np.interp(np.log2(units), np.log2(_CUDNN_UNITS), np.log2(known)))
    at *= max(1.0, units / _CUDNN_UNITS[-1]) ** 2 * max(1.0, batch / _CUDNN_FULL_BATCH)
    return 2.0 * at if dtype == "float64" else at


def precision() -> str:
    """Returns how the recurrence computes products of float32: an entry of PRECISIONS."""
    if forced := config.precision:
        return forced
    return "tf32" if tf.config.experimental.tensor_float_32_execution_enabled() else "exact"


def lstm(device: str, compiled: bool, operands: Operands, options: Options) -> Outputs:
    """Runs the forward pass on a GPU, by the name of the device; see `lstm_fast.backends.backend.Backend`."""
    numbers, n = precision(), len(operands.directions)
    ops = None if compiled else _load()[0]
    passes: _Passes = ops or _Xla()
    if not ops:
        tensorflow_xla.check_known(operands)
    keep = options.reserve_mode == RESERVE_GATES
    with tf.device(device):
        operands = operands._replace(directions=products.for_all_or_none(_ARRAYS, operands.directions))
        flat = operands.flatten()

        @tf.custom_gradient  # type: ignore[untyped-decorator]
        def run(z: tf.Tensor, *tensors: tf.Tensor) -> Any:
            inner = Operands.unflatten(spread(flat, tensors), n)
            outputs, reserve = passes.forward(options, numbers, z, inner, keep=keep)

            def gradient(*gradients: tf.Tensor) -> Any:
                with tf.device(device):
                    dz, found = _gradients(passes, options, numbers, inner, reserve if keep else None, gradients)
                return dz, *(d for d, value in zip(found, flat, strict=True) if value is not None)

            return tuple(outputs.flatten()), gradient

        return Outputs.unflatten(run(_project(operands), *present(flat)))


def _gradients(
    passes: _Passes,
    options: Options,
    numbers: str,
    operands: Operands,
    reserve: tf.Tensor | None,
    gradients: Sequence[tf.Tensor],
) -> tuple[tf.Tensor, list[Any]]:
    """Returns the gradient of z, and those of the operands: None for an operand that has its gradient through z."""
    n = len(operands.directions)
    flat = [*operands.flatten(), reserve, *gradients]

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def run(*tensors: tf.Tensor) -> Any:
        inner, (reserve, *gradients) = Operands.split(spread(flat, tensors), n)
        if reserve is None:
            # Not before the gradients are there: an earlier result would take memory until then.
            with tf.control_dependencies(gradients):
                later = inner._replace(x=tf.identity(inner.x))
            _, reserve = passes.forward(options, numbers, _project(later), inner, keep=True)
        dz, h_prev, *dstates = passes.backward(options, numbers, inner, reserve, Outputs.unflatten(gradients))
        computed = zip(
            products.recurrent_gradients(_ARRAYS, h_prev, dz, inner.directions),
            tf.unstack(_ARRAYS.sum_of_rows(dz), n),
            dstates[:n],
            dstates[n:],
            strict=True,
        )
        found = Operands(None, None, [Direction(None, *each) for each in computed]).flatten()

        def second(*_: Any) -> None:
            raise NotImplementedError(SECOND_ORDER_OR_FORWARD)

        return (dz, *(found[place] for place in wanted)), second

    has = Direction(None, True, True, True, True)  # the kernel has its gradient through z, and multipliers have none
    gets = Operands.of_each(None, None, has, n).flatten()
    wanted = [place for place, flag in enumerate(gets) if flag and flat[place] is not None]
    dz, *found = run(*present(flat))
    by_place = dict(zip(wanted, found, strict=True))
    return dz, [by_place.get(place) for place in range(len(gets))]


def _project(operands: Operands) -> tf.Tensor:
    """Returns z [B, T, N, 4H]."""
    x, mask, directions = operands
    if mask is not None and directions[0].kernel is not None:  # the gradient of the kernel must not see the padding
        x = _ARRAYS.without_padding(x, mask)
    return products.project(_ARRAYS, x, directions)


class _Arrays:
    """TensorFlow's operations for `lstm_fast.backends.products`; see `Arrays` there. They have gradients."""

    def ones_like(self, array: tf.Tensor) -> tf.Tensor:
        return tf.ones_like(array)

    def concatenate(self, arrays: Sequence[tf.Tensor], axis: int) -> tf.Tensor:
        return tf.concat(arrays, axis)

    def by_direction(self, z: tf.Tensor, directions: int) -> tf.Tensor:
        batch, time, columns = _sizes(z)
        return tf.reshape(z, [batch, time, directions, columns // directions])

    def room(self, _x: tf.Tensor, _directions: int, _columns: int | None) -> None:
        return None

    def without_padding(self, x: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        # Under XLA, where() reads only the lowest bit of a boolean, the kernels the whole byte.
        real = tf.cast(mask, tf.uint8)[:, :, tf.newaxis] != 0
        return tf.where(real, x, tf.zeros([], x.dtype))

    def project(self, x: tf.Tensor, kernel: tf.Tensor, directions: int, _out: None = None) -> tf.Tensor:
        columns = _sizes(kernel)[1] // directions
        return tf.reshape(tf.matmul(_rows(x), kernel), [*_sizes(x)[:2], directions, columns])

    def project_by_gate(self, x: tf.Tensor, kernel: tf.Tensor, _out: None) -> tf.Tensor:
        z = tf.einsum("gbtd,dgh->btgh", x, _by_gate(kernel))
        return tf.reshape(z, [*_sizes(x)[1:3], 1, _sizes(kernel)[1]])

    def sum_products(self, values: tf.Tensor, dz: tf.Tensor) -> tf.Tensor:
        return tf.matmul(_rows(values), _rows(dz), transpose_a=True)

    def sum_products_by_gate(self, values: tf.Tensor, dz: tf.Tensor) -> tf.Tensor:
        gradient = tf.einsum("gbtn,btgh->ngh", values, _by_gate(dz))
        return tf.reshape(gradient, [_sizes(values)[3], _sizes(dz)[2]])

    def sum_of_rows(self, dz: tf.Tensor) -> tf.Tensor:
        if dz.dtype.size > 2:
            return tf.reduce_sum(dz, [0, 1])
        # A product sums half types in float32.
        batch, time, *columns = _sizes(dz)
        rows = tf.reshape(dz, [batch * time, columns[0] * columns[1]])
        return tf.reshape(tf.matmul(tf.ones([1, batch * time], dz.dtype), rows), columns)


def _sizes(tensor: tf.Tensor) -> list[Any]:
    """Returns the shape, with a tensor for each size that is not known."""
    if None not in tensor.shape:
        return list(tensor.shape)
    dynamic = tf.shape(tensor)
    return [dynamic[i] if size is None else size for i, size in enumerate(tensor.shape)]


def _rows(tensor: tf.Tensor) -> tf.Tensor:
    """Returns a tensor [B, T, n] as a matrix [B * T, n]."""
    batch, time, size = _sizes(tensor)
    return tf.reshape(tensor, [batch * time, size])


def _by_gate(tensor: tf.Tensor) -> tf.Tensor:
    """Returns a tensor [..., 4H] as [..., 4, H]."""
    *sizes, gates = _sizes(tensor)
    return tf.reshape(tensor, [*sizes, 4, gates // 4])


_ARRAYS = _Arrays()
