"""The Keras layers: `keras.layers.LSTM` and `keras.layers.Bidirectional` on the fused kernels."""

import contextlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any

import keras
from keras import ops
from keras.layers import LSTM, Bidirectional, InputSpec, LSTMCell

from lstm_fast import functional, masks, states
from lstm_fast.backends import DTYPES, FRAMEWORKS, Direction, LibraryError, Unavailable, UnavailableError, kernel_mode
from lstm_fast.status import record_fallback

# Where masked outputs repeat the one before, what Keras puts out before the first real timestep differs: with these
# backends the initial state, with the others zero, as the kernel does.
_STARTS_FROM_STATE = ("jax", "numpy")

# Whether the call under way begins with the zeros that keras.layers.RNN makes. Not an attribute of the layer: threads
# may call one layer at the same time, with states and without.
_from_zero: ContextVar[bool] = ContextVar("_from_zero", default=False)

# Whether the call under way has come to `inner_loop`, and whether it has to show Keras what was asked of cuDNN. Not
# attributes either.
_reached: ContextVar[bool] = ContextVar("_reached", default=False)
_as_keras: ContextVar[bool] = ContextVar("_as_keras", default=False)

# What the layers need of Keras's cell and Keras does not promise. Without it they run as Keras's.
_OF_CELL = (
    "get_dropout_mask",
    "get_recurrent_dropout_mask",
    "reset_dropout_mask",
    "reset_recurrent_dropout_mask",
)
_MISSING = [name for name in _OF_CELL if not hasattr(LSTMCell, name)]

# One implementation of each merge mode of keras.layers.Bidirectional, None apart.
_MERGE: dict[str, Callable[[Any, Any], Any]] = {
    "concat": lambda forward, backward: ops.concatenate([forward, backward], axis=-1),
    "sum": ops.add,
    "ave": lambda forward, backward: (forward + backward) / 2,
    "mul": ops.multiply,
}


