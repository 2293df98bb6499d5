"""Features that work here and fail in Keras's own LSTM: NaN in padding, no timesteps, models sharded over devices.
Training with stateful=True on PyTorch is in test_stateful.py.
"""

import os
import pathlib
from collections.abc import Callable
from typing import Any

import data_parallel
import keras
import numpy as np
import pytest
from keras_side import MODES, fused, run

from lstm_fast import FastBidirectional, FastLSTM

pytestmark = pytest.mark.backends("tensorflow", "jax", "torch")

BATCH, TIME, FEATURES, UNITS = 3, 5, 4, 6

WRAPPERS: dict[str, Callable[[Any], Any]] = {"lstm": lambda layer: layer, "bidirectional": FastBidirectional}
wrappers = pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)


def ones(output: Any) -> np.ndarray:
    return np.ones(tuple(output.shape), np.float32)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "options", [{}, {"return_sequences": True}, {"recompute": True}, {"go_backwards": True}], ids=str
)
@wrappers
def test_nan_in_masked_timesteps(wrap: Callable[[Any], Any], options: dict[str, Any], mode: str) -> None:
    """Outputs and all gradients are those of padding with zeros. Keras's gradients are all NaN."""
    if wrap is FastBidirectional and "go_backwards" in options:
        pytest.skip("one of the two runs backwards anyway")
    layer = wrap(FastLSTM(UNITS, **options))
    layer.build((BATCH, TIME, FEATURES))
    mask = np.arange(TIME) < np.array([[2], [0], [4]])
    zeros = np.random.default_rng(0).standard_normal((BATCH, TIME, FEATURES)).astype(np.float32)
    zeros[~mask] = 0.0
    nan = np.where(mask[..., None], zeros, np.float32(np.nan))

    def call(x: Any, mask: Any) -> Any:
        return layer(x, mask=mask, training=True)

    with fused(forward=2, backward=2):
        outputs, gradients = run(layer, call, [nan, mask], ones, mode)
        expected = run(layer, call, [zeros, mask], ones, mode)
    for found, wanted in zip([*outputs, *gradients], [*expected[0], *expected[1]], strict=True):
        assert np.isfinite(found).all()
        np.testing.assert_array_equal(found, wanted)
    assert all(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("return_sequences", [False, True])
@wrappers
@pytest.mark.fast
def test_gradients_without_timesteps(wrap: Callable[[Any], Any], return_sequences: bool) -> None:
    """A batch of empty texts trains: its gradients are zero. Keras's layer raises."""
    layer = wrap(FastLSTM(UNITS, return_sequences=return_sequences))
    layer.build((BATCH, None, FEATURES))
    for mode in MODES:
        x = np.zeros((BATCH, 0, FEATURES), np.float32)
        _, gradients = run(layer, lambda x: layer(x, training=True), [x], ones, mode)
        assert len(gradients) == 1 + len(layer.trainable_variables)
        assert not any(gradient.any() for gradient in gradients)


def test_fit_on_a_batch_of_empty_texts() -> None:
    model = keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            keras.layers.Embedding(7, FEATURES, mask_zero=True),
            FastBidirectional(FastLSTM(UNITS)),
            keras.layers.Dense(1),
        ]
    )
    model.compile(keras.optimizers.SGD(0.1), "mse")
    before = model.get_weights()
    model.fit(np.zeros((BATCH, 0), np.int32), np.ones((BATCH, 1)), verbose=0)
    changed = [(a != b).any() for a, b in zip(model.get_weights(), before, strict=True)]
    assert changed == [False] * (len(before) - 1) + [True]  # the bias of the last layer
    assert np.isfinite(model.predict(np.zeros((BATCH, 0), np.int32), verbose=0)).all()


MODEL_PARALLEL = """
import sys, warnings
from pathlib import Path
import jax, keras
from data_parallel import *
warnings.simplefilter("error")
folder = Path(sys.argv[1])

def fit(name, split):
    for masked in (True, False):
        model = compiled(make_model(masked))
        with recorded(folder / f"{name}-{masked}.npz", lambda: jax.device_get([w.value for w in model.weights])):
            model.fit(*make_data(), batch_size=BATCH, shuffle=False, verbose=0)
        kernels = [weight for weight in model.weights if "kernel" in weight.path and "lstm" in weight.path]
        assert len(kernels) == 4, [weight.path for weight in model.weights]
        assert [kernel.value.sharding.is_fully_replicated for kernel in kernels] == [not split] * 4

fit("whole", split=False)
assert jax.device_count() == 2
mesh = keras.distribution.DeviceMesh((1, 2), ["batch", "model"], keras.distribution.list_devices())
layout = keras.distribution.LayoutMap(mesh)
layout[".*lstm.*kernel"] = (None, "model")
keras.distribution.set_distribution(keras.distribution.ModelParallel(layout_map=layout, batch_dim_name="batch"))
fit("split", split=True)
"""


@pytest.mark.backends("jax")
def test_fit_of_a_model_whose_weights_are_spread(tmp_path: pathlib.Path) -> None:
    """`keras.distribution.ModelParallel`: the weights are those of one device, and the kernels stay sharded."""
    devices = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2"
    data_parallel.run_script(MODEL_PARALLEL, tmp_path, KERAS_BACKEND="jax", XLA_FLAGS=devices)
    for masked in (True, False):
        counts = np.load(tmp_path / f"split-{masked}.npz")
        passes = int(counts["forward"])
        assert passes >= 2 * data_parallel.STEPS
        data_parallel.check(tmp_path, f"split-{masked}", f"whole-{masked}", passes)
