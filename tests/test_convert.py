"""accelerate and to_keras: which layers change, what stays the same, the report, the errors."""

import contextlib
import logging
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
import pytest
import tolerances
from keras_side import everything_in, fused, to_numpy, variables_without

from lstm_fast import FastBidirectional, FastLSTM, FastRNN, accelerate, as_keras, status, to_keras
from lstm_fast.convert import Change

pytestmark = pytest.mark.backends("tensorflow", "jax", "torch")

BATCH, TIME, FEATURES, UNITS, WORDS = 4, 6, 3, 5, 11
TERMS = BATCH * TIME * (FEATURES + UNITS)

LSTM, Bidirectional = keras.layers.LSTM, keras.layers.Bidirectional


def sequential() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((None,)),
            keras.layers.Embedding(WORDS, FEATURES, mask_zero=True),
            Bidirectional(LSTM(UNITS, return_sequences=True, dropout=0.3, kernel_regularizer="l2")),
            LSTM(UNITS, recurrent_dropout=0.2, use_bias=False, trainable=False),
            keras.layers.Dense(1),
        ],
        name="sequential_one",
    )


def shared() -> keras.Model:
    """One LSTM on two inputs, its states into another, and a nested model that is used twice."""
    a, b = keras.Input((TIME, FEATURES), name="a"), keras.Input((None, FEATURES), name="b")
    encoder = LSTM(UNITS, return_state=True, return_sequences=True)
    nested_input = keras.Input((None, UNITS))
    nested = keras.Model(nested_input, Bidirectional(LSTM(2), merge_mode="sum")(nested_input), name="nested")
    (y_a, *states), (y_b, *_) = encoder(a), encoder(b)
    decoded = LSTM(UNITS)(b, initial_state=states)
    y = keras.ops.concatenate([nested(y_a), nested(y_b), decoded], axis=-1)
    return keras.Model({"a": a, "b": b}, keras.layers.Dense(1)(keras.layers.Dropout(0.5)(y)))


def wrapped() -> keras.Model:
    inner = keras.Sequential([keras.Input((TIME, FEATURES)), LSTM(UNITS)])
    return keras.Sequential(
        [
            keras.Input((None, TIME, FEATURES)),
            keras.layers.TimeDistributed(inner),
            Bidirectional(LSTM(UNITS), backward_layer=LSTM(2, go_backwards=True)),
        ]
    )


def stateful() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((None, FEATURES), batch_size=BATCH),
            LSTM(UNITS, stateful=True, return_sequences=True),
            Bidirectional(LSTM(UNITS, stateful=True)),
        ]
    )


def mixed() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((None, FEATURES)),
            Bidirectional(LSTM(UNITS, dtype="mixed_bfloat16"), dtype="mixed_bfloat16"),
            keras.layers.Dense(1, dtype="float32"),
        ]
    )


class Subclassed(keras.Model):
    """Layers that Keras finds in attributes, lists and dicts."""

    def __init__(self) -> None:
        super().__init__(name="subclassed")
        self.parts = [LSTM(UNITS, return_sequences=True), {"both": Bidirectional(LSTM(2))}]

    def call(self, x: Any, training: bool | None = None) -> Any:
        return self.parts[1]["both"](self.parts[0](x, training=training), training=training)


def others() -> keras.Model:
    """Recurrent layers that must not change, beside one that must."""

    class OwnLSTM(LSTM):
        pass

    return keras.Sequential(
        [
            keras.Input((None, FEATURES)),
            Bidirectional(keras.layers.GRU(UNITS, return_sequences=True), name="gru"),
            OwnLSTM(UNITS, return_sequences=True, name="own"),
            LSTM(UNITS, activation="relu", implementation=1, use_cudnn=False, dropout=0.5, name="relu"),
        ]
    )


