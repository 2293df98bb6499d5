"""Errors that the command line reports in one line."""

import re

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
# Lines of Keras and TensorFlow that say where an error happened, not what it is.
_WHERE = re.compile(r"Exception encountered when calling|Graph execution error|Detected at node|File \"|<stack traces")
_INNER = "Exception encountered: "  # before the cause, after a whole configuration
_CONFIGURATION = " Full object config: "  # after the cause
_LONGEST = 400


class CommandError(ValueError):
    """An argument or a file of the user cannot be used. The message says which, and what was expected and found."""


class DataError(CommandError):
    """Texts, labels or a vocabulary that cannot be used."""


def in_one_line(error: BaseException) -> str:
    """Returns the kind of an exception, and the line of its message that says what is wrong."""
    text = _COLOURS.sub("", str(error)).rpartition(_INNER)[2].partition(_CONFIGURATION)[0]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    line = next((line for line in lines if not _WHERE.match(line)), lines[0] if lines else "")
    if len(line) > _LONGEST:
        line = f"{line[:_LONGEST]}..."
    return f"{type(error).__name__}: {line}" if line else type(error).__name__
