"""The backend that Keras gets if nobody has chosen one, and the message if there is none."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

PACKAGE = pathlib.Path(__file__).parents[1]

# Python runs a file of this name first: it hides packages as if they were not installed.
HIDE = """
import importlib.machinery, os
hidden = os.environ["HIDDEN"].split(",")
find = importlib.machinery.PathFinder.find_spec
def find_spec(name, *arguments):
    return None if name.partition(".")[0] in hidden else find(name, *arguments)
importlib.machinery.PathFinder.find_spec = staticmethod(find_spec)
"""
FRAMEWORKS = ("tensorflow", "jax", "torch")


def run(
    folder: pathlib.Path, *words: str, installed: str = "", configured: str | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs Python as if only some of the frameworks were installed, with or without Keras's file that names one.

    Skips the test if one of them is not installed here.
    """
    for name in filter(None, installed.split(",")):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    (folder / "sitecustomize.py").write_text(HIDE)
    home = folder / "keras"
    home.mkdir(exist_ok=True)
    if configured is not None:
        (home / "keras.json").write_text(json.dumps({"backend": configured}))
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("LSTM_FAST_", "KERAS_"))}
    path = os.pathsep.join([str(folder), str(PACKAGE), inherited.get("PYTHONPATH", "")])
    hidden = [name for name in (*FRAMEWORKS, "openvino") if name not in installed.split(",")]
    return subprocess.run(
        [sys.executable, *words],
        env={**inherited, "PYTHONPATH": path, "KERAS_HOME": str(home), "HIDDEN": ",".join(hidden), **environment},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


# Chooses a backend without the import of Keras, which takes seconds.
CHOOSE = """
import logging, os, sys, types
logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s", stream=sys.stdout)
package = types.ModuleType("lstm_fast")
package.__path__ = [sys.argv[1]]
sys.modules["lstm_fast"] = package
from lstm_fast import environment
environment.prepare()
print("chosen", os.environ.get("KERAS_BACKEND"))
"""


@pytest.mark.parametrize(
    ("installed", "configured", "chosen", "level"),
    [
        ("tensorflow,jax", None, None, None),
        ("jax", None, "jax", "INFO"),
        ("torch", None, "torch", "INFO"),
        ("jax,torch", None, "jax", "WARNING"),
        ("jax,torch", "torch", None, None),
        ("tensorflow,torch", "jax", "tensorflow", "WARNING"),
        ("torch", "numpy", "torch", "INFO"),
        ("jax", "numpy", None, None),
        ("jax", "nothing that Keras knows", "jax", "INFO"),
    ],
)
def test_what_is_installed_is_used(
    tmp_path: pathlib.Path, installed: str, configured: str | None, chosen: str | None, level: str | None
) -> None:
    done = run(tmp_path, "-c", CHOOSE, str(PACKAGE / "lstm_fast"), installed=installed, configured=configured)
    assert done.returncode == 0, done.stderr
    *said, found = done.stdout.splitlines()
    assert found == f"chosen {chosen}"
    if level is None:
        assert not said
    else:
        (line,) = said
        assert line.startswith(f"{level} lstm_fast Keras is set up for {configured or 'tensorflow'}, which is not ")
        assert f"runs on {chosen}" in line


def test_a_folder_of_the_same_name_is_not_an_installation(tmp_path: pathlib.Path) -> None:
    (tmp_path / "tensorflow").mkdir()
    done = run(tmp_path, "-c", CHOOSE, str(PACKAGE / "lstm_fast"), installed="tensorflow,torch", HIDDEN="jax")
    assert done.stdout.splitlines()[-1] == "chosen None"  # the installed one is found behind it
    script = f"import sys; sys.path[:] = [{str(tmp_path)!r}, *(p for p in sys.path if 'packages' not in p)]\n{CHOOSE}"
    done = run(tmp_path, "-c", script, str(PACKAGE / "lstm_fast"), installed="tensorflow")
    assert "found none of them: run pip install" in done.stderr


REFUSED = {
    "none": ("", {}, ["Keras needs TensorFlow, JAX or PyTorch, found none of them", "pip install tensorflow"]),
    "unknown": (
        "jax,torch",
        {"KERAS_BACKEND": "theano"},
        ["KERAS_BACKEND: expected one of tensorflow, jax, torch, numpy, openvino", "'theano'", ": jax and torch"],
    ),
    "absent": ("jax", {"KERAS_BACKEND": "torch"}, ["KERAS_BACKEND: found 'torch'", "the package torch", ": jax"]),
    "numpy": ("torch", {"KERAS_BACKEND": "numpy"}, ["KERAS_BACKEND: found 'numpy'", "the package jax", ": torch"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_run_is_said_in_one_line(tmp_path: pathlib.Path, case: str) -> None:
    installed, environment, expected = REFUSED[case]
    imported = run(tmp_path, "-c", "import lstm_fast", installed=installed, **environment)
    assert imported.returncode == 1
    error = imported.stderr.splitlines()[-1].removeprefix("ImportError: ")
    assert all(part in error for part in expected)

    command = tmp_path / "lstm-fast"  # as pip writes it
    command.write_text("import sys\nfrom lstm_fast.cli import main\nsys.exit(main())\n")
    for words in ([str(command)], ["-m", "lstm_fast"]):
        done = run(tmp_path, *words, "status", installed=installed, **environment)
        assert (done.returncode, done.stdout, done.stderr) == (2, "", f"lstm-fast: error: {error}\n")


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["bench", "--help"]])
@pytest.mark.fast
def test_help_waits_for_no_framework(tmp_path: pathlib.Path, words: list[str]) -> None:
    done = run(tmp_path, "-m", "lstm_fast", *words, installed="")
    assert (done.returncode, done.stderr) == (0, "")
    assert "lstm" in done.stdout


@pytest.mark.backends("tensorflow")
def test_the_start_up_messages_of_tensorflow_are_held_back(tmp_path: pathlib.Path) -> None:
    # Which messages there are depends on the processor and on drivers.
    assert run(tmp_path, "-c", "import tensorflow", installed="tensorflow").stderr, "nothing to hold back"
    done = run(tmp_path, "-m", "lstm_fast", "status", installed="tensorflow")
    assert (done.returncode, done.stderr) == (0, "")


def test_the_command_runs_on_the_only_framework(tmp_path: pathlib.Path) -> None:
    done = run(tmp_path, "-m", "lstm_fast", "status", "--json", installed="jax", configured="tensorflow")
    assert done.returncode == 0, done.stderr
    status = json.loads(done.stdout)
    assert (status["keras_backend"], status["libraries"]["jax"], status["problems"]) == ("jax", "loaded", [])


def test_keras_imported_before_decides(tmp_path: pathlib.Path) -> None:
    script = "import sys, types; sys.modules['keras'] = types.ModuleType('keras')\n" + CHOOSE
    done = run(tmp_path, "-c", script, str(PACKAGE / "lstm_fast"), KERAS_BACKEND="theano")
    assert done.stdout.splitlines() == ["chosen theano"]
