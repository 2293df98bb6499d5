"""TensorFlow with `jit_compile=True`: functions, layers and models that XLA compiles, against the reference and against
themselves without XLA. Every test proves that the fused kernels ran.
"""

from typing import Any

import keras
import numpy as np
import pytest
import tolerances
from cases import (
    KINDS,
    RESERVE_MODES,
    label,
    make_problem,
    pairwise,
    solve_by_reference,
)
from keras_side import fused

import lstm_fast
from lstm_fast import FastBidirectional, FastLSTM
from lstm_fast.backends import LibraryError

tf = pytest.importorskip("tensorflow")

from tensorflow_side import solve_by_tensorflow  # noqa: E402

from lstm_fast.backends import tensorflow as backend  # noqa: E402
from lstm_fast.backends import tensorflow_xla  # noqa: E402

BATCH, TIME, FEATURES, UNITS = 4, 7, 5, 6
TERMS = BATCH * TIME * (FEATURES + UNITS)


@pytest.mark.parametrize(
    "options",
    pairwise(
        {
            **KINDS,
            "projected": (False, True),
            "open_sizes": (False, True),
            "reserve": tuple(RESERVE_MODES),
        }
    ),
    ids=label,
)
def test_results_and_gradients(options):
    how = {name: options[name] for name in ("open_sizes", "reserve")}
    problem = make_problem(5, 18, 4, 7, **{name: value for name, value in options.items() if name not in how})
    expected = solve_by_reference(problem)
    with fused(forward=1, backward=1):
        found = solve_by_tensorflow(problem, mode="jit", **how)
    expected.check(found)


def test_every_instruction_set(isa):
    del isa
    problem = make_problem(6, 20, 3, 9, directions=2, mask="holes")
    with fused(forward=1, backward=1):
        found = solve_by_tensorflow(problem, mode="jit")
    solve_by_reference(problem).check(found)


def assert_agree(found: Any, expected: Any) -> None:
    for a, b in zip(tf.nest.flatten(found), tf.nest.flatten(expected), strict=True):
        atol = tolerances.between_layers("float32", TERMS, b)
        tolerances.assert_close(a, b, atol)


def sequences(batch: int = BATCH, time: int = TIME) -> tf.Tensor:
    return tf.constant(np.random.default_rng(batch + time).standard_normal((batch, time, FEATURES)).astype(np.float32))


def operations(function: Any, *arguments: Any) -> set[str]:
    """The types of the operations in a traced function, and in the functions that it calls."""
    definition = function.get_concrete_function(*arguments).graph.as_graph_def()
    nodes = [*definition.node, *(node for called in definition.library.function for node in called.node_def)]
    return {node.op for node in nodes}


def test_a_layer_takes_its_path_anew_each_time_it_is_traced():
    layer = FastLSTM(UNITS, return_sequences=True)
    x = sequences()
    plain, compiled = tf.function(layer), tf.function(layer, jit_compile=True)
    for function in (plain, compiled, plain):
        with fused(forward=2):
            assert_agree(function(x), layer(x))
    assert "LstmFastForward" in operations(plain, x)
    assert "XlaCallModule" not in operations(plain, x)
    assert "LstmFastForward" not in operations(compiled, x)
    assert "XlaCallModule" in operations(compiled, x)


def test_open_sizes_in_an_input_signature():
    layer = FastLSTM(UNITS, return_sequences=True)
    signature = [tf.TensorSpec([None, None, FEATURES])]
    compiled = tf.function(layer, jit_compile=True, input_signature=signature)
    assert compiled.get_concrete_function().output_shapes.as_list() == [None, None, UNITS]
    for batch, time in ((1, 1), (3, 4), (2, 17)):
        x = sequences(batch, time)
        with fused(forward=2):
            assert_agree(compiled(x), layer(x))


@pytest.mark.parametrize("outside", [False, True], ids=["tape inside", "tape outside"])
@pytest.mark.parametrize("return_sequences", [True, False])
def test_both_directions_with_mask_and_states(return_sequences, outside):
    layer = FastBidirectional(FastLSTM(UNITS, return_sequences=return_sequences, return_state=True))
    rng = np.random.default_rng(0)
    x, mask = sequences(), tf.constant(rng.random((BATCH, TIME)) < 0.6)
    states = [tf.constant(rng.standard_normal((BATCH, UNITS)).astype(np.float32)) for _ in range(4)]
    layer(x)

    def call(x: tf.Tensor, states: list[tf.Tensor]) -> Any:
        return layer(x, initial_state=states, mask=mask, training=True)

    def step(call: Any, x: tf.Tensor, states: list[tf.Tensor]) -> Any:
        with tf.GradientTape() as tape:
            tape.watch([x, *states])
            outputs = call(x, states)
            loss = tf.add_n([tf.reduce_sum(tf.square(output)) for output in outputs])
        return outputs, tape.gradient(loss, [x, *states, *(weight.value for weight in layer.trainable_weights)])

    with fused(forward=2, backward=2):
        expected = step(call, x, states)
        if outside:
            found = step(tf.function(call, jit_compile=True), x, states)
        else:
            found = tf.function(lambda x, states: step(call, x, states), jit_compile=True)(x, states)
    assert_agree(found, expected)


