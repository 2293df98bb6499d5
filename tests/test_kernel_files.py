"""The files of the kernels for the CPU: each can be read alone, and csrc/README.md lists them all."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[1] / "csrc"
KERNELS = sorted((CSRC / "cpu").glob("*.inl"))


@pytest.mark.parametrize("file", KERNELS, ids=lambda file: file.stem)
def test_a_file_includes_what_it_needs(file: Path) -> None:
    """As an editor reads it, without a file that defines the vectors."""
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    # The table of functions is all that uses what only an instruction set's file defines.
    strict = [] if file.name == "kernel.inl" else ["-Wall", "-Wextra", "-Werror"]
    flags = ["-fsyntax-only", "-std=c++17", "-Wno-unknown-pragmas", "-Wno-psabi", f"-I{CSRC}", f"-I{CSRC / 'include'}"]
    run = subprocess.run(["g++", *flags, *strict, "-x", "c++", file], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


@pytest.mark.fast
def test_the_list_of_files_is_complete() -> None:
    listed = set(re.findall(r"`(\w[\w.]*)`", (CSRC / "README.md").read_text(encoding="utf-8").partition("## Words")[0]))
    names = {file.name if file.suffix == ".inl" else file.stem for file in (CSRC / "cpu").iterdir()}
    names -= {"generic", "avx2", "avx512", "neon", "kernel"}
    assert sorted(names - listed) == []
    assert sorted(name for name in listed if name.endswith(".inl") and name not in names) == []
