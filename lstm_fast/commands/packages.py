"""Packages that a command needs and that a plain installation does not have."""

from __future__ import annotations

from lstm_fast.environment import is_installed
from lstm_fast.errors import CommandError


def require(command: str, *names: str) -> None:
    """Raises CommandError if one of some packages is not installed.

    Args:
        command: The command that needs them.
        names: The names by which they are imported.
    """
    missing = [name for name in names if not is_installed(name)]
    if missing:
        packages = " ".join(name.replace("_", "-") for name in missing)
        raise CommandError(f"{command}: expected the package {missing[0]}, found none; run pip install {packages}")
