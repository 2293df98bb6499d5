"""The peak of this process's memory, as Linux counts it."""

from pathlib import Path


def resident_bytes() -> int:
    """The resident size of now."""
    return _of_status("VmRSS")


def peak_bytes() -> int:
    """The greatest resident size since `reset_peak`."""
    return _of_status("VmHWM")


def reset_peak() -> None:
    """Brings the peak down to the resident size of now (proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")


def _of_status(name: str) -> int:
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024
