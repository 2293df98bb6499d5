"""Draws the picture of the first page: the worked example with masks and without. It runs on the machine that measured.

lstm-fast compare --output runs/unmasked
lstm-fast compare --mask --output runs/masked
python -m benchmarks.pictures runs/unmasked/compare.json runs/masked/compare.json --output docs/compare.svg
"""

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.command import parser
from lstm_fast.bench.environment import environment


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser("pictures", __doc__)
    options.add_argument("comparisons", type=Path, nargs="+", help="files compare.json of lstm-fast compare")
    options.add_argument("--output", type=Path, required=True, help="the picture; its suffix decides the format")
    given = options.parse_args(arguments)

    from benchmarks.plots import machine
    from lstm_fast.text import plots
    from lstm_fast.text.compare import Comparison, Times

    results = []
    for path in given.comparisons:
        content = json.loads(path.read_text(encoding="utf-8"))
        values = {field.name: content[field.name] for field in dataclasses.fields(Comparison)}
        times = {name: Times(**values[name]) for name in ("train_ms", "predict_ms")}
        results.append(Comparison(**{**values, **times}))
    plots.times(results, f"lstm-fast compare; {machine(_of_the_example())}", given.output)
    return 0


def _of_the_example() -> dict[str, Any]:
    """The environment without the packages that have no part in it."""
    return {name: value for name, value in environment().items() if name not in ("torch", "jax", "onnxruntime")}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
