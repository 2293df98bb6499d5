"""Texts of the user: tables and folders, guesses about them, and errors in them."""

import contextlib
import csv
import decimal
import gzip
import io
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lstm_fast
from lstm_fast import _core
from lstm_fast.cli import main
from lstm_fast.errors import DataError

pytest.importorskip("tensorflow")
pa = pytest.importorskip("pyarrow")

from pyarrow import parquet  # noqa: E402

from lstm_fast.text import corpus, labels  # noqa: E402
from lstm_fast.text import vocabulary as subwords  # noqa: E402
from lstm_fast.text.corpus import Columns  # noqa: E402

# Keras's own warnings, when it saves a model.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")

TEXTS = [f"this film is {word}, {number} times\nand more" for number in range(5) for word in ("good", "bad")]
NAMES = ["positive", "negative"] * 5
Rows = list[tuple[Any, Any]]
ROWS: Rows = list(zip(TEXTS, NAMES, strict=True))


def write_csv(path: Path, rows: Rows, header: tuple[str, str] = ("review", "sentiment"), delimiter: str = ",") -> Path:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter).writerows([header, *rows])
    return write(path, text.getvalue().encode())


def write_json(path: Path, rows: Rows, header: tuple[str, str] = ("review", "sentiment")) -> Path:
    return write(path, "".join(json.dumps(dict(zip(header, row, strict=True))) + "\n" for row in rows).encode())


def write_parquet(path: Path, rows: Rows, header: tuple[str, str] = ("review", "sentiment"), **metadata: str) -> Path:
    table = pa.table({name: list(column) for name, column in zip(header, zip(*rows, strict=True), strict=True)})
    parquet.write_table(table.replace_schema_metadata(metadata or None), path)
    return path


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


class Told(list[str]):
    """The lines about the data, and the warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []


def read(path: Path, told: Told | None = None, **columns: Any) -> corpus.Corpus:
    told = Told() if told is None else told
    return corpus.read(path, Columns(**columns), 0, told.append, told.warnings.append)


def pairs(found: corpus.Corpus) -> Rows:
    """All texts with the names of their classes, sorted."""
    return sorted(
        (text, found.classes[label])
        for texts, labels in found.texts.values()
        for text, label in zip(texts, labels, strict=True)
    )


# Every format gives the same

FORMATS: dict[str, Callable[[Path, Rows], Path]] = {
    "a.csv": write_csv,
    "A.CSV": write_csv,
    "a.csv.gz": write_csv,
    "semicolons.csv": lambda path, rows: write_csv(path, rows, delimiter=";"),
    "a.tsv": lambda path, rows: write_csv(path, rows, delimiter="\t"),
    "a.jsonl": write_json,
    "a.ndjson.gz": write_json,
    "a.json": write_json,
    "a.parquet": write_parquet,
}


@pytest.mark.parametrize("name", FORMATS)
def test_formats(tmp_path: Path, name: str) -> None:
    told = Told()
    found = read(FORMATS[name](tmp_path / name, ROWS), told)
    assert pairs(found) == sorted(ROWS)
    assert found.classes == ("negative", "positive")
    assert found.columns == ("review", "sentiment")
    assert told[0] == "text column 'review', label column 'sentiment': negative (5), positive (5)"
    assert told[1] == "no test set: 2 of 10 texts are for testing (20% of each class, by seed 0)"
    assert told.warnings == []
    assert found.skipped == 0


def test_a_byte_order_mark_and_windows_lines(tmp_path: Path) -> None:
    content = "text,label\r\nschön,1\r\nübel,0\r\ngut,1\r\nöde,0\r\n"
    found = read(write(tmp_path / "a.csv", content.encode("utf-8-sig")))
    assert pairs(found) == sorted([("schön", "1"), ("übel", "0"), ("gut", "1"), ("öde", "0")])
    assert found.columns == ("text", "label")


def test_tsv_without_quoting(tmp_path: Path) -> None:
    """As in GLUE's files: a quotation mark has no special meaning."""
    content = 'sentence\tlabel\n"bad" it is\t0\na "good one\t1\n"never closed\t0\nfine\t1\n'
    assert pairs(read(write(tmp_path / "a.tsv", content.encode()))) == sorted(
        [('"bad" it is', "0"), ('a "good one', "1"), ('"never closed', "0"), ("fine", "1")]
    )


