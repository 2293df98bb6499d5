"""The compiled CUDA module itself, where it was built: what is in it, and how it behaves where there is no GPU."""

import re
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

import lstm_fast
from lstm_fast.backends import LibraryError, cuda, cuda_state

PACKAGE = Path(lstm_fast.__file__).parent
ABSENT = [0]  # an array, for the one direction


@pytest.fixture(scope="module")
def module() -> ModuleType:
    if not cuda_state().startswith("built"):
        pytest.skip(cuda_state())
    return cuda()


@pytest.fixture(scope="module")
def library(module: ModuleType) -> Path:
    return Path(str(module.__file__))


def run(program: str, *arguments: object) -> str:
    if (path := shutil.which(program)) is None:
        pytest.skip(f"{program} is not installed")
    command = [path, *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_it_says_why_it_is_not_built(recwarn: pytest.WarningsRecorder) -> None:
    if cuda_state().startswith("built"):
        pytest.skip("it is")
    assert not list(PACKAGE.glob("_cuda*.so"))
    with pytest.raises(LibraryError, match="the CUDA kernels were not built: "):
        cuda()
    assert not recwarn.list


def test_build_info(module: ModuleType) -> None:
    info = module.build_info()
    assert info["emulated"] is False
    assert cuda_state() == f"built for {info['architectures']}"
    assert re.fullmatch(r"\d+\.\d+\.\d+", info["nvcc"])
    assert module.__version__ == lstm_fast.__version__


def test_it_needs_no_library_of_cuda(library: Path) -> None:
    """Else it would not load where there is no driver, or bind to the stubs that frameworks export."""
    undefined = run("nm", "-D", "--undefined-only", library).split()
    assert [name for name in undefined if re.match(r"_*cu(da|dart|pti|blas|[A-Z])", name)] == []
    needed = re.findall(r"NEEDED\s+(\S+)", run("objdump", "-p", library))
    assert needed
    assert [name for name in needed if "cuda" in name or "lstm_fast" in name] == []


def test_it_exports_its_entry_only(library: Path) -> None:
    exported = [line.split()[-1] for line in run("nm", "-D", "--defined-only", library).splitlines()]
    assert exported == ["PyInit__cuda"]


def test_it_has_code_for_the_architectures_that_it_names(module: ModuleType, library: Path) -> None:
    found = set(re.findall(r"sm_\d+[a-z]?", run("cuobjdump", "--list-elf", library)))
    assert found == set(module.build_info()["architectures"].split(", "))
    assert re.search(r"sm_\d+\.ptx", run("cuobjdump", "--list-ptx", library))


def test_variants_serve_every_dtype(module: ModuleType) -> None:
    served = {(variant["dtype"], variant["precision"], variant["dropout"]) for variant in module.variants()}
    for dtype, precision in (
        *(("float32", precision) for precision in ("exact", "tf32", "tf32x3")),
        *((dtype, "exact") for dtype in ("float64", "float16", "bfloat16")),
    ):
        assert {(dtype, precision, False), (dtype, precision, True)} <= served
    names = [variant["name"] for variant in module.variants()]
    assert len(set(names)) == len(names)


def test_without_a_device_calls_say_so(module: ModuleType) -> None:
    if module.devices():
        pytest.skip("there is one")
    problem = ("float32", "exact", 2, 3, 4)
    options = (False, True, False)
    message = "lstm_fast: there is no CUDA device"
    inputs = (*[ABSENT] * 5,)
    before = module.fused_calls()
    for call in (
        lambda: module.forward(0, 0, *problem, *options, 0, 0, *inputs, 0, ABSENT, ABSENT, 0, 0, 0, 0),
        lambda: module.backward(
            0, 0, *problem, *options, 0, *inputs, 0, 0, 0, ABSENT, ABSENT, 0, 0, ABSENT, ABSENT, 0, 0
        ),
        lambda: module.scratch_bytes(0, *problem, 1, False, False),
        lambda: module.describe(0, "float32", "exact", 2, 4, 1, False),
    ):
        with pytest.raises(RuntimeError, match=message):
            call()
    assert module.fused_calls() == before
    assert isinstance(module.device_problem(), str)
