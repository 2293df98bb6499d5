"""`lstm-fast predict`: its results for texts, their order, and its errors."""

import csv
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from lstm_fast import _core
from lstm_fast.cli import main

pytest.importorskip("tensorflow")

from lstm_fast.text import prediction
from lstm_fast.text import vocabulary as subwords

# Keras's own warnings, when it saves a model.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")

WORDS = ("good", "bad", "so-so", "film", "a", "the", "was", "and")


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vocabulary") / "words.subwords"
    subwords.save(subwords.encoder_class()([f"{word}_" for word in WORDS]), path)
    return path


def trained(folder: Path, vocabulary: Path, classes: tuple[str, ...], *options: str) -> Path:
    """The folder of a run. Its weights were made large, so that its probabilities differ."""
    rng = np.random.default_rng(0)
    data = folder / "data.csv"
    with data.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["opinion", "class"])
        for n in range(12 * len(classes)):
            writer.writerow([" ".join(rng.choice(WORDS, 4 + n % 7)), classes[n % len(classes)]])
    arguments = ["--data", str(data), "--vocabulary", str(vocabulary), "--batch-size", "8", "--epochs", "1", *options]
    assert main(["train", *arguments, "--output", str(folder / "run")]) == 0
    model = keras.saving.load_model(folder / "run" / "model.keras")
    model.set_weights([3 * weight for weight in model.get_weights()])
    model.save(folder / "run" / "model.keras")
    return folder / "run"


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, vocabulary: Path) -> Path:
    """A run with two classes, on the fused kernels, without a mask."""
    return trained(tmp_path_factory.mktemp("two"), vocabulary, ("bad", "good"))


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory, vocabulary: Path) -> Path:
    """A run with three classes, on Keras's own layers, with a mask."""
    return trained(tmp_path_factory.mktemp("three"), vocabulary, ("bad", "so-so", "good"), "--layer", "keras", "--mask")


TEXTS = ["the film was good", "bad", "a film and a film and a film and the good the bad", "so-so, so-so", "good " * 40]


