"""The GPU path of JAX, with the CUDA kernels on an emulated device: the CPU gets the program for CUDA."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import emulated
import keras
import numpy as np
import pytest
import tolerances
from cases import RESERVE_MODES, assert_same_bits, label, make_problem, pairwise
from cuda_side import (
    LAYERS,
    SMALL,
    check_agreement,
    check_bytes_of_mask,
    check_layer,
    ran,
    solve_exactly,
    with_dropout_in_one_direction,
)
from keras_side import framework, fused

import lstm_fast
from lstm_fast import libraries
from lstm_fast.backends import PRECISIONS, LibraryError

jax = pytest.importorskip("jax")
jnp = jax.numpy

from jax.interpreters import mlir  # noqa: E402
from jax_side import solve_by_jax  # noqa: E402

from lstm_fast.backends import jax as backend  # noqa: E402
from lstm_fast.backends import jax_cuda  # noqa: E402

pytestmark = pytest.mark.backends("jax")


def compile_for_cpu(run: Callable[..., Any]) -> None:
    """Sets the function to which a pass is compiled on the CPU."""
    mlir.register_lowering(backend._passes_p, mlir.lower_fun(run, multiple_results=True), platform="cpu")
    jax.clear_caches()


@pytest.fixture(scope="session")
def module() -> ModuleType:
    loaded = emulated.load()
    for name, handler in loaded.xla_handlers().items():
        jax.ffi.register_ffi_target(name, handler, platform="cpu")
    return loaded


@pytest.fixture
def device(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Puts the emulated device in the place of the CPU."""
    monkeypatch.setattr(jax_cuda, "cuda", lambda: module)
    monkeypatch.setattr(jax_cuda, "library", lambda: True)
    compile_for_cpu(jax_cuda.run)
    yield module
    compile_for_cpu(backend._run_on_cpu)


@pytest.fixture(autouse=True)
def float64(request: pytest.FixtureRequest) -> Iterator[None]:
    """Turns on float64, which JAX has only on request."""
    options = getattr(request.node, "callspec", None)
    dtype = options.params.get("options", {}).get("dtype", "float32") if options else "float32"
    with framework.precision(dtype):
        yield


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """JAX's default for CUDA is TF32."""
    monkeypatch.setenv("LSTM_FAST_PRECISION", "exact")


# Numbers


