"""TensorFlow where XLA compiles (`jit_compile=True`): StableHLO that calls a handler, here those of `_core`.

The op XlaCallModule contains a program as text, and XLA compiles this program. Sizes that are not known at tracing are
left open: XLA fills them in when it compiles for a shape.
"""

import ctypes
import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from lstm_fast.backends import (
    RESERVE_NONE,
    RESERVE_RECOMPUTE,
    SECOND_ORDER_OR_FORWARD,
    Direction,
    LibraryError,
    Operands,
    Options,
    Outputs,
    core,
    once,
)
from lstm_fast.backends.operands import present, spread, with_gradient

# Version of XlaCallModule's interface: the oldest one with everything that is used here.
_VERSION = 9

_ELEMENTS = {
    "float32": "f32",
    "float64": "f64",
    "float16": "f16",
    "bfloat16": "bf16",
    "bool": "i1",
    "uint8": "ui8",
    "int32": "i32",
    "int64": "i64",
}

# The function that returns XLA's interface: its name in TensorFlow 2.21, and in 2.18 to 2.20.
_SYMBOLS = ("XLA_FFI_GetApi", "_ZN3xla3ffi12GetXlaFfiApiEv")
_LIBRARIES = ("libtensorflow_framework.so.2", "libtensorflow_cc.so.2")


class Open(NamedTuple):
    """A size that is known when XLA compiles: a sum of products, divided by a number and rounded up."""

    terms: Sequence[tuple[int, Sequence[int]]]  # a factor, and the axes of an operand whose sizes multiply it
    divisor: int = 1


Size = int | Open


def register(register_handlers: Callable[[int], None]) -> None:
    """Calls a module's `register_xla_handlers` with TensorFlow's XLA; raises LibraryError if that is not possible."""
    folder = pathlib.Path(tf.sysconfig.get_lib())
    for library in _LIBRARIES:
        if not (folder / library).exists():
            continue
        opened = ctypes.CDLL(str(folder / library))
        for symbol in _SYMBOLS:
            if not hasattr(opened, symbol):
                continue
            get_api = getattr(opened, symbol)
            get_api.restype = ctypes.c_void_p
            try:
                register_handlers(get_api())
            except RuntimeError as error:
                raise LibraryError(f"XLA in TensorFlow {tf.__version__} refuses the kernels ({error})") from error
            return
    raise LibraryError(f"XLA in TensorFlow {tf.__version__} cannot be reached: no {' or '.join(_SYMBOLS)} in {folder}")


@once("with jit_compile=True, ")
def _register() -> bool:
    call_module()
    register(core().register_xla_handlers)
    return True


@functools.cache
def call_module() -> Callable[..., list[tf.Tensor]]:
    """Returns the op XlaCallModule, which only `jit_compile` needs; raises LibraryError if there is none."""
    try:
        from tensorflow.compiler.tf2xla.ops import gen_xla_ops

        op: Callable[..., list[tf.Tensor]] = gen_xla_ops.xla_call_module
    except Exception as error:
        raise LibraryError(f"TensorFlow {tf.__version__} has no XlaCallModule ({error})") from error
    return op


def library() -> bool:
    """Registers the kernels with TensorFlow's XLA; raises LibraryError if that is not possible."""
    core()  # first: if the whole installation is broken, the user gets one reason, not two
    return _register()


