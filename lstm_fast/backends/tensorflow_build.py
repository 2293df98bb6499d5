"""A library of TensorFlow ops that is compiled when it is first needed, and stored for all later processes.

TensorFlow's C++ interface changes with each release, and often TensorFlow is installed after this package was built. So
the package contains the sources of its ops on GPUs. TensorFlow's own headers and a C++ compiler make a library of them
in seconds. That needs no nvcc: the kernels that the ops call are compiled already.
"""

import contextlib
import fcntl
import hashlib
import logging
import os
import platform
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TextIO

from lstm_fast.backends import LibraryError, check_library
from lstm_fast.settings import config

COMPILERS = ("c++", "g++", "clang++")

# It should take seconds: a compiler that takes longer than this hangs.
_COMPILE_SECONDS = 600.0
_WAIT_SECONDS = 2 * _COMPILE_SECONDS

_FLAGS = ("-shared", "-fPIC", "-O2", "-DNDEBUG", "-fvisibility=hidden", "-Wfatal-errors")

logger = logging.getLogger("lstm_fast")


class Recipe(NamedTuple):
    """The sources and the flags of a library, and the TensorFlow that it is for."""

    sources: Path  # a folder: every *.cc in it is compiled, `module.map` says what is exported
    kernels: Path  # the library that the ops call
    package: str  # version of this package
    release: str  # version of TensorFlow
    compile_flags: Sequence[str]  # of tf.sysconfig
    link_flags: Sequence[str]  # of tf.sysconfig

    def name(self) -> str:
        """Returns a file name that no other recipe has; raises LibraryError if there are no sources."""
        files = [path for path in sorted(self.sources.rglob("*")) if path.is_file()]
        if not files:
            raise LibraryError(f"{self.sources} is missing: reinstall lstm_fast")
        # Folders are left out: environments with the same releases share a library, which finds its kernels by name.
        flags = [flag for flag in (*_FLAGS, *self.compile_flags) if not flag.startswith(("-I", "-isystem"))]
        interpreter = (sys.implementation.cache_tag, platform.machine())
        parts = [self.package, self.release, self.kernels.name, *map(str, interpreter), *flags]
        for path in files:
            parts += [path.relative_to(self.sources).as_posix(), path.read_text(encoding="utf-8")]
        digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()
        return f"tensorflow_gpu-{self.release}-{digest[:16]}.so"

    def command(self, target: Path) -> list[str]:
        """Returns the call of the compiler that makes `target`; raises LibraryError if there is no compiler."""
        return [
            *(*_compiler(), *_FLAGS, *self.compile_flags),
            *(f"-I{self.sources}", f"-I{self.sources / 'include'}", "-o", str(target)),
            *map(str, sorted(self.sources.rglob("*.cc"))),
            # TensorFlow's library comes last: it exports stand-ins for the CUDA runtime, and the ops must not use them.
            *(str(self.kernels), *self.link_flags),
            *(f"-Wl,--version-script={self.sources / 'module.map'}", "-Wl,--no-undefined"),
        ]


def library(recipe: Recipe) -> Path:
    """Returns the path of the library of a recipe. It is compiled if no process of this user has done so before.

    Raises:
        LibraryError: It cannot be compiled. The message says why, and what to do.
    """
    name, problem = recipe.name(), ""
    for folder in _folders():
        path = folder / name
        try:
            if _is_sound(path):
                return path
            _make(folder)
            with _locked(path.with_suffix(".lock")) as alone:
                if not _is_sound(path):
                    if alone:
                        _remove_unfinished(path)
                    _compile(recipe, path)
            return path
        except OSError as error:
            problem = f"{folder} cannot be used: {error.strerror or error}"
    raise LibraryError(f"{problem}; set LSTM_FAST_CACHE to a folder that can be written")


def _folders() -> Iterator[Path]:
    """Yields the folders to try, best first."""
    if config.cache:
        yield config.cache
        return
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    if cache.is_absolute():  # else there is no home
        yield cache / "lstm_fast"
    yield _temporary_folder()


def _temporary_folder() -> Path:
    return Path(tempfile.gettempdir()) / f"lstm_fast-{os.getuid()}"


def _make(folder: Path) -> None:
    if folder == _temporary_folder():
        folder.mkdir(mode=0o700, exist_ok=True)
        _check_owner(folder)
    else:
        folder.mkdir(parents=True, exist_ok=True)


def _check_owner(folder: Path) -> None:
    """Raises PermissionError if another user may have put a library into the folder. Its name is easy to guess."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise PermissionError("it is not this user's alone")


def _is_sound(path: Path) -> bool:
    if not path.exists():
        return False
    if path.parent == _temporary_folder():
        _check_owner(path.parent)
    try:
        check_library(path)
    except LibraryError:  # cut off: the disk was full, or the machine was switched off
        return False
    return True


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Waits for other processes that compile the same. Yields False if the file system has no locks."""
    with path.open("a") as file:
        locks = _lock(file)
        try:
            yield locks
        finally:
            if locks:
                fcntl.flock(file, fcntl.LOCK_UN)  # a child that was forked meanwhile keeps the file open


def _lock(file: TextIO) -> bool:
    until = time.monotonic() + _WAIT_SECONDS
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > until:
                minutes = f"{_WAIT_SECONDS / 60:.0f} minutes"
                raise LibraryError(f"another process has been compiling it for {minutes}: {file.name}") from None
            time.sleep(0.05)
        except OSError:
            return False


def _remove_unfinished(path: Path) -> None:
    """Removes the files of processes that were killed while they compiled."""
    for left in path.parent.glob(f"{path.stem}.*.tmp"):
        shutil.rmtree(left, ignore_errors=True)


def _compile(recipe: Recipe, path: Path) -> None:
    """Compiles the library and then moves it into place, so that no other process finds a part of it."""
    with tempfile.TemporaryDirectory(prefix=f"{path.stem}.", suffix=".tmp", dir=path.parent) as folder:
        unfinished = Path(folder) / path.name
        command = recipe.command(unfinished)
        logger.warning(
            "TensorFlow's ops on GPUs are compiled for TensorFlow %s. It takes some seconds, this once: %s",
            recipe.release,
            path,
        )
        try:
            done = subprocess.run(
                command,
                env={**os.environ, "LC_ALL": "C", "TMPDIR": folder},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                errors="replace",
                timeout=_COMPILE_SECONDS,
                check=False,
            )
        except OSError as error:
            raise LibraryError(f"the C++ compiler {command[0]} cannot be run: {error.strerror}") from error
        except subprocess.TimeoutExpired as error:
            raise LibraryError(f"the C++ compiler {command[0]} took more than {error.timeout:g} s") from error
        log = path.with_suffix(".log")
        if done.returncode or not unfinished.exists():
            log.write_text(f"{shlex.join(command)}\n{done.stdout}", encoding="utf-8")
            raise LibraryError(
                f"the C++ compiler {command[0]} failed ({_first_error(done.stdout, done.returncode)}): see {log}"
            )
        log.unlink(missing_ok=True)
        unfinished.replace(path)


def _compiler() -> list[str]:
    if chosen := os.environ.get("CXX"):
        return shlex.split(chosen)
    for name in COMPILERS:
        if found := shutil.which(name):
            return [found]
    raise LibraryError(
        f"no C++ compiler was found ({', '.join(COMPILERS)}, or the variable CXX): install one, such as apt install g++"
    )


def _first_error(output: str, code: int) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line), lines[-1] if lines else f"exit status {code}")
