"""JAX arrays: results and gradients against the reference, JAX's transformations, batches sharded over devices.

Every test proves that the fused kernels ran, and how often.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import data_parallel
import numpy as np
import pytest
import tolerances
from cases import (
    KINDS,
    RESERVE_MODES,
    label,
    make_problem,
    pairwise,
    solve_by_reference,
)
from keras_side import fused

import lstm_fast
from lstm_fast import _core

jax = pytest.importorskip("jax")
jnp = jax.numpy

from jax_side import solve_by_jax  # noqa: E402

pytestmark = pytest.mark.backends("jax")


@pytest.fixture(autouse=True)
def float64(request: pytest.FixtureRequest) -> Iterator[None]:
    """Turns on float64, which JAX has only on request."""
    options = getattr(request.node, "callspec", None)
    dtype = options.params.get("options", {}).get("dtype", "float32") if options else "float32"
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", dtype == "float64")
    yield
    jax.config.update("jax_enable_x64", before)


@pytest.mark.parametrize(
    "options",
    pairwise(
        {
            **KINDS,
            "projected": (False, True),
            "jit": (True, False),
            "reserve": tuple(RESERVE_MODES),
        }
    ),
    ids=label,
)
def test_results_and_gradients(options):
    how = {name: options[name] for name in ("jit", "reserve")}
    problem = make_problem(5, 18, 4, 7, **{name: value for name, value in options.items() if name not in how})
    expected = solve_by_reference(problem)
    with fused(forward=1, backward=1):
        found = solve_by_jax(problem, **how)
    expected.check(found)


@pytest.mark.parametrize("reserve", ["gates", "recompute"])
def test_every_instruction_set(isa, reserve):
    assert _core.isa() == isa
    problem = make_problem(6, 20, 3, 9, directions=2, mask="holes")
    with fused(forward=1, backward=1):
        found = solve_by_jax(problem, jit=True, reserve=reserve)
    solve_by_reference(problem).check(found)


# XLA itself leaves out a call whose results have no values.
@pytest.mark.parametrize(("shape", "forward"), [((0, 3, 2, 4), 0), ((2, 0, 3, 4), 1), ((1, 1, 1, 1), 1)])
def test_empty_and_smallest_shapes(shape, forward):
    problem = make_problem(*shape)
    with fused(forward=forward, backward=1):
        found = solve_by_jax(problem, jit=True)
    solve_by_reference(problem).check(found)


@pytest.mark.fast
def test_arguments_are_checked_in_terms_of_the_caller():
    x, kernel, recurrent_kernel, bias = arrays()
    with fused(0):
        with pytest.raises(ValueError, match=r"`kernel`: expected shape .* found \(4, 28\)"):
            jax.jit(lstm_fast.lstm)(x, kernel[:4], recurrent_kernel, bias)
        with pytest.raises(TypeError, match="`bias`: expected dtype float32, found int32"):
            lstm_fast.lstm(x, kernel, recurrent_kernel, bias.astype(int))


# Transformations

BATCH, TIME, FEATURES, UNITS = 6, 5, 5, 7


def arrays(units: int = UNITS) -> list[Any]:
    problem = make_problem(BATCH, TIME, FEATURES, units)
    return list(map(jnp.asarray, (problem.x, problem.kernels[0], problem.recurrent_kernels[0], problem.biases[0])))


def sequences(x: Any, *weights: Any) -> Any:
    return lstm_fast.lstm(x, *weights, return_sequences=True)[0]


def loss(x: Any, *weights: Any) -> Any:
    """A weighted sum of the outputs, in which no two have the same weight."""
    y = sequences(x, *weights)
    return (jnp.cos(jnp.arange(y[0].size, dtype=x.dtype)).reshape(y[0].shape) * y).sum()


def assert_agree(found: Any, expected: Any) -> None:
    jax.tree.map(
        lambda a, b: tolerances.assert_close(a, b, tolerances.between_layers("float32", BATCH * TIME * UNITS, b)),
        found,
        expected,
    )


def gradients(*operands: Any) -> Any:
    return jax.grad(loss, argnums=(0, 1, 2, 3))(*operands)


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_vmap_folds_mapped_rows_into_the_batch(transform):
    x, *weights = arrays()
    each = jax.vmap(lambda row: sequences(row[None], *weights)[0])
    with fused(forward=2):
        assert_agree(transform(each)(x), sequences(x, *weights))
    with fused(forward=1):
        found = transform(jax.vmap(each))(x.reshape(2, 3, TIME, FEATURES))
    assert_agree(found.reshape(BATCH, TIME, UNITS), sequences(x, *weights))


def test_vmap_over_another_axis_with_masks_and_states():
    problem = make_problem(BATCH, TIME, FEATURES, UNITS, mask="holes", input_dropout=True, recurrent_dropout=True)
    x, mask, kernel, recurrent_kernel, bias, h0, c0, input_dropout, recurrent_dropout = (
        jnp.asarray(value[0] if isinstance(value, list) else value) for value in problem.inputs
    )

    def run(x: Any, mask: Any, h0: Any, c0: Any, input_dropout: Any, recurrent_dropout: Any) -> Any:
        return lstm_fast.lstm(
            x,
            kernel,
            recurrent_kernel,
            bias,
            initial_state=[h0, c0],
            mask=mask,
            input_dropout=input_dropout,
            recurrent_dropout=recurrent_dropout,
        )

    def one(*values: Any) -> Any:
        *states, input_dropout, recurrent_dropout = values
        states = [value[None] for value in states]
        return run(*states, input_dropout[:, None], recurrent_dropout[:, None])

    with fused(forward=2):
        whole = run(x, mask, h0, c0, input_dropout, recurrent_dropout)
        found = jax.vmap(one, in_axes=(1, 1, 0, 0, 1, 1))(
            x.swapaxes(0, 1), mask.T, h0, c0, input_dropout, recurrent_dropout
        )
    assert_agree([value[:, 0] for value in found], list(whole))


def test_vmap_of_the_recurrence():
    x, kernel, *weights = arrays()
    z = x @ kernel
    each = jax.vmap(lambda row: lstm_fast.recurrence(row[None], *weights, return_sequences=True)[0][0])
    with fused(forward=2):
        assert_agree(each(z), sequences(x, kernel, *weights))


def test_grad_of_vmap_is_one_backward_pass():
    x, *weights = arrays()
    expected = gradients(x, *weights)

    def mapped(x: Any, *weights: Any) -> Any:
        return jax.vmap(lambda row: loss(row[None], *weights))(x).sum()

    with fused(forward=1, backward=1):
        found = jax.grad(mapped, argnums=(0, 1, 2, 3))(x, *weights)
    assert_agree(found, expected)


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_gradients_per_example(transform):
    x, *weights = arrays()
    per_example = jax.vmap(lambda row, *weights: gradients(row[None], *weights), in_axes=(0, None, None, None))
    with fused(forward=1, backward=BATCH):  # one forward pass; its reserve is then cut into rows
        dx, *dweights = transform(per_example)(x, *weights)
    expected = [gradients(x[i : i + 1], *weights) for i in range(BATCH)]
    assert_agree([dx, *dweights], [jnp.stack(column) for column in zip(*expected, strict=True)])


def test_vmap_over_weights():
    x, kernel, *others = arrays()
    kernels = jnp.stack([kernel, 2 * kernel, kernel / 2])
    axes = (None, 0, None, None)
    with fused(forward=6):
        found = jax.vmap(sequences, in_axes=axes)(x, kernels, *others)
        assert_agree(found, jnp.stack([sequences(x, kernel, *others) for kernel in kernels]))
    expected = [
        jnp.stack(column) for column in zip(*(gradients(x, kernel, *others) for kernel in kernels), strict=True)
    ]
    with fused(forward=3, backward=3):
        assert_agree(list(jax.vmap(gradients, in_axes=axes)(x, kernels, *others)), expected)
    with fused(forward=3, backward=3):
        summed = jax.grad(lambda kernels: jax.vmap(loss, in_axes=axes)(x, kernels, *others).sum())(kernels)
    assert_agree(summed, expected[1])


def test_jacobian_row_by_row():
    x, *weights = arrays()
    with fused(forward=1, backward=1):  # only x has a gradient here: the rows are folded
        jacobian = jax.jacrev(lambda x: sequences(x, *weights)[:, -1, 0])(x)
    assert jacobian.shape == (BATCH, BATCH, TIME, FEATURES)
    for i in range(BATCH):
        expected = jax.grad(lambda x, i=i: sequences(x, *weights)[i, -1, 0])(x)
        assert_agree(jacobian[i], expected)


@pytest.mark.parametrize(("passes", "wrap"), [((2, 1), jax.checkpoint), ((1, 1), jax.jit)], ids=["remat", "jit"])
def test_other_transformations_around_the_loss(passes, wrap):
    x, *weights = arrays()
    expected = gradients(x, *weights)
    with fused(*passes):
        found = jax.grad(wrap(loss), argnums=(0, 1, 2, 3))(x, *weights)
    assert_agree(found, expected)


def test_scan():
    x, *weights = arrays()

    def total(x: Any, *weights: Any) -> Any:
        return jax.lax.scan(lambda sum_, row: (sum_ + loss(row[None], *weights), None), 0.0, x)[0]

    expected = gradients(x, *weights)
    with fused(forward=BATCH, backward=BATCH):
        found = jax.jit(jax.grad(total, argnums=(0, 1, 2, 3)))(x, *weights)
    assert_agree(found, expected)


def test_gradients_that_nobody_asks_for_are_not_computed():
    operands = arrays()
    text = jax.jit(jax.grad(loss, argnums=2)).lower(*operands).as_text()
    (line,) = (line for line in text.splitlines() if "lstm_fast_backward" in line)
    shape = f"{UNITS}x{4 * UNITS}"
    nothing = ", ".join(["tensor<0xf32>"] * 3)
    assert f"-> (tensor<0xf32>, tensor<0xf32>, tensor<{shape}xf32>, {nothing})" in line
    with fused(forward=2, backward=2):
        assert_agree(jax.grad(loss, argnums=2)(*operands), gradients(*operands)[2])


def test_no_reserve_without_a_gradient():
    text = jax.jit(sequences).lower(*arrays()).as_text()
    assert "lstm_fast_forward" in text
    assert "ui8" not in text


@pytest.mark.fast
def test_a_mask_has_no_gradient():
    problem = make_problem(BATCH, TIME, FEATURES, UNITS, mask="holes")
    x, *weights = arrays()

    def of_mask(x: Any, mask: Any) -> Any:
        return lstm_fast.lstm(x, *weights, mask=mask)[0].sum()

    with fused(forward=1, backward=1):
        dx, dmask = jax.grad(of_mask, argnums=(0, 1), allow_int=True)(x, jnp.asarray(problem.mask))
    assert dmask.dtype == jax.dtypes.float0
    assert dmask.shape == problem.mask.shape
    assert np.abs(dx).max() > 0


@pytest.mark.fast
def test_donated_buffers():
    x, kernel, recurrent_kernel, bias = arrays(units=FEATURES)
    expected = sequences(x, kernel, recurrent_kernel, bias)
    given = x + 0
    with fused(forward=1):
        found = jax.jit(sequences, donate_argnums=0)(given, kernel, recurrent_kernel, bias)
    assert given.is_deleted()
    assert_agree(found, expected)


REFUSED: dict[str, tuple[str, Callable[..., Any]]] = {
    "grad of grad": ("gradients of gradients", lambda *a: jax.grad(lambda x: jax.grad(loss)(x, *a[1:]).sum())(a[0])),
    "hessian": ("gradients of gradients", jax.hessian(loss)),
    "jvp": ("forward-mode", lambda *a: jax.jvp(loss, a, a)),
    "jvp of vmap": (
        "forward-mode",
        lambda *a: jax.jvp(jax.vmap(loss, (0, None, None, None)), (a[0][None], *a[1:]), (a[0][None], *a[1:])),
    ),
    "vmap of jvp": (
        "forward-mode",
        lambda *a: jax.vmap(lambda x: jax.jvp(lambda x: loss(x, *a[1:]), (x,), (x,)))(a[0][None]),
    ),
    "jacfwd": ("forward-mode", jax.jacfwd(loss)),
    "linearize": ("forward-mode", lambda *a: jax.linearize(loss, *a)[1](*a)),
}


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_implemented_is_refused_with_advice(name, jit):
    message, run = REFUSED[name]
    operands = arrays()
    with pytest.raises(NotImplementedError, match=f"{message}.*LSTM_FAST_KERNEL=keras"):
        (jax.jit(run) if jit else run)(*operands)


def test_export_with_open_sizes():
    from jax import export

    x, *weights = arrays()
    batch, time = export.symbolic_shape("batch, time")
    unchecked = [export.DisabledSafetyCheck.custom_call(f"lstm_fast_{name}") for name in ("forward", "backward")]
    specs = [jax.ShapeDtypeStruct((batch, time, FEATURES), x.dtype), *weights]

    def of_states(recompute: bool) -> Callable[..., Any]:
        def last(x: Any, *weights: Any) -> Any:
            return lstm_fast.lstm(x, *weights, recompute=recompute)[0].sum()

        return jax.grad(last, argnums=(0, 1, 2, 3))

    for recompute in (False, True):
        exported = export.export(jax.jit(of_states(recompute)), disabled_checks=unchecked)(*specs)
        for shape in ((2, 3), (4, 17)):
            some = jnp.ones((*shape, FEATURES))
            with fused(forward=2, backward=2):
                assert_agree(exported.call(some, *weights), of_states(recompute)(some, *weights))


# Several devices. Their number is fixed when a process starts.

SHARDED = """
import re, warnings
import numpy as np
import jax
import jax.numpy as jnp
import tolerances
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from cases import make_problem
from lstm_fast import _core, lstm
warnings.simplefilter("error")
assert jax.device_count() == 4
problem = make_problem(8, 6, 5, 7, mask="holes")
operands = [jnp.asarray(value[0] if isinstance(value, list) else value) for value in problem.inputs[:7]]
dy = jnp.asarray(problem.dy)
with_rows = [0, 1, 2, 6, 7]  # of dy and the operands

