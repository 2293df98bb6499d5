"""lstm_fast's kernels on NumPy arrays, without a framework around them."""

import numpy as np

from lstm_fast import _core
from lstm_fast.backends import RESERVE_GATES, RESERVE_NONE, Direction
from lstm_fast.bench.prepared import Prepared
from lstm_fast.bench.scenarios import Problem


def prepare(problem: Problem, training: bool) -> Prepared:
    parameters = [list(column) for column in zip(*(Direction(*w) for w in problem.weights), strict=True)]
    absent = [None] * len(problem.weights)
    options = False, True, True, RESERVE_GATES if training else RESERVE_NONE
    x, mask = problem.x, problem.mask

    def infer() -> list[np.ndarray]:
        return [_core.forward(x, mask, *parameters, *options)[0]]

    def train() -> list[np.ndarray]:
        y, _, _, reserve = _core.forward(x, mask, *parameters, *options)
        dy = y * np.float32(2 / y.size)
        dx, dkernels, drecurrent_kernels, dbiases, _, _ = _core.backward(
            x, mask, *parameters, reserve, dy, absent, absent, *options
        )
        by_direction = zip(dkernels, drecurrent_kernels, dbiases, strict=True)
        return [y, dx, *(array for direction in by_direction for array in direction)]

    return Prepared(train if training else infer, list)
