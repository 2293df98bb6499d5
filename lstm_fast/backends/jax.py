"""JAX arrays through XLA's foreign functions: `jit`, `grad`, `vmap`, and batches spread over devices.

The kernels are two primitives, forward and backward. If JAX differentiates the forward pass, it keeps what the backward
pass needs. A third primitive then stands for the tangents. It is never run: JAX transposes it into the backward pass.
`vmap` folds the mapped axis into the batch. Custom partitioning splits the batch over devices. Under these is a fourth
primitive, a pass on one device; its code for CUDA is in `lstm_fast.backends.jax_cuda`. These are primitives, not a
`jax.custom_vjp`, because that would run the backward pass of mapped rows one by one.
"""

import concurrent.futures
import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

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
    SECOND_ORDER,
    Direction,
    LibraryError,
    Operands,
    Options,
    Outputs,
    Unavailable,
    core,
    jax_cuda,
    once,
)
from lstm_fast.backends.jax_call import Call, Kind
from lstm_fast.backends.operands import present, with_gradient
from lstm_fast.settings import check_compiled

# Whether JAX can be told that a value varies along axes of `jax.shard_map`.
_CAN_VARY = hasattr(jax.lax, "pcast") or hasattr(jax.lax, "pvary")


@once()
def _register() -> bool:
    for name in ("ffi", "typeof"):
        if not hasattr(jax, name):
            raise LibraryError(f"JAX {jax.__version__} has no jax.{name}: version 0.5.3 or later is needed")
    for name, handler in core().xla_handlers().items():
        jax.ffi.register_ffi_target(name, handler, platform="cpu")
    # A trial shows whether JAX has moved something. It has its own thread, because this one may be tracing already.
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        executor.submit(_try).result()
    return True


def _try() -> None:
    """Traces both passes; raises LibraryError if this JAX does not have what they need."""
    operands = Operands((1, 1, 1), None, [Direction((1, 4), (1, 4), (4,), (1, 1), (1, 1))])
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in present(operands.flatten())]
    call = _call(operands, Options(False, False, False, RESERVE_GATES), None, "exact")
    try:
        jax.make_jaxpr(jax.grad(lambda *values: _forward(call, *values)[0].sum()))(*arrays)
    except Exception as error:
        raise LibraryError(
            f"JAX {jax.__version__} cannot trace the kernels ({type(error).__name__}: {error})"
        ) from error


def library() -> bool:
    """Registers the kernels with JAX; raises LibraryError if that is not possible."""
    core()  # first: if the whole installation is broken, the user gets one reason, not two
    return _register()


def gpus() -> tuple[str, ...]:
    """Returns the names of the GPUs that JAX sees."""
    return tuple(str(device) for device in jax.devices() if device.platform != "cpu")


def threads() -> tuple[int, str]:
    """Returns 0: JAX has no such setting."""
    return 0, ""


def gpu_ops() -> str | None:
    """Returns None: XLA calls the kernels."""
    return None


def unavailable(x: Any = None) -> Unavailable | None:
    """Returns why the kernels cannot be used now; None if they can."""
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


def slower_than_keras(_dtype: str, _batch: int | None, _units: int) -> str | None:
    """Returns None: the kernels are preferred."""
    return None


def array(value: Any, like: Any = None) -> Any:
    """Returns a JAX array; a value without a dtype gets that of `like`."""
    if isinstance(value, jax.Array):
        return value
    typed = hasattr(value, "dtype")
    return jnp.asarray(value, dtype=None if typed or like is None else like.dtype)


def boolean(mask: Any) -> Any:
    """Returns a mask [B, T] or [B, T, 1] as booleans [B, T]."""
    return (mask[..., 0] if mask.ndim == 3 else mask).astype(bool)


def with_batch(x: Any, _size: int, _message: str) -> Any:
    """Returns x: JAX traces for a size."""
    return x


def traced_length(_x: Any) -> int | None:
    """Returns None: JAX traces for a number of timesteps, and a program takes no other."""
    return None


def lstm(operands: Operands, options: Options) -> Outputs:
    """Runs the forward pass; see `lstm_fast.backends.backend.Backend`."""
    check_compiled()
    library()
    products = jax.config.jax_default_matmul_precision
    call = _call(operands, options, products, jax_cuda.precision(products))
    return Outputs.unflatten(_forward(call, *present(operands.flatten())))