def test_quotes_behind_backslashes(tmp_path: Path) -> None:
    content = 'text,label\n"a \\"good\\", really",1\n"bad",0\n"worse",0\n"fine",1\n'
    assert ('a "good", really', "1") in pairs(read(write(tmp_path / "a.csv", content.encode())))


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        ([10, 9, 2, 10, 9, 2], ("2", "9", "10")),
        ([1.0, 0.0, 1.0, 0.0, 1.0, 0.0], ("0", "1")),
        ([True, False, True, False, True, False], ("False", "True")),
        (["b", " a ", "b", "a", "c", "c"], ("a", "b", "c")),
        (["0", "-0", "1", "1.0", "0.50", "0.5"], ("0", "0.5", "1")),
        (["1" * 5000, "1", "1", "1" * 5000, "2", "2"], ("1", "1" * 5000, "2")),
    ],
    ids=["int", "float", "bool", "text", "spellings", "many digits"],
)
@pytest.mark.parametrize("write_it", [write_csv, write_json, write_parquet])
def test_labels_of_every_kind(tmp_path: Path, write_it: Any, values: list[Any], classes: tuple[str, ...]) -> None:
    rows = [(f"text {index}", value) for index, value in enumerate(values)]
    suffix = {write_csv: "csv", write_json: "jsonl", write_parquet: "parquet"}[write_it]
    found = read(write_it(tmp_path / f"a.{suffix}", rows))
    assert found.classes == classes
    assert len(pairs(found)) == 6


def hub(path: Path, rows: Rows) -> Path:
    label = {"names": ["neg", "pos"], "_type": "ClassLabel"}
    features = {"text": {"dtype": "string", "_type": "Value"}, "label": label}
    return write_parquet(path, rows, ("text", "label"), huggingface=json.dumps({"info": {"features": features}}))


def test_parquet_of_the_hub(tmp_path: Path) -> None:
    """Files with splits and names of labels. One split has no labels."""
    for split, count in (("train", 6), ("test", 4)):
        rows = [(f"{split} {n}", n % 2) for n in range(count)]
        (tmp_path / "plain_text").mkdir(exist_ok=True)
        hub(tmp_path / "plain_text" / f"{split}-00000-of-00001.parquet", rows)
    hub(tmp_path / "plain_text" / "unsupervised-00000-of-00001.parquet", [("no label", -1)])
    told = Told()
    found = read(tmp_path, told)
    assert found.classes == ("neg", "pos")
    assert [len(labels) for _, labels in found.texts.values()] == [6, 4]
    assert found.texts["train"][1].tolist() == [0, 1, 0, 1, 0, 1]
    passed = "plain_text/unsupervised-00000-of-00001.parquet"
    assert f"left out, because neither for training nor for testing: {passed}" in told
    assert told[-1] == "text column 'text', label column 'label': neg (3), pos (3)"


# Folders


@pytest.mark.parametrize("names", [("train.csv", "test.csv"), ("reviews_train_1.csv", "reviews_validation.csv")])
def test_pairs_of_files(tmp_path: Path, names: tuple[str, str]) -> None:
    write_csv(tmp_path / names[0], ROWS[:6])
    write_csv(tmp_path / names[1], ROWS[6:])
    found = read(tmp_path)
    assert found.texts["train"][0] == TEXTS[:6]
    assert found.texts["test"][0] == TEXTS[6:]
    with pytest.raises(DataError, match=r"test_share: expected none, because .* has a test set, found 0.5"):
        read(tmp_path, test_share=0.5)


