"""What benchmarks.run measures. Each module is a suite.

A suite has `cases(settings)`, which returns what it measures, and `measure(case, settings)`, which returns the rows of
one case. The runner does the rest. It imports a suite only if it is asked for.
"""

from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.results import Row

NAMES = ("turns", "grid", "threads", "memory", "backends", "exports", "reviews")


class Settings(NamedTuple):
    """How the suites are measured."""

    quick: bool = False  # small cases, one round: to see that it works
    seconds: float | None = None  # for the contenders of a case; None: as the suite has it
    again: Path | None = None  # of the grid: results whose slower cells are measured again
    data: str = "sample"  # of the reviews
    vocabulary: Path | None = None  # likewise
    steps: int = 400  # that a model of the reviews is trained for before

    def budget(self, usual: float) -> float:
        return self.seconds if self.seconds is not None else 0.0 if self.quick else usual


class Case(NamedTuple):
    """One case of a suite; `what` it is only the suite knows."""

    suite: str
    name: str
    pass_: str
    what: Any = None

    def row(self, contender: str, seconds: list[float] | None = None, **facts: Any) -> Row:
        return Row(self.suite, self.name, self.pass_, contender, seconds or [], facts)

    def __str__(self) -> str:
        return f"{self.suite} {self.pass_} {self.name}"
