"""The Keras layers: `keras.layers.LSTM`, `RNN` and `Bidirectional` on the fused kernels.

A layer of this package needs no other attributes than Keras's. So a change of its class is enough to make it fast.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops
from keras.layers import LSTM, RNN, Bidirectional, LSTMCell

from lstm_fast import cells, checks, construction, fallbacks, functional, fused, masks, states
from lstm_fast.backends import Unavailable, UnavailableError

# The merge modes of keras.layers.Bidirectional, except None.
_MERGE: dict[str, Callable[[Any, Any], Any]] = {
    "concat": lambda forward, backward: ops.concatenate([forward, backward], axis=-1),
    "sum": ops.add,
    "ave": lambda forward, backward: (forward + backward) / 2,
    "mul": ops.multiply,
}


# Reasons for leaving a layer alone that nobody has to be warned of.
NO_LSTM, INSIDE = "no LSTM", "around a layer that is left:"


class _Withheld(int):
    """The value that Keras sees instead of the user's `use_cudnn`. It is false."""


_WITHHELD = _Withheld()


@keras.saving.register_keras_serializable(package="lstm_fast", name="FastLSTM")
class FastLSTM(fused.Fused, LSTM):  # type: ignore[misc]
    """`keras.layers.LSTM` on a fused kernel: same arguments, weights, results and random numbers.

    The whole sequence runs in one kernel call, and masked timesteps are not computed. The requirements are:

    1. `activation` == `tanh`
    2. `recurrent_activation` == `sigmoid`
    3. `unroll` is `False`
    4. The compute dtype is `float32`, `float64`, `float16` or `bfloat16`; the half types compute in float32.
    5. Keras runs on TensorFlow, JAX or PyTorch, on the CPU or on NVIDIA GPUs of compute capability 7.5 or later. Or it
       runs on NumPy, for inference on the CPU.
    6. The compiled library of this package can be loaded, and for GPUs its CUDA kernels were built.

    Biases, dropout, recurrent dropout, masks of any pattern, initial states, `stateful`, `go_backwards`, regularizers,
    constraints and mixed precision all run fused, eagerly, in graphs and compiled by XLA; `torch.compile` leaves the
    kernel out of its graph. If a requirement is not met, the layer runs as `keras.layers.LSTM`. The logger `lstm_fast`
    says why, once per reason, and so does `lstm_fast.status()`.
    The environment variable `LSTM_FAST_KERNEL=keras` forces this path, `LSTM_FAST_KERNEL=fused` makes it an error.
    With TensorFlow on a GPU, the layer also takes it where Keras can use cuDNN and cuDNN is expected to be faster.

    Where Keras's backends differ, the layer follows the one that it runs on: with a mask, `initial_state` and
    `zero_output_for_mask=False`, the outputs before the first real timestep are zero on TensorFlow and PyTorch, and
    the initial state on JAX.

    Weights files are those of `keras.layers.LSTM`, in both directions. To open a `.keras` file that has a `FastLSTM`
    in it, import `lstm_fast` first, or save `lstm_fast.to_keras(model)`.

    Examples:
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
            them. It needs far less memory, and about the time of one more forward pass. For long sequences.
        **kwargs: Keyword arguments of `keras.layers.LSTM`. `use_cudnn` and `implementation` say how the layer runs
            where it cannot run fused; as in Keras, `implementation=1` draws one input dropout mask per gate.

    Call arguments:
        - `sequences`: A 3D tensor, with shape `(batch, timesteps, features)`. `timesteps` may be 0: the output is then
          empty or zero, and the states are the initial ones.
        - `mask`: Tensor of shape `(batch, timesteps)` or `(batch, timesteps, 1)`, boolean or numeric, indicating
          whether a given timestep should be used (`True`) or skipped (`False`). `batch` may be 1: one mask for all
          rows. On JAX and NumPy also `(batch, timesteps, k)`: a timestep is used if any of its values is true. Defaults
          to `None`.
        - `training`: Python boolean indicating whether the layer should behave in training mode or in inference mode.
          Gradients are right in either, and faster in training mode.
        - `initial_state`: List of two tensors of shape `(batch, units)`: the states h and c before the first timestep.
          `batch` may be 1: the same states for all rows. Defaults to `None`: zeros, or the last states if `stateful`.
    """

    of_keras = LSTM

    def __init__(self, units: int, *args: Any, recompute: bool = False, **kwargs: Any) -> None:
        construction.check_dropout(args, kwargs)
        super().__init__(construction.checked_units(units), *args, **kwargs)
        self.recompute = construction.checked_recompute(recompute)

    @property
    def use_cudnn(self) -> Any:
        """The user's `use_cudnn` where Keras may see it, else false.

        A keras.layers.Bidirectional calls cuDNN itself if both of its LSTMs allow it, so it must not see it.
        FastBidirectional may see it, because it tries the kernels first.
        """
        # FastBidirectional overrides this method of Keras. If a Keras calls cuDNN by another one, it must not see it.
        tries_first = vars(self).get("in_fast_wrapper", False) and hasattr(Bidirectional, "_call_fused_lstm")
        return fused.use_cudnn_of(self) if fused.cudnn_shown.get() or tries_first else _WITHHELD

    @use_cudnn.setter
    def use_cudnn(self, value: Any) -> None:
        if value is not _WITHHELD:  # keras.layers.Bidirectional reads this attribute and sets it again
            self.__dict__["use_cudnn"] = value

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {**super().get_config(), "use_cudnn": fused.use_cudnn_of(self)}