def run(x, kernel, recurrent_kernel, bias, h0, c0, mask):
    return lstm(x, kernel, recurrent_kernel, bias, initial_state=[h0, c0], mask=mask, return_sequences=True)

def step(dy, x, mask, *others):
    (y, h, c), pull = jax.vjp(lambda *operands: run(*operands, mask), x, *others)
    return (y, h, c), pull((dy, h, c))

expected = step(dy, *operands)

def check(function, given):
    before = _core.fused_calls()
    found = jax.block_until_ready(function(*given))
    after = _core.fused_calls()
    assert {name: after[name] - before[name] for name in after} == {"forward": 4, "backward": 4}, (before, after)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        tolerances.assert_close(a, b, tolerances.between_layers("float32", 8 * 6 * 7, b))
    return found

def spread(mesh, value, axis):
    return jax.device_put(value, NamedSharding(mesh, PartitionSpec(axis)))

def check_jit(mesh):
    given = [spread(mesh, value, "data" if i in with_rows else None) for i, value in enumerate([dy, *operands])]
    jitted = jax.jit(step)
    program = jitted.lower(*given).compile().as_text()
    assert "lstm_fast_forward" in program and "lstm_fast_backward" in program
    assert "all-reduce" in program  # of the weights' gradients
    assert not re.search("all-gather|all-to-all|collective-permute", program)
    (y, h, c), (dx, dkernel, *_) = check(jitted, given)
    for value in (y, h, c, dx):
        assert value.sharding.spec[0] == "data", value.sharding
    assert dkernel.sharding.is_fully_replicated