# The model, and the classes that its layers get, nested ones included.
MODELS: dict[str, tuple[Callable[[], keras.Model], list[type]]] = {
    "sequential": (sequential, [FastBidirectional, FastLSTM, FastLSTM, FastLSTM]),
    "shared": (shared, [FastLSTM, FastLSTM, FastBidirectional, FastLSTM, FastLSTM]),
    "wrapped": (wrapped, [FastLSTM, FastBidirectional, FastLSTM, FastLSTM]),
    "stateful": (stateful, [FastLSTM, FastBidirectional, FastLSTM, FastLSTM]),
    "mixed": (mixed, [FastBidirectional, FastLSTM, FastLSTM]),
    "subclassed": (Subclassed, [FastLSTM, FastBidirectional, FastLSTM, FastLSTM]),
    "others": (others, [FastLSTM]),
}
models = pytest.mark.parametrize(("make", "changed"), MODELS.values(), ids=MODELS)


@pytest.fixture(autouse=True)
def fallback_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LSTM_FAST_KERNEL", "auto")


def inputs_of(model: keras.Model) -> Any:
    rng = np.random.default_rng(0)

    def array(shape: tuple[int | None, ...]) -> np.ndarray:
        sizes = [BATCH, *(TIME if size is None else size for size in shape[1:])]
        if len(sizes) == 2:
            return rng.integers(0, WORDS, sizes, np.int32)  # with int64, JAX warns inside Keras
        return rng.standard_normal(sizes).astype(np.float32)

    if isinstance(model, Subclassed):
        return array((None, None, FEATURES))
    arrays = {tensor.name: array(tensor.shape) for tensor in model.inputs}
    return arrays if len(arrays) > 1 else next(iter(arrays.values()))


def fast_classes(model: keras.Layer) -> list[str]:
    found = [type(layer) for layer in model._flatten_layers()]
    return names(cls for cls in found if cls in (FastLSTM, FastRNN, FastBidirectional))


def names(classes: Iterable[type]) -> list[str]:
    return sorted(cls.__qualname__ for cls in classes)


def assert_close(found: Any, expected: Any, dtype: str = "float32") -> None:
    found, expected = to_numpy(found), to_numpy(expected)
    np.testing.assert_allclose(found, expected, rtol=0.0, atol=tolerances.between_layers(dtype, TERMS, expected))


def values_of(model: keras.Layer) -> list[np.ndarray]:
    return [to_numpy(variable) for variable in everything_in(model)]


def outputs_of(model: keras.Model, x: Any) -> list[np.ndarray]:
    """The outputs of a model. Random numbers and states are restored afterwards."""
    before = values_of(model)
    outputs = [to_numpy(model(x)) for _ in range(2)]  # twice, for stateful layers
    keras.utils.set_random_seed(5)  # Keras on PyTorch draws dropout without a seed from PyTorch's own generator
    outputs.append(to_numpy(model(x, training=True)))
    for variable, value in zip(everything_in(model), before, strict=True):
        variable.assign(value)
    return outputs


