"""FastLSTM and FastBidirectional against Keras's layers: outputs, states and every gradient, eager, as a graph and in
`fit`. Every test proves that the fused kernels ran.
"""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tolerances
from cases import DTYPES, MASKS, Expected, label, make_mask, make_problem, pairwise, solve_by_reference
from keras_side import POLICIES, fused, solve_by_layer

import lstm_fast
from lstm_fast import FastBidirectional, FastLSTM

BATCH, TIME, FEATURES, UNITS = 4, 7, 5, 6
TERMS = BATCH * TIME * (FEATURES + UNITS)


def weights_like(y: tf.Tensor) -> tf.Tensor:
    """Different weights, so that no two entries can be confused."""
    return tf.reshape(tf.cos(tf.range(tf.size(y, tf.int64), dtype=tf.float64)), tf.shape(y))


def run(layer: keras.Layer, *, graph: bool = False, **call_arguments: Any) -> list[np.ndarray]:
    """Outputs of a layer, and the gradients of a weighted sum of them by its weights and its floating-point inputs."""
    inputs = {name: tf.nest.map_structure(tf.constant, value) for name, value in call_arguments.items()}
    sources = [x for x in tf.nest.flatten(inputs) if x.dtype.is_floating]

    def step() -> tuple[Any, Any]:
        with tf.GradientTape() as tape:
            tape.watch(sources)
            outputs = tf.nest.flatten(layer(**inputs, training=True))
            loss = tf.add_n([tf.reduce_sum(weights_like(y) * tf.cast(y, tf.float64)) for y in outputs])
        return outputs, tape.gradient(loss, [*sources, *(weight.value for weight in layer.trainable_weights)])

    outputs, gradients = (tf.function(step) if graph else step)()
    return [array.numpy() for array in (*outputs, *gradients)]


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


@pytest.mark.parametrize(
    "options",
    pairwise(
        {
            "dtype": tuple(DTYPES),
            "mask": MASKS,
            "graph": (False, True),
            "directions": (1, 2),
            "go_backwards": (False, True),
            "return_sequences": (True, False),
            "zero_output_for_mask": (False, True),
            "bias": (True, False),
            "states": (True, False),
            "input_dropout": (False, True),
            "recurrent_dropout": (False, True),
        }
    ),
    ids=label,
)
def test_layer(options):
    graph, directions = options["graph"], options["directions"]
    problem = make_problem(5, 18, 4, 7, **{name: value for name, value in options.items() if name != "graph"})
    expected = solve_by_reference(problem)
    with fused(forward=directions, backward=directions):
        fast = solve_by_layer(problem, FastLSTM, graph=graph)
    expected.check(fast)
    plain = solve_by_layer(problem, keras.layers.LSTM, graph=graph)
    if options["dtype"] in ("float32", "float64"):
        Expected(plain, expected.allowance).check(fast, slack=2.0)
    else:  # Keras rounds every intermediate result to 16 bits
        exact, ours = expected.solution.named(), fast.named()
        for name, theirs in plain.named().items():
            error, error_of_keras = (
                np.abs(array.astype(np.float64) - exact[name]).max() for array in (ours[name], theirs)
            )
            assert error <= error_of_keras + expected.allowance[name], name


@pytest.mark.parametrize("graph", [False, True])
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
def test_dropout_draws_the_same_numbers(options, training, graph):
    fast, plain = (layer_class(UNITS, seed=7, **options) for layer_class in (FastLSTM, keras.layers.LSTM))
    same_weights(fast, plain)
    calls = [tf.function(layer) if graph else layer for layer in (fast, plain)]
    for seed in range(2):  # the second call must go on where the first one stopped
        x = sequences(seed=seed)
        with fused(forward=1):
            found = calls[0](x, training=training)
        assert_agree([found.numpy()], [calls[1](x, training=training).numpy()])


def test_dropout_with_one_mask_per_gate():
    fast, plain = (
        layer_class(UNITS, dropout=0.4, implementation=1, use_cudnn=False, seed=7)
        for layer_class in (FastLSTM, keras.layers.LSTM)
    )
    same_weights(fast, plain)
    with fused(forward=1, backward=1):
        found = run(fast, sequences=sequences())
    assert_agree(found, run(plain, sequences=sequences()))


