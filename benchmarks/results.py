"""Reads what the measurements have written, whichever of them there are."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import BASELINE, FAST, FAST_XLA, ON_NUMPY, PYTORCH, XLA

# Of a folder of results: the files that the documentation of each measurement names.
NAMES = ("results.json", "gpu.json", "grid.json", "memory.json", "backends.json")


class Timing(NamedTuple):
    """One benchmark of pytest-benchmark."""

    seconds: float  # the median
    info: dict[str, Any]  # its extra_info

    @property
    def gflops(self) -> float:
        """Billions of floating-point operations per second."""
        return float(self.info["flop"] / self.seconds / 1e9)


class Cell(NamedTuple):
    """One cell of the grid; a ratio says how many times as fast lstm_fast is."""

    batch: int
    time: int
    features: int
    units: int
    training: bool
    ratios: dict[str, float]  # over the fastest contender of each framework

    def __str__(self) -> str:
        name = "training" if self.training else "inference"
        return f"{name} {self.batch},{self.time},{self.features},{self.units}"


class Memory(NamedTuple):
    """Peak memory of a training step."""

    batch: int
    time: int
    megabytes: dict[str, float]  # by contender


class Backends(NamedTuple):
    """Training steps of the single IMDB model with each of Keras's backends."""

    batch: int
    time: int
    padding: float  # share of the timesteps
    ms: dict[str, dict[str, dict[str, float]]]  # by backend, contender, and what is computed: "all" or "real" timesteps


class Results(NamedTuple):
    """Everything that there is; empty or None what there is not."""

    environments: dict[str, dict[str, Any]]  # by kind of results
    timings: list[Timing]
    cells: list[Cell]
    memory: Memory | None
    backends: Backends | None

    def of_kind(self, kind: str) -> list[Timing]:
        return [timing for timing in self.timings if timing.info["kind"] == kind]


def read(paths: Sequence[Path]) -> Results:
    """Reads files, and the well-known files of folders.

    Raises:
        OSError: A file cannot be read.
        ValueError: There are no results, or a file is not one of results; the message begins with its name.
    """
    results = Results({}, [], [], None, None)
    for path in _files(paths):
        try:
            results = _with(results, json.loads(path.read_text()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:  # JSONDecodeError is a ValueError
            raise ValueError(f"{path}: {error if isinstance(error, ValueError) else repr(error)}") from error
    return results


def _files(paths: Iterable[Path]) -> list[Path]:
    files: list[Path] = []
    for path in paths:
        found = [path / name for name in NAMES if (path / name).exists()] if path.is_dir() else [path]
        if not found:
            raise ValueError(f"{path}: expected {', '.join(NAMES)}, found none of them")
        files += found
    return files


def _with(results: Results, content: dict[str, Any]) -> Results:
    environments = dict(results.environments)
    if "benchmarks" in content:
        timings = [Timing(b["stats"]["median"], b["extra_info"]) for b in content["benchmarks"]]
        if not timings:
            raise ValueError("expected benchmarks, found none; was --benchmark-disable given?")
        on_gpu = all(timing.info["kind"] == "gpu" for timing in timings)
        environments["gpu" if on_gpu else "speed"] = content["machine_info"]["lstm_fast"]
        return results._replace(environments=environments, timings=results.timings + timings)
    if "grid" in content:
        if not content["grid"]:
            raise ValueError("expected cells, found none")
        environments["grid"] = content["environment"]
        return results._replace(environments=environments, cells=list(map(_cell, content["grid"])))
    if "memory" in content:
        environments["memory"] = content["environment"]
        memory, peaks = content["memory"], content["memory"]["peak"]
        megabytes = {peak["contender"]: peak["bytes"] / 1e6 for peak in peaks}
        return results._replace(environments=environments, memory=Memory(memory["batch"], memory["time"], megabytes))
    if "backends" in content:
        environments["backends"] = content["environment"]
        return results._replace(environments=environments, backends=Backends(**content["backends"]))
    raise ValueError("expected results of pytest-benchmark, benchmarks.grid, benchmarks.memory or benchmarks.backends")


def _cell(row: dict[str, Any]) -> Cell:
    ms = row["ms"]

    def fastest(*names: str) -> float:
        return min(float(ms[name]) for name in names if name in ms)

    # Each against what is called in the same way: within TensorFlow, as a graph or by XLA, or from Python.
    ratios = {"Keras": fastest(BASELINE, XLA) / fastest(FAST, FAST_XLA)}
    if PYTORCH in ms:
        ratios["PyTorch"] = ms[PYTORCH] / ms[ON_NUMPY]
    return Cell(row["batch"], row["time"], row["features"], row["units"], row["training"], ratios)
