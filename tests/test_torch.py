"""lstm_fast.lstm on PyTorch tensors: requirements beyond the numbers. Parity is in test_parity_layer.py."""

import concurrent.futures
import math
import sys
import types
from pathlib import Path
from typing import Any

import data_parallel
import numpy as np
import pytest
import tolerances
from cases import DTYPES, Problem, make_problem, solve_by_kernel, solve_by_reference
from keras_side import fused

import lstm_fast
from lstm_fast import _core
from lstm_fast.backends import Direction, Operands, Options

torch = pytest.importorskip("torch")

from torch_side import array, tensor  # noqa: E402

from lstm_fast.backends import torch as backend  # noqa: E402

TORCH = tuple(int(part) for part in torch.__version__.split(".")[:2])

pytestmark = pytest.mark.backends("torch")


def arguments(problem: Problem, requires_grad: bool = True) -> list[Any]:
    """x, kernel, recurrent_kernel and bias of a problem with one direction."""
    arrays = (problem.x, problem.kernels[0], problem.recurrent_kernels[0], problem.biases[0])
    return [tensor(value, requires_grad) for value in arrays]


def options(problem: Problem) -> dict[str, Any]:
    return {
        **problem.options,
        "mask": None if problem.mask is None else torch.tensor(problem.mask),
        "initial_state": None if problem.h0[0] is None else [tensor(problem.h0[0]), tensor(problem.c0[0])],
    }


def test_same_bits_as_the_compiled_functions() -> None:
    """Only the kernel computes, in every dtype. bfloat16 is passed as its bits."""
    for dtype in DTYPES:
        problem = make_problem(dtype=dtype, mask="holes")
        given = arguments(problem)
        expected = solve_by_kernel(problem)
        with fused(forward=1, backward=1):
            outputs = lstm_fast.lstm(*given, **options(problem))
            seeds = [tensor(problem.dy), tensor(problem.dh_n[0]), tensor(problem.dc_n[0])]
            gradients = torch.autograd.grad(outputs, given, seeds)
        assert all(value.dtype == given[0].dtype for value in (*outputs, *gradients))
        wanted = [expected.y, expected.h_n[0], expected.c_n[0], expected.dx]
        wanted += [expected.dkernels[0], expected.drecurrent_kernels[0], expected.dbiases[0]]
        for found, exact in zip((*outputs, *gradients), wanted, strict=True):
            np.testing.assert_array_equal(array(found), exact)


def test_gradcheck() -> None:
    given = arguments(make_problem(2, 4, 3, 2, dtype="float64", states=False))
    assert torch.autograd.gradcheck(lambda *tensors: lstm_fast.lstm(*tensors, return_sequences=True), given)


def test_no_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiled module gets the tensors' own memory, and the results are the memory that it has written."""
    given = arguments(make_problem(states=False))
    seen = {}

    class Core:
        @staticmethod
        def forward(*args: Any) -> Any:
            seen["inputs"], seen["outputs"] = args, _core.forward(*args)
            return seen["outputs"]

    monkeypatch.setattr(backend, "core", lambda: Core)
    y, _, _ = lstm_fast.lstm(*given, return_sequences=True)
    x, _, kernels, *_ = seen["inputs"]
    assert x.__array_interface__["data"][0] == given[0].data_ptr()
    assert kernels[0].__array_interface__["data"][0] == given[1].data_ptr()
    assert y.data_ptr() == seen["outputs"][0].__array_interface__["data"][0]


@pytest.mark.fast
def test_strides_of_any_kind() -> None:
    problem = make_problem(mask="right")
    given, more = arguments(problem), options(problem)
    expected = lstm_fast.lstm(*given, **more)
    strided = [value.detach().T.contiguous().T if value.ndim == 2 else value.detach() for value in given]
    strided[0] = torch.stack([strided[0]] * 2, dim=-1)[..., 0]
    assert not strided[0].is_contiguous()
    assert not strided[1].is_contiguous()
    leaves = [value.requires_grad_() for value in strided]
    more["mask"] = more["mask"].T.contiguous().T
    found = lstm_fast.lstm(*leaves, **more)
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)
    # sum() has an incoming gradient of stride 0.
    for a, b in zip(
        torch.autograd.grad(found[0].sum(), leaves), torch.autograd.grad(expected[0].sum(), given), strict=True
    ):
        assert torch.equal(a, b)


