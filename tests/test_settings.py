"""lstm_fast.config: the settings of a program come before the environment, and are restored."""

import copy
import enum
import os
import pickle
import subprocess
import sys
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras_side import BACKEND, fused

import lstm_fast
from lstm_fast import _core, settings

pytestmark = pytest.mark.backends("tensorflow", "jax", "torch")

config = lstm_fast.config

# A value of each setting that is not its default.
OTHER: dict[str, Any] = {
    "kernel": "keras",
    "threads": 3,
    "keep_mib": 7,
    "precision": "tf32x3",
    "skip_repeats": False,
    "cache": Path("/somewhere"),
}


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for variable in settings.VARIABLES.values():
        monkeypatch.delenv(variable, raising=False)
    for name in OTHER:
        setattr(config, name, None)
    yield
    monkeypatch.undo()
    for name in OTHER:
        setattr(config, name, None)
    settings.follow_threads(0, "")


def all_settings() -> dict[str, Any]:
    return {name: getattr(config, name) for name in OTHER}


def test_every_setting_is_an_attribute_and_a_variable() -> None:
    assert list(OTHER) == list(settings._SETTINGS) == [name for name in settings.VARIABLES if name != "isa"]
    assert list(settings.Settings.__annotations__) == list(OTHER)


@pytest.mark.fast
@pytest.mark.parametrize("name", OTHER)
def test_set_and_unset(name: str) -> None:
    default = getattr(config, name)
    assert default != OTHER[name]
    setattr(config, name, OTHER[name])
    assert getattr(config, name) == OTHER[name]
    assert lstm_fast.status().config == {name: str(OTHER[name])}
    assert f"config           {name}={OTHER[name]}" in str(lstm_fast.status())
    setattr(config, name, None)
    assert getattr(config, name) == default
    assert lstm_fast.status().config == {}


@pytest.mark.parametrize("name", OTHER)
def test_the_environment_is_the_default(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    value = {False: "0"}.get(OTHER[name], str(OTHER[name]))
    monkeypatch.setenv(settings.VARIABLES[name], value)
    setattr(config, name, None)  # the library reads its variables again
    assert getattr(config, name) == OTHER[name]
    assert lstm_fast.status().environment == {settings.VARIABLES[name]: value}
    monkeypatch.delenv(settings.VARIABLES[name])
    setattr(config, name, None)
    before = getattr(config, name)
    monkeypatch.setenv(settings.VARIABLES[name], value)
    with config(**{name: before}):  # type: ignore[misc]
        assert before is None or getattr(config, name) == before


def test_a_block_puts_back_what_was_set() -> None:
    config.threads = 2
    before = all_settings()
    with config(**OTHER) as same:
        assert same is config
        assert all_settings() == OTHER
        with config(threads=5, kernel=None):
            assert (config.threads, config.kernel, config.keep_mib) == (5, "auto", 7)
        assert all_settings() == OTHER
    assert all_settings() == before
    with pytest.raises(ZeroDivisionError), config(**OTHER):
        _ = 1 / 0
    assert all_settings() == before
    assert lstm_fast.status().config == {"threads": "2"}


def test_a_call_without_a_block_sets() -> None:
    config(threads=2, kernel="keras")
    assert lstm_fast.status().config == {"threads": "2", "kernel": "keras"}


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("kernel", "fast", ValueError, "`kernel`: expected one of auto, fused, keras, found 'fast'"),
        ("kernel", True, ValueError, "`kernel`: expected one of auto, fused, keras, found True"),
        ("threads", 0, ValueError, "`threads`: expected an integer from 1 to 4096, found 0"),
        ("threads", 4097, ValueError, "found 4097"),
        ("threads", 2.0, TypeError, "`threads`: expected an integer from 1 to 4096, found 2.0"),
        ("threads", True, TypeError, "found True"),
        ("threads", "2", TypeError, "found '2'"),
        ("keep_mib", -1, ValueError, "`keep_mib`: expected an integer from 0 to 1073741824, found -1"),
        ("keep_mib", 2**40, ValueError, "found 1099511627776"),
        ("isa", "generic", TypeError, "`isa` cannot be set; set the variable LSTM_FAST_ISA before"),
        ("threads", np.array(2.7), TypeError, "found array"),
        ("kernel", np.array(["keras"]), ValueError, "`kernel`: expected one of"),
        ("skip_repeats", 1, TypeError, "`skip_repeats`: expected True or False, found 1"),
        ("precision", "half", ValueError, "`precision`: expected one of exact, tf32, tf32x3, found 'half'"),
        ("cache", "", TypeError, "`cache`: expected the path of a folder, found ''"),
        ("cache", 3, TypeError, "found 3"),
        ("kernels", "keras", TypeError, "found `kernels`; did you mean `kernel`?"),
        ("colour", "red", TypeError, "expected kernel, threads, .*, found `colour`$"),
    ],
)
def test_wrong_values_change_nothing(name: str, value: Any, error: type, message: str) -> None:
    before = all_settings()
    with pytest.raises(error, match=message), config(**{"keep_mib": 3, "skip_repeats": False, name: value}):
        pass
    assert all_settings() == before
    assert lstm_fast.status().config == {}
    if name in OTHER:
        with pytest.raises(error, match=message):
            setattr(config, name, value)