def test_several_files_are_one(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", ROWS[:4])
    write_json(tmp_path / "b.jsonl.gz", ROWS[4:7], ("text", "label"))
    (tmp_path / "more").mkdir()
    write_parquet(tmp_path / "more" / "c.parquet", ROWS[7:])
    (tmp_path / "metadata.json").write_text("{}", encoding="utf-8")
    assert pairs(read(tmp_path)) == sorted(ROWS)


def write_texts(root: Path, rows: Rows) -> Path:
    for number, (text, label) in enumerate(rows):
        write(root / label / f"{number}.txt", text.encode())
    return root


@pytest.mark.parametrize("packed", [False, True])
def test_class_folders_without_a_split(tmp_path: Path, packed: bool) -> None:
    root = write_texts(tmp_path / "films", ROWS)
    write(root / "about" / "nothing.md", b"no text of a class")
    path = root
    if packed:
        path = tmp_path / "films.tar.gz"
        with tarfile.open(path, "w:gz") as archive:
            archive.add(root, "films")
    told = Told()
    found = read(path, told)
    assert pairs(found) == sorted(ROWS)
    assert found.columns is None
    assert told[0] == "classes: negative (5), positive (5)"
    assert told[1].startswith("no test set: 2 of 10 texts are for testing")


def test_class_folders_with_a_split(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_texts(tmp_path / split, [(f"{split} {name} {n}", name) for name in ("a", "b", "c") for n in range(2)])
    write(tmp_path / "train" / "unsup" / "0.txt", b"\xff")  # not even read
    write(tmp_path / "train" / "a" / "empty.txt", b" \n")
    told = Told()
    found = read(tmp_path, told)
    assert found.classes == ("a", "b", "c")
    assert [len(labels) for _, labels in found.texts.values()] == [6, 6]
    assert told.warnings == [f"{tmp_path.name}: skipped 1 of 7 rows: train/a/empty.txt: no text"]


# The split


def test_the_split_is_seeded_and_takes_of_each_class(tmp_path: Path) -> None:
    rows = [(f"text {n}", "rare" if n % 10 == 0 else "common") for n in range(100)]
    path = write_csv(tmp_path / "a.csv", rows)
    first, again = (corpus.read(path, Columns(test_share=0.3), 1, str, str) for _ in range(2))
    other = corpus.read(path, Columns(test_share=0.3), 2, str, str)
    assert first.texts["test"][0] == again.texts["test"][0] != other.texts["test"][0]
    assert pairs(first) == sorted(rows)
    assert np.bincount(first.texts["test"][1]).tolist() == [27, 3]
    assert np.bincount(first.texts["train"][1]).tolist() == [63, 7]


def test_too_few_texts_to_test_with(tmp_path: Path) -> None:
    assert len(read(write_csv(tmp_path / "a.csv", ROWS[:3]), test_share=0.01).texts["test"][0]) == 1
    with pytest.raises(DataError, match=r"expected two texts of a class, one of them for testing, in .*, found 2"):
        read(write_csv(tmp_path / "a.csv", ROWS[:2]))


# Columns


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (("Text", "LABEL"), ("Text", "LABEL")),
        (("label", "what they wrote"), ("what they wrote", "label")),
        (("review", "verdict"), ("review", "verdict")),
        (("id", "sentence", "stars"), ("sentence", "stars")),
        (("", "text", "label"), ("text", "label")),  # pandas's index
    ],
)
@pytest.mark.fast
def test_columns_are_guessed(tmp_path: Path, header: tuple[str, ...], expected: tuple[str, str]) -> None:
    lines = [",".join(header)]
    for n in range(8):
        cells = {expected[0]: f"text {n}", expected[1]: str(n % 2)}
        lines.append(",".join(cells.get(name, str(n)) for name in header))
    found = read(write(tmp_path / "a.csv", "\n".join(lines).encode()))
    assert found.columns == expected
    assert found.classes == ("0", "1")
    assert ("text 3", "1") in pairs(found)


