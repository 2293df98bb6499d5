"""The GPU path of PyTorch, with the CUDA kernels on an emulated device. It takes tensors on the CPU for its own."""

from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import emulated
import keras
import numpy as np
import pytest
import tolerances
from cases import DTYPES, MASKS, RESERVE_MODES, assert_same_bits, label, make_problem, pairwise
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
from keras_side import fused

import lstm_fast
from lstm_fast import libraries
from lstm_fast.backends import PRECISIONS, LibraryError, core

torch = pytest.importorskip("torch")

from torch_side import solve_by_torch, tensor  # noqa: E402

from lstm_fast.backends import products, torch_cuda  # noqa: E402
from lstm_fast.backends import torch as backend  # noqa: E402

pytestmark = pytest.mark.backends("torch")

STREAM = 77


@pytest.fixture(scope="session")
def module() -> ModuleType:
    return emulated.load()


@pytest.fixture
def calls(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[Any, ...]]]:
    """Puts the emulated device in the place of a GPU; the name and the arguments of each call of its module."""
    made: list[tuple[Any, ...]] = []

    def spied(name: str) -> Any:
        run = getattr(module, name)
        return lambda *arguments: made.append((name, *arguments)) or run(*arguments)

    spy = SimpleNamespace(
        forward=spied("forward"),
        backward=spied("backward"),
        scratch_bytes=module.scratch_bytes,
        reserve_step_bytes=module.reserve_step_bytes,
    )
    monkeypatch.setattr(backend, "_on_gpu", lambda _: True)
    monkeypatch.setattr(torch_cuda, "_place", lambda _: (0, STREAM))
    monkeypatch.setattr(torch_cuda, "cuda", lambda: spy)
    yield made
    assert {call[1:3] for call in made} <= {(0, STREAM)}


def arguments(problem: Any, requires_grad: bool = True) -> list[Any]:
    arrays = (problem.x, problem.kernels[0], problem.recurrent_kernels[0], problem.biases[0])
    return [tensor(value, requires_grad) for value in arrays]


# Numbers


