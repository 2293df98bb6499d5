"""TensorFlow on CUDA devices: TensorFlow's own matrix products around the recurrence of the CUDA kernels.

The recurrence is an op of a library that serves one release of TensorFlow: `_tensorflow_gpu.so`, where the package was
built for the one that runs, else what `tensorflow_build` compiles. Where XLA compiles, and where there is no such
library, it is one of XLA's foreign functions, which XLA compiles anew for every shape.

Products of float32 in the recurrence are TF32 where TensorFlow's own are
(`tf.config.experimental.enable_tensor_float_32_execution`), unless LSTM_FAST_PRECISION says otherwise.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import tensorflow as tf

from lstm_fast.backends import (
    PRECISIONS,
    RESERVE_GATES,
    SECOND_ORDER_OR_FORWARD,
    Direction,
    LibraryError,
    Unavailable,
    cuda,
    forced_precision,
    least_capability,
    library_path,
    once,
    tensorflow_build,
    tensorflow_ops_state,
    tensorflow_xla,
)

# The fields of Direction that the recurrence knows.
_FIELDS = ("recurrent_kernel", "bias", "h0", "c0", "recurrent_dropout")

_PLATFORM = "CUDA"  # XLA's name of the device

# What cuDNN's standard algorithm, the one that TensorFlow runs, takes for both passes of a timestep at a batch of 64,
# without the products that the kernels leave to the framework, too: microseconds by units, through PyTorch on an H100
# (benchmarks/results/h100.md). With fewer units it takes no less; with more, as much more as there are weights.
_CUDNN_UNITS = (256, 512, 1024)
_CUDNN_MICROSECONDS = {
    "exact": (32.7, 45.4, 86.1),
    "tf32": (27.6, 37.1, 46.0),
    "half": (27.5, 27.5, 27.8),
}
_CUDNN_FULL_BATCH = 170  # from which on it takes as much more as there are rows

_USUAL_BATCH = 64  # where it is not known

logger = logging.getLogger("lstm_fast")

# y, *h_n and *c_n
Outputs = list[tf.Tensor]


class _Options(NamedTuple):
    """The attributes that both passes have."""

    go_backwards: bool
    return_sequences: bool
    zero_output_for_mask: bool
    precision: int


class _Arrays(NamedTuple):
    """The arrays of a call; `flat` has them one by one, None where one is absent."""

    x: tf.Tensor
    mask: tf.Tensor | None
    directions: Sequence[Direction]

    def flat(self) -> list[Any]:
        return [self.x, self.mask, *(value for direction in self.directions for value in direction)]

    @classmethod
    def of(cls, flat: Sequence[Any]) -> "_Arrays":
        x, mask, *parameters = flat
        fields = len(Direction._fields)
        return cls(x, mask, [Direction(*parameters[i : i + fields]) for i in range(0, len(parameters), fields)])

    def lists(self) -> list[list[Any]]:
        """Returns a list with an entry for each direction for every field that the recurrence knows."""
        return [[getattr(direction, field) for direction in self.directions] for field in _FIELDS]


class _Passes(Protocol):
    """A way to call the kernels."""

    def forward(self, options: _Options, z: tf.Tensor, arrays: _Arrays, *, keep: bool) -> tuple[Outputs, tf.Tensor]:
        """Returns (y, *h_n, *c_n) and the reserve, which is empty if it is not kept. z is [B, T, N, 4H]."""

    def backward(
        self, options: _Options, arrays: _Arrays, reserve: tf.Tensor, gradients: Outputs
    ) -> Sequence[tf.Tensor]:
        """Returns dz [B, T, N, 4H], h_prev [B, T, N, H] and, for every direction, dh0 and then dc0."""


class _Ops(NamedTuple):
    """The ops of a library: functions."""

    run_forward: Any
    run_backward: Any

    def forward(self, options: _Options, z: tf.Tensor, arrays: _Arrays, *, keep: bool) -> tuple[Outputs, tf.Tensor]:
        """See `_Passes`."""
        y, h_n, c_n, reserve = self.run_forward(z, *self._operands(arrays), keep=keep, **options._asdict())
        return [y, *h_n, *c_n], reserve

    def backward(
        self, options: _Options, arrays: _Arrays, reserve: tf.Tensor, gradients: Outputs
    ) -> Sequence[tf.Tensor]:
        """See `_Passes`."""
        n = len(arrays.directions)
        dy, *dstates = gradients
        dz, h_prev, dh0, dc0 = self.run_backward(
            arrays.x, *self._operands(arrays), reserve, dy, dstates[:n], dstates[n:], **options._asdict()
        )
        return [dz, h_prev, *dh0, *dc0]

    def _operands(self, arrays: _Arrays) -> list[Any]:
        absent = tf.constant((), arrays.x.dtype)
        lists = [[absent if value is None else value for value in values] for values in arrays.lists()]
        return [tf.constant((), tf.bool) if arrays.mask is None else arrays.mask, *lists]


class _Xla:
    """XLA's foreign functions; csrc/bindings/xla_cuda.h says what they have for operands and results."""

    def forward(self, options: _Options, z: tf.Tensor, arrays: _Arrays, *, keep: bool) -> tuple[Outputs, tf.Tensor]:
        """See `_Passes`."""
        batch, time, n, _ = tensorflow_xla.sizes_of(z)
        units = arrays.directions[0].recurrent_kernel.shape[0]
        kept = [batch, n, time, cuda().reserve_step_bytes(z.dtype.name, units)] if keep else [0]
        results = [
            (z.dtype, [batch, time if options.return_sequences else 1, len(arrays.directions) * units]),
            *[(z.dtype, [batch, units])] * 2 * len(arrays.directions),
            (tf.uint8, kept),
        ]
        *outputs, reserve = self._call("forward", options, [z, *self._operands(arrays)], results, arrays, sized=0)
        return outputs, reserve

    def backward(
        self, options: _Options, arrays: _Arrays, reserve: tf.Tensor, gradients: Outputs
    ) -> Sequence[tf.Tensor]:
        """See `_Passes`."""
        x, n = arrays.x, len(arrays.directions)
        batch, time, _ = tensorflow_xla.sizes_of(x)
        units = arrays.directions[0].recurrent_kernel.shape[0]
        results = [(x.dtype, [batch, time, n, size]) for size in (4 * units, units)]
        results += [(x.dtype, [batch, units])] * 2 * n
        # The handler does not look at x, of which the open sizes are made.
        operands = [*self._operands(arrays), reserve, *gradients, x]
        return self._call("backward", options, operands, results, arrays, sized=len(operands) - 1)

    def _call(
        self,
        name: str,
        options: _Options,
        operands: list[Any],
        results: list[Any],
        arrays: _Arrays,
        sized: int,
    ) -> list[tf.Tensor]:
        """Calls a handler, with scratch memory for a further result, which is dropped."""
        _register()
        attributes = {"directions": len(arrays.directions), **options._asdict()}
        scratch = (tf.uint8, [_scratch(arrays, PRECISIONS[options.precision])])
        *outputs, _ = tensorflow_xla.call(
            f"lstm_fast_cuda_{name}", attributes, operands, [*results, scratch], sized=sized, platform=_PLATFORM
        )
        return outputs

    def _operands(self, arrays: _Arrays) -> list[Any]:
        values = [arrays.mask, *(value for values in arrays.lists() for value in values)]
        types = [tf.bool, *[arrays.x.dtype] * (len(values) - 1)]
        return [absent if value is None else value for value, absent in zip(values, types, strict=True)]