@keras.saving.register_keras_serializable(package="lstm_fast", name="FastRNN")
class FastRNN(fused.Fused, RNN):  # type: ignore[misc]
    """`keras.layers.RNN` with one or several `keras.layers.LSTMCell` on the fused kernel.

    Same arguments, weights, results and random numbers as `keras.layers.RNN`. A stack of cells runs cell by cell, each
    over the whole sequence in one kernel call. The requirements are those of `FastLSTM`, for each cell; with any other
    cell the layer runs as `keras.layers.RNN`, and says so.

    Examples:
        >>> inputs = np.random.random((32, 10, 8))
        >>> layer = lstm_fast.FastRNN([keras.layers.LSTMCell(4), keras.layers.LSTMCell(5)])
        >>> tuple(layer(inputs).shape)
        (32, 5)

    Args:
        cell: A `keras.layers.LSTMCell`, or a list of several.
        *args: Further arguments of `keras.layers.RNN`, in its order.
        recompute: As for `FastLSTM`.
        **kwargs: Keyword arguments of `keras.layers.RNN`.

    Call arguments:
        Those of `FastLSTM`. For a list of cells, `initial_state` is a list of the two states of each cell.
    """

    of_keras = RNN

    def __init__(self, cell: Any, *args: Any, recompute: bool = False, **kwargs: Any) -> None:
        super().__init__(cell, *args, **kwargs)
        self.recompute = construction.checked_recompute(recompute)


@keras.saving.register_keras_serializable(package="lstm_fast", name="FastBidirectional")
class FastBidirectional(Bidirectional):  # type: ignore[misc]
    """`keras.layers.Bidirectional` with both directions in one call of the fused kernel.

    Same arguments, weights and results as `keras.layers.Bidirectional`. A `keras.layers.LSTM` inside becomes a
    `FastLSTM`, and a `keras.layers.RNN` of `LSTMCell` a `FastRNN`. The requirements for the single call are:

    1. Both layers are `FastLSTM`, or `FastRNN` with one cell, and can run fused (see there). Only `backward_layer` has
       `go_backwards=True`.
    2. Both have the same `units` and this layer's compute dtype.
    3. Neither has an `activity_regularizer`. (This layer may have one.)

    Otherwise the two layers run one after the other, each as fast as it can: `FastBidirectional` is never worse than
    `keras.layers.Bidirectional`, whatever is inside. `keras.layers.Bidirectional` with a `FastLSTM` works as well, in
    two kernel calls.

    Examples:
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

    of_keras = Bidirectional

    def __init__(self, layer: Any, *args: Any, **kwargs: Any) -> None:
        construction.check_wrapped(layer, args, kwargs)
        super().__init__(layer, *args, **kwargs)
        for direction in directions_of(self):
            make_fast(direction)
        _show_cudnn(self, shown=True)

    @property
    def recompute(self) -> bool:
        """Whether the layers inside recompute the gates in the backward pass. To set it sets it in both."""
        return any(map(fused.recomputes, directions_of(self)))

    @recompute.setter
    def recompute(self, value: bool) -> None:
        for direction in directions_of(self):
            if not isinstance(direction, fused.Fused):
                raise AttributeError(f"`recompute`: expected FastLSTM or FastRNN inside, found {direction!r}")
            direction.recompute = construction.checked_recompute(value)

    def __repr__(self) -> str:
        return fused.shown(self)

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        """Returns what a symbolic call returns, after the checks of a call."""
        if _all_fused(self):
            checks.check_symbolic_call(self, args, kwargs, directions_of(self))
        return Bidirectional.compute_output_spec(self, *args, **kwargs)

    def compute_mask(self, sequences: Any, mask: Any) -> Any:
        """Returns the masks of the outputs, as Keras does. Keras's method fails with `stateful` and `return_state`."""
        if not (self.stateful and self.return_state):
            return Bidirectional.compute_mask(self, sequences, mask)
        mask = masks.unnested(mask) if self.return_sequences else None
        outputs = 2 if self.merge_mode is None else 1
        return (*[mask] * outputs, *[None] * len(self.states or ()))

    def call(self, sequences: Any, initial_state: Any = None, mask: Any = None, training: bool | None = None) -> Any:
        """Runs the layer; the arguments are described with the class."""
        changes = fused.class_changes
        if others := [direction for direction in directions_of(self) if not isinstance(direction, fused.Fused)]:
            # `to_keras` in another thread changes the wrapper before the layers in it.
            if isinstance(self, FastBidirectional) and changes == fused.class_changes:
                _record_others(others)
            return Bidirectional.call(self, sequences, initial_state, mask, training)
        directions = directions_of(self)
        sequences, initial_state, mask = checks.checked_call(self, sequences, initial_state, mask, directions)
        if not _runs_in_one_call(self, sequences, mask):
            return Bidirectional.call(self, sequences, initial_state, mask, training)
        try:
            return _call_once(self, sequences, initial_state, mask, training)
        except UnavailableError:  # each layer then finds the same reason and records it; the dropout masks are kept
            return Bidirectional.call(self, sequences, initial_state, mask, training)
        finally:
            for layer in directions:
                cells.forget_dropout(layer)

    def _call_fused_lstm(self, sequences: Any, initial_state: Any) -> Any:
        """Runs both directions by cuDNN, if both would run as Keras's. Keras calls this before it calls the layers."""
        layers = [layer for layer in directions_of(self) if isinstance(layer, FastLSTM)]
        reasons = [reason for layer in layers if (reason := fused.fallback(layer, sequences, None))]
        if len(reasons) < len(layers):
            raise NotImplementedError
        outputs = Bidirectional._call_fused_lstm(self, sequences, initial_state)
        for layer, reason in zip(layers, reasons, strict=True):
            fallbacks.record(reason, layer.name)
        return outputs


