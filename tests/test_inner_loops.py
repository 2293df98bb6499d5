"""No sum of a register tile goes to the stack and back, with every compiler that is installed."""

import platform
import re
import shutil
import subprocess
from pathlib import Path

import inner_loops
import pytest

import lstm_fast
from lstm_fast.backends import core

LIBRARY = Path(lstm_fast.__file__).parent / "liblstm_fast.so"
KERNELS = Path(__file__).parents[1] / "csrc" / "cpu"
CROSS = "aarch64-linux-gnu-"

# By compiler: the command, and the options that CMakeLists.txt gives it for NEON only.
COMPILERS = {
    "gcc": {"x86-64": ["g++"], "aarch64": [f"{CROSS}g++", "-fno-schedule-insns"]},
    "clang": {"x86-64": ["clang++"], "aarch64": ["clang++", "--target=aarch64-linux-gnu"]},
}
OPTIONS = {
    "avx2": ("x86-64", ["-mavx2", "-mfma"]),
    "avx512": ("x86-64", ["-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mfma"]),
    "neon": ("aarch64", []),
}
# Instead of the kernels: a single tile, which compiles in a second.
TILE = """
#include "cpu/product.inl"
namespace lstm_fast {
template <class Real, bool kPerGate>
void Tile(const Real* const* rows, int64_t gate_stride, int64_t length, const Real* panel, Real* to) {
  const Real* left[kMicroRows];
  Vector<Real> sums[kMicroRows][4];
  LSTM_FAST_UNROLL
  for (int i = 0; i < kMicroRows; ++i) {
    left[i] = rows[i];
    LSTM_FAST_UNROLL
    for (int v = 0; v < 4; ++v) sums[i][v] = Load(to + (i * 4 + v) * kLanes<Real>);
  }
  MultiplyPanel<Real, kMicroRows, 4, 1, kPerGate>(left, gate_stride, {1, length, 0, 0, 4 * kLanes<Real>}, panel, sums);
  LSTM_FAST_UNROLL
  for (int i = 0; i < kMicroRows; ++i) {
    LSTM_FAST_UNROLL
    for (int v = 0; v < 4; ++v) Store(to + (i * 4 + v) * kLanes<Real>, sums[i][v]);
  }
}
template void Tile<float, false>(const float* const*, int64_t, int64_t, const float*, float*);
template void Tile<float, true>(const float* const*, int64_t, int64_t, const float*, float*);
template void Tile<double, false>(const double* const*, int64_t, int64_t, const double*, double*);
template void Tile<double, true>(const double* const*, int64_t, int64_t, const double*, double*);
}  // namespace lstm_fast
"""


def needs(program: str) -> str:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    return program


def tile(isa: str, compiler: str, folder: Path, rows: int = 0) -> list[inner_loops.Loop]:
    """The inner loops of a single compiled tile of an instruction set; `rows` is its number of rows."""
    target, options = OPTIONS[isa]
    prefix = CROSS if target == "aarch64" and platform.machine() != "aarch64" else ""
    command, *own = COMPILERS[compiler][target]
    if not prefix:
        command = command.removeprefix(CROSS)
        own = [option for option in own if not option.startswith("--target")]
    needs(command)
    objdump = needs(f"{prefix}objdump")
    text = (KERNELS / f"{isa}.cc").read_text(encoding="utf-8").replace('#include "cpu/kernel.inl"', TILE)
    if rows:
        text, changed = re.subn(r"(#define LSTM_FAST_MICRO_ROWS) \d+", rf"\1 {rows}", text)
        assert changed == 1
    source, compiled = folder / f"{isa}.cc", folder / f"{isa}.o"
    source.write_text(text, encoding="utf-8")
    include = [f"-I{KERNELS.parent}", f"-I{KERNELS.parent / 'include'}"]
    flags = ["-O3", "-std=c++17", "-fPIC", "-ffp-contract=off", "-Wno-psabi", *include, *options, *own]
    run = subprocess.run([command, *flags, "-c", source, "-o", compiled], capture_output=True, text=True, check=False)
    if run.returncode and "file not found" in run.stderr:
        pytest.skip(f"{command} lacks the headers for {target}")
    assert run.returncode == 0, run.stderr
    return list(inner_loops.loops(compiled, objdump))


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("isa", OPTIONS)
def test_a_tile_fits_the_registers(isa: str, compiler: str, tmp_path: Path) -> None:
    found = tile(isa, compiler, tmp_path)
    assert len(found) >= 4
    assert inner_loops.too_many(found, 0) == []


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("isa", OPTIONS)
def test_a_tile_that_does_not_fit_is_found(isa: str, compiler: str, tmp_path: Path) -> None:
    found = tile(isa, compiler, tmp_path, rows=9 if isa != "avx2" else 5)
    assert inner_loops.too_many(found, inner_loops.MOST[OPTIONS[isa][0]])


def test_the_library_that_runs() -> None:
    if core().build_info()["build_type"] != "Release":
        pytest.skip("the library is not optimized")
    objdump = needs("objdump")
    try:
        target = inner_loops.architecture(LIBRARY, objdump)
    except ValueError as error:
        pytest.skip(str(error))
    found = list(inner_loops.loops(LIBRARY, objdump))
    if not any("CallRegisterTile" in loop.function for loop in found):
        pytest.skip("the library has no symbols of its functions: build in place (pip install -e .)")
    assert inner_loops.too_many(found, inner_loops.MOST[target]) == []
