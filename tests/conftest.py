"""Settings that must be in place before Keras is imported, which tests run with which of its backends, and fixtures for
the state that is one per process.
"""

import functools
import gc
import os
import pathlib
import re
from collections.abc import Iterable, Iterator
from typing import Any

os.environ["LSTM_FAST_KERNEL"] = "fused"  # a fallback to Keras is an error, so that no test passes without the kernel
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
# What XLA compiles here runs once: not optimizing it halves the time of a run with JAX.
os.environ.setdefault("XLA_FLAGS", os.environ.get("TEST_XLA_FLAGS", "--xla_backend_optimization_level=0"))
# Keras's LSTM is a new function for JAX in each call, which compiles the same program again. Here the second one comes
# from a file.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(pathlib.Path(__file__).parents[1] / "build" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import hypothesis
import pytest

from lstm_fast import _core

# These import PyTorch, which the other backends do not need.
collect_ignore = (
    []
    if os.environ["KERAS_BACKEND"] == "torch"
    else ["test_torch.py", "test_torch_transforms.py", "test_cuda_torch.py"]
)

hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("repeatable")


def typed(name: Any) -> Any:
    """An id that can be typed on a command line: without spaces, quotes and other characters that a shell reads."""
    return re.sub(r"[^\w.,=+-]+", "-", name).strip("-") or "-" if isinstance(name, str) else name


def pytest_make_parametrize_id(val: object) -> str | None:
    """The id of a string that has none."""
    return typed(val) if isinstance(val, str) and val else None


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Gives typed ids to tests and fixtures that name their parameters."""
    parametrize = metafunc.parametrize

    def with_typed_ids(argnames: Any, argvalues: Iterable[Any], *args: Any, ids: Any = None, **how: Any) -> None:
        if callable(ids):
            how["ids"] = lambda value: typed(ids(value))
        elif ids is not None:
            how["ids"] = [typed(name) for name in ids]
        own = type(pytest.param())
        values = [value._replace(id=typed(value.id)) if isinstance(value, own) else value for value in argvalues]
        parametrize(argnames, values, *args, **how)

    metafunc.parametrize = with_typed_ids  # type: ignore[method-assign]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--only-skipped", type=pathlib.Path, metavar="FILE", help="run what RECORD_SKIPPED=FILE wrote")


def pytest_configure(config: pytest.Config) -> None:
    """Two runs in two environments share one suite: the second runs the tests that the first had to skip.

    A variable tells the first run, because its command line is that of the README.
    """
    if file := os.environ.get("RECORD_SKIPPED"):
        config.pluginmanager.register(RecordSkipped(pathlib.Path(file)))


class RecordSkipped:
    """Writes the ids of skipped tests, and of whole files that were skipped, one a line."""

    def __init__(self, file: pathlib.Path) -> None:
        self.file = file
        self.ids: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped:
            self.ids.append(report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped:
            self.ids.append(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        self.file.write_text("".join(f"{name}\n" for name in self.ids))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skips tests that are not for this backend. A test without a mark runs with TensorFlow only, and so once."""
    if (file := config.getoption("--only-skipped")) is not None:
        listed = set(file.read_text().splitlines())
        items[:] = [item for item in items if listed & {item.nodeid, item.nodeid.partition("::")[0]}]
    current = os.environ["KERAS_BACKEND"]
    for item in items:
        marker = item.get_closest_marker("backends")
        backends = marker.args if marker else ("tensorflow",)
        if current not in backends:
            item.add_marker(pytest.mark.skip(reason=f"Keras runs on {current}, the test on {', '.join(backends)}"))
        elif item.get_closest_marker("gpu") and not cuda_is_there():
            item.add_marker(pytest.mark.skip(reason=f"{current} sees no CUDA device"))


@functools.cache
def cuda_is_there() -> bool:
    """Whether the framework that Keras runs on sees a CUDA device."""
    if os.environ["KERAS_BACKEND"] == "torch":
        import torch

        return bool(torch.cuda.is_available())
    if os.environ["KERAS_BACKEND"] == "tensorflow":
        import tensorflow

        return bool(tensorflow.config.list_physical_devices("GPU"))
    import jax

    return any(hasattr(device, "compute_capability") for device in jax.devices())


@pytest.fixture(scope="module", autouse=True)
def out_of_sight() -> Iterator[None]:
    """Hides what the tests of a file leave from the garbage collector, which would look at it again and again.

    Frameworks keep graphs and layers of all tests: millions of objects in the end.
    """
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(params=_core.available_isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every instruction set that the build and the processor have, in turn."""
    before = _core.isa()
    _core.set_isa(request.param)
    assert _core.isa() == request.param
    yield request.param
    _core.set_isa(before)


@pytest.fixture
def threads() -> Iterator[None]:
    """Restores the number of threads."""
    before = _core.threads()
    yield
    _core.set_threads(before)
