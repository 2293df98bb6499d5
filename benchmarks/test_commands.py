"""The grid and the memory measurement run, and write what the report reads."""

from pathlib import Path

from benchmarks import grid, memory, results


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