mesh = Mesh(np.array(jax.devices()), ("data",))
for shardy in (False, True):
    jax.config.update("jax_use_shardy_partitioner", shardy)
    check_jit(mesh)
    # A batch that is not spread, in a program for several devices.
    check(jax.jit(step), [spread(mesh, value, None) for value in (dy, *operands)])

if hasattr(jax, "set_mesh"):  # JAX 0.7
    explicit = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))
    with jax.set_mesh(explicit):
        check_jit(explicit)

specs = [PartitionSpec("data") if i in (0, 4, 5, 6) else PartitionSpec() for i in range(len(operands))]
for checked in (True, False) if hasattr(jax, "shard_map") else ():  # JAX 0.6
    mapped = jax.shard_map(run, mesh=mesh, in_specs=tuple(specs), out_specs=PartitionSpec("data"), check_vma=checked)
    def whole(x, mask, *others):
        (y, h, c), pull = jax.vjp(lambda *operands: mapped(*operands, mask), x, *others)
        return (y, h, c), pull((dy, h, c))
    check(whole, operands)
    check(jax.jit(whole), operands)
"""


def test_a_batch_spread_over_devices_stays_there():
    devices = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=4"
    subprocess.run(
        [sys.executable, "-c", SHARDED],
        env={**os.environ, "KERAS_BACKEND": "jax", "XLA_FLAGS": devices},
        cwd=Path(__file__).parent,
        check=True,
        timeout=240,
    )


DATA_PARALLEL = """
import sys, warnings
from pathlib import Path
import jax, keras
from data_parallel import *
warnings.simplefilter("error")
warnings.filterwarnings("ignore", ".* does not support masking")  # Keras 3.16, where a mask ends
folder = Path(sys.argv[1])

