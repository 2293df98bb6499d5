"""Times every cut of a pass that the GPU can run, beside the one that the kernels choose, or runs each of them once.

python -m benchmarks.tune --shapes 64,256,128 --precisions float32 bfloat16 --output tune.jsonl
"""

import argparse
import importlib
import itertools
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import results
from benchmarks.command import parsed, parser
from benchmarks.results import Row

PASSES = ("forward", "backward")
EXCHANGES = ("block", "cluster", "grid")
# The type and the products of each precision of benchmarks.scenarios, as lstm_fast._cuda names them.
NUMBERS = {
    "float32": ("float32", "exact"),
    "tf32": ("float32", "tf32"),
    "tf32x3": ("float32", "tf32x3"),
    "bfloat16": ("bfloat16", "exact"),
    "float16": ("float16", "exact"),
}
# How far results may be from the chosen cut's, by norms. Other cuts add in another order.
TOLERANCE = {"float32": 1e-4, "tf32": 1e-2, "tf32x3": 1e-4, "float16": 2e-2, "bfloat16": 8e-2}
# `--once` runs these sizes, which no block, warp or fragment divides.
AWKWARD = ("5,4,24", "9,3,100", "19,3,264")


class Shape(NamedTuple):
    """What is computed."""

    batch: int
    time: int
    units: int
    directions: int = 1

    def __str__(self) -> str:
        return ",".join(map(str, self if self.directions > 1 else self[:3]))


class Recurrence:
    """Both passes of `lstm_fast._cuda` on memory of their own, without the products around them.

    `device` is where PyTorch has the memory, "cuda", or "cpu" for the emulated device of the tests.
    """

    def __init__(self, cuda: Any, shape: Shape, precision: str, device: str = "cuda", masked: bool = False) -> None:
        import torch

        self._cuda, self.device, self._masked = cuda, device, masked
        self._dtype, self._precision = NUMBERS[precision]
        self.shape = shape
        batch, steps, units, n = shape
        generator = torch.Generator(device).manual_seed(0)

        def random(*size: int, scale: float = 1.0) -> Any:
            values = torch.randn(size, generator=generator, device=device) * scale
            return values.to(getattr(torch, self._dtype))

        def empty(*size: int) -> Any:
            return torch.full(size, float("nan"), device=device, dtype=getattr(torch, self._dtype))

        self._kernels = [random(units, 4 * units, scale=(5 * units) ** -0.5) for _ in range(n)]
        self._biases = [random(4 * units, scale=0.1) for _ in range(n)]
        self._z, self._dy = random(batch, steps, n, 4 * units), random(batch, steps, n * units)
        lengths = torch.arange(batch, device=device) % steps + 1
        self._mask = torch.arange(steps, device=device) < lengths[:, None] if masked else None
        self._step_bytes = cuda.reserve_step_bytes(self._dtype, units)
        self._reserve = torch.zeros((batch, n, steps, self._step_bytes), dtype=torch.uint8, device=device)
        self._states = {name: [empty(batch, units) for _ in range(n)] for name in ("h_n", "c_n", "dh0", "dc0")}
        self._y, self._dz = empty(batch, steps, n * units), empty(batch, steps, n, 4 * units)
        self._h_prev = empty(batch, steps, n, units)
        self._scratch = torch.empty(0, dtype=torch.uint8, device=device)
        self._torch = torch

    def cut(self, of: str) -> dict[str, Any]:
        """How a pass is cut as things stand; ValueError if that is not possible."""
        shape = self.shape
        passes = self._cuda.describe(
            0, self._dtype, self._precision, shape.batch, shape.units, shape.directions, dropout=False
        )
        return dict(passes[of])

    def prepare(self) -> None:
        """Gets the scratch memory of the passes as they are cut now, which is not part of their time."""
        shape = self.shape
        size = self._cuda.scratch_bytes(0, self._dtype, self._precision, *shape, masked=self._masked, dropout=False)
        if size > self._scratch.numel():
            self._scratch = self._torch.empty(size, dtype=self._torch.uint8, device=self.device)

    def run(self, of: str) -> None:
        """Starts a pass."""
        getattr(self, f"_{of}")()

    def results(self, of: str) -> list[Any]:
        """What a pass has computed, as float64."""
        return [array.double() for array in self._outputs(of)]

    def spoil(self, of: str) -> None:
        """Makes sure that results are those of the next run."""
        for array in self._outputs(of):
            array.fill_(float("nan"))

    def _outputs(self, of: str) -> Iterator[Any]:
        yield from [self._y] if of == "forward" else [self._dz, self._h_prev]
        for name in ("h_n", "c_n") if of == "forward" else ("dh0", "dc0"):
            yield from self._states[name]

    def _problem(self) -> tuple[Any, ...]:
        stream = self._torch.cuda.current_stream().cuda_stream if self.device == "cuda" else 0
        batch, steps, units, _ = self.shape
        return 0, stream, self._dtype, self._precision, batch, steps, units, False, True, True

    def _parameters(self) -> list[list[int]]:
        absent = [0] * self.shape.directions
        return [_addresses(self._kernels), _addresses(self._biases), absent, absent, absent]

    def _forward(self) -> None:
        self._cuda.forward(
            *self._problem(),
            self._z.data_ptr(),
            0 if self._mask is None else self._mask.data_ptr(),
            *self._parameters(),
            self._y.data_ptr(),
            _addresses(self._states["h_n"]),
            _addresses(self._states["c_n"]),
            self._reserve.data_ptr(),
            self._step_bytes,
            self._scratch.data_ptr(),
            self._scratch.numel(),
        )

    def _backward(self) -> None:
        absent = [0] * self.shape.directions
        self._cuda.backward(
            *self._problem(),
            0 if self._mask is None else self._mask.data_ptr(),
            *self._parameters(),
            self._reserve.data_ptr(),
            self._step_bytes,
            self._dy.data_ptr(),
            absent,
            absent,
            self._dz.data_ptr(),
            self._h_prev.data_ptr(),
            _addresses(self._states["dh0"]),
            _addresses(self._states["dc0"]),
            self._scratch.data_ptr(),
            self._scratch.numel(),
        )