def test_columns_are_named(tmp_path: Path) -> None:
    content = b"text,note,label,kind\n" + b"".join(b"t%d,n%d,%d,%s\n" % (n, n, n, b"xy"[n % 2 :][:1]) for n in range(8))
    found = read(write(tmp_path / "a.csv", content), text="note", label="kind")
    assert ("n3", "y") in pairs(found)
    assert found.columns == ("note", "kind")


@pytest.mark.parametrize(
    ("content", "columns", "message"),
    [
        ("a,b,c\n1,2,3\n", {}, r"a column with the texts in .*a\.csv, found 'a', 'b', 'c' .* --text-column"),
        ("text,b,c\n1,2,3\n", {}, r"a column with the labels in .*a\.csv, found 'text', 'b', 'c' .* --label-column"),
        ("text,b\n1,2\n", {"text": "review"}, r"text_column: expected one of 'text', 'b' of .*a\.csv, found 'review'"),
        ("text,b\n1,2\n", {"label": "x"}, r"label_column: expected one of 'text', 'b' of .*a\.csv, found 'x'"),
        ("text,b\n1,2\n", {"label": "text"}, r"another column than that of the texts, found 'text' for both"),
        ("text,label,text\n1,2,3\n", {}, r"columns of different names in .*a\.csv, found 'text' twice in line 1"),
        ("", {}, r"the names of columns in the first line of .*a\.csv, found nothing"),
        ('"text,label\na,b\n', {}, r"the names of columns in the first line .* found a quotation mark that nothing"),
        ("text,label\n", {}, r"rows with a text and a label in .*a\.csv, found no rows"),
        ("text,label\n,1\nx,\n\ny,z,1\n", {}, r"found 4 rows without any \(line 2: no text; line 3: no label; line 4:"),
        ("text,label\na,1\nb,1\n", {}, r"at least two classes in .*a\.csv, found '1' alone"),
        ("text,label\na,p\nb,q\nc,r\nd,s\n", {}, r"found 4 classes in 4 rows, such as p, q, r; .*--label-column"),
    ],
)
def test_wrong_csv(tmp_path: Path, content: str, columns: dict[str, str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(write(tmp_path / "a.csv", content.encode()), **columns)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'[{"text": "a"}]', r"expected JSON Lines in .*, an object a line, found a list"),
        ("a.jsonl", b"", "expected JSON Lines in .*, an object a line, found none"),
        ("a.jsonl", b"text\nmore\n", "found none, line 1: no JSON"),
        ("a.parquet", b"PAR1 not at all", r"expected a whole Parquet file, found .*a\.parquet"),
        ("a.csv.gz", None, r"expected a whole file that can be read, found .*a\.csv\.gz"),
        ("a.docx", b"PK", r"expected a \.csv, .*; found .*a\.docx"),
        ("a.zip", b"PK", r"found .*a\.zip; unpack it first"),
        ("a.csv", "text,label\ngut,1\nschön,0\n".encode("latin-1"), r"byte 0xf6 in line 3 \(byte 21 of the file\)"),
        ("a.csv", "text,label\n".encode("utf-16"), r"found byte 0xff in line 1 \(byte 1 .* -f UTF-16"),
        ("a.jsonl", b'{"text": "\xe9"}\n', r"found byte 0xe9 in line 1 \(byte 11 of the file\)"),
    ],
)
def test_wrong_files(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(b"text,label\n" * 1000)[:30] if content is None else content)
    with pytest.raises(DataError, match=message):
        read(path)


def test_a_broken_download_of_parquet(tmp_path: Path) -> None:
    whole = write_parquet(tmp_path / "a.parquet", ROWS).read_bytes()
    (tmp_path / "a.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="expected a whole Parquet file, found"):
        read(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["test.csv"], r"files with names like train\.csv and test\.csv in .*, found test\.csv"),
        (["test.csv", "other.csv"], r"names like train\.csv and test\.csv in .*, found other\.csv, test\.csv"),
        ([], "found no such files in"),
    ],
)
def test_wrong_folders(tmp_path: Path, files: list[str], message: str) -> None:
    for name in files:
        write_csv(tmp_path / name, ROWS)
    with pytest.raises(DataError, match=message):
        read(tmp_path)


