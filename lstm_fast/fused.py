"""The call of a recurrent layer: on the kernels, or as Keras's, with the reason.

`accelerate` and `to_keras` may change the class of a layer while another thread is in a call. The call then goes on
with the methods of either class, and the result is the same. `super()` would fail there, so no method here uses it.
"""

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any

import keras
from keras import ops
from keras.layers import RNN

from lstm_fast import cells, checks, fallbacks, functional, masks, states, writing
from lstm_fast.backends import (
    DTYPES,
    FRAMEWORKS,
    Direction,
    LibraryError,
    Unavailable,
    UnavailableError,
)
from lstm_fast.settings import config, origin

# Without `zero_output_for_mask`, Keras's backends differ in the outputs before the first real timestep. With these they
# are the initial state. With the others they are zero, as the kernel has them.
_STARTS_FROM_STATE = ("jax", "numpy")

# Whether the current call begins with the zeros that keras.layers.RNN makes. Not an attribute of the layer: threads may
# call one layer at the same time, with states and without.
_from_zero: ContextVar[bool] = ContextVar("_from_zero", default=False)

# Whether the current call has reached `inner_loop`, and whether Keras may see the user's `use_cudnn`. Not attributes
# either, for the same reason.
_reached: ContextVar[bool] = ContextVar("_reached", default=False)
cudnn_shown: ContextVar[bool] = ContextVar("cudnn_shown", default=False)

# How many times any layer has changed its class, counted before each change: see `changed_since`.
class_changes = 0