def text_model(dtype: str) -> keras.Model:
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            keras.layers.Embedding(50, 6, mask_zero=True, dtype=dtype),
            FastBidirectional(FastLSTM(8, return_sequences=True, dtype=dtype), dtype=dtype),
            FastLSTM(4, dtype=dtype, recompute=True),
            keras.layers.Dense(1),
        ]
    )


def padded_text(batch: int, time: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(time)
    lengths = rng.integers(1, time, batch, endpoint=True)[:, None]
    x = np.where(np.arange(time) < lengths, rng.integers(1, 50, (batch, time)), 0).astype(np.int32)
    return x, rng.integers(0, 2, (batch, 1)).astype(np.float32)


@pytest.mark.parametrize(("dtype", "lengths"), [("float32", (6, 9, 6)), ("mixed_bfloat16", (6,))])
def test_fit_evaluate_and_predict(dtype, lengths):
    losses, predictions = [], []
    steps = 2 * len(lengths)
    for jit in (True, False):
        model = text_model(dtype)
        model.compile(keras.optimizers.SGD(0.1), keras.losses.BinaryCrossentropy(from_logits=True), jit_compile=jit)
        found = []
        with fused(forward=2 * steps, backward=2 * steps):
            for time in lengths:  # another length is another compilation
                x, y = padded_text(16, time)
                found += model.fit(x, y, batch_size=8, shuffle=False, verbose=0).history["loss"]
        x, y = padded_text(8, 6)
        with fused(forward=4):
            found.append(model.evaluate(x, y, verbose=0))
            predictions.append(model.predict(x, verbose=0))
        losses.append(found)
    drift = steps * tolerances.DRIFT_PER_STEP * tolerances.ROUNDOFF[dtype.removeprefix("mixed_")]
    np.testing.assert_allclose(*losses, rtol=drift)
    np.testing.assert_allclose(*predictions, rtol=drift, atol=drift)


def test_dropout_is_drawn_and_applied():
    keras.utils.set_random_seed(0)
    layer = FastLSTM(UNITS, dropout=0.5, recurrent_dropout=0.5)
    compiled = tf.function(layer, jit_compile=True)
    x = sequences()
    with fused(forward=4):
        first, second = (compiled(x, training=True).numpy() for _ in range(2))
        calm = compiled(x, training=False)
        assert_agree(calm, layer(x))
    assert np.abs(first - second).max() > 0
    assert np.abs(first - calm).max() > 0


@pytest.mark.fast
def test_gradients_of_gradients_are_refused():
    layer = FastLSTM(UNITS)
    layer(sequences())

    @tf.function(jit_compile=True)
    def twice(x: tf.Tensor) -> Any:
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                y = tf.reduce_sum(layer(x))
            slope = tf.reduce_sum(inner.gradient(y, x))
        return outer.gradient(slope, x)

    with fused(0), pytest.raises(NotImplementedError, match=r"gradients of gradients.*LSTM_FAST_KERNEL=keras"):
        twice(sequences())


def test_unknown_features_are_refused():
    weights = [tf.TensorSpec([None, None]), tf.TensorSpec([None, None])]
    compiled = tf.function(
        lambda x, kernel, recurrent_kernel: lstm_fast.lstm(x, kernel, recurrent_kernel)[0],
        jit_compile=True,
        input_signature=[tf.TensorSpec([None, None, None]), *weights],
    )
    with fused(0), pytest.raises(ValueError, match="`kernel`, `recurrent_kernel`: expected known shapes"):
        compiled(sequences(), tf.zeros((FEATURES, 4 * UNITS)), tf.zeros((UNITS, 4 * UNITS)))


# Where XLA cannot be reached


def test_a_tensorflow_without_the_interface_is_a_reason_and_no_crash(monkeypatch):
    monkeypatch.setattr(tensorflow_xla, "_SYMBOLS", ("XLA_FFI_NoSuchFunction",))
    with pytest.raises(LibraryError, match="XLA_FFI_NoSuchFunction"):
        tensorflow_xla._register.__wrapped__()

    def fail() -> None:
        raise LibraryError("no such function")

    monkeypatch.setattr(tensorflow_xla, "library", fail)
    monkeypatch.setenv("LSTM_FAST_KERNEL", "auto")
    layer, x = FastLSTM(UNITS), sequences()
    expected = layer(x)
    reasons = []

    @tf.function(jit_compile=True)
    def compiled(x: tf.Tensor) -> tf.Tensor:
        reasons.append(backend.unavailable())
        return layer(x)

    assert_agree(compiled(x), expected)
    assert reasons[0].reason == "jit_compile=True: no such function"
    assert "jit_compile=True: no such function" in lstm_fast.status().fallbacks


def test_a_runtime_that_refuses_is_a_reason(monkeypatch):
    from lstm_fast import _core

    def refuse(_: int) -> None:
        raise RuntimeError("version 0.1 is too new")

    monkeypatch.setattr(_core, "register_xla_handlers", refuse)
    with pytest.raises(LibraryError, match=r"refuses the kernels .version 0\.1 is too new"):
        tensorflow_xla._register.__wrapped__()