def test_a_test_set_must_have_the_classes_of_training(tmp_path: Path) -> None:
    write_csv(tmp_path / "train.csv", ROWS)
    write_csv(tmp_path / "test.csv", [("fine", "pos"), ("bad", "negative")])
    with pytest.raises(DataError, match="found 'pos', without any training text"):
        read(tmp_path)


def test_columns_of_text_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"label_column: expected none for \.txt files.*found 'x'"):
        read(write_texts(tmp_path, ROWS), label="x")


# Bad rows are named and skipped, and all other rows are used


def test_bad_rows_of_csv(tmp_path: Path) -> None:
    content = (
        "text,label\n"
        "good one,1\n"  # 2
        "\n"
        "nan,1\n"  # 4
        ",0\n"
        "bad one,\n"  # 6
        "bad,one,0\n"
        '"never closed,1\n'  # 8
        "bad two,0\n"
        '"good\ntwo",1\n'  # 10 and 11
        '"a "stray" one",1\n'  # 12
        "bad three,NaN\n"
        "bad four,0\n"
        "\n\n"  # the end is not a row
    )
    told = Told()
    found = read(write(tmp_path / "a.csv", content.encode()), told)
    assert pairs(found) == sorted([("good one", "1"), ("bad two", "0"), ("good\ntwo", "1"), ("bad four", "0")])
    assert found.skipped == 8
    assert told.warnings == [
        "a.csv: skipped 8 of 12 rows: line 3: an empty line; line 4: no text; line 5: no text; line 6: no label; "
        "line 7: expected 2 cells, found 3; and 3 more"
    ]


def test_bad_rows_of_json(tmp_path: Path) -> None:
    content = (
        '{"text": "good\u2028one", "label": 1}\n'
        '{"text": "cut off", "la\n'
        '{"text": null, "label": 1}\n'
        '["text", 1]\n'
        '{"text": "no label"}\n'
        '{"text": 7, "label": 0}\n'
        '{"text": "half \\ud800", "label": 0}\n'
        '{"text": "nan", "label": NaN}\n'
        '{"text": "half a label", "label": "\\ud800"}\n'
        '{"text": "many labels", "label": [1, 0]}\n'
        '{"text": "bad", "label": 0, "more": []}\n'
        '{"text": "nan", "label": 0}\n'
        '{"text": "good", "label": 1}\n'
    )
    told = Told()
    found = read(write(tmp_path / "a.jsonl", content.encode()), told)
    assert pairs(found) == sorted([("good\u2028one", "1"), ("bad", "0"), ("nan", "0"), ("good", "1")])
    (warning,) = told.warnings
    assert "skipped 9 of 13 rows: line 2: no JSON (Unterminated string" in warning
    assert (
        "line 3: no text; line 4: no object but list; line 5: no label; line 6: no text but int '7'; and 4" in warning
    )


@pytest.mark.fast
def test_labels_that_are_none() -> None:
    assert labels.label_of("\ud800") == (None, "half a character (a lone surrogate) in the label")
    assert labels.label_of([1, 0]) == (None, "no label but list '[1, 0]'")


def test_names_of_classes_are_shown_in_one_line() -> None:
    assert labels.shown("good") == "good"
    assert labels.shown("\x1b[31mred") == r"'\x1b[31mred'"
    assert labels.shown("x" * 400) == f"'{'x' * 40}'..."


