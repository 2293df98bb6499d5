"""The memory that the kernels on the CPU keep for their next call."""

from lstm_fast.libraries import core


def trim() -> int:
    """Gives memory back to the system that the kernels on the CPU keep for their next call, and returns its bytes.

    They keep up to 512 MiB in each process, or as many as `lstm_fast.config.keep_mib` says: new memory costs more to
    touch than to compute on. It may be called at any time, from any thread.

    Raises:
        ValueError: LSTM_FAST_KEEP_MIB has a bad value.
        RuntimeError: The compiled library cannot be used here; the message says why.

    Examples:
        >>> lstm_fast.trim() >= 0
        True
    """
    return int(core().trim())