@pytest.mark.parametrize("options", pairwise({**SMALL, "jit": (True, False)}), ids=label)
def test_agrees_with_reference(options: dict[str, Any], device: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    check_agreement(solve_by_jax, options, device, monkeypatch)


@pytest.mark.parametrize("jit", [True, False])
def test_any_byte_of_a_mask_but_0_is_real(jit: bool, device: ModuleType) -> None:
    check_bytes_of_mask(solve_by_jax, device, jit=jit)


@pytest.mark.parametrize("field", ["input_dropout", "recurrent_dropout"])
@pytest.mark.parametrize("without", [0, 1])
def test_dropout_in_one_direction_only(field: str, without: int, device: ModuleType) -> None:
    problem = with_dropout_in_one_direction(field, without)
    with ran(device, forward=1, backward=1):
        found = solve_by_jax(problem, jit=True)
    solve_exactly(problem).check(found)


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("reserve", RESERVE_MODES)
@pytest.mark.parametrize(("batch", "time"), [(0, 3), (3, 0), (0, 0)])
def test_no_rows_or_no_timesteps(batch: int, time: int, reserve: str) -> None:
    problem = make_problem(batch, time, directions=2, mask="right", input_dropout=True, recurrent_dropout=True)
    solve_exactly(problem).check(solve_by_jax(problem, jit=True, reserve=reserve))  # XLA leaves out calls on nothing


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("input_dropout", [False, True])
def test_masked_steps_are_never_read(input_dropout: bool) -> None:
    problem = make_problem(5, 6, 3, 8, mask="holes", directions=2, input_dropout=input_dropout)
    assert_same_bits(solve_by_jax(problem.poisoned()), solve_by_jax(problem))


# JAX's transformations: those of the primitives are tested in test_jax.py.

BATCH, TIME, FEATURES, UNITS = 6, 5, 5, 7


def arrays() -> list[Any]:
    problem = make_problem(BATCH, TIME, FEATURES, UNITS)
    return list(map(jnp.asarray, (problem.x, problem.kernels[0], problem.recurrent_kernels[0], problem.biases[0])))


def loss(x: Any, *weights: Any) -> Any:
    """A weighted sum of the outputs, in which no two have the same weight."""
    y = lstm_fast.lstm(x, *weights, return_sequences=True)[0]
    return (jnp.cos(jnp.arange(y[0].size, dtype=x.dtype)).reshape(y[0].shape) * y).sum()


def gradients(*operands: Any) -> Any:
    return jax.grad(loss, argnums=(0, 1, 2, 3))(*operands)


def assert_agree(found: Any, expected: Any) -> None:
    jax.tree.map(
        lambda a, b: tolerances.assert_close(a, b, tolerances.between_layers("float32", BATCH * TIME * UNITS, b)),
        found,
        expected,
    )


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_vmap(transform: Callable[..., Any], device: ModuleType) -> None:
    x, *weights = arrays()
    expected = jax.block_until_ready(gradients(x, *weights))

    def mapped(x: Any, *weights: Any) -> Any:
        return jax.vmap(lambda row: loss(row[None], *weights))(x).sum()

    with ran(device, forward=1, backward=1):
        assert_agree(transform(jax.grad(mapped, argnums=(0, 1, 2, 3)))(x, *weights), expected)
    per_example = jax.vmap(lambda row, *weights: gradients(row[None], *weights), in_axes=(0, None, None, None))
    with ran(device, forward=1, backward=BATCH):  # one forward pass; its reserve is then cut into rows
        _, *dweights = transform(per_example)(x, *weights)
        assert_agree([gradient.sum(axis=0) for gradient in dweights], list(expected[1:]))


@pytest.mark.usefixtures("device")
def test_gradients_that_nobody_asks_for_are_not_computed() -> None:
    operands = arrays()
    expected = gradients(*operands)
    for i in range(len(operands)):
        program = jax.jit(jax.grad(loss, argnums=i)).lower(*operands).compile().as_text()
        # For x: z and dx. For the others: z, and the gradient itself if it is a product.
        assert program.count(" dot(") <= 2, i
        assert_agree(jax.grad(loss, argnums=i)(*operands), expected[i])


@pytest.mark.parametrize("recompute", [False, True])
def test_export_with_open_sizes(recompute: bool, device: ModuleType) -> None:
    from jax import export

    def results(*operands: Any) -> Any:
        def loss_and_output(*operands: Any) -> Any:
            y = lstm_fast.lstm(*operands, mask=operands[0][..., 0] > -1, return_sequences=True, recompute=recompute)[0]
            return (y * y).sum(), y

        return jax.grad(loss_and_output, argnums=(0, 1, 2, 3), has_aux=True)(*operands)

    x, *weights = arrays()
    batch, time = export.symbolic_shape("batch, time")
    specs = [jax.ShapeDtypeStruct((batch, time, FEATURES), x.dtype), *weights]
    unchecked = [export.DisabledSafetyCheck.custom_call(f"lstm_fast_cuda_{name}") for name in ("forward", "backward")]
    exported = export.export(jax.jit(results), disabled_checks=unchecked)(*specs)
    for some in (x, x[:2, :3]):
        with ran(device, forward=2 if recompute else 1, backward=1):
            found = jax.block_until_ready(exported.call(some, *weights))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0.0, atol=1e-5), found, results(some, *weights))


# Precision


