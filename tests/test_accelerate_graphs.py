"""`accelerate` on any graph of layers (hypothesis), and while other threads call the model."""

import contextlib
import dataclasses
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from keras import ops
from keras_side import fused, to_numpy
from twins import (
    BACKEND,
    accelerated_classes,
    assert_changes_nothing,
    assert_close,
    classes,
    computed,
    random,
)

import lstm_fast
from lstm_fast import accelerate, as_keras, to_keras

pytestmark = pytest.mark.backends("tensorflow", "jax", "torch")

K = keras.layers
# Every layer has this number of features as input and output, so that it can be anywhere, any number of times.
BATCH, TIME, WIDTH, WORDS = 3, 4, 4, 7
X = random(BATCH, TIME, WIDTH)
X[0, 2:] = X[1, :1] = 0.0  # timesteps that Masking leaves out
TOKENS = np.random.default_rng(0).integers(0, WORDS, (BATCH, TIME)).astype(np.int32)


class OwnLSTM(K.LSTM):
    """A subclass, which stays as it is."""


def lstm(**kwargs: Any) -> Any:
    return K.LSTM(WIDTH, return_sequences=True, **kwargs)


def rnn(cells: Any, **kwargs: Any) -> Any:
    return K.RNN(cells, return_sequences=True, **kwargs)


def both(layer: Callable[..., Any], **kwargs: Any) -> Any:
    """A wrapper with WIDTH output features."""
    return K.Bidirectional(layer(), **{"merge_mode": "sum", **kwargs})


@dataclasses.dataclass(frozen=True)
class Kind:
    """A layer from sequences to sequences, and the kernel calls that one call of it makes."""

    make: Callable[[], Any]
    calls: int = 0


