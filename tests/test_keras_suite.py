"""Keras's own tests of LSTM and Bidirectional, which are in its wheel, on this package's layers."""

import json
import os
import subprocess
import sys
import xml.etree.ElementTree
from pathlib import Path

import keras
import pytest

pytestmark = pytest.mark.backends("tensorflow", "jax", "torch")

HERE = Path(__file__).parent
KERAS_TESTS = Path(keras.__file__).parent / "src" / "layers" / "rnn"


NO_LSTM = "the kernel computes LSTMs"


# The reasons for which calls may fall back: features in Keras's tests that the kernels do not have. The tests of
# Bidirectional train no LSTM.
@pytest.mark.parametrize(
    ("name", "passes", "reasons"),
    [
        ("lstm_test.py", ["forward", "backward"], {"unroll=True"}),
        (
            "bidirectional_test.py",
            ["forward"],
            {f"{name} in FastBidirectional: {NO_LSTM}" for name in ("SimpleRNN", "GRU")},
        ),
    ],
    ids=["lstm", "bidirectional"],
)
def test_keras_suite(tmp_path, name, passes, reasons):
    suite = KERAS_TESTS / name
    if not suite.exists():
        pytest.skip(f"Keras {keras.__version__} ships without {name}")
    results, status_file = tmp_path / "results.xml", tmp_path / "status.json"
    options = ["-p", "keras_suite", "-p", "no:cacheprovider", "--import-mode=importlib", "--rootdir", tmp_path]
    environment = {
        "LSTM_FAST_KERNEL": "auto",  # some tests must fall back
        "LSTM_FAST_SUITE_STATUS": str(status_file),
        "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]),
    }
    run = subprocess.run(
        [sys.executable, "-m", "pytest", suite, *options, "-c", os.devnull, f"--junitxml={results}"],
        env=os.environ | environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    (counts,) = xml.etree.ElementTree.parse(results).getroot()
    passed = int(counts.get("tests")) - int(counts.get("skipped"))
    status = json.loads(status_file.read_text())
    print(f"{name}: {passed} passed, {counts.get('skipped')} skipped; fused calls {status['fused_calls']}")
    assert passed > 0
    assert all(status["fused_calls"][name] > 0 for name in passes)
    assert status["fallbacks"].keys() == reasons
