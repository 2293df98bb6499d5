"""The compiled CUDA libraries, if they were built: their content, and their behaviour without a GPU."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import lstm_fast
from lstm_fast.backends import DTYPES, LibraryError, cuda, cuda_state, tensorflow_ops_state

PACKAGE = Path(lstm_fast.__file__).parent
ABSENT = [0]  # an array, for the one direction


@pytest.fixture(scope="module")
def module() -> ModuleType:
    if not cuda_state().startswith("built"):
        pytest.skip(cuda_state())
    return cuda()


def run(program: str, *arguments: object) -> str:
    if (path := shutil.which(program)) is None:
        pytest.skip(f"{program} is not installed")
    command = [path, *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_it_says_why_it_is_not_built(recwarn: pytest.WarningsRecorder) -> None:
    if cuda_state().startswith("built"):
        pytest.skip("it is")
    assert not list(PACKAGE.glob("*cuda*.so"))
    with pytest.raises(LibraryError, match="the CUDA kernels were not built: "):
        cuda()
    assert not recwarn.list


@pytest.mark.fast
def test_build_info(module: ModuleType) -> None:
    info = module.build_info()
    assert info["emulated"] is False
    assert cuda_state() == f"built for {info['architectures']}"
    assert re.fullmatch(r"\d+\.\d+\.\d+", info["nvcc"])
    assert module.__version__ == lstm_fast.__version__


@pytest.fixture(scope="module")
def tensorflow_ops(module: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The library of TensorFlow's ops: that of the build, or the one that is compiled when first needed."""
    del module
    pytest.importorskip("tensorflow")
    from lstm_fast.backends import tensorflow_build, tensorflow_cuda

    path = PACKAGE / "_tensorflow_gpu.so"
    assert path.exists() == tensorflow_ops_state().startswith("built")
    if path.exists():
        yield path
        return
    if not (os.environ.get("CXX") or any(map(shutil.which, tensorflow_build.COMPILERS))):
        pytest.skip("no C++ compiler")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("LSTM_FAST_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield tensorflow_build.library(tensorflow_cuda._recipe())


@pytest.fixture(params=["liblstm_fast_cuda.so", "_cuda", "tensorflow_ops"])
def library(request: pytest.FixtureRequest, module: ModuleType) -> Path:
    if request.param == "_cuda":
        return Path(str(module.__file__))
    if request.param == "tensorflow_ops":
        return request.getfixturevalue("tensorflow_ops")
    return PACKAGE / request.param


def test_nothing_of_cuda_is_left_to_others(library: Path) -> None:
    """Otherwise it would not load without a driver, or would use the stand-ins that TensorFlow's library exports."""
    undefined = run("nm", "-D", "--undefined-only", library).split()
    assert [name for name in undefined if re.match(r"_*cu(da|dart|pti|blas|[A-Z])", name)] == []
    needed = re.findall(r"NEEDED\s+(\S+)", run("objdump", "-p", library))
    kernels = [] if library.name == "liblstm_fast_cuda.so" else ["liblstm_fast_cuda.so"]
    assert [name for name in needed if "cuda" in name or "lstm_fast" in name] == kernels


def test_exports(library: Path) -> None:
    exported = [line.split()[-1] for line in run("nm", "-D", "--defined-only", library).splitlines()]
    if library.name == "liblstm_fast_cuda.so":
        assert [name for name in exported if "N9lstm_fast" not in name] == []
        assert len(exported) < 40
    else:
        assert exported == (["PyInit__cuda"] if library.name.startswith("_cuda") else [])


def test_it_has_code_for_the_architectures_that_it_names(module: ModuleType) -> None:
    kernels = PACKAGE / "liblstm_fast_cuda.so"
    found = set(re.findall(r"sm_\d+[a-z]?", run("cuobjdump", "--list-elf", kernels)))
    assert found == set(module.build_info()["architectures"].split(", "))
    assert re.search(r"sm_\d+\.ptx", run("cuobjdump", "--list-ptx", kernels))


def test_tensorflow_has_kernels_for_every_dtype(tensorflow_ops: Path) -> None:
    import tensorflow as tf
    from tensorflow.python.framework import kernels

    from lstm_fast.backends import tensorflow_cuda

    loaded, state = tensorflow_cuda._load()
    assert loaded is not None, state
    release = f"for TensorFlow {tf.__version__}"
    assert state in (f"built {release}", f"compiled {release} when first used: {tensorflow_ops}")
    for name in ("LstmFastCudaForward", "LstmFastCudaBackward"):
        registered = kernels.get_registered_kernels_for_op(name).kernel
        assert {kernel.device_type for kernel in registered} == {"GPU"}
        types = {kernel.constraint[0].allowed_values.list.type[0] for kernel in registered}
        assert types == {tf.as_dtype(dtype).as_datatype_enum for dtype in DTYPES}


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
