"""A framework that has changed: each private name is removed, and the layer must still give Keras's result.

Every case runs in a fork of a process that has imported the framework, but nothing of this package.
"""

import inspect
import json
import os
import subprocess
import sys
import textwrap
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
import tolerances
from keras_side import keras_copy

import lstm_fast
from lstm_fast import functional

pytestmark = pytest.mark.backends("tensorflow", "jax", "torch")
BACKEND = keras.backend.backend()

# Calls our layer and Keras's as a case says, and reports what happened.
SCRIPT = """
import copy, importlib, inspect, json, os, sys, textwrap, traceback, warnings
import keras, numpy as np
backend = keras.backend.backend()
try:
    import tensorflow as tf  # Keras imports it with each backend, when it copies a layer
except ImportError:
    assert backend != "tensorflow"


def gone(name):
    "Takes a module away from those that import it from now on."
    package, _, last = name.rpartition(".")
    importlib.import_module(name)
    delattr(sys.modules[package], last)
    sys.modules[name] = None


def rewritten(owner, method, *changes):
    "Puts a method with other words in the place of one of Keras's."
    source = textwrap.dedent(inspect.getsource(getattr(owner, method)))
    for old, new in changes:
        assert old in source, (method, old)
        source = source.replace(old, new)
    values = {}
    exec(source.replace("super()", f"super({owner.__name__}, self)"), sys.modules[owner.__module__].__dict__, values)
    ((name, value),) = values.items()
    setattr(owner, name, value)


def called(layer, mode):
    if backend == "jax":  # which compiles every operation by itself otherwise
        import jax
        return jax.jit(lambda x: layer(x))
    if mode == "eager":
        return layer
    return tf.function(lambda x: layer(x), jit_compile=mode == "jit")


def gradients(layer, x):
    if backend == "tensorflow":
        with tf.GradientTape() as tape:
            y = tf.reduce_sum(layer(x))
        return tape.gradient(y, layer.trainable_variables)
    if backend == "jax":
        import jax
        values = [variable.value for variable in layer.trainable_variables]
        others = [variable.value for variable in layer.non_trainable_variables]
        loss = lambda values: layer.stateless_call(values, others, x)[0].sum()
        y, gradients = jax.jit(jax.value_and_grad(loss))(values)  # alone, they would do without a forward pass
        return [y, *gradients]
    import torch
    return torch.autograd.grad(layer(x).sum(), [variable.value for variable in layer.trainable_variables])


def ones(*shape):
    if backend == "torch":
        import torch
        return torch.ones(shape)
    return tf.ones(shape) if backend == "tensorflow" else keras.ops.ones(shape)


def report(case):
    exec(case["breaks"], globals())
    found = {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        import lstm_fast
        try:
            x = np.random.default_rng(0).standard_normal((2, 5, 4)).astype("float32")
            x = keras.ops.convert_to_tensor(x)
            lstm_fast.status()
            results = [], []
            for make in (lambda layer: layer, lstm_fast.FastBidirectional):
                fast = make(lstm_fast.FastLSTM(3))
                fast.build(x.shape)
                plain = lstm_fast.to_keras(copy.deepcopy(fast))
                for layer, values in zip((fast, plain), results, strict=True):
                    values += gradients(layer, x)
                    if hasattr(layer, "cell"):
                        values += [called(layer, mode)(x) for mode in case["modes"]]
            y, expected = [[keras.ops.convert_to_numpy(value) for value in values] for values in results]
            found["difference"] = float(max(np.abs(a - b).max() for a, b in zip(y, expected, strict=True)))
            found["largest"] = float(max(np.abs(a).max() for a in expected))
            found["calls"] = lstm_fast.status().fused_calls
            os.environ["LSTM_FAST_KERNEL"] = "fused"
            for mode in case["modes"]:
                try:
                    called(lstm_fast.FastLSTM(3), mode)(x)
                except Exception as error:  # TensorFlow and Keras put their own words round it
                    found.setdefault("refused", {})[mode] = f"{type(error).__name__}: {error}"
        except Exception as error:
            found["error"] = f"{type(error).__name__}: {error}"
            found["trace"] = traceback.format_exc()
        try:
            lstm_fast.lstm(ones(1, 2, 3), ones(3, 8), ones(2, 8))
            found["function"] = "ran"
        except Exception as error:
            found["function"] = f"{type(error).__name__}: {error}"
    found["warnings"] = [str(w.message) for w in caught if issubclass(w.category, lstm_fast.LstmFastWarning)]
    return found | {"status": lstm_fast.status().as_dict()}


for case in json.loads(sys.argv[1]):
    child = os.fork()
    if child == 0:
        try:
            print(json.dumps(report(case)), flush=True)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert status == 0, (case, status)
"""

