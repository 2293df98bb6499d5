"""Who competes: every contender with what it needs and what it can do."""

import importlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from benchmarks import BASELINE, FAST, FAST_XLA, ON_NUMPY, ONNX_RUNTIME, PYTORCH, PYTORCH_NATIVE, TWO_CALLS, XLA
from benchmarks.peers import numpy_kernels
from lstm_fast.bench.contenders import Cannot, Contender, fast_contender, keras_contender
from lstm_fast.bench.prepared import Prepared
from lstm_fast.bench.scenarios import Problem, Scenario


def peer(module: str, package: str = "benchmarks.peers", **options: Any) -> Callable[[Problem, bool], Prepared]:
    """`prepare` of a module whose framework may be absent: imports it when it is first needed."""

    def prepare(problem: Problem, training: bool) -> Prepared:
        return importlib.import_module(f"{package}.{module}").prepare(problem, training, **options)

    return prepare


def pytorch(name: str, cannot: Cannot = Contender.cannot, **options: Any) -> Contender:
    """torch.nn.LSTM."""
    return Contender(name, peer("pytorch", "lstm_fast.bench", **options), requires=("torch",), cannot=cannot)


def _slow_in_xla(scenario: Scenario, training: bool) -> str | None:
    # A call takes many seconds there, which would be most of the time of the whole run.
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
    replace(keras_contender(XLA, jit=True), cannot=_slow_in_xla),
    fast_contender(FAST),
    fast_contender(FAST_XLA, jit=True),
    replace(fast_contender(TWO_CALLS, one_call=False), cannot=_one_direction),
    Contender(ON_NUMPY, numpy_kernels.prepare, fused_calls=lambda _: 1),
    pytorch(PYTORCH),
    pytorch(PYTORCH_NATIVE, onednn=False, cannot=_native_anyhow),
    pytorch("PyTorch (unpacked)", packed=False, cannot=_padding_comes_first),
    Contender("JAX scan", peer("jax_scan"), requires=("jax",)),
    Contender("TensorFlow BlockLSTMV2", peer("block_lstm"), cannot=_no_lengths),
    Contender(ONNX_RUNTIME, peer("onnx_runtime"), requires=("onnx", "onnxruntime"), cannot=_no_training),
)
BY_NAME = {contender.name: contender for contender in CONTENDERS}
