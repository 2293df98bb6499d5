"""Who competes on a GPU; `contenders.py` has those of the CPU."""

import functools
import importlib
from collections.abc import Callable

from benchmarks import CUDNN_JAX, CUDNN_TORCH, DEVICE, FAST_JAX, FAST_TORCH, FAST_TORCH_X3, FLASHRNN
from benchmarks.contenders import Contender, peer
from benchmarks.scenarios import Scenario

# In the order of the run: a kernel of ours that fails may leave the process without a usable device.
KEYS = {
    "cudnn_torch": CUDNN_TORCH,
    "cudnn_jax": CUDNN_JAX,
    "flashrnn": FLASHRNN,
    "fast_torch": FAST_TORCH,
    "fast_torch_x3": FAST_TORCH_X3,
    "fast_jax": FAST_JAX,
}


def contender(key: str, precision: str, device: str = DEVICE) -> Contender:
    """The contender that an entry of KEYS stands for."""
    options = {"precision": precision, "device": device}
    wherever, ours = Contender, functools.partial(Contender, fused_calls=lambda _: 1)
    name = KEYS[key]
    if key == "cudnn_torch":
        return wherever(name, peer("gpu_torch", **options), ("torch",), _halves_are_for_gpus(precision, device))
    if key == "cudnn_jax":
        prepare = peer("gpu_jax", **options, cudnn=True)
        return wherever(name, prepare, ("torch", "jax"), _only_float32(precision, _jax_on(device)))
    if key == "flashrnn":
        return wherever(name, peer("gpu_flashrnn", **options), ("torch", "flashrnn"), _only_halves(precision))
    if key == "fast_torch":
        return ours(name, peer("gpu_fast", **options), ("torch",))
    if key == "fast_torch_x3":
        return ours(name, peer("gpu_fast", **options, forced="tf32x3"), ("torch",), _only_exact(precision))
    return ours(name, peer("gpu_jax", **options, cudnn=False), ("torch", "jax"), _jax_on(device))


_Cannot = Callable[[Scenario, bool], str | None]


def _jax_on(device: str) -> _Cannot:
    # Asked only if JAX is there.
    return lambda *_: importlib.import_module("benchmarks.peers.gpu_jax").problem_of_device(device)


def _only_float32(precision: str, otherwise: _Cannot) -> _Cannot:
    if precision in ("float32", "tf32"):
        return otherwise
    return lambda *_: "weights of float32 only"


def _only_exact(precision: str) -> _Cannot:
    return lambda *_: None if precision == "float32" else "another way to compute products of float32"


def _only_halves(precision: str) -> _Cannot:
    def cannot(scenario: Scenario, _training: bool) -> str | None:
        if scenario.bidirectional or scenario.padded:
            return "one direction, and one length for the whole batch"
        return None if precision in ("bfloat16", "float16") else "products of half types only"

    return cannot


def _halves_are_for_gpus(precision: str, device: str) -> _Cannot:
    return lambda *_: "no float16 on the CPU" if (precision, device) == ("float16", "cpu") else None
