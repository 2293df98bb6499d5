"""Who competes: every contender with what it needs and what it can do."""

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras

from lstm_fast.bench import keras_layers
from lstm_fast.bench.prepared import Prepared
from lstm_fast.bench.scenarios import Problem, Scenario
from lstm_fast.layers import FastBidirectional, FastLSTM

KERAS = "Keras"  # as its users have it: a graph on TensorFlow, jitted on JAX, eager on PyTorch
XLA = "Keras XLA"
FAST = "FastLSTM"
PYTORCH = "PyTorch"


Cannot = Callable[[Scenario, bool], str | None]


@dataclass(frozen=True)
class Contender:
    """A way to compute a problem."""

    name: str
    prepare: Callable[[Problem, bool], Prepared]
    requires: tuple[str, ...] = ()  # modules that must be installed
    cannot: Cannot = lambda _scenario, _training: None  # why it is left out
    fused_calls: Callable[[Scenario], int] = lambda _scenario: 0  # of lstm_fast's kernels, per pass

    def unavailable(self, scenario: Scenario, training: bool) -> str | None:
        """Returns why the contender does not take part, None if it does."""
        for module in self.requires:
            if importlib.util.find_spec(module) is None:
                return f"{self.name}: {module} is not installed"
        reason = self.cannot(scenario, training)
        return reason and f"{self.name}: {reason}"


def keras_contender(name: str, **options: Any) -> Contender:
    """keras.layers.LSTM, in keras.layers.Bidirectional where there are two directions."""
    return Contender(name, _of_layers(keras.layers.LSTM, keras.layers.Bidirectional, **options))


def fast_contender(name: str, *, one_call: bool = True, **options: Any) -> Contender:
    """FastLSTM; two directions are a FastBidirectional, with one kernel call, or a Bidirectional, with one each."""
    prepare = _of_layers(FastLSTM, FastBidirectional if one_call else keras.layers.Bidirectional, **options)
    return Contender(name, prepare, fused_calls=lambda scenario: 1 if one_call else scenario.directions)


def users_contenders(policy: str, on_gpu: bool) -> tuple[Contender, ...]:
    """Returns those of `lstm-fast bench`, the one first whose results the others must reproduce.

    Args:
        policy: Keras's, of the layers' dtypes; PyTorch computes in the compute dtype of it.
        on_gpu: whether Keras runs on a GPU.
    """
    dtype = keras.DTypePolicy(policy).compute_dtype

    def pytorch(problem: Problem, training: bool) -> Prepared:
        # The padding computed and blanked out is by far the faster way on a CPU, and right in one direction.
        packed = on_gpu or len(problem.weights) == 2
        side = importlib.import_module("lstm_fast.bench.pytorch")
        prepared: Prepared = side.prepare(
            problem, training, packed=packed, dtype=dtype, device="cuda" if on_gpu else "cpu"
        )
        return prepared

    def pytorch_cannot(_scenario: Scenario, _training: bool) -> str | None:
        if on_gpu and not importlib.import_module("torch").cuda.is_available():
            return "PyTorch sees no GPU"
        return "no float16 on the CPU" if dtype == "float16" and not on_gpu else None

    xla = keras_contender(XLA, policy=policy, jit=True, use_cudnn=False)  # XLA has no cuDNN
    return (
        keras_contender(KERAS, policy=policy),
        Contender(XLA, xla.prepare, cannot=_no_xla),
        fast_contender(FAST, policy=policy),
        Contender(PYTORCH, pytorch, ("torch",), pytorch_cannot),
    )


def _of_layers(layer_class: Any, wrapper: Any, **options: Any) -> Callable[[Problem, bool], Prepared]:
    def prepare(problem: Problem, training: bool) -> Prepared:
        return keras_layers.prepare(problem, training, layer_class=layer_class, wrapper=wrapper, **options)

    return prepare


def _no_xla(_scenario: Scenario, _training: bool) -> str | None:
    return {
        "jax": "Keras on JAX always runs through XLA, so this would be the same as Keras",
        "torch": "Keras on PyTorch has no XLA",
    }.get(keras.backend.backend())
