"""What a reader of the results must know about where they come from."""

import functools
from typing import Any

from benchmarks import DEVICE
from lstm_fast.bench import environment as everywhere


def environment() -> dict[str, Any]:
    """Returns the machine, what lstm_fast runs on it, and the versions of all contenders that are installed."""
    return {**everywhere.environment(), **gpu()}


@functools.cache
def gpu() -> dict[str, Any]:
    """Returns the GPU that is measured and what drives it; nothing where benchmarks run on the CPU."""
    if DEVICE == "cpu":
        return {}
    import torch

    return {
        "gpu": torch.cuda.get_device_name(0),
        "driver": everywhere.driver(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        **everywhere.versions(("torch", "jax")),
    }
