"""JAX arrays through XLA's foreign functions: `jit`, `grad`, `vmap`, and batches spread over devices.

The kernels are two primitives, forward and backward. Where the forward pass is differentiated, it keeps what the
backward pass needs, and a third primitive, which is never run, holds the place of the tangents until JAX transposes it
into the backward pass. `vmap` folds the mapped axis into the batch. Custom partitioning splits the batch over devices.
Under these is a fourth primitive, a pass on one device; what it becomes on CUDA is in `lstm_fast.backends.jax_cuda`.
These are primitives, not a `jax.custom_vjp`: that would do the backward pass of mapped rows one by one.
"""

import concurrent.futures
import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray
from jax.experimental.custom_partitioning import custom_partitioning
from jax.extend.core import Primitive, jaxpr_as_fun
from jax.interpreters import batching, mlir
from jax.interpreters.ad import Zero, is_undefined_primal, primitive_jvps, primitive_transposes
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

from lstm_fast.backends import (
    IN_THEIR_PLACE,
    RESERVE_GATES,
    RESERVE_NONE,
    RESERVE_RECOMPUTE,
    SECOND_ORDER,
    Direction,
    LibraryError,
    Unavailable,
    check_settings,
    core,
    jax_cuda,
    once,
)


class _Kind(NamedTuple):
    """A kind of operands or results: how many axes, and which of them is the batch."""

    rank: int
    batch: int | None = None


_SEQUENCE, _STATE, _MATRIX, _VECTOR, _RESERVE = _Kind(3, 0), _Kind(2, 0), _Kind(2), _Kind(1), _Kind(4, 0)
_FIELDS = Direction(_MATRIX, _MATRIX, _VECTOR, _STATE, _STATE, _Kind(3, 1), _Kind(3, 1))
# The fields that have a gradient come first; dropout multipliers have none.
_DIFFERENTIABLE = 5

# Whether a value can be said to vary along axes of `jax.shard_map`.
_CAN_VARY = hasattr(jax.lax, "pcast") or hasattr(jax.lax, "pvary")