def _addresses(arrays: Sequence[Any]) -> list[int]:
    return [array.data_ptr() for array in arrays]


def cuts(cuda: Any, recurrence: Recurrence, of: str, precision: str) -> Iterator[dict[str, Any]]:
    """Yields every cut of a pass that can be forced, most promising first; it is in force while it is looked at."""
    dtype, numbers = NUMBERS[precision]
    found: dict[tuple[Any, ...], tuple[float, dict[str, Any]]] = {}
    for variant in cuda.variants():
        if variant["dtype"] != dtype or variant["dropout"] or variant["precision"] not in ("exact", numbers):
            continue
        rows = [n * variant["rows"] for n in (1, 2, 3, 4, 6, 8, 12, 16)]
        fitting = [n for n in rows if n - variant["rows"] < recurrence.shape.batch]
        for exchange, n in itertools.product(EXCHANGES, fitting):
            for blocks in _blocks(exchange, cuda.devices()[0]["multiprocessors"], recurrence.shape.units):
                forced = {"variant": variant["name"], "exchange": exchange, "blocks": blocks, "rows": n}
                cuda.force(of, **forced)
                try:
                    cut = recurrence.cut(of)
                except ValueError:  # cannot be run
                    continue
                found.setdefault(tuple(forced.values()), (cut["microseconds"], forced))
    try:
        for _, forced in sorted(found.values(), key=lambda entry: entry[0]):
            cuda.force(of, **forced)
            yield forced
    finally:
        cuda.force(of)


