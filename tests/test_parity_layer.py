"""FastLSTM and FastBidirectional against Keras's layers, with each of Keras's backends and in each of its modes:
outputs, states and every gradient, and in `fit`. Every test proves that the fused kernels ran.
"""

import contextlib
import functools
from typing import Any

import keras
import numpy as np
import pytest
import tolerances
from cases import DTYPES, KINDS, Expected, Problem, Solution, label, make_mask, make_problem, pairwise
from keras_side import MODES, POLICIES, expected_of_layer, framework, fused, keras_copy, plain_mode, solve_by_layer
from keras_side import run as run_layer

import lstm_fast
from lstm_fast import FastBidirectional, FastLSTM

pytestmark = pytest.mark.backends("tensorflow", "jax", "torch")

BATCH, TIME, FEATURES, UNITS = 4, 7, 5, 6
TERMS = BATCH * TIME * (FEATURES + UNITS)
KERAS = tuple(int(part) for part in keras.__version__.split(".")[:2])

modes = pytest.mark.parametrize("mode", MODES)


def different_weights(output: Any) -> np.ndarray:
    """An incoming gradient with a different weight for every entry."""
    shape = tuple(output.shape)
    return np.cos(np.arange(np.prod(shape), dtype=np.float64)).reshape(shape)


def run(layer: keras.Layer, mode: str = MODES[0], **call_arguments: Any) -> list[np.ndarray]:
    """Outputs of a layer, and the gradients of a weighted sum of them by its floating-point inputs and its weights."""
    arrays = keras.tree.flatten(call_arguments)

    def call(*tensors: Any) -> Any:
        return layer(**keras.tree.pack_sequence_as(call_arguments, tensors), training=True)

    outputs, gradients = run_layer(layer, call, arrays, different_weights, mode)
    return [*outputs, *gradients]


def predict(layer: keras.Layer, x: np.ndarray, mode: str = MODES[0], **options: Any) -> np.ndarray:
    """The output of a layer, without gradients."""
    (output,), _ = run_layer(layer, lambda tensor: layer(tensor, **options), [x], None, mode)
    return output


def assert_agree(fast: list[np.ndarray], plain: list[np.ndarray], dtype: str = "float32") -> None:
    assert len(fast) == len(plain)
    for i, (found, expected) in enumerate(zip(fast, plain, strict=True)):
        assert found.dtype == expected.dtype
        np.testing.assert_allclose(
            found.astype(np.float64),
            expected.astype(np.float64),
            rtol=0.0,
            atol=tolerances.between_layers(dtype, TERMS, expected),
            err_msg=f"array {i}",
        )


def sequences(dtype: str = "float32", seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((BATCH, TIME, FEATURES)).astype(dtype)


def same_weights(fast: keras.Layer, plain: keras.Layer) -> None:
    for layer in (fast, plain):
        layer.build((BATCH, TIME, FEATURES))
    rng = np.random.default_rng(1)
    plain.set_weights([rng.standard_normal(weight.shape) / 2 for weight in plain.get_weights()])
    fast.set_weights(plain.get_weights())


# The layer

OPTIONS = pairwise(KINDS)


@functools.cache
def solved(index: int) -> tuple[Problem, Expected, Solution | None]:
    """A problem, its exact solution, and Keras's solution on request."""
    problem = make_problem(5, 18, 4, 7, **OPTIONS[index])
    plain = None if index % framework.EVERY else solve_by_layer(problem, keras.layers.LSTM)
    return problem, expected_of_layer(problem), plain


@modes
@pytest.mark.parametrize("index", range(len(OPTIONS)), ids=lambda index: label(OPTIONS[index]))
def test_layer(index, mode):
    problem, expected, plain = solved(index)
    directions = len(problem.kernels)
    with fused(forward=directions, backward=directions):
        fast = solve_by_layer(problem, FastLSTM, mode)
    expected.check(fast)
    if plain is None:
        return
    dtype = problem.x.dtype.name
    if dtype in ("float32", "float64") and dtype not in framework.REACHED:
        Expected(plain, expected.allowance).check(fast, slack=2.0)
    else:  # Keras rounds every intermediate result to 16 bits, or to the dtype of REACHED
        exact, ours = expected.solution.named(), fast.named()
        for name, theirs in plain.named().items():
            error, error_of_keras = (
                np.abs(array.astype(np.float64) - exact[name]).max() for array in (ours[name], theirs)
            )
            assert error <= error_of_keras + expected.allowance[name], name


@modes
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {"dropout": 0.4},
        {"recurrent_dropout": 0.4},
        {"dropout": 0.3, "recurrent_dropout": 0.4},
        {"dropout": 1.0, "recurrent_dropout": 1.0},
    ],
    ids=label,
)
def test_dropout_draws_the_same_numbers(options, training, mode):
    fast, plain = (layer_class(UNITS, seed=7, **options) for layer_class in (FastLSTM, keras.layers.LSTM))
    same_weights(fast, plain)
    for seed in range(2):  # the second call must go on from the states of the first one
        x = sequences(seed=seed)
        try:
            expected = predict(plain, x, plain_mode(mode, random=training), training=training)
        except ValueError:  # TensorFlow 2.18 cannot leave out everything
            assert options["dropout"] == 1.0
            with fused(forward=0), pytest.raises(ValueError, match="`rate` must be"):
                predict(fast, x, mode, training=training)
            return
        with fused(forward=1):
            found = predict(fast, x, mode, training=training)
        assert_agree([found], [expected])


