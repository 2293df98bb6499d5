"""A model that leaves through `to_keras` runs where this package is not."""

import subprocess
import sys

import keras
import numpy as np
import tolerances

import lstm_fast

SERVE = """
import sys
sys.modules["lstm_fast"] = None  # whoever imports it gets an ImportError
import numpy as np
import tensorflow as tf
folder = sys.argv[1]
model = tf.saved_model.load(folder + "/model")
np.save(folder + "/served.npy", model.serve(tf.constant(np.load(folder + "/x.npy"))))
"""


def test_exported_model_runs_without_this_package(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            keras.layers.Embedding(30, 4, mask_zero=True),
            lstm_fast.FastBidirectional(lstm_fast.FastLSTM(5, return_sequences=True)),
            lstm_fast.FastLSTM(3),
        ]
    )
    x = np.random.default_rng(0).integers(0, 30, (4, 9)).astype(np.int32)
    expected = model.predict(x, verbose=0)
    lstm_fast.to_keras(model).export(tmp_path / "model", verbose=False)
    np.save(tmp_path / "x.npy", x)
    subprocess.run([sys.executable, "-c", SERVE, str(tmp_path)], check=True, timeout=120)
    np.testing.assert_allclose(
        np.load(tmp_path / "served.npy"),
        expected,
        rtol=0.0,
        atol=tolerances.between_layers("float32", x.size, expected),
    )
