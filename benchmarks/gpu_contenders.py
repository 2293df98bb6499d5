"""Who competes on a GPU; `contenders.py` has those of the CPU."""

import functools
import importlib

from benchmarks import (
    CUDNN_JAX,
    CUDNN_KERAS,
    CUDNN_TORCH,
    DEVICE,
    FAST_JAX,
    FAST_TORCH,
    FAST_TORCH_EVERY,
    FAST_TORCH_X3,
    FLASHRNN,
)
from benchmarks.contenders import peer
from lstm_fast.bench.contenders import Cannot, Contender
from lstm_fast.bench.scenarios import Scenario

# The run keeps this order, because a kernel of ours that fails may leave the process without a usable device.
KEYS = {
    "cudnn_torch": CUDNN_TORCH,
    "cudnn_jax": CUDNN_JAX,
    "cudnn_keras": CUDNN_KERAS,
    "flashrnn": FLASHRNN,
    "fast_torch": FAST_TORCH,
    "fast_torch_x3": FAST_TORCH_X3,
    "fast_torch_every": FAST_TORCH_EVERY,
    "fast_jax": FAST_JAX,
}


def contender(key: str, precision: str, device: str = DEVICE) -> Contender:
    """The contender that an entry of KEYS stands for."""
    name, options = KEYS[key], {"precision": precision, "device": device}
    wherever, ours = Contender, functools.partial(Contender, fused_calls=lambda _: 1)
    on_jax, on_keras = _on("gpu_jax", device), _on("gpu_keras", device)
    made = {
        "cudnn_torch": wherever(
            name, peer("gpu_torch", **options), ("torch",), _halves_are_for_gpus(precision, device)
        ),
        "cudnn_jax": wherever(
            name, peer("gpu_jax", **options, cudnn=True), ("torch", "jax"), _only_float32(precision, on_jax)
        ),
        "cudnn_keras": wherever(name, peer("gpu_keras", precision=precision), ("torch", "tensorflow"), on_keras),
        "flashrnn": wherever(name, peer("gpu_flashrnn", **options), ("torch", "flashrnn"), _only_halves(precision)),
        "fast_torch": ours(name, peer("gpu_fast", **options), ("torch",)),
        "fast_torch_x3": ours(name, peer("gpu_fast", **options, forced="tf32x3"), ("torch",), _only_exact(precision)),
        "fast_torch_every": ours(name, peer("gpu_fast", **options, every=True), ("torch",), _only_repeating),
        "fast_jax": ours(name, peer("gpu_jax", **options, cudnn=False), ("torch", "jax"), on_jax),
    }
    return made[key]


def _on(module: str, device: str) -> Cannot:
    # This is asked only if the framework is there.
    return lambda *_: importlib.import_module(f"benchmarks.peers.{module}").problem_of_device(device)


def _only_float32(precision: str, otherwise: Cannot) -> Cannot:
    if precision in ("float32", "tf32"):
        return otherwise
    return lambda *_: "weights of float32 only"


def _only_exact(precision: str) -> Cannot:
    return lambda *_: None if precision == "float32" else "another way to compute products of float32"


def _only_repeating(scenario: Scenario, _training: bool) -> str | None:
    return None if scenario.repeating else "the same as without it: no timestep repeats"


def _only_halves(precision: str) -> Cannot:
    def cannot(scenario: Scenario, _training: bool) -> str | None:
        if scenario.bidirectional or scenario.padded:
            return "one direction, and one length for the whole batch"
        return None if precision in ("bfloat16", "float16") else "products of half types only"

    return cannot


def _halves_are_for_gpus(precision: str, device: str) -> Cannot:
    return lambda *_: "no float16 on the CPU" if (precision, device) == ("float16", "cpu") else None