# Removes a name of Keras; the code that uses it gets another name.
KERAS = """
RNN, LSTM, Bidirectional = keras.layers.RNN, keras.layers.LSTM, keras.layers.Bidirectional
from keras.src.layers.rnn.dropout_rnn_cell import DropoutRNNCell
loop = LSTM.inner_loop
def without(name):
    for owner, method in (
        (DropoutRNNCell, name), (RNN, "_maybe_config_dropout_masks"), (RNN, "_maybe_reset_dropout_masks"),
        (keras.layers.LSTMCell, "call"), (LSTM, "inner_loop"),
    ):
        if name + "(" in inspect.getsource(getattr(owner, method)):
            rewritten(owner, method, (name + "(", "other("))
    delattr(DropoutRNNCell, name)
"""


class Case(NamedTuple):
    """What is removed, and the expected result."""

    breaks: str
    reason: str
    # How the layers are called, and in which of these modes the kernel still runs.
    modes: tuple[str, ...] = ("eager",)
    fused: tuple[str, ...] = ()
    # Whether it still runs in both directions, in a call that does not use the loop of one direction.
    fused_both: bool = False
    # Whether only layers are affected, and functions run as before.
    layers_only: bool = False


OF_KERAS = {
    "inner_loop is not called": Case(
        "rewritten(RNN, 'call', ('self.inner_loop(', 'self.the_loop('))\nLSTM.the_loop = LSTM.inner_loop",
        "does not call inner_loop",
        fused_both=True,
    ),
    "inner_loop has a further argument": Case(
        "rewritten(RNN, 'call', ('self.inner_loop(', 'self.inner_loop(lengths=None, '))\n"
        "LSTM.inner_loop = lambda self, *args, lengths, **kwargs: loop(self, *args, **kwargs)",
        "unexpected keyword argument 'lengths'",
        fused_both=True,
    ),
    "inner_loop has no mask": Case(
        "rewritten(RNN, 'call', ('mask=mask,', ''))\n"
        "LSTM.inner_loop = lambda self, *args, **kwargs: loop(self, *args, mask=None, **kwargs)",
        "missing 1 required positional argument: 'mask'",
        fused_both=True,
    ),
} | {
    f"no {name}": Case(f"without({name!r})", f"has no LSTMCell.{name}")
    for name in ("get_dropout_mask", "get_recurrent_dropout_mask", "reset_dropout_mask", "reset_recurrent_dropout_mask")
}
OF_KERAS = {name: case._replace(breaks=KERAS + case.breaks, layers_only=True) for name, case in OF_KERAS.items()}

ALL = ("eager", "graph", "jit")

OF_TENSORFLOW = {
    "no control_flow_util": Case(
        "gone('tensorflow.python.ops.control_flow_util')", "whether XLA compiles it cannot be known", ALL, ("eager",)
    ),
    "no gen_xla_ops": Case(
        "gone('tensorflow.compiler.tf2xla.ops.gen_xla_ops')", "has no XlaCallModule", ALL, ("eager", "graph")
    ),
    "no xla_call_module": Case(
        "from tensorflow.compiler.tf2xla.ops import gen_xla_ops; del gen_xla_ops.xla_call_module",
        "has no XlaCallModule",
        ALL,
        ("eager", "graph"),
    ),
    "no load_op_library": Case("del tf.load_op_library", "load_op_library"),
    # Half of the module has run and must not run again: TensorFlow refuses a second gradient of an op.
    "a module that ends half way": Case(
        "first = tf.RegisterGradient\n"
        "def register(name):\n"
        "    if name == 'LstmFastBackward': raise TypeError('has moved')\n"
        "    return first(name)\n"
        "tf.RegisterGradient = register",
        "(TypeError: has moved)",
    ),
}

OF_JAX = {
    f"no {module}.{name}": Case(f"import {module} as module; del module.{name}", name)
    for module, names in {
        "jax": ("typeof", "ffi"),
        "jax.extend.core": ("Primitive", "jaxpr_as_fun"),
        "jax.experimental.custom_partitioning": ("custom_partitioning",),
        "jax.interpreters.mlir": ("lower_fun", "register_lowering"),
        "jax.interpreters.batching": ("primitive_batchers",),
        "jax.interpreters.ad": ("Zero", "is_undefined_primal", "primitive_jvps", "primitive_transposes"),
    }.items()
    for name in names
} | {
    "def_partition without sharding_rule": Case(
        "import jax.experimental.custom_partitioning as module\n"
        "define = module.custom_partitioning.def_partition\n"
        "module.custom_partitioning.def_partition = lambda self, partition, infer_sharding_from_operands: define(\n"
        "    self, partition, infer_sharding_from_operands)",
        "sharding_rule",
    ),
}