def test_loaded_cuda_kernels_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[bool] = []
    monkeypatch.setitem(sys.modules, "lstm_fast._cuda", types.SimpleNamespace(set_skips=told.append))
    with config(skip_repeats=False):
        assert told == [False]
    monkeypatch.setenv("LSTM_FAST_SKIP_REPEATS", "0")
    config.skip_repeats = None
    assert told == [False, True, False]


def test_what_cannot_be_set_is_an_error() -> None:
    with pytest.raises(AttributeError, match="found `num_threads`; did you mean `threads`"):
        config.num_threads = 2  # type: ignore[attr-defined]
    with pytest.raises(
        AttributeError, match="`isa` cannot be set"
    ):  # the backward pass needs the instruction set of its forward pass
        config.isa = "generic"  # type: ignore[misc]
    assert config.isa == _core.isa()


def test_a_block_serves_once() -> None:
    block = config(kernel="keras")
    with block:
        assert config.kernel == "keras"
    with pytest.raises(RuntimeError, match="a block has ended with these settings"), block:
        pass


class Kernel(str, enum.Enum):
    KERAS = "keras"


def test_an_enumeration_is_a_text() -> None:
    config.kernel = Kernel.KERAS
    assert (config.kernel, type(config.kernel)) == ("keras", str)


def test_a_copy_is_the_same() -> None:
    assert copy.deepcopy(config) is config
    assert pickle.loads(pickle.dumps(config)) is config


def test_a_block_restores_what_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    config.keep_mib = 5
    block = config(kernel="keras", threads=1, keep_mib=3)
    monkeypatch.setenv("LSTM_FAST_NUM_THREADS", "many")
    with pytest.raises(ValueError, match="LSTM_FAST_NUM_THREADS: expected an integer"), block:
        pass
    assert (config.kernel, config.keep_mib) == ("auto", 5)


BAD = """
import os
import lstm_fast
for name in ("NUM_THREADS", "KEEP_MIB", "SKIP_REPEATS"):
    os.environ[f"LSTM_FAST_{name}"] = "bad"
lstm_fast.config(threads=2, keep_mib=3, skip_repeats=False)
print(lstm_fast.config.threads, lstm_fast.config.keep_mib, lstm_fast.config.skip_repeats)
"""


