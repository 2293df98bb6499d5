"""FastLSTM against keras.layers.LSTM: the same weights, the same batches, parity and speed."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from lstm_fast.diagnosis import status
from lstm_fast.status import Status
from lstm_fast.text.batches import Data
from lstm_fast.text.models import LEARNING_RATE, MODELS, LayerName

WARM_UP = 2  # steps that trace and allocate, and are not timed
LAYERS: tuple[LayerName, ...] = ("keras", "fast")

# float32 has a relative precision of 1.2e-7. Sums over 1,000 timesteps and more lose two or three digits if the order
# differs.
LOGITS_TOLERANCE = 1e-5  # largest difference, relative to the largest logit or to 1
GRADIENT_TOLERANCE = 1e-4  # norm of a weight's difference, relative to the norm of its gradient
LOSS_TOLERANCE = 1e-3  # largest difference between the loss curves; training makes rounding errors larger


@dataclasses.dataclass(frozen=True)
class Times:
    """Milliseconds of each measured batch, by layer; the layers took turns."""

    keras: list[float]
    fast: list[float]

    def median(self, layer: LayerName) -> float:
        """The median of one layer's times."""
        return statistics.median(self.fast if layer == "fast" else self.keras)

    @property
    def ratio(self) -> float:
        """How many times faster FastLSTM is."""
        return self.median("keras") / self.median("fast")


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What `compare` found.

    Attributes:
        model: "single" or "stacked".
        source: The source of the data.
        batch_size: Texts in a batch.
        mask: Whether padding was masked.
        learning_rate: The learning rate of Adam.
        timesteps: Mean padded length of the batches.
        padding: Share of the timesteps that is padding.
        logits_difference: Largest difference of the first batch's logits, relative to the largest logit or to 1.
        gradient_differences: By weight, norm of the first batch's difference relative to the gradient's norm.
        losses: Losses of the training steps, by layer.
        train_ms: Times of the training steps.
        predict_ms: Times of the predictions.
        fused_calls: Calls of the fused kernels, forward and backward, during the comparison.
        expected_calls: The smallest numbers of such calls, if FastLSTM never fell back.
        fallbacks: Why FastLSTM ran as Keras's LSTM, if it did.
        computed: Share of the timesteps, masked ones left out, that FastLSTM computed. The others were copied, because
            they repeat earlier ones bit for bit. None where nothing was counted: on a GPU.
        without_gradient: Share of the timesteps of the training steps, masked ones left out, in which all gradients
            were zero, so that FastLSTM's backward pass left them out; None likewise.
    """

    model: str
    source: str
    batch_size: int
    mask: bool
    learning_rate: float
    timesteps: float
    padding: float
    logits_difference: float
    gradient_differences: dict[str, float]
    losses: dict[str, list[float]]
    train_ms: Times
    predict_ms: Times
    fused_calls: dict[str, int]
    expected_calls: dict[str, int]
    fallbacks: list[str]
    computed: float | None
    without_gradient: float | None

    @property
    def gradient_difference(self) -> float:
        """The largest of `gradient_differences`."""
        return max(self.gradient_differences.values())

    @property
    def loss_difference(self) -> float:
        """The largest difference between the loss curves."""
        return float(np.max(np.abs(np.subtract(self.losses["fast"], self.losses["keras"]))))

    @property
    def fused(self) -> bool:
        """Whether every pass of FastLSTM ran in the fused kernels."""
        return all(self.fused_calls[name] >= count for name, count in self.expected_calls.items())

    @property
    def problems(self) -> list[str]:
        """Why the comparison fails; empty if it does not. A difference that is not a number fails."""
        checks = {
            "logits": (self.logits_difference, LOGITS_TOLERANCE),
            "gradients": (self.gradient_difference, GRADIENT_TOLERANCE),
            "losses": (self.loss_difference, LOSS_TOLERANCE),
        }
        found = [
            f"{name} differ by {difference:.1e}, more than {tolerance:.0e}"
            for name, (difference, tolerance) in checks.items()
            if not difference <= tolerance
        ]
        if not self.fused:
            reasons = "; ".join(self.fallbacks) or "lstm-fast status may say why"
            found.append(f"FastLSTM ran as keras.layers.LSTM, so nothing was compared: {reasons}")
        return found

    def as_dict(self) -> dict[str, Any]:
        """All figures, ready for JSON."""
        return {
            **dataclasses.asdict(self),
            "train_ratio": self.train_ms.ratio,
            "predict_ratio": self.predict_ms.ratio,
            "loss_difference": self.loss_difference,
            "gradient_difference": self.gradient_difference,
            "fused": self.fused,
            "problems": self.problems,
            "status": status().as_dict(),
        }


def total_work(steps: int) -> int:
    """How often `compare` calls `progress`."""
    return 2 * len(LAYERS) * (WARM_UP + steps)


def compare(
    data: Data,
    *,
    model: str = "single",
    mask: bool = False,
    learning_rate: float = LEARNING_RATE,
    seed: int = 0,
    steps: int = 20,
    progress: Callable[[], None] = lambda: None,
) -> Comparison:
    """Trains both layers side by side for some steps, and compares what they compute and how long they take.

    Args:
        data: The batches for training.
        model: "single" or "stacked".
        mask: Whether padding is masked.
        learning_rate: The learning rate of Adam.
        seed: The seed of the initial weights.
        steps: Measured training steps, after a warm-up, and as many measured predictions.
        progress: Called after every training step and prediction, `total_work(steps)` times in all.
    """
    before = status()
    batches = list(data.train_batches().take(WARM_UP + steps))
    sides = {
        layer: _Side(
            MODELS[model](
                data.encoder.vocab_size,
                layer,
                classes=len(data.classes),
                mask=mask,
                learning_rate=learning_rate,
                seed=seed,
            )
        )
        for layer in LAYERS
    }
    sides["fast"].model.set_weights(sides["keras"].model.get_weights())
    logits_difference = _logits_difference(sides, batches[0][0])
    untrained = status()
    for index, (ids, labels) in enumerate(batches):
        for side in _in_turn(sides, index):
            side.train_step(ids, labels)
            progress()
    trained = status()
    for index, (ids, _) in enumerate(batches):
        for side in _in_turn(sides, index):
            side.predict_step(ids)
            progress()
    after = status()
    lstms = sum(isinstance(layer, keras.layers.Bidirectional) for layer in sides["keras"].model.layers)
    padded = [ids.shape[0] * ids.shape[1] for ids, _ in batches]
    return Comparison(
        model=model,
        source=data.source,
        batch_size=int(batches[0][0].shape[0]),
        mask=mask,
        learning_rate=learning_rate,
        timesteps=float(np.mean([ids.shape[1] for ids, _ in batches])),
        padding=1 - sum(int(tf.math.count_nonzero(ids)) for ids, _ in batches) / sum(padded),
        logits_difference=logits_difference,
        gradient_differences=_gradient_differences(sides),
        losses={layer: side.losses for layer, side in sides.items()},
        train_ms=Times(**{layer: side.train_ms[WARM_UP:] for layer, side in sides.items()}),
        predict_ms=Times(**{layer: side.predict_ms[WARM_UP:] for layer, side in sides.items()}),
        fused_calls={name: count - before.fused_calls[name] for name, count in after.fused_calls.items()},
        # For each layer: the pass for the logits, then training and prediction.
        expected_calls={"forward": lstms * (1 + 2 * len(batches)), "backward": lstms * len(batches)},
        fallbacks=after.new_fallbacks(before),
        computed=_share("computed", before, after),
        without_gradient=_share("without_gradient", untrained, trained),
    )


def _share(kind: str, before: Status, after: Status) -> float | None:
    """Returns the share of timesteps of a kind between two moments; None if no timesteps were counted."""
    given, some = (after.timesteps[name] - before.timesteps[name] for name in ("given", kind))
    return some / given if given else None


class _Side:
    """A model with its steps as graphs, as in `fit` and `predict`, and their losses, gradients and times."""

    def __init__(self, model: keras.Model) -> None:
        self.model = model
        self.first_gradients: list[Any] = []
        self.losses: list[float] = []
        self.train_ms: list[float] = []
        self.predict_ms: list[float] = []
        # Every batch has another length. With a fixed signature none of them is traced anew.
        ids, labels = tf.TensorSpec((None, None), tf.int64), tf.TensorSpec((None,), tf.int64)
        self.predict = tf.function(lambda ids: model(ids, training=False), input_signature=[ids])
        self.train = tf.function(self._train, input_signature=[ids, labels])

    def _train(self, ids: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, list[Any]]:
        """One step; returns the loss and its gradient for each trainable weight."""
        with tf.GradientTape() as tape:
            loss = self.model.compute_loss(ids, labels, self.model(ids, training=True))
        gradients = tape.gradient(loss, self.model.trainable_variables)
        self.model.optimizer.apply(gradients, self.model.trainable_variables)
        return loss, gradients

    def train_step(self, ids: tf.Tensor, labels: tf.Tensor) -> None:
        start = time.perf_counter()
        loss, gradients = self.train(ids, labels)
        self.losses.append(float(loss))
        self.train_ms.append(1e3 * (time.perf_counter() - start))
        self.first_gradients = self.first_gradients or gradients

    def predict_step(self, ids: tf.Tensor) -> None:
        start = time.perf_counter()
        self.predict(ids).numpy()
        self.predict_ms.append(1e3 * (time.perf_counter() - start))


def _in_turn(sides: dict[LayerName, _Side], index: int) -> list[_Side]:
    """Both sides, in alternating order, because the second one finds warmer caches."""
    order = list(sides.values())
    return order if index % 2 else order[::-1]


def _logits_difference(sides: dict[LayerName, _Side], ids: tf.Tensor) -> float:
    """The largest difference, relative to the largest logit or to 1."""
    expected, found = (sides[layer].predict(ids).numpy() for layer in ("keras", "fast"))
    return float(np.max(np.abs(found - expected)) / max(1.0, np.max(np.abs(expected))))


def _gradient_differences(sides: dict[LayerName, _Side]) -> dict[str, float]:
    """For each weight, the norm of the difference relative to the gradient's norm, in the first training step."""
    reference = sides["keras"]
    differences = {}
    for weight, expected, found in zip(
        reference.model.trainable_variables, reference.first_gradients, sides["fast"].first_gradients, strict=True
    ):
        dense = tf.convert_to_tensor(expected)  # the embedding's gradient has only the rows in use
        norm, difference = float(tf.norm(dense)), float(tf.norm(tf.convert_to_tensor(found) - dense))
        differences[weight.path] = difference / norm if norm else difference
    return differences