def reserve_modes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The reserve modes of the calls that follow."""
    modes: list[int] = []
    forward = backend._forward
    monkeypatch.setattr(backend, "_forward", lambda options, *rest: modes.append(options[3]) or forward(options, *rest))
    return modes


def test_nothing_is_kept_where_no_gradient_can_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    modes = reserve_modes(monkeypatch)
    given = arguments(make_problem())
    lstm_fast.lstm(*given)
    with torch.no_grad():
        assert not lstm_fast.lstm(*given)[0].requires_grad
    with torch.inference_mode():
        assert lstm_fast.lstm(*given)[0].is_inference()
    assert not lstm_fast.lstm(*(value.detach() for value in given))[0].requires_grad
    lstm_fast.lstm(*given, training=False)
    lstm_fast.lstm(*given, recompute=True)
    assert modes == [1, 0, 0, 0, 0, 2]


@pytest.mark.parametrize("training", [False, True])
def test_gradients_go_only_where_they_are_wanted(training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    computed = []
    run = backend._backward

    def spy(options: Any, n: int, with_dx: bool, *tensors: Any) -> Any:
        computed.append(with_dx)
        return run(options, n, with_dx, *tensors)

    monkeypatch.setattr(backend, "_backward", spy)
    every = arguments(make_problem())
    lstm_fast.lstm(*every, training=training)[0].sum().backward()
    for i in range(len(every)):
        some = [value.detach().requires_grad_(i == j) for j, value in enumerate(every)]
        lstm_fast.lstm(*some, training=training)[0].sum().backward()
        assert [value.grad is not None for value in some] == [i == j for j in range(len(every))]
        assert torch.equal(some[i].grad, every[i].grad)
    assert computed == [True, True, False, False, False]


def test_the_reserve_is_recycled() -> None:
    """It is freed after the backward pass, even while the outputs live, and the next step gets the same memory."""
    given = arguments(make_problem(64, 64, 8, 64, states=False))
    places = set()
    kept = []
    for _ in range(4):
        y, _, _ = lstm_fast.lstm(*given, return_sequences=True)
        places.add(y.grad_fn.saved_tensors[0].data_ptr())
        kept.append(y)
        y.sum().backward()
        with pytest.raises(RuntimeError, match="already been freed"):
            _ = y.grad_fn.saved_tensors
    assert len(places) == 1


@pytest.mark.fast
def test_gradient_of_gradient_is_refused() -> None:
    given = arguments(make_problem())
    plain = torch.autograd.grad(lstm_fast.lstm(*given)[0].sum(), given)
    first = torch.autograd.grad(lstm_fast.lstm(*given)[0].sum(), given, create_graph=True)
    for a, b in zip(first, plain, strict=True):
        assert torch.equal(a, b)
    with pytest.raises(NotImplementedError, match=r"gradients of gradients are not implemented; .*to_keras"):
        torch.autograd.grad(first[0].sum(), given)


def test_parameters_from_other_libraries() -> None:
    """Lists and NumPy arrays become tensors; a Keras variable gets its gradient."""
    import keras

    problem = make_problem(states=False)
    x, kernel, recurrent_kernel, bias = arguments(problem)
    expected = lstm_fast.lstm(x, kernel, recurrent_kernel, bias)[0]
    variable = keras.Variable(problem.kernels[0])
    found = lstm_fast.lstm(x, variable, problem.recurrent_kernels[0], problem.biases[0].tolist())[0]
    assert torch.equal(found, expected)
    found.sum().backward()
    expected.sum().backward()
    assert torch.equal(variable.value.grad, kernel.grad)


@pytest.mark.fast
def test_devices() -> None:
    """PyTorch's device without memory stands for devices that this machine does not have."""
    x, kernel, *rest = arguments(make_problem(states=False), requires_grad=False)
    with pytest.raises(TypeError, match=r"`kernel`: .*expected a tensor on cpu, found one on meta"):
        lstm_fast.lstm(x, kernel.to("meta"), *rest)
    with pytest.raises(ValueError, match="`mask`: expected a tensor on cpu, found one on meta"):
        lstm_fast.lstm(x, kernel, *rest, mask=torch.ones(x.shape[:2], device="meta"))

    class Elsewhere:
        device = torch.device("xpu", 1)

    assert "a tensor on xpu:1: no kernel for it" in backend.unavailable(Elsewhere()).reason
    assert backend.unavailable(x) is None
    shapes = [value.shape for value in lstm_fast.lstm(x, kernel, *rest, return_sequences=True)]
    with fused(forward=0):
        found = lstm_fast.lstm(*(value.to("meta") for value in (x, kernel, *rest)), return_sequences=True)
    assert all(value.is_meta for value in found)
    assert [value.shape for value in found] == shapes


