"""The functions under the layers. They check their arguments and call the backend for the array type of `x`.

Only this module calls a backend. The layers call this module.
"""

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from lstm_fast import arrays
from lstm_fast.backends import (
    DTYPES,
    FRAMEWORKS,
    RESERVE_GATES,
    RESERVE_NONE,
    RESERVE_RECOMPUTE,
    Direction,
    LibraryError,
    Operands,
    Options,
    Outputs,
    Unavailable,
    UnavailableError,
    once,
)
from lstm_fast.backends.backend import Backend
from lstm_fast.settings import config, origin

# The fields of Direction: the caller's name for each, and its shape.
_FIELDS = {
    "kernel": ("kernel", ("features", "4 * units")),
    "recurrent_kernel": ("recurrent_kernel", ("units", "4 * units")),
    "bias": ("bias", ("4 * units",)),
    "h0": ("initial_state[0]", ("batch", "units")),
    "c0": ("initial_state[1]", ("batch", "units")),
    "input_dropout": ("input_dropout", ("gates", "batch", "features")),
    "recurrent_dropout": ("recurrent_dropout", ("gates", "batch", "units")),
}


def lstm(
    x: Any,
    kernel: Any,
    recurrent_kernel: Any,
    bias: Any = None,
    *,
    initial_state: Sequence[Any] | None = None,
    mask: Any = None,
    go_backwards: bool = False,
    return_sequences: bool = False,
    zero_output_for_mask: bool = False,
    input_dropout: Any = None,
    recurrent_dropout: Any = None,
    recompute: bool = False,
    training: bool = True,
) -> tuple[Any, Any, Any]:
    """Runs an LSTM over sequences: the function under `FastLSTM`, for custom models. It needs no framework.

    The equations are those of Hochreiter & Schmidhuber (1997) with the forget gate of Gers et al. (2000), in Keras's
    convention. The gate order along the last axis of `kernel`, `recurrent_kernel` and `bias` is `i, f, c, o`:

        z_t = (m_x * x_t) W + (m_h * h_{t-1}) U + b      i, f, o = sigmoid(z_i, z_f, z_o)      g = tanh(z_c)
        c_t = f * c_{t-1} + i * g                        h_t = o * tanh(c_t)

    Letters: B batch, T time, D features, H units. The type of `x` decides the framework, not Keras's backend. `x` is a
    `tf.Tensor`, eager or in a graph, a `jax.Array`, concrete or traced, a `torch.Tensor`, or a `numpy.ndarray`. The
    results are of the same framework; with NumPy they have no gradient. All arrays have the dtype of `x`: float32,
    float64, float16 or bfloat16. The half types compute in float32.

    Args:
        x: Sequences, `[B, T, D]`.
        kernel: Input weights W, `[D, 4H]`.
        recurrent_kernel: Recurrent weights U, `[H, 4H]`.
        bias: Bias b, `[4H]`. Default: none.
        initial_state: The states h and c before the first timestep, `[B, H]` each. Default: zeros.
        mask: `[B, T]` or `[B, T, 1]`, boolean or numeric: false or zero where a timestep is to be skipped. A skipped
            timestep leaves h and c as they are. Default: no timestep is skipped.
        go_backwards: Whether to run from the last timestep to the first; the output is then in that order.
        return_sequences: Whether to return the output of every timestep, or that of the last.
        zero_output_for_mask: Whether the output of a skipped timestep is zero. Otherwise it is the previous output,
            zero where there is none.
        input_dropout: Multipliers m_x, one set per gate, fixed over time: `[4, B, D]`. Default: ones. They have no
            gradient.
        recurrent_dropout: Multipliers m_h, likewise, `[4, B, H]`.
        recompute: Whether to recompute the gates in the backward pass instead of keeping them. It needs far less
            memory, and about the time of one more forward pass.
        training: Whether to keep values for the backward pass. Without them gradients are right, but slower.

    Returns:
        `(output, h, c)`: the output, `[B, T, H]` with `return_sequences`, else `[B, H]`, and the last states, `[B, H]`
        each.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: An argument has the wrong shape, or a variable LSTM_FAST_* a bad value.
        RuntimeError: The compiled library cannot be used here, or not under the current transform (`make_fx`,
            `torch.func.jvp`, ...). The message says why, and what to use there. Also under `LSTM_FAST_KERNEL=keras`,
            because a function has no Keras path.

    Examples:
        >>> x = np.random.rand(32, 10, 8).astype("float32")
        >>> kernel, recurrent_kernel = (np.random.rand(n, 16).astype("float32") for n in (8, 4))
        >>> output, h, c = lstm_fast.lstm(x, kernel, recurrent_kernel)
        >>> output.shape
        (32, 4)
    """
    if kernel is None:
        raise TypeError("`kernel`: expected an array, found None; `recurrence` runs without one")
    h0, c0 = _states(initial_state)
    return _run_one(
        x,
        mask,
        Direction(kernel, recurrent_kernel, bias, h0, c0, input_dropout, recurrent_dropout),
        go_backwards=go_backwards,
        return_sequences=return_sequences,
        zero_output_for_mask=zero_output_for_mask,
        recompute=recompute,
        training=training,
    )


