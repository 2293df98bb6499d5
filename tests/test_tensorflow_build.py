"""TensorFlow's ops on GPUs are compiled when they are first needed: here mostly by a script instead of a compiler.

A real compiler with TensorFlow's headers is in test_cuda_build.py, and for the emulated device in emulated.py.
"""

import errno
import fcntl
import logging
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import emulated
import pytest

import lstm_fast
from lstm_fast import diagnosis
from lstm_fast.backends import LibraryError, check_library, once, tensorflow_build
from lstm_fast.backends.tensorflow_build import Recipe

pytest.importorskip("tensorflow")

from lstm_fast.backends import tensorflow as backend
from lstm_fast.backends import tensorflow_cuda

PACKAGE = Path(lstm_fast.__file__).parent

# It is slow, so that two of them would run at the same time.
COMPILER = """#!/bin/sh
echo called >> "{calls}"
while [ "$1" != -o ]; do shift; done
sleep 0.3
echo library > "$2"
"""
# Another process, which imports no framework.
PROCESS = f"""
import pathlib, sys, types
package = types.ModuleType("lstm_fast")
package.__path__ = [{str(PACKAGE)!r}]
sys.modules["lstm_fast"] = package
from lstm_fast.backends import tensorflow_build
sources, kernels, *rest = sys.argv[1:]
paths = pathlib.Path(sources), pathlib.Path(kernels)
print(tensorflow_build.library(tensorflow_build.Recipe(*paths, *rest, [], [])))
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    sources = tmp_path / "sources"
    sources.mkdir()
    (sources / "ops.cc").write_text("int op() { return 1; }\n")
    return Recipe(sources, tmp_path / "libkernels.so", "0.1.0", "2.21.0", [], [])


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The lines that the compiler has written, one for each call."""
    file = tmp_path / "calls"
    pretend(COMPILER.format(calls=file), tmp_path, monkeypatch)
    return file


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("LSTM_FAST_CACHE", str(folder))
    return folder


