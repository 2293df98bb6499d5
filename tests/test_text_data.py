"""Reviews: the sample corpus, folders, archives, vocabularies, TFDS, batches."""

import collections
import io
import itertools
import shutil
import tarfile
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import shared_data

tf = pytest.importorskip("tensorflow")

from lstm_fast.errors import DataError  # noqa: E402
from lstm_fast.text import batches, data, sample, tfds  # noqa: E402
from lstm_fast.text import vocabulary as subwords  # noqa: E402

TINY = "aclImdb_tiny_128_32.tar.gz"
VOCABULARY = "vocab_full.subwords"


def write_reviews(root: Path, count: int = 3) -> Path:
    for split in ("train", "test"):
        for label in ("pos", "neg"):
            folder = root / split / label
            folder.mkdir(parents=True)
            for index in range(count):
                (folder / f"{index}_7.txt").write_text(f"{split} review {index} is {label}\n", encoding="utf-8")
    return root


def write_archive(path: Path, folder: Path, name: str) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, name)
    return path


@pytest.fixture
def vocabulary(tmp_path: Path) -> Path:
    path = tmp_path / "words.subwords"
    subwords.save(subwords.encoder_class()(["review_", "is_", "train_", "test_", "pos", "neg"]), path)
    return path


# The sample corpus


def test_sample_is_deterministic() -> None:
    texts, labels = sample.generate(40, seed=3)
    again, _ = sample.generate(40, seed=3)
    other, _ = sample.generate(40, seed=4)
    assert texts == again
    assert texts != other
    assert labels.dtype == np.int64
    assert labels.sum() == 20


@pytest.mark.parametrize("count", [0, 1, 7, -2])
def test_sample_comes_in_twins(count: int) -> None:
    with pytest.raises(ValueError, match="count: expected an even number of at least 2, found"):
        sample.generate(count)


def test_sample_has_the_lengths_of_imdb() -> None:
    texts, _ = sample.generate(4000, seed=1)
    lengths = np.array([len(text.split()) for text in texts])
    assert lengths.mean() == pytest.approx(343.6, rel=0.1)
    assert np.median(lengths) == pytest.approx(253, rel=0.1)
    assert np.percentile(lengths, 95) == pytest.approx(902, rel=0.1)
    assert lengths.max() <= 3944
    assert lengths.min() >= 12


def test_sample_verdict_follows_the_rule() -> None:
    """The verdict, read from the text by the rule in the module's docstring."""
    for text, label in zip(*sample.generate(400, seed=2), strict=True):
        words = text.split()
        (turn,) = (index for index, word in enumerate(words) if word in sample.TURNS)
        scores = {"before": 0, "after": 0}
        negated = False
        for index, word in enumerate(words):
            if word in sample.NEGATIONS:
                negated = True
            elif word in (*sample.PRAISE, *sample.BLAME):
                scores["after" if index > turn else "before"] += 1 if (word in sample.PRAISE) != negated else -1
                negated = False
        assert (scores["after"] > 0) == (label == 1)
        assert (scores["before"] < 0) == (label == 1)  # the other people always say the opposite


def test_sample_twins_have_the_same_words_and_phrases() -> None:
    texts, labels = sample.generate(200, seed=5)
    opinions = {*sample.PRAISE, *sample.BLAME, *sample.NEGATIONS}

    def phrases(text: str) -> collections.Counter[tuple[str, str]]:
        said = [word for word in text.split() if word in opinions]
        return collections.Counter(pair for pair in itertools.pairwise(said) if pair[0] in sample.NEGATIONS)

    for positive, negative in zip(texts[::2], texts[1::2], strict=True):
        assert positive != negative
        assert collections.Counter(positive.split()) == collections.Counter(negative.split())
        assert phrases(positive) == phrases(negative)
    assert labels[::2].all()
    assert not labels[1::2].any()


