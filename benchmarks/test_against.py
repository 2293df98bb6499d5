"""Verdicts between two trees: of made-up rounds, and of a tree that was made slower and wrong on purpose."""

import math
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks import FAST, ON_NUMPY, against, results, verdicts
from benchmarks.results import Row


def test_interval() -> None:
    assert verdicts.interval([9, 1, 8, 2, 7, 3, 6, 4, 5]) == (2, 5, 8)
    assert verdicts.interval(range(1, 16)) == (4, 8, 12)
    assert verdicts.interval(range(1, 7)) == (1, 3.5, 6)
    assert verdicts.interval([1, 2, 3, 4, 5]) == (0, 3, math.inf)  # too few to say anything


@pytest.mark.parametrize(
    ("attempts", "verdict"),
    [
        ([[0.9] * 9, [0.8] * 9], "slower"),
        ([[1.1] * 9, [1.2] * 9], "faster"),
        ([[0.9] * 9, [1.0] * 9], "unclear"),
        ([[0.9] * 9, [1.1] * 9], "unclear"),
        ([[0.96, 1.04, 1.0] * 3], "same"),
        ([[0.9, 1.0, 1.1] * 3], "unclear"),
        ([[0.5] * 5], "unclear"),
    ],
)
def test_verdict(attempts: Sequence[Sequence[float]], verdict: str) -> None:
    rows = [
        Row("against", "1,2,3,4", "training", FAST, list(seconds), {"threshold": 0.05, "attempt": n, "tree": tree})
        for n, ratios in enumerate(attempts)
        for tree, seconds in ((verdicts.THIS, [1.0] * len(ratios)), (verdicts.OTHER, ratios))
    ]
    assert [line.verdict for line in verdicts.lines(rows)] == [verdict]
    wrong = Row("against", "1,2,3,4", "training", FAST, [], {**rows[0].facts, "wrong": "y is off"})
    (line,) = verdicts.lines([*rows, wrong])
    assert line.interval is None  # no ratio of a wrong result
    assert (line.verdict, line.why) == ("WRONG", "this tree: y is off")


@pytest.fixture
def changed(tmp_path: Path) -> Path:
    """A tree that is slower in training and wrong in inference, on NumPy arrays."""
    tree = tmp_path / "changed"
    linked = shutil.ignore_patterns("__pycache__", "*.so")
    for name in ("lstm_fast", "benchmarks", "tests"):
        shutil.copytree(against.TREE / name, tree / name, ignore=linked)
    for path in (against.TREE / "lstm_fast").glob("*.so"):
        (tree / "lstm_fast" / path.name).symlink_to(path)
    path = tree / "benchmarks" / "peers" / "numpy_kernels.py"
    with path.open("a") as file:
        file.write(
            "\n\nright = prepare\n\n\ndef prepare(problem, training):\n"
            "    import time\n    made = right(problem, training)\n    if training:\n"
            "        return made._replace(step=lambda: (time.sleep(0.02), made.step())[1])\n"
            "    return made._replace(results=lambda outputs: [array + 1 for array in made.results(outputs)])\n"
        )
    return tree


def compare(path: Path, *options: str) -> tuple[int, dict[tuple[str, str], str]]:
    """The exit status, and the verdict of each contender and pass."""
    # Only a sleep is slower than this, however busy the machine is.
    more = ["--quick", "--threshold", "900", "--output", str(path)]
    status = against.main([*options, *more])
    lines = verdicts.lines(results.read([path])[0].rows)
    return status, {(line.rows[0].contender, line.rows[0].pass_): line.verdict for line in lines}


