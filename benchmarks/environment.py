"""What a reader of the results must know about where they come from."""

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import lstm_fast

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
        **{name: value for name, value in sorted(os.environ.items()) if name.startswith(VARIABLES)},
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
