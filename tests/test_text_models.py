"""The two sentiment models: sizes, equal initial weights, parity, learning."""

import dataclasses

import keras
import numpy as np
import pytest

import lstm_fast
from lstm_fast import _core

pytest.importorskip("tensorflow")

from lstm_fast.text import batches, compare, corpus, data, models, sample, vocabulary

PARAMETERS = {"single": 598_209, "stacked": 635_329}


@pytest.mark.parametrize("layer", ["fast", "keras"])
@pytest.mark.parametrize("name", PARAMETERS)
@pytest.mark.fast
def test_sizes(name: str, layer: models.LayerName) -> None:
    model = models.MODELS[name](8185, layer)
    assert model.count_params() == PARAMETERS[name]
    bidirectional = [type(part) for part in model.layers if isinstance(part, keras.layers.Bidirectional)]
    expected = lstm_fast.FastBidirectional if layer == "fast" else keras.layers.Bidirectional
    assert bidirectional == [expected] * {"single": 1, "stacked": 2}[name]
    assert float(model.optimizer.learning_rate) == pytest.approx(1e-3)


@pytest.mark.parametrize("name", PARAMETERS)
def test_one_seed_gives_both_layers_the_same_weights(name: str) -> None:
    fast, slow, other = (
        models.MODELS[name](300, layer, seed=seed).get_weights()
        for layer, seed in (("fast", 7), ("keras", 7), ("fast", 8))
    )
    for ours, theirs in zip(fast, slow, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert any((ours != theirs).any() for ours, theirs in zip(fast, other, strict=True))


@pytest.mark.fast
def test_unknown_layer() -> None:
    with pytest.raises(ValueError, match="layer: expected 'fast' or 'keras', found 'cudnn'"):
        models.single(300, "cudnn")


@pytest.mark.parametrize("name", PARAMETERS)
def test_more_classes_have_a_logit_each(name: str) -> None:
    model = models.MODELS[name](300, classes=3)
    assert model.output_shape == (None, 3)
    model.layers[-1].set_weights([np.zeros((64, 3)), np.array([0.0, 1.0, 0.0])])
    found = model.evaluate(np.ones((4, 3), np.int64), np.array([1, 1, 1, 2]), verbose=0, return_dict=True)
    assert found["accuracy"] == 0.75
    assert found["loss"] == pytest.approx(np.log(2 + np.e) - 0.75, rel=1e-5)
    with pytest.raises(ValueError, match="classes: expected at least 2, found 1"):
        models.MODELS[name](300, classes=1)


def test_accuracy_counts_logits_by_their_sign() -> None:
    model = models.single(300)
    model.layers[-1].set_weights([np.zeros((64, 1)), np.array([0.2])])  # logits of 0.2: positive, and below 0.5
    assert model.evaluate(np.ones((4, 3), np.int64), np.ones(4), verbose=0, return_dict=True)["accuracy"] == 1.0


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("name", PARAMETERS)
def test_training_is_that_of_keras(name: str, mask: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """`compare` itself: logits, gradients, losses; and the fused kernels ran."""
    monkeypatch.setattr(data, "_sample", small_sample)
    before = _core.fused_calls()
    result = compare.compare(data.load("sample", batch_size=8), model=name, mask=mask, steps=3, learning_rate=1e-2)
    assert result.problems == []
    assert result.fused
    assert _core.fused_calls()["backward"] - before["backward"] >= 3 + compare.WARM_UP
    assert len(result.losses["fast"]) == 3 + compare.WARM_UP
    assert len(result.train_ms.fast) == len(result.predict_ms.keras) == 3
    assert 0 < result.padding < 1
    assert result.computed is not None
    assert 0 < result.computed <= 1
    assert result.without_gradient is not None
    assert 0 <= result.without_gradient < 1
    assert len(result.gradient_differences) == len(models.MODELS[name](300).trainable_variables)


def test_comparison_fails_on_a_difference_or_a_fallback() -> None:
    times = compare.Times([1.0], [1.0])
    good = compare.Comparison(
        "single",
        "sample",
        8,
        False,
        0.01,
        10.0,
        0.5,
        0.0,
        {"kernel": 0.0},
        {"fast": [1.0], "keras": [1.0]},
        times,
        times,
        {"forward": 4, "backward": 2},
        {"forward": 4, "backward": 2},
        [],
        0.5,
        0.1,
    )
    assert good.problems == []
    assert "logits differ" in dataclasses.replace(good, logits_difference=1.0).problems[0]
    assert "gradients differ" in dataclasses.replace(good, gradient_differences={"kernel": float("nan")}).problems[0]
    assert "losses differ" in dataclasses.replace(good, losses={"fast": [1.0], "keras": [2.0]}).problems[0]
    fallback = dataclasses.replace(good, fused_calls={"forward": 0, "backward": 0}, fallbacks=["no library"])
    assert fallback.problems == ["FastLSTM ran as keras.layers.LSTM, so nothing was compared: no library"]


def test_a_bidirectional_lstm_learns_the_sample() -> None:
    """A count of words cannot solve the sample."""
    encoder = vocabulary.encoder_class()(list(sample.vocabulary()))

    def reviews(count: int, seed: int) -> batches.Encoded:
        return data.encode(encoder, *sample.generate(count, seed, median_length=60))

    source = batches.Data(
        "sample", ("negative", "positive"), encoder, reviews(2000, 0), reviews(400, 1), 64, seed=0, bucket=True
    )
    before = _core.fused_calls()["backward"]
    model = models.single(encoder.vocab_size, mask=True, learning_rate=sample.LEARNING_RATE, seed=0)
    steps = source.steps_per_epoch
    model.fit(source.train_batches(), steps_per_epoch=steps, epochs=4, shuffle=False, verbose=0)
    assert _core.fused_calls()["backward"] > before
    assert model.evaluate(source.test_batches(), verbose=0)[1] > 0.8


def small_sample(seed: int) -> corpus.Corpus:
    texts: corpus.Texts = {
        "train": sample.generate(40, seed, median_length=30),
        "test": sample.generate(10, seed + 1, median_length=30),
    }
    return corpus.Corpus(texts, ("negative", "positive"))