def test_sparse_input_is_refused() -> None:
    x, *rest = arguments(make_problem(states=False), requires_grad=False)
    with pytest.raises(TypeError, match=r"`x`: .*dense"):
        lstm_fast.lstm(x.to_sparse(), *rest)


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace. is deprecated")
def test_an_exported_program_cannot_contain_the_kernel() -> None:
    given = arguments(make_problem(states=False), requires_grad=False)
    with pytest.raises(RuntimeError, match=r"torch\.jit\.trace or torch\.export"):
        torch.jit.trace(lambda *tensors: lstm_fast.lstm(*tensors)[0], given)


@pytest.mark.parametrize("strict", [False, True])
def test_torch_export_is_told_so(strict: bool) -> None:
    class Module(torch.nn.Module):
        def forward(self, *given: Any) -> Any:
            return lstm_fast.lstm(*given)[0]

    given = arguments(make_problem(states=False), requires_grad=False)
    with pytest.raises(RuntimeError) as error:
        torch.export.export(Module(), tuple(given), strict=strict)
    text = f"{error.value} {error.value.__cause__}"
    # PyTorch before 2.10 does not say that it exports. Then the reason is that the kernel cannot take its tensors, or,
    # if it compiles first, that it must not follow the call.
    told = ("torch.jit.trace or torch.export: an exported program", "type FakeTensor", "_dynamo.disable() wrapped")
    assert any(part in text for part in told[: 1 if TORCH >= (2, 10) else None]), text


def test_callers_in_several_threads() -> None:
    """The compiled functions run without Python's lock, and give every caller its own result."""
    problems = [make_problem(8, 30, 5, 16, seed=seed) for seed in range(8)]

    def solve(problem: Problem) -> list[Any]:
        given = arguments(problem)
        y, _, _ = lstm_fast.lstm(*given, **options(problem))
        return [y.detach(), *torch.autograd.grad(y.sum(), given)]

    alone = [solve(problem) for problem in problems]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for found, expected in zip(pool.map(solve, problems), alone, strict=True):
            for a, b in zip(found, expected, strict=True):
                assert torch.equal(a, b)


# PyTorch warns about its own code while it compiles.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf", "ignore:.*script_method")
@pytest.mark.parametrize("compiler", ["eager", "aot_eager"])
def test_compiled_functions(compiler: str) -> None:
    """torch.compile leaves only the kernel out of its graph."""

    def loss(x: Any, *weights: Any) -> Any:
        output, h, _ = lstm_fast.lstm(torch.sin(x) * 2.0, *weights, return_sequences=True)
        return (torch.cos(output) * output).sum() + h.sum()

    torch._dynamo.reset()
    compiled = torch.compile(loss, backend=compiler)
    for time in (5, 5, 9):
        given = arguments(make_problem(time=time, states=False))
        expected = torch.autograd.grad(loss(*given), given)
        with fused(forward=1, backward=1):
            found = torch.autograd.grad(compiled(*given), given)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(
                a, b, rtol=0.0, atol=tolerances.between_layers("float32", math.prod(given[0].shape), b)
            )


