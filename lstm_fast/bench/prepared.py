"""A contender at work.

All compute the same arrays: y `[B, T, N * H]`, zero at padding; in training also the gradients of mean(y^2), or of
sum(dy * y) if the problem has a dy. They hold weights and input in the layout that suits them before the clock starts,
and convert results after it has stopped.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np


class Prepared(NamedTuple):
    """A contender at work on one problem."""

    step: Callable[[], Any]  # what is timed
    # What `step` returned, as Keras has it: [y], in training [y, dx, dkernel, drecurrent_kernel, dbias], the last three
    # for each direction.
    results: Callable[[Any], Sequence[np.ndarray]]
    clock: Callable[[], float] = time.perf_counter  # in seconds; waits for what has been started
    graph: Callable[[], Callable[[], Any]] | None = None  # captures a step into a CUDA graph; returns its replay
    about: Mapping[str, Any] = MappingProxyType({})  # what a reader of the results should know