def test_dropout_with_one_mask_per_gate():
    fast, plain = (
        layer_class(UNITS, dropout=0.4, implementation=1, use_cudnn=False, seed=7)
        for layer_class in (FastLSTM, keras.layers.LSTM)
    )
    same_weights(fast, plain)
    with fused(forward=1, backward=1):
        found = run(fast, sequences=sequences())
    assert_agree(found, run(plain, sequences=sequences()))


@contextlib.contextmanager
def where_keras_can_train_it():
    """Skips if Keras's own stateful layer cannot be differentiated, as in an older release on PyTorch."""
    try:
        yield
    except RuntimeError as error:
        if "modified by an inplace operation" not in str(error) or KERAS >= (3, 10):
            raise
        pytest.skip("Keras's own stateful layer fails on PyTorch")


@modes
def test_stateful(mode):
    # With use_cudnn="auto", Keras 3.15 on PyTorch fails to differentiate a stateful LSTM.
    options = {"stateful": True, "return_state": True, "return_sequences": True, "use_cudnn": False}
    fast, plain = FastLSTM(UNITS, **options), keras.layers.LSTM(UNITS, **options)
    same_weights(fast, plain)
    for seed in range(3):
        with fused(forward=1, backward=1):
            found = run(fast, mode, sequences=sequences(seed=seed))
        with where_keras_can_train_it():
            expected = run(plain, sequences=sequences(seed=seed))
        assert_agree(found, expected)
    for layer in (fast, plain):
        layer.reset_state()
    assert_agree(run(fast, sequences=sequences()), run(plain, sequences=sequences()))


def test_regularizers_and_constraints():
    options = {
        "kernel_regularizer": "l2",
        "recurrent_regularizer": "l1",
        "bias_regularizer": "l1l2",
        "activity_regularizer": "l2",
        "kernel_constraint": "unit_norm",
        "recurrent_constraint": "max_norm",
        "bias_constraint": "non_neg",
    }
    models = [
        keras.Sequential([keras.Input((TIME, FEATURES)), layer_class(UNITS, **options), keras.layers.Dense(1)])
        for layer_class in (FastLSTM, keras.layers.LSTM)
    ]
    models[0].set_weights(models[1].get_weights())
    x, y = sequences(), np.ones((BATCH, 1), np.float32)
    losses = []
    for model, expected in zip(models, (fused(forward=3, backward=3), fused(forward=0)), strict=True):
        model.compile("sgd", "mse")
        with expected:
            losses.append(model.fit(x, y, epochs=3, verbose=0, batch_size=BATCH).history["loss"])
    assert_agree([np.float32(losses[0])], [np.float32(losses[1])])
    assert_agree(models[0].get_weights(), models[1].get_weights())


@pytest.mark.fast
def test_initialisation_is_that_of_keras():
    options = {"kernel_initializer": "he_normal", "unit_forget_bias": False, "bias_initializer": "ones"}
    for case in ({}, options, {"use_bias": False}):
        weights = []
        for layer_class in (FastLSTM, keras.layers.LSTM):
            keras.utils.set_random_seed(3)
            layer = layer_class(UNITS, **case)
            layer.build((None, None, FEATURES))
            weights.append(layer.get_weights())
        for fast, plain in zip(*weights, strict=True):
            np.testing.assert_array_equal(fast, plain)