def test_types_of_parquet(tmp_path: Path) -> None:
    """Decimal and 32-bit numbers are labels as they were written. Messages name columns of bytes with their type."""
    floats = pa.array([1.1, 2, 1.1, 2], pa.float32())
    decimals = pa.array([decimal.Decimal("1.50"), decimal.Decimal("2.00")] * 2)
    path = tmp_path / "a.parquet"
    for values, classes in ((floats, ("1.1", "2")), (decimals, ("1.5", "2"))):
        parquet.write_table(pa.table({"text": ["a", "b", "c", "d"], "label": values}), path)
        assert read(path).classes == classes
    parquet.write_table(pa.table({"text": pa.array([b"a", b"b"]), "label": [0, 1], "more": [0, 1]}), path)
    message = r"none with a usual name; say which with --text-column; left out, .*: 'text' \(binary\)$"
    with pytest.raises(DataError, match=message):
        read(path)
    with pytest.raises(DataError, match=r"found 'text'; left out, because neither texts nor numbers: 'text' \(binary"):
        read(path, text="text")


def test_bad_rows_of_parquet(tmp_path: Path) -> None:
    texts = pa.array(["good", None, "bad", "fine", "x", "", "poor"])
    broken = pa.StringArray.from_buffers(1, pa.py_buffer(np.array([0, 1], np.int32)), pa.py_buffer(b"\xff"))
    table = pa.table(
        {
            "when": pa.array([1, 2, 3, 4, 5, 6, 7, 8], pa.timestamp("ns")),  # only pandas could read it
            "text": pa.chunked_array([texts, broken]),
            "label": pa.array([1.0, 1.0, 0.0, 1.0, float("nan"), 0.0, 0.0, 1.0]),
        }
    )
    parquet.write_table(table, tmp_path / "a.parquet")
    told = Told()
    assert pairs(read(tmp_path / "a.parquet", told)) == sorted(
        [("good", "1"), ("bad", "0"), ("fine", "1"), ("poor", "0")]
    )
    assert told.warnings == [
        "a.parquet: skipped 4 of 8 rows: row 2: no text; row 5: no label; row 6: no text; row 8: no text but bytes "
        "\"b'\\\\xff'\""
    ]


def test_a_class_of_one_row_is_suspicious(tmp_path: Path) -> None:
    told = Told()
    read(write_csv(tmp_path / "a.csv", [*ROWS, ("and he said", " no")]), told)
    assert told.warnings == ["a.csv: one row only of 'no': a class, or a row that went wrong?"]


def test_many_unclosed_quotes_cost_nothing_else(tmp_path: Path) -> None:
    lines = [f'"open {n},1' if n % 3 == 0 else f"text {n},{n % 2}" for n in range(300)]
    found = read(write(tmp_path / "a.csv", "\n".join(["text,label", *lines]).encode()))
    assert found.skipped == 100
    assert len(pairs(found)) == 200


# The command


def commands_fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(arguments) == 2
    message = capsys.readouterr().err
    assert message.startswith("lstm-fast: error: ")
    assert message.count("\n") == 1
    return message


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vocabulary") / "words.subwords"
    words = ["cat_", "dog_", "fish_", "the_", "a_", "is_", "and_", "here_", "that_", "it_"]
    subwords.save(subwords.encoder_class()(words), path)
    return path


def animals(count: int, seed: int) -> Rows:
    """Three classes, each with its own word among others."""
    rng = np.random.default_rng(seed)
    fill = ["the", "a", "is", "and", "here", "that", "it"]
    rows = []
    for n in range(count):
        name = ("cat", "dog", "fish")[n % 3]
        words = rng.choice(fill, rng.integers(3, 9)).tolist()
        words.insert(int(rng.integers(0, len(words))), name)
        rows.append((" ".join(words) + " ", name))
    return rows


@contextlib.contextmanager
def fused_backward() -> Iterator[None]:
    before = _core.fused_calls()["backward"]
    yield
    assert _core.fused_calls()["backward"] > before


