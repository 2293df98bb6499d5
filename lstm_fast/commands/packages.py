"""Packages that commands need and this one does not."""

from __future__ import annotations

import importlib.util

from lstm_fast.errors import CommandError

_OF_CLI = ("matplotlib", "rich")


def require(command: str, *names: str) -> None:
    """Raises CommandError if one of some packages is not installed."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            wanted, extra = (" ".join(_OF_CLI), "cli") if name in _OF_CLI else (name, "imdb")
            raise CommandError(
                f"{command}: expected the package {name}, found none; run pip install {wanted}, or pip install "
                f"'.[{extra}]' in the source folder of lstm_fast"
            )