@pytest.mark.fast
def test_frozen_layer():
    fast, plain = (layer_class(UNITS, trainable=False) for layer_class in (FastLSTM, keras.layers.LSTM))
    same_weights(fast, plain)
    with fused(forward=1, backward=1):
        found = run(fast, sequences=sequences())
    assert_agree(found, run(plain, sequences=sequences()))


@pytest.mark.fast
def test_recompute_gives_the_same_gradients():
    layers = [FastLSTM(UNITS, recompute=recompute) for recompute in (False, True)]
    same_weights(*layers)
    with fused(forward=2, backward=2):
        found = [run(layer, sequences=sequences()) for layer in layers]
    assert_agree(*found)


@pytest.mark.fast
def test_both_directions_recompute():
    layers = [FastBidirectional(FastLSTM(UNITS)) for _ in range(2)]
    same_weights(*layers)
    layers[1].recompute = True
    inside = layers[1].forward_layer, layers[1].backward_layer
    assert [layer.recompute for layer in (*layers, *inside)] == [False, True, True, True]
    assert type(layers[1]).from_config(layers[1].get_config()).recompute
    with fused(forward=2, backward=2):
        found = [run(layer, sequences=sequences()) for layer in layers]
    assert_agree(*found)
    with pytest.raises(TypeError, match="`recompute`: expected True or False, found 1"):
        layers[1].recompute = 1
    with pytest.raises(AttributeError, match="`recompute`: expected FastLSTM or FastRNN inside, found <GRU"):
        FastBidirectional(keras.layers.GRU(UNITS)).recompute = True


@pytest.mark.fast
def test_nan_and_infinity_spread_as_in_keras():
    fast, plain = (layer_class(UNITS, return_sequences=True) for layer_class in (FastLSTM, keras.layers.LSTM))
    same_weights(fast, plain)
    x = sequences()
    x[0, 3, 1], x[2, 5, 0] = np.nan, np.inf
    with fused(forward=1):
        found = predict(fast, x)
    assert_agree([found], [predict(plain, x)])


@pytest.mark.backends("tensorflow")
@pytest.mark.fast
def test_unknown_shapes_in_a_graph():
    import tensorflow as tf

    layer, plain = FastLSTM(UNITS, return_sequences=True), keras.layers.LSTM(UNITS, return_sequences=True)
    same_weights(layer, plain)
    graph = tf.function(layer, input_signature=[tf.TensorSpec((None, None, FEATURES))])
    for time in (1, 4, TIME):
        with fused(forward=1):
            found = graph(sequences()[:, :time])
        assert_agree([found.numpy()], [plain(sequences()[:, :time]).numpy()])


# Both directions


BIDIRECTIONAL = pairwise(
    {
        "wrapper": (FastBidirectional, keras.layers.Bidirectional),
        "merge_mode": ("concat", "sum", "ave", "mul", None),
        "return_sequences": (True, False),
        "return_state": (True, False),
        "mask": ("none", "right", "holes", "masked_rows"),
        "states": (False, True),
        "dropout": (0.0, 0.4),
        "recurrent_dropout": (0.0, 0.3),
        "use_bias": (True, False),
        "dtype": tuple(DTYPES),
    }
)


def make_bidirectional(index: int, wrapper: type, layer_class: type) -> keras.Layer:
    options = BIDIRECTIONAL[index]
    policy = POLICIES[options["dtype"]]
    names = ("return_sequences", "return_state", "dropout", "recurrent_dropout", "use_bias")
    layer = layer_class(UNITS, dtype=policy, seed=5, **{name: options[name] for name in names})
    return wrapper(layer, merge_mode=options["merge_mode"], dtype=policy)


@functools.cache
def solved_bidirectional(index: int, mode: str) -> tuple[dict[str, Any], list[np.ndarray], list[np.ndarray]]:
    """Inputs, the weights, and Keras's results."""
    options = BIDIRECTIONAL[index]
    dtype, rng = DTYPES[options["dtype"]], np.random.default_rng(2)
    inputs: dict[str, Any] = {"sequences": sequences().astype(dtype)}
    if options["states"]:
        inputs["initial_state"] = [rng.standard_normal((BATCH, UNITS)).astype(dtype) for _ in range(4)]
    if (mask := make_mask(options["mask"], BATCH, TIME, rng)) is not None:
        inputs["mask"] = mask
    plain, other = (make_bidirectional(index, keras.layers.Bidirectional, keras.layers.LSTM) for _ in range(2))
    same_weights(plain, other)
    return inputs, plain.get_weights(), run(plain, mode, **inputs)


def name_of_bidirectional(index: int) -> str:
    return label({**BIDIRECTIONAL[index], "wrapper": BIDIRECTIONAL[index]["wrapper"].__qualname__})