def _call(operands: Operands, options: Options, products: str | None, precision: str) -> Call:
    there = tuple(operand is not None for operand in operands.flatten())
    return Call(len(operands.directions), options, products, precision, there)


@functools.partial(jax.jit, static_argnums=0)
def _forward(call: Call, *arrays: Any) -> list[Any]:
    varying = frozenset[Any]().union(*map(_varying, arrays))
    return _bind(_forward_p, call, [_vary(value, tuple(varying - _varying(value))) for value in arrays])


def _bind(primitive: Primitive, call: Call, arrays: Sequence[Any]) -> list[Any]:
    # The inner function is a parameter, because JAX looks there for primitives that need to know the devices.
    inner = jax.make_jaxpr(_partitioned(call))(*arrays)
    results: list[Any] = primitive.bind(*arrays, call=call, inner=inner)
    return results


# On one device


def _run_on_cpu(*arrays: Any, call: Call) -> list[Any]:
    """Calls the handler."""
    operands, reserve, gradients = call.spread(arrays)
    x = operands.x
    types = call.types(operands)
    unwanted = jax.ShapeDtypeStruct((0,), x.dtype)
    wanted = call.wanted or [True] * len(types)
    every = operands.flatten() if call.wanted is None else [*operands.flatten(), reserve, *gradients]
    options = call.options
    if call.wanted is None and not call.keeps:
        options = options._replace(reserve_mode=RESERVE_NONE)
    target = "lstm_fast_forward" if call.wanted is None else "lstm_fast_backward"
    outputs = jax.ffi.ffi_call(target, [t if keep else unwanted for t, keep in zip(types, wanted, strict=True)])(
        *(
            jnp.zeros(0, kind.dtype or x.dtype) if operand is None else operand
            for operand, kind in zip(every, call.all_operands, strict=True)
        ),
        directions=np.int64(call.directions),
        **{name: np.int64(value) for name, value in options._asdict().items()},
    )
    return call.only_wanted(outputs)


def _types_on_one_device(*arrays: Any, call: Call) -> list[Any]:
    operands, _, _ = call.spread(arrays)
    x, results = operands.x, call.only_wanted(call.types(operands))
    # On one device nothing is sharded, whatever mesh is set. Only values that vary in jax.shard_map have a mesh.
    return _typed(call, x, results) if _varying(x) else [ShapedArray(r.shape, r.dtype) for r in results]


@functools.partial(jax.jit, static_argnums=0)
def _eagerly(call: Call, *arrays: Any) -> list[Any]:
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
    # JAX 0.12 lowers the addition of two numbers in the mesh of the caller's `jax.set_mesh`. If its axes are explicit,
    # it puts shardings into the addition, and XLA refuses them.
    without_mesh = getattr(jax.sharding, "use_abstract_mesh", None)
    with without_mesh(AbstractMesh((), ())) if without_mesh else contextlib.nullcontext():
        return jax.lax.psum(value, axes)


@functools.cache
def _partitioned(call: Call) -> Callable[..., list[Any]]:
    """Returns a function that gives every device its own rows of the batch, and all of the weights."""

    def run(*arrays: Any) -> list[Any]:
        results: list[Any] = _passes_p.bind(*arrays, call=call)
        return results

    def rows(operands: Sequence[Any]) -> Any:
        """The mesh axes over which the batch of x is spread."""
        spec = getattr(operands[0].sharding, "spec", None)
        return spec[0] if spec else None

    def place(mesh: Any, kinds: Sequence[Kind], axes: Any) -> list[NamedSharding]:
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

    def factors(side: str, kinds: Sequence[Kind]) -> str:
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


def _inner(*arrays: Any, call: Call, inner: Any) -> Any:  # noqa: ARG001
    return jaxpr_as_fun(inner)(*arrays)


def _map(primitive: Primitive, arrays: Sequence[Any], axes: Sequence[Any], *, call: Call, inner: Any) -> Any:
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
            row = iter(values)
            return _bind(primitive, call, [next(row) if m else v for v, m in zip(arrays, mapped, strict=True)])

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


