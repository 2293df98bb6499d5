"""A framework that has moved: each name that nobody promises to keep is taken away, and Keras's result is what remains.

Every case runs in a process forked from one that has imported the framework, but nothing of this package.
"""

import functools
import json
import os
import subprocess
import sys
from typing import Any, NamedTuple

import keras
import pytest
import tolerances

pytestmark = pytest.mark.backends("tensorflow", "jax", "torch")
BACKEND = keras.backend.backend()

# Calls a layer and Keras's, as a case says, and reports what happened.
SCRIPT = """
import importlib, inspect, json, os, sys, textwrap, traceback, warnings
import keras, numpy as np
backend = keras.backend.backend()
if backend == "tensorflow":
    import tensorflow as tf


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
    if mode == "eager":
        return layer
    if backend == "jax":
        import jax
        return jax.jit(lambda x: layer(x))
    return tf.function(lambda x: layer(x), jit_compile=mode == "jit")


def gradients(layer, x):
    if backend == "tensorflow":
        with tf.GradientTape() as tape:
            y = tf.reduce_sum(layer(x))
        return tape.gradient(y, layer.trainable_variables)
    if backend == "jax":
        import jax
        values = [variable.value for variable in layer.trainable_variables]
        return jax.grad(lambda values: layer.stateless_call(values, [], x)[0].sum())(values)
    import torch
    return torch.autograd.grad(layer(x).sum(), [variable.value for variable in layer.trainable_variables])


def ones(*shape):
    if backend == "torch":
        import torch
        return torch.ones(shape)
    return tf.ones(shape) if backend == "tensorflow" else keras.ops.ones(shape)


def report(case):
    exec(case["breaks"], globals())
    os.environ["LSTM_FAST_KERNEL"] = case["kernel"]
    found = {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        import lstm_fast
        try:
            x = np.random.default_rng(0).standard_normal((2, 5, 4)).astype("float32")
            x = keras.ops.convert_to_tensor(x)
            fast = lstm_fast.FastLSTM(3)
            fast = lstm_fast.FastBidirectional(fast) if case["both"] else fast
            fast.build(x.shape)
            plain = lstm_fast.to_keras(fast)
            lstm_fast.status()
            results = [[called(layer, mode)(x) for mode in case["modes"]] for layer in (fast, plain)]
            for layer, values in zip((fast, plain), results, strict=True):
                values += gradients(layer, x)
            y, expected = [[keras.ops.convert_to_numpy(value) for value in values] for values in results]
            found["difference"] = float(max(np.abs(a - b).max() for a, b in zip(y, expected, strict=True)))
            found["largest"] = float(max(np.abs(a).max() for a in expected))
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

# Without a name of Keras's: what uses it uses another one.
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

MODES = {"tensorflow": ["eager", "graph", "jit"], "jax": ["eager", "graph"], "torch": ["eager"]}[BACKEND]


class Case(NamedTuple):
    """What is taken away, and what then follows."""

    breaks: str
    reason: str
    # The modes in which the kernel runs all the same; the gradient is computed eagerly.
    fused: tuple[str, ...] = ()
    # Whether layers alone are concerned, and functions run as before.
    layers_only: bool = False


OF_KERAS = {
    "inner_loop is not called": Case(
        "rewritten(RNN, 'call', ('self.inner_loop(', 'self.the_loop('))\nLSTM.the_loop = LSTM.inner_loop",
        "does not call inner_loop",
    ),
    "inner_loop has a further argument": Case(
        "rewritten(RNN, 'call', ('self.inner_loop(', 'self.inner_loop(lengths=None, '))\n"
        "LSTM.inner_loop = lambda self, *args, lengths, **kwargs: loop(self, *args, **kwargs)",
        "unexpected keyword argument 'lengths'",
    ),
    "inner_loop has no mask": Case(
        "rewritten(RNN, 'call', ('mask=mask,', ''))\n"
        "LSTM.inner_loop = lambda self, *args, **kwargs: loop(self, *args, mask=None, **kwargs)",
        "missing 1 required positional argument: 'mask'",
    ),
} | {
    f"no {name}": Case(f"without({name!r})", f"has no LSTMCell.{name}")
    for name in ("get_dropout_mask", "get_recurrent_dropout_mask", "reset_dropout_mask", "reset_recurrent_dropout_mask")
}
OF_KERAS = {name: case._replace(breaks=KERAS + case.breaks, layers_only=True) for name, case in OF_KERAS.items()}

OF_TENSORFLOW = {
    "no control_flow_util": Case(
        "gone('tensorflow.python.ops.control_flow_util')", "whether XLA compiles it cannot be known", ("eager",)
    ),
    "no gen_xla_ops": Case(
        "gone('tensorflow.compiler.tf2xla.ops.gen_xla_ops')", "has no XlaCallModule", ("eager", "graph")
    ),
    "no xla_call_module": Case(
        "from tensorflow.compiler.tf2xla.ops import gen_xla_ops; del gen_xla_ops.xla_call_module",
        "has no XlaCallModule",
        ("eager", "graph"),
    ),
    "no load_op_library": Case("del tf.load_op_library", "load_op_library"),
    # Half of the module has run: TensorFlow would refuse a second gradient of an op.
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
    "no cuda.device_count": Case("import torch; del torch.cuda.device_count", "", ("eager",)),
    "what unavailable() asks for": Case(
        "import torch; torch.jit.is_tracing = torch.compiler.is_exporting = None", "'NoneType' object is not callable"
    ),
}

CASES = OF_KERAS | {"tensorflow": OF_TENSORFLOW, "jax": OF_JAX, "torch": OF_TORCH}[BACKEND]
# The values of LSTM_FAST_KERNEL, and whether two directions run.
VARIANTS = {"one direction": ("auto", False), "both directions": ("auto", True), "fused": ("fused", False)}


@functools.cache
def reports() -> dict[tuple[str, str], dict[str, Any]]:
    cases = [(name, variant) for name in CASES for variant in VARIANTS]
    asked = []
    for name, variant in cases:
        kernel, both = VARIANTS[variant]
        asked.append({"breaks": CASES[name].breaks, "kernel": kernel, "both": both, "modes": MODES})
    process = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(asked)],
        env={**os.environ, "LSTM_FAST_KERNEL": "auto"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return dict(zip(cases, map(json.loads, process.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("variant", ["one direction", "both directions"])
@pytest.mark.parametrize("name", CASES)
def test_what_is_taken_away_is_a_reason(name: str, variant: str) -> None:
    case, report = CASES[name], reports()[name, variant]
    assert "error" not in report, report["trace"]
    # Weights get a sum over 5 timesteps of 2 sequences of what is a sum of 4 inputs, 3 units and a bias.
    assert report["difference"] <= tolerances.between_layers("float32", 2 * 5 * (4 + 3 + 1), report["largest"])
    status = report["status"]
    assert bool(status["fallbacks"]) == (len(case.fused) < len(MODES)), status
    assert all(case.reason in reason for reason in status["fallbacks"]), status
    # In its own modes, and forward once more for the gradient. Functions are called in the end.
    calls = status["fused_calls"]["forward"] - (report["function"] == "ran")
    assert bool(calls) == bool(case.fused), status
    if case.layers_only or case.fused:
        assert report["function"] == "ran"
    else:
        assert report["function"].startswith("RuntimeError: lstm_fast: ")
        assert case.reason in report["function"]
        assert case.reason in status["libraries"][BACKEND] or "what" in name
    for warning in report["warnings"]:
        assert case.reason in warning
        assert any(case.reason in problem for problem in status["problems"]) or case.fused
    assert len(report["warnings"]) <= 1


@pytest.mark.parametrize("name", CASES)
def test_what_is_taken_away_is_an_error_where_fused_is_asked_for(name: str) -> None:
    case, report = CASES[name], reports()[name, "fused"]
    assert report["status"]["fallbacks"] == {}
    if len(case.fused) == len(MODES):
        assert "error" not in report, report["trace"]
    else:
        assert report["error"].startswith("RuntimeError: LSTM_FAST_KERNEL=fused")
        assert case.reason in report["error"]