def recurrence(
    z: Any,
    recurrent_kernel: Any,
    bias: Any = None,
    *,
    initial_state: Sequence[Any] | None = None,
    mask: Any = None,
    go_backwards: bool = False,
    return_sequences: bool = False,
    zero_output_for_mask: bool = False,
    recurrent_dropout: Any = None,
    recompute: bool = False,
    training: bool = True,
) -> tuple[Any, Any, Any]:
    """Runs an LSTM over inputs that are projected already: the part of `lstm` that goes from timestep to timestep.

    `recurrence(x @ kernel, recurrent_kernel, bias)` is `lstm(x, kernel, recurrent_kernel, bias)`. It is for projections
    that `lstm` does not compute: of sparse inputs, of normalised ones, or a table of embeddings that are projected
    already. With a plain kernel, `lstm` takes less memory, because it never has all of z at once.

        z_t + (m_h * h_{t-1}) U + b      in the place of      (m_x * x_t) W + (m_h * h_{t-1}) U + b

    Letters, frameworks and dtypes are those of `lstm`, with `z` in the place of `x`. There is no `input_dropout`: it
    belongs to the projection.

    Args:
        z: Projected sequences, `[B, T, 4H]`, the gates in the order `i, f, c, o`. Skipped timesteps are not read, and
            their gradient is zero.
        recurrent_kernel: Recurrent weights U, `[H, 4H]`.
        bias: Bias b, `[4H]`. Default: none.
        initial_state: As in `lstm`, like the arguments after it.
        mask: `[B, T]` or `[B, T, 1]`.
        go_backwards: Whether to run from the last timestep to the first.
        return_sequences: Whether to return the output of every timestep, or that of the last.
        zero_output_for_mask: Whether the output of a skipped timestep is zero.
        recurrent_dropout: Multipliers m_h, `[4, B, H]`.
        recompute: Whether to recompute the gates in the backward pass.
        training: Whether to keep values for the backward pass.

    Returns:
        `(output, h, c)`, as `lstm` does.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: An argument has the wrong shape, or a variable LSTM_FAST_* a bad value.
        RuntimeError: As in `lstm`.

    Examples:
        >>> table = np.random.rand(1000, 16).astype("float32")  # of 1000 words, projected: 4 gates of 4 units
        >>> words = np.random.randint(1000, size=(32, 10))
        >>> recurrent_kernel = np.random.rand(4, 16).astype("float32")
        >>> output, h, c = lstm_fast.recurrence(table[words], recurrent_kernel)
        >>> output.shape
        (32, 4)
    """
    h0, c0 = _states(initial_state)
    return _run_one(
        z,
        mask,
        Direction(None, recurrent_kernel, bias, h0, c0, None, recurrent_dropout),
        go_backwards=go_backwards,
        return_sequences=return_sequences,
        zero_output_for_mask=zero_output_for_mask,
        recompute=recompute,
        training=training,
    )


def _run_one(
    x: Any, mask: Any, direction: Direction, *, return_sequences: bool, **options: bool
) -> tuple[Any, Any, Any]:
    """Runs one direction, or raises RuntimeError with the reason why it cannot."""
    if direction.recurrent_kernel is None:
        raise TypeError("`recurrent_kernel`: expected an array, found None")
    if config.kernel == "keras":
        raise RuntimeError(
            f"{origin('kernel')}: lstm_fast.lstm and lstm_fast.recurrence are functions and have no Keras path; use a "
            "layer, or another setting"
        )
    if unusable := unavailable(x, _input_name([direction])):
        raise RuntimeError(_advised(unusable.reason))
    try:
        y, (h,), (c,) = run(x, mask, [direction], return_sequences=return_sequences, **options)
    except UnavailableError as error:
        raise RuntimeError(_advised(str(error))) from None
    return (y if return_sequences else y[:, 0]), h, c