@keras.saving.register_keras_serializable(package="lstm_fast", name="FastLSTM")
class FastLSTM(LSTM):  # type: ignore[misc]
    """`keras.layers.LSTM` on a fused kernel: same arguments, weights, results and random numbers.

    The whole sequence runs in one kernel call, and masked timesteps are not computed. The requirements are:

    1. `activation` == `tanh`
    2. `recurrent_activation` == `sigmoid`
    3. `unroll` is `False`
    4. The compute dtype is `float32`, `float64`, `float16` or `bfloat16`; the half types compute in float32.
    5. Keras runs on TensorFlow, JAX, PyTorch or, for inference, NumPy, on the CPU or, but for NumPy, on NVIDIA GPUs of
       compute capability 7.5 or later.
    6. The compiled library of this package can be loaded, and for GPUs its CUDA kernels were built.

    Biases, dropout, recurrent dropout, masks of any pattern, initial states, `stateful`, `go_backwards`, regularizers,
    constraints and mixed precision all run fused, eagerly, in graphs and compiled by XLA; `torch.compile` leaves the
    kernel out of its graph. Where a requirement is not met the layer runs as `keras.layers.LSTM`; the logger
    `lstm_fast` says why, once per reason, and so does `lstm_fast.status()`.
    The environment variable `LSTM_FAST_KERNEL=keras` forces that path, `LSTM_FAST_KERNEL=fused` makes it an error.
    On a GPU, TensorFlow also takes it where Keras can use cuDNN and that is expected to be the faster one.

    Where Keras's backends differ, the layer follows the one that it runs on: with a mask, `initial_state` and
    `zero_output_for_mask=False`, the outputs before the first real timestep are zero on TensorFlow and PyTorch, and
    the initial state on JAX.

    Weights files are those of `keras.layers.LSTM`, in both directions. To open a `.keras` file that has a `FastLSTM`
    in it, import `lstm_fast` first, or save `lstm_fast.to_keras(model)`.

    For example:

    >>> inputs = np.random.random((32, 10, 8))
    >>> lstm = lstm_fast.FastLSTM(4)
    >>> output = lstm(inputs)
    >>> tuple(output.shape)
    (32, 4)
    >>> lstm = lstm_fast.FastLSTM(4, return_sequences=True, return_state=True)
    >>> whole_seq_output, final_memory_state, final_carry_state = lstm(inputs)
    >>> tuple(whole_seq_output.shape)
    (32, 10, 4)
    >>> tuple(final_memory_state.shape)
    (32, 4)
    >>> tuple(final_carry_state.shape)
    (32, 4)

    Args:
        units: Positive integer, dimensionality of the output space.
        *args: Further arguments of `keras.layers.LSTM`, in its order.
        recompute: Boolean (default: `False`). Whether to recompute the gates in the backward pass instead of keeping
            them: far less memory, for about the time of a further forward pass. For long sequences.
        **kwargs: Keyword arguments of `keras.layers.LSTM`. `use_cudnn` and `implementation` say how the layer runs
            where it cannot run fused; as in Keras, `implementation=1` draws one input dropout mask per gate.

    Call arguments:
        sequences: A 3D tensor, with shape `(batch, timesteps, features)`. `timesteps` may be 0: the output is then
            empty or zero, and the states are the initial ones.
        mask: Tensor of shape `(batch, timesteps)` or `(batch, timesteps, 1)`, boolean or numeric, indicating whether a
            given timestep should be used (`True`) or skipped (`False`); `batch` may be 1, for one mask for all. On JAX
            and NumPy also `(batch, timesteps, k)`: a timestep is used if any of its values is true. Defaults to `None`.
        training: Python boolean indicating whether the layer should behave in training mode or in inference mode.
            Gradients are right in either, and faster in training mode.
        initial_state: List of two tensors of shape `(batch, units)`: the states h and c before the first timestep.
            `batch` may be 1, for the same states for all. Defaults to `None`, which means zeros, or the last states if
            `stateful`.
    """

    def __init__(self, units: int, *args: Any, recompute: bool = False, **kwargs: Any) -> None:
        super().__init__(units, *args, **kwargs)
        self.recompute = recompute
        # What was asked for holds where the layer runs as Keras's. It is hidden from keras.layers.Bidirectional, which
        # calls cuDNN itself in the place of two LSTMs that allow it.
        self.cudnn_of_keras: bool | str = self.use_cudnn
        self.use_cudnn = False
        self.supports_jit = not _compiles_every_length_anew()
        self.warned_of_mask = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the layer as Keras does, and notes who gave the mask: see `compute_mask`."""
        if not (self.go_backwards and self.return_sequences):
            return super().__call__(*args, **kwargs)
        token = masks.given.set("mask" in kwargs or len(args) > 2)
        try:
            return super().__call__(*args, **kwargs)
        finally:
            masks.given.reset(token)

    @property
    def use_cudnn(self) -> bool | str:
        """Whether Keras may use cuDNN: what was asked for while a call runs as Keras's, else what Keras is shown."""
        return self.cudnn_of_keras if _as_keras.get() else self._shown_cudnn

    @use_cudnn.setter
    def use_cudnn(self, value: bool | str) -> None:
        self._shown_cudnn = value

    def build(self, sequences_shape: Sequence[int | None], initial_state_shape: Any = None) -> None:
        """Makes the variables, and lets Keras refuse other ranks and feature sizes from then on."""
        super().build(sequences_shape, initial_state_shape)
        self.input_spec = _input_spec(sequences_shape)

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        """Returns what a symbolic call returns, after the checks of a call."""
        _check_symbolic_call(self, args, kwargs, [self])
        return super().compute_output_spec(*args, **kwargs)

    def compute_mask(self, sequences: Any, mask: Any) -> Any:
        """Returns the mask of the outputs, as Keras does; warns if they are in another order."""
        if self.go_backwards and self.return_sequences and not masks.given.get() and masks.unnested(mask) is not None:
            masks.warn_of_reversed(self)
        return super().compute_mask(sequences, mask)

    @property
    def variables(self) -> list[Any]:
        """All variables, on JAX with the states of a stateful layer; these are not among the weights."""
        variables: list[Any] = super().variables
        return [*variables, *(self.states or ())] if states.carried() else variables

    def reset_state(self) -> None:
        """Sets the states of a stateful layer to zero."""
        states.reset(self, super().reset_state)

    def call(self, sequences: Any, initial_state: Any = None, mask: Any = None, training: bool | None = False) -> Any:
        """Runs the layer; the arguments are described with the class."""
        sequences, initial_state, mask = _checked_call(self, sequences, initial_state, mask, [self])
        # A subclass may have states of its own making.
        from_zero = initial_state is None and not self.stateful and type(self) is FastLSTM
        token, reached = _from_zero.set(from_zero), _reached.set(False)
        try:
            if sequences.shape[1] == 0:
                result = self._call_without_timesteps(sequences, initial_state, training)
            else:
                result = super().call(sequences, initial_state=initial_state, mask=mask, training=training)
            # A subclass may have a loop of its own.
            if not _reached.get() and type(self).inner_loop is FastLSTM.inner_loop:
                missed = Unavailable(f"Keras {keras.__version__} does not call inner_loop, in which the kernel runs")
                record_fallback(_fallback(self, sequences, mask) or missed, self.name)
            return result
        finally:
            _from_zero.reset(token)
            _reached.reset(reached)
            _forget_dropout(self)

    def inner_loop(self, *args: Any, **kwargs: Any) -> Any:
        """Runs over all timesteps: what keras.layers.RNN calls between its dropout and state handling.

        The arguments are `sequences`, `initial_state`, `mask` and `training`, as in Keras. With others, of a Keras to
        come, it runs as Keras's.
        """
        _reached.set(True)
        try:
            given = _of_inner_loop(*args, **kwargs)
        except TypeError as error:
            fallback = Unavailable(f"Keras {keras.__version__} calls inner_loop otherwise: {error}")
        else:
            unusable = _fallback(self, given[0], given[2])
            try:
                if unusable is None:
                    return self._inner_loop_fused(*given)
                fallback = unusable
            except UnavailableError as error:
                fallback = Unavailable(str(error))
        record_fallback(fallback, self.name)
        token = _as_keras.set(True)
        try:
            return super().inner_loop(*args, **kwargs)
        finally:
            _as_keras.reset(token)

    def _inner_loop_fused(self, sequences: Any, initial_state: Any, mask: Any, training: bool | None) -> Any:
        sequences = ops.cast(sequences, self.cell.compute_dtype)
        direction = _direction(self, sequences, initial_state, training, from_zero=_from_zero.get())
        if direction.input_dropout is not None and len(direction.input_dropout.shape) == 2:
            sequences = sequences * ops.expand_dims(direction.input_dropout, axis=1)
            direction = direction._replace(input_dropout=None)
        mask = masks.prepared(mask, sequences)
        outputs, (h,), (c,) = functional.run(
            sequences,
            mask,
            [direction],
            go_backwards=self.go_backwards,
            return_sequences=self.return_sequences,
            zero_output_for_mask=self.zero_output_for_mask,
            recompute=self.recompute,
            training=bool(training),
        )
        if not self.zero_output_for_mask and direction.h0 is not None:
            outputs = _started(outputs, mask, [direction], self.return_sequences, self.go_backwards)
        return outputs[:, -1], outputs, [h, c]

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {**super().get_config(), "use_cudnn": self.cudnn_of_keras, "recompute": self.recompute}

    def _create_state_variables(self, batch_size: int) -> None:
        """Makes the states of a stateful layer: a hook of keras.layers.RNN."""
        if states.carried():
            # Past Keras, which would make weights of variables that are attributes.
            object.__setattr__(self, "states", states.make(self, batch_size))
        else:
            super()._create_state_variables(batch_size)

    def _call_without_timesteps(self, sequences: Any, initial_state: Any, training: bool | None) -> Any:
        """Runs over one masked timestep, which leaves the states alone, and drops its output."""
        batch, _, features = ops.shape(sequences)
        result = super().call(
            # With the empty sequences in it, such that they have a gradient.
            ops.concatenate([sequences, ops.zeros((batch, 1, features), dtype=sequences.dtype)], axis=1),
            initial_state=initial_state,
            mask=ops.zeros((batch, 1), dtype="bool"),
            training=training,
        )
        if not self.return_sequences:
            return result
        if not self.return_state:
            return result[:, :0]
        output, *states = result
        return output[:, :0], *states