KINDS: Mapping[str, Kind] = {
    "lstm": Kind(lstm, 1),
    "lstm_with_options": Kind(lambda: lstm(use_bias=False, dropout=0.3, zero_output_for_mask=True), 1),
    "lstm_with_regularizers": Kind(lambda: lstm(kernel_regularizer="l2", activity_regularizer="l1"), 1),
    "lstm_without_training": Kind(lambda: lstm(trainable=False, recurrent_dropout=0.2), 1),
    "rnn": Kind(lambda: rnn(K.LSTMCell(WIDTH)), 1),
    "rnn_of_stack": Kind(lambda: rnn([K.LSTMCell(2), K.LSTMCell(WIDTH, use_bias=False)]), 2),
    "rnn_of_nested_stack": Kind(lambda: rnn(K.StackedRNNCells([K.LSTMCell(3), K.LSTMCell(WIDTH)])), 2),
    "both": Kind(lambda: both(lstm), 1),
    "both_side_by_side": Kind(lambda: K.Bidirectional(K.LSTM(WIDTH // 2, return_sequences=True)), 1),
    "both_rnn": Kind(lambda: both(lambda: rnn(K.LSTMCell(WIDTH)), merge_mode="ave"), 1),
    "both_with_two_layers": Kind(
        lambda: both(lstm, merge_mode="mul", backward_layer=lstm(go_backwards=True, use_bias=False)), 1
    ),
    "both_with_regularizer": Kind(lambda: both(lambda: lstm(activity_regularizer="l2")), 2),
    "both_gru": Kind(lambda: both(lambda: K.GRU(WIDTH, return_sequences=True))),
    "gru": Kind(lambda: K.GRU(WIDTH, return_sequences=True)),
    "rnn_of_gru_and_lstm": Kind(lambda: rnn([K.LSTMCell(2), K.GRUCell(WIDTH)])),
    "subclass": Kind(lambda: OwnLSTM(WIDTH, return_sequences=True)),
    "dense": Kind(lambda: K.Dense(WIDTH, "tanh")),
    "masking": Kind(K.Masking),
    "time_distributed": Kind(lambda: K.TimeDistributed(K.Dense(WIDTH))),
    "norm": Kind(K.LayerNormalization),
}
# Keras's own loops. JAX compiles them anew for every call, so layers with nothing else are tested on other backends.
SLOW = {"gru", "both_gru", "rnn_of_gru_and_lstm", "subclass"}


@dataclasses.dataclass(frozen=True)
class Chain:
    """Layers one after the other, in a model or a layer. A number stands for an earlier layer, used again."""

    style: str
    steps: Sequence["str | int | Chain"]


STYLES = ("sequential", "functional", "in_list", "in_dict", "wrapped")


class Listed(keras.Model):
    """A subclassed model with its layers in a list."""

    def __init__(self, steps: Sequence[Any]) -> None:
        super().__init__()
        self.steps = list(steps)

    def call(self, x: Any, training: bool | None = None) -> Any:
        del training
        for step in self.steps:
            x = step(x)
        return x


class Named(keras.Model):
    """A subclassed model with its layers in dicts, by kind."""

    def __init__(self, steps: Sequence[Any]) -> None:
        super().__init__()
        self.parts = {"even": dict(enumerate(steps[::2])), "odd": list(steps[1::2])}

    def call(self, x: Any) -> Any:
        for i in range(len(self.parts["even"]) + len(self.parts["odd"])):
            x = self.parts["odd"][i // 2](x) if i % 2 else self.parts["even"][i // 2](x)
        return x


class Block(K.Layer):
    """A layer of layers, with a sum around them."""

    def __init__(self, steps: Sequence[Any]) -> None:
        super().__init__()
        self.steps = tuple(steps)
        self.supports_masking = True

    def call(self, x: Any) -> Any:
        y = x
        for step in self.steps:
            y = step(y)
        return 0.5 * x + y


def chained(style: str, steps: Sequence[Any]) -> Any:
    if style == "in_list":
        return Listed(steps)
    if style == "in_dict":
        return Named(steps)
    if style == "wrapped":
        return Block(steps)
    if style == "sequential" and len({id(step) for step in steps}) == len(steps):  # Sequential refuses the same twice
        return keras.Sequential([keras.Input((None, WIDTH)), *steps])
    inputs = outputs = keras.Input((None, WIDTH))
    for step in steps:
        outputs = step(outputs)
    return keras.Model(inputs, outputs)


def made(chain: Chain, earlier: list[tuple[Any, int]]) -> tuple[Any, int]:
    """The model of a plan, and the number of kernel calls in one call of it."""
    steps, calls = [], 0
    for step in chain.steps:
        if isinstance(step, int) and earlier:
            layer, count = earlier[step % len(earlier)]
        elif isinstance(step, Chain):
            layer, count = made(step, earlier)
        else:
            kind = KINDS[step if isinstance(step, str) else "lstm"]
            layer, count = kind.make(), kind.calls
            earlier.append((layer, count))
        steps.append(layer)
        calls += count
    return chained(chain.style, steps), calls


@st.composite
def chains(draw: st.DrawFn) -> Chain:
    kinds, numbers = st.sampled_from(sorted(KINDS)), st.integers(0, 5)
    inner = st.builds(Chain, st.sampled_from(STYLES), st.lists(kinds | numbers, min_size=1, max_size=2))
    steps = draw(st.lists(kinds | kinds | numbers | inner, min_size=1, max_size=4))
    return Chain(draw(st.sampled_from(STYLES)), steps)


@dataclasses.dataclass(frozen=True)
class Graph:
    """A chain between an input, with a mask or without, and an output, with states passed on or without."""

    chain: Chain
    tokens: bool
    states: str
    seed: int

    def build(self) -> tuple[keras.Model, int]:
        keras.utils.set_random_seed(self.seed)
        inner, calls = made(self.chain, [])
        if self.tokens:
            inputs = keras.Input((TIME,), dtype="int32")
            x = K.Embedding(WORDS, WIDTH, mask_zero=True)(inputs)
        else:
            inputs = keras.Input((TIME, WIDTH))
            x = K.Masking()(inputs)
        y = inner(x)
        if not self.states:
            return keras.Model(inputs, y), calls
        encoders = {
            "lstm": lambda: K.LSTM(WIDTH, return_state=True),
            "rnn": lambda: K.RNN(K.LSTMCell(WIDTH), return_state=True),
            "both": lambda: K.Bidirectional(K.LSTM(WIDTH), merge_mode="sum"),
        }
        decoder = K.LSTM(WIDTH, return_sequences=True)
        if self.states == "both":
            wrapper = K.Bidirectional(K.LSTM(WIDTH, return_sequences=True, return_state=True))
            _, *last = wrapper(y)
            z = decoder(x, initial_state=last[:2])
            return keras.Model(inputs, [z, encoders["both"]()(z, initial_state=last)]), calls + 3
        _, *last = encoders[self.states]()(y)
        z, *_ = [decoder(x, initial_state=last)]
        return keras.Model(inputs, [z, *last]), calls + 2


graphs = st.builds(Graph, chains(), st.booleans(), st.sampled_from(["", "lstm", "rnn", "both"]), st.integers(0, 2**16))


# Some of Keras's models lose a mask, and warn about it.
@pytest.mark.filterwarnings("ignore:.*was passed an input with a mask attached to it:UserWarning")
@settings(phases=set(Phase) - {Phase.explain}, max_examples={"tensorflow": 10, "jax": 5, "torch": 30}[BACKEND])
@given(graphs)
def test_any_graph(graph: Graph) -> None:
    model, calls = graph.build()
    assert_changes_nothing(model, TOKENS if graph.tokens else X, forward=calls)
    # A second call changes nothing, in both directions.
    before = classes(model)
    expected = accelerated_classes(model)
    assert classes(accelerate(accelerate(model))) == expected
    with as_keras(model):
        assert classes(model) == before
    assert classes(model) == expected
    assert classes(to_keras(to_keras(model))) == before


@pytest.mark.parametrize("kind", [kind for kind in KINDS if BACKEND != "jax" or kind not in SLOW])
@pytest.mark.parametrize("style", ["in_list"] if BACKEND == "jax" else ["in_list", "in_dict"])
def test_every_kind(kind: str, style: str) -> None:
    """Each kind once, in a subclassed model: hypothesis might miss one."""
    model, calls = made(Chain(style, [kind, "masking", "lstm"]), [])
    assert_changes_nothing(model, X, forward=calls)


def test_layer_that_is_shared_is_changed_once() -> None:
    shared = K.Bidirectional(lstm(), merge_mode="sum")
    a, b = keras.Input((TIME, WIDTH)), keras.Input((None, WIDTH))
    nested = chained("functional", [shared, shared])
    model = keras.Model([a, b], [nested(shared(a)), Block([shared])(b)])
    assert_changes_nothing(model, [X, X[:, ::-1]], forward=4)
    _, report = accelerate(model, return_report=True)
    assert len(report) == 3


@pytest.mark.fast
def test_part_of_a_model_is_that_of_the_whole() -> None:
    """Models that share layers: all of them have the fast layers then."""
    inputs = keras.Input((TIME, WIDTH))
    middle = lstm(name="middle")(inputs)
    whole = keras.Model(inputs, K.LSTM(2)(middle))
    part = keras.Model(inputs, middle)
    expected = computed(lambda: part(X))
    accelerate(whole)
    with fused(forward=1):
        found = computed(lambda: part(X))
    assert_close(found, expected)
    to_keras(part)
    with fused(forward=1):
        computed(lambda: whole(X))


# Threads


def threaded() -> keras.Model:
    inputs = keras.Input((TIME, WIDTH))
    x = K.Masking()(inputs)
    x, *last = K.LSTM(WIDTH, return_sequences=True, return_state=True)(x)
    x = K.Bidirectional(lstm(), merge_mode="sum")(x, initial_state=[*last, *last])
    x = rnn([K.LSTMCell(2), K.LSTMCell(WIDTH)])(x)
    x = Block([KINDS["both_with_two_layers"].make()])(x)
    return keras.Model(inputs, K.LSTM(2)(x))


def reversed_twice() -> keras.Model:
    """Without a mask, in a subclassed model."""
    return Listed([lstm(go_backwards=True), both(lambda: rnn(K.LSTMCell(WIDTH))), lstm()])


@contextlib.contextmanager
def many_switches() -> Iterator[None]:
    """Makes Python switch between threads as often as possible."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize("mode", ["fused", "auto"])
@pytest.mark.parametrize("make", [reversed_twice] if BACKEND == "jax" else [reversed_twice, threaded])
def test_threads_call_the_model_meanwhile(
    make: Callable[[], keras.Model], mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LSTM_FAST_KERNEL", mode)
    model = make()
    inputs = [random(BATCH, TIME, WIDTH, seed=seed) for seed in range(4)]
    right = [computed(lambda x=x: model(x)) for x in inputs]
    plain = classes(model)
    fast = accelerated_classes(model)
    failures: list[BaseException] = []
    enough, calls = threading.Event(), [0] * len(inputs)

    def call(i: int) -> None:
        try:
            while not enough.is_set() and not failures:
                assert_close(computed(lambda: model(inputs[i])), right[i])
                calls[i] += 1
        except BaseException as error:
            failures.append(error)

    before = lstm_fast.status()
    threads = [threading.Thread(target=call, args=(i,)) for i in range(len(inputs))]
    least = 3 if BACKEND == "jax" else 10  # JAX compiles each call of Keras's loop
    with many_switches():
        for thread in threads:
            thread.start()
        turns = 0
        try:
            while not failures and (min(calls) < least or turns < 50):
                accelerate(model)
                assert classes(model) == fast
                with as_keras(model):
                    assert classes(model) == plain
                assert classes(model) == fast
                enough.wait(0.002)
                to_keras(model)
                assert classes(model) == plain
                enough.wait(0.002)
                turns += 1
        finally:
            enough.set()
            for thread in threads:
                thread.join()
    if failures:
        raise failures[0]
    after = lstm_fast.status()
    assert after.fallbacks == before.fallbacks
    assert after.fused_calls["forward"] > before.fused_calls["forward"]
    assert_close(computed(lambda: accelerate(model)(inputs[0])), right[0])


def test_states_are_those_of_the_layer_whoever_holds_it() -> None:
    """When its class changes, a stateful layer keeps its states."""

    def make() -> keras.Model:
        keras.utils.set_random_seed(4)
        layers = [lstm(stateful=True), both(lambda: lstm(stateful=True)), rnn(K.LSTMCell(WIDTH), stateful=True)]
        return keras.Sequential([keras.Input((TIME, WIDTH), batch_size=BATCH), *layers])

    plain, changed = make(), make()
    for change in (accelerate, to_keras, accelerate):
        change(changed)
        for _ in range(2):
            assert_close(computed(lambda: changed(X)), computed(lambda: plain(X)))
        for one, other in zip(changed.layers, plain.layers, strict=True):
            for state, expected in zip(keras.tree.flatten(one.states), keras.tree.flatten(other.states), strict=True):
                assert_close([to_numpy(state)], [to_numpy(expected)])
    for layer in changed.layers:
        layer.reset_state()
    assert not any(ops.any(state != 0.0) for layer in changed.layers for state in keras.tree.flatten(layer.states))
