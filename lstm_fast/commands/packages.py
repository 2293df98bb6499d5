"""Packages that a command needs and that the plain installation does without."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence

from lstm_fast.errors import CommandError


def require(command: str, packages: Sequence[str], extra: str) -> None:
    """Raises CommandError if one of the packages is not installed.

    Args:
        command: that needs them.
        packages: their names.
        extra: of this package, which brings them.
    """
    for package in packages:
        if not _is_installed(package):
            raise CommandError(
                f"{command}: expected the package {package}, found none; run pip install 'lstm_fast[{extra}]'"
            )


def _is_installed(package: str) -> bool:
    if package in sys.modules:
        return sys.modules[package] is not None
    return importlib.util.find_spec(package) is not None