OF_TORCH = {
    "no autograd.Function": Case("import torch; del torch.autograd.Function", "has no attribute 'Function'"),
    "no cuda.device_count": Case("import torch; del torch.cuda.device_count", "", fused=("eager",)),
}

# Keras's names are the same on JAX, which is the slowest backend, so they are not tested there.
CASES = {"tensorflow": OF_KERAS | OF_TENSORFLOW, "jax": OF_JAX, "torch": OF_KERAS | OF_TORCH}[BACKEND]


@pytest.fixture(scope="module")
def reports() -> dict[str, dict[str, Any]]:
    asked = [{"breaks": case.breaks, "modes": case.modes} for case in CASES.values()]
    process = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(asked)],
        env={**os.environ, "LSTM_FAST_KERNEL": "auto"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return dict(zip(CASES, map(json.loads, process.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_what_is_taken_away_is_a_reason(reports: dict[str, dict[str, Any]], name: str) -> None:
    case, report = CASES[name], reports[name]
    assert "error" not in report, report["trace"]
    # A gradient is a sum over 5 timesteps of 2 sequences; each term is a sum of 4 inputs, 3 units and a bias.
    assert report["difference"] <= tolerances.between_layers("float32", 2 * 5 * (4 + 3 + 1), report["largest"])
    status = report["status"]
    assert bool(status["fallbacks"]) == (case.fused != case.modes), status
    assert all(case.reason in reason for reason in status["fallbacks"]), status
    # One direction runs for the gradient and in each of the modes, both directions for the gradient only.
    one, both = "eager" in case.fused, "eager" in case.fused or case.fused_both
    assert report["calls"] == {"forward": one + len(case.fused) + both, "backward": one + both}
    if case.layers_only or case.fused:
        assert report["function"] == "ran"
    else:
        assert report["function"].startswith("RuntimeError: lstm_fast: ")
        assert case.reason in report["function"]
        assert case.reason in status["libraries"][BACKEND]
    for warning in report["warnings"]:
        assert case.reason in warning
        assert any(case.reason in problem for problem in status["problems"]) or case.fused
    assert len(report["warnings"]) <= 1
    refused = report.get("refused", {})
    assert refused.keys() == set(case.modes) - set(case.fused)
    for error in refused.values():
        assert error.startswith("RuntimeError: ")
        assert "LSTM_FAST_KERNEL=fused" in error
        assert case.reason in error


def test_what_the_backend_asks_for_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable(_: Any) -> None:
        raise AttributeError("module has no attribute 'is_there'")

    monkeypatch.setattr(functional.backend_of(BACKEND), "unavailable", unavailable)
    monkeypatch.setenv("LSTM_FAST_KERNEL", "auto")
    layer, x = lstm_fast.FastLSTM(3), keras.ops.ones((2, 5, 4))
    layer.build(x.shape)
    plain = keras_copy(layer)
    np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (layer(x), plain(x))))
    ((reason, count),) = [(r, n) for r, n in lstm_fast.status().fallbacks.items() if "is_there" in r]
    assert f"does not fit this {BACKEND} " in reason
    assert count == 1
    with pytest.raises(RuntimeError, match=r"lstm_fast: .*is_there"):
        lstm_fast.lstm(x, *layer.trainable_variables)


def test_the_hook_that_makes_states_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """keras.layers.RNN makes the states of stateful layers in a method with another name."""
    rnn = keras.layers.RNN
    source = textwrap.dedent(inspect.getsource(rnn.build))
    assert "self._create_state_variables(" in source
    moved: dict[str, Any] = {}
    exec(source.replace("_create_state_variables", "_make_states"), vars(sys.modules[rnn.__module__]), moved)
    monkeypatch.setattr(rnn, "build", moved["build"])
    monkeypatch.setattr(rnn, "_make_states", rnn._create_state_variables, raising=False)
    monkeypatch.delattr(rnn, "_create_state_variables")

    x = np.random.default_rng(0).standard_normal((2, 6, 4)).astype("float32")
    whole = lstm_fast.FastLSTM(3)
    whole.build(x.shape)
    stateful = lstm_fast.FastLSTM(3, stateful=True)
    model = keras.Sequential([keras.Input(batch_shape=(2, 2, 4)), stateful])
    stateful.set_weights(whole.get_weights())
    before = lstm_fast.status().fused_calls["forward"]
    for start in (0, 2, 4):
        y = model.predict(x[:, start : start + 2], verbose=0)
    assert lstm_fast.status().fused_calls["forward"] >= before + 3
    expected = keras.ops.convert_to_numpy(whole(x))
    np.testing.assert_allclose(y, expected, atol=tolerances.between_layers("float32", 4 + 3 + 1, 1.0))
