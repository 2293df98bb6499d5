"""`lstm-fast status`: what is compiled in, what runs and what falls back."""

from __future__ import annotations

import argparse
import json


def run(arguments: argparse.Namespace) -> int:
    """Runs the command and returns its exit status."""
    from lstm_fast.status import status

    found = status()
    if arguments.json:
        print(json.dumps(found.as_dict(), indent=2))
        return 0
    print(found)
    print("\nThis command runs no model. For calls, timesteps and fallbacks, print lstm_fast.status() in your program.")
    return 0
