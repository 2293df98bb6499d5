"""Exit statuses of the command."""

FAILED, USAGE, INTERRUPTED = 1, 2, 130
