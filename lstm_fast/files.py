"""Output folders: checked before the work starts, and written so that an interruption leaves whole files."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lstm_fast.errors import CommandError


class OutputError(CommandError):
    """An output folder that cannot be used: the message names the argument, what was expected and found."""


def prepare_folder(path: Path) -> None:
    """Makes the folder and tries to write in it, so that a problem shows before the work and not after it.

    Raises:
        OutputError: it cannot be made or written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path):
            pass
    except OSError as error:
        raise OutputError(f"output: expected a folder that can be written, found {error}") from error


def replace(path: Path, write: Callable[[Path], object]) -> None:
    """Calls `write` with a path beside `path` and the same suffix, then moves that file into place at once."""
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        write(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Writes JSON, whole or not at all."""
    replace(path, lambda part: part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8"))