@pytest.mark.usefixtures("calls")
@pytest.mark.parametrize("options", pairwise(SMALL), ids=label)
def test_agrees_with_reference(options: dict[str, Any], module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    check_agreement(solve_by_torch, options, module, monkeypatch)


@pytest.mark.usefixtures("calls")
def test_any_byte_of_a_mask_but_0_is_real(module: ModuleType) -> None:
    check_bytes_of_mask(solve_by_torch, module)


@pytest.mark.usefixtures("calls")
@pytest.mark.parametrize("units", [7, 33, 200])  # in one block, and in several
@pytest.mark.parametrize("recurrent_dropout", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_types_without_tensor_cores(dtype: str, recurrent_dropout: bool, units: int, module: ModuleType) -> None:
    problem = make_problem(3, 4, 5, units, dtype=dtype, recurrent_dropout=recurrent_dropout, mask="holes", directions=2)
    module.set_device(7, 5, 40, 65_536)
    try:
        with ran(module, forward=1, backward=1):
            found = solve_by_torch(problem)
    finally:
        module.set_device(9, 0, 132, 232_448)
    solve_exactly(problem).check(found)


@pytest.mark.usefixtures("calls")
@pytest.mark.parametrize("field", ["input_dropout", "recurrent_dropout"])
@pytest.mark.parametrize("without", [0, 1])
def test_dropout_in_one_direction_only(field: str, without: int, module: ModuleType) -> None:
    problem = with_dropout_in_one_direction(field, without)
    with ran(module, forward=1, backward=1):
        found = solve_by_torch(problem)
    solve_exactly(problem).check(found)


@pytest.mark.usefixtures("calls")
@pytest.mark.parametrize("reserve", RESERVE_MODES)
@pytest.mark.parametrize(("batch", "time"), [(0, 3), (3, 0), (0, 0)])
def test_no_rows_or_no_timesteps(batch: int, time: int, reserve: str, module: ModuleType) -> None:
    problem = make_problem(batch, time, directions=2, mask="right", input_dropout=True, recurrent_dropout=True)
    with ran(module, forward=1 if reserve == "gates" else 2, backward=1):
        found = solve_by_torch(problem, reserve=reserve)
    solve_exactly(problem).check(found)


@pytest.mark.usefixtures("calls")
def test_a_row_with_nan_is_alone() -> None:
    problem = make_problem(4, 5, 3, 8)
    clean = solve_by_torch(problem)
    problem.x[2, 3, 1] = np.nan
    found = solve_by_torch(problem)
    assert np.isnan(found.y[2, 3:]).all()
    np.testing.assert_array_equal(np.delete(found.y, 2, axis=0), np.delete(clean.y, 2, axis=0))
    np.testing.assert_array_equal(found.y[2, :3], clean.y[2, :3])
    np.testing.assert_array_equal(np.delete(found.dx, 2, axis=0), np.delete(clean.dx, 2, axis=0))


@pytest.mark.usefixtures("calls")
@pytest.mark.parametrize("input_dropout", [False, True])
@pytest.mark.parametrize("mask", MASKS[1:])
def test_masked_steps_are_never_read(mask: str, input_dropout: bool) -> None:
    problem = make_problem(5, 6, 3, 8, mask=mask, directions=2, input_dropout=input_dropout)
    assert_same_bits(solve_by_torch(problem.poisoned()), solve_by_torch(problem))


@pytest.mark.usefixtures("calls")
def test_the_same_bits_every_time() -> None:
    problem = make_problem(9, 6, 4, 24, directions=2, mask="right")
    first = solve_by_torch(problem)
    for _ in range(2):
        assert_same_bits(solve_by_torch(problem), first)


# How PyTorch calls the kernels


def test_nothing_is_kept_where_no_gradient_can_follow(calls: list[tuple[Any, ...]]) -> None:
    given = arguments(make_problem())

    def kept() -> bool:
        (call,) = calls
        calls.clear()
        assert call[0] == "forward"
        return call[-4] != 0  # the reserve

    lstm_fast.lstm(*given)
    assert kept()
    with torch.no_grad():
        lstm_fast.lstm(*given)
    assert not kept()
    with torch.inference_mode():
        assert lstm_fast.lstm(*given)[0].is_inference()
    assert not kept()
    for options in ({"training": False}, {"recompute": True}):
        y, _, _ = lstm_fast.lstm(*given, return_sequences=True, **options)
        assert not kept()
        reserve, *_ = y.grad_fn.saved_tensors
        assert reserve.numel() == 0


@pytest.mark.usefixtures("calls")
def test_the_gradient_of_the_input_is_computed_where_it_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    computed = []
    compute = products.input_gradient
    monkeypatch.setattr(products, "input_gradient", lambda *a: computed.append(True) or compute(*a))
    every = arguments(make_problem())
    lstm_fast.lstm(*every)[0].sum().backward()
    for i in range(len(every)):
        some = [value.detach().requires_grad_(i == j) for j, value in enumerate(every)]
        lstm_fast.lstm(*some)[0].sum().backward()
        assert [value.grad is not None for value in some] == [i == j for j in range(len(every))]
        assert torch.equal(some[i].grad, every[i].grad)
    assert len(computed) == 2


@pytest.mark.usefixtures("calls")
def test_strides_of_any_kind() -> None:
    problem = make_problem(mask="right", states=False)
    given = arguments(problem)
    mask = torch.tensor(problem.mask)
    expected = lstm_fast.lstm(*given, mask=mask)
    strided = [value.detach().T.contiguous().T if value.ndim == 2 else value.detach() for value in given]
    strided[0] = torch.stack([strided[0]] * 2, dim=-1)[..., 0]
    assert not any(value.is_contiguous() for value in strided[:3])
    leaves = [value.requires_grad_() for value in strided]
    found = lstm_fast.lstm(*leaves, mask=mask.T.contiguous().T)
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)
    # sum() has an incoming gradient of stride 0.
    for a, b in zip(
        torch.autograd.grad(found[0].sum(), leaves), torch.autograd.grad(expected[0].sum(), given), strict=True
    ):
        assert torch.equal(a, b)


@pytest.mark.usefixtures("calls")
def test_negative_views() -> None:
    """The kernels get the address of memory that holds the real values."""
    given = arguments(make_problem())
    expected = lstm_fast.lstm(*given)[0]
    views = [torch._neg_view(-value.detach()).requires_grad_() for value in given]
    found = lstm_fast.lstm(*views)[0]
    assert torch.equal(found, expected)
    seed = torch.cos(expected.detach())
    gradients = torch.autograd.grad(found, views, torch._neg_view(-seed))
    for a, b in zip(gradients, torch.autograd.grad(expected, given, seed), strict=True):
        assert torch.equal(a, b)


@pytest.mark.usefixtures("calls")
def test_hooks_may_change_strides() -> None:
    """Hooks of the saved tensors, also of the reserve."""
    given = arguments(make_problem(states=False))
    expected = torch.autograd.grad(lstm_fast.lstm(*given)[0].sum(), given)

    def other_strides(value: torch.Tensor) -> torch.Tensor:
        return torch.stack([value, value], dim=-1)[..., 0]

    with torch.autograd.graph.saved_tensors_hooks(lambda value: value, other_strides):
        found = torch.autograd.grad(lstm_fast.lstm(*given)[0].sum(), given)
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


@pytest.mark.usefixtures("calls")
def test_transforms(module: ModuleType) -> None:
    """vmap and derivatives of torch.func: one call if the rows share their weights, else one call for each row."""
    given = arguments(make_problem(states=False), requires_grad=False)
    batch = given[0].shape[0]

    def loss(x: torch.Tensor, *weights: torch.Tensor) -> torch.Tensor:
        return lstm_fast.lstm(x[None], *weights)[0].square().sum()

    by_weights = torch.func.grad(loss, argnums=(1, 2, 3))
    expected = [by_weights(x, *given[1:]) for x in given[0]]
    with ran(module, forward=1 + batch, backward=batch):
        found = torch.func.vmap(by_weights, in_dims=(0, None, None, None))(*given)
    for parts, wanted in zip(found, zip(*expected, strict=True), strict=True):
        bound = tolerances.between_layers("float32", given[0].numel(), torch.stack(wanted))
        np.testing.assert_allclose(parts, torch.stack(wanted), rtol=0.0, atol=bound)
    x = given[0][:1].requires_grad_()
    rows = [torch.autograd.grad(lstm_fast.lstm(x, *given[1:])[0][0, unit], x)[0] for unit in range(given[2].shape[0])]
    jacobian = torch.autograd.functional.jacobian(lambda x: lstm_fast.lstm(x, *given[1:])[0][0], x, vectorize=True)
    assert torch.equal(jacobian, torch.stack(rows))


@pytest.mark.usefixtures("calls")
def test_gradient_of_gradient_is_refused() -> None:
    given = arguments(make_problem())
    first = torch.autograd.grad(lstm_fast.lstm(*given)[0].sum(), given, create_graph=True)
    with pytest.raises(NotImplementedError, match="gradients of gradients are not implemented"):
        torch.autograd.grad(first[0].sum(), given)


@pytest.mark.usefixtures("calls")
@pytest.mark.parametrize("input_dropout", [False, True])
def test_autocast_does_not_reach_inside(input_dropout: bool) -> None:
    problem = make_problem(directions=2, input_dropout=input_dropout)
    expected = solve_by_torch(problem)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_same_bits(solve_by_torch(problem), expected)


# Precision


def test_precision_is_that_of_pytorchs_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LSTM_FAST_PRECISION", raising=False)
    assert torch_cuda.precision() == "exact"
    for switch, values in (("fp32_precision", ("ieee", "tf32")), ("allow_tf32", (False, True))):
        for value, expected in zip(values, ("exact", "tf32"), strict=True):
            monkeypatch.setattr(torch.backends.cuda, "matmul", SimpleNamespace(**{switch: value}))
            assert torch_cuda.precision() == expected


@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="of PyTorch 2.9")
def test_every_switch_of_pytorch_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LSTM_FAST_PRECISION", raising=False)
    before = torch.backends.cuda.matmul.fp32_precision
    try:
        torch.backends.cuda.matmul.fp32_precision = "tf32"
        assert torch_cuda.precision() == "tf32"
    finally:
        torch.backends.cuda.matmul.fp32_precision = before
    for value, expected in (("high", "tf32"), ("highest", "exact")):
        torch.set_float32_matmul_precision(value)
        assert torch_cuda.precision() == expected


