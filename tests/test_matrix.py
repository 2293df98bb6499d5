"""`.ci/matrix`: its table in docs/compatibility.md, and its messages for rows that do not run."""

import importlib.util
import json
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def matrix() -> ModuleType:
    loader = SourceFileLoader("matrix", str(ROOT / ".ci" / "matrix"))
    spec = importlib.util.spec_from_loader("matrix", loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # no .ci/__pycache__
    loader.exec_module(module)
    sys.dont_write_bytecode = before
    return module


@pytest.fixture
def elsewhere(matrix: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for the files that the matrix writes."""
    monkeypatch.setattr(matrix, "BUILD", tmp_path / "build")
    monkeypatch.setattr(matrix, "DATA", tmp_path / "matrix.json")
    monkeypatch.setattr(matrix, "PAGE", tmp_path / "page.md")
    matrix.PAGE.write_text(f"before\n{matrix.BEGIN}old\n{matrix.END}after\n", encoding="utf-8")
    return tmp_path


FOUND = {
    "backend": "jax",
    "versions": {"jax": "0.5.3", "keras": "3.8.0", "python": "3.10.13", "numpy": "2.2.6", "lstm_fast": "0.1.0"},
    "passed": 7,
    "failed": 0,
    "skipped": 1,
}


def test_the_page_has_what_was_run(matrix: ModuleType) -> None:
    data = json.loads(matrix.DATA.read_text(encoding="utf-8"))
    assert data.keys() <= matrix.rows().keys()
    assert all(found.get("passed", 0) > 50 or "problem" in found for found in data.values())
    text = matrix.PAGE.read_text(encoding="utf-8")
    assert matrix.page(text, data) == text


def test_rows(matrix: ModuleType) -> None:
    assert {backend for _, _, backend in matrix.rows().values()} == set(matrix.NAMES)
    for file in {*matrix.TESTS, *(file for files in matrix.TESTS_OF.values() for file in files)}:
        assert (ROOT / "tests" / file).exists()


def test_results_join_those_of_other_rows(
    matrix: ModuleType, elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def test(name: str) -> dict[str, object]:
        if name == "torch-2.6":
            raise matrix.InstallError("does not install: no such release")
        if name == "jax-0.6":
            raise matrix.MissingError("expected Python 3.12, python3.12 is missing; set PYTHON_3_12")
        return {**FOUND, "failed": int(name == "jax")}

    monkeypatch.setattr(matrix, "test", test)
    assert matrix.main(["jax-0.5"]) == 0
    assert matrix.main(["jax"]) == 1
    assert matrix.main(["torch-2.6", "jax-0.6"]) == 1
    assert "jax-0.6: expected Python 3.12, python3.12 is missing" in capsys.readouterr().out
    assert list(json.loads(matrix.DATA.read_text(encoding="utf-8"))) == ["jax-0.5", "jax", "torch-2.6"]
    text = (elsewhere / "page.md").read_text(encoding="utf-8")
    assert text.startswith(f"before\n{matrix.BEGIN}| ")
    assert text.endswith(f" |\n{matrix.END}after\n")
    for cells in ("| JAX 0.5.3 | 3.8.0 | 3.10.13 | 2.2.6 | 7 passed |", "| 7 passed, 1 failed |", "no such release"):
        assert cells in text


def test_interpreters(matrix: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    here = "{}.{}".format(*sys.version_info)
    monkeypatch.setenv(f"PYTHON_{here.replace('.', '_')}", sys.executable)
    assert matrix.interpreter(here) == sys.executable
    for version, name, message in (
        ("3.1", "/nowhere/python", "expected Python 3.1, /nowhere/python is missing; set PYTHON_3_1"),
        ("3.1", sys.executable, f"expected Python 3.1, {sys.executable} is {here}; set PYTHON_3_1"),
    ):
        monkeypatch.setenv("PYTHON_3_1", name)
        with pytest.raises(matrix.MissingError) as error:
            matrix.interpreter(version)
        assert str(error.value) == message


@pytest.mark.fast
def test_unknown_rows(matrix: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert matrix.main(["jax-0.4"]) == 2
    assert "no such row: jax-0.4; expected: minima" in capsys.readouterr().err