@pytest.mark.parametrize(
    ("chosen", "expected"),
    {
        None: "tf32",
        "default": "tf32",
        "high": "tf32",
        "tensorfloat32": "tf32",
        "TF32_TF32_F32": "tf32",
        "TF32_TF32_F32_X3": "tf32x3",
        "highest": "exact",
        "float32": "exact",
        "BF16_BF16_F32_X9": "exact",
    }.items(),
)
def test_precision_is_that_of_jaxs_products(chosen: Any, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are fixed by the trace, not by the later compilation."""
    standing = SimpleNamespace(scratch_bytes=lambda *_: 1024)
    monkeypatch.setattr(jax_cuda, "cuda", lambda: standing)
    monkeypatch.setattr(jax_cuda, "library", lambda: True)
    operands = [jax.ShapeDtypeStruct(value.shape, value.dtype) for value in arrays()]

    def program() -> str:
        with jax.default_matmul_precision(chosen):
            traced = jax.jit(jax.grad(loss, argnums=1)).trace(*operands)
        return traced.lower(lowering_platforms=("cuda",)).as_text()

    def in_recurrence(text: str) -> set[str]:
        lines = [line for line in text.splitlines() if "@lstm_fast_cuda_" in line]
        assert len(lines) == 2
        return {PRECISIONS[int(value)] for line in lines for value in re.findall(r"precision = (\d)", line)}

    products = re.compile("precision = (?:\\[.*?\\])|algorithm = <.*?>")

    monkeypatch.delenv("LSTM_FAST_PRECISION")
    text = program()
    assert in_recurrence(text) == {expected}
    with jax.default_matmul_precision(chosen):
        product = jax.jit(lambda x, kernel: x @ kernel).trace(*operands[:2])
    plain = product.lower(lowering_platforms=("cuda",)).as_text()
    for line in text.splitlines():
        if "dot_general" in line:
            assert products.findall(line) == products.findall(plain)
    monkeypatch.setenv("LSTM_FAST_PRECISION", "tf32x3")
    assert in_recurrence(program()) == {"tf32x3"}
    monkeypatch.setenv("LSTM_FAST_PRECISION", "double")
    with pytest.raises(ValueError, match="LSTM_FAST_PRECISION: expected one of exact, tf32, tf32x3, found 'double'"):
        program()


# Where the kernels cannot be used


def test_reasons_against(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gpu:
        compute_capability = "7.5"

        def __str__(self) -> str:
            return "gpu:0"

    def reason() -> str:
        return backend.unavailable().reason

    gpu = Gpu()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "local_devices", lambda: [gpu])
    monkeypatch.setattr(jax_cuda, "library", lambda: True)
    monkeypatch.setattr(libraries, "cuda_state", lambda: "built for sm_80, sm_90")
    assert reason() == "gpu:0 has compute capability 7.5: the kernel needs 8.0 or later"
    gpu.compute_capability = "gfx90a"
    assert reason() == "gpu:0 is not a CUDA device: no kernel for it"
    gpu.compute_capability = "10.0"
    assert backend.unavailable() is None

    def missing() -> None:
        raise LibraryError("the CUDA kernels were not built: because")

    monkeypatch.setattr(jax_cuda, "library", missing)
    assert reason() == "JAX runs on a GPU: the CUDA kernels were not built: because"
    monkeypatch.setattr(jax_cuda, "library", lambda: True)
    assert backend.unavailable() is None


# Layers


@pytest.mark.parametrize("options", LAYERS, ids=label)
def test_layer(options: dict[str, Any], device: ModuleType) -> None:
    check_layer(make_problem(3, 5, 4, 7, **options), device)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize(("wrapper", "passes"), [(lstm_fast.FastBidirectional, 1), (keras.layers.Bidirectional, 2)])
def test_both_directions_in_fit(wrapper: Any, passes: int, dropout: float, device: ModuleType) -> None:
    problem = make_problem(4, 5, 3, 7)

    def fit() -> list[np.ndarray]:
        keras.utils.set_random_seed(1)
        layer = wrapper(lstm_fast.FastLSTM(7, dropout=dropout, recurrent_dropout=dropout))
        model = keras.Sequential([keras.Input((5, 3)), layer, keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        model.fit(problem.x, np.ones((4, 1), "float32"), batch_size=2, epochs=1, verbose=0)
        return [*model.get_weights(), model.predict(problem.x, verbose=0)]

    with fused(0), ran(device, forward=3 * passes, backward=2 * passes):
        found = fit()
    compile_for_cpu(backend._run_on_cpu)
    with fused(3 * passes, 2 * passes):
        expected = fit()
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0.0, atol=tolerances.between_layers("float32", 4 * 5 * 10, b))


# Several devices. Their number is fixed when a process starts.

SHARDED = """
import re
import jax, jax.numpy as jnp
import numpy as np
import emulated, test_cuda_jax
from cuda_side import ran
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from lstm_fast.backends import jax_cuda
assert jax.device_count() == 2
module = emulated.load()
for name, handler in module.xla_handlers().items():
    jax.ffi.register_ffi_target(name, handler, platform="cpu")
jax_cuda.cuda, jax_cuda.library = lambda: module, lambda: True
test_cuda_jax.compile_for_cpu(jax_cuda.run)
mesh = Mesh(np.array(jax.devices()), ("data",))
operands = test_cuda_jax.arrays()
expected = test_cuda_jax.gradients(*operands)
for shardy in (False, True):
    jax.config.update("jax_use_shardy_partitioner", shardy)
    specs = [PartitionSpec("data" if i == 0 else None) for i in range(4)]
    given = [jax.device_put(value, NamedSharding(mesh, spec)) for value, spec in zip(operands, specs)]
    jitted = jax.jit(test_cuda_jax.gradients)
    program = jitted.lower(*given).compile().as_text()
    assert "lstm_fast_cuda_forward" in program and "lstm_fast_cuda_backward" in program
    assert "all-reduce" in program  # of the weights' gradients
    assert not re.search("all-gather|all-to-all|collective-permute", program)
    with ran(module, forward=2, backward=2):
        found = jax.block_until_ready(jitted(*given))
    test_cuda_jax.assert_agree(found, expected)
    assert found[0].sharding.spec[0] == "data"
spread = PartitionSpec("data")
mapped = jax.shard_map(
    lambda *values: jax.lax.psum(test_cuda_jax.loss(*values), "data"),
    mesh=mesh, in_specs=(spread, *[PartitionSpec()] * 3), out_specs=PartitionSpec(),
)
with ran(module, forward=2, backward=2):
    found = jax.block_until_ready(jax.jit(jax.grad(mapped, argnums=(0, 1, 2, 3)))(*operands))
test_cuda_jax.assert_agree(found, expected)
"""


@pytest.mark.usefixtures("module")
def test_a_batch_spread_over_devices_stays_there() -> None:
    devices = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2"
    subprocess.run(
        [sys.executable, "-c", SHARDED],
        env={**os.environ, "XLA_FLAGS": devices, "LSTM_FAST_PRECISION": "exact"},
        cwd=Path(__file__).parent,
        check=True,
        timeout=240,
    )
