"""The documentation in docs/: its code runs and prints the text of the page, its messages are those of the sources, it
builds.

In a page, a comment on the line before a block says what to do with it: `<!-- not run: REASON -->`,
`<!-- not compared: REASON -->` for the output after it, and `<!-- own process -->` for code that must run before a
framework starts.

A `console` block shows a terminal. Its commands, after `$`, run in the folder of the page's code. Of their output, only
the lines with the command's own errors and warnings are compared.
"""

import contextlib
import doctest
import io
import json
import os
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import keras
import messages
import pytest
import shared_data

import lstm_fast
from lstm_fast import cli

pytest.importorskip("tensorflow")

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))

# Commands that no test runs, by their beginning.
NOT_RUN = {
    "make ": "installs an environment; CI runs make demo and make test as README.md has them",
    "pip install": "needs a package index",
    "pip uninstall": "would take away what is tested",
    ".ci/nvcc": "needs a package index",
    "CUDA_HOME=": "compiles for minutes",
    "export ": "is a setting for what comes after it",
    "jupyter lab": "opens a browser; the notebooks themselves are run here",
    "mkdir ": "is for the lines after it",
    "pytest benchmarks": "takes long; CI runs it once, without measuring",
    "pytest -m gpu": "needs a GPU",
    "python -m benchmarks": "measures for minutes; tests in benchmarks/ run these commands in small",
}
# Options that make a command of lstm-fast quick. The last of several equal options counts. But all shapes are measured,
# so this one replaces the page's.
QUICK = {
    "train": "--epochs 1 --limit 4 --batch-size 2",
    "compare": "--steps 1 --limit 4 --batch-size 2",
    "bench": "--shape 2,3,4,5",
    "status": "",
}


# Packages that the code of a page needs beside Keras, TensorFlow and NumPy.
NEEDS = {"export": ("onnxruntime", "tf2onnx", "openvino", "ai_edge_litert"), "data": ("tensorflow_datasets",)}


class Block(NamedTuple):
    """A fenced block of a page."""

    language: str
    text: str
    line: int  # the first line of its text
    marks: dict[str, str]  # the comment before it, and its reason
    follows: bool  # whether nothing else is between it and the block before


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    found: list[Block] = []
    end = 0
    text = page.read_text(encoding="utf-8")
    for match in re.finditer(r"(?:^<!-- ([^\n]*) -->\n)?^( *)```(\w*)\n(.*?)^\2```$", text, re.MULTILINE | re.DOTALL):
        mark, _, language, body = match.groups()
        name, _, reason = (mark or "").partition(": ")
        line = text.count("\n", 0, match.start(4)) + 1
        follows = bool(found) and not text[end : match.start()].strip()
        found.append(Block(language, textwrap.dedent(body), line, {name: reason} if name else {}, follows))
        end = match.end()
    return found


def check_marks(page: Path) -> None:
    for block in blocks(page):
        for name, reason in block.marks.items():
            assert name in ("not run", "not compared", "own process"), f"{page.name}:{block.line}: <!-- {name} -->"
            assert reason or name == "own process", f"{page.name}:{block.line}: {name}: expected a reason"


