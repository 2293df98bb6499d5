"""How far results may be off, and how far they are."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

# The norm of an error over the norm of the exact result, of y and of every gradient. A wrong gate order or a lost
# timestep is beyond 0.1; sums over the batch and over time, of which many are rounded before, take most of the room.
TOLERANCE: Mapping[str, float] = MappingProxyType(
    {"float64": 1e-10, "float32": 1e-4, "tf32": 1e-2, "float16": 2e-2, "bfloat16": 8e-2}
)
NAMES = ("y", "dx", "dkernel", "drecurrent_kernel", "dbias")


def errors(
    found: Sequence[np.ndarray], expected: Sequence[np.ndarray], mask: np.ndarray | None
) -> list[tuple[str, float]]:
    """Returns for each array its name and the norm of its error over that of what is expected.

    Args:
        found: y, and in training the gradients of the input and of the weights, as `Prepared` has them.
        expected: likewise.
        mask: `[B, T]`, None if every timestep is real. At padding, frameworks differ in whether they write anything.
    """
    names = (*NAMES, *(f"{name} of the second direction" for name in NAMES[2:]))
    pairs = []
    for name, array, right in zip(names[: len(found)], found, expected, strict=True):
        real = np.True_ if mask is None or name not in NAMES[:2] else mask[..., None]
        size = float(np.linalg.norm(right)) or 1.0  # one timestep: no gradient of the recurrent kernel
        pairs.append((name, float(np.linalg.norm(np.where(real, array - right, 0))) / size))
    return pairs