@keras.saving.register_keras_serializable(package="lstm_fast", name="FastBidirectional")
class FastBidirectional(Bidirectional):  # type: ignore[misc]
    """`keras.layers.Bidirectional` with both directions in one call of the fused kernel.

    Same arguments, weights and results as `keras.layers.Bidirectional`. A `keras.layers.LSTM` inside becomes a
    `FastLSTM`. The requirements for the single call are:

    1. Both layers are `FastLSTM`, can run fused (see there), and `backward_layer` is the one with `go_backwards=True`.
    2. Both have the same `units` and this layer's compute dtype.
    3. Neither has an `activity_regularizer`. (This layer may have one.)

    Otherwise the two layers run one after the other, each as fast as it can: `FastBidirectional` is never worse than
    `keras.layers.Bidirectional`, whatever is inside. The latter over a `FastLSTM` works as well, in two kernel calls.

    For example:

    >>> inputs = np.random.random((32, 10, 8))
    >>> layer = lstm_fast.FastBidirectional(lstm_fast.FastLSTM(4))
    >>> tuple(layer(inputs).shape)
    (32, 8)

    Args:
        layer: The layer to run in both directions, as for `keras.layers.Bidirectional`.
        *args: Further arguments of `keras.layers.Bidirectional`, in its order.
        backward_layer: Optional layer for the backward direction.
        **kwargs: Keyword arguments of `keras.layers.Bidirectional`.

    Call arguments:
        Those of `FastLSTM`, with four initial states: h and c of the forward layer, then of the backward layer.
    """

    def __init__(self, layer: Any, *args: Any, **kwargs: Any) -> None:
        if kwargs.get("backward_layer") is not None:
            kwargs["backward_layer"] = _fast(kwargs["backward_layer"])
        super().__init__(_fast(layer), *args, **kwargs)
        for direction in self._directions:
            # A Keras that calls cuDNN by another method could not be stopped there.
            if isinstance(direction, FastLSTM) and hasattr(Bidirectional, "_call_fused_lstm"):
                direction.use_cudnn = direction.cudnn_of_keras  # in the open again: see _call_fused_lstm

    def build(self, sequences_shape: Sequence[int | None], initial_state_shape: Any = None) -> None:
        """Makes the variables, and lets Keras refuse other ranks and feature sizes from then on."""
        super().build(sequences_shape, initial_state_shape)
        if all(isinstance(layer, FastLSTM) for layer in self._directions):
            self.input_spec = _input_spec(sequences_shape)

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        """Returns what a symbolic call returns, after the checks of a call."""
        if all(isinstance(layer, FastLSTM) for layer in self._directions):
            _check_symbolic_call(self, args, kwargs, self._directions)
        return super().compute_output_spec(*args, **kwargs)

    def compute_mask(self, sequences: Any, mask: Any) -> Any:
        """Returns the masks of the outputs: as Keras, whose own method fails with `stateful` and `return_state`."""
        if not (self.stateful and self.return_state):
            return super().compute_mask(sequences, mask)
        mask = masks.unnested(mask) if self.return_sequences else None
        outputs = 2 if self.merge_mode is None else 1
        return (*[mask] * outputs, *[None] * len(self.states or ()))

    def call(self, sequences: Any, initial_state: Any = None, mask: Any = None, training: bool | None = None) -> Any:
        """Runs the layer; the arguments are described with the class."""
        if not all(isinstance(layer, FastLSTM) for layer in self._directions):
            return super().call(sequences, initial_state=initial_state, mask=mask, training=training)
        sequences, initial_state, mask = _checked_call(self, sequences, initial_state, mask, self._directions)
        if not self._runs_in_one_call(sequences, mask):
            return super().call(sequences, initial_state=initial_state, mask=mask, training=training)
        try:
            return self._call_once(sequences, initial_state, mask, training)
        except UnavailableError:  # each of the two layers finds that out and says so
            return super().call(sequences, initial_state=initial_state, mask=mask, training=training)
        finally:
            for layer in self._directions:
                _forget_dropout(layer)

    def _call_fused_lstm(self, sequences: Any, initial_state: Any) -> Any:
        """Runs both directions by cuDNN, which Keras tries first: for layers that would run as Keras's anyway."""
        layers = [layer for layer in self._directions if isinstance(layer, FastLSTM)]
        fallbacks = [fallback for layer in layers if (fallback := _fallback(layer, sequences, None))]
        if len(fallbacks) < len(layers):
            raise NotImplementedError
        outputs = super()._call_fused_lstm(sequences, initial_state)
        for layer, fallback in zip(layers, fallbacks, strict=True):
            record_fallback(fallback, layer.name)
        return outputs

    @property
    def _directions(self) -> tuple[Any, Any]:
        return self.forward_layer, self.backward_layer

    def _runs_in_one_call(self, sequences: Any, mask: Any) -> bool:
        forward, backward = self._directions
        return (
            all(
                type(layer) is FastLSTM
                and layer.compute_dtype == layer.cell.compute_dtype == self.compute_dtype
                and layer.activity_regularizer is None
                and _fallback(layer, sequences, mask) is None
                for layer in (forward, backward)
            )
            and backward.go_backwards
            and forward.units == backward.units
            and forward.zero_output_for_mask == backward.zero_output_for_mask
            and sequences.shape[1] != 0
        )

    def _call_once(self, sequences: Any, initial_state: Any, mask: Any, training: bool | None) -> Any:
        sequences = ops.cast(sequences, self.compute_dtype)
        directions = []
        for i, layer in enumerate(self._directions):
            if initial_state is not None:
                state = initial_state[2 * i : 2 * i + 2]
            elif layer.stateful:
                state = layer.states
            else:
                state = layer.get_initial_state(batch_size=ops.shape(sequences)[0])
            state = [ops.convert_to_tensor(value, dtype=self.compute_dtype) for value in state]
            from_zero = initial_state is None and not layer.stateful
            direction = _direction(layer, sequences, state, training, from_zero=from_zero)
            if direction.input_dropout is not None and len(direction.input_dropout.shape) == 2:
                # The directions share their input, but not its dropout: the kernel applies it.
                direction = direction._replace(input_dropout=_per_gate(direction.input_dropout))
            directions.append(direction)
        outputs, h, c = functional.run(
            sequences,
            mask,
            directions,
            return_sequences=self.return_sequences,
            zero_output_for_mask=self.forward_layer.zero_output_for_mask,
            recompute=any(layer.recompute for layer in self._directions),
            training=bool(training),
        )
        if not self.forward_layer.zero_output_for_mask and (initial_state is not None or self.stateful):
            outputs = _started(outputs, mask, directions, self.return_sequences)
        states = (h[0], c[0], h[1], c[1])
        if self.stateful:
            for layer, values in zip(self._directions, (states[:2], states[2:]), strict=True):
                for variable, value in zip(layer.states, values, strict=True):
                    variable.assign(value)
        output = self._merged(outputs if self.return_sequences else outputs[:, -1])
        if not self.return_state:
            return output
        return (*output, *states) if self.merge_mode is None else (output, *states)

    def _merged(self, output: Any) -> Any:
        """Merges the directions, which the kernel has put side by side."""
        if self.merge_mode == "concat":
            return output
        forward, backward = output[..., : self.forward_layer.units], output[..., self.forward_layer.units :]
        return (forward, backward) if self.merge_mode is None else _MERGE[self.merge_mode](forward, backward)


