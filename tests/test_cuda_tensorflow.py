"""The GPU path of TensorFlow, with the CUDA kernels on an emulated device: the CPU is taken for a GPU."""

import itertools
import sys
import types
from pathlib import Path
from types import ModuleType
from typing import Any

import emulated
import keras
import numpy as np
import pytest
import tolerances
from cases import DTYPES, MASKS, assert_same_bits, label, make_problem, pairwise
from cuda_side import (
    LAYER,
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
from lstm_fast import backends, functional, libraries
from lstm_fast.backends import LibraryError

tf = pytest.importorskip("tensorflow")

from tensorflow_side import solve_by_tensorflow  # noqa: E402

from lstm_fast.backends import tensorflow as backend  # noqa: E402
from lstm_fast.backends import tensorflow_build, tensorflow_cuda, tensorflow_xla  # noqa: E402
from lstm_fast.fused import fallback as choose  # noqa: E402

# How the kernels are called, and in which of TensorFlow's modes. XLA can also be used if it compiles nothing else.
WAYS = (("op", "eager"), ("op", "graph"), ("xla", "eager"), ("xla", "graph"), ("xla", "jit"))

LOAD = tensorflow_cuda._load  # tests replace it

OPTIONS = pairwise({**SMALL, "way": WAYS, "open_sizes": (False, True)})


@pytest.fixture(scope="session")
def module() -> ModuleType:
    loaded = emulated.load()
    tensorflow_xla.register(loaded.register_xla_handlers)
    return loaded


@pytest.fixture
def device(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Puts the emulated device in the place of a GPU. The ops call the kernels."""
    monkeypatch.setattr(tensorflow_cuda, "cuda", lambda: module)
    monkeypatch.setattr(tensorflow_cuda, "_register", lambda: True)
    monkeypatch.setattr(tensorflow_cuda, "_PLATFORM", "CPU")
    monkeypatch.setattr(tensorflow_cuda, "unavailable", lambda _: None)
    monkeypatch.setattr(backend, "_device", lambda: ("GPU", "/device:CPU:0"))
    reach_by("op", monkeypatch)
    return module


def reach_by(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ops = tensorflow_cuda._Ops(*emulated.tensorflow_ops()) if way == "op" else None
    monkeypatch.setattr(tensorflow_cuda, "_load", lambda: (ops, "emulated"))


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorFlow's default is TF32."""
    monkeypatch.setenv("LSTM_FAST_PRECISION", "exact")


def sequences(batch: int = 4, time: int = 5, features: int = 3) -> tf.Tensor:
    return tf.constant(np.random.default_rng(time).standard_normal((batch, time, features)).astype(np.float32))


# Numbers


@pytest.mark.parametrize("options", OPTIONS, ids=label)
def test_agrees_with_reference(options: dict[str, Any], device: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    way, mode = options["way"]
    reach_by(way, monkeypatch)
    how = {**options, "mode": mode, "open_sizes": options["open_sizes"] and mode != "eager"}
    del how["way"]
    check_agreement(solve_by_tensorflow, how, device, monkeypatch)


@pytest.mark.parametrize("way", WAYS)
def test_any_byte_of_a_mask_but_0_is_real(
    way: tuple[str, str], device: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    reach_by(way[0], monkeypatch)
    check_bytes_of_mask(solve_by_tensorflow, device, mode=way[1])


@pytest.mark.parametrize("field", ["input_dropout", "recurrent_dropout"])
@pytest.mark.parametrize("without", [0, 1])
def test_dropout_in_one_direction_only(field: str, without: int, device: ModuleType) -> None:
    problem = with_dropout_in_one_direction(field, without)
    with ran(device, forward=1, backward=1):
        found = solve_by_tensorflow(problem)
    solve_exactly(problem).check(found)


@pytest.mark.parametrize("way", WAYS, ids=" ".join)
@pytest.mark.parametrize(("batch", "time"), [(0, 3), (3, 0), (0, 0)])
def test_no_rows_or_no_timesteps(
    batch: int, time: int, way: tuple[str, str], device: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    del device
    problem = make_problem(batch, time, directions=2, mask="right", input_dropout=True, recurrent_dropout=True)
    reach_by(way[0], monkeypatch)
    solve_exactly(problem).check(solve_by_tensorflow(problem, mode=way[1]))  # XLA leaves out calls on nothing


@pytest.mark.parametrize("input_dropout", [False, True])
@pytest.mark.parametrize("mask", MASKS[1:])
def test_masked_steps_are_never_read(mask: str, input_dropout: bool, device: ModuleType) -> None:
    problem = make_problem(5, 6, 3, 8, mask=mask, directions=2, input_dropout=input_dropout)
    with ran(device, forward=2, backward=2):
        assert_same_bits(solve_by_tensorflow(problem.poisoned()), solve_by_tensorflow(problem))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("units", [8, 300])
def test_scratch_bound(units: int, masked: bool, dtype: str, module: ModuleType) -> None:
    """It holds for any batch and time."""
    for dropout in (False, True):
        rest = (units, 2, masked, dropout)
        of_timestep, of_row, at_most = module.scratch_bound(0, dtype, "exact", *rest)
        for batch, time in itertools.product((0, 1, 2, 7, 16, 33, 64, 100, 500, 4096, 20000), (0, 1, 13, 1000)):
            needed = module.scratch_bytes(0, dtype, "exact", batch, time, *rest)
            assert needed <= of_timestep * batch * time + of_row * batch + at_most


# The op


def call_op(**changed: Any) -> Any:
    none = tf.zeros([0])
    given = {
        "z": tf.zeros([2, 3, 1, 16]),
        "mask": tf.zeros([0], tf.bool),
        "recurrent_kernels": [tf.zeros([4, 16])],
        "biases": [none],
        "h0": [none],
        "c0": [none],
        "recurrent_dropout": [none],
        "go_backwards": False,
        "return_sequences": True,
        "zero_output_for_mask": False,
        "precision": 0,
        "keep": False,
    }
    return emulated.tensorflow_ops()[0](**{**given, **changed})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"z": tf.zeros([2, 3, 16])},
            "z: expected rank 4 (batch, time, directions, 4 * units); found shape [2, 3, 16]",
        ),
        ({"z": tf.zeros([2, 3, 1, 20])}, "z: expected shape [2, 3, 1, 16]"),
        ({"mask": tf.ones([2, 4], tf.bool)}, "mask: expected shape [2, 3]"),
        ({"recurrent_kernels": [tf.zeros([4, 12])]}, "recurrent_kernels[0]: expected shape [4, 16]"),
        ({"biases": [tf.zeros([12])]}, "biases[0]: expected shape [16]"),
        ({"h0": [tf.zeros([3, 4])]}, "h0[0]: expected shape [2, 4]"),
        ({"recurrent_dropout": [tf.zeros([2, 4])]}, "recurrent_dropout[0]: expected shape [4, 2, 4]"),
        ({"precision": 3}, "precision: expected 0 (exact), 1 (tf32) or 2 (tf32x3); found 3"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_the_op_refuses_what_does_not_fit(changed: dict[str, Any], message: str, device: ModuleType) -> None:
    with ran(device, 0), pytest.raises(tf.errors.InvalidArgumentError) as error:
        call_op(**changed)
    assert message in str(error.value)


def test_a_reserve_of_another_device_is_refused(device: ModuleType) -> None:
    y, h_n, c_n, reserve = call_op(keep=True)
    assert reserve.shape == (2, 1, 3, device.reserve_step_bytes("float32", 4))
    none = [tf.zeros([0])]
    inputs = (tf.zeros([2, 3, 5]), tf.zeros([0], tf.bool), [tf.zeros([4, 16])], none, none, none, none)
    attributes = {"go_backwards": False, "return_sequences": True, "zero_output_for_mask": False, "precision": 0}
    with pytest.raises(tf.errors.InvalidArgumentError, match="reserve: expected shape"):
        emulated.tensorflow_ops()[1](*inputs, tf.reshape(reserve, [-1]), y, h_n, c_n, **attributes)


def test_static_shapes(device: ModuleType) -> None:
    del device
    found = []

    @tf.function(input_signature=[tf.TensorSpec([None, None, 2, 16]), tf.TensorSpec([4, 16])])
    def traced(z: tf.Tensor, kernel: tf.Tensor) -> None:
        none = [tf.zeros([0])] * 2
        for keep in (False, True):
            result = call_op(
                **{"z": z, "recurrent_kernels": [kernel] * 2, "keep": keep},
                **dict.fromkeys(("biases", "h0", "c0", "recurrent_dropout"), none),
            )
            found.append([tensor.shape.as_list() for tensor in tf.nest.flatten(result)])

    traced.get_concrete_function()
    states = [[None, 4]] * 4
    assert found == [[[None, None, 8], *states, [0]], [[None, None, 8], *states, [None, 2, None, None]]]


# TensorFlow's ways to compute gradients


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("way", WAYS, ids=" ".join)
def test_gradients_of_gradients_are_refused(way: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    reach_by(way[0], monkeypatch)
    weights = [tf.ones([3, 16]), tf.ones([4, 16])]

    def twice(x: tf.Tensor, *weights: tf.Tensor) -> Any:
        with tf.GradientTape() as outer:
            outer.watch(watched)
            with tf.GradientTape() as inner:
                inner.watch([x, *weights])
                y = tf.reduce_sum(lstm_fast.lstm(x, *weights)[0])
            slopes = inner.gradient(y, [x, *weights])
        return outer.gradient(slopes, watched)

    for i in range(3):
        given = [sequences(), *weights]
        watched = given[i]
        with pytest.raises(NotImplementedError, match=r"gradients of gradients.*LSTM_FAST_KERNEL=keras"):
            twice(*given)


def test_recomputation_waits_for_the_backward_pass(device: ModuleType) -> None:
    """A graph runs operations as soon as it can. An early recomputation would take memory until it is needed."""
    del device

    @tf.function
    def gradient(x: tf.Tensor, kernel: tf.Tensor, recurrent_kernel: tf.Tensor) -> Any:
        y, _, _ = lstm_fast.lstm(x, kernel, recurrent_kernel, recompute=True)
        return tf.gradients(y, [kernel], grad_ys=[tf.sin(y)])

    graph = gradient.get_concrete_function(sequences(), tf.ones([3, 16]), tf.ones([4, 16])).graph
    (again,) = (op for op in graph.get_operations() if op.type == "LstmFastEmulatedForward" and op.get_attr("keep"))

    def depends(op: tf.Operation, on: str) -> bool:
        before = [*(value.op for value in op.inputs), *op.control_inputs]
        return op.type == on or any(depends(other, on) for other in before)

    assert depends(again, "Sin")


# Precision


def test_precision_is_that_of_tensorflows_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LSTM_FAST_PRECISION")
    switch = tf.config.experimental.enable_tensor_float_32_execution
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    try:
        for enabled, expected in ((True, "tf32"), (False, "exact")):
            switch(enabled)
            assert tensorflow_cuda.precision() == expected
    finally:
        switch(before)
    monkeypatch.setenv("LSTM_FAST_PRECISION", "tf32x3")
    assert tensorflow_cuda.precision() == "tf32x3"


# On which device calls run


class Gpu:
    name, device_type = "/device:GPU:0", "GPU"


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU among TensorFlow's devices."""
    there = [*tf.config.list_logical_devices(), Gpu()]
    monkeypatch.setattr(
        tf.config,
        "list_logical_devices",
        lambda kind=None: [device for device in there if kind in (None, device.device_type)],
    )


@pytest.mark.usefixtures("pretended")
def test_the_device_is_that_of_the_innermost_scope() -> None:
    found = {}

    def note(name: str) -> None:
        found[name] = backend._device()

    cpu = "/job:localhost/replica:0/task:0/device:CPU:0"
    with tf.device(None):
        note("none")
    with tf.device("CPU:0"):
        note("eager")
        tf.function(lambda: note("function"))()
        with tf.device("GPU:0"):
            note("inner")

    @tf.function
    def outer() -> None:
        note("graph")
        with tf.device("CPU:0"):
            note("scope in graph")
            tf.function(lambda: note("nested function"))()

    outer()
    assert found["none"] == found["graph"] == ("GPU", "/device:GPU:0")
    assert found["eager"] == ("CPU", cpu)
    assert found["function"][0] == found["scope in graph"][0] == found["nested function"][0] == "CPU"
    assert found["inner"][0] == "GPU"


@pytest.mark.usefixtures("pretended")
def test_to_ask_for_the_device_leaves_nothing_in_the_graph() -> None:
    def count(layer: Any) -> int:
        layer.build((3, 5, 3))

        @tf.function
        def outer(x: tf.Tensor) -> tf.Tensor:
            with tf.device("CPU:0"):
                return inner(x)

        inner = tf.function(layer)
        graph = outer.get_concrete_function(tf.ones([3, 5, 3])).graph
        inside = inner.get_concrete_function(tf.ones([3, 5, 3])).graph
        return [op.type for each in (graph, inside) for op in each.get_operations()].count("NoOp")

    with fused(0):  # traced, not run
        found = count(lstm_fast.FastLSTM(4))
    assert found == count(keras.layers.LSTM(4))


def test_the_device_is_found_where_tensorflow_has_moved_its_names(monkeypatch: pytest.MonkeyPatch) -> None:
    with tf.Graph().as_default() as graph:
        moved = types.SimpleNamespace(as_default=graph.as_default)  # without its own stacks of scopes
        assert backend._scope_of(graph) == backend._scope_of(moved) == ""
        with tf.device("CPU:0"):
            assert backend._scope_of(graph) == backend._scope_of(moved) == "/device:CPU:0"
            with graph.device(lambda _: "GPU:1"):
                assert backend._scope_of(graph) == backend._scope_of(moved) == "/device:GPU:1"
        with tf.compat.v1.colocate_with(tf.constant(1.0, name="there")):
            assert backend._scope_of(graph) == backend._scope_of(moved)
    with tf.device("CPU:0"):
        expected = backend._eager_scope()
        from tensorflow.python import eager

        monkeypatch.delattr(eager, "context")
        monkeypatch.setitem(sys.modules, "tensorflow.python.eager.context", None)
        assert backend._eager_scope() == expected == "/job:localhost/replica:0/task:0/device:CPU:0"


@pytest.mark.parametrize("name", ["get_device_details", "tensor_float_32_execution_enabled"])
def test_what_tensorflow_takes_away_on_a_gpu_is_a_reason(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorflow_cuda, "cuda", lambda: None)
    monkeypatch.setattr(tensorflow_cuda, "least_capability", lambda: (7, 5))
    monkeypatch.setattr(tensorflow_cuda, "_load", lambda: (object(), ""))
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda _: [Gpu()])
    monkeypatch.setattr(backend, "_device", lambda: ("GPU", "/device:GPU:0"))
    monkeypatch.delenv("LSTM_FAST_PRECISION")
    monkeypatch.delattr(tf.config.experimental, name)
    unusable = functional.unavailable(tf.ones([1, 1, 1]))
    assert unusable is not None
    assert name in unusable.reason


@pytest.mark.usefixtures("pretended")
def test_what_is_for_the_cpu_stays_there(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also on a machine with a GPU, and the whole layer is one call."""
    monkeypatch.setattr(tensorflow_cuda, "unavailable", lambda _: backends.Unavailable("there is none in truth"))
    layer = lstm_fast.FastLSTM(4)
    before = module.fused_calls()
    with tf.device("CPU:0"), fused(2):
        layer(sequences())
        tf.function(layer)(sequences())
    assert module.fused_calls() == before


def test_the_ops_device_is_asked_for_by_name(device: ModuleType) -> None:
    """The ops, and their gradients, which are traced outside the scope, then run on this device."""
    del device

    @tf.function
    def gradient(x: tf.Tensor, kernel: tf.Tensor, recurrent_kernel: tf.Tensor) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(kernel)
            y, _, _ = lstm_fast.lstm(x, kernel, recurrent_kernel)
        return tape.gradient(y, kernel)

    graph = gradient.get_concrete_function(sequences(), tf.ones([3, 16]), tf.ones([4, 16])).graph
    places = {op.type: op.device for op in graph.get_operations() if op.type.startswith("LstmFast")}
    assert places == {"LstmFastEmulatedForward": "/device:CPU:0", "LstmFastEmulatedBackward": "/device:CPU:0"}


# When cuDNN is preferred


@pytest.mark.usefixtures("device")
def test_cudnn_where_it_is_expected_to_be_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    x = sequences()

    def reason(mode: str = "auto", x: tf.Tensor = x, mask: tf.Tensor | None = None, **options: Any) -> str | None:
        monkeypatch.setenv("LSTM_FAST_KERNEL", mode)
        fallback = choose(lstm_fast.FastLSTM(4, **options), x, mask)
        return fallback.reason if fallback else None

    assert reason() is None
    monkeypatch.setattr(tensorflow_cuda, "cudnn_microseconds", lambda *_: 0.001)
    assert "cuDNN is expected to be faster with 4 units: a timestep forward and back is estimated at" in reason()
    assert reason(mode="fused") is None
    assert reason(mask=tf.ones([4, 5], tf.bool)) is None
    for options in (
        {"use_cudnn": False},
        {"recurrent_dropout": 0.5},
        {"use_bias": False},
        {"dtype": "mixed_bfloat16"},
    ):
        assert reason(**options) is None, options
    monkeypatch.setenv("LSTM_FAST_KERNEL", "auto")
    layer, compiled = lstm_fast.FastLSTM(4), []

    @tf.function(jit_compile=True)
    def trace(x: tf.Tensor) -> tf.Tensor:
        compiled.append(choose(layer, x, None))
        return x

    trace(x)
    assert compiled == [None]


def test_what_cudnn_is_expected_to_take() -> None:
    """The measured values, and larger ones for more units and rows."""
    expected = tensorflow_cuda.cudnn_microseconds
    assert expected("float16", 64, 1024) == pytest.approx(27.8)
    assert expected("float16", 64, 4096) == pytest.approx(16 * 27.8)
    assert expected("float32", 64, 8) == expected("float32", 1, 256) < expected("float32", 64, 300)
    assert expected("float32", 1700, 512) == pytest.approx(10 * expected("float32", 64, 512))
    assert expected("float64", 64, 512) > expected("float32", 64, 512)


@pytest.mark.usefixtures("device")
def test_the_preference_is_shown(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LSTM_FAST_KERNEL", "auto")
    monkeypatch.setattr(tensorflow_cuda, "cudnn_microseconds", lambda *_: 0.001)
    before = module.fused_calls()
    layer = lstm_fast.FastLSTM(3)
    plain = keras.layers.LSTM(3)
    plain.build((None, None, 3))
    layer.build((None, None, 3))
    layer.set_weights(plain.get_weights())
    np.testing.assert_allclose(layer(sequences()), plain(sequences()), atol=1e-6)
    assert module.fused_calls() == before
    assert any("with 3 units" in reason for reason in lstm_fast.status().fallbacks)


# Which library is used


def test_xla_serves_where_the_ops_cannot_be_compiled(
    device: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LSTM_FAST_CACHE", str(tmp_path))
    monkeypatch.setenv("CXX", "false")
    monkeypatch.setattr(tensorflow_cuda, "tensorflow_ops_state", lambda: "not built: because")
    (tmp_path / "ops.cc").touch()
    recipe = tensorflow_build.Recipe(tmp_path, tmp_path / "none.so", "0", tf.__version__, [], [])
    monkeypatch.setattr(tensorflow_cuda, "_recipe", lambda: recipe)
    monkeypatch.setattr(tensorflow_cuda, "_load", backends.once()(LOAD.__wrapped__))
    problem = make_problem(4, 5, directions=2)
    with ran(device, forward=1, backward=1):
        found = solve_by_tensorflow(problem)
    solve_exactly(problem).check(found)
    assert "the C++ compiler false failed (exit status 1)" in tensorflow_cuda.ops_state()


def test_reasons_against(monkeypatch: pytest.MonkeyPatch) -> None:
    details = {"compute_capability": (7, 5)}
    monkeypatch.setattr(tensorflow_cuda, "cuda", lambda: None)
    monkeypatch.setattr(tensorflow_cuda, "_register", lambda: True)
    monkeypatch.setattr(tensorflow_cuda, "_load", lambda: (None, ""))
    monkeypatch.setattr(libraries, "cuda_state", lambda: "built for sm_80, sm_90")
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda _: [Gpu()])
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda _: details)

    def reason(compiled: bool = False) -> str:
        found = tensorflow_cuda.unavailable(compiled)
        return found.reason if found else ""

    assert reason() == "/device:GPU:0 has compute capability 7.5: the kernel needs 8.0 or later"
    details["compute_capability"] = (9, 0)
    assert reason() == reason(compiled=True) == ""
    details.clear()
    assert reason() == "/device:GPU:0 is not a CUDA device: no kernel for it"
    details["compute_capability"] = (9, 0)

    def missing() -> None:
        raise LibraryError("the CUDA kernels were not built: because")

    monkeypatch.setattr(tensorflow_cuda, "_register", missing)
    assert reason() == "TensorFlow runs on a GPU: the CUDA kernels were not built: because"


# Layers


@pytest.mark.parametrize("options", pairwise({**LAYER, "way": WAYS}), ids=label)
def test_layer(options: dict[str, Any], device: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    way, mode = options["way"]
    reach_by(way, monkeypatch)
    problem = make_problem(3, 5, 4, 7, **{name: options[name] for name in LAYER})
    check_layer(problem, device, mode=mode)


@pytest.mark.parametrize(("dropout", "jit"), [(0.0, False), (0.5, False), (0.0, True)])
@pytest.mark.parametrize(("wrapper", "passes"), [(lstm_fast.FastBidirectional, 1), (keras.layers.Bidirectional, 2)])
def test_both_directions_in_fit(
    wrapper: Any, passes: int, dropout: float, jit: bool, device: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = sequences(4, 5, 3)

    def fit() -> list[np.ndarray]:
        keras.utils.set_random_seed(1)
        layer = wrapper(lstm_fast.FastLSTM(7, dropout=dropout, recurrent_dropout=dropout))
        model = keras.Sequential([keras.Input((None, 3)), layer, keras.layers.Dense(1)])
        model.compile("sgd", "mse", jit_compile=jit)
        model.fit(x, np.ones((4, 1), "float32"), batch_size=2, epochs=1, verbose=0)
        return [*model.get_weights(), model.predict(x, verbose=0)]

    with fused(0), ran(device, forward=3 * passes, backward=2 * passes):
        found = fit()
    monkeypatch.undo()
    monkeypatch.setenv("LSTM_FAST_KERNEL", "fused")
    with fused(3 * passes, 2 * passes):
        expected = fit()
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0.0, atol=tolerances.between_layers("float32", 4 * 5 * 10, b))
