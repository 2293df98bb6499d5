"""The report of made-up results."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import BASELINE, report

ENVIRONMENT = {"isa": "generic", "threads": 2, "tensorflow": "2.18.0"}


def result(contender: str, median: float) -> dict[str, Any]:
    info = {"contender": contender, "scenario": "1,2,3,4", "training": True, "flop": 4e6, "bytes": 1, **ENVIRONMENT}
    return {"group": "training 1,2,3,4", "extra_info": info, "stats": {"median": median}}


def write(path: Path, *benchmarks: dict[str, Any]) -> Path:
    path.write_text(json.dumps({"benchmarks": benchmarks}))
    return path


def test_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = write(tmp_path / "results.json", result(BASELINE, 0.006), result("FastLSTM", 0.002))
    assert report.main([str(results), "--output", str(tmp_path / "out")]) == 0
    table = (tmp_path / "out" / "report.md").read_text()
    assert "| training 1,2,3,4 | FastLSTM | 2.00 | 3.00 | 2.0 |" in table
    assert "isa generic" in table
    assert (tmp_path / "out" / "report.png").stat().st_size > 0
    assert "FastLSTM" in capsys.readouterr().out


def test_bad_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cut off.json").write_text("{")
    for path in (tmp_path / "missing.json", tmp_path / "cut off.json", write(tmp_path / "empty.json")):
        assert report.main([str(path), "--output", str(tmp_path / "out")]) == 1
        assert path.name in capsys.readouterr().err
        assert not (tmp_path / "out").exists()
