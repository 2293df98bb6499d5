"""The report of made-up results."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import (
    BASELINE,
    CUDNN_JAX,
    CUDNN_TORCH,
    FAST,
    FAST_JAX,
    FAST_TORCH,
    FAST_XLA,
    FLASHRNN,
    ON_NUMPY,
    PYTORCH,
    XLA,
    report,
)

ENVIRONMENT = {"cpu": "abacus", "isa": "generic", "threads": 2}


def timing(kind: str, contender: str, seconds: float, scenario: str = "1,2,3,4", **info: Any) -> dict[str, Any]:
    about = {"kind": kind, "contender": contender, "scenario": scenario, "training": True, "flop": 4e6, **info}
    return {"extra_info": about, "stats": {"median": seconds}}


def layers() -> list[dict[str, Any]]:
    return [timing("layers", name, s) for name, s in ((BASELINE, 0.006), (FAST, 0.002), (PYTORCH, 0.001))]


def cell(time: int, training: bool, **ms: float) -> dict[str, Any]:
    return {"batch": 1, "time": time, "features": 3, "units": 4, "training": training, "ms": ms}


def write(folder: Path, name: str, content: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(content))
    return folder / name


def write_timings(folder: Path, *benchmarks: dict[str, Any], name: str = "results.json") -> Path:
    return write(folder, name, {"machine_info": {"lstm_fast": ENVIRONMENT}, "benchmarks": benchmarks})


def write_grid(folder: Path) -> Path:
    fast = {FAST: 1.0, ON_NUMPY: 0.5}
    cells = [
        cell(2, False, **fast, **{BASELINE: 8.0, XLA: 4.0, PYTORCH: 6.0}),
        cell(2000, True, **fast, **{BASELINE: 0.25}),
        cell(10, False, **fast, **{BASELINE: 8.0, XLA: 1.5, FAST_XLA: 0.75}),
    ]
    return write(folder, "grid.json", {"environment": ENVIRONMENT | {"cpu": "fingers"}, "grid": cells})


def write_memory(folder: Path) -> Path:
    peak = [{"contender": "keras.layers.LSTM", "bytes": 4e8}, {"contender": FAST, "bytes": 1e8}]
    return write(folder, "memory.json", {"environment": ENVIRONMENT, "memory": {"batch": 5, "time": 7, "peak": peak}})


def write_backends(folder: Path) -> Path:
    ms = {"jax": {"keras.layers.LSTM": {"all": 90.0, "real": 80.0}, FAST: {"all": 30.0, "real": 10.0}}}
    about = {"batch": 5, "time": 7, "padding": 0.7, "ms": ms}
    return write(folder, "backends.json", {"environment": ENVIRONMENT, "backends": about})


def write_gpu(folder: Path) -> Path:
    """Ten timesteps: lstm_fast is the faster one in the first group, and alone in the second."""

    def gpu(contender: str, us: float, scenario: str, **info: Any) -> dict[str, Any]:
        return timing("gpu", contender, 1e-5 * us, scenario, time=10, share_of_floor=0.2 / us, **info)

    return write_timings(
        folder,
        gpu(CUDNN_TORCH, 4.0, "1,10,3,4 tf32", graph_seconds=3e-5),
        gpu(CUDNN_JAX, 5.0, "1,10,3,4 tf32"),
        gpu(FLASHRNN, 3.0, "1,10,3,4 tf32"),
        gpu(FAST_TORCH, 1.0, "1,10,3,4 tf32", graph_seconds=5e-6),
        gpu(FAST_JAX, 0.8, "1,10,3,4 tf32"),
        gpu(FAST_TORCH, 0.4, "1,10,3,4 bfloat16"),
        gpu(CUDNN_TORCH, 0.2, "1,10,3,4 float16", kernel="ThnnFusedLstmCellBackward0"),
        name="gpu.json",
    )


def rendered(*paths: Path, output: Path) -> str:
    assert report.main([*map(str, paths), "--output", str(output)]) == 0
    return (output / "report.md").read_text()


def test_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, output = tmp_path / "results", tmp_path / "out"
    write_timings(
        folder,
        *layers(),
        timing("roofline", "NumPy", 0.0005, threads=2, library="openblas"),
        timing("scaling", ON_NUMPY, 0.004, threads=1),
        timing("scaling", ON_NUMPY, 0.0025, threads=2),
        timing("padding", FAST, 0.002, scenario="1,2,3,4 padded", masked=True, padding=0.75),
        timing("padding", FAST, 0.006, masked=False, padding=0.75),
        timing("recompute", FAST, 0.002),
        timing("recompute", "FastLSTM, recompute", 0.003),
        timing("overhead", FAST, 0.00012),
    )
    write_grid(folder)
    write_memory(folder)
    write_backends(folder)
    write_gpu(folder)
    text = rendered(folder, output=output)
    for line in (
        "| jax, masked | 10 | 80 | 8.0 |",
        "| 1,10,3,4 tf32 | 0.80 | JAX | 4.00 | torch.nn.LSTM | 5.00 | 25% | 0.50 / 3.00 | 3.00 |",
        "| 1,10,3,4 bfloat16 | 0.40 | PyTorch | - | - | - | 50% | - / - | - |",
        "| 1,10,3,4 float16 | - | - | 0.20 | torch.nn.LSTM, without cuDNN | - | - | - / - | - |",
        "Times as fast: median 5.00; below 1: 0 of 1.",
        "speed and gpu and memory and backends: cpu abacus, isa generic, threads 2",
        "grid: cpu fingers, isa generic, threads 2",
        "| 1,2,3,4 | 2.00 | 2.0 | 25% | 6.00 (3.00) | 1.00 (0.50) |",
        "| NumPy | 0.50 | 8.0 |",
        "| training 1,2,3,4 | 4.00 | 2 | 2.50 | 1.60 | 80% |",
        "| training 1,2,3,4 padded | 2.00 | 6.00 | 3.00 | 4.00 | 75.0% |",
        "| FastLSTM, recompute | 3.00 | 1.50 |",
        "| FastLSTM | 120.0 |",
        "| FastLSTM | 100 | 0.25 |",
        "| inference 1,2,3,4 | 4.00 |",  # the faster one of Keras's
        "| training 1,2000,3,4 | 0.25 |",
        "| inference 1,10,3,4 | 2.00 |",  # and of ours
        "| inference 1,2,3,4 | 12.00 |",
    ):
        assert line in text
    assert "Faster than FastLSTM: PyTorch at 1,2,3,4 (0.50)" in text
    assert all("<svg" in (output / name).read_text() for name in ("speed.svg", "grid.svg"))
    assert "6.00 (3.00)" in capsys.readouterr().out  # whatever the width of the terminal


@pytest.mark.parametrize(
    "write_part", [lambda folder: write_timings(folder, *layers()), write_grid, write_memory, write_gpu]
)
def test_one_part(tmp_path: Path, write_part: Any) -> None:
    path = write_part(tmp_path / "results")
    text = rendered(path, output=tmp_path / "file")
    assert text == rendered(path.parent, output=tmp_path / "folder")
    assert text.count("isa generic") == 1


def test_formats(tmp_path: Path) -> None:
    path = write_timings(tmp_path, *layers())
    assert report.main([str(path), "--output", str(tmp_path), "--format", "png", "svg"]) == 0
    assert (tmp_path / "speed.png").exists()
    assert (tmp_path / "speed.svg").exists()


def test_bad_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cut off.json").write_text("{")
    (tmp_path / "folder").mkdir()
    for path in (
        tmp_path / "missing.json",
        tmp_path / "cut off.json",
        tmp_path / "folder",
        write_timings(tmp_path, name="empty.json"),
        write(tmp_path, "no cells.json", {"environment": {}, "grid": []}),
        write(tmp_path, "other.json", {"a": 1}),
        write(tmp_path, "foreign.json", {"machine_info": {}, "benchmarks": [{"stats": {}}]}),
    ):
        assert report.main([str(path), "--output", str(tmp_path / "out")]) == 2
        error = capsys.readouterr().err
        assert path.name in error
        assert error.count("\n") == 1
        assert not (tmp_path / "out").exists()
