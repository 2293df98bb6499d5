"""accelerate and to_keras: what is replaced, what is kept, what is refused."""

import logging
import pathlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tolerances
from keras_side import fused, to_numpy

from lstm_fast import FastBidirectional, FastLSTM, accelerate, states, to_keras

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


def others() -> keras.Model:
    """Recurrent layers that are not to be replaced, beside one that is."""

    class OwnLSTM(LSTM):
        pass

    return keras.Sequential(
        [
            keras.Input((None, FEATURES)),
            Bidirectional(keras.layers.GRU(UNITS, return_sequences=True)),
            OwnLSTM(UNITS, return_sequences=True),
            LSTM(UNITS, activation="relu", implementation=1, use_cudnn=False, dropout=0.5),
        ]
    )


# The model, and which layers `accelerate` replaces in it, by class, nested ones included.
MODELS: dict[str, tuple[Callable[[], keras.Model], list[type]]] = {
    "sequential": (sequential, [FastBidirectional, FastLSTM, FastLSTM, FastLSTM]),
    "shared": (shared, [FastLSTM, FastLSTM, FastBidirectional, FastLSTM, FastLSTM]),
    "wrapped": (wrapped, [FastLSTM, FastBidirectional, FastLSTM, FastLSTM]),
    "stateful": (stateful, [FastLSTM, FastBidirectional, FastLSTM, FastLSTM]),
    "mixed": (mixed, [FastBidirectional, FastLSTM, FastLSTM]),
    "others": (others, [FastLSTM]),
}
models = pytest.mark.parametrize(("make", "replaced"), MODELS.values(), ids=MODELS)


@pytest.fixture(autouse=True)
def fallback_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LSTM_FAST_KERNEL", "auto")


def inputs_of(model: keras.Model) -> Any:
    rng = np.random.default_rng(0)

    def array(shape: tuple[int | None, ...]) -> np.ndarray:
        sizes = [BATCH, *(TIME if size is None else size for size in shape[1:])]
        if len(sizes) == 2:
            return rng.integers(0, WORDS, sizes, np.int32)  # of int64, JAX warns in Keras
        return rng.standard_normal(sizes).astype(np.float32)

    arrays = {tensor.name: array(tensor.shape) for tensor in model.inputs}
    return arrays if len(arrays) > 1 else next(iter(arrays.values()))


def fast_layers(model: keras.Model) -> list[type]:
    classes = [type(layer) for layer in model._flatten_layers()]
    return [cls for cls in classes if cls in (FastLSTM, FastBidirectional)]


def assert_same_variables(a: keras.Layer, b: keras.Layer) -> None:
    # On JAX, the states of our layers are variables of the model: those have a test of their own.
    pairs = zip(states.variables_without(a), states.variables_without(b), strict=True)
    for found, expected in pairs:
        assert found.trainable == expected.trainable
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(to_numpy(found), to_numpy(expected))


def assert_close(found: Any, expected: Any, dtype: str = "float32") -> None:
    expected = to_numpy(expected)
    np.testing.assert_allclose(
        to_numpy(found), expected, rtol=0.0, atol=tolerances.between_layers(dtype, TERMS, expected)
    )


def seeded(call: Callable[[], Any]) -> Any:
    """Keras on PyTorch draws dropout without a seed from PyTorch's own generator, which models share."""
    keras.utils.set_random_seed(5)
    return call()


@models
def test_accelerate(make: Callable[[], keras.Model], replaced: list[type]) -> None:
    model = make()
    before = [keras.ops.convert_to_numpy(variable) for variable in model.variables]
    fast = accelerate(model)
    assert sorted(cls.__qualname__ for cls in fast_layers(fast)) == sorted(cls.__qualname__ for cls in replaced)
    assert fast_layers(model) == []
    assert type(fast) is type(model)
    assert fast.name == model.name
    assert [layer.name for layer in fast._flatten_layers()] == [layer.name for layer in model._flatten_layers()]
    assert_same_variables(fast, model)
    for found, expected in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(to_numpy(found), to_numpy(expected))
    x = inputs_of(model)
    dtype = "bfloat16" if make is mixed else "float32"
    for _ in range(2):  # twice, for stateful layers
        assert_close(fast(x), model(x), dtype)
    # The same dropout: the random number generators go on alike.
    assert_close(*(seeded(lambda m=m: m(x, training=True)) for m in (fast, model)), dtype)
    fast.set_weights([weight + 1.0 for weight in fast.get_weights()])
    assert not np.array_equal(fast.get_weights()[0], model.get_weights()[0])


@models
def test_to_keras_is_the_inverse(make: Callable[[], keras.Model], replaced: list[type]) -> None:
    del replaced
    model = make()
    back = to_keras(accelerate(model))
    assert fast_layers(back) == []
    assert [type(layer) for layer in back._flatten_layers()] == [type(layer) for layer in model._flatten_layers()]
    assert back.to_json() == model.to_json()
    assert_same_variables(back, model)


def test_arguments_that_keras_lacks_are_dropped() -> None:
    model = keras.Sequential([keras.Input((None, FEATURES)), FastBidirectional(FastLSTM(UNITS, recompute=True))])
    assert "recompute" not in to_keras(model).to_json()
    again = accelerate(model)
    assert again.layers[0].forward_layer.recompute


