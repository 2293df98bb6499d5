"""Locks that are free in a child of `os.fork()`."""

import os
import threading


def fork_safe_lock() -> threading.RLock:
    """Returns a lock that `os.fork()` waits for, whatever thread holds it.

    A child has only the thread that forked: in it, the lock of another thread would stay locked for ever. A thread may
    fork while it holds the lock itself. If one lock is taken inside another, the inner one must be made first.
    """
    lock = threading.RLock()
    if hasattr(os, "register_at_fork"):  # not on Windows
        os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)
    return lock
