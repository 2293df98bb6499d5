"""Output folders: checked before the work starts, and written so that an interruption leaves whole files."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lstm_fast.errors import CommandError


class OutputError(CommandError):
    """An output folder cannot be used. The message says what was expected and what was found."""


@contextlib.contextmanager
def output_folder(path: Path) -> Iterator[None]:
    """Makes the folder and tries to write in it, so that a problem shows before the work and not after it.

    At the end it removes the folders that it has made, if they are still empty.

    Raises:
        OutputError: it cannot be made or written.
    """
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path):
            pass
    except OSError as error:
        raise OutputError(f"output: expected a folder that can be written, found {error}") from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # not empty
            for folder in made:
                folder.rmdir()


def replace(path: Path, write: Callable[[Path], object]) -> None:
    """Calls `write` with a temporary path of the same suffix beside `path`, then renames that file to `path`.

    Raises:
        OutputError: the file cannot be written.
    """
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        write(part)
        os.replace(part, path)
    except OSError as error:
        raise OutputError(f"output: expected {path} to be written, found {error}") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def write_json(path: Path, content: Any) -> None:
    """Writes JSON, whole or not at all."""
    replace(path, lambda part: part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8"))