@pytest.fixture
def as_a_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty folder, and the settings of a user. Keras's own settings are restored afterwards."""
    for name in list(os.environ):
        if name.startswith("LSTM_FAST_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    keras.utils.clear_session()  # it counts the names of layers from the start
    policy = keras.config.dtype_policy()
    yield
    keras.config.set_dtype_policy(policy)


def with_code() -> list[Path]:
    return [
        page
        for page in (ROOT / "README.md", *PAGES)
        if any(block.language in ("python", "console") for block in blocks(page))
    ]


def run_on_a_terminal(page: Path, block: Block, folder: Path) -> None:
    """Runs the commands of a console block one after the other."""
    for session in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command, _, shown = session.partition("\n")
        code, printed = (run_here if is_ours(command) else run_in_shell)(command, folder)
        where = f"{page.name}:{block.line}: {command}\n{printed}"
        own = [line for line in shown.splitlines() if line.startswith("lstm-fast: ")]
        assert code == (2 if any("error:" in line for line in own) else 0), where
        assert own == [line for line in printed.splitlines() if line.startswith("lstm-fast: ")], where


def run_here(command: str, _: Path) -> tuple[int, str]:
    """Runs a command of lstm-fast in this process: importing TensorFlow takes longer than most of them."""
    program, *words = shlex.split(command)
    assert program == "lstm-fast"
    assert not set(words) & {"|", "<", ">", ">>"}, f"{command}: expected nothing that a shell does"
    with (
        io.StringIO() as output,
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(output),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr("lstm_fast.bench.model.measure.BUDGET_SECONDS", 0.0)
        return cli.main(words), output.getvalue()


def run_in_shell(command: str, folder: Path) -> tuple[int, str]:
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        check=False,
    )
    return done.returncode, done.stdout


# Keras's own warnings, when it saves a model, and the converters'.
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:In the future `np.object` will be defined:FutureWarning")
@pytest.mark.parametrize("page", with_code(), ids=lambda page: page.stem)
@pytest.mark.usefixtures("as_a_user")
def test_code_runs_and_prints_what_the_page_says(page: Path, tmp_path: Path) -> None:
    for package in NEEDS.get(page.stem, ()):
        pytest.importorskip(package)
    check_marks(page)
    namespace: dict[str, object] = {"__name__": "__main__"}
    printed: str | None = None  # the output of the code before
    checker = doctest.OutputChecker()
    for block in blocks(page):
        if block.language == "python":
            printed = None
            if "not run" in block.marks:
                continue
            # The lines of an error are the page's lines.
            code = "\n" * (block.line - 1) + block.text
            if "own process" in block.marks:
                printed = run_apart(code)
            else:
                with contextlib.redirect_stdout(io.StringIO()) as output:
                    exec(compile(code, str(page), "exec"), namespace)
                printed = output.getvalue()
        elif block.language == "console":
            if "not run" not in block.marks:
                run_on_a_terminal(page, block, tmp_path)
        else:
            if block.language == "text" and printed is not None and block.follows and "not compared" not in block.marks:
                assert checker.check_output(block.text, printed, doctest.ELLIPSIS), (
                    f"{page.name}:{block.line}: expected\n{block.text}\nfound\n{printed}"
                )
            printed = None


def run_apart(code: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


LANGUAGES = ("python", "text", "bash", "console")


@pytest.mark.fast
def test_blocks_say_what_they_are() -> None:
    """Otherwise no test would run them."""
    for page in PAGES:
        fences = re.findall(r"^ *```", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert len(fences) == 2 * len(blocks(page)), page.name
        for block in blocks(page):
            where = f"{page.name}:{block.line}"
            assert block.language in LANGUAGES, f"{where}: expected ``` and one of {', '.join(LANGUAGES)}"


# Shell


def commands() -> list[tuple[str, str]]:
    """Every command of the pages, with its place."""
    return [
        (f"{page.name}:{block.line}", line.partition("#")[0].strip())
        for page in PAGES
        for block in blocks(page)
        if block.language == "bash" and "not run" not in block.marks
        for line in block.text.replace("\\\n", " ").splitlines()
        if line.strip() and not line.startswith("#")
    ]


def is_ours(command: str) -> bool:
    return bool(re.match(r"(\w+=\S+ )*lstm-fast ", command))


@pytest.mark.fast
def test_commands_are_run_or_said_not_to_be() -> None:
    for where, command in commands():
        if not is_ours(command):
            assert any(command.startswith(beginning) for beginning in NOT_RUN), (
                f"{where}: {command}: run it, or say in NOT_RUN of {Path(__file__).name} why not"
            )
    for beginning in NOT_RUN:
        assert any(command.startswith(beginning) for _, command in commands()), f"NOT_RUN: {beginning} is on no page"


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")
@pytest.mark.parametrize("command", sorted({command for _, command in commands() if is_ours(command)}))
@pytest.mark.usefixtures("as_a_user")
def test_command(command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(command)
    while "=" in words[0]:
        name, _, value = words.pop(0).partition("=")
        # Read once in a process. The reader's process is another one.
        if name in ("LSTM_FAST_ISA", "LSTM_FAST_NUM_THREADS"):
            assert value in ("generic", "avx2", "avx512", "neon") or value.isdigit()
        else:
            monkeypatch.setenv(name, value)
    _, name, *options = words
    if name == "bench":
        pytest.importorskip("rich")
        from lstm_fast.bench import measure

        monkeypatch.setattr(measure, "BUDGET_SECONDS", 0.0)
        if "--shape" in options:
            place = options.index("--shape")
            del options[place : place + 2]
    if name in ("train", "compare"):
        pytest.importorskip("tensorflow_datasets")
    assert cli.main([name, *options, *QUICK[name].split()]) == 0, capsys.readouterr().err


# Messages


@pytest.mark.fast
def test_every_message_is_in_the_troubleshooting_page() -> None:
    assert len(messages.all_messages()) > 100  # the collector finds them
    for name in messages.INTERNAL | messages.WRITES.keys():
        source = (messages.PACKAGE / name).read_text(encoding="utf-8")
        for function in messages.WRITES.get(name, ()):
            assert f"def {function}(" in source, f"tests/messages.py: {name}: no function {function}"
    lacking = [f"{message.where}: {message.key}" for message in messages.missing()]
    assert not lacking, "docs/troubleshooting.md has no entry for\n" + "\n".join(lacking)


# Notebooks


def run_notebook(path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, **environment: str) -> str:
    """Runs a notebook with the settings of a user; returns its output."""
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    for name in list(os.environ):
        if name.startswith("LSTM_FAST_"):
            monkeypatch.delenv(name)
    for name, value in {"PYTHONPATH": str(ROOT), "MPLBACKEND": "agg", **environment}.items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    resources = {"metadata": {"path": str(folder)}}
    nbclient.NotebookClient(notebook, timeout=240, kernel_name="python3", resources=resources).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return "".join(output["text"] for output in outputs if output.get("name") == "stdout")


def test_reviews(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorflow_datasets")
    printed = run_notebook(DOCS / "notebooks" / "reviews.ipynb", tmp_path, monkeypatch)
    assert "single: largest difference of the losses" in printed
    assert "stacked: a step of keras.layers.LSTM" in printed


@pytest.mark.parametrize("recorded", [False, True])
def test_time_series(recorded: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = shared_data.path("timeseries").parent if recorded else tmp_path
    path = DOCS / "notebooks" / "time-series.ipynb"
    printed = run_notebook(path, tmp_path, monkeypatch, LSTM_FAST_DATA=str(folder))
    assert f"data: {'the recordings in' if recorded else 'made by this notebook'}" in printed
    assert "(LSTM): fast" in printed


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_hold_no_results(path: Path) -> None:
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


# The site


def test_site_builds_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    for package in ("material", "mkdocstrings"):
        pytest.importorskip(package)
    site = tmp_path / "site"
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(site)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for page in PAGES:
        html = (site / f"{page.stem}.html").read_text(encoding="utf-8")
        # Links may lead to other sites, but a browser must not load anything from there.
        loaded = re.findall(r"<(?:script|img|iframe|source)[^>]* src=\"?([^\" >]+)", html)
        loaded += re.findall(r"<link[^>]* rel=\"?(?:stylesheet|icon|preconnect)\"?[^>]* href=\"?([^\" >]+)", html)
        loaded += re.findall(r"<link[^>]* href=\"?([^\" >]+)\"?[^>]* rel=\"?(?:stylesheet|icon|preconnect)", html)
        assert loaded
        assert not [address for address in loaded if "//" in address], page.name
        assert not re.search(r"@import|url\(\"?https?:", html), page.name
    api = (site / "api.html").read_text(encoding="utf-8")
    for name in lstm_fast.__all__:
        if not name.startswith("__"):
            assert f'id="lstm_fast.{name}"' in api, name