class Fused:
    """The common base of `FastLSTM` and `FastRNN`. Its methods come before those of Keras's class, `of_keras`."""

    of_keras: type = RNN
    recompute = False  # for a layer that Keras made
    warned_of_mask = False

    def __repr__(self) -> str:
        return shown(self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the layer as Keras does, and notes whether the caller passed a mask: see `compute_mask`."""
        layer: Any = self
        if not (layer.go_backwards and layer.return_sequences):
            return RNN.__call__(layer, *args, **kwargs)
        token = masks.passed.set("mask" in kwargs or len(args) > 2)
        try:
            return RNN.__call__(layer, *args, **kwargs)
        finally:
            masks.passed.reset(token)

    @property
    def supports_jit(self) -> bool:
        """Whether Keras may compile a model with this layer by XLA under `jit_compile="auto"`."""
        return not _compiles_every_length_anew()

    @supports_jit.setter
    def supports_jit(self, value: bool) -> None:
        vars(self)["supports_jit"] = value  # for the time when the layer is Keras's

    @property
    def variables(self) -> list[Any]:
        """All variables. On JAX these include the states of a stateful layer, which are not weights."""
        layer: Any = self
        variables: list[Any] = RNN.variables.fget(layer)
        return [*variables, *states.of(layer)] if states.carried() else variables

    def reset_state(self) -> None:
        """Sets the states of a stateful layer to zero."""
        states.reset(self)

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        """Returns what a symbolic call returns, after the checks of a call."""
        checks.check_symbolic_call(self, args, kwargs, [self])
        return RNN.compute_output_spec(self, *args, **kwargs)

    def compute_mask(self, sequences: Any, mask: Any) -> Any:
        """Returns the mask of the outputs, as Keras does. Warns if the outputs are in another order than the mask."""
        layer: Any = self
        passed = masks.passed.get()
        if layer.go_backwards and layer.return_sequences and not passed and masks.unnested(mask) is not None:
            masks.warn_of_reversed(layer)
        return RNN.compute_mask(layer, sequences, mask)

    def call(self, sequences: Any, initial_state: Any = None, mask: Any = None, training: bool | None = False) -> Any:
        """Runs the layer; the arguments are described with the class."""
        layer: Any = self
        changes = class_changes
        cls: Any = type(layer)
        keras_call = cls.of_keras.call if isinstance(layer, Fused) else cls.call
        sequences, initial_state, mask = checks.checked_call(layer, sequences, initial_state, mask, [layer])
        # A subclass may make other initial states.
        from_zero = initial_state is None and not layer.stateful and is_ours(layer) and cells.starts_from_zero(layer)
        token, reached = _from_zero.set(from_zero), _reached.set(False)
        try:
            empty = sequences.shape[1] == 0 and not cells.other_cell(layer)
            run = _call_without_timesteps if empty else _call
            result = run(layer, keras_call, sequences, initial_state, mask, training)
            # A subclass may have its own loop.
            if not _reached.get() and cls.inner_loop is Fused.inner_loop and not changed_since(changes, layer, cls):
                missed = Unavailable(f"Keras {keras.__version__} does not call inner_loop, in which the kernel runs")
                fallbacks.record(fallback(layer, sequences, mask) or missed, layer.name)
            return result
        finally:
            _from_zero.reset(token)
            _reached.reset(reached)
            cells.forget_dropout(layer)

    def inner_loop(self, *args: Any, **kwargs: Any) -> Any:
        """Runs over all timesteps: keras.layers.RNN calls this between its dropout and state handling.

        The arguments are `sequences`, `initial_state`, `mask` and `training`, as in Keras. If a later Keras passes
        other ones, the layer runs as Keras's.
        """
        layer: Any = self
        cls: Any = type(layer)
        keras_inner_loop = cls.of_keras.inner_loop if isinstance(layer, Fused) else cls.inner_loop
        _reached.set(True)
        try:
            arguments = _of_inner_loop(*args, **kwargs)
        except TypeError as error:
            reason = Unavailable(f"Keras {keras.__version__} calls inner_loop with other arguments: {error}")
        else:
            unusable = fallback(layer, arguments[0], arguments[2])
            try:
                if unusable is None:
                    return _inner_loop(layer, *arguments)
                reason = unusable
            except UnavailableError as error:
                reason = Unavailable(str(error))
        fallbacks.record(reason, layer.name)
        token = cudnn_shown.set(True)
        try:
            return keras_inner_loop(layer, *args, **kwargs)
        finally:
            cudnn_shown.reset(token)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        layer: Any = self
        return {**type(layer).of_keras.get_config(layer), "recompute": layer.recompute}

    def _create_state_variables(self, batch_size: int) -> None:
        """Makes the states of a stateful layer: a hook of keras.layers.RNN."""
        if states.carried():
            states.make(self, batch_size)
        else:
            RNN._create_state_variables(self, batch_size)


def shown(layer: Any) -> str:
    """Returns what `repr` shows of a layer: as Keras does, but with its real class."""
    cls = type(layer)
    name = cls.__qualname__ if "of_keras" in vars(cls) else cls.__name__
    return f"<{name} name={layer.name}, built={layer.built}>"


def changed_since(changes: int, layer: Any, cls: type) -> bool:
    """Whether a layer may have had another class than `cls` in between. A call may then have missed `inner_loop`.

    Args:
        changes: `class_changes` at the start.
        layer: The layer.
        cls: Its class, read after `changes`.
    """
    # A change may be counted before `changes` is read, and made after it. Then the class is another one.
    return type(layer) is not cls or changes != class_changes


def recomputes(layer: Any) -> bool:
    """Whether a layer has `recompute`. A layer that has become Keras's during the call may have no such attribute."""
    return bool(getattr(layer, "recompute", False))


def is_ours(layer: Any) -> bool:
    """Whether a layer is of one of this package's own classes, not of a subclass that a user made."""
    return isinstance(layer, Fused) and "of_keras" in vars(type(layer))


def fallback(layer: Any, sequences: Any, mask: Any) -> Unavailable | None:
    """Returns why a layer cannot run fused now; None if it can. Without `sequences` it checks what it can."""
    traced = None if sequences is None else writing.check_length(layer, sequences)
    if config.kernel == "keras":
        return Unavailable(origin("kernel"), announced=True)
    reason = cells.unfit(layer)
    if layer.unroll:
        reason = reason or "unroll=True"
    elif layer.cell.compute_dtype not in DTYPES:
        reason = reason or f"compute dtype {layer.cell.compute_dtype}: the kernel has {', '.join(DTYPES)}"
    elif keras.backend.backend() not in FRAMEWORKS:
        reason = reason or f"no kernel for the Keras backend {keras.backend.backend()}"
    if reason:
        return Unavailable(reason)
    if sequences is None:
        return functional.unavailable_in(keras.backend.backend())
    return (
        traced
        or functional.unavailable(sequences)
        or writing.written(layer, sequences, mask)
        or _cudnn_instead(layer, sequences, mask)
    )


def _of_inner_loop(sequences: Any, initial_state: Any, mask: Any, training: bool | None = False) -> Sequence[Any]:
    """Returns the arguments of `inner_loop` in order; raises TypeError if they are others."""
    return sequences, initial_state, mask, training


def _call(
    layer: Any, keras_call: Callable[..., Any], sequences: Any, initial_state: Any, mask: Any, training: bool | None
) -> Any:
    return keras_call(layer, sequences, initial_state=initial_state, mask=mask, training=training)


def _call_without_timesteps(
    layer: Any, keras_call: Callable[..., Any], sequences: Any, initial_state: Any, mask: Any, training: bool | None
) -> Any:
    """Runs over one masked timestep, which leaves the states alone, and drops its output."""
    batch, _, features = ops.shape(sequences)
    # The empty sequences are a part of it, so that they have a gradient.
    sequences = ops.concatenate([sequences, ops.zeros((batch, 1, features), dtype=sequences.dtype)], axis=1)
    mask = ops.zeros((batch, 1), dtype="bool")
    result = _call(layer, keras_call, sequences, initial_state, mask, training)
    if not layer.return_sequences:
        return result
    if not layer.return_state:
        return result[:, :0]
    output, *last = result
    return output[:, :0], *last


def _inner_loop(layer: Any, sequences: Any, initial_state: Any, mask: Any, training: bool | None) -> Any:
    """Runs the kernel: once, or for each cell of a stack. Where a mask is false, all cells of a stack stand still."""
    from_zero, go_backwards = _from_zero.get(), layer.go_backwards
    all_cells = cells.of(layer)
    stacked = layer.cell is not all_cells[0]
    last = []
    sequences = ops.cast(sequences, layer.cell.compute_dtype)
    mask = masks.prepared(mask, sequences)
    for n, cell in enumerate(all_cells):
        state = initial_state[n] if stacked else initial_state
        direction = direction_of(layer, cell, sequences, state, training, from_zero=from_zero)
        if direction.input_dropout is not None and len(direction.input_dropout.shape) == 2:
            sequences = sequences * ops.expand_dims(direction.input_dropout, axis=1)
            direction = direction._replace(input_dropout=None)
        return_sequences = layer.return_sequences or n + 1 < len(all_cells)
        outputs, (h,), (c,) = functional.run(
            sequences,
            mask,
            [direction],
            go_backwards=go_backwards,
            return_sequences=return_sequences,
            zero_output_for_mask=layer.zero_output_for_mask,
            recompute=recomputes(layer),
            training=bool(training),
        )
        last.append([h, c])
        if n + 1 < len(all_cells):
            sequences = outputs
            if go_backwards and mask is not None:  # the outputs come in the order in which the layer runs
                mask = ops.flip(mask, axis=1)
            go_backwards = False
    if not layer.zero_output_for_mask and direction.h0 is not None:
        outputs = started(outputs, mask, [direction], layer.return_sequences, go_backwards)
    return outputs[:, -1], outputs, last if len(last) > 1 else last[0]


def _cudnn_instead(layer: Any, sequences: Any, mask: Any) -> Unavailable | None:
    """Returns why Keras's layer, with cuDNN, is expected to be faster; None if it is not."""
    if config.kernel == "fused" or not use_cudnn_of(layer):
        return None
    if mask is not None or layer.cell.recurrent_dropout or not layer.cell.use_bias:  # cuDNN cannot, or it is not known
        return None
    size = sequences.shape[0]
    reason = functional.slower_than_keras(keras.backend.backend(), layer.cell.compute_dtype, size, layer.units)
    return Unavailable(reason) if reason else None


def use_cudnn_of(layer: Any) -> bool | str:
    """Returns the argument `use_cudnn` that the user gave keras.layers.LSTM for a layer."""
    use_cudnn: bool | str = vars(layer).get("use_cudnn", False)
    return use_cudnn


def direction_of(
    layer: Any,
    cell: Any,
    sequences: Any,
    initial_state: Sequence[Any],
    training: bool | None,
    *,
    from_zero: bool,
) -> Direction:
    """Returns the kernel's operands for one cell of a layer.

    `input_dropout` is [B, D] if one mask serves all gates.

    Zero states are left out. The kernel then saves their product in the first timestep, and their gradient.
    """
    # keras.layers.RNN draws in this order, in training or not: the same order gives the same random numbers. The cell
    # keeps its masks until the call is over.
    input_dropout = cell.get_dropout_mask(sequences[:, 0, :]) if cell.dropout else None
    recurrent_dropout = cell.get_recurrent_dropout_mask(initial_state[0])
    if recurrent_dropout is not None and not isinstance(recurrent_dropout, list):  # set after the cell was made
        recurrent_dropout = per_gate(recurrent_dropout)
    h0, c0 = (None, None) if from_zero else initial_state
    if layer.stateful and keras.backend.backend() == "torch":
        # On PyTorch, variables are assigned in place, and the backward pass needs the old states.
        h0, c0 = ops.copy(h0), ops.copy(c0)
    return Direction(
        ops.cast(cell.kernel, cell.compute_dtype),
        ops.cast(cell.recurrent_kernel, cell.compute_dtype),
        None if cell.bias is None else ops.cast(cell.bias, cell.compute_dtype),
        h0,
        c0,
        _multipliers(input_dropout, cell.dropout, training),
        _multipliers(recurrent_dropout, cell.recurrent_dropout, training),
    )


def _multipliers(drawn: Any, rate: float, training: bool | None) -> Any:
    """Returns dropout masks as the kernel takes them, None where LSTMCell.call would not apply them."""
    if not training or not 0.0 < rate < 1.0:
        return None
    return ops.stack(drawn) if isinstance(drawn, list) else drawn


def per_gate(multipliers: Any) -> Any:
    """Returns dropout multipliers [B, n] that serve all gates as [4, B, n]."""
    return ops.repeat(ops.expand_dims(multipliers, axis=0), 4, axis=0)


def started(
    outputs: Any, mask: Any, directions: Sequence[Direction], return_sequences: bool, go_backwards: bool = False
) -> Any:
    """Returns the outputs, with the Keras backend's own values before the first real timestep."""
    if mask is None or keras.backend.backend() not in _STARTS_FROM_STATE:
        return outputs
    batch, time = ops.shape(mask)[:2]
    mask = ops.cast(ops.reshape(mask, (batch, time)), "bool")
    mask = ops.not_equal(ops.cast(mask, "uint8"), 0)  # XLA reads the whole byte of a boolean, or its lowest bit only
    halves = []
    for n, (direction, output) in enumerate(zip(directions, ops.split(outputs, len(directions), axis=-1), strict=True)):
        # One direction returns its outputs in the order in which it runs, two in the order of the input.
        real = ops.flip(mask, axis=1) if go_backwards or n == 1 else mask
        started = ops.any(real, axis=1, keepdims=True)
        if return_sequences:
            started = started & (ops.arange(time) >= ops.expand_dims(ops.argmax(ops.cast(real, "int8"), axis=1), 1))
            started = ops.flip(started, axis=1) if n == 1 else started
        # Broadcast in float32 or more, because the gradient of this is a sum over time.
        dtype = keras.backend.standardize_dtype(output.dtype)
        state = ops.cast(ops.expand_dims(direction.h0, 1), dtype if dtype == "float64" else "float32")
        state = ops.cast(ops.broadcast_to(state, ops.shape(output)), dtype)
        halves.append(ops.where(ops.expand_dims(started, -1), output, state))
    return ops.concatenate(halves, axis=-1)


def _compiles_every_length_anew() -> bool:
    """Whether `jit_compile="auto"` would compile a model for every padded length: on TensorFlow, with a GPU."""
    if keras.backend.backend() != "tensorflow":
        return False
    try:
        return bool(functional.gpus("tensorflow"))
    except LibraryError:  # the call of the layer will report it
        return False
