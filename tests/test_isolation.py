"""Code for one instruction set must not replace code for another: the symbols of the compiled objects."""

import shutil
import subprocess
from pathlib import Path

import pytest

import lstm_fast
from lstm_fast.backends import core

PACKAGE = Path(lstm_fast.__file__).parent
BUILD = PACKAGE.parent / "build"


def symbols(file: Path, *options: str) -> list[tuple[str, str]]:
    """Kind and name of every symbol that `nm` lists."""
    if shutil.which("nm") is None:
        pytest.skip("nm is not installed (binutils)")
    listing = subprocess.run(["nm", "-C", *options, file], check=True, capture_output=True, text=True).stdout
    return [(kind, name) for _, kind, name in (line.split(maxsplit=2) for line in listing.splitlines())]


@pytest.mark.parametrize("isa", ["generic", "avx2", "avx512", "neon"])
def test_kernels_share_no_inline_code(isa):
    """The linker keeps one copy of a weak symbol, perhaps one for a newer processor."""
    # Only the objects of the package: native tests are built beside it, with sanitizers.
    objects = sorted(BUILD.glob(f"cmake-*/**/{isa}.cc.o"), key=lambda file: file.stat().st_mtime)
    if not objects:
        pytest.skip(f"no {isa}.cc.o under {BUILD}: build in place (pip install -e .)")
    defined = symbols(objects[-1], "--defined-only", "--extern-only")
    assert [name for kind, name in defined if kind in "VWvwu"] == []
    assert [name for kind, name in defined if kind not in "VWvwu"] == [f"lstm_fast::k{isa.capitalize()}Isa"]


@pytest.mark.fast
def test_library_exports_its_interface_only():
    exported = [name for _, name in symbols(PACKAGE / "liblstm_fast.so", "-D", "--defined-only")]
    assert exported
    assert [name for name in exported if "lstm_fast::" not in name] == []


def test_bindings_export_their_entry_only():
    """Other libraries in the process would share exported copies of the standard library's templates."""
    assert [name for _, name in symbols(Path(str(core().__file__)), "-D", "--defined-only")] == ["PyInit__core"]
    assert symbols(PACKAGE / "_tensorflow_cpu.so", "-D", "--defined-only") == []