# Keras names the groups of a weights file after the class of a layer. With the names of the classes that they replace,
# weights files fit both ways; the names in a `.keras` file are the registered ones above.
FastLSTM.__name__ = "LSTM"
FastBidirectional.__name__ = "Bidirectional"


def _of_inner_loop(sequences: Any, initial_state: Any, mask: Any, training: bool | None = False) -> Sequence[Any]:
    """Returns the arguments of `inner_loop` in order; raises TypeError if they are others."""
    return sequences, initial_state, mask, training


def _fallback(layer: FastLSTM, sequences: Any, mask: Any) -> Unavailable | None:
    """Returns why a layer cannot run fused here and now, None if it can."""
    if kernel_mode() == "keras":
        return Unavailable("LSTM_FAST_KERNEL=keras", announced=True)
    cell = layer.cell
    for name, needed in (("activation", keras.activations.tanh), ("recurrent_activation", keras.activations.sigmoid)):
        if (activation := getattr(cell, name)) is not needed:
            found = getattr(activation, "__name__", type(activation).__name__)
            return Unavailable(f"{name}={found}: the kernel computes {needed.__name__}")
    reason = None
    if layer.unroll:
        reason = "unroll=True"
    elif cell.compute_dtype not in DTYPES:
        reason = f"compute dtype {cell.compute_dtype}: the kernel has {', '.join(DTYPES)}"
    elif keras.backend.backend() not in FRAMEWORKS:
        reason = f"no kernel for the Keras backend {keras.backend.backend()}"
    elif _MISSING:
        reason = f"Keras {keras.__version__} has no LSTMCell.{_MISSING[0]}"
    if reason:
        return Unavailable(reason)
    return functional.unavailable(sequences) or _cudnn_instead(layer, sequences, mask)


