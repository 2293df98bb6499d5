"""On a real GPU, with every backend of Keras: parity at real sizes, the same bits every time, and features of the
frameworks (streams, CUDA graphs, autocast, memory; devices and strategies). Without a CUDA device all are skipped.

    for backend in torch jax tensorflow; do KERAS_BACKEND=$backend pytest tests/test_gpu.py; done
"""

import contextlib
import importlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import tolerances
from cases import KINDS, MASKS, Problem, Solution, assert_same_bits, label, make_problem, pairwise
from cuda_side import HOW, LAYERS, check_agreement, check_layer, ran, solve_exactly

import lstm_fast
from lstm_fast.backends import cuda

pytestmark = [pytest.mark.gpu, pytest.mark.backends("torch", "jax", "tensorflow")]

BACKEND = os.environ["KERAS_BACKEND"]

with_torch = pytest.mark.backends("torch")
with_jax = pytest.mark.backends("jax")
with_tensorflow = pytest.mark.backends("tensorflow")

OPTIONS = pairwise(
    {
        "units": (1, 64, 100, 128, 256, 512, 1024, 2048),
        "batch": (1, 3, 64, 100),
        "time": (1, 7, 33),
        "features": (1, 32, 100),
        **HOW,
        **KINDS,
    }
)


@contextlib.contextmanager
def in_float32() -> Iterator[None]:
    """Turns TF32 off, which is the default of JAX and TensorFlow on a GPU."""
    if BACKEND == "jax":
        with importlib.import_module("jax").default_matmul_precision("highest"):
            yield
    elif BACKEND == "tensorflow":
        switch = importlib.import_module("tensorflow").config.experimental.enable_tensor_float_32_execution
        switch(False)
        try:
            yield
        finally:
            switch(True)
    else:
        yield


def solve(problem: Problem, reserve: str = "gates") -> Solution:
    """Outputs and gradients, with float32 precision in the products outside the recurrence."""
    if BACKEND == "torch":
        return importlib.import_module("torch_side").solve_by_torch(problem, device="cuda", reserve=reserve)
    if BACKEND == "tensorflow":
        with in_float32():
            return importlib.import_module("tensorflow_side").solve_by_tensorflow(
                problem, mode="graph", reserve=reserve
            )
    jax = importlib.import_module("jax")
    precision = importlib.import_module("frameworks.jax").precision
    with precision(problem.x.dtype.name), jax.default_matmul_precision("highest"):
        return importlib.import_module("jax_side").solve_by_jax(problem, jit=True, reserve=reserve)


@pytest.fixture
def torch() -> Any:
    return importlib.import_module("torch")


@pytest.fixture
def jax() -> Any:
    return importlib.import_module("jax")


def on_gpu(problem: Problem, requires_grad: bool = True) -> list[Any]:
    """x, kernel, recurrent_kernel and bias of a problem with one direction, as tensors."""
    arrays = (problem.x, problem.kernels[0], problem.recurrent_kernels[0], problem.biases[0])
    tensor = importlib.import_module("torch_side").tensor
    return [tensor(value, requires_grad, "cuda") for value in arrays]


def step(*given: Any, **options: Any) -> list[Any]:
    """The output and the gradients of a weighted sum of it, on PyTorch."""
    torch = importlib.import_module("torch")
    y, _, _ = lstm_fast.lstm(*given, return_sequences=True, **options)
    weights = torch.cos(torch.arange(y[0].numel(), dtype=y.dtype, device=y.device)).view(y[0].shape)
    return [y.detach(), *torch.autograd.grad((weights * y).sum(), given)]


# Numbers


