"""The report of made-up results."""

import dataclasses
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
    KERAS_LAYER,
    ON_NUMPY,
    PRODUCT,
    PYTORCH,
    XLA,
    report,
    results,
    verdicts,
)
from benchmarks.results import Row

ENVIRONMENT = {"cpu": "abacus", "isa": "generic", "threads": 2}
HEADER = results.Header("0123456789abcdef", True, "2026-01-02 03:04 UTC", "python -m benchmarks.run", ENVIRONMENT)


def timing(kind: str, contender: str, seconds: float, scenario: str = "1,2,3,4", **info: Any) -> dict[str, Any]:
    about = {"kind": kind, "contender": contender, "scenario": scenario, "training": True, "flop": 4e6, **info}
    return {"extra_info": about, "stats": {"median": seconds}}


def layers() -> list[dict[str, Any]]:
    return [timing("layers", name, s) for name, s in ((BASELINE, 0.006), (FAST, 0.002), (PYTORCH, 0.001))]


def write(folder: Path, name: str, *rows: Row, header: results.Header = HEADER) -> Path:
    with results.writing(folder / name, lambda: header) as add:
        for row in rows:
            add(row)
    return folder / name


def write_timings(folder: Path, *benchmarks: dict[str, Any], name: str = "results.json") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps({"machine_info": {"lstm_fast": ENVIRONMENT}, "benchmarks": benchmarks}))
    return folder / name


def write_grid(folder: Path) -> Path:
    fast = {FAST: 1.0, ON_NUMPY: 0.5}
    cells = {
        (2, "inference"): {**fast, BASELINE: 8.0, XLA: 4.0, PYTORCH: 6.0},
        (2000, "training"): {**fast, BASELINE: 0.25},
        (10, "inference"): {**fast, BASELINE: 8.0, XLA: 1.5, FAST_XLA: 0.75},
    }
    rows = [
        Row("grid", f"1,{time},3,4", pass_, name, [s], {"batch": 1, "time": time, "features": 3, "units": 4})
        for (time, pass_), seconds in cells.items()
        for name, s in seconds.items()
    ]
    other = dataclasses.replace(HEADER, environment=ENVIRONMENT | {"cpu": "fingers"})
    return write(folder, "grid.jsonl", *rows, header=other)


def write_run(folder: Path) -> Path:
    """A row or two of other suites."""
    flop = {"flop": 1e9}
    seconds = {KERAS_LAYER: [0.09, 0.12], FAST: [0.03, 0.03]}
    rows = [Row("backends", "model, jax, masked", "training", name, s) for name, s in seconds.items()]
    rows += [Row("memory", "model", "training", name, [], {"peak_bytes": s[0] * 1e9}) for name, s in seconds.items()]
    rows += [Row("threads", "1,2,3,4", "training", ON_NUMPY, [0.004 / n], {"threads": n}) for n in (1, 2)]
    turns = {FAST: [0.1, 0.2], PYTORCH: [0.2, 0.6], PRODUCT: [0.05, 0.1]}
    rows += [Row("turns", "1,2,3,4", "training", name, s, flop) for name, s in turns.items()]
    rows += [Row("tensorflow", "graph", "training", FAST, [1.0], {"fused": True, "right": False, "off": 0.5})]
    rows += [Row("tensorflow", "graph", "training", KERAS_LAYER, [2.0]), Row("tensorflow", "fit", "training", FAST)]
    rows[-1].facts["error"] = "out of memory"
    return write(folder, "run.jsonl", *rows)


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
        timing("padding", FAST, 0.002, scenario="1,2,3,4 padded", masked=True, padding=0.75),
        timing("padding", FAST, 0.006, masked=False, padding=0.75),
        timing("recompute", FAST, 0.002),
        timing("recompute", "FastLSTM, recompute", 0.003),
        timing("overhead", FAST, 0.00012),
    )
    write_grid(folder)
    write_run(folder)
    write_gpu(folder)
    text = rendered(folder, output=output)
    for line in (
        "| training model, jax, masked | 30.0 | 105 (3.50) |",
        "| training 1,2,3,4 | 150 | 50% | 400 (2.50) |",
        "| training graph | 1000 | 5.0e-01 | WRONG | 2000 |",  # a wrong result is no faster
        "| tensorflow training fit | FastLSTM | out of memory |",
        "| training 1,2,3,4 | 4.00 (1.0) | 2.00 (2.0) |",
        "- backends and memory and threads and turns and tensorflow: commit 0123456789ab with changes, "
        "2026-01-02 03:04 UTC: `python -m benchmarks.run`",
        "| 1,10,3,4 tf32 | 0.80 | JAX | 4.00 | torch.nn.LSTM | 5.00 | 25% | 0.50 / 3.00 | 3.00 |",
        "| 1,10,3,4 bfloat16 | 0.40 | PyTorch | - | - | - | 50% | - / - | - |",
        "| 1,10,3,4 float16 | - | - | 0.20 | torch.nn.LSTM, without cuDNN | - | - | - / - | - |",
        "Times as fast: median 5.00; below 1: 0 of 1.",
        "\ncpu abacus, isa generic, threads 2\n",
        "\ncpu fingers, isa generic, threads 2\n",
        "| training 1,2,3,4 | 2.00 | 2.0 | 25% | 6.00 (3.00) | 1.00 (0.50) |",
        "| NumPy | 0.500 | 8.0 |",
        "| training 1,2,3,4 padded | 2.00 | 6.00 | 3.00 | 4.00 | 75.0% |",
        "| training 1,2,3,4 | 2.00 | 3.00 (1.50) |",
        "| training 1,2,3,4 | 0.120 |",
        "| FastLSTM | 30 | 0.33 |",
        "| inference 1,2,3,4 | 4.00 |",  # the faster one of Keras's
        "| training 1,2000,3,4 | 0.25 |",
        "| inference 1,10,3,4 | 2.00 |",  # and of ours
        "| inference 1,2,3,4 | 12.00 |",
    ):
        assert line in text
    assert "Faster than FastLSTM: PyTorch at training 1,2,3,4 (0.50)" in text
    assert all("<svg" in (output / name).read_text() for name in ("speed.svg", "grid.svg"))
    assert "6.00 (3.00)" in capsys.readouterr().out  # whatever the width of the terminal