@pytest.mark.parametrize("graph", [False, True])
def test_stateful(graph):
    options = {"stateful": True, "return_state": True, "return_sequences": True}
    fast, plain = FastLSTM(UNITS, **options), keras.layers.LSTM(UNITS, **options)
    same_weights(fast, plain)
    for seed in range(3):
        with fused(forward=1, backward=1):
            found = run(fast, sequences=sequences(seed=seed), graph=graph)
        assert_agree(found, run(plain, sequences=sequences(seed=seed), graph=graph))
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


def test_frozen_layer():
    fast, plain = (layer_class(UNITS, trainable=False) for layer_class in (FastLSTM, keras.layers.LSTM))
    same_weights(fast, plain)
    with fused(forward=1, backward=1):
        found = run(fast, sequences=sequences())
    assert_agree(found, run(plain, sequences=sequences()))


def test_recompute_gives_the_same_gradients():
    layers = [FastLSTM(UNITS, recompute=recompute) for recompute in (False, True)]
    same_weights(*layers)
    with fused(forward=2, backward=2):
        found = [run(layer, sequences=sequences()) for layer in layers]
    assert_agree(*found)


def test_nan_and_infinity_spread_as_in_keras():
    fast, plain = (layer_class(UNITS, return_sequences=True) for layer_class in (FastLSTM, keras.layers.LSTM))
    same_weights(fast, plain)
    x = sequences()
    x[0, 3, 1], x[2, 5, 0] = np.nan, np.inf
    with fused(forward=1):
        found = fast(x)
    assert_agree([found.numpy()], [plain(x).numpy()])


def test_unknown_shapes_in_a_graph():
    layer, plain = FastLSTM(UNITS, return_sequences=True), keras.layers.LSTM(UNITS, return_sequences=True)
    same_weights(layer, plain)
    graph = tf.function(layer, input_signature=[tf.TensorSpec((None, None, FEATURES))])
    for time in (1, 4, TIME):
        with fused(forward=1):
            found = graph(sequences()[:, :time])
        assert_agree([found.numpy()], [plain(sequences()[:, :time]).numpy()])


# Both directions


@pytest.mark.parametrize(
    "options",
    pairwise(
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
            "graph": (False, True),
            "dtype": tuple(DTYPES),
        }
    ),
    ids=lambda options: label({**options, "wrapper": options["wrapper"].__qualname__}),
)
def test_bidirectional(options):
    wrapper, dtype = options["wrapper"], options["dtype"]

    def make(wrapper: type, layer_class: type) -> keras.Layer:
        names = ("return_sequences", "return_state", "dropout", "recurrent_dropout", "use_bias")
        layer = layer_class(UNITS, dtype=POLICIES[dtype], seed=5, **{name: options[name] for name in names})
        return wrapper(layer, merge_mode=options["merge_mode"], dtype=POLICIES[dtype])

    fast, plain = make(wrapper, FastLSTM), make(keras.layers.Bidirectional, keras.layers.LSTM)
    same_weights(fast, plain)
    rng = np.random.default_rng(2)
    inputs: dict[str, Any] = {"sequences": sequences().astype(DTYPES[dtype])}
    if options["states"]:
        inputs["initial_state"] = [rng.standard_normal((BATCH, UNITS)).astype(DTYPES[dtype]) for _ in range(4)]
    if (mask := make_mask(options["mask"], BATCH, TIME, rng)) is not None:
        inputs["mask"] = mask
    passes = 1 if wrapper is FastBidirectional else 2
    with fused(forward=passes, backward=passes):
        found = run(fast, graph=options["graph"], **inputs)
    assert_agree(found, run(plain, graph=options["graph"], **inputs), dtype)


@pytest.mark.parametrize("graph", [False, True])
def test_stateful_bidirectional(graph):
    fast = FastBidirectional(FastLSTM(UNITS, stateful=True))
    plain = keras.layers.Bidirectional(keras.layers.LSTM(UNITS, stateful=True))
    same_weights(fast, plain)
    for seed in range(2):
        with fused(forward=1, backward=1):
            found = run(fast, sequences=sequences(seed=seed), graph=graph)
        assert_agree(found, run(plain, sequences=sequences(seed=seed), graph=graph))
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
    fast = lstm_fast.accelerate(plain)
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
    fast = lstm_fast.accelerate(plain)
    for time in (3, 11, 5):
        x = padded_text(time, time=time)
        with fused(forward=2):
            found = fast.predict(x, verbose=0)
        assert_agree([found], [plain.predict(x, verbose=0)])