class _Call(NamedTuple):
    """What is fixed when a call is traced."""

    directions: int
    go_backwards: bool
    return_sequences: bool
    zero_output_for_mask: bool
    reserve_mode: int
    # On CUDA, how products of float32 are computed: by JAX, and in the recurrence.
    products: str | None
    precision: str
    # Of the operands that csrc/bindings/xla.h lists, those that there are.
    present: tuple[bool, ...]
    # Forward: whether it keeps the reserve. Backward: which gradients are computed.
    differentiated: bool = False
    wanted: tuple[bool, ...] | None = None

    @property
    def operands(self) -> list[_Kind]:
        """Kinds of the operands that there are."""
        kinds = [_SEQUENCE, _STATE, *(kind for kind in _FIELDS for _ in range(self.directions))]
        if self.wanted is not None:
            kinds += [_RESERVE, _SEQUENCE, *[_STATE] * 2 * self.directions]
        return [kind for kind, present in zip(kinds, self.present, strict=True) if present]

    @property
    def results(self) -> list[_Kind]:
        """Kinds of the results that are asked for."""
        if self.wanted is None:
            kinds = [_SEQUENCE, *[_STATE] * 2 * self.directions]
            return [*kinds, _RESERVE] if self.keeps else kinds
        return self.asked([_SEQUENCE, *(kind for kind in _FIELDS[:_DIFFERENTIABLE] for _ in range(self.directions))])

    @property
    def keeps(self) -> bool:
        """Whether the forward pass has the reserve for a result."""
        return self.differentiated and self.reserve_mode != RESERVE_NONE

    def types(self, x: Any, units: int) -> list[Any]:
        """Types of the results on one device, wanted or not, for what `x` is there."""
        batch, time, features = x.shape
        n, columns = self.directions, 4 * units
        states = [(batch, units)] * 2 * n
        if self.wanted is not None:
            weights = [*[(features, columns)] * n, *[(units, columns)] * n, *[(columns,)] * n]
            return [jax.ShapeDtypeStruct(shape, x.dtype) for shape in (x.shape, *weights, *states)]
        y = (batch, time if self.return_sequences else 1, n * units)
        types = [jax.ShapeDtypeStruct(shape, x.dtype) for shape in (y, *states)]
        if self.keeps:
            steps = -(-time // core().checkpoint_interval) if self.reserve_mode == RESERVE_RECOMPUTE else time
            step = core().reserve_step_bytes(self.reserve_mode, x.dtype.name, units)
            types.append(jax.ShapeDtypeStruct((batch, n, steps, step), jnp.uint8))
        return types

    def asked(self, results: Sequence[Any]) -> list[Any]:
        """Returns those of all results that are wanted."""
        wanted = self.wanted or [True] * len(results)
        return [result for result, keep in zip(results, wanted, strict=True) if keep]

    def spread(self, arrays: Sequence[Any]) -> list[Any]:
        """Returns an entry for every operand, None where there is none."""
        given = iter(arrays)
        return [next(given) if present else None for present in self.present]


@once()
def _register() -> bool:
    for name in ("ffi", "typeof"):
        if not hasattr(jax, name):
            raise LibraryError(f"JAX {jax.__version__} has no jax.{name}: version 0.5.3 or later is needed")
    for name, handler in core().xla_handlers().items():
        jax.ffi.register_ffi_target(name, handler, platform="cpu")
    # What JAX has moved shows in tracing, in a thread of its own, as this one may be tracing something else.
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        executor.submit(_try).result()
    return True


def _try() -> None:
    """Traces both passes; raises LibraryError if this JAX does not have what they need."""
    shapes = ((1, 1, 1), (1, 4), (1, 4), (4,), (1, 1), (1, 1))
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    present = (True, False, *[True] * (len(shapes) - 1), False, False)
    call = _Call(1, False, False, False, RESERVE_GATES, None, "exact", present)
    try:
        jax.make_jaxpr(jax.grad(lambda *given: _forward(call, *given)[0].sum()))(*arrays)
    except Exception as error:
        raise LibraryError(
            f"JAX {jax.__version__} cannot trace the kernels ({type(error).__name__}: {error})"
        ) from error


def library() -> bool:
    """Registers the kernels with JAX; raises LibraryError if that is not possible."""
    core()  # one reason, not two, where the whole installation is broken
    return _register()


def gpus() -> tuple[str, ...]:
    """Returns the names of the GPUs that JAX sees."""
    return tuple(str(device) for device in jax.devices() if device.platform != "cpu")


def unavailable(x: Any = None) -> Unavailable | None:
    """Returns why the kernels cannot be used here and now, None if they can."""
    try:
        library()
    except LibraryError as error:
        return Unavailable(str(error), announced=True)
    if not _CAN_VARY and x is not None and _varying(x):
        return Unavailable(f"JAX {jax.__version__} has neither jax.lax.pcast nor pvary, which jax.shard_map needs")
    platform = jax.default_backend()
    if platform == "gpu":
        return jax_cuda.unavailable()
    return None if platform == "cpu" else Unavailable(f"JAX runs on the platform {platform}: no kernel for it")


def array(value: Any, like: Any = None) -> Any:
    """Returns a JAX array; values without a dtype of their own get that of `like`."""
    if isinstance(value, jax.Array):
        return value
    typed = hasattr(value, "dtype")
    return jnp.asarray(value, dtype=None if typed or like is None else like.dtype)


def boolean(mask: Any) -> Any:
    """Returns a mask [B, T] or [B, T, 1] as booleans [B, T]."""
    return (mask[..., 0] if mask.ndim == 3 else mask).astype(bool)


def lstm(
    x: Any,
    mask: Any,
    directions: Sequence[Direction],
    *,
    go_backwards: bool,
    return_sequences: bool,
    zero_output_for_mask: bool,
    reserve_mode: int,
) -> tuple[Any, Sequence[Any], Sequence[Any]]:
    """Runs the forward pass; see `lstm_fast.backends.Backend`."""
    check_settings()
    library()
    n = len(directions)
    operands = [x, mask, *(value for column in zip(*directions, strict=True) for value in column)]
    call = _Call(
        n,
        go_backwards,
        return_sequences,
        zero_output_for_mask,
        reserve_mode,
        products := jax.config.jax_default_matmul_precision,
        jax_cuda.precision(products),
        present=tuple(operand is not None for operand in operands),
    )
    y, *states = _forward(call, *(operand for operand in operands if operand is not None))
    return y, states[:n], states[n:]


@functools.partial(jax.jit, static_argnums=0)
def _forward(call: _Call, *arrays: Any) -> list[Any]:
    varying = frozenset[Any]().union(*map(_varying, arrays))
    return _bind(_forward_p, call, [_vary(value, tuple(varying - _varying(value))) for value in arrays])


def _bind(primitive: Primitive, call: _Call, arrays: Sequence[Any]) -> list[Any]:
    # The inner function travels as a parameter, where JAX looks for primitives that need to know the devices.
    inner = jax.make_jaxpr(_partitioned(call))(*arrays)
    results: list[Any] = primitive.bind(*arrays, call=call, inner=inner)
    return results


# On one device


def _run_on_cpu(*arrays: Any, call: _Call) -> list[Any]:
    """Calls the handler."""
    operands = call.spread(arrays)
    x = operands[0]
    unwanted = jax.ShapeDtypeStruct((0,), x.dtype)
    types = call.types(x, operands[2 + call.directions].shape[0])
    wanted = call.wanted or [True] * len(types)
    attributes = {
        "directions": call.directions,
        "go_backwards": call.go_backwards,
        "return_sequences": call.return_sequences,
        "zero_output_for_mask": call.zero_output_for_mask,
        "reserve_mode": call.reserve_mode if call.keeps or call.wanted is not None else RESERVE_NONE,
    }
    target = "lstm_fast_forward" if call.wanted is None else "lstm_fast_backward"
    dtypes = [bool if i == 1 else jnp.uint8 if i == 2 + 7 * call.directions else x.dtype for i in range(len(operands))]
    outputs = jax.ffi.ffi_call(target, [t if keep else unwanted for t, keep in zip(types, wanted, strict=True)])(
        *(jnp.zeros(0, dtype) if operand is None else operand for operand, dtype in zip(operands, dtypes, strict=True)),
        **{name: np.int64(value) for name, value in attributes.items()},
    )
    return call.asked(outputs)


def _types_on_one_device(*arrays: Any, call: _Call) -> list[Any]:
    operands = call.spread(arrays)
    x = operands[0]
    results = call.asked(call.types(x, operands[2 + call.directions].shape[0]))
    # Nothing is spread on one device, whatever mesh there is around; only what varies in jax.shard_map has one.
    return _typed(call, x, results) if _varying(x) else [ShapedArray(r.shape, r.dtype) for r in results]


@functools.partial(jax.jit, static_argnums=0)
def _eagerly(call: _Call, *arrays: Any) -> list[Any]:
    results: list[Any] = _passes_p.bind(*arrays, call=call)
    return results


_passes_p = Primitive("lstm_fast_passes")
_passes_p.multiple_results = True
_passes_p.def_impl(lambda *arrays, call: _eagerly(call, *arrays))
_passes_p.def_abstract_eval(_types_on_one_device)
mlir.register_lowering(_passes_p, mlir.lower_fun(_run_on_cpu, multiple_results=True), platform="cpu")
mlir.register_lowering(_passes_p, mlir.lower_fun(jax_cuda.run, multiple_results=True), platform="cuda")


# On several devices


def _sum_over_devices(value: Any, axes: Any) -> Any:
    """`jax.lax.psum` in the part of a partitioned call that one device runs."""
    # JAX 0.12 lowers the addition of two numbers in the mesh of the caller's `jax.set_mesh`; if the axes of that are
    # explicit, it puts shardings into the addition, which XLA refuses.
    without_mesh = getattr(jax.sharding, "use_abstract_mesh", None)
    with without_mesh(AbstractMesh((), ())) if without_mesh else contextlib.nullcontext():
        return jax.lax.psum(value, axes)


@functools.cache
def _partitioned(call: _Call) -> Callable[..., list[Any]]:
    """Returns a function that gives every device its own rows of the batch, and all of the weights."""

    def run(*arrays: Any) -> list[Any]:
        results: list[Any] = _passes_p.bind(*arrays, call=call)
        return results

    def rows(operands: Sequence[Any]) -> Any:
        """The mesh axes over which the batch of x is spread."""
        spec = getattr(operands[0].sharding, "spec", None)
        return spec[0] if spec else None

    def place(mesh: Any, kinds: Sequence[_Kind], axes: Any) -> list[NamedSharding]:
        specs = [PartitionSpec(*(axes if axis == kind.batch else None for axis in range(kind.rank))) for kind in kinds]
        return [NamedSharding(mesh, spec) for spec in specs]

    def partition(mesh: Any, operands: Sequence[Any], _: Any) -> Any:
        axes = rows(operands)

        def run_on_rows(*arrays: Any) -> list[Any]:
            results = run(*arrays)
            if axes is None:
                return results
            return [
                _sum_over_devices(result, axes) if kind.batch is None else result
                for result, kind in zip(results, call.results, strict=True)
            ]

        return mesh, run_on_rows, place(mesh, call.results, axes), tuple(place(mesh, call.operands, axes))

    def infer(mesh: Any, operands: Sequence[Any], _: Any) -> Any:
        return place(mesh, call.results, rows(operands))

    def factors(side: str, kinds: Sequence[_Kind]) -> str:
        return ", ".join(
            " ".join("rows" if axis == kind.batch else f"{side}{i}_{axis}" for axis in range(kind.rank))
            for i, kind in enumerate(kinds)
        )

    partitioned: Any = custom_partitioning(run)
    partitioned.def_partition(
        partition,
        infer_sharding_from_operands=infer,
        sharding_rule=f"{factors('operand', call.operands)} -> {factors('result', call.results)}",
    )
    return partitioned  # type: ignore[no-any-return]


# JAX's transformations


def _inner(*arrays: Any, call: _Call, inner: Any) -> Any:  # noqa: ARG001
    return jaxpr_as_fun(inner)(*arrays)


def _map(primitive: Primitive, arrays: Sequence[Any], axes: Sequence[Any], *, call: _Call, inner: Any) -> Any:
    """Makes one call of many: the mapped axis joins the batch, unless the weights or their gradients are mapped too."""
    del inner
    mapped = [axis is not None for axis in axes]
    arrays = [value if axis is None else jnp.moveaxis(value, axis, 0) for value, axis in zip(arrays, axes, strict=True)]
    size = next(value.shape[0] for value, is_mapped in zip(arrays, mapped, strict=True) if is_mapped)
    mapped_weights = any(
        is_mapped and kind.batch is None for is_mapped, kind in zip(mapped, call.operands, strict=True)
    )
    if mapped_weights or any(kind.batch is None for kind in call.results):

        def one(values: list[Any]) -> list[Any]:
            given = iter(values)
            return _bind(primitive, call, [next(given) if m else v for v, m in zip(arrays, mapped, strict=True)])

        results = jax.lax.map(one, [value for value, is_mapped in zip(arrays, mapped, strict=True) if is_mapped])
    else:
        folded = []
        for value, is_mapped, kind in zip(arrays, mapped, call.operands, strict=True):
            if kind.batch is not None:
                whole = value if is_mapped else jnp.broadcast_to(value, (size, *value.shape))
                whole = jnp.moveaxis(whole, 0, kind.batch)
                shape = whole.shape
                value = whole.reshape(*shape[: kind.batch], -1, *shape[kind.batch + 2 :])  # noqa: PLW2901
            folded.append(value)
        results = [result.reshape(size, -1, *result.shape[1:]) for result in _bind(primitive, call, folded)]
    return results, [0] * len(results)


def _differentiate(primals: Sequence[Any], tangents: Sequence[Any], *, call: _Call, inner: Any) -> Any:
    """Runs the forward pass such that the backward pass can follow, and puts a tangent's place holder beside it."""
    del inner
    if call.differentiated:
        _refuse_second_order()
    call = call._replace(differentiated=True)
    results = _bind(_forward_p, call, primals)
    outputs, reserve = (results[:-1], results[-1:]) if call.keeps else (results, [])
    last = 2 + _DIFFERENTIABLE * call.directions
    given = {
        i: tangent
        for i, tangent in enumerate(call.spread(tangents)[:last])
        if i != 1 and tangent is not None and type(tangent) is not Zero
    }
    if not given:  # only dropout multipliers, which have no gradient
        moved = [jnp.zeros_like(output) for output in outputs]
    else:
        avals = tuple(jax.typeof(output) for output in outputs)
        moved = _tangent_p.bind(*primals, *reserve, *given.values(), call=call, moving=tuple(given), avals=avals)
    return outputs, moved


def _transpose(cotangents: Sequence[Any], *arrays: Any, call: _Call, moving: tuple[int, ...], avals: Any) -> list[Any]:
    """Runs the backward pass: the gradients of the operands that have a tangent."""
    del avals
    given = [None if type(cotangent) is Zero else cotangent for cotangent in cotangents]
    residuals, tangents = arrays[: -len(moving)], arrays[-len(moving) :]
    primals, reserve = (residuals[:-1], residuals[-1]) if call.keeps else (residuals, None)
    moving_now = [i for i, tangent in zip(moving, tangents, strict=True) if is_undefined_primal(tangent)]
    # The results of the backward pass are in the order of the operands, among which the mask is the second.
    gradient_of = [0, *range(2, 2 + _DIFFERENTIABLE * call.directions)]
    backward = call._replace(
        present=(*call.present, reserve is not None, *(value is not None for value in given)),
        wanted=tuple(i in moving_now for i in gradient_of),
    )
    operands = [*primals, *(value for value in (reserve, *given) if value is not None)]
    gradients = dict(zip(sorted(moving_now), _bind(_backward_p, backward, operands), strict=True))
    return [None] * len(residuals) + [gradients.get(i) for i in moving]


def _refuse_second_order(*_: Any, **__: Any) -> NoReturn:
    raise NotImplementedError(SECOND_ORDER)


def _refuse_forward_mode(*_: Any, **__: Any) -> NoReturn:
    raise NotImplementedError(
        "lstm_fast: forward-mode differentiation (jvp, jacfwd, linearize) is not implemented; reverse mode is (grad, "
        f"vjp, jacrev); {IN_THEIR_PLACE}"
    )


def _results(x: Any, *_: Any, call: _Call, inner: Any) -> list[Any]:
    return _typed(call, x, inner.out_avals)


def _typed(call: _Call, x: Any, results: Sequence[Any]) -> list[Any]:
    """Types of a primitive's results: spread over devices as x is, where that is a matter of types."""
    axes = x.sharding.spec[0]
    types = []
    for result, kind in zip(results, call.results, strict=True):
        spec = PartitionSpec(*(axes if axis == kind.batch else None for axis in range(kind.rank)))
        sharding = NamedSharding(x.sharding.mesh, spec)
        types.append(x.update(shape=result.shape, dtype=result.dtype, weak_type=False, sharding=sharding))
    return types


def _varying(value: Any) -> frozenset[Any]:
    """The axes of `jax.shard_map` along which a value differs, or one of this type."""
    kind = value if isinstance(value, ShapedArray) else jax.typeof(value)
    return getattr(getattr(kind, "mat", None), "varying", None) or getattr(kind, "vma", None) or frozenset()


def _vary(value: Any, axes: tuple[Any, ...]) -> Any:
    """Says of a value that it may differ along further axes, such that its gradient is summed over them."""
    if not axes:
        return value
    return jax.lax.pcast(value, axes, to="varying") if hasattr(jax.lax, "pcast") else jax.lax.pvary(value, axes)


def _primitive(name: str, differentiate: Callable[..., Any]) -> Primitive:
    primitive = Primitive(name)
    primitive.multiple_results = True
    primitive.def_impl(_inner)
    primitive.def_abstract_eval(_results)
    for platform in ("cpu", "cuda"):
        mlir.register_lowering(primitive, mlir.lower_fun(_inner, multiple_results=True), platform=platform)
    batching.primitive_batchers[primitive] = functools.partial(_map, primitive)
    primitive_jvps[primitive] = differentiate
    return primitive


_forward_p = _primitive("lstm_fast_forward", _differentiate)
_backward_p = _primitive("lstm_fast_backward", _refuse_second_order)

# Never run: either it is transposed, or this was forward mode.
_tangent_p = Primitive("lstm_fast_tangent")
_tangent_p.multiple_results = True
_tangent_p.def_impl(_refuse_forward_mode)
_tangent_p.def_abstract_eval(lambda *_, call, moving, avals: avals)  # noqa: ARG005
mlir.register_lowering(_tangent_p, _refuse_forward_mode)
batching.primitive_batchers[_tangent_p] = _refuse_forward_mode
primitive_jvps[_tangent_p] = _refuse_second_order
primitive_transposes[_tangent_p] = _transpose