# Keras names the groups of a weights file after the `__name__` of a layer's class. With the names of the classes that
# they replace, weights files fit both ways; the names in a `.keras` file are the registered ones above. Default names
# of layers come from `__name__`, too, and so does the class in `model.summary()`. Only `repr` shows the real class.
for _cls in (FastLSTM, FastRNN, FastBidirectional):
    _cls.__name__ = _cls.of_keras.__name__


def parts_of(model: Any) -> list[Any]:
    """Returns a layer and all layers inside it that Keras knows, in their order, each once."""
    parts: dict[int, Any] = {}
    to_come = [model]
    while to_come:
        part = to_come.pop()
        if id(part) not in parts:
            parts[id(part)] = part
            to_come += reversed(part._layers)
    return list(parts.values())


def vocabulary_of(model: Any, tensor: Any) -> tuple[int | None, bool]:
    """Returns the number of ids of the Embedding that reads an input, and whether it reads the input directly.

    Args:
        model: A model.
        tensor: One of its inputs, None if it is not known which.
    """
    embeddings = [part for part in parts_of(model) if isinstance(part, keras.layers.Embedding)]
    direct = [
        layer.input_dim
        for layer in embeddings
        if any(tensor is given for node in layer._inbound_nodes for given in node.input_tensors)
    ]
    # If none does, as in a nested model, it may be any of them: the smallest number is safe for all.
    return min(direct or [layer.input_dim for layer in embeddings], default=None), bool(direct)


def left_alone(layer: Any) -> str:
    """Returns why a recurrent layer of Keras does not become one of this package; empty if it can."""
    if (ours := _ours_for(layer)) is None:
        base = next((cls for cls in (LSTM, RNN, Bidirectional) if isinstance(layer, cls) and has_lstm(layer)), None)
        fast = f"Fast{base.__name__}" if base else ""
        return f"a subclass of {base.__name__}; if it computes the same, base it on {fast}" if base else NO_LSTM
    if ours is FastBidirectional:
        others = [direction for direction in directions_of(layer) if not isinstance(direction, fused.Fused)]
        return f"{INSIDE} {others[0].name}" if others else _patched(layer, "call")
    if not has_lstm(layer):
        return f"{NO_LSTM}: {cells.other_cell(layer)}"
    return cells.other_cell(layer) or _patched(layer, "call", "inner_loop", "get_initial_state")


def _ours_for(layer: Any) -> Any:
    """Returns the class of this package for the class of a layer, None if there is none."""
    return next((cls for cls in (FastLSTM, FastRNN, FastBidirectional) if type(layer) is cls.of_keras), None)


def has_lstm(layer: Any) -> bool:
    """Whether there is an LSTM in a recurrent layer, or a subclass of one."""
    return any(isinstance(part, LSTMCell) for part in parts_of(layer))


def make_fast(layer: Any, *, again: bool = False) -> bool:
    """Gives a layer of Keras the class of this package, if it is a plain LSTM or a wrapper of two fast layers.

    `again` is for a layer that had this class before: it gets it back without a check.
    """
    fast = _ours_for(layer)
    if fast is None or (left_alone(layer) and not again):
        return False
    if fast is FastBidirectional:
        _show_cudnn(layer, shown=True)
    elif states.carried() and states.are_of_keras(layer):
        states.make_anew(layer)
    _change_class(layer, fast)
    return True


