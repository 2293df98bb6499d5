"""The measurements that are commands run, and write what the report reads."""

import json
import sys
import time
from pathlib import Path

import pytest

from benchmarks import against, backends, gpu, grid, memory, pictures, results, reviews, tune, turns
from lstm_fast import cli
from lstm_fast.bench.scenarios import IMDB_PADDING, Scenario


def test_turns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert turns.main(["--quick", "--output", str(tmp_path / "turns.json")]) == 0
    measured = json.loads((tmp_path / "turns.json").read_text())["turns"]
    assert [result["training"] for result in measured] == [True, False]
    assert all(turns.ratio(result, ["PyTorch"]) > 0 < turns.share(result, "FastLSTM") for result in measured)
    assert "inference" in capsys.readouterr().out


def test_grid(tmp_path: Path) -> None:
    assert grid.main(["--quick", "--output", str(tmp_path / "grid.json")]) == 0
    cells = results.read([tmp_path]).cells
    assert len(cells) == 2 * len(grid.QUICK)
    assert all(ratio > 0 for cell in cells for ratio in cell.ratios.values())


def test_grid_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    ms = {"Keras graph": 2.0, "FastLSTM": 1.0, "lstm_fast on NumPy": 1.0}
    shape = {"batch": 2, "time": 3, "features": 4}
    rows = [{**shape, "units": 8, "training": True, "ms": ms | {"PyTorch": 0.5}}]
    rows.append({**shape, "units": 9, "training": False, "ms": ms})
    (tmp_path / "grid.json").write_text(json.dumps({"environment": {}, "grid": rows}))
    monkeypatch.setattr(grid, "AGAIN_SECONDS", 0.0)
    assert grid.main(["--again", str(tmp_path / "grid.json"), "--output", str(tmp_path / "again" / "grid.json")]) == 0
    assert [(c.units, c.training) for c in results.read([tmp_path / "again"]).cells] == [(8, True)]
    with pytest.raises(SystemExit):
        grid.main(["--again", str(tmp_path / "nothing.json")])
    assert "nothing.json" in capsys.readouterr().err


def test_against(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A tree beside itself."""
    options = ["--quick", "--seconds", "0", "--output", str(tmp_path / "against.json")]
    assert against.main([str(against.TREE), *options]) == 0
    measured = json.loads((tmp_path / "against.json").read_text())["against"]
    assert len(measured) == 4
    assert all(min(result["ms"][tree]) > 0 for result in measured for tree in (against.THIS, against.OTHER))
    assert "lstm_fast on NumPy" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        against.main([str(tmp_path)])
    assert f"expected a source tree of lstm_fast, found {tmp_path}" in " ".join(capsys.readouterr().err.split())


def test_reviews(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A tree beside itself, on the package's sample."""
    options = ["--models", "single", "--steps", "1", "--seconds", "0", "--output", str(tmp_path / "reviews.json")]
    assert reviews.main([str(reviews.TREE), *options]) == 0
    (measured,) = json.loads((tmp_path / "reviews.json").read_text())["reviews"].values()
    assert all(min(seconds[name]) > 0 for seconds in measured["seconds"].values() for name in (reviews.KERAS, "this"))
    assert all(peak > 0 for peak in measured["peak"].values())
    assert "peak memory" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        reviews.main([str(tmp_path)])
    assert f"expected a source tree of lstm_fast, found {tmp_path}" in " ".join(capsys.readouterr().err.split())


def test_pictures(tmp_path: Path) -> None:
    files = []
    for name, options in (("unmasked", []), ("masked", ["--mask"])):
        folder = tmp_path / name
        small = ["--data", "sample", "--steps", "1", "--limit", "4", "--batch-size", "2", "--output", str(folder)]
        assert cli.main(["compare", *options, *small]) == 0
        files.append(str(folder / "compare.json"))
    assert pictures.main([*files, "--output", str(tmp_path / "picture.svg")]) == 0
    text = (tmp_path / "picture.svg").read_text()
    assert text.count("padding not masked") == text.count("padding masked") == 2


def test_cells() -> None:
    found = set(grid.cells())
    assert found
    assert all(grid.small_enough(scenario) for scenario in found)


def test_memory() -> None:
    assert memory.in_fresh_process("FastLSTM", batch=8, time=50) > 0


def test_backends(tmp_path: Path) -> None:
    (tmp_path / "backends.json").write_text(json.dumps(backends.run(Scenario(3, 8, 64, 64, padding=IMDB_PADDING))))
    found = results.read([tmp_path]).backends
    assert found is not None
    assert "tensorflow" in found.ms
    for contenders in found.ms.values():
        assert all(ms > 0 for kinds in contenders.values() for ms in kinds.values())


def test_tune(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every cut of a small problem, on the emulated device of the tests."""
    pytest.importorskip("torch")
    import emulated

    device = emulated.load()
    # A clock that counts, as the time of an emulation says nothing.
    monkeypatch.setattr("benchmarks.peers.gpu_torch.clock", lambda _: time.process_time)
    shape = tune.Shape(3, 2, 24, directions=2)
    lines = [
        line
        for masked in (False, True)
        for line in tune.examine(device, shape, "float32", "cpu", time.time() + 60, once=masked, masked=masked)
    ]
    assert all(line["right"] for line in lines)
    assert {line["pass"] for line in lines} == set(tune.PASSES)
    assert {line["cut"]["exchange"] for line in lines} == set(tune.EXCHANGES)
    assert sum(line["chosen"] for line in lines) == 4
    path = tmp_path / "tune.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines if not line["masked"]))
    table = gpu.tuned(path)
    assert table is not None
    assert [row[0] for row in table.rows] == [f"3,2,24,2 float32 {name}" for name in tune.PASSES]


def test_gpu_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A run ends in time, tells what failed, and shows what has been measured."""
    monkeypatch.setattr(gpu, "capability", lambda: None)
    options = ["--output", str(tmp_path / "out"), "--scratch", str(tmp_path / "scratch")]
    assert gpu.main(options) == 1
    assert "nvidia-smi shows no GPU" in capsys.readouterr().out
    assert not list((tmp_path / "scratch" / "tree").rglob("*.so"))

    session = gpu.Session(tmp_path, tmp_path, time.time() + 60)
    command = [sys.executable, "-c", "import time; print('begun', flush=True); time.sleep(60)"]
    status, text, seconds = session.call("sleep", command, "sleep.log", 1.0)
    assert status is None
    assert text == "begun\n"
    assert seconds < 30
    assert gpu._why(status, text) == "killed: out of time: begun"

    about = {"kind": "gpu", "contender": "lstm_fast (JAX)", "training": True, "scenario": "1,2,3,4 tf32", "time": 2}
    line = {"environment": {"gpu": "abacus"}, "extra_info": {**about, "share_of_floor": 0.5}, "stats": {"median": 8e-6}}
    session.results.write_text(json.dumps(line) + "\n" + '{"cut off')
    (table,) = session.write()
    assert tuple(table.rows[0][:3]) == ("1,2,3,4 tf32", "4.00", "JAX")
    assert "abacus" in (tmp_path / "report.md").read_text()