def test_bag_of_words_does_not_solve_the_sample() -> None:
    """Logistic regression on word counts is no better than chance, which is 0.5."""
    keras.utils.set_random_seed(0)
    texts, labels = sample.generate(1000, seed=0, median_length=60)
    test_texts, test_labels = sample.generate(400, seed=1, median_length=60)
    counts = keras.layers.TextVectorization(output_mode="count", vocabulary=sorted({*" ".join(texts).split()}))
    model = keras.Sequential([keras.layers.Dense(1, activation="sigmoid")])
    model.compile(keras.optimizers.Adam(1e-2), "binary_crossentropy", metrics=["accuracy"])
    model.fit(counts(texts), labels, epochs=20, verbose=0)
    assert model.evaluate(counts(texts), labels, verbose=0)[1] < 0.55
    assert model.evaluate(counts(test_texts), test_labels, verbose=0)[1] < 0.55


def test_sample_vocabulary_encodes_each_word_as_one_token() -> None:
    encoder = subwords.encoder_class()(list(sample.vocabulary()))
    assert encoder.vocab_size == 8185
    assert len(set(sample.vocabulary())) == len(sample.vocabulary())
    texts, _ = sample.generate(20)
    for text in texts:
        ids = encoder.encode(text)
        assert len(ids) == len(text.split())
        assert encoder.decode(ids) == text


# Loading


def test_load_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "SAMPLE_TRAIN", 20)
    monkeypatch.setattr(data, "SAMPLE_TEST", 10)
    loaded = data.load("sample", batch_size=8, seed=1)
    assert (loaded.source, len(loaded.train), len(loaded.test)) == ("sample", 20, 10)
    ids, labels = next(iter(loaded.train_batches()))
    assert ids.dtype == labels.dtype == tf.int64
    assert ids.shape[0] == labels.shape[0] == 8
    again = data.load("sample", batch_size=8, seed=1)
    other = data.load("sample", batch_size=8, seed=2)
    assert loaded.fingerprint == again.fingerprint != other.fingerprint
    np.testing.assert_array_equal(ids, next(iter(again.train_batches()))[0])


def test_auto_is_the_sample_where_tfds_has_nothing(tmp_path: Path) -> None:
    start = time.monotonic()
    assert data.load("auto", data_dir=tmp_path, limit=4).source == "sample"
    assert time.monotonic() - start < 60


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_load_path(tmp_path: Path, vocabulary: Path, nested: bool, packed: bool) -> None:
    root = tmp_path / "reviews"
    write_reviews(root / "aclImdb" if nested else root)
    path = root
    if packed:
        path = write_archive(tmp_path / "reviews.tar.gz", root / "aclImdb" if nested else root, "aclImdb")
    loaded = data.load(path, vocabulary=vocabulary, batch_size=4)
    assert (loaded.source, len(loaded.train), len(loaded.test)) == (str(path), 6, 6)
    found = {
        (loaded.encoder.decode(row), int(label))
        for ids, labels in loaded.train_batches().take(loaded.steps_per_epoch)
        for row, label in zip(ids.numpy(), labels, strict=True)
    }
    assert found == {
        (f"train review {i} is {name}", label) for i in range(3) for label, name in enumerate(("neg", "pos"))
    }