@pytest.mark.parametrize("options", OPTIONS, ids=label)
def test_agrees_with_reference(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    check_agreement(solve, options, cuda(), monkeypatch)


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize(("units", "batch"), [(64, 1), (64, 1000), (64, 4096), (256, 2), (256, 1000), (1024, 300)])
def test_batches_of_every_size(units: int, batch: int, directions: int) -> None:
    problem = make_problem(batch, 5, 16, units, directions=directions, mask="right")
    solve_exactly(problem).check(solve(problem))


@pytest.mark.parametrize("batch", [(0, 3), (3, 0)], ids=["no rows", "no timesteps"])
def test_nothing_to_do(batch: tuple[int, int]) -> None:
    problem = make_problem(*batch, directions=2, mask="right")
    solve_exactly(problem).check(solve(problem))


@pytest.mark.parametrize("mask", ["none", "right", "holes"])
@pytest.mark.parametrize("units", [64, 512])
def test_4000_timesteps(units: int, mask: str) -> None:
    problem = make_problem(16 if units == 64 else 4, 4000, 8, units, mask=mask)  # the reference is slow
    solve_exactly(problem).check(solve(problem))


@pytest.mark.parametrize("units", [64, 128, 256, 512, 1024])
def test_a_row_with_nan_is_alone(units: int) -> None:
    problem = make_problem(20, 6, 16, units)
    clean = solve(problem)
    problem.x[7, 3, 1] = np.nan
    found = solve(problem)
    assert np.isnan(found.y[7, 3:]).all()
    np.testing.assert_array_equal(found.y[7, :3], clean.y[7, :3])
    for name in ("y", "dx"):
        a, b = (np.delete(getattr(solution, name), 7, axis=0) for solution in (found, clean))
        np.testing.assert_array_equal(a, b, err_msg=name)


@pytest.mark.parametrize("mask", MASKS[1:])
def test_masked_steps_are_never_read(mask: str) -> None:
    problem = make_problem(20, 18, 16, 64, mask=mask, directions=2)
    assert_same_bits(solve(problem.poisoned()), solve(problem))


@with_torch
@pytest.mark.parametrize("protocol", ["__dlpack__", "__cuda_array_interface__"])
@pytest.mark.parametrize("units", [64, 512])
def test_arrays_of_any_framework(units: int, protocol: str, torch: Any) -> None:
    """The compiled functions on arrays that were made on one stream and are used on another."""
    from test_cuda_array import arguments, presented, results
    from torch_side import array, tensor

    made_on, used_on = torch.cuda.Stream(), torch.cuda.Stream()

    class Array:
        def __init__(self, value: np.ndarray) -> None:
            self.tensor = tensor(value, device="cuda")
            if protocol == "__dlpack__":
                self.__dlpack_device__ = self.tensor.__dlpack_device__
                self.__dlpack__ = self.exported
            else:
                self.__cuda_array_interface__ = {**self.tensor.__cuda_array_interface__, "stream": made_on.cuda_stream}

        def exported(self, **how: Any) -> Any:
            with torch.cuda.stream(made_on):
                return self.tensor.__dlpack__(**how)

    def on_host(value: Any) -> Any:
        if isinstance(value, list):
            return list(map(on_host, value))
        return array(value.tensor) if isinstance(value, Array) else value

    problem = make_problem(20, 18, units=units, directions=2, mask="holes", projected=True)
    both = []
    for given in arguments(cuda(), problem):
        with torch.cuda.stream(made_on):
            arrays, _ = presented({**given, "stream": used_on.cuda_stream}, Array)
        both.append(arrays)
    both[1]["reserve"] = both[0]["reserve"]
    with ran(cuda(), forward=1, backward=1):
        cuda().forward(**both[0])
        cuda().backward(**both[1])
    torch.cuda.synchronize()
    found = [{name: on_host(value) for name, value in arrays.items()} for arrays in both]
    solve_exactly(problem).check(results(problem, *found))


REPEATED = pytest.mark.parametrize(
    ("units", "directions"), [(64, 2), (128, 1), (256, 1), (512, 1), (1024, 1), (2048, 1)]
)


@with_torch
@REPEATED
def test_a_thousand_times_the_same_bits(units: int, directions: int, torch: Any) -> None:
    from lstm_fast.backends import Direction, Operands, Options
    from lstm_fast.backends import torch as backend

    problem = make_problem(48, 40, 16, units, directions=directions, mask="right", dtype="float32")
    tensor = importlib.import_module("torch_side").tensor
    x, mask = tensor(problem.x, True, "cuda"), tensor(problem.mask, device="cuda")
    columns = (problem.kernels, problem.recurrent_kernels, problem.biases)
    given = [Direction(*(tensor(column[n], True, "cuda") for column in columns)) for n in range(directions)]
    leaves = [x, *(value for direction in given for value in direction[:3])]

    def results() -> list[Any]:
        y, _, _ = backend.lstm(Operands(x, mask, given), Options(**problem.options, reserve_mode=1))
        return [y.detach(), *torch.autograd.grad((y * y).sum(), leaves)]

    first = results()
    differs = torch.zeros((), dtype=torch.bool, device="cuda")
    with ran(cuda(), forward=1000, backward=1000):
        for _ in range(1000):
            for found, expected in zip(results(), first, strict=True):
                differs |= (found != expected).any()
    assert not differs.item()


@with_jax
@REPEATED
def test_a_thousand_times_the_same_bits_in_jax(units: int, directions: int, jax: Any) -> None:
    problem = make_problem(48, 40, 16, units, directions=directions, mask="right")
    given = [jax.numpy.asarray(value) for value in (problem.x, problem.kernels[0], problem.recurrent_kernels[0])]
    mask = jax.numpy.asarray(problem.mask)

    @jax.jit
    def results(*given: Any) -> Any:
        def loss(*given: Any) -> Any:
            y = lstm_fast.lstm(*given, mask=mask, return_sequences=True)[0]
            return (y * y).sum(), y

        return jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(*given)

    first = results(*given)
    differs = jax.numpy.zeros((), bool)
    for _ in range(1000):
        for found, expected in zip(jax.tree.leaves(results(*given)), jax.tree.leaves(first), strict=True):
            differs |= (found != expected).any()
    assert not bool(differs)


# Precision


@with_torch
def test_precision_follows_pytorch(torch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LSTM_FAST_PRECISION", raising=False)
    problem = make_problem(32, 20, 64, 256, states=False)
    exact = solve(problem)
    solve_exactly(problem).check(exact)
    torch.set_float32_matmul_precision("high")
    try:
        coarse = solve(problem)
        monkeypatch.setenv("LSTM_FAST_PRECISION", "exact")
        mixed = solve(problem)  # only PyTorch's products
    finally:
        torch.set_float32_matmul_precision("highest")
    solve_exactly(problem, "tf32").check(coarse)
    assert (coarse.y != exact.y).any()
    assert (coarse.y != mixed.y).any()
    assert (mixed.y != exact.y).any()


@with_jax
def test_precision_follows_jax(jax: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LSTM_FAST_PRECISION", raising=False)
    problem = make_problem(32, 20, 64, 256, states=False)
    solve_by_jax = importlib.import_module("jax_side").solve_by_jax
    exact = solve(problem)
    solve_exactly(problem).check(exact)
    coarse = solve_by_jax(problem, jit=True)
    solve_exactly(problem, "tf32").check(coarse)
    assert (coarse.y != exact.y).any()
    with jax.default_matmul_precision("TF32_TF32_F32_X3"):
        solve_exactly(problem).check(solve_by_jax(problem, jit=True))


# PyTorch


@with_torch
def test_streams_at_the_same_time(torch: Any) -> None:
    """Persistent kernels of two streams run at the same time, also kernels whose blocks wait for each other."""
    problems = [make_problem(64, 60, 32, units, states=False) for units in (64, 256, 1024, 1024)]
    given = [on_gpu(problem) for problem in problems]
    expected = [step(*operands) for operands in given]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in problems]
    found: list[Any] = []
    for _ in range(20):
        for stream, operands in zip(streams, given, strict=True):
            with torch.cuda.stream(stream):
                found.append(step(*operands))
    torch.cuda.synchronize()
    for i, results in enumerate(found):
        for a, b in zip(results, expected[i % len(given)], strict=True):
            assert torch.equal(a, b)


@with_torch
@pytest.mark.parametrize("options", [{}, {"recompute": True}], ids=["gates", "recompute"])
@pytest.mark.parametrize("units", [64, 256, 1024])
def test_cuda_graph(units: int, options: dict[str, Any], torch: Any) -> None:
    given = on_gpu(make_problem(16, 12, 24, units, states=False))
    mask = torch.rand(16, 12, device="cuda") < 0.7
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step(*given, mask=mask, **options)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step(*given, mask=mask, **options)
    for seed in range(3):
        torch.manual_seed(seed)
        with torch.no_grad():
            for value in given:
                value.copy_(torch.randn_like(value) / value.shape[-1] ** 0.5)
            mask.copy_(torch.rand(mask.shape, device="cuda") < 0.7)
        graph.replay()
        for a, b in zip(captured, step(*given, mask=mask, **options), strict=True):
            assert torch.equal(a, b)


@with_torch
def test_nothing_waits_for_the_device(torch: Any) -> None:
    given = on_gpu(make_problem(16, 12, 24, 64, states=False))
    mask = torch.rand(16, 12, device="cuda") < 0.7
    step(*given, mask=mask)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(*given, mask=mask)
        step(*given, mask=mask, recompute=True)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@with_torch
@pytest.mark.alone
@pytest.mark.parametrize("units", [64, 256, 1024])
def test_all_memory_is_pytorchs(units: int, torch: Any) -> None:
    given = on_gpu(make_problem(64, 50, 24, units, states=False))

    def others() -> int:
        """Bytes in use outside PyTorch's memory."""
        torch.cuda.synchronize()
        free, total = torch.cuda.mem_get_info()
        return total - free - torch.cuda.memory_reserved()

    step(*given)  # loads the kernels
    torch.cuda.empty_cache()
    before, allocated = others(), torch.cuda.memory_allocated()
    for _ in range(10):
        step(*given)
    assert others() <= before
    assert torch.cuda.memory_allocated() == allocated


@with_torch
def test_recompute_keeps_less(torch: Any) -> None:
    given = on_gpu(make_problem(64, 200, 24, 128, states=False))
    kept = {}
    for recompute in (False, True):
        before = torch.cuda.memory_allocated()
        y, _, _ = lstm_fast.lstm(*given, recompute=recompute)
        kept[recompute] = torch.cuda.memory_allocated() - before
        y.sum().backward()
        del y
    assert kept[True] < kept[False] / 50


@with_torch
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_autocast_does_not_reach_inside(dtype: str, torch: Any) -> None:
    given = on_gpu(make_problem(16, 12, 24, 64, states=False))
    expected = step(*given)
    with torch.autocast("cuda", dtype=getattr(torch, dtype)):
        found = step(*given)
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


@with_torch
def test_tensors_on_several_devices(torch: Any) -> None:
    x, kernel, recurrent_kernel, bias = on_gpu(make_problem(states=False), requires_grad=False)
    with pytest.raises(TypeError, match=r"`kernel`: .*expected a tensor on cuda:0, found one on cpu"):
        lstm_fast.lstm(x, kernel.cpu(), recurrent_kernel, bias)
    with pytest.raises(ValueError, match="`mask`: expected a tensor on cuda:0, found one on cpu"):
        lstm_fast.lstm(x, kernel, recurrent_kernel, bias, mask=torch.ones(x.shape[:2]))
    found = lstm_fast.lstm(x, kernel.cpu().numpy(), recurrent_kernel, bias)  # these are on no device yet
    assert torch.equal(found[0], lstm_fast.lstm(x, kernel, recurrent_kernel, bias)[0])


@with_torch
def test_a_device_that_is_not_the_current_one(torch: Any) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("one CUDA device")
    given = on_gpu(make_problem(16, 12, 24, 64, states=False))
    expected = step(*given)
    there = [value.detach().to("cuda:1").requires_grad_() for value in given]
    assert torch.cuda.current_device() == 0
    for a, b in zip(step(*there), expected, strict=True):
        assert a.get_device() == 1
        assert torch.equal(a.to("cuda:0"), b)


# JAX


@with_jax
def test_transformations(jax: Any) -> None:
    jnp = jax.numpy
    problem = make_problem(6, 5, 5, 64)
    x, *weights = map(jnp.asarray, (problem.x, problem.kernels[0], problem.recurrent_kernels[0], problem.biases[0]))

    def loss(x: Any, *weights: Any) -> Any:
        y = lstm_fast.lstm(x, *weights, return_sequences=True)[0]
        return (jnp.cos(jnp.arange(y[0].size, dtype=x.dtype)).reshape(y[0].shape) * y).sum()

    def gradients(*operands: Any) -> Any:
        return jax.grad(loss, argnums=(0, 1, 2, 3))(*operands)

    def mapped(x: Any, *weights: Any) -> Any:
        return jax.vmap(lambda row: loss(row[None], *weights))(x).sum()

    with jax.default_matmul_precision("highest"):
        expected = gradients(x, *weights)
        for wrap in (jax.jit, jax.checkpoint):
            for found in (
                jax.grad(wrap(loss), argnums=(0, 1, 2, 3))(x, *weights),
                jax.grad(wrap(mapped), argnums=(0, 1, 2, 3))(x, *weights),
            ):
                for a, b in zip(found, expected, strict=True):
                    tolerance = tolerances.between_layers("float32", 6 * 5 * 64, b)
                    tolerances.assert_close(a, b, tolerance)


@with_jax
def test_a_batch_spread_over_devices(jax: Any) -> None:
    if jax.device_count() < 2:
        pytest.skip("one CUDA device")
    problem = make_problem(2 * jax.device_count(), 6, 5, 64)
    arrays = (problem.x, problem.kernels[0], problem.recurrent_kernels[0], problem.biases[0])
    mesh = jax.make_mesh((jax.device_count(),), ("data",))
    specs = [jax.sharding.PartitionSpec("data" if i == 0 else None) for i in range(4)]
    given = [
        jax.device_put(value, jax.sharding.NamedSharding(mesh, spec)) for value, spec in zip(arrays, specs, strict=True)
    ]
    results = jax.jit(lambda *operands: lstm_fast.lstm(*operands, return_sequences=True)[0])
    with ran(cuda(), forward=jax.device_count()):
        found = jax.block_until_ready(results(*given))
    assert found.sharding.spec[0] == "data"
    tolerance = tolerances.between_layers("float32", 11 * 6, found)
    np.testing.assert_allclose(found, results(*map(jax.numpy.asarray, arrays)), rtol=0.0, atol=tolerance)


# TensorFlow


@with_tensorflow
@pytest.mark.parametrize("ops", [True, False], ids=["ops", "XLA calls the kernels"])
@pytest.mark.parametrize("mode", ["eager", "graph", "jit"])
def test_every_mode(mode: str, ops: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from lstm_fast.backends import tensorflow_cuda

    loaded, state = tensorflow_cuda._load()
    if ops and loaded is None:
        pytest.skip(state)
    if not ops:
        monkeypatch.setattr(tensorflow_cuda, "_load", lambda: (None, ""))
    problem = make_problem(8, 20, 16, 64, directions=2, mask="right")
    solve_by_tensorflow = importlib.import_module("tensorflow_side").solve_by_tensorflow
    for open_sizes in {False, mode != "eager"}:
        with in_float32(), ran(cuda(), forward=1, backward=1):
            found = solve_by_tensorflow(problem, mode=mode, open_sizes=open_sizes)
        solve_exactly(problem).check(found)


@with_tensorflow
def test_devices() -> None:
    """A layer for the CPU runs there completely, and a replica of a strategy runs on its own device."""
    import tensorflow as tf
    from keras_side import fused

    problem = make_problem(8, 20, 16, 64, states=False)
    given = [tf.constant(a) for a in (problem.x, problem.kernels[0], problem.recurrent_kernels[0], problem.biases[0])]

    def output() -> Any:
        return lstm_fast.lstm(*given)[0]

    with in_float32():
        with ran(cuda(), 1):
            expected = output()
        assert "GPU" in expected.device
        before = cuda().fused_calls()
        with tf.device("CPU:0"), fused(2):
            found = [output(), tf.function(output)()]
        assert cuda().fused_calls() == before
        with ran(cuda(), 1):
            found.append(tf.distribute.MirroredStrategy(["GPU:0"]).run(output))
    for result in found:
        tolerance = tolerances.between_layers("float32", 20 * 80, expected)
        np.testing.assert_allclose(result, expected, rtol=0.0, atol=tolerance)


@with_tensorflow
def test_precision_follows_tensorflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LSTM_FAST_PRECISION", raising=False)
    problem = make_problem(32, 20, 64, 256, states=False)
    exact = solve(problem)
    solve_exactly(problem).check(exact)
    coarse = importlib.import_module("tensorflow_side").solve_by_tensorflow(problem)
    solve_exactly(problem, "tf32").check(coarse)
    assert (coarse.y != exact.y).any()


# Layers


@pytest.mark.parametrize("options", LAYERS, ids=label)
def test_layer(options: dict[str, Any]) -> None:
    with in_float32():
        check_layer(make_problem(8, 20, 16, 64, **options), cuda())


@pytest.mark.parametrize("wrapper", ["FastBidirectional", "Bidirectional"])
def test_training_is_that_of_keras(wrapper: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses of the first steps from the same weights, with the dropout that Keras draws, on masked input."""
    import keras

    wrap: Callable[[Any], Any] = getattr(lstm_fast if wrapper == "FastBidirectional" else keras.layers, wrapper)
    rng = np.random.default_rng(0)
    ids = np.where(np.arange(30) < rng.integers(1, 30, (64, 1)), rng.integers(1, 50, (64, 30)), 0)

    def losses(layer: Any) -> list[float]:
        keras.utils.set_random_seed(1)
        model = keras.Sequential(
            [keras.Input((None,)), keras.layers.Embedding(50, 16, mask_zero=True), layer(), keras.layers.Dense(1)]
        )
        model.compile("sgd", "mse", jit_compile=False if BACKEND == "torch" else "auto")
        history = model.fit(ids, np.ones((64, 1)), batch_size=8, epochs=1, shuffle=False, verbose=0)
        return [*history.history["loss"], float(np.abs(model.predict(ids, verbose=0)).mean())]

    passes = 1 if wrapper == "FastBidirectional" else 2
    with in_float32():
        with ran(cuda(), forward=10 * passes, backward=8 * passes):
            found = losses(lambda: wrap(lstm_fast.FastLSTM(32, dropout=0.2)))
        monkeypatch.setenv("LSTM_FAST_KERNEL", "keras")
        expected = losses(lambda: keras.layers.Bidirectional(keras.layers.LSTM(32, dropout=0.2)))
    drift = tolerances.DRIFT_PER_STEP * tolerances.ROUNDOFF["float32"] * 8 * max(expected)
    np.testing.assert_allclose(found, expected, rtol=0.0, atol=drift)


def test_status() -> None:
    status = lstm_fast.status()
    assert status.gpus
    assert status.cuda.startswith("built for")
    assert status.problems == ()