def _cudnn_instead(layer: FastLSTM, sequences: Any, mask: Any) -> Unavailable | None:
    """Returns why Keras's layer is expected to be the faster one, which on TensorFlow has cuDNN; None if it is not."""
    if keras.backend.backend() != "tensorflow" or kernel_mode() == "fused" or not layer.cudnn_of_keras:
        return None
    if mask is not None or layer.cell.recurrent_dropout or not layer.cell.use_bias:  # which cuDNN has not
        return None
    backend: Any = functional.backend_of("tensorflow")
    reason = backend.slower_than_cudnn(layer.cell.compute_dtype, sequences.shape[0], layer.units)
    return Unavailable(reason) if reason else None


def _direction(
    layer: FastLSTM, sequences: Any, initial_state: Sequence[Any], training: bool | None, *, from_zero: bool
) -> Direction:
    """Returns what the kernel needs of a layer. `input_dropout` is [B, D] where one mask serves all gates.

    States of zero are left out: the kernel then has nothing to multiply in the first timestep, and no gradient of them.
    """
    cell = layer.cell
    # Drawn in this order and whether training or not, as keras.layers.RNN does, for the same random numbers. The cell
    # keeps what it has drawn until _forget_dropout.
    input_dropout = cell.get_dropout_mask(sequences[:, 0, :]) if cell.dropout else None
    recurrent_dropout = cell.get_recurrent_dropout_mask(initial_state[0])
    if recurrent_dropout is not None and not isinstance(recurrent_dropout, list):  # Keras before 3.6
        recurrent_dropout = _per_gate(recurrent_dropout)
    h0, c0 = (None, None) if from_zero else initial_state
    if layer.stateful and keras.backend.backend() == "torch":
        # PyTorch's variables are assigned to in place, and the backward pass needs these states.
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


