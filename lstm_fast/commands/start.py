"""The start of a command: imports Keras and its backend, without their start-up messages."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING

from lstm_fast import environment
from lstm_fast.errors import CommandError

if TYPE_CHECKING:
    from lstm_fast.distribute.group import Group

# TensorFlow's start-up messages, before and after its log is set up. TensorFlow 2.21 prints them for every
# TF_CPP_MIN_LOG_LEVEL.
_START_UP = re.compile(
    rb"[IWE]\d{4} |\d{4}-\d\d-\d\d [\d:.]+: [IWE] |"
    rb"WARNING: All log messages before absl::|To enable the following instructions"
)


def start(distribute: bool = False) -> Group | None:
    """Imports Keras and its backend, and lets the backend look for devices.

    Args:
        distribute: Whether to join other processes. That must come before anything else.

    Returns:
        The group of processes, if this one has joined others.

    Raises:
        CommandError: There is no backend to run on, or the other processes cannot be joined.
    """
    try:
        environment.prepare()
    except ImportError as error:
        raise CommandError(str(error)) from error
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # for later messages
    with without_start_up_messages():
        import keras

        if distribute:
            check_training()
            return _join()
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            tf.constant(0)
    return None


def _join() -> Group:
    from lstm_fast.distribute.group import join

    # The wait may be long. It is in compiled code, and Ctrl-C as an exception would not reach it there.
    handler = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        return join(lambda where: print(f"distribute: waiting for the other processes: {where}", flush=True))
    finally:
        signal.signal(signal.SIGINT, handler)
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:  # TensorFlow and JAX catch it, unknown to Python
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def check_training() -> None:
    """Raises CommandError if Keras runs on a backend that cannot train."""
    import keras

    if (backend := keras.backend.backend()) not in environment.TRAINING:
        raise CommandError(f"KERAS_BACKEND: expected one of {', '.join(environment.TRAINING)}, found {backend!r}")


def check_settings() -> None:
    """Raises CommandError if a variable LSTM_FAST_* has a value that cannot be used."""
    from lstm_fast import settings
    from lstm_fast.libraries import LibraryError

    try:
        for name in settings.VARIABLES:
            with contextlib.suppress(LibraryError):  # the layers then run as Keras's, and the log says why
                getattr(settings.config, name)
    except ValueError as error:
        raise CommandError(str(error)) from error


@contextlib.contextmanager
def without_start_up_messages() -> Iterator[None]:
    """Holds back all output to stderr, of compiled code as well, and at the end writes it without start-up messages.

    If the body raises an error, it writes everything.
    """
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        failed = True
        try:
            yield
            failed = False
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
            held.seek(0)
            for line in held:
                if failed or not _START_UP.match(line):
                    os.write(2, line)