@models
def test_there_and_back(make: Callable[[], keras.Model], changed: list[type]) -> None:
    model = make()
    x = inputs_of(model)
    model(x)  # builds it, and makes states that are not zero
    plain, values = outputs_of(model, x), values_of(model)
    layers = model._flatten_layers()
    classes, names_of_layers = [type(layer) for layer in layers], [layer.name for layer in layers]
    config = None if isinstance(model, Subclassed) else model.to_json()
    # On JAX, states become other variables with the same values: the values are compared.
    variables = [id(variable) for variable in variables_without(model)]
    trainable = [id(variable) for variable in model.trainable_variables]

    def assert_same() -> None:
        assert all(a is b for a, b in zip(model._flatten_layers(), layers, strict=True))
        assert [layer.name for layer in layers] == names_of_layers
        assert [id(variable) for variable in variables_without(model)] == variables
        assert [id(variable) for variable in model.trainable_variables] == trainable
        for found, expected in zip(values_of(model), values, strict=True):
            np.testing.assert_array_equal(found, expected)

    assert accelerate(model) is model
    assert fast_classes(model) == names(changed)
    assert_same()
    calls = status().fused_calls["forward"]
    for found, expected in zip(outputs_of(model, x), plain, strict=True):
        assert_close(found, expected, "bfloat16" if make is mixed else "float32")
    assert (status().fused_calls["forward"] > calls) == (make is not others)

    assert to_keras(model) is model
    assert [type(layer) for layer in layers] == classes
    assert config is None or model.to_json() == config
    assert_same()
    for found, expected in zip(outputs_of(model, x), plain, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_arguments_that_keras_lacks_are_dropped() -> None:
    model = keras.Sequential([keras.Input((None, FEATURES)), FastBidirectional(FastLSTM(UNITS, recompute=True))])
    assert "recompute" not in to_keras(model).to_json()
    accelerate(model)
    assert model.layers[0].forward_layer.recompute


# On JAX, each operation would otherwise be compiled alone; torch.compile is slow.
COMPILED = {"tensorflow": [False, True], "jax": [True], "torch": [False]}[keras.backend.backend()]


@pytest.mark.parametrize("jit_compile", COMPILED)
def test_training_goes_on_where_it_was(jit_compile: bool) -> None:
    """Training gives the same as in a model that stays Keras's. Keras's functions for the model are made anew."""
    x, y, steps = inputs_of(sequential()), np.arange(BATCH, dtype=np.int32) % 2, 3

    def trained(change: Callable[[Any], Any]) -> tuple[keras.Model, list[float]]:
        keras.utils.set_random_seed(3)
        model = sequential()
        loss = keras.losses.BinaryCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"], jit_compile=jit_compile)
        model.fit(x, y, epochs=2, shuffle=False, verbose=0)
        model.evaluate(x, y, verbose=0)
        model.predict(x, verbose=0)
        model.optimizer.learning_rate = 0.02
        parts = [model.optimizer, model.loss, *model.metrics, *model.optimizer.variables]
        values = [to_numpy(variable) for variable in model.optimizer.variables]
        assert change(model) is model
        now = [model.optimizer, model.loss, *model.metrics, *model.optimizer.variables]
        assert list(map(id, now)) == list(map(id, parts))
        for variable, value in zip(model.optimizer.variables, values, strict=True):
            np.testing.assert_array_equal(to_numpy(variable), value)
        keras.utils.set_random_seed(5)
        history = model.fit(x, y, epochs=steps, shuffle=False, verbose=0).history
        assert set(history) == {"loss", "accuracy"}
        return model, [*history["loss"], *model.evaluate(x, y, verbose=0)]

    plain, expected = trained(lambda model: model)
    with fused(forward=2 * (steps + 1), backward=2 * steps):
        fast, found = trained(accelerate)
    drift = tolerances.DRIFT_PER_STEP * (steps + 1) * tolerances.ROUNDOFF["float32"] * max(expected)
    np.testing.assert_allclose(found, expected, rtol=0.0, atol=drift)
    with fused(forward=2):
        predicted = fast.predict(x, verbose=0)
    np.testing.assert_allclose(predicted, plain.predict(x, verbose=0), rtol=0.0, atol=drift)
    with fused(forward=0):
        to_keras(fast).predict(x, verbose=0)
        fast.fit(x, y, verbose=0)
    assert int(to_numpy(fast.optimizer.iterations)) == 2 + steps + 1


LAYERS: dict[str, Callable[[], keras.Layer]] = {
    "lstm": lambda: LSTM(UNITS, recurrent_dropout=0.1),
    "rnn": lambda: keras.layers.RNN(keras.layers.LSTMCell(UNITS)),
    "bidirectional": lambda: Bidirectional(LSTM(UNITS), merge_mode="ave"),
    "time_distributed": lambda: keras.layers.TimeDistributed(LSTM(UNITS)),
}


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("built", [True, False])
@pytest.mark.fast
def test_single_layers(make: Callable[[], keras.Layer], built: bool) -> None:
    layer = make()
    cls = type(layer)
    shape = (BATCH, 2, TIME, FEATURES) if isinstance(layer, keras.layers.TimeDistributed) else (BATCH, TIME, FEATURES)
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    expected = layer(x) if built else None
    variables = list(map(id, layer.variables))
    assert accelerate(layer) is layer
    assert layer.built == built
    assert fast_classes(layer)
    assert list(map(id, layer.variables)) == variables
    if built:
        assert_close(layer(x), expected)
    assert type(to_keras(layer)) is cls


@pytest.mark.fast
def test_report_and_log(caplog: pytest.LogCaptureFixture) -> None:
    """One line for each call, and a warning if a layer is slower than a user may expect."""
    model, both = others(), Bidirectional(LSTM(UNITS, name="one"), name="both")
    dense = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(2)], name="dense")
    with caplog.at_level(logging.INFO, "lstm_fast"):
        found, report = accelerate(model, return_report=True)
        assert accelerate(both) is both
        assert accelerate(both, return_report=False) is both
        nothing = accelerate(dense, return_report=True)
        to_keras(both)
    assert found is model
    assert nothing == (dense, ())
    assert str(nothing[1]) == "no recurrent layer"
    assert [change.done for change in report] == ["left"] * 4 + ["runs as Keras's"]
    assert [change.layer for change in report] == ["Bidirectional", "GRU", "GRU", "OwnLSTM", "LSTM"]
    assert all(change.reason for change in report)
    assert report[-1] == Change("relu", "LSTM", "runs as Keras's", "activation=relu: the kernel computes tanh")
    assert str(report).splitlines() == list(map(str, report))
    assert str(report[-1]) == "'relu' (LSTM): runs as Keras's, activation=relu: the kernel computes tanh"
    names_of_both = "fast: both, forward_one, backward_one"
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.WARNING, f"accelerate: layers of '{model.name}' changed: 1; {'; '.join(map(str, report))}"),
        (logging.INFO, f"accelerate: layers of 'both' changed: 3; {names_of_both}"),
        (logging.INFO, f"accelerate: layers of 'both' changed: none; {names_of_both}"),
        (logging.WARNING, "accelerate: layers of 'dense' changed: none; there is no recurrent layer in it"),
    ]


