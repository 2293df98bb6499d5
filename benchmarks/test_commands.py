"""The measurements that are commands run, and write what the report reads."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import carry, gpu, pictures, report, results, run, suites, test_gpu, tune
from benchmarks.results import Row
from benchmarks.scenarios import IMDB, IMDB_REPEATING
from benchmarks.suites import Case, Settings, grid
from benchmarks.tables import TABLES, tables, telling
from lstm_fast import cli
from lstm_fast.bench.scenarios import IMDB_PADDING, Scenario, make_problem

CUT = {"variant": "v", "exchange": "block", "blocks": 1, "rows": 2, "warps": 4}


@pytest.mark.parametrize("suite", suites.NAMES)
def test_suite(suite: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "results" / "run.jsonl"
    assert run.main([suite, "--quick", "--output", str(path)]) == 0
    (file,) = results.read([path.parent])
    assert file.header.command == f"python -m benchmarks.run {suite} --quick --output {path}"
    assert file.suites == [suite]
    assert all(min(row.seconds, default=1) > 0 for row in file.rows)
    shown = capsys.readouterr().out
    assert report.main([str(path), "--output", str(tmp_path)]) == 0
    assert shown.endswith(capsys.readouterr().out)  # after the progress
    assert file.header.commit[:12] in (tmp_path / "report.md").read_text()


def test_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A case that fails is told, and the others are measured."""

    def measure(case: Case, _: Settings) -> list[Row]:
        assert case.pass_ == "inference", "too hard"
        return [case.row("lstm_fast on NumPy", [1e-3], threads=1)]

    monkeypatch.setattr("benchmarks.suites.threads.measure", measure)
    options = ["threads", "--quick", "--output", str(tmp_path / "run.jsonl")]
    assert run.main(options) == 1
    assert len(results.read([tmp_path])[0].rows) == 2
    assert "AssertionError: too hard" in capsys.readouterr().out
    assert run.main([*options, "--only", "inference"]) == 0
    assert run.main([*options, "--only", "inference", "--append"]) == 0
    assert len(results.read([tmp_path])[0].rows) == 2
    (tmp_path / "other.json").write_text('{\n"machine_info": 1}')
    monkeypatch.setenv(results.COMMIT, "0123")
    for more, message in {
        f"--output {tmp_path}": "--output: [Errno 21] Is a directory",
        "--append": "--append: expected rows of 0123, as this tree is, found commit",
        f"--append --output {tmp_path / 'other.json'}": "found neither",
        "--only nothing": "expected cases to measure, found none",
        f"--again {tmp_path}": "expected the suite grid alone, found threads",
        "training": "invalid choice: 'training'",
    }.items():
        with pytest.raises(SystemExit) as stopped:
            run.main([*more.split(), *options] if more == "training" else [*options, *more.split()])
        assert stopped.value.code == 2
        assert message in " ".join(capsys.readouterr().err.split())


def test_grid_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def rows(units: int, pass_: str, pytorch: float) -> list[Row]:
        seconds = {"Keras graph": 2.0, "FastLSTM": 1.0, "lstm_fast on NumPy": 1.0, "PyTorch": pytorch}
        shape = {"batch": 2, "time": 3, "features": 4, "units": units}
        return [Row("grid", f"2,3,4,{units}", pass_, name, [value], shape) for name, value in seconds.items()]

    with results.writing(tmp_path / "grid.jsonl", lambda: results.Header("", False, "", "", {})) as add:
        failed = Row("grid", "2,3,4,7", "training", "", [], {"error": "out of memory"})
        for row in (failed, *rows(8, "training", 0.5), *rows(9, "inference", 1.5)):
            add(row)
    monkeypatch.setattr(grid, "AGAIN_SECONDS", 0.0)
    again = tmp_path / "again.jsonl"
    assert run.main(["grid", "--again", str(tmp_path / "grid.jsonl"), "--output", str(again)]) == 0
    assert {row.name for row in results.read([again])[0].rows} == {"training 2,3,4,8"}
    with pytest.raises(SystemExit):
        run.main(["grid", "--again", str(tmp_path / "nothing.jsonl"), "--output", str(again)])
    assert "nothing.jsonl" in capsys.readouterr().err


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


def test_scenarios_of_the_grid() -> None:
    found = set(grid.scenarios())
    assert found
    assert all(grid.small_enough(scenario) for scenario in found)


