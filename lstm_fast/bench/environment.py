"""What a reader of the results must know about where they come from."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from lstm_fast.diagnosis import status

# Variables that change how fast somebody is: OPENBLAS_CORETYPE=Haswell halves the roofline of a processor with AVX-512.
VARIABLES = ("OPENBLAS_", "OMP_", "MKL_", "GOMP_", "KMP_", "TF_ENABLE_ONEDNN_OPTS", "ONEDNN_", "DNNL_", "XLA_", "ATEN_")
PACKAGES = ("tensorflow", "keras", "numpy", "torch", "jax", "onnxruntime", "nvidia-cudnn-cu12", "nvidia-cudnn-cu13")


def environment() -> dict[str, Any]:
    """Returns the machine, what lstm_fast runs on it, and the versions of all contenders that are installed."""
    found = status()
    return {
        "cpu": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "isa": found.isa,
        "threads": found.threads,
        "python": platform.python_version(),
        "lstm_fast": found.version,
        **versions(PACKAGES),
        **{name: value for name, value in sorted(os.environ.items()) if name.startswith(VARIABLES)},
    }


def driver() -> str:
    """Returns the version of NVIDIA's driver."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Returns the versions of those that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def processor() -> str:
    """Returns the name of the CPU."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()  # not an x86 processor