def test_what_is_set_comes_before_a_bad_variable() -> None:
    done = subprocess.run([sys.executable, "-c", BAD], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "2 3 False\n"


def test_integers_of_numpy() -> None:
    config.threads = np.int64(2)  # type: ignore[assignment]
    assert config.threads == 2


def test_shown() -> None:
    with config(**OTHER):
        assert repr(config) == (
            f"<lstm_fast.config kernel='keras' isa={_core.isa()!r} threads=3 keep_mib=7 precision='tf32x3' "
            f"skip_repeats=False cache={Path('/somewhere')!r}>"
        )


def test_the_cache_may_be_at_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    config.cache = "~/there"
    assert config.cache == tmp_path / "there"


@pytest.mark.fast
def test_layers_run_as_asked() -> None:
    layer = lstm_fast.FastLSTM(4)
    x = np.random.default_rng(0).random((2, 3, 5), dtype=np.float32)
    with fused(forward=1):
        expected = keras.ops.convert_to_numpy(layer(x))
    calls, before = _core.fused_calls()["forward"], lstm_fast.status()
    with config(kernel="keras"):
        found = keras.ops.convert_to_numpy(layer(x))
        with pytest.raises(RuntimeError, match=r"^lstm_fast.config.kernel='keras': lstm_fast.lstm and"):
            lstm_fast.lstm(x, np.zeros((5, 4), np.float32), np.zeros((1, 4), np.float32))
    assert _core.fused_calls()["forward"] == calls
    assert lstm_fast.status().new_fallbacks(before) == ["lstm_fast.config.kernel='keras'"]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    with (
        config(kernel="fused"),
        pytest.raises(RuntimeError, match=r"lstm_fast.config.kernel='fused', but .* the layer 'no': activation=relu"),
    ):
        lstm_fast.FastLSTM(4, activation="relu", name="no")(x)
    with fused(forward=1):
        layer(x)


def test_a_setting_holds_in_all_threads() -> None:
    found = []
    with config(kernel="keras", precision="exact"):
        thread = threading.Thread(target=lambda: found.append((config.kernel, config.precision)))
        thread.start()
        thread.join()
    assert found == [("keras", "exact")]


def test_less_is_kept_at_once() -> None:
    config.keep_mib = 64
    x = np.ones((64, 100, 64), np.float32)
    weights = np.ones((64, 256), np.float32), np.ones((64, 256), np.float32)
    lstm_fast.lstm(x, *weights)
    assert 0 < _core.kept_bytes() <= 64 * 2**20
    config.keep_mib = 0
    assert _core.kept_bytes() == 0
    lstm_fast.lstm(x, *weights)
    assert _core.kept_bytes() == 0


def test_fewer_threads_of_the_framework_count_where_nobody_has_said() -> None:
    default = config.threads
    settings.follow_threads(default + 1, "a framework")
    assert (config.threads, _core.threads_source() != "a framework") == (default, True)
    config.threads = 4
    settings.follow_threads(1, "a framework")
    assert (config.threads, _core.threads_source()) == (4, "lstm_fast.config")
    if default > 1:
        config.threads = None
        assert (config.threads, _core.threads_source()) == (1, "a framework")
    settings.follow_threads(0, "")
    assert _core.threads_source() != "a framework"


FRAMEWORK = {
    "tensorflow": "import tensorflow as tf; tf.config.threading.set_intra_op_parallelism_threads(1)",
    "torch": "import torch; torch.set_num_threads(1)",
}
SCRIPT = """
import lstm_fast, numpy as np
before = lstm_fast.status()
lstm_fast.FastLSTM(2)(np.zeros((1, 2, 3), "float32"))
status = lstm_fast.status()
print(before.threads, before.threads_source, status.threads, status.threads_source, sep=";")
"""


@pytest.mark.parametrize("own", ["", "3"])
def test_threads_of_the_framework(own: str) -> None:
    if BACKEND not in FRAMEWORK:
        pytest.skip("JAX has no such setting")
    if not own and min(os.cpu_count() or 1, _core.threads()) < 2:
        pytest.skip("one processor")
    inherited = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", FRAMEWORK[BACKEND] + SCRIPT],
        env={**inherited, "LSTM_FAST_NUM_THREADS": own},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = {"tensorflow": "tf.config.threading", "torch": "torch.get_num_threads"}[BACKEND]
    expected = "3;LSTM_FAST_NUM_THREADS" if own else f"1;{said}"
    assert done.stdout.strip() == f"{expected};{expected}"
