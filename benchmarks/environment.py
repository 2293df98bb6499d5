"""What a reader of the results must know about where they come from."""

import functools
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import lstm_fast
from benchmarks import DEVICE

# Variables that change how fast somebody is: OPENBLAS_CORETYPE=Haswell halves the roofline of a processor with AVX-512.
VARIABLES = ("OPENBLAS_", "OMP_", "MKL_", "GOMP_", "KMP_", "TF_ENABLE_ONEDNN_OPTS", "ONEDNN_", "DNNL_", "XLA_", "ATEN_")
PACKAGES = ("tensorflow", "keras", "numpy", "torch", "jax", "onnxruntime")


def environment() -> dict[str, Any]:
    """Returns the machine, what lstm_fast runs on it, and the versions of all contenders that are installed."""
    status = lstm_fast.status()
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "isa": status.isa,
        "threads": status.threads,
        "python": platform.python_version(),
        "lstm_fast": status.version,
        **{name: version for name in PACKAGES if (version := _version(name))},
        **gpu(),
        **{name: value for name, value in sorted(os.environ.items()) if name.startswith(VARIABLES)},
    }


@functools.cache
def gpu() -> dict[str, Any]:
    """Returns the GPU that is measured and what drives it; nothing where benchmarks run on the CPU."""
    if DEVICE == "cpu":
        return {}
    import torch

    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"]
    try:
        driver = subprocess.run(query, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        driver = "unknown"
    versions = {name: _version(name) for name in ("torch", "jax")}
    return {
        "gpu": torch.cuda.get_device_name(0),
        "driver": driver,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        **{name: version for name, version in versions.items() if version},
    }


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()  # not an x86 processor


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