def test_slower_and_wrong(
    tmp_path: Path, changed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "against.jsonl"
    assert compare(path, str(against.TREE), "--only", "training") == (
        0,
        {(FAST, "training"): "same", (ON_NUMPY, "training"): "same"},
    )
    other = str(against.TREE)
    monkeypatch.setattr(against, "TREE", changed)
    status, found = compare(path, other)
    assert status == 1
    assert found == {
        (FAST, "training"): "same",
        (FAST, "inference"): "same",
        (ON_NUMPY, "training"): "slower",
        (ON_NUMPY, "inference"): "WRONG",
    }
    shown = capsys.readouterr().out
    assert "this tree: AssertionError" in shown
    slow = [row for row in results.read([path])[0].rows if (row.contender, row.pass_) == (ON_NUMPY, "training")]
    assert {row.facts["attempt"] for row in slow} == {1, 2}


def test_reviews(tmp_path: Path) -> None:
    """The worked example of a tree beside itself, on the package's sample."""
    status, found = compare(tmp_path / "against.jsonl", str(against.TREE), "--reviews", "--seconds", "0")
    assert status == 0
    assert found == {(FAST, "training"): "same", (FAST, "inference"): "same"}
    rows = results.read([tmp_path / "against.jsonl"])[0].rows
    assert all(row.facts["peak_bytes"] > 0 for row in rows if row.pass_ == "training")


def test_a_process_that_ends_is_wrong() -> None:
    """The lines after it are measured in new processes."""
    cases = [case for case in against.layers(quick=True) if case.what.contender == ON_NUMPY]
    ends = cases[0]._replace(what=cases[0].what._replace(do="call"))
    ends.what.arguments.clear()
    ends.what.arguments.update(module="os", name="_exit", arguments=[3])
    trees = {verdicts.THIS: against.TREE, verdicts.OTHER: against.TREE}
    rows = list(against.attempt(trees, [ends, cases[1]], 0.0, attempt=1, threshold=0.05, other=""))
    assert "the process ended" in rows[0].facts["wrong"]
    assert [bool(row.seconds) for row in rows] == [False, True, True]


def test_a_commit_is_built(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    called: list[tuple[str, ...]] = []

    def run(*command: str, **_: object) -> subprocess.CompletedProcess[str]:
        called.append(command)
        status = int("setup.py" in command and "broken" in called[0][-1])
        return subprocess.CompletedProcess(command, status, stdout="0123\n")

    monkeypatch.setattr(against, "_run", run)
    with against.tree_of("main") as tree:
        assert [command[1] for command in called] == ["rev-parse", "worktree", "setup.py"]
        assert called[1][-2:] == (str(tree), "0123")
    assert called[-1] == ("git", "worktree", "remove", "--force", str(tree))
    called.clear()
    with pytest.raises(SystemExit) as stopped:
        against.main(["broken", "--output", str(tmp_path / "against.jsonl")])
    assert stopped.value.code == 2
    assert "build_ext --build-lib . failed: 0123" in " ".join(capsys.readouterr().err.split())


def test_no_work_tree_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []

    def run(*command: str, **_: object) -> subprocess.CompletedProcess[str]:
        called.append(" ".join(command[1:3]))
        if "setup.py" in command:
            os.kill(os.getpid(), signal.SIGTERM)
        return subprocess.CompletedProcess(command, 0, stdout="0123\n")

    monkeypatch.setattr(against, "_run", run)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stopped, against.orderly(), against.tree_of("main"):
        pass
    assert stopped.value.code == 128 + signal.SIGTERM
    assert called[-1] == "worktree remove"
    assert signal.getsignal(signal.SIGTERM) == before


def test_usage(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = "expected a commit, or a source tree of lstm_fast with its compiled parts, found"
    for what in (str(tmp_path), "no-such-commit"):
        with pytest.raises(SystemExit) as stopped:
            against.main([what])
        assert stopped.value.code == 2
        assert f"{expected} {what}" in " ".join(capsys.readouterr().err.split())
    for options in (["--only", "trainng"], ["--reviews", "--only", "training"]):  # a model is a case of both passes
        with pytest.raises(SystemExit) as stopped:
            against.main([str(against.TREE), *options])
        assert stopped.value.code == 2
        assert "expected lines to compare, found none" in " ".join(capsys.readouterr().err.split())
    for options in ("--threshold=nan", "--threshold=-100", "--threshold=inf", "--threshold=x", "--seconds=-1"):
        with pytest.raises(SystemExit) as stopped:
            against.main([str(against.TREE), options])
        assert stopped.value.code == 2
        assert "expected a number of at least 0, found" in " ".join(capsys.readouterr().err.split())
    here, output = str(against.TREE), str(tmp_path / "against.jsonl")
    for options, message in (
        (["--output", str(tmp_path)], "Is a directory"),
        (["--reviews", "--data", "no-such-data", "--output", output], "found nothing at no-such-data"),
    ):
        with pytest.raises(SystemExit) as stopped:
            against.main([here, "--quick", *options])
        assert stopped.value.code == 2
        assert message in " ".join(capsys.readouterr().err.split())
    monkeypatch.setattr(against, "TREE", tmp_path)
    with pytest.raises(SystemExit):
        against.main(["main"])
    assert "expected the compiled parts of this tree" in " ".join(capsys.readouterr().err.split())


def test_compiled_parts_may_be_old(tmp_path: Path) -> None:
    for name in ("csrc/a.cc", "lstm_fast/_core.so"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    os.utime(tmp_path / "csrc" / "a.cc", (1, 1))
    assert not against.newer_sources(tmp_path)
    os.utime(tmp_path / "lstm_fast" / "_core.so", (0, 0))
    assert against.newer_sources(tmp_path)