def _scratch(arrays: _Arrays, precision: str) -> tensorflow_xla.Size:
    """Returns the size of the scratch memory in bytes."""
    x, masked = arrays.x, arrays.mask is not None
    direction = arrays.directions[0]
    problem = (x.dtype.name, precision)
    rest = (
        direction.recurrent_kernel.shape[0],
        len(arrays.directions),
        masked,
        direction.recurrent_dropout is not None,
    )
    # Devices that one program is compiled for are alike.
    if None not in x.shape[:2]:
        return int(cuda().scratch_bytes(0, *problem, *x.shape[:2], *rest))
    of_timestep, of_row, at_most = cuda().scratch_bound(0, *problem, *rest)
    return tensorflow_xla.Open([(of_timestep, [0, 1]), (of_row, [0]), (at_most, [])])


@once("on a GPU, ")
def _load() -> tuple[_Ops | None, str]:
    """Returns the ops, None if there are none for this TensorFlow, and what there is to say of them; after `cuda()`."""
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

    # The ops find it by its name, among the libraries that are loaded.
    kernels = library_path("liblstm_fast_cuda.so")
    flags = tf.sysconfig.get_compile_flags(), tf.sysconfig.get_link_flags()
    return tensorflow_build.Recipe(kernels.parent / "sources", kernels, __version__, tf.__version__, *flags)


