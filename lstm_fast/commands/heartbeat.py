"""Lines that say how far a long command is, for output into a file."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from types import TracebackType

INTERVAL = 10.0  # seconds


class Heartbeat:
    """Prints every 10 seconds what the command does, unless the output is a terminal, which has a progress bar.

    A thread prints it, because some long steps report nothing in between, such as the building of a vocabulary.
    """

    def __init__(self) -> None:
        self._doing = ""
        self._start = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Heartbeat:
        if not sys.stdout.isatty():
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def now(self, doing: str) -> None:
        """Sets the line that is printed from now on."""
        self._doing = doing

    def report(self, line: str) -> None:
        """Prints a line at once, and sets it as the line that is printed from now on."""
        print(line, flush=True)
        self.now(line)

    def _beat(self) -> None:
        # If the output is closed, the command itself reports it.
        with contextlib.suppress(BrokenPipeError, ValueError):
            while not self._stop.wait(INTERVAL):
                if self._doing:
                    print(f"{time.monotonic() - self._start:.0f} s: {self._doing}", flush=True)