def _per_gate(multipliers: Any) -> Any:
    """Returns dropout multipliers [B, n] that serve all gates as [4, B, n]."""
    return ops.repeat(ops.expand_dims(multipliers, axis=0), 4, axis=0)


def _started(
    outputs: Any, mask: Any, directions: Sequence[Direction], return_sequences: bool, go_backwards: bool = False
) -> Any:
    """Returns the outputs with what the Keras backend has for them before the first real timestep."""
    if mask is None or keras.backend.backend() not in _STARTS_FROM_STATE:
        return outputs
    batch, time = ops.shape(mask)[:2]
    mask = ops.cast(ops.reshape(mask, (batch, time)), "bool")
    mask = ops.not_equal(ops.cast(mask, "uint8"), 0)  # of a boolean, XLA reads now the whole byte, now its lowest bit
    halves = []
    for n, (direction, output) in enumerate(zip(directions, ops.split(outputs, len(directions), axis=-1), strict=True)):
        # One direction puts its outputs out in the order in which it runs, two do so in the order of the input.
        real = ops.flip(mask, axis=1) if go_backwards or n == 1 else mask
        started = ops.any(real, axis=1, keepdims=True)
        if return_sequences:
            started = started & (ops.arange(time) >= ops.expand_dims(ops.argmax(ops.cast(real, "int8"), axis=1), 1))
            started = ops.flip(started, axis=1) if n == 1 else started
        # Spread out in no less than float32: the gradient of this is a sum over time.
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
        return bool(functional.backend_of("tensorflow").gpus())
    except LibraryError:  # which is a reason when the layer is called
        return False


def _forget_dropout(layer: FastLSTM) -> None:
    """Drops the masks of a call, so that none of them outlives an exception."""
    if not _MISSING:
        layer.cell.reset_dropout_mask()
        layer.cell.reset_recurrent_dropout_mask()


