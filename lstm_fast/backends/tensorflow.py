"""TensorFlow tensors: on the CPU through the ops of `_tensorflow_cpu.so`, eagerly and in graphs, with their gradient.

`tensorflow_cuda` is the way to the kernels on a GPU, and `tensorflow_xla` where XLA compiles.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import tensorflow as tf

from lstm_fast.backends import (
    SECOND_ORDER_OR_FORWARD,
    LibraryError,
    Operands,
    Options,
    Outputs,
    Unavailable,
    core,
    library_path,
    once,
    tensorflow_cuda,
    tensorflow_xla,
)
from lstm_fast.backends.operands import with_gradient
from lstm_fast.settings import check_compiled, follow_threads

# Not part of TensorFlow's public API. Without it, layers in a graph run as Keras's.
try:
    from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext

    _is_for_xla: Callable[[Any], bool] | None = GraphOrParentsInXlaContext
except Exception:
    _is_for_xla = None


@once()
def _library() -> ModuleType:
    path = library_path("_tensorflow_cpu.so")
    try:
        ops_module: ModuleType = tf.load_op_library(str(path))
    except tf.errors.OpError as error:
        raise LibraryError(f"{path} cannot be loaded by TensorFlow {tf.__version__} ({error.message})") from error
    return ops_module


def library() -> ModuleType:
    """Returns the module with the ops; raises LibraryError if it cannot be loaded."""
    core()  # first: if the whole installation is broken, the user gets one reason, not two
    return _library()


def unavailable(_x: Any = None) -> Unavailable | None:
    """Returns why the ops cannot be used now; None if they can."""
    try:
        library()
    except LibraryError as error:
        return Unavailable(str(error), announced=True)
    kind, _ = _device()
    try:
        compiled = _compiled_by_xla()
    except LibraryError as error:
        return Unavailable(str(error))
    if kind == "GPU":
        return tensorflow_cuda.unavailable(compiled)
    if kind != "CPU":
        return Unavailable(f"a {kind}: no kernel for it")
    if compiled:
        try:
            tensorflow_xla.library()
        except LibraryError as error:
            return Unavailable(f"jit_compile=True: {error}", announced=True)
    return None


def slower_than_keras(dtype: str, batch: int | None, units: int) -> str | None:
    """Returns why cuDNN is expected to be faster, for a layer without mask and dropout; None if it is not."""
    if _device()[0] != "GPU" or _compiled_by_xla() or dtype == "bfloat16":
        return None
    return tensorflow_cuda.slower_than_cudnn(dtype, batch, units)


def with_batch(x: tf.Tensor, size: int, message: str) -> tf.Tensor:
    """Returns x, whose batch size is not known in the graph. Another size is an InvalidArgumentError when it runs.

    XLA leaves assertions out, but checks shapes when it compiles. In other graphs the shape must not be set: TensorFlow
    would take the assertion for proven and remove it.
    """
    if _compiled_by_xla():
        return tf.ensure_shape(x, [size, *x.shape[1:]], name="stateful_layer_must_keep_its_batch_size")
    with tf.control_dependencies([tf.debugging.assert_equal(tf.shape(x)[0], size, message)]):
        return tf.identity(x)


def _compiled_by_xla() -> bool:
    """Whether the traced graph is for XLA (`jit_compile=True`). XLA cannot compile the ops.

    Raises LibraryError if that cannot be known.
    """
    if tf.executing_eagerly():
        return False
    if _is_for_xla is None:
        raise LibraryError(
            f"in a graph, whether XLA compiles it cannot be known: TensorFlow {tf.__version__} has no "
            "control_flow_util.GraphOrParentsInXlaContext"
        )
    return bool(_is_for_xla(tf.compat.v1.get_default_graph()))


def _device() -> tuple[str, str]:
    """Returns the type and the name of the device on which TensorFlow would put an op here."""
    there = {device.device_type: device.name for device in reversed(tf.config.list_logical_devices())}
    if there.keys() == {"CPU"}:
        return "CPU", there["CPU"]
    name = _scope()
    kind = tf.DeviceSpec.from_string(name).device_type
    if kind is None:  # an accelerator if there is one
        kind = next((other for other in there if other != "CPU"), "CPU")
        name = there[kind]
    return kind, name


def _scope() -> str:
    """Returns the name of the device from the innermost `tf.device`; empty if there is none."""
    graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
    while graph is not None:
        if name := _scope_of(graph):
            return name
        graph = getattr(graph, "outer_graph", None)
    with tf.init_scope():
        return _eager_scope() if tf.executing_eagerly() else ""


def _scope_of(graph: Any) -> str:
    """Returns the name of the device that a graph gives to new ops, empty if none."""
    # A new op shows the device. It goes into another graph, because the user's graph should not keep it.
    trial = tf.Graph()
    try:
        trial._device_function_stack = graph._device_function_stack.copy()
        if any(graph._colocation_stack.peek_objs()):  # the device may be that of an op of this graph
            trial = graph
    except AttributeError:
        trial = graph
    with trial.as_default():
        return tf.no_op().device or ""


def _eager_scope() -> str:
    """Returns the name of the device from `tf.device` in eager mode, empty if there is none."""
    try:
        from tensorflow.python.eager import context

        return context.context().device_name or ""
    except (AttributeError, ImportError):
        return str(tf.constant(()).device)  # slower: a copy to the device


def gpus() -> tuple[str, ...]:
    """Returns the names of the GPUs that TensorFlow sees."""
    return tuple(device.name for device in tf.config.list_physical_devices("GPU"))


def threads() -> tuple[int, str]:
    """Returns the number of threads inside an op, as set in `tf.config.threading`; 0 if it was not set."""
    return tf.config.threading.get_intra_op_parallelism_threads(), "tf.config.threading"


def gpu_ops() -> str | None:
    """Returns for which release of TensorFlow the ops on GPUs were built, or why they were not."""
    return tensorflow_cuda.ops_state()


def traced_length(_x: tf.Tensor) -> int | None:
    """Returns None: a graph takes any number of timesteps, or says which one."""
    return None


def array(value: Any, like: Any = None) -> tf.Tensor:
    """Returns a tensor; a value without a dtype gets that of `like`."""
    typed = hasattr(value, "dtype")
    return tf.convert_to_tensor(value, dtype_hint=None if typed or like is None else like.dtype)


def boolean(mask: tf.Tensor) -> tf.Tensor:
    """Returns a mask [B, T] or [B, T, 1] as booleans [B, T]."""
    return tf.cast(tf.squeeze(mask, -1) if mask.shape.rank == 3 else mask, tf.bool)


def lstm(operands: Operands, options: Options) -> Outputs:
    """Runs the forward op; see `lstm_fast.backends.backend.Backend`."""
    check_compiled()
    follow_threads(*threads())
    kind, device = _device()
    if kind == "GPU":
        return tensorflow_cuda.lstm(device, _compiled_by_xla(), operands, options)
    if _compiled_by_xla():
        return tensorflow_xla.lstm(operands, options)
    (x, mask, directions), units = operands, operands.units
    absent = tf.constant((), x.dtype)  # a quarter of the time of tf.zeros([0])
    lists = [[absent if value is None else value for value in values] for values in operands.lists()]
    mask = tf.constant((), tf.bool) if mask is None else mask
    y, h_n, c_n, _ = library().lstm_fast_forward(x, mask, *lists, **options._asdict())
    batch, time, _ = x.shape
    columns = None if units is None else len(directions) * units
    y.set_shape([batch, time if options.return_sequences else 1, columns])
    for state in (*h_n, *c_n):
        state.set_shape([batch, units])
    return Outputs(y, h_n, c_n)


@tf.RegisterGradient("LstmFastForward")  # type: ignore[untyped-decorator]
def _gradient(op: Any, *gradients: tf.Tensor | None) -> list[tf.Tensor | None]:
    n, inputs = op.get_attr("N"), list(op.inputs)
    *outputs, reserve = op.outputs
    # In a graph the gradient of an unused output is None.
    given = [tf.zeros_like(out) if d is None else d for out, d in zip(outputs, gradients[:-1], strict=True)]
    operands = Operands.unflatten(inputs, n)
    dx, *lists = library().lstm_fast_backward(
        operands.x,
        operands.mask,
        *operands.lists(),
        reserve,
        *Outputs.unflatten(given),
        **{name: op.get_attr(name) for name in Options._fields},
    )
    # Mask and dropout multipliers have no gradient, nor has an absent operand: a tensor of shape [0].
    result: list[tf.Tensor | None] = [None] * len(inputs)
    computed = [dx, *(gradient for values in lists for gradient in values)]
    for place, gradient in zip(with_gradient(n), computed, strict=True):
        result[place] = None if inputs[place].shape == [0] else gradient
    return result


@tf.RegisterGradient("LstmFastBackward")  # type: ignore[untyped-decorator]
def _second_gradient(*_: Any) -> None:
    raise NotImplementedError(SECOND_ORDER_OR_FORWARD)