def pretend(script: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts a script in the place of the C++ compiler."""
    compiler = folder / "compiler"
    compiler.write_text(script)
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))


def count(calls: Path) -> int:
    return len(calls.read_text().splitlines())


def start(recipe: Recipe, **environment: str) -> "subprocess.Popen[str]":
    arguments = [str(recipe.sources), str(recipe.kernels), recipe.package, recipe.release]
    return subprocess.Popen(
        [sys.executable, "-c", PROCESS, *arguments],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


# First need, and after


def test_it_is_compiled_once_and_found_by_other_processes(
    recipe: Recipe, calls: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tensorflow_build.library(recipe)
    assert (path.parent, path.read_text()) == (cache, "library\n")
    assert tensorflow_build.library(recipe) == path
    (said,) = caplog.records
    assert said.levelno == logging.WARNING
    assert said.getMessage().startswith("TensorFlow's ops on GPUs are compiled for TensorFlow 2.21.0.")
    found, errors = start(recipe, CXX="/none").communicate(timeout=60)
    assert found == f"{path}\n", errors
    assert count(calls) == 1
    assert sorted(file.suffix for file in cache.iterdir()) == [".lock", ".so"]


def test_two_processes_at_once_compile_once(recipe: Recipe, calls: Path, cache: Path) -> None:
    found = [process.communicate(timeout=60) for process in [start(recipe) for _ in range(2)]]
    assert {output for output, _ in found} == {f"{cache / recipe.name()}\n"}, found
    assert count(calls) == 1
    assert sum("are compiled for TensorFlow" in errors for _, errors in found) == 1


def test_where_there_are_no_locks_it_is_compiled_all_the_same(
    recipe: Recipe, calls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert tensorflow_build.library(recipe).exists()
    assert count(calls) == 1


def test_nobody_waits_for_ever(recipe: Recipe, calls: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorflow_build, "_WAIT_SECONDS", 0.1)
    cache.mkdir()
    with (cache / recipe.name()).with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(LibraryError, match=r"another process has been compiling it for .*\.lock"):
            tensorflow_build.library(recipe)
    assert tensorflow_build.library(recipe).exists()
    assert count(calls) == 1


def test_what_is_unfinished_or_cut_off_is_compiled_anew(recipe: Recipe, calls: Path, cache: Path) -> None:
    path = cache / recipe.name()
    left = cache / f"{path.stem}.killed.tmp"
    left.mkdir(parents=True)
    (left / path.name).write_text("half")
    path.write_bytes(b"\x7fELF\x02\x01" + bytes(20))
    assert tensorflow_build.library(recipe).read_text() == "library\n"
    assert count(calls) == 1
    assert not left.exists()


def test_what_it_depends_on_makes_another_library(recipe: Recipe) -> None:
    name = recipe.name()
    assert name.startswith("tensorflow_gpu-2.21.0-")
    same = [recipe._replace(compile_flags=["-I/elsewhere"]), recipe._replace(kernels=Path("/elsewhere/libkernels.so"))]
    assert {other.name() for other in same} == {name}
    others = [
        recipe._replace(release="2.21.1"),
        recipe._replace(package="0.1.1"),
        recipe._replace(compile_flags=["-D_GLIBCXX_USE_CXX11_ABI=0"]),
        recipe._replace(kernels=Path("libother.so")),
    ]
    names = [other.name() for other in others]
    (recipe.sources / "ops.cc").write_text("int op() { return 2; }\n")
    names.append(recipe.name())
    (recipe.sources / "ops.h").touch()
    names.append(recipe.name())
    assert len({name, *names}) == 7


# Where it cannot be compiled


def test_no_compiler(recipe: Recipe, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(
        LibraryError, match=r"no C\+\+ compiler was found \(c\+\+, g\+\+, clang\+\+, or the variable CXX"
    ):
        tensorflow_build.library(recipe)
    monkeypatch.setenv("CXX", "/none/c++ -m64")
    with pytest.raises(LibraryError, match=r"the C\+\+ compiler /none/c\+\+ cannot be run: No such file"):
        tensorflow_build.library(recipe)
    assert [file.suffix for file in cache.iterdir()] == [".lock"]


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo ops.cc:3:1: note; echo 'ops.cc:4:1: fatal error: x.h: none' >&2; exit 1", r"ops.cc:4:1: fatal error: x"),
        ("exit 3", "exit status 3"),
        ("exit 0", "exit status 0"),  # and no library
    ],
)
def test_a_compiler_that_fails(
    script: str, message: str, recipe: Recipe, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(f"#!/bin/sh\n{script}\n", tmp_path, monkeypatch)
    with pytest.raises(LibraryError, match=rf"failed \({message}.*\): see {cache}/.*\.log"):
        tensorflow_build.library(recipe)
    (log,) = cache.glob("*.log")
    assert "ops.cc" in log.read_text()  # from the command
    pretend(COMPILER.format(calls=tmp_path / "calls"), tmp_path, monkeypatch)
    assert tensorflow_build.library(recipe).exists()
    assert not log.exists()


def test_a_compiler_that_hangs(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorflow_build, "_COMPILE_SECONDS", 0.1)
    pretend("#!/bin/sh\nexec sleep 60\n", tmp_path, monkeypatch)
    with pytest.raises(LibraryError, match=r"took more than 0\.1 s"):
        tensorflow_build.library(recipe)


def test_no_sources(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(LibraryError, match="none is missing: reinstall lstm_fast"):
        tensorflow_build.library(recipe._replace(sources=tmp_path / "none"))


# The folder


@pytest.fixture
def no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder that cannot be written, and the folder that is used instead."""
    monkeypatch.delenv("LSTM_FAST_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / f"lstm_fast-{os.getuid()}"


def test_it_is_in_the_home_folder(recipe: Recipe, calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LSTM_FAST_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert tensorflow_build.library(recipe).parent == tmp_path / "home" / ".cache" / "lstm_fast"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert tensorflow_build.library(recipe).parent == tmp_path / "xdg" / "lstm_fast"
    assert count(calls) == 2


def test_without_a_home_it_is_in_a_temporary_folder_of_the_user(recipe: Recipe, calls: Path, no_home: Path) -> None:
    path = tensorflow_build.library(recipe)
    assert path.parent == no_home
    assert no_home.stat().st_mode & 0o777 == 0o700
    assert tensorflow_build.library(recipe) == path
    assert count(calls) == 1


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.usefixtures("calls")
def test_what_others_may_have_put_there_is_not_loaded(
    recipe: Recipe, no_home: Path, tmp_path: Path, linked: bool
) -> None:
    folder = tmp_path / "theirs" if linked else no_home
    folder.mkdir()
    folder.chmod(0o777)
    if linked:
        no_home.symlink_to(folder)
    (folder / recipe.name()).write_text("harm")
    with pytest.raises(LibraryError, match=r"it is not this user's alone; set LSTM_FAST_CACHE to a folder that can be"):
        tensorflow_build.library(recipe)


def test_a_chosen_folder_is_the_only_one(
    recipe: Recipe, calls: Path, no_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LSTM_FAST_CACHE", "/dev/null/cache")
    with pytest.raises(LibraryError, match=r"/dev/null/cache cannot be used: Not a directory; set LSTM_FAST_CACHE"):
        tensorflow_build.library(recipe)
    assert not no_home.exists()
    assert not calls.exists()


# The package around it


@pytest.fixture
def needed(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU and its kernels, in a package that was built without the ops."""
    monkeypatch.setattr(backend, "gpus", lambda: ("/physical_device:GPU:0",))
    monkeypatch.setattr(tensorflow_cuda, "cuda", lambda: None)
    monkeypatch.setattr(tensorflow_cuda, "tensorflow_ops_state", lambda: "not built: because")
    monkeypatch.setattr(tensorflow_cuda, "_recipe", lambda: recipe)
    monkeypatch.setattr(tensorflow_cuda, "_load", once("on a GPU, ")(tensorflow_cuda._load.__wrapped__))


@pytest.mark.usefixtures("needed")
def test_status_says_where_it_is(calls: Path, cache: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorflow_cuda, "_ops_of", lambda path: path)
    found = lstm_fast.status().tensorflow_gpu
    assert found == f"compiled for TensorFlow {tensorflow_cuda.tf.__version__} when first used: {cache / recipe.name()}"
    assert count(calls) == 1


@pytest.mark.usefixtures("needed")
def test_status_says_why_it_is_not_there(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CXX", "false")
    for _ in range(2):
        status = lstm_fast.status()
        assert re.fullmatch(
            r"not built: because; the C\+\+ compiler false failed \(exit status 1\): see "
            rf"{cache}/\S+\.log; XLA calls the kernels, and compiles them anew for every shape; "
            "lstm-fast status tries again",
            status.tensorflow_gpu,
        )
        assert status.problems == ()
    _, said = caplog.records  # the compilation, and its failure
    assert said.getMessage() == f"TensorFlow's ops on GPUs: {status.tensorflow_gpu}"


@pytest.mark.usefixtures("needed", "calls")
def test_a_library_that_tensorflow_cannot_load(cache: Path) -> None:
    ops, state = tensorflow_cuda._load()
    assert ops is None
    assert re.search(rf"not built: because; {cache}/\S+: file too short; XLA calls the kernels", state)


@pytest.mark.usefixtures("needed")
def test_ops_that_were_built_for_another_release(calls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorflow_cuda, "tensorflow_ops_state", lambda: "built for TensorFlow 1.15.0")
    monkeypatch.setattr(tensorflow_cuda, "library_path", lambda _: pytest.fail("it is not for this release"))
    ops, state = tensorflow_cuda._load()
    assert (ops, count(calls)) == (None, 1)
    assert state.startswith(f"built for TensorFlow 1.15.0, this is {tensorflow_cuda.tf.__version__}; ")


@pytest.mark.usefixtures("needed")
def test_ops_that_were_built_and_are_damaged(calls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = f"built for TensorFlow {tensorflow_cuda.tf.__version__}"
    monkeypatch.setattr(tensorflow_cuda, "tensorflow_ops_state", lambda: state)
    monkeypatch.setattr(tensorflow_cuda, "library_path", lambda name: check_library(Path("/none", name)))
    ops, found = tensorflow_cuda._load()
    assert (ops, count(calls)) == (None, 1)
    assert found.startswith(f"{state}, but /none/_tensorflow_gpu.so is missing: reinstall lstm_fast; ")


@pytest.mark.usefixtures("needed")
def test_nothing_is_compiled_without_kernels(calls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise LibraryError("the CUDA kernels were not built: no nvcc")

    monkeypatch.setattr(tensorflow_cuda, "cuda", refuse)
    assert lstm_fast.status().tensorflow_gpu == "the CUDA kernels were not built: no nvcc"
    assert not calls.exists()


def test_status_where_there_is_no_gpu(calls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "tensorflow_ops_state", lambda: "not built: because")
    monkeypatch.setattr(diagnosis, "cuda_state", lambda: "built for sm_90")
    assert diagnosis._describe_tensorflow_gpu("tensorflow", ()) == (
        "not built: because; compiled when TensorFlow first needs them on a GPU"
    )
    monkeypatch.setattr(diagnosis, "cuda_state", lambda: "not built: no nvcc")
    assert diagnosis._describe_tensorflow_gpu("tensorflow", ()) == "not built: because"
    assert not calls.exists()


def test_all_that_the_sources_include_is_installed(tmp_path: Path) -> None:
    folder = emulated.install_tensorflow_sources(tmp_path)
    for path in (file for file in folder.rglob("*") if file.suffix in (".cc", ".h")):
        for name in re.findall(r'#include "((?:bindings|cuda|lstm_fast)/.*?)"', path.read_text(encoding="utf-8")):
            assert (folder / name).exists() or (folder / "include" / name).exists(), f"{path.name}: {name}"