def test_tune(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every cut of a small problem, on the emulated device of the tests."""
    pytest.importorskip("torch")
    import emulated

    device = emulated.load()
    # A clock that counts, as the time of an emulation says nothing.
    monkeypatch.setattr("benchmarks.peers.gpu_torch.clock", lambda _: time.process_time)
    shape = tune.Shape(3, 2, 24, directions=2)
    rows = [
        row
        for masked in (False, True)
        for row in tune.examine(device, shape, "float32", "cpu", time.time() + 60, once=masked, masked=masked)
    ]
    assert all(row.facts["right"] for row in rows)
    assert {row.pass_ for row in rows} == set(tune.PASSES)
    assert {row.facts["cut"]["exchange"] for row in rows} == set(tune.EXCHANGES)
    assert sum(row.facts["chosen"] for row in rows) == 4
    (table,) = TABLES["cuts"]([row for row in rows if row.seconds])
    assert [row[0] for row in table.rows] == [f"{name} 3,2,24,2 float32" for name in tune.PASSES]
    assert telling(telling(rows)) == telling(rows)  # what a run brings back says as much as all
    assert len(telling(rows)) < len(rows)


def test_gpu_parts() -> None:
    """All ways of a part compute the same, as the layer does; on the emulated device of the tests."""
    pytest.importorskip("torch")
    import emulated

    from benchmarks import gpu_parts

    device, both = emulated.load(), {"z", "dx", "dW", "dU", "db", *tune.PASSES}
    for directions, expected in ((1, {*both, "dW and dU"}), (2, both)):
        rows = list(gpu_parts.measured(device, tune.Shape(3, 4, 8, directions), "float32", "cpu"))
        assert {row.pass_ for row in rows} == expected
        assert max(row.facts["off"] for row in rows) < 1e-5
        assert all(len(row.seconds) == gpu_parts.ROUNDS for row in rows)
        (table,) = TABLES["parts"](rows)
        assert len(table.rows) == len(rows)
        assert table.rows[0][0] == f"forward {rows[0].case}"


def test_gpu_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A run ends in time, tells what failed, and shows what has been measured."""
    monkeypatch.setattr(gpu, "capability", lambda: None)
    options = ["all", "--output", str(tmp_path / "out"), "--scratch", str(tmp_path / "scratch")]
    assert gpu.main(options) == 1
    assert "nvidia-smi shows no GPU" in capsys.readouterr().out
    copied = list((tmp_path / "scratch" / "all" / "tree").rglob("*"))
    assert copied
    assert not [path for path in copied if path.suffix == ".so"]
    with pytest.raises(SystemExit):
        gpu.main([*options, "--steps", "build", "sleep"])
    assert "expected some of build, test, short, rest; found sleep" in " ".join(capsys.readouterr().err.split())

    session = gpu.Session("all", "the command", tmp_path, tmp_path, time.time() + 60)
    session.open(afresh=False)
    command = [sys.executable, "-c", "import time; print('begun', flush=True); time.sleep(60)"]
    status, text, seconds = session.call("sleep", command, "sleep.log", 1.0)
    assert status is None
    assert text == "begun\n"
    assert seconds < 30
    assert gpu._why(status, text) == "killed: out of time: begun"

    row = Row("gpu", "1,2,3,4 tf32", "training", "lstm_fast (JAX)", [8e-6], {"time": 2, "share_of_floor": 0.5})
    with results.writing(session.results, lambda: results.Header("", False, "", "", {"gpu": "abacus"})) as add:
        add(row)
    with session.results.open("a") as file:
        file.write('{"cut off')
    (table,) = session.write()
    assert tuple(table.rows[0][:3]) == ("1,2,3,4 tf32", "4.00", "JAX")
    text = (tmp_path / "report.md").read_text()
    assert "abacus" in text
    assert "the command" in text
    assert "begun" in (tmp_path / "failures.txt").read_text()


def test_gpu_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second call leaves out what is done, and takes last what has failed; other sources begin afresh."""
    taken: list[str] = []

    def step(name: str) -> None:
        def take(session: gpu.Session) -> None:
            taken.append(name)
            session.note(name, "done", 1.0, failed=name == "fails" and len(taken) < 5)
            if name == "raises":
                session.deadline = time.time()  # for those after it
                raise ValueError(name)

        monkeypatch.setattr(gpu.Session, name, take, raising=False)

    names = ["build", "works", "fails", "raises", "waits"]
    for name in names:
        step(name)
    monkeypatch.setitem(gpu.RUNS, "kernels", dict.fromkeys(names, 60.0))

    def call(afresh: bool = False) -> dict[str, gpu.Line]:
        taken.clear()
        session = gpu.Session("kernels", "", tmp_path / "out", tmp_path, time.time() + 60)
        session.open(afresh)
        session.take(names)
        session.write()
        return {line.step: line for line in session.lines}

    lines = call()
    assert taken == ["build", "works", "fails", "raises"]
    assert [name for name, line in lines.items() if line.failed] == ["fails", "raises"]
    assert lines["waits"].result == gpu.NO_TIME
    assert lines["raises"].result == "ValueError: raises"
    lines = call()
    assert taken == ["waits", "fails", "raises"]
    assert lines["works"] == gpu.Line("works", "done", 0.0)
    call(afresh=True)
    assert taken == names[:4]
    monkeypatch.setattr(gpu, "_fingerprint", lambda: "of other sources")
    call()
    assert taken == names[:4]


def test_gpu_runs_fit_into_their_time() -> None:
    for name, seconds in (("kernels", 9 * 60), ("tensorflow", 12 * 60)):
        assert sum(gpu.RUNS[name].values()) <= gpu.DEADLINES[name] <= seconds
    for steps in gpu.RUNS.values():
        assert all(callable(getattr(gpu.Session, name)) for name in steps)


def test_gpu_results_are_small(tmp_path: Path) -> None:
    """Those of a whole run take less than 1 MB together."""
    session = gpu.Session("kernels", "", tmp_path / "out", tmp_path / "scratch", time.time() + 60)
    session.open(afresh=False)
    cut = {"forward": {"kernel": "k" * 500}, "backward": {"kernel": "k" * 500}}
    with results.writing(session.results, lambda: results.Header("", False, "", "", {"gpu": "abacus"})) as add:
        for n in range(400):
            facts = {"time": 2, "share_of_floor": 0.5, "cut": cut}
            add(Row("gpu", f"{n}", "training", "lstm_fast (PyTorch)", [1 / 7e6] * test_gpu.MAX_ROUNDS, facts))
        for n in range(10_000):
            add(Row("cuts", f"{n % 9}", "forward", "", [8e-6], {"time": 2, "chosen": n < 9, "right": True, "cut": CUT}))
    (session.kept / "failures.txt").write_text("x" * 1_000_000)
    session.write()
    assert sum(path.stat().st_size for path in (tmp_path / "out").iterdir()) < 1_000_000
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(gpu.WRITTEN)


def test_gpu_rehearsal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Steps of a run, with small sizes on the emulated device."""
    pytest.importorskip("torch")
    import emulated

    emulated.load()
    folders = ["--output", str(tmp_path / "out"), "--scratch", str(tmp_path / "scratch")]
    assert (
        gpu.main(["kernels", "--rehearse", "--steps", "build", "parts", "search", "sanitize", "threads", *folders]) == 0
    )
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"results.jsonl", "report.md"}
    assert results.read([tmp_path / "out"])[0].suites == ["parts", "threads", "cuts", "steps"]
    shown = capsys.readouterr().out
    assert "0 wrong" in shown
    assert "tune 2,2,16 float32" in shown[shown.rindex("Steps") :]  # what each step came to is last