def test_archive_members_cannot_leave_it(tmp_path: Path, vocabulary: Path) -> None:
    """Nothing is extracted: a member with a path outside is read as a review, and links are left out."""
    archive_path = tmp_path / "a.tar.gz"
    with tarfile.open(archive_path, "w:gz") as archive:
        for split in ("train", "test"):
            for label in ("pos", "neg"):
                member = tarfile.TarInfo(f"../../{split}/{label}/0.txt")
                member.size = 4
                archive.addfile(member, io.BytesIO(b"text"))
        link = tarfile.TarInfo("train/pos/link.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    before = sorted(tmp_path.rglob("*"))
    assert len(data.load(archive_path, vocabulary=vocabulary).train) == 2
    assert sorted(tmp_path.rglob("*")) == before


def test_limit_takes_both_classes(tmp_path: Path, vocabulary: Path) -> None:
    loaded = data.load(write_reviews(tmp_path / "reviews", 20), vocabulary=vocabulary, limit=20)
    labels = loaded.train.labels.numpy()
    assert labels.shape == (20,)
    assert 4 < labels.sum() < 16


def test_vocabulary_is_built_from_the_training_text(tmp_path: Path) -> None:
    messages: list[str] = []
    loaded = data.load(write_reviews(tmp_path / "reviews", 20), report=messages.append)
    assert any("building a vocabulary from" in message for message in messages)
    assert loaded.encoder.decode(loaded.encoder.encode("a train review")) == "a train review"
    assert "test_" not in loaded.encoder.subwords
    subwords.save(loaded.encoder, tmp_path / "v.subwords")
    again = subwords.load(tmp_path / "v")
    assert subwords.digest(again) == subwords.digest(loaded.encoder)


def test_given_vocabulary_is_that_of_subwords8k() -> None:
    encoder = subwords.load(shared_data.path(VOCABULARY))
    assert encoder.vocab_size == 8185
    assert encoder.encode("Hello TensorFlow.") == [4025, 222, 6307, 2327, 4043, 2120, 7975]


# Bad input


def test_missing_path(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data: expected a \.csv, .* found nothing at .*nowhere"):
        data.load(tmp_path / "nowhere")


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"found no such files in"):
        data.load(tmp_path)


def test_wrong_layout(tmp_path: Path) -> None:
    shutil.rmtree(write_reviews(tmp_path / "reviews") / "test" / "pos")
    with pytest.raises(DataError, match=r"found no \.txt in test/pos of"):
        data.load(tmp_path / "reviews")


@pytest.mark.parametrize("content", [b"", b"not an archive", None])
def test_corrupt_archive(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "reviews.tar.gz"
    if content is None:  # a download that broke off
        whole = write_archive(
            tmp_path / "whole.tar.gz", write_reviews(tmp_path / "reviews", 50), "aclImdb"
        ).read_bytes()
        content = whole[: len(whole) // 2]
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"data: expected a whole \.tar\.gz archive, found"):
        data.load(path)


def test_reviews_must_be_text(tmp_path: Path) -> None:
    root = write_reviews(tmp_path / "reviews")
    (root / "train" / "pos" / "0_7.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"expected UTF-8 text .*train/pos/0_7\.txt"):
        data.load(root)


@pytest.mark.parametrize("content", ["", "### SubwordTextEncoder\n### Metadata: {}\n", "the\nof\n", "'the_'\n"])
@pytest.mark.fast
def test_bad_vocabulary(tmp_path: Path, content: str) -> None:
    path = tmp_path / "bad.subwords"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=r"vocabulary: expected a file written by .*bad\.subwords"):
        data.load("sample", vocabulary=path)


def test_binary_vocabulary(tmp_path: Path) -> None:
    path = tmp_path / "bad.subwords"
    path.write_bytes(b"\x93NUMPY\xff")
    with pytest.raises(DataError, match="vocabulary: expected a file written by"):
        subwords.load(path)


def test_missing_vocabulary(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"vocabulary: expected a \.subwords file, found nothing at .*none\.subwords"):
        data.load("sample", vocabulary=tmp_path / "none")


@pytest.mark.parametrize("name", ["batch_size", "limit"])
def test_sizes_must_be_positive(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: expected at least 1, found 0"):
        data.load("sample", **{name: 0})


# Batches


def batched(lengths: list[int], batch_size: int, bucket: bool = False, seed: int = 1) -> batches.Data:
    """Reviews of given lengths. The label is the review's index, and each of its ids is the index plus 1."""
    ids = tf.ragged.constant([[index + 1] * length for index, length in enumerate(lengths)], dtype=tf.int64)
    reviews = batches.Encoded(ids, tf.range(len(lengths), dtype=tf.int64))
    return batches.Data("", (), None, reviews, reviews, batch_size, seed, bucket)


def epoch_orders(source: batches.Data, epochs: int, first: int = 0) -> list[list[tuple[int, ...]]]:
    labels = [tuple(batch.numpy()) for _, batch in source.train_batches(first).take(epochs * source.steps_per_epoch)]
    return [labels[start : start + source.steps_per_epoch] for start in range(0, len(labels), source.steps_per_epoch)]


def test_batches_pad_to_the_longest() -> None:
    (first, second) = batched([2, 1, 3], 2).test_batches()
    np.testing.assert_array_equal(first[0], [[1, 1], [2, 0]])
    np.testing.assert_array_equal(second[0], [[3, 3, 3]])
    np.testing.assert_array_equal(first[1], [0, 1])


@pytest.mark.parametrize("bucket", [False, True])
def test_every_epoch_has_all_reviews_in_another_order(bucket: bool) -> None:
    lengths = np.random.default_rng(0).integers(1, 300, 500).tolist()
    source = batched(lengths, 8, bucket)
    assert source.steps_per_epoch == len(list(source.test_batches())) == 63
    orders = epoch_orders(source, 2)
    assert orders[0] != orders[1]
    for order in (*orders, [tuple(labels.numpy()) for _, labels in source.test_batches()]):
        assert sorted(label for labels in order for label in labels) == list(range(500))
        assert sorted({len(labels) for labels in order}) == [4, 8]


def test_buckets_hold_reviews_of_like_length() -> None:
    lengths = np.random.default_rng(0).integers(1, 300, 2000).tolist()
    for batched_by in (batches.Data.test_batches, lambda source: source.train_batches().take(source.steps_per_epoch)):
        padding = [
            np.mean([np.mean(ids.numpy() == 0) for ids, _ in batched_by(batched(lengths, 16, bucket))])
            for bucket in (False, True)
        ]
        assert padding[0] > 0.4
        assert padding[1] < 0.05


@pytest.mark.backends("tensorflow", "jax")
@pytest.mark.parametrize("bucket", [False, True])
def test_the_share_of_padding_is_that_of_the_first_epoch(bucket: bool) -> None:
    source = batched(np.random.default_rng(0).integers(0, 300, 501).tolist(), 8, bucket)
    ids = [ids.numpy() for ids, _ in source.train_batches().take(source.steps_per_epoch)]
    assert source.padding == pytest.approx(sum((each == 0).sum() for each in ids) / sum(each.size for each in ids))
    assert batched([0, 0], 8).padding == (1.0 if keras.backend.backend() == "jax" else 0.0)  # JAX gets one timestep


@pytest.mark.parametrize("bucket", [False, True])
def test_the_order_depends_on_seed_and_epoch_alone(bucket: bool) -> None:
    orders = epoch_orders(batched([1] * 100, 8, bucket), 3)
    tf.random.set_seed(99)
    assert epoch_orders(batched([1] * 100, 8, bucket), 1, first=2) == orders[2:]
    assert epoch_orders(batched([1] * 100, 8, bucket, seed=2), 3) != orders


# TensorFlow Datasets, with its real builder


@pytest.fixture
def download_cache(tmp_path: Path) -> Path:
    """A data_dir with the archive in it, as if TFDS had downloaded it."""
    _, archive = tfds._archive(tmp_path)
    archive.parent.mkdir(parents=True)
    shutil.copy(shared_data.path(TINY), archive)
    archive.with_name(archive.name + ".INFO").write_text("{}", encoding="utf-8")
    return tmp_path


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tfds_prepares_a_downloaded_archive(download_cache: Path) -> None:
    given = shared_data.path(VOCABULARY)
    messages: list[str] = []
    loaded = data.load("auto", vocabulary=given, data_dir=download_cache, bucket=True, report=messages.append)
    assert (loaded.source, len(loaded.train), len(loaded.test)) == ("tfds", 128, 32)
    assert loaded.encoder.vocab_size == 8185
    assert len(messages) == 1
    again = data.load("tfds", vocabulary=given, data_dir=download_cache, report=messages.append)
    assert len(messages) == 1  # prepared already
    assert again.fingerprint == loaded.fingerprint
    limited = data.load("tfds", vocabulary=given, data_dir=download_cache, limit=10)
    assert (len(limited.train), len(limited.test)) == (10, 10)

    def contents(source: batches.Data) -> list[tuple[int, ...]]:
        return sorted(map(tuple, source.train.ids.to_list()))

    archive = data.load(shared_data.path(TINY), vocabulary=given)
    assert contents(archive) == contents(loaded)


def test_tfds_without_a_network_fails_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A proxy that refuses every connection is like no network, and the same on every machine.
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    start = time.monotonic()
    with pytest.raises(DataError, match=r"data: expected http\S+ within reach.*use --data sample, or --data PATH"):
        data.load("tfds", data_dir=tmp_path)
    assert time.monotonic() - start < 30


def test_a_server_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setattr(tfds, "PROBE_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        start = time.monotonic()
        assert tfds._unreachable(f"http://127.0.0.1:{server.getsockname()[1]}/") is not None
        assert time.monotonic() - start < 5
