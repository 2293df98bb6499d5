"""The measurements that are commands run, and write what the report reads."""

import json
from pathlib import Path

from benchmarks import backends, grid, memory, results
from benchmarks.scenarios import Scenario


def test_grid(tmp_path: Path) -> None:
    assert grid.main(["--quick", "--output", str(tmp_path / "grid.json")]) == 0
    cells = results.read([tmp_path]).cells
    assert len(cells) == 2 * len(grid.QUICK)
    assert all(ratio > 0 for cell in cells for ratio in cell.ratios.values())


def test_cells() -> None:
    found = set(grid.cells())
    assert found
    assert all(grid.small_enough(scenario) for scenario in found)


def test_memory() -> None:
    assert memory.in_fresh_process("FastLSTM", batch=8, time=50) > 0


def test_backends(tmp_path: Path) -> None:
    (tmp_path / "backends.json").write_text(json.dumps(backends.run(Scenario(3, 8, 64, 64, padded=True))))
    found = results.read([tmp_path]).backends
    assert found is not None
    assert "tensorflow" in found.ms
    for contenders in found.ms.values():
        assert all(ms > 0 for kinds in contenders.values() for ms in kinds.values())
