"""Figures in words."""


def digits(ratio: float) -> str:
    """Digits as far as they tell something: whether a ratio near 1 is above or below it."""
    return f"{ratio:.2f}" if ratio < 2 else f"{ratio:.1f}" if ratio < 10 else f"{ratio:.0f}"


def significant(value: float) -> str:
    """Three digits."""
    return f"{value:.0f}" if value >= 99.95 else f"{value:#.3g}"  # which of that would be 100.