@pytest.mark.parametrize(
    "write_part", [lambda folder: write_timings(folder, *layers()), write_grid, write_run, write_gpu]
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


def test_rows_are_read_as_they_were_written(tmp_path: Path) -> None:
    row = Row("turns", "1,2,3,4", "training", FAST, [0.5, 1.0], {"flop": 7})
    path = write(tmp_path, "run.jsonl", row)
    with path.open("a") as file:
        file.write('{"suite": "tur')  # its writer was stopped
    assert results.read([path]) == [results.File(path, HEADER, [row])]
    with results.writing(path, lambda: HEADER, append=True) as add:
        add(row)
    assert results.read([path]) == [results.File(path, HEADER, [row, row])]


def test_two_runs_do_not_write_one_file(tmp_path: Path) -> None:
    row = Row("turns", "1,2,3,4", "training", FAST, [1.0])
    with results.writing(tmp_path / "run.jsonl", lambda: HEADER) as add:
        add(row)
        second = results.writing(tmp_path / "run.jsonl", lambda: HEADER)
        with pytest.raises(BlockingIOError, match="expected results that nobody else writes"), second:
            pass
        add(row)
    assert results.read([tmp_path])[0].rows == [row, row]


def test_texts_of_others_are_shown_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    why = "TypeError: expected [batch, time] in [/tmp] :smile: a|b"
    text = rendered(write(tmp_path, "run.jsonl", Row("turns", "1,2,3,4", "", "", [], {"error": why})), output=tmp_path)
    assert why.replace("|", r"\|") in text
    assert why in capsys.readouterr().out


def test_comparisons_stay_apart(tmp_path: Path) -> None:
    """Each has a table of its own, whose milliseconds are those of its ratio: the first attempt's."""
    for name, seconds in (("main", ((0.002, 0.001), (0.004, 0.003))), ("v1", ((0.005, 0.005),))):
        facts = {"threshold": 0.005, "other": name}
        rows = [
            Row("against", "1,2,3,4", "training", FAST, [value] * 9, {**facts, "attempt": n, "tree": tree})
            for n, pair in enumerate(seconds, start=1)
            for tree, value in zip((verdicts.THIS, verdicts.OTHER), pair, strict=True)
        ]
        write(tmp_path / "results", f"{name}.jsonl", *rows)
    text = rendered(tmp_path / "results", output=tmp_path)
    assert "against main" in text
    assert "against v1" in text
    assert "| training 1,2,3,4 | FastLSTM | 0.50 | 0.50 to 0.50 | 2.00 | - | slower |  |" in text
    assert "| training 1,2,3,4 | FastLSTM | 1.00 | 1.00 to 1.00 | 5.00 | - | same |  |" in text
    assert "more than 0.5% longer" in text


@pytest.mark.parametrize("text", ["{}", '{\n"benchmarks": 1}', '{"schema": "lstm_fast benchmarks, 2"}\n'])
def test_no_row_goes_to_a_foreign_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "foreign.json").write_text(text)
    appending = results.writing(tmp_path / "foreign.json", lambda: HEADER, append=True)
    with pytest.raises(ValueError, match=r"foreign.json: expected results to append to"), appending:
        pass
    assert (tmp_path / "foreign.json").read_text() == text


