"""Times the parts of a training step on a GPU through PyTorch: the passes of the recurrence, the products around them.

Where a product may be computed in other ways, these are timed beside the layer's way.

python -m benchmarks.gpu_parts --shapes 64,256,64 --precisions float32 --output parts.jsonl
"""

import itertools
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import results, tune
from benchmarks.command import parsed, parser
from benchmarks.peers.gpu_torch import DTYPES, arithmetic, clock
from benchmarks.results import Row
from lstm_fast.backends import Direction, products
from lstm_fast.backends.torch_cuda import ARRAYS

LAYER = "as the layer does"  # the first way of every part
CALLS = 10  # in one CUDA graph, so that starting them takes no time
ROUNDS = 7

Ways = dict[str, Callable[[], Any]]


def parts(shape: tune.Shape, precision: str, device: str) -> dict[str, Ways]:
    """The products of a layer with as many features as units: by their results, the ways to compute them."""
    batch, steps, units, n = shape
    generator = torch.Generator(device).manual_seed(0)

    def random(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=generator, device=device).to(DTYPES[precision])

    x, h_prev, dz = random(batch, steps, units), random(batch, steps, n, units), random(batch, steps, n, 4 * units)
    weights = (random(units, 4 * units), random(units, 4 * units), random(4 * units))
    directions = [Direction(*weights, None, None) for _ in range(n)]
    flat = dz.flatten(2)
    ones = torch.ones((1, batch * steps), device=device, dtype=DTYPES[precision])

    def by_row(values: torch.Tensor) -> torch.Tensor:
        return torch.bmm(values.mT, flat).sum(0)

    def side_by_side() -> torch.Tensor:  # what one product for both would need: x and h_prev are apart in the layer
        return torch.cat([x, h_prev[:, :, 0]], 2)

    found: dict[str, Ways] = {
        "z": {LAYER: lambda: products.project(ARRAYS, x, directions)},
        "dx": {LAYER: lambda: products.input_gradient(ARRAYS, dz, directions)},
        "dW": {
            LAYER: lambda: products.kernel_gradients(ARRAYS, x, None, dz, directions),
            "a product for each row, then their sum": lambda: by_row(x),
        },
        "dU": {LAYER: lambda: products.recurrent_gradients(ARRAYS, h_prev, dz, directions)},
        "db": {
            LAYER: lambda: ARRAYS.sum_of_rows(dz),
            "a product with ones": lambda: torch.mm(ones, flat.flatten(0, 1)).view(n, 4 * units),
        },
    }
    if n == 1:
        found["dU"]["a product for each row, then their sum"] = lambda: by_row(h_prev[:, :, 0])
        found["dW and dU"] = {
            LAYER: lambda: [*found["dW"][LAYER](), *found["dU"][LAYER]()],
            "x and h side by side, one product": lambda: torch.mm(side_by_side().flatten(0, 1).T, flat.flatten(0, 1)),
            "the same, one for each row, then their sum": lambda: by_row(side_by_side()),
        }
    return found


def _flat(result: Any, part: str) -> torch.Tensor:
    """What a way has computed, as one array of float64."""
    if isinstance(result, torch.Tensor):
        return result.double()
    axis = 1 if part == "dW" else 0  # the directions share x, so their dW are side by side
    return torch.cat([array.double() for array in result], axis)


def measured(cuda: Any, shape: tune.Shape, precision: str, device: str) -> Iterator[Row]:
    """Yields a row for every way of every part: its seconds, and how far its result is from the first way's."""
    case = f"{shape} {precision}"
    recurrence = tune.Recurrence(cuda, shape, precision, device)
    recurrence.prepare()
    for of in tune.PASSES:
        seconds = _seconds(lambda of=of: recurrence.run(of), device)  # type: ignore[misc]
        yield Row("parts", case, of, LAYER, seconds, {"time": shape.time, "off": 0.0})
    with arithmetic(precision):
        for part, ways in parts(shape, precision, device).items():
            expected = _flat(ways[LAYER](), part)
            for way, compute in ways.items():
                off = float((_flat(compute(), part) - expected).norm() / expected.norm())
                yield Row("parts", case, part, way, _seconds(compute, device), {"time": shape.time, "off": off})


def _seconds(compute: Callable[[], Any], device: str) -> list[float]:
    """Seconds of a call, a figure for every round."""
    step, now = _repeated(compute, device), clock(device)
    step()
    times = []
    for _ in range(ROUNDS):
        start = now()
        step()
        times.append((now() - start) / CALLS)
    return times


def _repeated(compute: Callable[[], Any], device: str) -> Callable[[], Any]:
    """A function that does so many calls; on a GPU by a graph."""

    def calls() -> None:
        for _ in range(CALLS):
            compute()

    if device == "cpu":
        return calls
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        compute()  # loads what it needs
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        calls()
    return graph.replay


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser("gpu_parts", __doc__)
    options.add_argument("--shapes", nargs="+", required=True, help="B,T,H each, or B,T,H,2 for two directions")
    options.add_argument(
        "--precisions",
        nargs="+",
        choices=[name for name in tune.NUMBERS if name in DTYPES],
        default=["float32", "tf32", "bfloat16"],
    )
    options.add_argument("--output", type=Path, required=True, help="file of results to append to")
    options.add_argument("--deadline", type=float, default=float("inf"), help="seconds since the epoch")
    tune.add_emulated(options)
    given = parsed(options, arguments)
    module, device = tune.kernels(given.emulated)
    header = results.header(given.command)
    shapes = [tune.Shape(*map(int, text.split(","))) for text in given.shapes]
    with results.writing(given.output, lambda: header, append=True) as add:
        for shape, precision in itertools.product(shapes, given.precisions):
            if time.time() > given.deadline:
                return 1
            for row in measured(module, shape, precision, device):
                add(row)
    return 0


if __name__ == "__main__":
    sys.exit(main())