def _advised(reason: str) -> str:
    return (
        f"lstm_fast: {reason}; there use lstm_fast.FastLSTM, which can also run as keras.layers.LSTM, or "
        "lstm_fast.to_keras(model)"
    )


def run(
    x: Any,
    mask: Any,
    directions: Sequence[Direction],
    *,
    go_backwards: bool = False,
    return_sequences: bool,
    zero_output_for_mask: bool,
    recompute: bool,
    training: bool,
) -> Outputs:
    """Runs one direction, or a forward and a backward one, in one kernel call; arguments as in `lstm`.

    If the directions have no kernel, x is projected already: `[B, T, N * 4H]`, the directions side by side.

    Returns:
        y `[B, T or 1, N * H]`, and lists of the last h and c of each direction. Two directions both write y in input
        order.
    """
    name = _input_name(directions)
    backend = backend_of(_framework_of(x, name))
    x = _array(backend, name, x, of=name)
    dtype = arrays.check_dtype(name, x, DTYPES)
    batch, time, features = arrays.check_shape(name, x, batch=None, time=None, features=None)
    checked = []
    for direction in directions:
        values = {}
        for field, value in zip(Direction._fields, direction, strict=True):
            if value is not None:
                label = _FIELDS[field][0]
                values[field] = _array(backend, label, value, of=name, like=x)
                arrays.check_dtype(label, values[field], (dtype,))
        units, _ = arrays.check_shape("recurrent_kernel", values["recurrent_kernel"], units=None, gates=None)
        if units == 0:
            raise ValueError("`recurrent_kernel`: expected at least 1 unit, found shape (0, ...)")
        sizes = {"gates": 4, "batch": batch, "features": features, "units": units}
        sizes["4 * units"] = None if units is None else 4 * units
        for field, value in values.items():
            label, axes = _FIELDS[field]
            arrays.check_shape(label, value, **{axis: sizes[axis] for axis in axes})
        if direction.kernel is None:
            if direction.input_dropout is not None:
                raise ValueError("`input_dropout`: expected None, because `z` is projected already, found an array")
            gates = "4 * units" if len(directions) == 1 else "2 * 4 * units"
            width = None if units is None else len(directions) * 4 * units
            arrays.check_shape(name, x, **{"batch": batch, "time": time, gates: width})
        checked.append(Direction(**{"kernel": None, **values}))
    if mask is not None:
        mask = _array(backend, "mask", mask, of=name)
        arrays.check_mask(mask, batch, time)
        mask = backend.boolean(mask)
    reserve_mode = (RESERVE_RECOMPUTE if recompute else RESERVE_GATES) if training else RESERVE_NONE
    options = Options(go_backwards, return_sequences, zero_output_for_mask, reserve_mode)
    return backend.lstm(Operands(x, mask, checked), options)


def unavailable(x: Any, name: str = "x") -> Unavailable | None:
    """Returns why the kernels cannot run on `x` now; None if they can."""
    return unavailable_in(_framework_of(x, name), x)


def unavailable_in(framework: str, x: Any = None) -> Unavailable | None:
    """Returns why the kernels cannot run in a framework now, on `x` or at all; None if they can."""
    try:
        return backend_of(framework).unavailable(x)
    except LibraryError as error:
        return Unavailable(str(error), announced=True)
    except (AttributeError, ImportError, NotImplementedError, TypeError) as error:  # the framework has changed
        return Unavailable(_does_not_fit(framework, error))


def load(framework: str) -> None:
    """Loads the compiled part for a framework; raises LibraryError if it cannot be used."""
    backend_of(framework).library()


def gpus(framework: str) -> tuple[str, ...]:
    """Returns the names of the GPUs that a framework sees; raises LibraryError if its backend cannot be imported."""
    return backend_of(framework).gpus() if framework in FRAMEWORKS else ()


def threads(framework: str) -> tuple[int, str]:
    """Returns how many CPU threads the user allows a framework, 0 if that was not set, and the name of the setting."""
    return backend_of(framework).threads() if framework in FRAMEWORKS else (0, "")


def gpu_ops(framework: str) -> str | None:
    """Loads the ops that a framework needs on GPUs, and returns their state; None if it needs none."""
    return backend_of(framework).gpu_ops() if framework in FRAMEWORKS else None