@pytest.mark.parametrize("text", ["", '{"sch', '{"schema": "lstm_fast benchmarks, 1", "commit": "0'])
def test_a_header_that_is_cut_off_is_written_again(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.jsonl").write_text(text)
    with results.writing(tmp_path / "run.jsonl", lambda: HEADER, append=True):
        pass
    assert results.read([tmp_path])[0].header == HEADER


def test_bad_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "folder").mkdir()
    row = {"suite": "turns", "case": "", "pass": "", "contender": "FastLSTM", "seconds": [1.0], "facts": {}}
    first = json.dumps({"schema": results.SCHEMA, **dataclasses.asdict(HEADER)})
    untimed = {**row, "contender": "PyTorch", "seconds": []}
    for name, text, message in (
        ("deep.json", "[" * 100_000, "maximum recursion depth"),
        ("zero.jsonl", f"{first}\n{json.dumps(row)}\n{json.dumps(untimed)}\n", "found turns: ZeroDivisionError"),
        (
            "alone.jsonl",
            f"{first}\n{json.dumps({**row, 'suite': 'grid', 'contender': 'x'})}\n",
            "found grid: ValueError",
        ),
        ("missing.json", None, "No such file"),
        ("empty.jsonl", "", "expected results as lines of JSON, or of pytest-benchmark"),
        ("cut off.json", "{", "expected results as lines of JSON, or of pytest-benchmark"),
        ("folder", None, "expected files of results, .json or .jsonl, found none"),
        ("other.json", '{"a": 1}', "expected a header with a schema, or benchmarks of pytest-benchmark"),
        ("foreign.json", '{"machine_info": {}, "benchmarks": [{"stats": {}}]}', "expected results of pytest-benchmark"),
        ("disabled.json", '{"machine_info": {"lstm_fast": {}}, "benchmarks": []}', "was --benchmark-disable given?"),
        ("newer.jsonl", '{"schema": "2"}', "expected the schema 'lstm_fast benchmarks, 1', found '2'"),
        ("header.jsonl", f'{{"schema": "{results.SCHEMA}"}}', "header.jsonl:1: expected the fields command commit"),
        ("no row.jsonl", f"{first}\n[\n", "no row.jsonl:2: expected a row as JSON, found Expecting value"),
        ("list.jsonl", f"{first}\n[]\n", "list.jsonl:2: expected an object, found []"),
        ("field.jsonl", f'{first}\n{{"suite": "turns"}}\n', "contender facts pass seconds suite, found suite"),
        ("type.jsonl", f"{first}\n{json.dumps({**row, 'seconds': ['1']})}\n", "type.jsonl:2: expected seconds as list"),
        ("unknown.jsonl", f"{first}\n{json.dumps({**row, 'suite': 'new'})}\n", "expected rows that benchmarks.tables"),
        ("facts.jsonl", f"{first}\n{json.dumps({**row, 'suite': 'layers'})}\n", "found layers: KeyError('flop')"),
    ):
        path = tmp_path / name
        if text is not None:
            path.write_text(text)
        assert report.main([str(path), "--output", str(tmp_path / "out")]) == 2
        error = capsys.readouterr().err
        assert path.name in error
        assert message in error
        assert error.count("\n") == 1
        assert not (tmp_path / "out").exists()
    (tmp_path / "latin.jsonl").write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"latin.jsonl: expected results as text"):
        results.read([tmp_path / "latin.jsonl"])