def make_plain(layer: Any) -> bool:
    """Gives a layer of this package the class of Keras."""
    if type(layer) not in (FastLSTM, FastRNN, FastBidirectional):
        return False
    if type(layer) is FastBidirectional:
        _show_cudnn(layer, shown=False)
    _change_class(layer, type(layer).of_keras)
    return True


def _show_cudnn(wrapper: Any, *, shown: bool) -> None:
    """Lets a wrapper see the `use_cudnn` of its layers, or not."""
    for direction in directions_of(wrapper):
        vars(direction)["in_fast_wrapper"] = shown


def _change_class(layer: Any, cls: type) -> None:
    fused.class_changes += 1
    layer.__class__ = cls


def _patched(layer: Any, *methods: str) -> str:
    """Returns which method of a layer is not that of its class; empty if all are."""
    return next((f"its {method} is not Keras's" for method in methods if method in vars(layer)), "")


def directions_of(layer: Any) -> tuple[Any, Any]:
    """Returns the two layers of a wrapper."""
    return layer.forward_layer, layer.backward_layer


def _all_fused(layer: Any) -> bool:
    return all(isinstance(direction, fused.Fused) for direction in directions_of(layer))


def _record_others(directions: Sequence[Any]) -> None:
    """Records that directions are not layers of this package."""
    for direction in directions:
        reason = f"{type(direction).__qualname__} in FastBidirectional: the kernel computes LSTMs"
        fallbacks.record(Unavailable(reason), direction.name)


def _runs_in_one_call(wrapper: Any, sequences: Any, mask: Any) -> bool:
    forward, backward = directions_of(wrapper)
    return (
        all(
            fused.is_ours(layer)
            and not _patched(layer, "call", "inner_loop")
            and layer.activity_regularizer is None
            and fused.fallback(layer, sequences, mask) is None
            and len(cells.of(layer)) == 1
            and layer.compute_dtype == layer.cell.compute_dtype == wrapper.compute_dtype
            for layer in (forward, backward)
        )
        and backward.go_backwards
        and forward.cell.units == backward.cell.units
        and forward.zero_output_for_mask == backward.zero_output_for_mask
        and sequences.shape[1] != 0
    )


def _call_once(wrapper: Any, sequences: Any, initial_state: Any, mask: Any, training: bool | None) -> Any:
    layers = directions_of(wrapper)
    sequences = ops.cast(sequences, wrapper.compute_dtype)
    zero_output_for_mask = layers[0].zero_output_for_mask
    from_zero = initial_state is None and not wrapper.stateful and all(map(cells.starts_from_zero, layers))
    directions = []
    for i, layer in enumerate(layers):
        if initial_state is not None:
            state = initial_state[2 * i : 2 * i + 2]
        elif layer.stateful:
            state = layer.states
        else:
            state = layer.get_initial_state(batch_size=ops.shape(sequences)[0])
        state = [ops.convert_to_tensor(value, dtype=wrapper.compute_dtype) for value in state]
        direction = fused.direction_of(layer, layer.cell, sequences, state, training, from_zero=from_zero)
        if direction.input_dropout is not None and len(direction.input_dropout.shape) == 2:
            # The directions share their input, but not its dropout: the kernel applies it.
            direction = direction._replace(input_dropout=fused.per_gate(direction.input_dropout))
        directions.append(direction)
    outputs, h, c = functional.run(
        sequences,
        mask,
        directions,
        return_sequences=wrapper.return_sequences,
        zero_output_for_mask=zero_output_for_mask,
        recompute=any(map(fused.recomputes, layers)),
        training=bool(training),
    )
    if not zero_output_for_mask and not from_zero:
        outputs = fused.started(outputs, mask, directions, wrapper.return_sequences)
    last = (h[0], c[0], h[1], c[1])
    if wrapper.stateful:
        for layer, values in zip(layers, (last[:2], last[2:]), strict=True):
            for variable, value in zip(states.of(layer), values, strict=True):
                variable.assign(value)
    output = _merged(wrapper, outputs if wrapper.return_sequences else outputs[:, -1])
    if not wrapper.return_state:
        return output
    return (*output, *last) if wrapper.merge_mode is None else (output, *last)


def _merged(wrapper: Any, output: Any) -> Any:
    """Merges the directions, which the kernel has put side by side."""
    if wrapper.merge_mode == "concat":
        return output
    units = wrapper.forward_layer.cell.units
    forward, backward = output[..., :units], output[..., units:]
    return (forward, backward) if wrapper.merge_mode is None else _MERGE[wrapper.merge_mode](forward, backward)
