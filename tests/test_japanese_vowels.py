"""Masked classification of real recordings (Japanese Vowels, 12 channels, 7 to 29 timesteps, 9 speakers)."""

from pathlib import Path

import keras
import numpy as np
import pytest
import shared_data
import tolerances
from keras_side import fused, keras_copy
from numpy.typing import NDArray

import lstm_fast

EPOCHS, BATCH = 15, 30
FIRST_STEPS = 20


def read(path: Path) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Sequences [cases, time, channels], padded with zeros, and classes from 0. One line is a case, its class last."""
    lines = [line for line in path.read_text().splitlines() if line and line[0] not in "#@"]
    cases = [line.split(":") for line in lines]
    sequences = [np.array([channel.split(",") for channel in channels], np.float32).T for *channels, _ in cases]
    x = np.zeros((len(cases), max(map(len, sequences)), sequences[0].shape[1]), np.float32)
    for padded, sequence in zip(x, sequences, strict=True):
        padded[: len(sequence)] = sequence
    return x, np.array([int(case[-1]) - 1 for case in cases])


@pytest.fixture(scope="module")
def data() -> list[tuple[NDArray[np.float32], NDArray[np.int64]]]:
    folder = shared_data.path("timeseries")
    return [read(folder / f"JapaneseVowels_{part}.ts") for part in ("TRAIN", "TEST")]


class StepLosses(keras.callbacks.Callback):
    """Stores the loss of every step. Keras reports the mean since the start of the epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []

    def on_train_batch_end(self, batch: int, logs: dict[str, float]) -> None:
        before = sum(self.losses[len(self.losses) - batch :]) if batch else 0.0
        self.losses.append(logs["loss"] * (batch + 1) - before)


def test_training_follows_keras(data):
    (x, y), test = data
    keras.utils.set_random_seed(0)
    fast = keras.Sequential(
        [
            keras.Input((None, x.shape[-1])),
            keras.layers.Masking(),
            keras.layers.LSTM(32),
            keras.layers.Dense(9, activation="softmax"),
        ]
    )
    plain = keras_copy(fast)
    lstm_fast.accelerate(fast)
    steps = EPOCHS * len(x) // BATCH
    losses, accuracies = [], []
    for model, training, testing in (
        (fast, fused(steps, steps), fused(-(-len(test[0]) // BATCH))),
        (plain, fused(0), fused(0)),
    ):
        model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", metrics=["accuracy"])
        step_losses = StepLosses()
        with training:
            model.fit(x, y, BATCH, EPOCHS, shuffle=False, verbose=0, callbacks=[step_losses])
        with testing:
            accuracies.append(model.evaluate(*test, BATCH, verbose=0)[1])
        losses.append(np.array(step_losses.losses))

    difference = np.abs(losses[0] - losses[1])[:FIRST_STEPS]
    print(f"\nlargest difference of the losses over {FIRST_STEPS} steps: {difference.max():.1e}")
    print(f"accuracy on the test set: FastLSTM {accuracies[0]:.3f}, keras LSTM {accuracies[1]:.3f}")
    drift = tolerances.DRIFT_PER_STEP * tolerances.ROUNDOFF["float32"] * np.arange(1, FIRST_STEPS + 1)
    assert (difference <= drift * losses[1][:FIRST_STEPS]).all()
    assert abs(accuracies[0] - accuracies[1]) <= tolerances.ACCURACY_BAND
    assert min(accuracies) >= tolerances.JAPANESE_VOWELS_ACCURACY
