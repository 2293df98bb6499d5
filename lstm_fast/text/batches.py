"""Encoded texts, and padded batches of them."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

if TYPE_CHECKING:
    from tensorflow_datasets.deprecated.text import SubwordTextEncoder

# Lengths for padding where there should be few different ones. They make a text at most a quarter longer.
LENGTHS = np.array(sorted({1, 2, 3} | {part << power for part in (4, 5, 6, 7) for power in range(28)}), np.int64)
BUCKET_WINDOW = 100  # batches that are sorted by length together


@dataclasses.dataclass(frozen=True)
class Encoded:
    """Encoded texts: `ids` ragged int64 `[N, (length)]`, `labels` int64 `[N]`, the numbers of their classes."""

    ids: tf.RaggedTensor
    labels: tf.Tensor

    def __len__(self) -> int:
        return int(self.labels.shape[0])


@dataclasses.dataclass(frozen=True)
class Data:
    """Texts for training and testing, and how they are batched.

    Attributes:
        source: "sample", "tfds", or the path that was read.
        classes: The names of the classes 0, 1, ...
        encoder: It has `vocab_size`, `encode(text) -> ids` and `decode(ids) -> text`.
        train: Texts for training.
        test: Texts for testing.
        batch_size: Texts in a batch; the last one of an epoch may hold fewer.
        seed: The seed for the order.
        bucket: Whether batches hold texts of similar length.
        skipped: Number of rows of the source that could not be used.
        columns: The columns of the source with the texts and the labels, if it has columns.
    """

    source: str
    classes: tuple[str, ...]
    encoder: SubwordTextEncoder
    train: Encoded
    test: Encoded
    batch_size: int
    seed: int
    bucket: bool
    skipped: int = 0
    columns: tuple[str, str] | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Training batches in an epoch."""
        return -(-len(self.train) // self.batch_size)

    @property
    def padding(self) -> float:
        """The share of padding in the training batches of the first epoch."""
        order, starts = (np.asarray(tensor) for tensor in self._order(self.train, [self.seed, 0]))
        starts = np.sort(starts)
        lengths = np.asarray(self.train.ids.row_lengths())[order]
        longest = np.maximum.reduceat(lengths, starts)
        if _few_lengths():
            longest = padded_length(longest)
        timesteps = int((longest * np.diff(starts, append=len(lengths))).sum())
        return 1.0 - int(lengths.sum()) / timesteps if timesteps else 0.0

    @property
    def fingerprint(self) -> str:
        """A digest of all ids and labels."""
        digest = hashlib.sha256()
        for texts in (self.train, self.test):
            for array in (texts.ids.flat_values, texts.ids.row_lengths(), texts.labels):
                digest.update(np.asarray(array).tobytes())
        return digest.hexdigest()[:16]

    def train_batches(self, first_epoch: int = 0) -> tf.data.Dataset:
        """Endless batches for training, `steps_per_epoch` an epoch, each epoch in another order.

        The order depends only on the seed and the epoch's number, so training can be resumed at any epoch. All texts
        are mixed. Their indices are shuffled, so no buffer is needed (TensorFlow's tutorial has one of 10,000 reviews).

        Args:
            first_epoch: Number of the epoch to begin with.

        Returns:
            Pairs of ids int64 `[B, T]`, padded with 0 to the longest of the batch, and labels int64 `[B]`.
        """
        epochs = tf.data.Dataset.range(first_epoch, tf.int64.max)
        return self._padded(self.train, epochs.flat_map(lambda epoch: self._indices(self.train, [self.seed, epoch])))

    def test_batches(self) -> tf.data.Dataset:
        """The batches for testing, always in the same order; see `train_batches` for their form."""
        return self._padded(self.test, self._indices(self.test, None))

    def _indices(self, texts: Encoded, seed: Any) -> tf.data.Dataset:
        """Indices of the texts of each batch of one epoch; with a seed of two numbers, shuffled."""
        order, starts = self._order(texts, seed)
        return tf.data.Dataset.from_tensor_slices(starts).map(lambda start: order[start : start + self.batch_size])

    def _order(self, texts: Encoded, seed: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """The indices of all texts, and where in them each batch starts; see `_indices`."""
        order = tf.range(len(texts), dtype=tf.int64)
        starts = tf.range(0, len(texts), self.batch_size)
        if seed is not None:
            order = tf.random.experimental.stateless_shuffle(order, seed)
        if self.bucket:
            lengths = tf.gather(texts.ids.row_lengths(), order)
            window = tf.range(len(texts), dtype=tf.int64) // (BUCKET_WINDOW * self.batch_size)
            order = tf.gather(order, tf.argsort(window * (tf.reduce_max(lengths) + 1) + lengths, stable=True))
            if seed is not None:
                starts = tf.random.experimental.stateless_shuffle(starts, seed)
        return order, starts

    def _padded(self, texts: Encoded, indices: tf.data.Dataset) -> tf.data.Dataset:
        def pad(index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return pad_rows(tf.gather(texts.ids, index)), tf.gather(texts.labels, index)

        return indices.map(pad, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def padded_length(lengths: np.ndarray) -> np.ndarray:
    """Returns for each length, int64 `[N]`, the next one of `LENGTHS`."""
    return LENGTHS[np.searchsorted(LENGTHS, lengths)]


def _few_lengths() -> bool:
    """Whether batches are padded to few different lengths: JAX compiles a model anew for each, which takes seconds."""
    return bool(keras.backend.backend() == "jax")


def pad_rows(ids: tf.RaggedTensor) -> tf.Tensor:
    """Pads with 0 to the longest row, int64 `[B, T]`. With Keras on JAX, pads to the next one of `LENGTHS`."""
    padded = ids.to_tensor()
    if not _few_lengths():
        return padded
    longest = tf.shape(padded, tf.int64)[1:]
    more = tf.gather(LENGTHS, tf.searchsorted(LENGTHS, longest)) - longest
    return tf.pad(padded, [[0, 0], [0, more[0]]])