def _differentiate(primals: Sequence[Any], tangents: Sequence[Any], *, call: Call, inner: Any) -> Any:
    """Runs the forward pass so that the backward pass can follow, and returns placeholders for the tangents, too."""
    del inner
    if call.differentiated:
        _refuse_second_order()
    call = call._replace(differentiated=True)
    results = _bind(_forward_p, call, primals)
    outputs, reserve = (results[:-1], results[-1:]) if call.keeps else (results, [])
    every = call.spread(tangents)[0].flatten()
    by_place = {
        place: every[place]
        for place in with_gradient(call.directions)
        if every[place] is not None and type(every[place]) is not Zero
    }
    if not by_place:  # only dropout multipliers, which have no gradient
        placeholders = [jnp.zeros_like(output) for output in outputs]
    else:
        avals = tuple(jax.typeof(output) for output in outputs)
        values, places = by_place.values(), tuple(by_place)
        placeholders = _tangent_p.bind(*primals, *reserve, *values, call=call, places=places, avals=avals)
    return outputs, placeholders


def _transpose(cotangents: Sequence[Any], *arrays: Any, call: Call, places: tuple[int, ...], avals: Any) -> list[Any]:
    """Runs the backward pass: the gradients of the operands that have a tangent, which are at `places`."""
    del avals
    doutputs = [None if type(cotangent) is Zero else cotangent for cotangent in cotangents]
    residuals, tangents = arrays[: -len(places)], arrays[-len(places) :]
    primals, reserve = (residuals[:-1], residuals[-1]) if call.keeps else (residuals, None)
    undefined = [place for place, tangent in zip(places, tangents, strict=True) if is_undefined_primal(tangent)]
    further = [reserve, *doutputs]
    backward = call._replace(
        present=(*call.present, *(value is not None for value in further)),
        wanted=tuple(place in undefined for place in with_gradient(call.directions)),
    )
    operands = [*primals, *present(further)]
    gradients = dict(zip(sorted(undefined), _bind(_backward_p, backward, operands), strict=True))
    return [None] * len(residuals) + [gradients.get(place) for place in places]


def _refuse_second_order(*_: Any, **__: Any) -> NoReturn:
    raise NotImplementedError(SECOND_ORDER)


def _refuse_forward_mode(*_: Any, **__: Any) -> NoReturn:
    raise NotImplementedError(
        "lstm_fast: forward-mode differentiation (jvp, jacfwd, linearize) is not implemented; reverse mode is (grad, "
        f"vjp, jacrev); {IN_THEIR_PLACE}"
    )


def _results(x: Any, *_: Any, call: Call, inner: Any) -> list[Any]:
    return _typed(call, x, inner.out_avals)


def _typed(call: Call, x: Any, results: Sequence[Any]) -> list[Any]:
    """Types of a primitive's results. Where types have a sharding, it is that of x."""
    axes = x.sharding.spec[0]
    types = []
    for result, kind in zip(results, call.results, strict=True):
        spec = PartitionSpec(*(axes if axis == kind.batch else None for axis in range(kind.rank)))
        sharding = NamedSharding(x.sharding.mesh, spec)
        types.append(x.update(shape=result.shape, dtype=result.dtype, weak_type=False, sharding=sharding))
    return types


def _varying(value: Any) -> frozenset[Any]:
    """The axes of `jax.shard_map` along which a value, or a value of a type, varies."""
    kind = value if isinstance(value, ShapedArray) else jax.typeof(value)
    return getattr(getattr(kind, "mat", None), "varying", None) or getattr(kind, "vma", None) or frozenset()


def _vary(value: Any, axes: tuple[Any, ...]) -> Any:
    """Marks a value as varying along further axes, so that its gradient is summed over them."""
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

# Never run: JAX transposes it, except in forward mode, which is refused.
_tangent_p = Primitive("lstm_fast_tangent")
_tangent_p.multiple_results = True
_tangent_p.def_impl(_refuse_forward_mode)
_tangent_p.def_abstract_eval(lambda *_, call, places, avals: avals)  # noqa: ARG005
mlir.register_lowering(_tangent_p, _refuse_forward_mode)
batching.primitive_batchers[_tangent_p] = _refuse_forward_mode
primitive_jvps[_tangent_p] = _refuse_second_order
primitive_transposes[_tangent_p] = _transpose