def _blocks(exchange: str, multiprocessors: int, units: int) -> Sequence[int]:
    if exchange == "block":
        return (1,)
    if exchange == "cluster":
        return (2, 4, 8, 16)
    most = min(multiprocessors, -(-units // 8))
    return sorted({-(-units // of_block) for of_block in range(8, units + 1, 8)} & set(range(2, most + 1)))


def examine(
    cuda: Any,
    shape: Shape,
    precision: str,
    device: str,
    deadline: float,
    once: bool,
    masked: bool = False,
    most: int | None = None,
) -> Iterator[Row]:
    """Yields a row for the chosen cut of each pass, and for others: its time, and whether it is right.

    The others are all, or so many, most promising first.
    """
    recurrence = Recurrence(cuda, shape, precision, device, masked)
    recurrence.prepare()
    recurrence.run("forward")  # the backward pass needs its reserve
    case = f"{shape} {precision}{' masked' * masked}"
    for left, of in zip((2, 1), PASSES, strict=True):
        end = time.time() + (deadline - time.time()) / left  # the backward pass gets its share of the time
        recurrence.spoil(of)
        recurrence.run(of)
        right = recurrence.results(of)
        chosen = _row(case, recurrence, of, right, precision, once, None, None)
        yield chosen
        best = chosen.median if chosen.seconds else None
        for forced in itertools.islice(cuts(cuda, recurrence, of, precision), most):
            if time.time() > end:
                break
            recurrence.prepare()
            row = _row(case, recurrence, of, right, precision, once, best, forced)
            yield row
            if row.facts["right"] and row.seconds:
                best = row.median if best is None else min(best, row.median)
        recurrence.prepare()
        if of == "forward":
            recurrence.run(of)


def _row(
    case: str,
    recurrence: Recurrence,
    of: str,
    right: Sequence[Any],
    precision: str,
    once: bool,
    best: float | None,
    forced: dict[str, Any] | None,
) -> Row:
    cut = recurrence.cut(of)
    recurrence.spoil(of)
    seconds = [] if once else [_seconds(recurrence, of, best)]
    if once:
        recurrence.run(of)
    errors = [_error(found, expected) for found, expected in zip(recurrence.results(of), right, strict=True)]
    facts = {
        "time": recurrence.shape.time,
        "chosen": forced is None,
        "forced": forced,
        "off": max(errors),
        "right": all(error <= TOLERANCE[precision] for error in errors),  # NaN is not
        "cut": cut,
    }
    return Row("cuts", case, of, "lstm_fast", seconds, facts)


def _error(found: Any, expected: Any) -> float:
    size = float(expected.norm())
    return float((found - expected).norm()) / (size or 1.0)


def _seconds(recurrence: Recurrence, of: str, best: float | None) -> float:
    """The median of rounds of calls; the first only where it is clear that the cut is not the best."""
    from benchmarks.peers.gpu_torch import clock

    now = clock(recurrence.device)
    times: list[float] = []
    recurrence.run(of)  # loads the kernel
    calls = 1
    for _ in range(7):
        start = now()
        for _ in range(calls):
            recurrence.run(of)
        times.append((now() - start) / calls)
        if best is not None and min(times) > 3 * best:
            break
        if len(times) == 1:
            calls = max(1, min(50, int(2e-3 / max(times[0], 1e-6))))
    return sorted(times[1:] or times)[len(times[1:] or times) // 2]


def add_emulated(options: argparse.ArgumentParser) -> None:
    options.add_argument(
        "--emulated", action="store_true", help="the emulated device of the tests, to see that it works"
    )


def kernels(emulated: bool) -> tuple[Any, str]:
    """The compiled module, and where PyTorch has the memory that it computes on."""
    if emulated:
        return importlib.import_module("emulated").load(), "cpu"
    return importlib.import_module("lstm_fast.backends").cuda(), "cuda"


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser("tune", __doc__)
    options.add_argument("--shapes", nargs="+", help="B,T,H each, or B,T,H,2 for two directions")
    options.add_argument("--precisions", nargs="+", choices=NUMBERS, default=["float32", "tf32", "bfloat16"])
    options.add_argument("--output", type=Path, required=True, help="file of results to append to, a row for each cut")
    options.add_argument("--deadline", type=float, default=float("inf"), help="seconds since the epoch")
    options.add_argument("--once", action="store_true", help="run every cut once, untimed, also on ragged batches")
    options.add_argument("--most", type=int, help="of cuts, over all that is asked for; one or more of each pass")
    add_emulated(options)
    given = parsed(options, arguments)
    module, device = kernels(given.emulated)
    wrong = 0
    shapes = [Shape(*map(int, text.split(","))) for text in given.shapes or AWKWARD]
    work = list(itertools.product(shapes, given.precisions, (False, True)[: 1 + given.once]))
    # The chosen cut of each pass always runs, so it is not counted.
    most = None if given.most is None else max(0, round(given.most / (len(work) * len(PASSES))) - 1)
    header = results.header(given.command)
    with results.writing(given.output, lambda: header, append=True) as add:
        for n, (shape, precision, masked) in enumerate(work):
            end = time.time() + (given.deadline - time.time()) / (len(work) - n)  # each gets its share of the time
            for row in examine(module, shape, precision, device, end, given.once, masked, most):
                wrong += not row.facts["right"]
                add(row)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
