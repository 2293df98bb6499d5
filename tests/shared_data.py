"""The real data of the tests, which are not a part of the package."""

import os
from pathlib import Path

import pytest

FOLDER = Path(os.environ.get("LSTM_FAST_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")


def path(name: str) -> Path:
    """Returns the path of a file or folder of shared/data; skips the test where it is absent."""
    found = FOLDER / name
    if not found.exists():
        pytest.skip(f"needs {name} in {FOLDER} (LSTM_FAST_DATA names another folder)")
    return found