def ops_state() -> str:
    """Returns what there is to say of TensorFlow's ops on GPUs: for which release they are compiled, or why not."""
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
    except (AttributeError, LibraryError) as error:  # AttributeError: tf.config.experimental promises nothing
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
    """Returns why cuDNN is preferred for one direction without mask and dropout; None if the kernels are."""
    rows = batch or _USUAL_BATCH
    passes = cuda().describe(0, dtype, precision(), rows, units, 1, False)
    estimate = sum(cut["microseconds"] for cut in passes.values())
    expected = cudnn_microseconds(dtype, rows, units)
    if estimate <= expected:
        return None
    return (
        f"cuDNN is expected to be faster with {units} units: a timestep forward and back is estimated at "
        f"{estimate:.1f} us, and {expected:.1f} us there; "
        "LSTM_FAST_KERNEL=fused or use_cudnn=False insist on the kernels"
    )


def cudnn_microseconds(dtype: str, batch: int, units: int) -> float:
    """Returns what both passes of a timestep are expected to take in TensorFlow's own LSTM on a GPU like an H100."""
    numbers = {"float16": "half", "bfloat16": "half", "float32": "tf32" if precision() == "tf32" else "exact"}
    known = _CUDNN_MICROSECONDS[numbers.get(dtype, "exact")]
    at = float(2 ** np.interp(np.log2(units), np.log2(_CUDNN_UNITS), np.log2(known)))
    at *= max(1.0, units / _CUDNN_UNITS[-1]) ** 2 * max(1.0, batch / _CUDNN_FULL_BATCH)
    return 2.0 * at if dtype == "float64" else at


def precision() -> str:
    """Returns how the recurrence computes products of float32: an entry of PRECISIONS."""
    if forced := forced_precision():
        return forced
    return "tf32" if tf.config.experimental.tensor_float_32_execution_enabled() else "exact"


def lstm(
    device: str,
    compiled: bool,
    x: tf.Tensor,
    mask: tf.Tensor | None,
    directions: Sequence[Direction],
    *,
    go_backwards: bool,
    return_sequences: bool,
    zero_output_for_mask: bool,
    reserve_mode: int,
) -> tuple[tf.Tensor, Sequence[tf.Tensor], Sequence[tf.Tensor]]:
    """Runs the forward pass on a GPU, by the name of the device; see `lstm_fast.backends.Backend`."""
    options = _Options(go_backwards, return_sequences, zero_output_for_mask, PRECISIONS.index(precision()))
    ops = None if compiled else _load()[0]
    passes: _Passes = ops or _Xla()
    if not ops:
        tensorflow_xla.check_known(directions[0])
    keep = reserve_mode == RESERVE_GATES
    with tf.device(device):
        flat = _Arrays(x, mask, _for_all_or_none(directions)).flat()

        @tf.custom_gradient  # type: ignore[untyped-decorator]
        def run(z: tf.Tensor, *given: tf.Tensor) -> Any:
            own = tensorflow_xla.spread(flat, given)
            outputs, reserve = passes.forward(options, z, _Arrays.of(own), keep=keep)

            def gradient(*gradients: tf.Tensor) -> Any:
                with tf.device(device):
                    dz, found = _gradients(passes, options, own, reserve if keep else None, gradients)
                return dz, *(d for d, value in zip(found, own, strict=True) if value is not None)

            return tuple(outputs), gradient

        y, *states = run(_project(_Arrays.of(flat)), *_present(flat))
    return y, states[: len(directions)], states[len(directions) :]


def _gradients(
    passes: _Passes, options: _Options, flat: Sequence[Any], reserve: tf.Tensor | None, gradients: Sequence[tf.Tensor]
) -> tuple[tf.Tensor, Sequence[Any]]:
    """Returns the gradients of z, and of all arrays, None of those that it gets by way of z."""
    operands = [*flat, reserve, *gradients]
    directions = _Arrays.of(flat).directions
    wanted = [(n, field) for n, d in enumerate(directions) for field in _FIELDS[:-1] if getattr(d, field) is not None]

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def run(*given: tf.Tensor) -> Any:
        own = tensorflow_xla.spread(operands, given)
        arrays, reserve, gradients = _Arrays.of(own[: len(flat)]), own[len(flat)], own[len(flat) + 1 :]
        if reserve is None:
            # Not before it is time: what is recomputed too early is kept until then.
            with tf.control_dependencies(gradients):
                later = arrays._replace(x=tf.identity(arrays.x))
            _, reserve = passes.forward(options, _project(later), arrays, keep=True)
        dz, h_prev, *dstates = passes.backward(options, arrays, reserve, gradients)
        dbiases = _sum_of_rows(dz)
        computed = {
            "recurrent_kernel": [
                _weight_gradient(h_prev[:, :, n], dz[:, :, n], direction.recurrent_dropout)
                for n, direction in enumerate(directions)
            ],
            "bias": [dbiases[n] for n in range(len(directions))],
            "h0": dstates[: len(directions)],
            "c0": dstates[len(directions) :],
        }

        def second(*_: Any) -> None:
            raise NotImplementedError(SECOND_ORDER_OR_FORWARD)

        return (dz, *(computed[field][n] for n, field in wanted)), second

    dz, *found = run(*_present(operands))
    by_place = dict(zip(wanted, found, strict=True))
    return dz, [None, None, *(by_place.get((n, field)) for n in range(len(directions)) for field in Direction._fields)]