def predicted(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[list[dict[str, Any]], str]:
    """The rows of the CSV that a command prints, and its warnings."""
    capsys.readouterr()
    assert main(["predict", *arguments]) == 0
    printed = capsys.readouterr()
    return list(csv.DictReader(io.StringIO(printed.out, newline=""))), printed.err


def lines(path: Path, texts: list[str]) -> str:
    path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return str(path)


def expected(run: Path, text: str, length: int) -> np.ndarray:
    """The probabilities by `model.predict`, on the same ids."""
    ids = subwords.load(run / "vocabulary.subwords").encode(text)
    model = keras.saving.load_model(run / "model.keras")
    logits = model.predict(np.array([ids + [0] * (length - len(ids))]), verbose=0)[0]
    if len(logits) > 1:
        return np.asarray(keras.ops.softmax(logits))
    positive = 1 / (1 + np.exp(-logits[0]))
    return np.array([1 - positive, positive])


@pytest.mark.parametrize("name", ["two", "three"])
def test_probabilities_are_those_of_the_model(
    name: str, request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = request.getfixturevalue(name)
    before = _core.fused_calls()["forward"]
    rows, warnings = predicted(capsys, "--model", str(run), lines(tmp_path / "texts.txt", TEXTS))
    assert (_core.fused_calls()["forward"] > before) == (name == "two")
    assert warnings == ""
    classes = ("bad", "good") if name == "two" else ("bad", "good", "so-so")
    assert list(rows[0]) == ["line", "text", "prediction", *(f"p_{name}" for name in classes)]
    assert [row["text"] for row in rows] == [text.strip() for text in TEXTS]
    assert [int(row["line"]) for row in rows] == [1, 2, 3, 4, 5]
    found = np.array([[float(row[f"p_{name}"]) for name in classes] for row in rows])
    encoder = subwords.load(run / "vocabulary.subwords")
    for row, shares, text in zip(rows, found, TEXTS, strict=True):
        tokens = len(encoder.encode(text.strip()))
        length = min(n for n in (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64) if n >= tokens)
        np.testing.assert_allclose(shares, expected(run, text.strip(), length), atol=1e-5)
        assert row["prediction"] == classes[int(np.argmax(shares))]
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
    assert np.ptp(found[:, 0]) > 0.01  # they differ


def test_a_masked_model_does_not_see_the_padding(three: Path) -> None:
    text = TEXTS[2]
    found = prediction.load(three).probabilities([text])[0]
    ids = subwords.load(three / "vocabulary.subwords").encode(text)
    for length in (len(ids), 100):
        np.testing.assert_allclose(found, expected(three, text, length), atol=1e-5)


@pytest.mark.parametrize("name", ["two", "three"])
def test_a_result_does_not_depend_on_its_neighbours(name: str, request: pytest.FixtureRequest) -> None:
    classifier = prediction.load(request.getfixturevalue(name))
    together = classifier.probabilities(TEXTS, batch_size=3)
    alone = np.concatenate([classifier.probabilities([text]) for text in TEXTS])
    # TensorFlow's products round differently for other numbers of rows, and on other processors.
    np.testing.assert_allclose(together, alone, atol=1e-5)
    backwards = classifier.probabilities(TEXTS[::-1] * 3)
    np.testing.assert_allclose(backwards, np.tile(alone[::-1], (3, 1)), atol=1e-5)


# What is read


def test_tables(two: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first guess is the run's own column, then come the usual names. Or the user names the column."""
    path = tmp_path / "a.csv"
    path.write_text("id,text,opinion\n1,bad,good\n2,good,bad\n", encoding="utf-8")
    rows, _ = predicted(capsys, "--model", str(two), str(path))
    assert [row["text"] for row in rows] == ["good", "bad"]
    assert [row["line"] for row in rows] == ["2", "3"]
    rows, _ = predicted(capsys, "--model", str(two), "--text-column", "text", str(path))
    assert [row["text"] for row in rows] == ["bad", "good"]
    other = tmp_path / "b.jsonl"
    other.write_text('{"review": "good", "stars": 5}\n', encoding="utf-8")
    rows, _ = predicted(capsys, "--model", str(two), str(other))
    assert [row["text"] for row in rows] == ["good"]


def test_parquet(two: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pa.table({"text": ["good", None, "bad"]}), tmp_path / "a.parquet")
    rows, warnings = predicted(capsys, "--model", str(two), str(tmp_path / "a.parquet"))
    assert [row["text"] for row in rows] == ["good", "", "bad"]
    assert [row["row"] for row in rows] == ["1", "2", "3"]
    assert warnings == "lstm-fast: warning: no result for 1 of 3 rows: row 2: no text\n"


def test_bad_rows_keep_their_place(two: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.csv"
    path.write_text('opinion,n\ngood,1\n\n"open,2\nbad,3,4\n,5\nfilm,6\n', encoding="utf-8")
    rows, warnings = predicted(capsys, "--model", str(two), str(path))
    assert [(row["line"], row["text"], row["prediction"] != "", row["p_bad"] != "") for row in rows] == [
        ("2", "good", True, True),
        ("3", "", False, False),
        ("4", "", False, False),
        ("5", "", False, False),
        ("6", "", False, False),
        ("7", "film", True, True),
    ]
    assert warnings == (
        "lstm-fast: warning: no result for 4 of 6 lines: line 3: an empty line; line 4: a quotation mark that nothing "
        "closes; line 5: expected 2 cells, found 3; line 6: no text\n"
    )


@pytest.mark.backends("jax", "torch")
def test_tensorflow_predicts_with_what_another_backend_has_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"{'good' if n % 2 else 'bad'} film {n},{n % 2}" for n in range(24)]
    (tmp_path / "a.csv").write_text("\n".join(["text,label", *rows]), encoding="utf-8")
    run = str(tmp_path / "run")
    given = ["--data", str(tmp_path / "a.csv"), "--batch-size", "8", "--model", "stacked", "--mask"]
    before = _core.fused_calls()["backward"]
    assert main(["train", *given, "--output", run, "--epochs", "1"]) == 0
    assert main(["train", "--output", run, "--resume", "--epochs", "2"]) == 0
    assert _core.fused_calls()["backward"] > before
    assert json.loads((tmp_path / "run" / "run.json").read_text())["backend"] == keras.backend.backend()
    capsys.readouterr()
    found, _ = predicted(capsys, "--model", run, lines(tmp_path / "a.txt", ["good film", "bad"]))
    command = [sys.executable, "-m", "lstm_fast", "predict", "--model", run, str(tmp_path / "a.txt")]
    other = {**os.environ, "KERAS_BACKEND": "tensorflow"}
    result = subprocess.run(command, capture_output=True, check=True, env=other, text=True)
    theirs = list(csv.DictReader(io.StringIO(result.stdout, newline="")))
    assert [row["prediction"] for row in found] == [row["prediction"] for row in theirs]
    for ours, other_row in zip(found, theirs, strict=True):
        assert float(ours["p_1"]) == pytest.approx(float(other_row["p_1"]), abs=1e-5)


def test_stdin_and_a_pipe(two: Path) -> None:
    """In another process, with an output that is not a terminal, and in a locale without umlauts."""
    command = [sys.executable, "-m", "lstm_fast", "predict", "--model", str(two / "model.keras"), "-"]
    given = "good\r\n\nschön\u2028 \N{GRINNING FACE}\n".encode()
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    result = subprocess.run(command, input=given, capture_output=True, check=True, env=environment)
    rows = list(csv.reader(io.StringIO(result.stdout.decode(), newline="")))
    assert [row[:2] for row in rows[1:]] == [["1", "good"], ["2", ""], ["3", "schön\u2028 \N{GRINNING FACE}"]]
    assert result.stderr.decode() == "lstm-fast: warning: no result for 1 of 3 lines: line 2: no text\n"


def test_output(two: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = lines(tmp_path / "texts.txt", TEXTS)
    output = tmp_path / "new" / "found.csv"
    capsys.readouterr()
    assert main(["predict", "--model", str(two), "--output", str(output), source]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"{output} written: 5 lines, bad ")
    with output.open(encoding="utf-8", newline="") as file:
        assert [row["text"] for row in csv.DictReader(file)] == [text.strip() for text in TEXTS]
    assert [path.name for path in output.parent.iterdir()] == ["found.csv"]


def test_a_terminal_gets_a_table(
    three: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "100")
    source = lines(tmp_path / "texts.txt", ["[bold]good[/nothing] film", "", "bad " * 100])
    assert main(["predict", "--model", str(three), source]) == 0
    printed = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)  # colours
    for text in ("prediction", "so-so", "[bold]good[/nothing] film", "no text", "…", "0."):
        assert text in printed
    assert max(map(len, printed.splitlines())) <= 100


# What is refused


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert main(["predict", *arguments]) == 2
    message = capsys.readouterr().err
    assert message.startswith("lstm-fast: error: ")
    assert message.count("\n") == 1
    return message


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("a.txt", b"", [], "expected at least one text in"),
        ("a.txt", b" \n\n", [], "expected at least one text in"),
        ("a.txt", b"good\ncaf\xe9\n", [], "texts: expected UTF-8 text in"),
        ("a.txt", b"good\n", ["--text-column", "x"], "--text-column: expected none for lines of text, found 'x'"),
        ("a.docx", b"PK", [], "texts: expected a .txt file with a text a line, or one of .csv"),
        ("a.csv", b"a,b,c\n1,2,3\n", [], "texts: expected a column with the texts in"),
        ("a.csv", b"a,b,c\n1,2,3\n", ["--text-column", "x"], "--text-column: expected one of 'a', 'b', 'c' of"),
        ("a.txt", b"good\n", ["--output", "found.txt"], "--output: expected a name that ends in .csv, found found.txt"),
        ("a.txt", b"good\n", ["--vocabulary", "nowhere"], "--vocabulary: expected a .subwords file, found nothing at"),
        ("nothere.txt", None, [], "texts: expected a file or - for stdin, found nothing at"),
    ],
)
def test_wrong_texts(
    name: str,
    content: bytes | None,
    options: list[str],
    message: str,
    two: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert message in fails(capsys, "--model", str(two), *options, str(tmp_path / name))


def test_texts_of_a_pipe(two: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The shell makes such a pipe for <(command)."""
    reader, writer = os.pipe()
    os.write(writer, b"good film\nbad film\n")
    os.close(writer)
    rows, _ = predicted(capsys, "--model", str(two), f"/dev/fd/{reader}")
    os.close(reader)
    assert [row["text"] for row in rows] == ["good film", "bad film"]
    message = fails(capsys, "--model", str(two), str(tmp_path))
    assert f"texts: expected a file or - for stdin, found the folder {tmp_path}" in message


@pytest.mark.parametrize("first", ['{"review": "good film"}', 'number,"review"', "review\tsentiment"])
def test_lines_that_look_like_a_table(first: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(f"{first}\nbad film\n")
    (tmp_path / "b.txt").write_text("good film, as a review\nbad film\n")
    warnings: list[str] = []
    _, texts = prediction.read_texts(str(tmp_path / "a.txt"), None, "review", warnings.append)
    assert [text.content for text in texts] == [first, "bad film"]
    (warning,) = warnings
    assert "the first line looks like that of a table, but each line is taken for a text" in warning
    prediction.read_texts(str(tmp_path / "b.txt"), None, "review", warnings.append)
    assert len(warnings) == 1


def test_an_output_that_is_a_folder(two: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "found.csv").mkdir()
    given = ["--model", str(two), lines(tmp_path / "a.txt", ["good"]), "--output", str(tmp_path / "found.csv")]
    assert "output: expected the name of a file, found the folder " in fails(capsys, *given)


def test_no_output_needs_no_folder(
    two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Even root may not write into /proc/self."""
    monkeypatch.chdir("/proc/self")
    rows, _ = predicted(capsys, "--model", str(two), lines(tmp_path / "a.txt", ["good"]))
    assert len(rows) == 1


def test_the_output_is_not_the_input(two: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text\ngood\n", encoding="utf-8")
    message = fails(capsys, "--model", str(two), "--output", str(path), str(path))
    assert "output: expected another file than the one with the texts" in message
    assert path.read_text(encoding="utf-8") == "text\ngood\n"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: (run / "model.keras").unlink(), "model: expected the folder of a run, or its model.keras, found"),
        (lambda run: (run / "model.keras").write_bytes(b"PK"), "model: expected a whole Keras model in"),
        (lambda run: (run / "run.json").write_text("{"), "model: expected what train has written in"),
        (lambda run: (run / "vocabulary.subwords").unlink(), "vocabulary: expected a .subwords file, found nothing at"),
        (
            lambda run: subwords.save(subwords.encoder_class()(["a_"]), run / "vocabulary.subwords"),
            "model.keras was trained with, of 265, found one of 258",
        ),
        (
            lambda run: (run / "run.json").write_text(json.dumps({"data": {"classes": ["a", "b", "c"]}})),
            "model: expected a model of 3 classes, as run.json has, found 2 in",
        ),
        (
            lambda run: keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)]).save(run / "model.keras"),
            "model: expected a model of lstm-fast train, from token ids to logits, found another in",
        ),
    ],
)
def test_wrong_models(damage: Any, message: str, two: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for name in ("model.keras", "run.json", "vocabulary.subwords"):
        (run / name).write_bytes((two / name).read_bytes())
    damage(run)
    assert message in fails(capsys, "--model", str(run), lines(tmp_path / "a.txt", TEXTS))


def test_a_model_alone_has_numbers_for_names(
    two: Path, vocabulary: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.keras").write_bytes((two / "model.keras").read_bytes())
    given = ["--model", str(tmp_path / "mine.keras"), "--vocabulary", str(vocabulary)]
    rows, _ = predicted(capsys, *given, lines(tmp_path / "a.txt", TEXTS))
    assert list(rows[0]) == ["line", "text", "prediction", "p_0", "p_1"]
