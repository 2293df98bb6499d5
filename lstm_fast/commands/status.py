"""`lstm-fast status`: what is compiled in, and what keeps it from running."""

from __future__ import annotations

import argparse
import json

from lstm_fast.commands.exits import FAILED


def run(arguments: argparse.Namespace) -> int:
    """Runs the command and returns its exit status."""
    from lstm_fast.diagnosis import status

    found = status()
    if arguments.json:
        print(json.dumps(found.as_dict(), indent=2))
    else:
        print(found.text(calls=False))
        print(
            "\nThis command runs no model. For calls, timesteps and fallbacks, run lstm-fast bench --model my.keras "
            "or print lstm_fast.status() in your program."
        )
    return FAILED if found.problems else 0