def _present(values: Sequence[Any]) -> list[tf.Tensor]:
    return [value for value in values if value is not None]


def _for_all_or_none(directions: Sequence[Direction]) -> Sequence[Direction]:
    """Returns the directions with recurrent dropout for all if for any, which is what the recurrence has."""
    given = next((d.recurrent_dropout for d in directions if d.recurrent_dropout is not None), None)
    if given is None:
        return directions
    return [d._replace(recurrent_dropout=tf.ones_like(given)) if d.recurrent_dropout is None else d for d in directions]


# Products. Multipliers differ by gate, so that where there are some each gate has a product of its own.


def _project(arrays: _Arrays) -> tf.Tensor:
    """Returns z [B, T, N, 4H]."""
    x, directions = arrays.x, arrays.directions
    columns = _sizes(directions[0].recurrent_kernel)[1]
    sizes = [*_sizes(x)[:2], len(directions), columns]
    if directions[0].kernel is None:  # x is projected already
        return tf.reshape(x, sizes)
    if arrays.mask is not None:  # what is padding may be NaN, which the gradient of the kernel must not see
        # Compiled by XLA, where() reads the lowest bit of a boolean alone, and the kernels the whole byte.
        real = tf.cast(arrays.mask, tf.uint8)[:, :, tf.newaxis] != 0
        x = tf.where(real, x, tf.zeros([], x.dtype))
    if all(direction.input_dropout is None for direction in directions):
        kernels = [direction.kernel for direction in directions]
        return tf.reshape(tf.matmul(_rows(x), kernels[0] if len(kernels) == 1 else tf.concat(kernels, 1)), sizes)
    each = []
    for direction in directions:
        if direction.input_dropout is None:
            each.append(tf.reshape(tf.matmul(_rows(x), direction.kernel), [*sizes[:2], columns]))
        else:
            z = tf.einsum("gbtd,dgh->btgh", _dropped(x, direction.input_dropout), _by_gate(direction.kernel))
            each.append(tf.reshape(z, [*sizes[:2], columns]))
    return tf.stack(each, axis=2)


def _weight_gradient(values: tf.Tensor, dz: tf.Tensor, multipliers: tf.Tensor | None) -> tf.Tensor:
    """Returns the gradient of weights that z [B, T, 4H] has got by values [B, T, n], multiplied by gate or not."""
    if multipliers is None:
        return tf.matmul(_rows(values), _rows(dz), transpose_a=True)
    gradient = tf.einsum("gbtn,btgh->ngh", _dropped(values, multipliers), _by_gate(dz))
    return tf.reshape(gradient, [_sizes(values)[2], _sizes(dz)[2]])


def _sum_of_rows(dz: tf.Tensor) -> tf.Tensor:
    """Returns the sum of dz [B, T, N, 4H] over batch and time, [N, 4H]."""
    if dz.dtype.size > 2:
        return tf.reduce_sum(dz, [0, 1])
    # A product sums half types in float32.
    batch, time, *columns = _sizes(dz)
    rows = tf.reshape(dz, [batch * time, columns[0] * columns[1]])
    return tf.reshape(tf.matmul(tf.ones([1, batch * time], dz.dtype), rows), columns)


def _sizes(tensor: tf.Tensor) -> list[Any]:
    """Returns the shape, of which what is not known is a tensor."""
    if None not in tensor.shape:
        return list(tensor.shape)
    dynamic = tf.shape(tensor)
    return [dynamic[i] if size is None else size for i, size in enumerate(tensor.shape)]


def _rows(tensor: tf.Tensor) -> tf.Tensor:
    """Returns a tensor [B, T, n] as a matrix [B * T, n]."""
    batch, time, size = _sizes(tensor)
    return tf.reshape(tensor, [batch * time, size])


def _dropped(values: tf.Tensor, multipliers: tf.Tensor) -> tf.Tensor:
    """Returns values [B, T, n] times multipliers [4, B, n] as [4, B, T, n]."""
    return multipliers[:, :, tf.newaxis] * values


def _by_gate(tensor: tf.Tensor) -> tf.Tensor:
    """Returns a tensor [..., 4H] as [..., 4, H]."""
    *sizes, gates = _sizes(tensor)
    return tf.reshape(tensor, [*sizes, 4, gates // 4])
