"""status(), and how libraries are checked before they are loaded."""

import dataclasses
import gc
import json
import os
import pathlib
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
import tolerances

import lstm_fast
from lstm_fast import _core, diagnosis
from lstm_fast.backends import FRAMEWORKS, LibraryError, check_library

pytestmark = pytest.mark.backends("tensorflow", "jax", "torch")
BACKEND = keras.backend.backend()

PACKAGE = pathlib.Path(lstm_fast.__file__).parent
CORE = pathlib.Path(_core.__file__).name


def run_python(script: str, folder: pathlib.Path, **environment: str) -> str:
    """Runs a script with `folder` first on the path of modules."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("LSTM_FAST_")}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**inherited, "PYTHONPATH": os.pathsep.join([str(folder), inherited.get("PYTHONPATH", "")]), **environment},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def copied_package(tmp_path: pathlib.Path) -> pathlib.Path:
    """A copy of the installed package, to be damaged."""
    return shutil.copytree(PACKAGE, tmp_path / "lstm_fast", ignore=shutil.ignore_patterns("__pycache__"))


@pytest.mark.fast
def test_status_of_a_sound_installation() -> None:
    status = lstm_fast.status()
    assert status.problems == ()
    assert status.version == lstm_fast.__version__
    assert status.isa == _core.isa()
    assert status.isa in status.available_isas
    assert set(status.available_isas) <= set(status.compiled_isas)
    assert status.threads == _core.threads()
    assert f"{status.threads} ({_core.threads_source()})" in str(status)
    assert status.kept_bytes is not None
    assert 0 <= status.kept_bytes[0] <= status.kept_bytes[1] == _core.kept_bytes_limit()
    assert status.keras_backend == BACKEND
    assert status.libraries.keys() == set(FRAMEWORKS)
    assert status.libraries[BACKEND] == "loaded"
    assert status.cuda.startswith(("built for sm_", "not built: "))
    assert status.cuda_devices == ()
    assert status.gpus == ()
    assert status.environment["LSTM_FAST_KERNEL"] == "fused"
    assert status.fused_calls.keys() == {"forward", "backward"}
    with pytest.raises(dataclasses.FrozenInstanceError):
        status.isa = "mine"


@pytest.mark.fast
def test_status_as_text_and_as_json() -> None:
    status = lstm_fast.status()
    text = str(status)
    for part in (
        status.version,
        ", ".join(_core.compiled_isas()),
        "threads",
        "of at most 512 MiB",
        f"{BACKEND}: loaded",
        status.cuda,
        "LSTM_FAST_KERNEL=fused",
        "problems",
    ):
        assert part in text
    assert json.loads(json.dumps(status.as_dict()))["isa"] == status.isa


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"LSTM_FAST_NUM_THREADS": "3", "OMP_NUM_THREADS": "5"}, (3, "LSTM_FAST_NUM_THREADS")),
        ({"OMP_NUM_THREADS": "5"}, (5, "OMP_NUM_THREADS")),
        ({"OMP_NUM_THREADS": "4,2"}, (4, "OMP_NUM_THREADS")),
        ({"OMP_NUM_THREADS": "many"}, None),
    ],
)
def test_what_decides_the_number_of_threads(
    variables: dict[str, str], expected: tuple[int, str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LSTM_FAST_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    _core.set_threads(None)  # as at the start
    found = _core.threads(), _core.threads_source()
    monkeypatch.undo()
    _core.set_threads(None)
    if expected is None:
        assert found[1] in ("processors", "CPU quota")
    else:
        assert found == expected


class Cuda:
    """The part of `lstm_fast._cuda` that status() uses, with two devices. One of them is too old."""

    problem = ""

    def device_problem(self) -> str:
        return self.problem

    def devices(self) -> list[dict[str, object]]:
        return [] if self.problem else [{"capability": (9, 0)}, {"capability": (5, 2)}]

    def describe(self, device: int, *_: object) -> dict[str, dict[str, str]]:
        if device == 1:
            raise ValueError("no CUDA kernel runs")
        return {"forward": {"words": "forward: in one block"}, "backward": {"words": "backward: in a cluster"}}


def test_status_of_cuda(monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder) -> None:
    gc.collect()  # objects of other tests may warn while they are collected
    recwarn.clear()
    module = Cuda()
    monkeypatch.setattr(diagnosis, "cuda_state", lambda: "built for sm_80, sm_90")
    monkeypatch.setattr(diagnosis, "cuda", lambda: module)
    status = lstm_fast.status()
    assert status.cuda == "built for sm_80, sm_90"
    assert status.cuda_devices == (
        "cuda:0 of compute capability 9.0; forward: in one block; backward: in a cluster",
        "cuda:1 of compute capability 5.2; no CUDA kernel runs",
    )
    assert f"cuda devices     {status.cuda_devices[0]}\n" in str(status)

    module.problem = "no CUDA driver is installed"
    status = lstm_fast.status()
    assert status.cuda == "built for sm_80, sm_90; no device can be used: no CUDA driver is installed"
    assert status.cuda_devices == ()

    def refuse() -> None:
        raise LibraryError("lstm_fast._cuda cannot be loaded (why)")

    monkeypatch.setattr(diagnosis, "cuda", refuse)
    assert lstm_fast.status().cuda == "lstm_fast._cuda cannot be loaded (why)"

    monkeypatch.setattr(diagnosis, "cuda_state", lambda: "not built: no nvcc was found")
    status = lstm_fast.status()
    assert (status.cuda, status.problems) == ("not built: no nvcc was found", ())
    assert not [str(warning.message) for warning in recwarn.list]


def test_a_damaged_cuda_module_spoils_nothing_else(copied_package: pathlib.Path) -> None:
    script = """