def slower_than_keras(framework: str, dtype: str, batch: int | None, units: int) -> str | None:
    """Returns why Keras's own layer is expected to be faster, for one direction without mask and dropout; else None."""
    return backend_of(framework).slower_than_keras(dtype, batch, units)


def with_batch(framework: str, x: Any, size: int, message: str) -> Any:
    """Returns x with a batch size, which the traced graph checks when it runs. Without a backend it returns x."""
    try:
        return backend_of(framework).with_batch(x, size, message)
    except LibraryError:  # the layer then runs as Keras's, without this check
        return x


def traced_length(framework: str, x: Any) -> int | None:
    """Returns how many timesteps the traced program computes for every input; None if that depends on the input."""
    try:
        return backend_of(framework).traced_length(x)
    except LibraryError:  # the layer then runs as Keras's, without this check
        return None


def _states(initial_state: Sequence[Any] | None) -> tuple[Any, Any]:
    if initial_state is None:
        return None, None
    if not isinstance(initial_state, (list, tuple)) or len(initial_state) != 2:
        found = len(initial_state) if isinstance(initial_state, (list, tuple)) else type(initial_state).__name__
        raise ValueError(f"`initial_state`: expected 2 arrays (h and c), found {found}")
    return initial_state[0], initial_state[1]


def _input_name(directions: Sequence[Direction]) -> str:
    """Returns the caller's name for x."""
    return "z" if directions[0].kernel is None else "x"


def _array(backend: Backend, name: str, value: Any, of: str, like: Any = None) -> Any:
    try:
        return backend.array(value, like)
    except (TypeError, ValueError) as error:
        found = type(value).__name__
        raise TypeError(f"`{name}`: {found} cannot be converted to the array type of `{of}`: {error}") from error


def _framework_of(x: Any, name: str) -> str:
    """Returns the framework of an array; raises TypeError if it belongs to none of FRAMEWORKS."""
    for framework, known in _FRAMEWORKS.items():
        module = sys.modules.get(framework)  # who passes an array has imported its framework
        if module is not None and known.is_array(module, x):
            return framework
    raise TypeError(
        f"`{name}`: expected a tf.Tensor, a jax.Array, a torch.Tensor or a numpy.ndarray, "
        f"found {type(x).__module__}.{type(x).__name__}"
    )


def backend_of(framework: str) -> Backend:
    """Returns the backend of one of FRAMEWORKS, and imports it if need be; raises LibraryError if that fails."""
    return _IMPORTS[framework]()


def is_used(framework: str) -> bool:
    """Whether the backend of a framework has been used."""
    return framework in _used


_used: set[str] = set()


def _import(framework: str) -> Backend:
    _used.add(framework)
    try:
        return _FRAMEWORKS[framework].backend()
    except Exception as error:  # of any kind: the framework may lack a name, or have changed it
        raise LibraryError(_does_not_fit(framework, error)) from error


# Separate functions, so that mypy compares each module with `Backend`.


def _numpy() -> Backend:
    from lstm_fast.backends import numpy

    return numpy


def _torch() -> Backend:
    from lstm_fast.backends import torch

    return torch


def _jax() -> Backend:
    from lstm_fast.backends import jax

    return jax


def _tensorflow() -> Backend:
    from lstm_fast.backends import tensorflow

    return tensorflow


class _Framework(NamedTuple):
    """How to recognise an array of a framework, given its module, and how to import its backend."""

    is_array: Callable[[Any, Any], bool]
    backend: Callable[[], Backend]


# Tracers are instances of jax.Array. TensorFlow comes last: torch.compile follows `is_tensor` into Python's own modules
# and warns about them.
_FRAMEWORKS = {
    "numpy": _Framework(lambda numpy, x: isinstance(x, numpy.ndarray), _numpy),
    "torch": _Framework(lambda torch, x: isinstance(x, torch.Tensor), _torch),
    "jax": _Framework(lambda jax, x: isinstance(x, jax.Array), _jax),
    "tensorflow": _Framework(lambda tensorflow, x: tensorflow.is_tensor(x), _tensorflow),
}

# A failed import is not tried again: a part of the module has run, and must not run twice.
_IMPORTS = {framework: once()(functools.partial(_import, framework)) for framework in _FRAMEWORKS}


def _does_not_fit(framework: str, error: Exception) -> str:
    version = getattr(sys.modules.get(framework), "__version__", "of an unknown version")
    return f"lstm_fast does not fit this {framework} {version} ({type(error).__name__}: {error})"
