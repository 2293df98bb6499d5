"""The CUDA kernels, their schedule and their bindings, compiled for the processor: a module like `lstm_fast._cuda` with
a device that tests/emulation emulates, and TensorFlow's ops on it. Building them needs a C++ compiler, and no part of
CUDA.
"""

import concurrent.futures
import contextlib
import fcntl
import functools
import hashlib
import importlib.machinery
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pybind11 = pytest.importorskip("pybind11")

ROOT = Path(__file__).parents[1]
# Several clones of the same sources, as in CI, can share the compiled files.
BUILD = Path(os.environ.get("EMULATED_BUILD", ROOT / "build" / "emulated"))
NAME = "_emulated"

FLAGS = [
    *("-std=c++17", "-fPIC", "-g1", "-Wall", "-Wextra", "-Wno-unknown-pragmas", "-Werror"),
    *("-DLSTM_FAST_EMULATED", f"-DLSTM_FAST_CUDA_MODULE={NAME}", '-DLSTM_FAST_VERSION="emulated"'),
]
# Headers of the emulation take the place of those of the same name.
INCLUDES = [
    *(f"-I{ROOT / folder}" for folder in ("tests/emulation", "csrc", "csrc/include")),
    *("-isystem", pybind11.get_include(), "-isystem", sysconfig.get_paths()["include"]),
]


def load() -> ModuleType:
    """Returns the module, compiled from the sources as they are; skips the test where there is no compiler."""
    return _load(_compiler())


def tensorflow_ops() -> tuple[Any, Any]:
    """Returns TensorFlow's ops on GPUs, forward and backward, as ops on a CPU that runs the kernels of `load()`."""
    load()  # the ops link to it
    return _load_tensorflow_ops(_compiler())


def _compiler() -> str:
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler for the emulated device")
    return compiler


@functools.cache
def _load(compiler: str) -> ModuleType:
    with _lock():
        path = _build(compiler)
    loader = importlib.machinery.ExtensionFileLoader(NAME, str(path))
    spec = importlib.util.spec_from_file_location(NAME, path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


@functools.cache
def _load_tensorflow_ops(compiler: str) -> tuple[Any, Any]:
    """The ops are compiled as on a user's machine, except for the device."""
    import tensorflow as tf

    from lstm_fast.backends import tensorflow_build

    with _lock():
        module = _build(compiler)
    folder = BUILD / "tensorflow"
    flags = [flag.replace("-I", "-isystem") for flag in tf.sysconfig.get_compile_flags()]
    with tempfile.TemporaryDirectory() as temporary, pytest.MonkeyPatch.context() as environment:
        environment.setenv("LSTM_FAST_CACHE", str(folder))
        environment.setenv("CXX", compiler)
        sources = install_tensorflow_sources(Path(temporary))
        for name in ("array.cc", "cuda_arguments.cc"):  # the module has them, with the emulation
            (sources / "bindings" / name).unlink()
        target = tensorflow_build.library(
            tensorflow_build.Recipe(
                sources,
                module,
                "emulated",
                tf.__version__,
                [*flags, "-DLSTM_FAST_EMULATED", "-Wall", "-Wextra", "-Werror"],
                tf.sysconfig.get_link_flags(),
            )
        )
    for path in {*folder.glob("*.so")} - {target}:
        path.unlink()  # of other states of the sources
    ops = tf.load_op_library(str(target))
    return ops.lstm_fast_emulated_forward, ops.lstm_fast_emulated_backward


def install_tensorflow_sources(folder: Path) -> Path:
    """Puts the sources of TensorFlow's ops on GPUs into a folder, as the build installs them, and returns it."""
    listed = re.search(r"set\(tensorflow_sources ([^)]*)\)", (ROOT / "CMakeLists.txt").read_text(encoding="utf-8"))
    assert listed is not None
    for name in listed[1].split():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "csrc" / name, target)
    return folder


@contextlib.contextmanager
def _lock() -> Iterator[None]:
    """One process at a time builds: Keras's backends are tested side by side."""
    BUILD.mkdir(parents=True, exist_ok=True)
    with (BUILD / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def sources() -> list[Path]:
    """The files to compile. Those that take longest come first."""
    kernels = [path for path in (ROOT / "csrc" / "cuda").glob("*.c[uc]") if path.name != "runtime.cu"]
    bindings = [ROOT / "csrc" / "bindings" / f"{name}.cc" for name in _BINDINGS]
    emulation = [path for path in (ROOT / "tests" / "emulation").glob("*.cc") if not path.name.startswith("test_")]
    return [*bindings, *sorted(kernels, key=lambda path: -len(path.name)), *sorted(emulation)]


_BINDINGS = ("cuda", "cuda_arguments", "cuda_array", "xla_cuda", "xla_call", "array")


def _build(compiler: str) -> Path:
    """Compiles the files that are not compiled yet, and returns the module's path."""
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True).stdout
    folders = (ROOT / "csrc", ROOT / "tests" / "emulation")
    headers = sorted(path for folder in folders for path in folder.rglob("*.h"))
    used = (*FLAGS, pybind11.__version__, sys.version)  # the folders of these may differ
    common = _hash(version, *map(str.encode, used), *(path.read_bytes() for path in headers))
    objects = {path: BUILD / f"{path.name}-{_hash(common, path.read_bytes()).hex()}.o" for path in sources()}
    module = BUILD / f"{NAME}-{_hash(*(path.name.encode() for path in objects.values())).hex()}.so"
    if not module.exists():
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            list(pool.map(functools.partial(_compile, compiler), objects.keys(), objects.values()))
        _run([compiler, "-shared", *map(str, objects.values())], module)
        for path in {*BUILD.glob("*.o"), *BUILD.glob("*.so")} - {module, *objects.values()}:
            path.unlink()  # of other states of the sources
    return module


def _compile(compiler: str, source: Path, target: Path) -> None:
    if not target.exists():
        # The kernels and the machine below them are what tests wait for, the bindings what the compiler takes time for.
        level = "-O0" if source.parent.name == "bindings" else "-O1"
        _run([compiler, level, *FLAGS, *INCLUDES, "-x", "c++", "-c", str(source)], target)


def _run(command: list[str], target: Path) -> None:
    unfinished = target.with_suffix(".tmp")
    done = subprocess.run([*command, "-o", str(unfinished)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    unfinished.replace(target)


def _hash(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).digest()[:8]