@pytest.mark.parametrize(
    ("index", "mode"),
    [
        pytest.param(index, mode, id=f"{name_of_bidirectional(index)}-{mode}")
        for index in range(len(BIDIRECTIONAL))
        for mode in MODES
        if mode == MODES[0] or index % framework.EVERY == 0
    ],
)
def test_bidirectional(index, mode):
    wrapper, dtype = BIDIRECTIONAL[index]["wrapper"], BIDIRECTIONAL[index]["dtype"]
    passes = 1 if wrapper is FastBidirectional else 2
    random = BIDIRECTIONAL[index]["dropout"] > 0.0 or BIDIRECTIONAL[index]["recurrent_dropout"] > 0.0
    with framework.precision(dtype):
        inputs, weights, expected = solved_bidirectional(index, plain_mode(mode, random=random))
        fast = make_bidirectional(index, wrapper, FastLSTM)
        fast.build((BATCH, TIME, FEATURES))
        fast.set_weights(weights)
        with fused(forward=passes, backward=passes):
            found = run(fast, mode, **inputs)
    assert_agree(found, expected, framework.REACHED.get(dtype, dtype))


@modes
def test_stateful_bidirectional(mode):
    fast = FastBidirectional(FastLSTM(UNITS, stateful=True))
    plain = keras.layers.Bidirectional(keras.layers.LSTM(UNITS, stateful=True, use_cudnn=False))
    same_weights(fast, plain)
    for seed in range(2):
        with fused(forward=1, backward=1):
            found = run(fast, mode, sequences=sequences(seed=seed))
        with where_keras_can_train_it():
            expected = run(plain, sequences=sequences(seed=seed))
        assert_agree(found, expected)
    for layer in (fast, plain):
        layer.reset_state()
    assert_agree(run(fast, sequences=sequences()), run(plain, sequences=sequences()))


# Training


def text_model(stacked: bool, policy: str, **options: Any) -> keras.Model:
    """A small relative of the IMDB models, on Keras's layers."""
    lstms = [keras.layers.LSTM(8, seed=1, return_sequences=stacked, dtype=policy, **options)]
    if stacked:
        lstms.append(keras.layers.LSTM(4, seed=2, dtype=policy, **options))
    return keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            keras.layers.Embedding(50, 6, mask_zero=True, dtype=policy),
            *(keras.layers.Bidirectional(lstm, dtype=policy) for lstm in lstms),
            keras.layers.Dense(1),
        ]
    )


def padded_text(seed: int, batch: int = 32, time: int = 11) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mask = make_mask("right", batch, time, rng)
    return np.where(mask, rng.integers(1, 50, (batch, time)), 0).astype(np.int32)


@pytest.mark.parametrize(
    "options",
    [
        {"stacked": True, "policy": "float32"},
        {"stacked": False, "policy": "float32", "dropout": 0.3, "recurrent_dropout": 0.3},
        {"stacked": False, "policy": "mixed_float16", "dropout": 0.3},
        {"stacked": False, "policy": "mixed_bfloat16"},
    ],
    ids=label,
)
def test_fit(options):
    plain = text_model(**options)
    fast = lstm_fast.accelerate(keras_copy(plain))
    assert not any(type(layer) is keras.layers.Bidirectional for layer in fast.layers)
    x, y = padded_text(0), np.random.default_rng(0).integers(0, 2, (32, 1)).astype(np.float32)
    steps = 8
    calls = steps * (1 + options["stacked"])
    losses = []
    for model, expected in ((fast, fused(calls, calls)), (plain, fused(0))):
        model.compile(keras.optimizers.Adam(0.01), keras.losses.BinaryCrossentropy(from_logits=True))
        with expected:
            losses.append(model.fit(x, y, epochs=steps // 2, batch_size=16, shuffle=False, verbose=0).history["loss"])
    dtype = options["policy"].removeprefix("mixed_")
    np.testing.assert_allclose(*losses, rtol=steps * tolerances.DRIFT_PER_STEP * tolerances.ROUNDOFF[dtype])


def test_evaluate_and_predict_with_another_length_each_time():
    plain = text_model(stacked=True, policy="float32")
    fast = lstm_fast.accelerate(keras_copy(plain))
    for time in (3, 11, 5):
        x = padded_text(time, time=time)
        with fused(forward=2):
            found = fast.predict(x, verbose=0)
        assert_agree([found], [plain.predict(x, verbose=0)])