@pytest.mark.parametrize("what", ["layers", "models", "jit", "devices"])
def test_gpu_tensorflow(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorflow")
    from benchmarks import gpu_tensorflow

    monkeypatch.setattr(gpu_tensorflow, "VOCABULARY", 50)
    monkeypatch.delitem(gpu_tensorflow.MODELS, "stacked")  # which takes its time to compile
    path = tmp_path / "tensorflow.jsonl"
    assert gpu_tensorflow.main([what, "--quick", "--output", str(path)]) == 0
    (file,) = results.read([path])
    assert all(row.facts["right"] and row.facts["fused"] for row in file.rows if row.contender == "FastLSTM")
    (table,) = tables([file])
    assert len(table.rows) == len(file.rows) / 2 > 1


def test_repeating() -> None:
    """Padding that is not masked is one input again and again."""
    small = Scenario(4, 20, 3, 5, padding=IMDB_PADDING, repeating=True)
    masked, repeating = make_problem(Scenario(4, 20, 3, 5, padding=IMDB_PADDING)), make_problem(small)
    assert masked.mask is not None
    assert repeating.mask is None
    assert (repeating.x[masked.mask] == masked.x[masked.mask]).all()
    assert (repeating.x[~masked.mask] == masked.x[0, 0]).all()
    assert gpu._selected(IMDB).endswith("and padded and not repeating")
    assert gpu._selected(IMDB_REPEATING).endswith("and not padded and repeating")


# What is carried to a machine without a package index


def package(site: Path, name: str, needs: str = "", **texts: str) -> None:
    """Installs a package of these modules in a folder."""
    files = {f"{name}/{module}.py": text for module, text in {"__init__": "", **texts}.items()}
    about = f"{name}-1.0.dist-info"
    files[f"{about}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{needs}"
    files[f"{about}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{about}/RECORD", f"../bin/{name}"])
    for path, text in files.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(text)


def test_carry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Packages, with what they need, arrive in pieces, and come before those of the same name that are there."""
    if shutil.which("zstd") is None:
        pytest.skip("no zstd")
    monkeypatch.setattr(carry, "PIECE_BYTES", 100)
    site, pieces, environment = tmp_path / "site", tmp_path / "pieces", tmp_path / "environment"
    asked = ("rich>=1; python_version > '3'", "other; extra == 'a'", "gone", "third")
    needs = "".join(f"Requires-Dist: {need}\n" for need in asked)
    package(site, "first", needs, words="text = 'carried'")
    package(site, "rich")
    package(site, "other")
    (pieces / "piece-99").parent.mkdir()
    (pieces / "piece-99").write_text("of another time")
    package(site, "third")
    options = ["--site", str(site), "--packages", "first", "--without", "Third", "--level", "1"]
    assert carry.main(["pack", *options, "--output", str(pieces)]) == 0
    found = sorted(pieces.iterdir())
    assert len(found) > 2
    assert [path.name for path in found] == [f"piece-{n:02}" for n in range(len(found))]
    assert all(path.stat().st_size <= 100 for path in found)
    for _ in range(2):
        assert carry.main(["unpack", "--pieces", str(pieces), "--output", str(environment)]) == 0
    python = environment / "bin" / "python"
    script = "import first.words, numpy, rich, sys; print(first.words.text, rich.__file__, 'other' in sys.modules)"
    done = subprocess.run([python, "-c", script], capture_output=True, text=True, check=True, env={})
    text, where, _ = done.stdout.split()
    assert text == "carried"
    assert Path(where).is_relative_to(environment)
    assert not [*environment.rglob("other"), *environment.rglob("third")]
    with pytest.raises(SystemExit):
        carry.main(["pack", "--site", str(site), "--packages", "nothing", "--output", str(pieces)])
    assert "found no nothing" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(SystemExit):
        carry.main(["unpack", "--pieces", str(site), "--output", str(environment)])
    assert "expected piece-00" in " ".join(capsys.readouterr().err.split())


def test_libraries_get_the_names_that_tensorflow_looks_for(tmp_path: Path) -> None:
    own, packages, links = tmp_path / "lib64", tmp_path / "packages", tmp_path / "links"
    of_packages = packages / "nvidia" / "cu13" / "lib"
    for folder, names in {
        own: ["libcudart.so.13", "libcufft.so.12", "libcublas.so.13", "libcublas.so.13.1.2"],
        of_packages: ["libcufft.so.11", "libcudnn.so.9", "libcudnn_ops.so.9"],
    }.items():
        folder.mkdir(parents=True)
        for name in names:
            (folder / name).write_text("")
    folders, chosen = carry.link_libraries(links, [own, packages])
    assert folders == [links, own, of_packages]
    assert chosen["libcudart.so.12"] == chosen["libnccl.so.2"] == "none"  # the runtime only as it is
    assert (links / "libcublas.so.12").resolve() == own / "libcublas.so.13"
    assert (links / "libcufft.so.11").resolve() == of_packages / "libcufft.so.11"
    assert (links / "libcudnn.so.9").resolve() == of_packages / "libcudnn.so.9"