@pytest.mark.fast
def test_repr_shows_the_class() -> None:
    """Keras's own `repr` would show `__name__`, which weights files need."""

    class Mine(FastLSTM):  # type: ignore[misc]
        pass

    wrapper = keras.layers.Bidirectional(keras.layers.LSTM(2, name="one"), name="both")
    model = keras.Sequential(
        [keras.Input((None, 3)), wrapper, keras.layers.Reshape((1, 4)), keras.layers.RNN(keras.layers.LSTMCell(2))]
    )
    before = list(map(repr, model.layers))
    accelerate(model)
    assert repr(wrapper) == str(wrapper) == "<FastBidirectional name=both, built=True>"
    assert repr(wrapper.forward_layer) == "<FastLSTM name=forward_one, built=True>"
    assert repr(model.layers[-1]) == f"<FastRNN name={model.layers[-1].name}, built=True>"
    assert type(wrapper).__name__ == "Bidirectional"
    to_keras(model)
    assert list(map(repr, model.layers)) == before
    assert repr(Mine(2, name="a")) == "<Mine name=a, built=False>"


@pytest.mark.parametrize("convert", [accelerate, to_keras, as_keras])
def test_other_things_are_refused(convert: Callable[[Any], Any]) -> None:
    with (
        pytest.raises(TypeError, match=f"{convert.__name__}: `model`: expected a Keras model or layer, found str"),
        contextlib.ExitStack() as stack,
    ):
        stack.enter_context(convert("model.keras"))


def test_subclasses_of_our_layers_are_named(caplog: pytest.LogCaptureFixture) -> None:
    class Own(FastLSTM):
        pass

    model = keras.Sequential(
        [keras.Input((None, FEATURES)), FastLSTM(UNITS, return_sequences=True), Own(UNITS, name="a")]
    )
    with caplog.at_level(logging.WARNING, "lstm_fast"):
        to_keras(model)
    assert [type(layer) for layer in model.layers] == [LSTM, Own]
    (message,) = caplog.messages
    assert message.startswith("to_keras: subclasses of this package's layers stay as they are, and need it: 'a' (")