def test_no_other_framework_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.compile would follow the call into TensorFlow, and warn about the code there."""
    for name in ("tensorflow", "jax"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    with fused(forward=1):
        lstm_fast.lstm(*arguments(make_problem(states=False), requires_grad=False))


def test_both_directions_at_once() -> None:
    """As FastBidirectional calls it."""
    problem = make_problem(directions=2, mask="holes")
    columns = [problem.kernels, problem.recurrent_kernels, problem.biases, problem.h0, problem.c0]
    directions = [Direction(*(tensor(column[n]) for column in columns)) for n in range(2)]
    operands = Operands(tensor(problem.x), torch.tensor(problem.mask), directions)
    y, h_n, c_n = backend.lstm(operands, Options(**problem.options, reserve_mode=0))
    expected = solve_by_reference(problem)
    found = [value.numpy() for value in (y, *h_n, *c_n)]
    solution = type(expected.solution)(found[0], found[1:3], found[3:5])
    expected.check(solution)


# Several processes

DISTRIBUTED = """
import contextlib, datetime, functools, sys
from pathlib import Path
import keras, torch
import torch.distributed as dist
import lstm_fast
from data_parallel import *
with contextlib.suppress(ImportError):
    import tensorflow  # as Keras does for the first layer that it makes: once, and not in every process
folder = Path(sys.argv[1])
(port,) = free_ports(1)

class Module(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.embedding = torch.nn.Embedding(WORDS, 8)
        self.kernel = torch.nn.Parameter(torch.rand(8, 24) - 0.5)
        self.recurrent_kernel = torch.nn.Parameter(torch.rand(6, 24) - 0.5)
        self.bias = torch.nn.Parameter(torch.rand(24) - 0.5)
        self.dense = torch.nn.Linear(6, 1)

    def forward(self, x):
        last, _, _ = lstm_fast.lstm(self.embedding(x), self.kernel, self.recurrent_kernel, self.bias, mask=x != 0)
        return self.dense(last)

def train(name, x, y, wrap=lambda model: model):
    for kind, make in (("True", lambda: make_model(True)), ("False", lambda: make_model(False)), ("module", Module)):
        model = make()
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        optimizer = torch.optim.SGD(weights, LEARNING_RATE, MOMENTUM)
        called = wrap(model)
        with recorded(folder / f"{name}-{kind}.npz", lambda: [weight.detach().numpy() for weight in weights]):
            for some_x, some_y in zip(np.split(x, STEPS), np.split(y, STEPS)):
                logits = called(torch.tensor(some_x))
                optimizer.zero_grad()
                torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.tensor(some_y)).backward()
                optimizer.step()

def worker(rank):
    limit = datetime.timedelta(seconds=LIMIT)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", timeout=limit, world_size=2, rank=rank)
    rows = np.arange(STEPS * BATCH) % BATCH // (BATCH // 2) == rank
    train(f"worker {rank}", *(values[rows] for values in make_data()), torch.nn.parallel.DistributedDataParallel)
    dist.destroy_process_group()

def in_one_process():
    train("whole", *make_data())
    train("half", *half_data())

in_processes({
    "one process": in_one_process,
    "worker 0": functools.partial(worker, 0),
    "worker 1": functools.partial(worker, 1),
})
"""


def test_distributed_data_parallel(tmp_path: Path) -> None:
    """Two processes, each with half of a batch: the weights are those of one process with the whole batches.

    Around a Keras model, masked and not, and around a module that calls the function under the layers.
    """
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("this PyTorch is built without gloo")
    # One PyTorch thread in each process: more would wait for each other, because all processes share the processors.
    data_parallel.run_script(DISTRIBUTED, tmp_path, OMP_NUM_THREADS="1")
    for kind, calls in (("True", 2), ("False", 2), ("module", 1)):
        for rank in range(2):
            passes = calls * data_parallel.STEPS
            data_parallel.check(tmp_path, f"worker {rank}-{kind}", f"whole-{kind}", passes, alone=f"half-{kind}")