def copy_settings(source: LSTM, target: LSTM) -> None:
    """Copies those arguments of an LSTM that Keras leaves out of its config."""
    use_cudnn = source.cudnn_of_keras if isinstance(source, FastLSTM) else source.use_cudnn
    setattr(target, "cudnn_of_keras" if isinstance(target, FastLSTM) else "use_cudnn", use_cudnn)
    for name in ("implementation", "dropout_mask_count"):
        if hasattr(source.cell, name):
            setattr(target.cell, name, getattr(source.cell, name))


def _fast(layer: Any) -> Any:
    """Returns a FastLSTM in the place of a keras.layers.LSTM, with its weights, and any other layer as it is."""
    if type(layer) is not LSTM:
        return layer
    fast = FastLSTM.from_config(layer.get_config())
    copy_settings(layer, fast)
    if layer.built:
        fast.build_from_config(layer.get_build_config())
        fast.set_weights(layer.get_weights())
    return fast


def _input_spec(sequences_shape: Sequence[int | None]) -> InputSpec:
    return InputSpec(ndim=3, axes={-1: sequences_shape[-1]})


def _check_symbolic_call(layer: Any, args: Sequence[Any], kwargs: Any, directions: Sequence[FastLSTM]) -> None:
    """Checks the arguments of a symbolic call as far as they are known.

    What fails here fails before Keras's trainer on JAX takes the values of a model's variables, which an error in the
    first step of `fit`, `evaluate` or `predict` would leave without.
    """
    arguments = inspect.signature(layer.call).bind(*args, **kwargs).arguments
    if "sequences" in arguments:  # a subclass may have other ones
        mask = masks.unnested(arguments.get("mask"))
        _check_call(layer, arguments["sequences"], arguments.get("initial_state"), mask, directions)


def _checked_call(
    layer: Any, sequences: Any, initial_state: Any, mask: Any, directions: Sequence[FastLSTM]
) -> tuple[Any, Any, Any]:
    """Returns the arguments of a call, checked, and spread over the batch where Keras would do so on the way."""
    with _named(layer):
        mask = masks.prepared(mask, sequences)
        initial_state = states.one_for_all(initial_state, sequences)
    _check_call(layer, sequences, initial_state, mask, directions)
    return states.with_checked_batch(directions, sequences), initial_state, mask


def _check_call(layer: Any, sequences: Any, initial_state: Any, mask: Any, directions: Sequence[FastLSTM]) -> None:
    """Checks the call arguments that Keras does not."""
    with _named(layer):
        _refuse_keras_2(sequences)
        batch, time, _ = functional.check_shape("sequences", sequences, batch=None, time=None, features=None)
        states.check_batch(directions, batch)
        if mask is not None:
            masks.check(mask, batch, time)
        if initial_state is not None:
            states.check_initial(
                initial_state, batch, [direction.units for direction in directions for _ in ("h", "c")]
            )


@contextlib.contextmanager
def _named(layer: Any) -> Iterator[None]:
    """Puts the name of the layer into the message of a TypeError or ValueError."""
    try:
        yield
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{type(layer).__qualname__} '{layer.name}': {error}") from None


def _refuse_keras_2(sequences: Any) -> None:
    """Raises TypeError for the symbolic tensors of tf_keras, which answer to many functions of TensorFlow.

    A layer would so run on them, but the model would not know its weights, and not train them.
    """
    if of_keras_2(sequences):
        raise TypeError(
            f"`sequences`: expected a tensor of Keras 3, found {of_keras_2(sequences)}, which is of Keras 2. Make the "
            "model with the package `keras`, not with `tf_keras`, nor with `tf.keras` while TF_USE_LEGACY_KERAS=1 is "
            "set. Weights go over by `new.set_weights(old.get_weights())`"
        )


def of_keras_2(value: Any) -> str:
    """Returns the name of the class of Keras 2 that a value is an instance of; empty if it is of none."""
    modules = ("tf_keras", "keras.src.engine", "keras.engine", "tensorflow.python.keras")
    for cls in type(value).__mro__:
        if any(cls.__module__ == module or cls.__module__.startswith(f"{module}.") for module in modules):
            return f"{cls.__module__}.{cls.__qualname__}"
    return ""