def test_states_are_kept() -> None:
    model = stateful()
    x = inputs_of(model)
    model(x)
    fast = accelerate(model)
    for plain_layer, fast_layer in zip(model.layers, fast.layers, strict=True):
        for expected, found in zip(plain_layer.states, fast_layer.states, strict=True):
            assert np.any(to_numpy(expected))
            np.testing.assert_array_equal(to_numpy(found), to_numpy(expected))
    assert_close(fast(x), model(x))


def test_settings_outside_of_the_config_are_kept() -> None:
    fast = accelerate(others()).layers[-1]
    assert (fast.cell.implementation, fast.cell.dropout_mask_count, fast.use_cudnn) == (1, 4, False)


def test_sharing_is_kept() -> None:
    fast = accelerate(shared())
    assert len(fast.get_weights()) == len(shared().get_weights())
    assert sum(isinstance(layer, keras.Model) for layer in fast.layers) == 1


def test_training_goes_on_where_it_was() -> None:
    model = sequential()
    model.compile(keras.optimizers.Adam(0.01), keras.losses.BinaryCrossentropy(from_logits=True), metrics=["accuracy"])
    x, y = inputs_of(model), np.arange(BATCH, dtype=np.int32) % 2
    model.fit(x, y, epochs=2, verbose=0)
    model.optimizer.learning_rate = 0.02
    fast = accelerate(model)
    assert type(fast.optimizer) is type(model.optimizer)
    for found, expected in zip(fast.optimizer.variables, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(to_numpy(found), to_numpy(expected))
    steps = 3
    with fused(forward=2, backward=2):  # traced once, run often: counted where the kernel runs, below
        seeded(lambda: fast.train_on_batch(x, y))
    seeded(lambda: model.train_on_batch(x, y))
    histories = [seeded(lambda m=m: m.fit(x, y, epochs=steps, shuffle=False, verbose=0).history) for m in (fast, model)]
    assert set(histories[0]) == set(histories[1]) == {"loss", "accuracy"}
    drift = tolerances.DRIFT_PER_STEP * (steps + 1) * tolerances.ROUNDOFF["float32"] * max(histories[1]["loss"])
    np.testing.assert_allclose(histories[0]["loss"], histories[1]["loss"], rtol=0.0, atol=drift)


def test_lambda_layers() -> None:
    factor = 3.0
    model = keras.Sequential(
        [keras.Input((None, FEATURES)), LSTM(UNITS), keras.layers.Lambda(lambda y: factor * y, output_shape=(UNITS,))]
    )
    x = inputs_of(model)
    assert_close(accelerate(model)(x), model(x))


def test_unbuilt_sequential() -> None:
    fast = accelerate(keras.Sequential([LSTM(UNITS)]))
    assert not fast.built
    assert type(fast.layers[0]) is FastLSTM


LAYERS: dict[str, Callable[[], keras.Layer]] = {
    "lstm": lambda: LSTM(UNITS, recurrent_dropout=0.1),
    "bidirectional": lambda: Bidirectional(LSTM(UNITS), merge_mode="ave"),
    "time_distributed": lambda: keras.layers.TimeDistributed(LSTM(UNITS)),
}


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("built", [True, False])
def test_single_layers(make: Callable[[], keras.Layer], built: bool) -> None:
    layer = make()
    shape = (BATCH, 2, TIME, FEATURES) if isinstance(layer, keras.layers.TimeDistributed) else (BATCH, TIME, FEATURES)
    if built:
        layer.build(shape)
    fast = accelerate(layer)
    assert fast.built == built
    assert fast_layers(fast)
    if built:
        assert_same_variables(fast, layer)
        x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        assert_close(fast(x), layer(x))
    assert type(to_keras(fast)) is type(layer)


def test_nothing_to_replace(caplog: pytest.LogCaptureFixture) -> None:
    model = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(2)])
    with caplog.at_level(logging.WARNING, "lstm_fast"):
        copy = accelerate(model)
    assert copy is not model
    assert_same_variables(copy, model)
    assert "accelerate: nothing to replace" in caplog.text


class Subclassed(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = LSTM(UNITS)

    def call(self, x: Any) -> Any:
        return self.lstm(x)


class FixedFunctional(keras.Model):
    """A Functional model that makes its own layers."""

    def __init__(self) -> None:
        x = keras.Input((None, FEATURES))
        super().__init__(x, LSTM(UNITS)(x))


class OwnSequential(keras.Sequential):
    def __init__(self) -> None:
        super().__init__([LSTM(UNITS)])


@pytest.mark.parametrize("convert", [accelerate, to_keras])
@pytest.mark.parametrize("make", [Subclassed, FixedFunctional, OwnSequential])
def test_subclassed_models_are_refused(convert: Callable[[Any], Any], make: Callable[[], keras.Model]) -> None:
    with pytest.raises(TypeError, match=rf"{convert.__name__}: `model`: .*found {make.__name__}, a subclassed model"):
        convert(make())


@pytest.mark.parametrize("convert", [accelerate, to_keras])
def test_other_things_are_refused(convert: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError, match=f"{convert.__name__}: `model`: expected a Keras model or layer, found str"):
        convert("model.keras")


def test_file_of_a_keras_model_is_accelerated(tmp_path: pathlib.Path) -> None:
    model = sequential()
    model.save(tmp_path / "model.keras")
    fast = accelerate(keras.models.load_model(tmp_path / "model.keras"))
    x = inputs_of(model)
    assert_close(fast(x), model(x))
