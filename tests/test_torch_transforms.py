"""FastLSTM and FastBidirectional under PyTorch's transforms of functions and tensors: the same results as Keras's."""

import contextlib
import importlib.util
import logging
import re
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
import tolerances
import torch
from cases import DTYPES, make_problem
from keras_side import fused
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint
from torch_side import tensor

import lstm_fast
from lstm_fast import functional
from lstm_fast.backends import Direction
from lstm_fast.backends import torch as backend

pytestmark = [
    pytest.mark.backends("torch"),
    # PyTorch warns about its own code in forward mode and in traces, and about new or deprecated features.
    pytest.mark.filterwarnings("ignore:.*torch.jit"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
    pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors"),
    pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor"),
    pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node"),
    pytest.mark.filterwarnings(
        "ignore:_param_constant. created when tracing", "ignore:.*lifted_tensor", "ignore:.*get_attr references"
    ),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]

BATCH, TIME, FEATURES, UNITS = 3, 4, 2, 3

Transform = Callable[[Any], Any]  # transforms a layer


def values(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(seed).standard_normal(shape), dtype=torch.float32)


X, OTHER = values(BATCH, TIME, FEATURES), values(BATCH, TIME, FEATURES, seed=1)
MASK = torch.tensor([[True, False, True, True], [False, True, True, False], [True, True, True, True]])
MANY = values(5, BATCH, TIME, FEATURES, seed=2)


class Pair(NamedTuple):
    """A layer of Keras, and ours with the same weights."""

    plain: Any
    fast: Any
    states: list[torch.Tensor]

    @property
    def directions(self) -> int:
        return len(self.states) // 2


def make_pair(directions: int, **options: Any) -> Pair:
    options = {"return_sequences": True, **options}
    keras.utils.set_random_seed(1)
    plain: Any = keras.layers.LSTM(UNITS, **options)
    fast: Any = lstm_fast.FastLSTM(UNITS, **options)
    if directions == 2:
        plain, fast = keras.layers.Bidirectional(plain), lstm_fast.FastBidirectional(fast)
    for layer in (plain, fast):
        layer.build(X.shape)
    fast.set_weights(plain.get_weights())
    return Pair(plain, fast, [values(BATCH, UNITS, seed=i) for i in range(2 * directions)])


@pytest.fixture(params=[1, 2], ids=["FastLSTM", "FastBidirectional"])
def pair(request: pytest.FixtureRequest) -> Pair:
    return make_pair(request.param)


@pytest.fixture
def auto(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets layers fall back."""
    monkeypatch.setenv("LSTM_FAST_KERNEL", "auto")


def weights(layer: Any) -> list[torch.Tensor]:
    return [variable.value.detach() for variable in layer.trainable_variables]


def by_weights(layer: Any, given: Any, x: torch.Tensor, **arguments: Any) -> torch.Tensor:
    """The results of a layer with other weights than its own."""
    others = [variable.value for variable in layer.non_trainable_variables]
    return layer.stateless_call(given, others, x, **arguments)[0]


def loss(output: torch.Tensor) -> torch.Tensor:
    return torch.sin(output).square().sum()


def assert_same(found: Any, expected: Any) -> None:
    found, expected = keras.tree.flatten(found), keras.tree.flatten(expected)
    for a, b in zip(found, expected, strict=True):
        assert type(a) is type(b)
        assert a.shape == b.shape
        one, other = (value.detach().as_subclass(torch.Tensor).numpy() for value in (a, b))
        atol = tolerances.between_layers("float32", X.numel() * UNITS, other)
        np.testing.assert_allclose(one, other, rtol=0.0, atol=atol)


@contextlib.contextmanager
def falls_back(reason: str, calls: int | None = None, forward: int = 0) -> Iterator[None]:
    """Asserts that layers run as Keras's inside, for a reason in the status, and how often the kernel runs."""
    before = lstm_fast.status()
    yield
    after = lstm_fast.status()
    new = {text: n - before.fallbacks.get(text, 0) for text, n in after.fallbacks.items()}
    new = {text: n for text, n in new.items() if n}
    assert [text for text in new if not re.search(reason, text)] == []
    assert sum(new.values()) == calls if calls else new
    assert after.fused_calls["forward"] - before.fused_calls["forward"] == forward
    assert after.fused_calls["backward"] == before.fused_calls["backward"]


# Transforms that run fused, and how often each runs the forward and the backward pass. OUTPUTS: once for each output.

OUTPUTS = -1


def grad_by_x(layer: Any) -> Any:
    return torch.func.grad(lambda x: loss(layer(x)))(X)


def grad_by_weights(layer: Any) -> Any:
    return torch.func.grad(lambda given: loss(by_weights(layer, given, X, mask=MASK)))(weights(layer))


def vjp(layer: Any) -> Any:
    output, pull = torch.func.vjp(layer, X)
    return output, pull(torch.cos(output))


def gradients_per_sample(layer: Any) -> Any:
    def loss_of_one(given: Any, x: torch.Tensor) -> torch.Tensor:
        return loss(by_weights(layer, given, x[None]))

    return torch.func.vmap(torch.func.grad(loss_of_one), in_dims=(None, 0))(weights(layer), X)


def stacked(layer: Any) -> list[torch.Tensor]:
    return [torch.stack([value, 0.5 * value]) for value in weights(layer)]


def ensemble(layer: Any) -> Any:
    return torch.func.vmap(lambda given: by_weights(layer, given, X, mask=MASK))(stacked(layer))


def gradients_of_ensemble(layer: Any) -> Any:
    return torch.func.vmap(torch.func.grad(lambda given: loss(by_weights(layer, given, X))))(stacked(layer))


def gradient_of_mapped(layer: Any) -> Any:
    return torch.func.grad(lambda given: loss(torch.func.vmap(lambda x: by_weights(layer, given, x))(MANY)))(
        weights(layer)
    )


def jacrev_of_mapped(layer: Any) -> Any:
    return torch.func.jacrev(torch.func.vmap(lambda x: layer(x[None])))(X[:1, :2])


def functional_call(layer: Any) -> Any:
    given = {name: 0.5 * value for name, value in layer.named_parameters()}
    return torch.func.functional_call(layer, given, (X,))


def vectorized_jacobian(layer: Any) -> Any:
    return torch.autograd.functional.jacobian(layer, X[:1, :2], vectorize=True)


def batched_gradients(layer: Any) -> Any:
    x = X.clone().requires_grad_()
    _, *states = layer(x)
    return torch.autograd.grad(
        states[1], x, torch.eye(BATCH * UNITS).unflatten(1, (BATCH, UNITS)), is_grads_batched=True
    )


def leaf_gradient(layer: Any, call: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    layer.zero_grad()
    x = X.clone().requires_grad_()
    call(x).sum().backward()
    return x.grad, [variable.value.grad for variable in layer.trainable_variables]


def checkpointed(reentrant: bool) -> Transform:
    return lambda layer: leaf_gradient(
        layer, lambda x: checkpoint(lambda x: torch.sin(layer(x, mask=MASK)), x, use_reentrant=reentrant)
    )


def hooked(pack: Any, unpack: Any) -> Transform:
    def run(layer: Any) -> Any:
        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            return leaf_gradient(layer, lambda x: torch.sin(layer(x, mask=MASK)))

    return run


def other_strides(value: torch.Tensor) -> torch.Tensor:
    return value.T.contiguous().T if value.ndim == 2 else value.clone()


FUSED: dict[str, tuple[Transform, int, int]] = {
    "vmap": (lambda layer: torch.func.vmap(layer)(MANY), 1, 0),
    "vmap of another axis": (lambda layer: torch.func.vmap(layer, in_dims=2, out_dims=1)(MANY.movedim(0, 2)), 1, 0),
    "vmap in chunks": (lambda layer: torch.func.vmap(layer, chunk_size=2)(MANY), 3, 0),
    "vmap of vmap": (lambda layer: torch.func.vmap(torch.func.vmap(layer))(MANY[:4].unflatten(0, (2, 2))), 1, 0),
    "vmap of nothing": (lambda layer: torch.func.vmap(layer)(MANY[:0]), 1, 0),
    "vmap without gradients": (lambda layer: torch.no_grad()(torch.func.vmap(layer))(MANY), 1, 0),
    "grad by x": (grad_by_x, 1, 1),
    "grad by weights": (grad_by_weights, 1, 1),
    "vjp": (vjp, 1, 1),
    "jacrev": (lambda layer: torch.func.jacrev(layer)(X[:1, :2]), 1, OUTPUTS),
    "vmap of jacrev": (lambda layer: torch.func.vmap(torch.func.jacrev(layer))(MANY[:2, :1, :2]), 1, 2 * OUTPUTS),
    "jacrev of vmap": (jacrev_of_mapped, 1, OUTPUTS),
    "gradients per sample": (gradients_per_sample, 1, BATCH),
    "ensemble": (ensemble, 2, 0),
    "gradients of ensemble": (gradients_of_ensemble, 2, 2),
    "grad of vmap": (gradient_of_mapped, 1, 1),
    "functional_call": (functional_call, 1, 0),
    "jacobian(vectorize=True)": (vectorized_jacobian, 1, OUTPUTS),
    "checkpoint": (checkpointed(reentrant=False), 2, 1),
    "checkpoint, reentrant": (checkpointed(reentrant=True), 2, 1),
    "saved_tensors_hooks": (hooked(lambda value: value.clone(), other_strides), 1, 1),
}


@pytest.mark.parametrize("name", FUSED)
def test_runs_fused(name: str, pair: Pair) -> None:
    transform, forward, backward = FUSED[name]
    expected = transform(pair.plain)
    if backward < 0:
        backward *= -2 * UNITS * pair.directions
    with fused(forward, backward):
        found = transform(pair.fast)
    assert_same(found, expected)


@pytest.mark.parametrize("mapped", ["sequences", "mask", "states", "all"])
def test_vmap_of_any_argument(mapped: str, pair: Pair) -> None:
    """An argument that is not mapped is for all rows of the mapped ones."""
    arguments = [X, MASK, *pair.states]
    copies = [torch.stack([value, value.flip(0)], dim=1) for value in arguments]
    which = {"sequences": [0], "mask": [1], "states": range(2, len(arguments)), "all": range(len(arguments))}[mapped]
    dims = tuple(1 if i in which else None for i in range(len(arguments)))
    given = [copies[i] if i in which else value for i, value in enumerate(arguments)]

    def run(layer: Any) -> Any:
        def call(x: torch.Tensor, mask: torch.Tensor, *states: torch.Tensor) -> Any:
            return loss(layer(x, mask=mask, initial_state=list(states)))

        return torch.func.vmap(torch.func.grad(call), in_dims=dims)(*given)

    expected = run(pair.plain)
    with fused(1, 2):
        found = run(pair.fast)
    assert_same(found, expected)


@pytest.mark.parametrize("directions", [1, 2])
def test_batched_gradients_of_states(directions: int) -> None:
    pair = make_pair(directions, return_state=True)
    expected = batched_gradients(pair.plain)
    with fused(1, BATCH * UNITS):
        found = batched_gradients(pair.fast)
    assert_same(found, expected)


def test_no_samples_have_no_gradients(pair: Pair) -> None:
    def run(layer: Any) -> Any:
        def loss_of_one(given: Any, x: torch.Tensor) -> torch.Tensor:
            return loss(by_weights(layer, given, x[None]))

        return torch.func.vmap(torch.func.grad(loss_of_one), in_dims=(None, 0))(weights(layer), X[:0])

    assert_same(run(pair.fast), run(pair.plain))
    nothing = torch.func.vmap(lambda given: by_weights(pair.fast, given, X))([w[None][:0] for w in weights(pair.fast)])
    assert nothing.shape == (0, BATCH, TIME, UNITS * pair.directions)


@pytest.mark.parametrize("dtype", DTYPES)
def test_vmap_has_the_bits_of_single_calls(dtype: str) -> None:
    """In both directions, with dropout, also if the memory of a mapped argument has another order."""
    problem = make_problem(
        5, 4, 3, 6, dtype=dtype, directions=2, mask="holes", input_dropout=True, recurrent_dropout=True
    )
    single = make_problem(
        5, 4, 3, 6, dtype=dtype, directions=2, mask="right", input_dropout=True, recurrent_dropout=True, seed=1
    )

    def tensors(given: Any) -> list[torch.Tensor]:
        columns = [[tensor(value) for value in column] for column in given.kernel_inputs[2:]]
        return [tensor(given.x), tensor(given.mask), *(column[n] for n in range(2) for column in columns)]

    def run(x: torch.Tensor, mask: torch.Tensor, *rest: torch.Tensor) -> Any:
        directions = [Direction(*rest[:7]), Direction(*rest[7:])]
        y, h, c = functional.run(x, mask, directions, **problem.options, recompute=False, training=True)
        return (y, *h, *c)

    both = list(zip(tensors(problem), tensors(single), strict=True))
    for of_weights in (False, True):
        dims = tuple(
            None if not of_weights and i >= 2 and (i - 2) % 7 < 3 else min(1, a.ndim - 1)
            for i, (a, _) in enumerate(both)
        )
        given = [a if dim is None else torch.stack([a, b], dim) for dim, (a, b) in zip(dims, both, strict=True)]
        expected = [
            run(*(a if dim is None else (a, b)[i] for dim, (a, b) in zip(dims, both, strict=True))) for i in (0, 1)
        ]
        with fused(2 if of_weights else 1):
            found = torch.func.vmap(run, in_dims=dims)(*given)
        for value, parts in zip(found, zip(*expected, strict=True), strict=True):
            assert torch.equal(value, torch.stack(parts))


def test_function_by_name() -> None:
    """`lstm` and `recurrence` themselves, with gradients per sample."""
    problem = make_problem()
    x, kernel, recurrent_kernel, bias = (
        tensor(value) for value in (problem.x, problem.kernels[0], problem.recurrent_kernels[0], problem.biases[0])
    )
    z = x @ kernel

    def by_lstm(x: torch.Tensor) -> torch.Tensor:
        return loss(lstm_fast.lstm(x[None], kernel, recurrent_kernel, bias)[0])

    def by_recurrence(z: torch.Tensor) -> torch.Tensor:
        return loss(lstm_fast.recurrence(z[None], recurrent_kernel, bias)[0])

    for function, given in ((by_lstm, x), (by_recurrence, z)):
        leaf = given.clone().requires_grad_()
        sum(map(function, leaf)).backward()
        with fused(1, len(given)):
            found = torch.func.vmap(torch.func.grad(function))(given)
        assert_same(found, leaf.grad)


def test_compiled_vmap() -> None:
    torch._dynamo.reset()
    expected = torch.func.vmap(call_function)(MANY)
    with fused(1):
        found = torch.compile(torch.func.vmap(call_function), backend="eager")(MANY)
    assert_same(found, expected)


# Transforms that run as Keras's layer


class Records(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.products = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.products += function in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)
        return function(*args, **(kwargs or {}))


class Replaces(TorchFunctionMode):
    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return (
            2.0 * function(*args, **(kwargs or {})) if function is torch.matmul else function(*args, **(kwargs or {}))
        )


class Marked(torch.Tensor):
    """A tensor type of a user."""


class Wrapper(torch.Tensor):
    """A tensor type without its own memory, like that of distributed tensors."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> "Wrapper":
        made = torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, inner.stride(), dtype=inner.dtype, requires_grad=inner.requires_grad
        )
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def unwrapped(value: Any) -> Any:
            return value.inner if isinstance(value, cls) else value

        flat = torch.utils._pytree.tree_map(unwrapped, (args, kwargs or {}))
        result = function(*flat[0], **flat[1])
        return torch.utils._pytree.tree_map(lambda v: cls(v) if type(v) is torch.Tensor else v, result)


def traced(**how: Any) -> Transform:
    """The graph of a layer, by its weights and input, run on another input."""

    def run(layer: Any) -> Any:
        graph = make_fx(lambda given, x, mask: by_weights(layer, given, x, mask=mask), **how)(weights(layer), X, MASK)
        return graph(weights(layer), OTHER, ~MASK)

    return run


def closed_over(layer: Any) -> Any:
    return make_fx(lambda x: layer(x, mask=MASK))(X)(OTHER)


def traced_derivative(layer: Any) -> Any:
    return make_fx(torch.func.vmap(torch.func.grad(lambda x: loss(layer(x)))))(MANY)(2.0 * MANY)


def recorded(layer: Any) -> Any:
    with Records() as mode:
        leaf_gradient(layer, layer)
    assert mode.products > 0
    return torch.tensor(mode.products)


def replaced(layer: Any) -> Any:
    with Replaces():
        return layer(X)


def fake(layer: Any) -> Any:
    from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        output = layer(mode.from_tensor(X), mask=mode.from_tensor(MASK))
    assert type(output) is FakeTensor
    return torch.zeros(output.shape)


def tangent(layer: Any) -> Any:
    with forward_ad.dual_level():
        return tuple(forward_ad.unpack_dual(layer(forward_ad.make_dual(X, OTHER), mask=MASK)))


def tangent_by_weights(layer: Any) -> Any:
    with forward_ad.dual_level():
        given = [forward_ad.make_dual(value, torch.cos(value)) for value in weights(layer)]
        return tuple(forward_ad.unpack_dual(by_weights(layer, given, X)))


def tangent_of_vmap(layer: Any) -> Any:
    with forward_ad.dual_level():
        return tuple(forward_ad.unpack_dual(torch.func.vmap(layer)(forward_ad.make_dual(MANY, torch.cos(MANY)))))


def jvp_by_weights(layer: Any) -> Any:
    given = tuple(weights(layer))
    return torch.func.jvp(lambda *given: by_weights(layer, given, X), given, tuple(map(torch.cos, given)))


def grad_of_grad(layer: Any) -> Any:
    return torch.func.grad(lambda x: torch.func.grad(lambda x: loss(layer(x)))(x).square().sum())(X)


def forward_jacobian(layer: Any) -> Any:
    return torch.autograd.functional.jacobian(layer, X[:1, :2], vectorize=True, strategy="forward-mode")


def exported(layer: Any) -> Any:
    class Module(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: torch.Tensor) -> Any:
            return self.layer(x)

    return torch.export.export(Module(), (X,), strict=False).module()(OTHER)


def jit_traced(layer: Any) -> Any:
    layer.trainable = False  # its weights may then be constants
    return torch.jit.trace(lambda x: layer(x), (X,), check_trace=False)(OTHER)  # noqa: PLW0108 (trace looks into modules)


DISPATCH, FORWARD, NESTED = "TorchDispatchMode", "no forward mode", "no gradients of gradients"

FALLING_BACK: dict[str, tuple[Transform, str]] = {
    "make_fx": (traced(), DISPATCH),
    "make_fx, closed over": (closed_over, DISPATCH),
    "make_fx, fake": (traced(tracing_mode="fake"), "FakeTensor"),
    "make_fx, symbolic": (traced(tracing_mode="symbolic"), "FakeTensor"),
    "make_fx, before dispatch": (traced(pre_dispatch=True), "TorchFunctionMode"),
    "make_fx of derivatives": (traced_derivative, DISPATCH),
    "a TorchDispatchMode": (recorded, DISPATCH),
    "a TorchFunctionMode": (replaced, "TorchFunctionMode"),
    "FakeTensorMode": (fake, "FakeTensor"),
    "functionalize": (lambda layer: torch.func.functionalize(layer)(X), "functionalize"),
    "jvp": (lambda layer: torch.func.jvp(layer, (X,), (OTHER,)), FORWARD),
    "jvp by weights": (jvp_by_weights, FORWARD),
    "jacfwd": (lambda layer: torch.func.jacfwd(layer)(X[:1, :2]), FORWARD),
    "linearize": (lambda layer: torch.func.linearize(layer, X)[1](OTHER), DISPATCH),
    "hessian": (lambda layer: torch.func.hessian(lambda x: loss(layer(x)))(X[:1, :2]), FORWARD),
    "grad of grad": (grad_of_grad, NESTED),
    "jacrev of jacrev": (
        lambda layer: torch.func.jacrev(torch.func.jacrev(lambda x: loss(layer(x))))(X[:1, :2]),
        NESTED,
    ),
    "dual numbers": (tangent, FORWARD),
    "dual numbers without gradients": (torch.no_grad()(tangent), FORWARD),
    "dual weights": (tangent_by_weights, FORWARD),
    "dual numbers and vmap": (tangent_of_vmap, FORWARD),
    "jacobian(strategy='forward-mode')": (forward_jacobian, FORWARD),
    "export": (exported, "torch.export|FakeTensor"),
    "jit.trace": (jit_traced, "torch.jit.trace"),
    "a type of a user's own": (lambda layer: layer(X.as_subclass(Marked)), "type Marked"),
    "a type without memory": (lambda layer: layer(Wrapper(X)).inner, "type Wrapper"),
    "weights without memory": (
        lambda layer: by_weights(layer, [*map(Wrapper, weights(layer))], X).inner,
        "type Wrapper",
    ),
}

BEFORE = {"linearize": 1}  # it calls the layer once without any transform


@pytest.mark.usefixtures("auto")
@pytest.mark.parametrize("name", FALLING_BACK)
def test_runs_as_keras(name: str, pair: Pair) -> None:
    transform, reason = FALLING_BACK[name]
    expected = transform(pair.plain)
    with falls_back(reason, forward=BEFORE.get(name, 0)):
        found = transform(pair.fast)
    assert_same(found, expected)


@pytest.mark.usefixtures("auto")
@pytest.mark.parametrize("argument", ["mask", "initial_state"])
def test_types_of_other_arguments(argument: str, pair: Pair) -> None:
    given = {"mask": MASK.as_subclass(Marked), "initial_state": [state.as_subclass(Marked) for state in pair.states]}
    expected = pair.plain(X, **{argument: given[argument]})
    with falls_back("type Marked", calls=pair.directions):
        found = pair.fast(X, **{argument: given[argument]})
    assert_same(found, expected)


@pytest.mark.usefixtures("auto")
@pytest.mark.parametrize("directions", [1, 2])
def test_the_same_dropout_there(directions: int) -> None:
    """Dropout masks are drawn before the kernel turns out to be unavailable. Keras's layer uses the same ones."""
    pair = make_pair(directions, dropout=0.5, recurrent_dropout=0.5, seed=3)
    results = []
    for layer in (pair.plain, pair.fast):
        with Records():
            results.append([layer(X, training=True) for _ in range(2)])
    assert_same(results[1], results[0])
    assert not torch.equal(results[0][0], results[0][1])


@pytest.mark.usefixtures("auto")
def test_a_stateful_layer_there() -> None:
    for directions in (1, 2):
        pair = make_pair(directions, stateful=True)
        results = []
        for layer in (pair.plain, pair.fast):
            with Records():
                first = layer(X)
            results.append([first, layer(OTHER)])
        assert_same(results[1], results[0])


@pytest.mark.usefixtures("auto")
def test_the_reason_is_logged(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="lstm_fast"), falls_back("type Unheard", calls=pair.directions):
        pair.fast(X.as_subclass(type(f"Unheard{pair.directions}", (torch.Tensor,), {})))
    assert len(caplog.records) == 1


def test_plain_types(pair: Pair) -> None:
    expected = pair.plain(X)
    for value in (torch.nn.Parameter(X), torch.nn.Buffer(X)):
        with fused(1):
            assert_same(pair.fast(value), expected)


# The function under the layers, where it cannot run


KERNEL, RECURRENT_KERNEL = values(FEATURES, 4 * UNITS), values(UNITS, 4 * UNITS)


def call_function(x: torch.Tensor) -> torch.Tensor:
    return lstm_fast.lstm(x, KERNEL, RECURRENT_KERNEL)[0]


@pytest.mark.parametrize("name", [name for name in FALLING_BACK if "weights" not in name])  # of which it has none
def test_the_function_says_why(name: str) -> None:
    class Function(torch.nn.Module):
        trainable_variables = non_trainable_variables = ()

        def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:  # noqa: ARG002
            return call_function(x)

        def stateless_call(self, given: Any, others: Any, x: torch.Tensor, mask: Any = None) -> Any:  # noqa: ARG002
            return call_function(x), others

    transform, reason = FALLING_BACK[name]
    with (
        fused(BEFORE.get(name, 0)),
        pytest.raises(RuntimeError, match=rf"^lstm_fast: .*({reason}).*FastLSTM.*to_keras"),
    ):
        transform(Function())


def test_compiled_whole() -> None:
    """A graph without a break is impossible. PyTorch's error names our reason, or, before 2.7, our function."""
    torch._dynamo.reset()
    reason = r"kernels of lstm_fast are not part of a graph|function lstm"
    with pytest.raises(torch._dynamo.exc.Unsupported, match=reason):
        torch.compile(call_function, backend="eager", fullgraph=True)(X)


def test_other_tensors() -> None:
    nested = torch.nested.nested_tensor([X[0], X[1]])
    with pytest.raises(TypeError, match=r"`x`: .*nested.*to_padded_tensor"):
        call_function(nested)
    with pytest.raises(TypeError, match=r"`x`: .*nested.*to_padded_tensor"):
        call_function(torch.nested.nested_tensor([X[0], X[1]], layout=torch.jagged))
    with pytest.raises(TypeError, match=r"`x`: expected dtype float32 .*, found qint8"):
        call_function(torch.quantize_per_tensor(X, 0.1, 0, torch.qint8))
    with pytest.raises(TypeError, match=r"`x`: expected dtype float32 .*, found complex64"):
        call_function(torch.complex(X, OTHER).conj())


@pytest.mark.parametrize("kind", ["mode", "dual numbers"])
def test_a_backward_pass_alone_is_refused(kind: str, pair: Pair) -> None:
    """The forward pass has run fused, so there is no backward pass of Keras."""
    x = X.clone().requires_grad_()
    output = pair.fast(x)
    seed = torch.ones_like(output)

    def in_mode() -> None:
        make_fx(lambda seed: torch.autograd.grad(output, x, seed)[0])(seed)

    def in_dual_numbers() -> None:
        with forward_ad.dual_level():
            torch.autograd.grad(output, x, forward_ad.make_dual(seed, seed))

    with pytest.raises(RuntimeError, match=r"^lstm_fast: .*Run both passes with it, or use lstm_fast.to_keras"):
        in_mode() if kind == "mode" else in_dual_numbers()


@pytest.mark.parametrize("kind", ["autograd around torch.func", "hessian", "vectorized jacobian", "vjp of vjp"])
def test_gradients_of_gradients_that_show_late_are_refused(kind: str, pair: Pair) -> None:
    def inner(x: torch.Tensor) -> torch.Tensor:
        return loss(pair.fast(x))

    def penalty() -> None:
        x = X.clone().requires_grad_()
        torch.func.grad(inner)(x).square().sum().backward()

    def jacobian() -> None:
        x = X[:1, :2].clone().requires_grad_()
        found = torch.autograd.functional.jacobian(pair.fast, x, vectorize=True, create_graph=True)
        torch.autograd.grad(found.square().sum(), x)

    def twice() -> None:
        output, pull = torch.func.vjp(pair.fast, X)
        torch.func.grad(lambda seed: pull(seed)[0].square().sum())(torch.ones_like(output))

    run = {
        "autograd around torch.func": penalty,
        "hessian": lambda: torch.autograd.functional.hessian(inner, X[:1, :2], vectorize=True),
        "vectorized jacobian": jacobian,
        "vjp of vjp": twice,
    }[kind]
    with pytest.raises(NotImplementedError, match="gradients of gradients are not implemented"):
        run()


# Memory


def test_negative_views(pair: Pair) -> None:
    """Views of any argument, and of an incoming gradient: their memory holds the values with the other sign."""

    def negative(value: torch.Tensor) -> torch.Tensor:
        view = torch._neg_view(-value)
        assert view.is_neg()
        assert view.is_contiguous()
        return view

    def run(layer: Any, view: Callable[[torch.Tensor], torch.Tensor]) -> Any:
        x = view(X).requires_grad_()
        given, states = [view(value).requires_grad_() for value in weights(layer)], [*map(view, pair.states)]
        output = by_weights(layer, given, x, initial_state=states)
        return output, torch.autograd.grad(output, [x, *given], view(torch.ones_like(output)))

    expected = run(pair.plain, torch.clone)
    with fused(1, 1):
        assert_same(run(pair.fast, negative), expected)
    assert_same(pair.fast(torch.complex(OTHER, -X).conj().imag), pair.plain(X))


def test_views_of_any_kind(pair: Pair) -> None:
    """With strides of 0, in another order, and as parts of leaves that get the gradient."""
    wide = values(TIME, 2 * FEATURES, BATCH)

    def run(layer: Any) -> Any:
        row, leaf = X[0, 0].clone().requires_grad_(), wide.clone().requires_grad_()
        repeated = layer(row.expand(BATCH, TIME, FEATURES), mask=MASK[:, :1].expand(BATCH, TIME))
        part = layer(leaf.movedim(2, 0)[..., ::2], mask=MASK)
        return repeated, part, torch.autograd.grad(loss(repeated) + loss(part), [row, leaf])

    expected = run(pair.plain)
    with fused(2, 2):
        found = run(pair.fast)
    assert_same(found, expected)


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextlib.contextmanager
def default_device() -> Iterator[None]:
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)


@pytest.mark.parametrize(
    "setting", [torch.no_grad, torch.inference_mode, deterministic, default_device, lambda: torch.device("cpu")]
)
def test_settings(setting: Any, pair: Pair) -> None:
    expected = pair.plain(X, mask=MASK)
    x, mask, seed = X.clone(), MASK.clone(), torch.ones_like(expected)
    with fused(1), setting():
        found = pair.fast(x, mask=mask)
    assert found.device == x.device
    assert_same(found, expected)
    if found.requires_grad:
        plain, fast = ([variable.value for variable in layer.trainable_variables] for layer in (pair.plain, pair.fast))
        wanted = torch.autograd.grad(expected, plain, seed)
        with fused(0, 1), setting():
            gradients = torch.autograd.grad(found, fast, seed)
        assert_same(gradients, wanted)


def test_lists_go_where_x_is() -> None:
    """Not to the default device for new tensors."""
    expected = lstm_fast.lstm(X, KERNEL, RECURRENT_KERNEL)
    lists = [KERNEL.tolist(), RECURRENT_KERNEL.tolist()]
    with fused(1), torch.device("meta"):
        found = lstm_fast.lstm(X, *lists)
    assert_same(found, expected)


# Names that PyTorch may remove


@pytest.mark.usefixtures("auto")
@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (torch._C, "_len_torch_dispatch_stack"),
        (torch._C, "_len_torch_function_stack"),
        (torch._C._functorch, "get_interpreter_stack"),
        (forward_ad, "_current_level"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_without_what_tells_transforms(owner: Any, name: str, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = pair.plain(X, mask=MASK)
    with monkeypatch.context() as patch:
        patch.delattr(owner, name)
        with falls_back(f"does not say which transforms are active.*{name}", calls=pair.directions):
            found = pair.fast(X, mask=MASK)
        with pytest.raises(RuntimeError, match=f"^lstm_fast: .*{name}.*to_keras"):
            call_function(X)
    assert_same(found, expected)


@pytest.mark.usefixtures("auto")
@pytest.mark.parametrize(
    ("owner", "name"), [(torch.overrides, "_get_current_function_mode_stack"), (torch.utils._device, "DeviceContext")]
)
def test_without_what_tells_function_modes(owner: Any, name: str, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without such a mode, these names are not needed."""
    expected = pair.plain(X)
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.device("cpu"))
        monkeypatch.delattr(owner, name)
        with falls_back(f"does not say which transforms are active.*{name}"):
            assert_same(pair.fast(X), expected)
        monkeypatch.undo()
    monkeypatch.delattr(owner, name)
    with fused(1):
        assert_same(pair.fast(X), expected)


def test_without_what_tells_batched_gradients(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything else works as before. PyTorch itself refuses batched gradients."""
    expected = leaf_gradient(pair.plain, pair.plain)
    monkeypatch.delattr(torch._C._functorch, "is_legacy_batchedtensor")
    with fused(1, 1):
        assert_same(leaf_gradient(pair.fast, pair.fast), expected)
    with pytest.raises(RuntimeError, match="Batching rule"):
        vectorized_jacobian(pair.fast)


@pytest.mark.usefixtures("auto")
def test_without_is_exporting(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in PyTorch 2.6."""

    class Old:
        compiler = SimpleNamespace(disable=torch.compiler.disable)

        def __getattr__(self, name: str) -> Any:
            return getattr(torch, name)

    expected, of_export = pair.plain(X), exported(pair.plain)
    monkeypatch.setattr(backend, "torch", Old())
    with fused(1):
        assert_same(pair.fast(X), expected)
    with falls_back("TorchDispatchMode|FakeTensor|TorchFunctionMode"):
        assert_same(exported(pair.fast), of_export)


def test_disable_without_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in PyTorch 2.6: the module can be imported, and its functions are still left out of graphs."""
    disable, disabled = torch.compiler.disable, []

    def old(fn: Any = None, recursive: bool = True) -> Any:
        disabled.append(fn.__name__)
        return disable(fn, recursive)

    monkeypatch.setattr(torch.compiler, "disable", old)
    spec = importlib.util.spec_from_file_location("lstm_fast.backends.torch_of_old", backend.__file__)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    assert disabled == ["lstm"]
    monkeypatch.setattr(functional, "backend_of", lambda _: module)
    expected = call_function(X)
    torch._dynamo.reset()
    with fused(1):
        assert_same(torch.compile(call_function, backend="eager")(X), expected)
