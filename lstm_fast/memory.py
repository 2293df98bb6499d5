"""The memory that the kernels on the CPU keep for their next call."""

from lstm_fast.libraries import core


def trim() -> int:
    """Gives the memory that the CPU kernels keep for their next call back to the system, and returns its bytes.

    They keep up to 512 MiB in each process, or as many as `lstm_fast.config.keep_mib` says, because the first access to
    new memory takes longer than the computation on it. `trim` may be called at any time, from any thread.

    Raises:
        ValueError: LSTM_FAST_KEEP_MIB has a bad value.
        RuntimeError: The compiled library cannot be used here; the message says why.

    Examples:
        >>> lstm_fast.trim() >= 0
        True
    """
    return int(core().trim())