class OwnRNN(keras.layers.RNN):
    pass


class OwnBidirectional(Bidirectional):
    pass


def nested_stack() -> keras.Layer:
    stack = keras.layers.StackedRNNCells([keras.layers.LSTMCell(2), keras.layers.LSTMCell(3)])
    return keras.layers.RNN([stack, keras.layers.LSTMCell(UNITS)])


LEFT: dict[str, tuple[Callable[[], keras.Layer], str]] = {
    "stack in a stack": (nested_stack, "its cell is a StackedRNNCells, not a keras.layers.LSTMCell"),
    "rnn": (
        lambda: OwnRNN(keras.layers.LSTMCell(UNITS)),
        "a subclass of RNN; if it computes the same, base it on FastRNN",
    ),
    "bidirectional": (
        lambda: OwnBidirectional(LSTM(UNITS)),
        "a subclass of Bidirectional; if it computes the same, base it on FastBidirectional",
    ),
}


@pytest.mark.parametrize(("make", "reason"), LEFT.values(), ids=LEFT)
def test_left_with_a_reason(make: Callable[[], keras.Layer], reason: str) -> None:
    model = keras.Sequential([keras.Input((TIME, FEATURES)), make()])
    x = inputs_of(model)
    before, kind = to_numpy(model(x)), type(model.layers[0])
    _, report = accelerate(model, return_report=True)
    assert report[0] == Change(model.layers[0].name, kind.__name__, "left", reason)
    assert type(model.layers[0]) is kind
    assert_close(model(x), before)


def test_a_layer_with_an_attribute_of_the_trainers_name() -> None:
    class Own(keras.layers.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.train_function, self.lstm = np.sum, LSTM(UNITS)

        def call(self, x: Any) -> Any:
            return self.lstm(x)

    layer = Own()
    layer(np.zeros((BATCH, TIME, FEATURES), np.float32))
    assert type(accelerate(layer).lstm) is FastLSTM
    assert layer.train_function is np.sum


def test_states_of_our_own_are_kept() -> None:
    layer = FastLSTM(UNITS, stateful=True)
    layer(np.ones((BATCH, TIME, FEATURES), np.float32))
    before = list(layer.states)
    with as_keras(layer):
        assert type(layer) is LSTM
    assert all(state is one for state, one in zip(layer.states, before, strict=True))


@pytest.mark.parametrize("hook", ["on_train_batch_begin", "on_train_batch_end", "on_epoch_end"])
def test_in_callbacks_that_hold_the_model(hook: str) -> None:
    """On JAX, Keras's trainer then has the values of the model's variables, but not yet those of the states."""
    model = stateful()
    model.add(keras.layers.Dense(1))
    model.compile("sgd", "mse")
    x = np.concatenate([inputs_of(model)] * 2)

    def change(*_: Any, **__: Any) -> None:
        with as_keras(model):
            assert type(model.layers[0]) is LSTM
        accelerate(model)

    callback = keras.callbacks.Callback()
    setattr(callback, hook, change)
    if keras.backend.backend() == "torch":  # Keras's own stateful layers do not train there
        accelerate(model)
    history = model.fit(x, x[:, 0, :1], BATCH, epochs=2, shuffle=False, verbose=0, callbacks=[callback]).history
    assert np.isfinite(history["loss"]).all()
    assert [type(layer) for layer in model.layers[:2]] == [FastLSTM, FastBidirectional]


@pytest.mark.parametrize("convert", [accelerate, to_keras])
def test_a_keras_that_does_not_tell_its_layers(convert: Callable[[Any], Any]) -> None:
    class Silent(keras.layers.Layer):
        @property
        def _layers(self) -> Any:
            raise AttributeError("_layers")

        @_layers.setter
        def _layers(self, value: Any) -> None:
            pass

    with pytest.raises(NotImplementedError, match=f"{convert.__name__}: Keras .* nothing was changed"):
        convert(Silent())