import warnings
import numpy as np, lstm_fast
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    lstm_fast.FastLSTM(2)(np.ones((1, 1, 1), np.float32))
    status = lstm_fast.status()
said = [str(warning.message) for warning in caught if issubclass(warning.category, lstm_fast.LstmFastWarning)]
assert all(text.endswith("; on a GPU, FastLSTM runs as keras.layers.LSTM") for text in said), said
assert len(said) == status.cuda.startswith("lstm_fast._cuda"), (said, status.cuda)
assert status.problems == () and status.fused_calls["forward"] == 1, status
print(status.cuda)
"""
    for library in copied_package.glob("_cuda.*.so"):
        library.write_bytes(b"damaged")
    assert run_python(script, copied_package.parent).startswith(("not built: ", "lstm_fast._cuda cannot be loaded"))


def test_fused_calls_are_counted() -> None:
    before = lstm_fast.status().fused_calls
    lstm_fast.FastLSTM(2)(np.ones((1, 1, 1), np.float32))
    assert lstm_fast.status().fused_calls == {**before, "forward": before["forward"] + 1}


def test_fallbacks_name_their_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LSTM_FAST_KERNEL", "auto")
    before = lstm_fast.status()

    def fall_back(*names: str) -> str:
        for name in names:
            lstm_fast.FastLSTM(2, activation="softsign", name=name)(np.ones((1, 2, 3), np.float32))
        status = lstm_fast.status()
        (reason,) = status.new_fallbacks(before)
        assert f"{status.fallbacks[reason]} x {status.fallback_words(reason)}\n" in str(status)
        return status.fallback_words(reason).removesuffix(f": {reason}")

    assert fall_back("one") == "layer 'one'"
    assert fall_back("one", "two") == "layers 'one', 'two'"
    names = [f"further_{n}" for n in range(9)]
    assert fall_back(*names) == "layers 'one', 'two', 'further_0', 'further_1', 'further_2' and others"


def test_status_loads_no_other_framework(copied_package: pathlib.Path) -> None:
    script = """
import sys
import keras, lstm_fast
before = set(sys.modules)
status = lstm_fast.status()
used = {framework for framework, state in status.libraries.items() if state != "not used yet"}
assert used == {status.keras_backend}, status.libraries
assert not {"tensorflow", "jax", "torch"} & (set(sys.modules) - before)
"""
    run_python(script, copied_package.parent)


@pytest.mark.backends("tensorflow")
def test_numpy_needs_no_framework(copied_package: pathlib.Path) -> None:
    """With Keras on NumPy, layers run fused for inference, and so does the function; TensorFlow is not imported."""
    pytest.importorskip("jax", reason="Keras's NumPy backend imports it")
    script = f"""
import copy, sys
import keras, numpy as np, lstm_fast
close = dict(rtol=0.0, atol={tolerances.between_layers("float32", 2 * 3 * 9, 1.0)})
x, mask = np.random.default_rng(0).random((2, 3, 4), "float32"), np.array([[False, True, True], [False] * 3])
h = np.full((2, 5), 0.5, "float32")
layer = lstm_fast.FastLSTM(5)
y = layer(x)
found, _, _ = lstm_fast.lstm(x, *(weight.numpy() for weight in layer.weights))
np.testing.assert_array_equal(found, y)
assert "tensorflow" not in sys.modules  # which Keras imports when it copies a layer
for wrap in (lambda layer: layer, lstm_fast.FastBidirectional):
    fast = wrap(lstm_fast.FastLSTM(5))
    plain = lstm_fast.to_keras(copy.deepcopy(fast))
    fast.build(x.shape), plain.build(x.shape)
    fast.set_weights(plain.get_weights())
    states = [h] * (len(plain.weights) // 3 * 2)
    found = fast(x, mask=mask, initial_state=states)
    np.testing.assert_allclose(found, plain(x, mask=mask, initial_state=states), **close)
status = lstm_fast.status()
assert (status.libraries["numpy"], status.problems, status.fallbacks) == ("loaded", (), {{}})
assert status.fused_calls == {{"forward": 4, "backward": 0}}
"""
    run_python(script, copied_package.parent, KERAS_BACKEND="numpy", LSTM_FAST_KERNEL="fused")


def test_cut_off_libraries_are_found_before_they_are_mapped(tmp_path: pathlib.Path) -> None:
    path = tmp_path / CORE
    whole = (PACKAGE / CORE).read_bytes()
    path.write_bytes(whole)
    check_library(path)
    for size in (len(whole) - 1, len(whole) // 2, 4096, 64, 63, 16):
        path.write_bytes(whole[:size])
        with pytest.raises(LibraryError, match=f"cut off .{size} bytes"):
            check_library(path)
    with pytest.raises(LibraryError, match="is missing"):
        check_library(tmp_path / "absent.so")


@pytest.mark.fast
def test_misspelt_variables_are_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LSTM_FAST_THREADS", "4")
    monkeypatch.setenv("LSTM_FAST_KERNEL_MODE", "fused")
    monkeypatch.setenv("LSTM_FAST_DATA", "/data")  # of the tests
    assert lstm_fast.status().problems == (
        "LSTM_FAST_KERNEL_MODE: nothing reads this variable; did you mean LSTM_FAST_KERNEL?",
        "LSTM_FAST_THREADS: nothing reads this variable; did you mean LSTM_FAST_NUM_THREADS?",
    )