def test_three_classes_are_learned(tmp_path: Path, vocabulary: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_csv(tmp_path / "train.csv", animals(240, 0))
    write_csv(tmp_path / "test.csv", animals(60, 1))
    options = ["--vocabulary", str(vocabulary), "--batch-size", "16", "--learning-rate", "0.01", "--mask", "--bucket"]
    with fused_backward():
        assert (
            main(["train", "--data", str(tmp_path), *options, "--epochs", "3", "--output", str(tmp_path / "run")]) == 0
        )
    printed = capsys.readouterr().out
    assert "text column 'review', label column 'sentiment': cat (80), dog (80), fish (80)" in printed
    run = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert run["data"]["classes"] == ["cat", "dog", "fish"]
    assert run["data"]["columns"] == ["review", "sentiment"]
    assert run["backend"] == "tensorflow"
    assert run["device"]
    assert {"python", "lstm_fast", "keras", "tensorflow", "numpy"} <= set(run["versions"])
    assert run["versions"]["lstm_fast"] == lstm_fast.__version__
    history = json.loads((tmp_path / "run" / "history.json").read_text(encoding="utf-8"))
    assert history["val_accuracy"][-1] > 0.9  # chance is a third


def test_a_run_on_a_file_is_resumed(tmp_path: Path, vocabulary: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It has the columns and the share from its start."""
    rows = [(text, name, "x") for text, name in animals(60, 0)]
    write_csv(tmp_path / "a.csv", rows, ("wrote", "animal", "label"))  # type: ignore[arg-type]
    given = ["--text-column", "wrote", "--label-column", "animal", "--test-share", "0.25"]
    run = ["train", "--output", str(tmp_path / "run")]
    assert (
        main([*run, "--data", str(tmp_path / "a.csv"), *given, "--vocabulary", str(vocabulary), "--epochs", "1"]) == 0
    )
    assert "15 of 60 texts are for testing (25% of each class" in capsys.readouterr().out
    assert main([*run, "--resume", "--epochs", "2"]) == 0
    assert "epochs: 2, " in capsys.readouterr().out
    message = commands_fails(capsys, *run, "--resume", "--epochs", "3", "--test-share", "0.5")
    assert "resume: expected the run's test share, 0.25, found 0.5" in message


def test_a_vocabulary_of_any_text_is_kept(tmp_path: Path) -> None:
    """It is built from texts with line breaks, quotation marks and other scripts, and read again from its file."""
    rows = [(f"l'été\n\nn° {n} 'quoted' \\ \u2028 日本語\t{'good' if n % 2 else 'bad'}", n % 2) for n in range(60)]
    write_csv(tmp_path / "a.csv", rows)
    run = ["train", "--output", str(tmp_path / "run")]
    assert main([*run, "--data", str(tmp_path / "a.csv"), "--epochs", "1"]) == 0
    assert main([*run, "--resume", "--epochs", "2"]) == 0
    encoder = subwords.load(tmp_path / "run" / "vocabulary.subwords")
    assert encoder.decode(encoder.encode(rows[0][0])) == rows[0][0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "{}/nothere"], "found nothing at"),
        (["--data", "{}/bad.csv"], "at least two classes"),
        (["--data", "sample", "--text-column", "text"], "--text-column: expected none with sample, found 'text'"),
        (["--data", "sample", "--test-share", "0.5"], "--test-share: expected none with sample, found 0.5"),
    ],
)
@pytest.mark.parametrize("command", ["train", "compare"])
def test_a_refusal_leaves_no_folder(
    command: str, arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_csv(tmp_path / "bad.csv", [("a", 1), ("b", 1)])
    given = [argument.format(tmp_path) for argument in arguments]
    assert message in commands_fails(capsys, command, *given, "--output", str(tmp_path / "new" / "run"))
    assert not (tmp_path / "new").exists()
    (tmp_path / "mine").mkdir()
    commands_fails(capsys, command, *given, "--output", str(tmp_path / "mine"))
    assert (tmp_path / "mine").is_dir()


@pytest.mark.parametrize("share", ["0", "1", "-0.1", "nan", "half"])
def test_bad_shares(share: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--test-share", share])
    assert "expected a number between 0 and 1, found" in capsys.readouterr().err


def test_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_parquet(tmp_path / "a.parquet", ROWS)
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"expected the package pyarrow for .*pip install pyarrow"):
        read(path)
