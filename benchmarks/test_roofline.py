"""What the machine can do: a large product of float32 matrices, by NumPy's OpenBLAS and by PyTorch."""

from typing import Any

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

threadpoolctl = pytest.importorskip("threadpoolctl")


@pytest.fixture
def size(request: pytest.FixtureRequest) -> int:
    """Rows and columns: enough that all of the time goes into the product, three times 16 MiB."""
    return 64 if request.config.getoption("benchmark_disable") else 2048


def record(benchmark: BenchmarkFixture, contender: str, size: int, **info: Any) -> None:
    benchmark.group = f"roofline {size},{size},{size}"
    benchmark.extra_info.update(kind="roofline", contender=contender, flop=2 * size**3, **info)


def test_numpy(benchmark: BenchmarkFixture, size: int) -> None:
    a, b = np.random.default_rng(0).standard_normal((2, size, size), np.float32)
    # Other packages may have brought their own BLAS into this process: NumPy's is the one in its folder.
    found = (pool for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas")
    blas = max(found, key=lambda pool: "numpy" in pool["filepath"])
    names = {"library": "internal_api", "version": "version", "core type": "architecture", "threads": "num_threads"}
    record(benchmark, "NumPy", size, **{name: blas[key] for name, key in names.items()})
    benchmark(np.matmul, a, b)


def test_torch(benchmark: BenchmarkFixture, size: int) -> None:
    torch = pytest.importorskip("torch")
    a, b = torch.from_numpy(np.random.default_rng(0).standard_normal((2, size, size), np.float32))
    record(benchmark, "torch.mm", size, version=torch.__version__, threads=torch.get_num_threads())
    benchmark(torch.mm, a, b)
