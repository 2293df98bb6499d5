"""What the tests of the GPU path have in common: what they expect of it, and the proof that its kernels ran."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from types import ModuleType

import tolerances
from cases import Expected, Problem, solve_by_reference

from lstm_fast import _core


def solve_exactly(problem: Problem, precision: str = "exact") -> Expected:
    """The exact solution, and how far the GPU path may be off with products of float32 in this precision."""
    return loosened(solve_by_reference(problem), problem.x.dtype.name, precision)


def loosened(expected: Expected, dtype: str, precision: str = "exact") -> Expected:
    """The same solution, with what the GPU path is allowed."""
    slack = tolerances.STORED_BETWEEN.get(dtype, 1.0)
    if dtype == "float32" and precision == "tf32":
        slack *= tolerances.ROUNDOFF["tf32"] / tolerances.ROUNDOFF["float32"]
    return replace(expected, allowance={name: slack * value for name, value in expected.allowance.items()})


@contextlib.contextmanager
def ran(module: ModuleType, forward: int, backward: int = 0) -> Iterator[None]:
    """Asserts that exactly so many passes of a module with the interface of `lstm_fast._cuda` run inside, on no CPU."""
    before, before_on_cpu = module.fused_calls(), _core.fused_calls()
    yield
    after = module.fused_calls()
    assert {name: after[name] - before[name] for name in after} == {"forward": forward, "backward": backward}
    assert _core.fused_calls() == before_on_cpu
