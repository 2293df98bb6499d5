"""Who competes: every contender with what it needs and what it can do."""

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras

from benchmarks import BASELINE, FAST, ON_NUMPY, PYTORCH, PYTORCH_NATIVE, TWO_CALLS, XLA
from benchmarks.peers import Prepared, numpy_kernels
from benchmarks.scenarios import Problem, Scenario
from lstm_fast import FastBidirectional, FastLSTM


@dataclass(frozen=True)
class Contender:
    """A way to compute a problem."""

    name: str
    prepare: Callable[[Problem, bool], Prepared]
    requires: tuple[str, ...] = ()  # modules that must be installed
    cannot: Callable[[Scenario, bool], str | None] = lambda _scenario, _training: None  # why it is left out
    fused_calls: Callable[[Scenario], int] = lambda _scenario: 0  # of lstm_fast's kernels, per pass

    def unavailable(self, scenario: Scenario, training: bool) -> str | None:
        """Returns why the contender does not take part, None if it does."""
        for module in self.requires:
            if importlib.util.find_spec(module) is None:
                return f"{self.name}: {module} is not installed"
        reason = self.cannot(scenario, training)
        return reason and f"{self.name}: {reason}"


def peer(module: str, **options: Any) -> Callable[[Problem, bool], Prepared]:
    """`prepare` of a module whose framework may be absent: imports it when it is first needed."""

    def prepare(problem: Problem, training: bool) -> Prepared:
        return importlib.import_module(f"benchmarks.peers.{module}").prepare(problem, training, **options)

    return prepare


def keras_contender(name: str, **options: Any) -> Contender:
    """keras.layers.LSTM, in keras.layers.Bidirectional where there are two directions."""
    prepare = peer("keras_layers", layer_class=keras.layers.LSTM, wrapper=keras.layers.Bidirectional, **options)
    return Contender(name, prepare, cannot=_slow_in_xla if options.get("jit") else _can)


def fast_contender(name: str, *, one_call: bool = True, **options: Any) -> Contender:
    """FastLSTM; two directions are a FastBidirectional, with one kernel call, or a Bidirectional, with one each."""
    wrapper = FastBidirectional if one_call else keras.layers.Bidirectional
    prepare = peer("keras_layers", layer_class=FastLSTM, wrapper=wrapper, **options)
    return Contender(
        name,
        prepare,
        cannot=_can if one_call else _one_direction,
        fused_calls=lambda scenario: 1 if one_call else scenario.directions,
    )


def _can(_scenario: Scenario, _training: bool) -> None:
    return None


def _slow_in_xla(scenario: Scenario, training: bool) -> str | None:
    # It takes many seconds a call there, and would take most of the time of the whole run.
    return "left out, too slow" if training and scenario.time > 1000 else None


def _one_direction(scenario: Scenario, _training: bool) -> str | None:
    return None if scenario.bidirectional else "the same as FastLSTM with one direction"


def _no_lengths(scenario: Scenario, _training: bool) -> str | None:
    return "the op has one length for the whole batch" if scenario.padded else None


def _native_anyhow(scenario: Scenario, _training: bool) -> str | None:
    return "packed sequences do not use oneDNN in the first place" if scenario.padded else None


def _padding_comes_first(scenario: Scenario, _training: bool) -> str | None:
    if scenario.padded and scenario.bidirectional:
        return "the backward direction would begin in the padding"
    return None if scenario.padded else "the same as PyTorch without padding"


def _no_training(_scenario: Scenario, training: bool) -> str | None:
    return "no backward pass" if training else None


CONTENDERS = (
    keras_contender(BASELINE),
    keras_contender(XLA, jit=True),
    fast_contender(FAST),
    fast_contender(TWO_CALLS, one_call=False),
    Contender(ON_NUMPY, numpy_kernels.prepare, fused_calls=lambda _: 1),
    Contender(PYTORCH, peer("pytorch"), requires=("torch",)),
    Contender(PYTORCH_NATIVE, peer("pytorch", onednn=False), requires=("torch",), cannot=_native_anyhow),
    Contender("PyTorch (unpacked)", peer("pytorch", packed=False), requires=("torch",), cannot=_padding_comes_first),
    Contender("JAX scan", peer("jax_scan"), requires=("jax",)),
    Contender("TensorFlow BlockLSTMV2", peer("block_lstm"), cannot=_no_lengths),
    Contender("ONNX Runtime", peer("onnx_runtime"), requires=("onnx", "onnxruntime"), cannot=_no_training),
)
BY_NAME = {contender.name: contender for contender in CONTENDERS}
