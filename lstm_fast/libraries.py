"""The compiled libraries of this package: checked first, because a damaged one would kill the process; loaded once."""

import contextlib
import functools
import importlib
import importlib.machinery
import pathlib
import re
import struct
import sys
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import TypeVar

from lstm_fast.locks import fork_safe_lock

_PACKAGE = pathlib.Path(__file__).parent
_ADVICE = "reinstall lstm_fast"
if (_PACKAGE.parent / "setup.py").exists():  # Python looks into the folder where it starts before all others
    _ADVICE += "; Python has found its source folder: start Python elsewhere, or run `pip install -e .` there"

T = TypeVar("T")


class LstmFastWarning(RuntimeWarning):
    """A compiled part of lstm_fast cannot be used; layers that need it run as plain Keras layers."""


class LibraryError(RuntimeError):
    """A compiled library of this package is missing, damaged or does not fit."""


def once(where: str = "") -> Callable[[Callable[[], T]], Callable[[], T]]:
    """Makes a function run once, in one thread. If it fails, warns once; every call then raises LibraryError.

    Args:
        where: For the warning, the place where layers need the result: "on a GPU, "; empty: everywhere.
    """

    def decorate(load: Callable[[], T]) -> Callable[[], T]:
        lock = fork_safe_lock()
        outcome: list[T | LibraryError] = []

        @functools.wraps(load)
        def loaded() -> T:
            if not outcome:
                with lock:
                    if not outcome:
                        try:
                            outcome.append(load())
                        except Exception as error:  # any error of a loader is a reason to fall back
                            outcome.append(LibraryError(f"{error}"))
                            text = f"{error}; {where}FastLSTM runs as keras.layers.LSTM"
                            warnings.warn(text, LstmFastWarning, stacklevel=3)
            if isinstance(outcome[0], LibraryError):
                raise LibraryError(str(outcome[0]))
            return outcome[0]

        return loaded

    return decorate


def check_library(path: pathlib.Path) -> None:
    """Raises LibraryError if `path` is missing or cut off: mapping such a file would kill the process (SIGBUS)."""
    if not path.exists():
        raise LibraryError(f"{path} is missing: {_ADVICE}")
    with path.open("rb") as file:
        header = file.read(64)
    if header[:6] != b"\x7fELF\x02\x01":  # not ELF, 64 bits, little-endian: dlopen itself refuses what it cannot read
        return
    size, needed = path.stat().st_size, 64
    if size >= 64:
        # Elf64_Ehdr: offset of the section headers, then their entry size and number. Linkers put them last.
        (offset,) = struct.unpack_from("<Q", header, 40)
        entry_size, entries = struct.unpack_from("<HH", header, 58)
        needed = offset + entry_size * entries
    if size < needed:
        raise LibraryError(f"{path} is cut off ({size} bytes, expected at least {needed}): reinstall lstm_fast")


def library_path(name: str) -> pathlib.Path:
    """Returns the path of a shared library of this package, checked by `check_library`."""
    path = _PACKAGE / name
    check_library(path)
    return path


@once()
def core() -> ModuleType:
    """Returns the compiled module `lstm_fast._core`; raises LibraryError if it cannot be loaded."""
    # The one of this Python: a build in place for another Python may lie beside it.
    suffix = ".dylib" if sys.platform == "darwin" else ".so"
    for name in (f"_core{importlib.machinery.EXTENSION_SUFFIXES[0]}", f"liblstm_fast{suffix}"):
        check_library(_PACKAGE / name)
    try:
        return importlib.import_module("lstm_fast._core")
    except ImportError as error:
        raise LibraryError(f"lstm_fast._core cannot be loaded ({error})") from error


@functools.cache
def cuda_state() -> str:
    """Returns for which GPUs the CUDA kernels were built, or why they were not; raises LibraryError as `core` does."""
    return str(core().build_info()["cuda"])


@functools.cache
def tensorflow_ops_state() -> str:
    """Returns for which TensorFlow its ops on GPUs were built, or why they were not, as `cuda_state` does."""
    return str(core().build_info()["tensorflow"])


def least_capability() -> tuple[int, int]:
    """Returns the lowest compute capability of a GPU that can run the CUDA kernels of this build."""
    architectures = re.findall(r"sm_(\d+)", cuda_state())
    return divmod(min(map(int, architectures), default=75), 10)  # the kernels cannot be compiled for less than 7.5


def cuda() -> ModuleType:
    """Returns the compiled module `lstm_fast._cuda`; raises LibraryError if it was not built or cannot be loaded."""
    if not cuda_state().startswith("built"):  # no fault, so no warning
        raise LibraryError(f"the CUDA kernels were {cuda_state()}")
    return _load_cuda()


@once("on a GPU, ")
def _load_cuda() -> ModuleType:
    modules = list(_PACKAGE.glob("_cuda.*.so"))
    if not modules:
        raise LibraryError(f"{_PACKAGE / '_cuda.*.so'} is missing: {_ADVICE}")
    for path in [*modules, _PACKAGE / "liblstm_fast_cuda.so"]:
        check_library(path)
    try:
        module = importlib.import_module("lstm_fast._cuda")
    except ImportError as error:
        raise LibraryError(f"lstm_fast._cuda cannot be loaded ({error})") from error
    share_skips()
    return module


def share_skips() -> None:
    """Tells the CUDA kernels, if they are loaded, what the CPU's have been told of timesteps that repeat."""
    with _sharing:
        if module := sys.modules.get("lstm_fast._cuda"):
            with contextlib.suppress(ValueError):  # a variable has a bad value: check_compiled says so
                module.set_skips(core().skips_repeats())


_sharing = fork_safe_lock()
