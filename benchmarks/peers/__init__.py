"""One module per framework. Each has `prepare(problem, training, ...)`, which returns a `Prepared`.

All compute the same arrays: y `[B, T, N * H]`, zero at padding; in training also the gradients of mean(y^2). They hold
weights and input in the layout that suits them before the clock starts, and convert results after it has stopped.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np


class Prepared(NamedTuple):
    """A contender at work on one problem."""

    step: Callable[[], Any]  # what is timed: returns when everything has been computed
    # What `step` returned, as Keras has it: [y], in training [y, dx, dkernel, drecurrent_kernel, dbias], the last three
    # for each direction.
    results: Callable[[Any], Sequence[np.ndarray]]