def test_precision_by_choice(calls: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    given = arguments(make_problem())
    for precision in PRECISIONS:
        monkeypatch.setenv("LSTM_FAST_PRECISION", precision)
        lstm_fast.lstm(*given)[0].sum().backward()
        assert [call[4] for call in calls] == [precision, precision]
        calls.clear()
    monkeypatch.setenv("LSTM_FAST_PRECISION", "double")
    with pytest.raises(ValueError, match="LSTM_FAST_PRECISION: expected one of exact, tf32, tf32x3, found 'double'"):
        lstm_fast.lstm(*given)


# Where the kernels cannot be used


def test_reasons_against(monkeypatch: pytest.MonkeyPatch) -> None:
    class Elsewhere:
        device = torch.device("cuda", 1)

    def reason() -> str:
        return backend.unavailable(Elsewhere()).reason

    monkeypatch.setattr(torch.version, "cuda", None)
    assert reason() == "a tensor on cuda:1: this PyTorch does not run on CUDA"
    monkeypatch.setattr(torch.version, "cuda", "13.0")

    def missing() -> None:
        raise LibraryError("the CUDA kernels were not built: because")

    monkeypatch.setattr(torch_cuda, "cuda", missing)
    assert reason() == "a tensor on cuda:1: the CUDA kernels were not built: because"
    monkeypatch.setattr(torch_cuda, "cuda", lambda: None)
    monkeypatch.setattr(libraries, "cuda_state", lambda: "built for sm_80, sm_90")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    assert reason() == "cuda:1 has compute capability 7.5: the kernel needs 8.0 or later"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    monkeypatch.setattr(torch.jit, "is_tracing", lambda: True)
    assert "torch.jit.trace" in reason()
    monkeypatch.undo()
    assert backend.unavailable(torch.zeros(1)) is None


def test_a_reserve_is_no_larger_than_on_the_cpu(module: ModuleType) -> None:
    """JAX has one size for both."""
    for dtype in DTYPES:
        for units in (*range(1, 40), 1000, 1024):
            assert module.reserve_step_bytes(dtype, units) <= core().reserve_step_bytes(1, dtype, units)


# Layers


@pytest.mark.usefixtures("calls")
@pytest.mark.parametrize("options", LAYERS, ids=label)
def test_layer(options: dict[str, Any], module: ModuleType) -> None:
    check_layer(make_problem(3, 5, 4, 7, **options), module)


@pytest.mark.usefixtures("calls")
@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize(("wrapper", "passes"), [(lstm_fast.FastBidirectional, 1), (keras.layers.Bidirectional, 2)])
def test_both_directions(wrapper: Any, passes: int, dropout: float, module: ModuleType, monkeypatch: Any) -> None:
    def make() -> Any:
        keras.utils.set_random_seed(1)
        return wrapper(lstm_fast.FastLSTM(7, dropout=dropout, recurrent_dropout=dropout, return_sequences=True))

    def run(layer: Any) -> list[np.ndarray]:
        output = layer(x, mask=mask, training=True)
        output.square().sum().backward()
        gradients = [variable.value.grad for variable in layer.trainable_variables]
        return [value.detach().numpy() for value in (output, *gradients)]

    problem = make_problem(3, 5, 4, 7, mask="right")
    x, mask = torch.tensor(problem.x), torch.tensor(problem.mask)
    with fused(0), ran(module, forward=passes, backward=passes):
        found = run(make())
    monkeypatch.setattr(backend, "_on_gpu", lambda _: False)
    with fused(passes, passes):
        expected = run(make())
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0.0, atol=tolerances.between_layers("float32", 3 * 5 * 11, b))