def lstm(operands: Operands, options: Options) -> Outputs:
    """Runs the forward pass; see `lstm_fast.backends.backend.Backend`."""
    library()
    check_known(operands)
    x, units, n = operands.x, operands.units, len(operands.directions)
    attributes = {"directions": n, **options._asdict()}
    keeps = options.reserve_mode != RESERVE_NONE
    batch, time = sizes_of(x)[:2]
    states = [(x.dtype, [batch, units])] * n
    results = Outputs((x.dtype, [batch, time if options.return_sequences else 1, n * units]), states, states).flatten()
    if keeps:
        interval = core().checkpoint_interval if options.reserve_mode == RESERVE_RECOMPUTE else 1
        steps = Open([(1, [1])], interval) if x.shape[1] is None else -(-x.shape[1] // interval)
        step = core().reserve_step_bytes(options.reserve_mode, x.dtype.name, units)
        results.append((tf.uint8, [batch, n, steps, step]))
    flat = operands.flatten()

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def run(*tensors: tf.Tensor) -> Any:
        inner = spread(flat, tensors)
        outputs = call("lstm_fast_forward", attributes, _typed(inner, n), results)
        reserve = outputs.pop() if keeps else None

        def gradient(*gradients: tf.Tensor) -> Any:
            found = _backward(attributes, [*inner, reserve, *gradients])
            return [found.get(place) for place, operand in enumerate(inner) if operand is not None]

        return tuple(outputs), gradient

    return Outputs.unflatten(run(*present(flat)))


def check_known(operands: Operands) -> None:
    """Raises ValueError if the shapes of weights are unknown: the shapes of results depend on them."""
    kernel = operands.directions[0].kernel
    if operands.units is None or (kernel is not None and kernel.shape[0] is None):
        raise ValueError(
            "`kernel`, `recurrent_kernel`: expected known shapes under jit_compile=True, found unknown ones"
        )


def _backward(attributes: dict[str, int], operands: list[Any]) -> dict[int, Any]:
    """Returns the gradients of the forward pass's operands, by their places."""
    n = attributes["directions"]
    results = []
    for operand in (operands[place] for place in with_gradient(n)):
        # Open sizes are those of x in the same axis: the batch is the first axis of every operand that has one.
        sizes: list[Size] = [0] if operand is None else sizes_of(operand)
        results.append((operands[0].dtype, sizes))

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def run(*tensors: tf.Tensor) -> Any:
        def second(*_: Any) -> None:
            raise NotImplementedError(SECOND_ORDER_OR_FORWARD)

        return call("lstm_fast_backward", attributes, _typed(spread(operands, tensors), n), results), second

    return dict(zip(with_gradient(n), run(*present(operands)), strict=True))


def _typed(operands: Sequence[Any], n: int) -> list[Any]:
    """Returns operands, and further ones of the backward pass, with its dtype in the place of each absent one."""
    dtype = operands[0].dtype
    _, further = Operands.split(operands, n)
    absent = Operands.of_each(dtype, tf.bool, Direction(*[dtype] * len(Direction._fields)), n).flatten()
    if further:
        absent += [tf.uint8, *[dtype] * (len(further) - 1)]  # the reserve, and the gradients of the outputs
    return [dtype if operand is None else operand for operand, dtype in zip(operands, absent, strict=True)]


def sizes_of(tensor: tf.Tensor) -> list[Size]:
    """Returns the shape of a tensor. A size that is not known is the size of x in that axis."""
    return [size if size is not None else Open([(1, [axis])]) for axis, size in enumerate(tensor.shape)]


def call(
    target: str,
    attributes: dict[str, int],
    operands: Sequence[Any],
    results: Sequence[tuple[tf.DType, list[Size]]],
    *,
    sized: int = 0,
    platform: str = "CPU",
) -> list[tf.Tensor]:
    """Calls a handler.

    Args:
        target: Its name.
        attributes: Its attributes, all int64.
        operands: Tensors. A dtype stands for an absent one: the handler gets a tensor of shape [0] in its place.
        results: Their dtypes and shapes.
        sized: The place of the operand from whose axes open sizes are taken.
        platform: XLA's name of the device.
    """
    return call_module()(
        [operand for operand in operands if not isinstance(operand, tf.DType)],
        version=_VERSION,
        module=_module(target, attributes, operands, results, sized),
        Sout=[[size if isinstance(size, int) else None for size in sizes] for _, sizes in results],
        Tout=[dtype for dtype, _ in results],
        platforms=[platform],
        dim_args_spec=[],
    )


def _module(
    target: str,
    attributes: dict[str, int],
    operands: Sequence[Any],
    results: Sequence[tuple[tf.DType, list[Size]]],
    sized: int,
) -> str:
    """Returns the program around a call of a handler."""
    lines: list[str] = []
    arguments, names, types = [], [], []
    for i, operand in enumerate(operands):
        if isinstance(operand, tf.DType):
            types.append(_type(operand, [0]))
            lines.append(f"%absent{i} = stablehlo.constant dense<> : {types[-1]}")
            names.append(f"%absent{i}")
        else:
            types.append(_type(operand.dtype, operand.shape))
            names.append(f"%operand{i}")
            arguments.append(f"{names[-1]}: {types[-1]}")
    ranks = [1 if isinstance(operand, tf.DType) else operand.shape.rank for operand in operands]
    result_types = [_type(dtype, sizes) for dtype, sizes in results]
    options = [
        "api_version = 4 : i32",
        f"backend_config = {{{', '.join(f'{name} = {int(value)} : i64' for name, value in attributes.items())}}}",
    ]
    if any(not isinstance(size, int) for _, sizes in results for size in sizes):
        # XLA then needs the shape of every result as a further operand. The handler does not read them.
        first = len(names)
        of = (names[sized], types[sized])
        for i, (_, sizes) in enumerate(results):
            parts = [_size(f"%size{i}_{axis}", size, of, lines) for axis, size in enumerate(sizes)]
            names.append(f"%shape{i}")
            types.append(f"tensor<{len(sizes)}xi32>")
            ranks.append(1)
            lines.append(
                f"%shape{i} = stablehlo.concatenate {', '.join(parts)}, dim = 0 : "
                f"({', '.join(['tensor<1xi32>'] * len(parts))}) -> {types[-1]}"
            )
        indices = ", ".join(str(i) for i in range(first, len(names)))
        options.append(f"indices_of_shape_operands = dense<[{indices}]> : tensor<{len(results)}xi64>")
    options += [
        f"operand_layouts = [{', '.join(map(_layout, ranks))}]",
        f"result_layouts = [{', '.join(_layout(len(sizes)) for _, sizes in results)}]",
    ]
    outputs = ", ".join(f"%result#{i}" for i in range(len(results)))
    lines += [
        f"%result:{len(results)} = stablehlo.custom_call @{target}({', '.join(names)}) {{{', '.join(options)}}} : "
        f"({', '.join(types)}) -> ({', '.join(result_types)})",
        f"return {outputs} : {', '.join(result_types)}",
    ]
    body = "\n    ".join(lines)
    return (
        f"module @{target} attributes {{jax.uses_shape_polymorphism = true}} {{\n"
        f"  func.func public @main({', '.join(arguments)}) -> ({', '.join(result_types)}) {{\n"
        f"    {body}\n  }}\n}}\n"
    )


def _type(dtype: tf.DType, sizes: Sequence[Size | None]) -> str:
    dimensions = [str(size) if isinstance(size, int) else "?" for size in sizes]
    return f"tensor<{'x'.join([*dimensions, _ELEMENTS[dtype.name]])}>"


def _layout(rank: int) -> str:
    return f"dense<[{', '.join(str(axis) for axis in reversed(range(rank)))}]> : tensor<{rank}xindex>"


def _size(name: str, size: Size, of: tuple[str, str], lines: list[str]) -> str:
    """Adds the lines that compute a size as a vector of one, and returns its name. `of`: an operand's name and type."""
    if isinstance(size, int):
        lines.append(f"{name} = stablehlo.constant dense<{size}> : tensor<1xi32>")
        return name

    def add(operation: str, types: str) -> str:
        lines.append(f"{name}_{len(lines)} = stablehlo.{operation} : {types}")
        return f"{name}_{len(lines) - 1}"

    def constant(value: int) -> str:
        return add(f"constant dense<{value}>", "tensor<i32>")

    total = constant(size.divisor - 1)
    for factor, axes in size.terms:
        product = constant(factor)
        for axis in axes:
            length = add(f"get_dimension_size {of[0]}, dim = {axis}", f"({of[1]}) -> tensor<i32>")
            product = add(f"multiply {product}, {length}", "tensor<i32>")
        total = add(f"add {total}, {product}", "tensor<i32>")
    part = add(f"divide {total}, {constant(size.divisor)}", "tensor<i32>")
    lines.append(f"{name} = stablehlo.reshape {part} : (tensor<i32>) -> tensor<1xi32>")
    return name