def fit(name, x, y, batch):
    for masked in (True, False):
        model = compiled(make_model(masked))
        with recorded(folder / f"{name}-{masked}.npz", lambda: jax.device_get([w.value for w in model.weights])):
            model.fit(x, y, batch_size=batch, shuffle=False, verbose=0)
        devices = [len(variable.value.sharding.device_set) for variable in model.variables]
        assert set(devices) == {2 if name == "spread" else 1}, devices

fit("whole", *make_data(), BATCH)
fit("half", *half_data(), BATCH // 2)
assert jax.device_count() == 2
keras.distribution.set_distribution(keras.distribution.DataParallel(devices=keras.distribution.list_devices()))
fit("spread", *make_data(), BATCH)
"""


def test_fit_of_a_model_spread_over_devices(tmp_path):
    """`keras.distribution.DataParallel`: the weights are those of one device with the whole batches."""
    devices = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2"
    data_parallel.run_script(DATA_PARALLEL, tmp_path, KERAS_BACKEND="jax", XLA_FLAGS=devices)
    for masked in (True, False):
        passes = 2 * 2 * data_parallel.STEPS  # directions, devices
        data_parallel.check(tmp_path, f"spread-{masked}", f"whole-{masked}", passes, alone=f"half-{masked}")


# Where the kernels cannot be used


def test_other_platforms_and_versions(monkeypatch):
    from lstm_fast.backends import jax as backend

    assert backend.unavailable() is None
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert "platform tpu" in backend.unavailable().reason
    monkeypatch.undo()
    monkeypatch.delattr(jax, "ffi")
    with pytest.raises(lstm_fast.backends.LibraryError, match=r"no jax\.ffi"):
        backend._register.__wrapped__()
