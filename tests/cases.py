"""Problems for the kernels, and the three ways to solve one: the reference, the compiled kernels, Keras."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import ml_dtypes
import numpy as np
import tolerances
from numpy.typing import NDArray

from lstm_fast import reference

DTYPES: Mapping[str, np.dtype] = {
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
RESERVE_MODES = {"none": 0, "gates": 1, "recompute": 2}
MASKS = ("none", "right", "left", "holes", "masked_rows", "all")
# The options of make_problem(), without the sizes.
KINDS: Mapping[str, Sequence[Any]] = {
    "dtype": tuple(DTYPES),
    "mask": MASKS,
    "directions": (1, 2),
    "go_backwards": (False, True),
    "return_sequences": (True, False),
    "zero_output_for_mask": (False, True),
    "bias": (True, False),
    "states": (True, False),
    "input_dropout": (False, True),
    "recurrent_dropout": (False, True),
}

Array = NDArray[Any]


def make_mask(kind: str, batch: int, time: int, rng: np.random.Generator) -> NDArray[np.bool_] | None:
    """A mask [batch, time], True where the timestep is real."""
    steps, lengths = np.arange(time), rng.integers(1, max(time, 1), batch, endpoint=True)[:, None]
    match kind:
        case "none":
            return None
        case "right":
            return steps < lengths
        case "left":
            return steps >= time - lengths
        case "holes":
            return rng.random((batch, time)) < 0.6
        case "masked_rows":  # every other row has no real timestep
            return (steps < lengths) & (np.arange(batch) % 2 == 1)[:, None]
        case "all":
            return np.zeros((batch, time), bool)
    raise ValueError(f"kind: expected one of {MASKS}, found {kind!r}")


@dataclass(frozen=True)
class Problem:
    """Arguments of the kernels, in the kernels' order, and a gradient for every output.

    If x is projected, it is the input of the recurrence. The kernels here are then those with which the layer computes
    the same: each picks the gates of its direction out of x.
    """

    x: Array
    mask: NDArray[np.bool_] | None
    kernels: list[Array]
    recurrent_kernels: list[Array]
    biases: list[Array | None]
    h0: list[Array | None]
    c0: list[Array | None]
    input_dropout: list[Array | None]
    recurrent_dropout: list[Array | None]
    dy: Array | None
    dh_n: list[Array | None]
    dc_n: list[Array | None]
    go_backwards: bool
    return_sequences: bool
    zero_output_for_mask: bool
    projected: bool

    @property
    def inputs(self) -> tuple[Any, ...]:
        return (
            self.x,
            self.mask,
            self.kernels,
            self.recurrent_kernels,
            self.biases,
            self.h0,
            self.c0,
            self.input_dropout,
            self.recurrent_dropout,
        )

    @property
    def kernel_inputs(self) -> tuple[Any, ...]:
        """The inputs as the compiled kernels take them: without kernels if x is projected."""
        x, mask, kernels, *others = self.inputs
        return x, mask, [None for _ in kernels] if self.projected else kernels, *others

    @property
    def gradients(self) -> tuple[Any, ...]:
        return self.dy, self.dh_n, self.dc_n

    @property
    def kernel_gradients(self) -> tuple[Any, ...]:
        """The gradients as the compiled kernels take them: y always has a time axis there."""
        dy = self.dy if self.dy is None or self.return_sequences else self.dy[:, None]
        return dy, self.dh_n, self.dc_n

    @property
    def options(self) -> dict[str, bool]:
        return {
            "go_backwards": self.go_backwards,
            "return_sequences": self.return_sequences,
            "zero_output_for_mask": self.zero_output_for_mask,
        }

    @property
    def units(self) -> int:
        return len(self.recurrent_kernels[0])

    def rows(self, chosen: slice) -> "Problem":
        """The same problem for some rows of the batch."""

        def states(arrays: list[Array | None]) -> list[Array | None]:
            return [None if array is None else np.ascontiguousarray(array[chosen]) for array in arrays]

        def multipliers(arrays: list[Array | None]) -> list[Array | None]:
            return [None if array is None else np.ascontiguousarray(array[:, chosen]) for array in arrays]

        return replace(
            self,
            x=self.x[chosen],
            mask=None if self.mask is None else self.mask[chosen],
            h0=states(self.h0),
            c0=states(self.c0),
            input_dropout=multipliers(self.input_dropout),
            recurrent_dropout=multipliers(self.recurrent_dropout),
            dy=self.dy[chosen],
            dh_n=states(self.dh_n),
            dc_n=states(self.dc_n),
        )

    def poisoned(self) -> "Problem":
        """The same problem with NaN in x wherever the mask is false."""
        x = self.x.copy()
        x[~self.mask] = np.nan
        return replace(self, x=x)


def make_problem(
    batch: int = 3,
    time: int = 5,
    features: int = 4,
    units: int = 5,
    *,
    directions: int = 1,
    dtype: str = "float32",
    mask: str = "none",
    bias: bool = True,
    states: bool = True,
    input_dropout: bool = False,
    recurrent_dropout: bool = False,
    go_backwards: bool = False,
    return_sequences: bool = True,
    zero_output_for_mask: bool = False,
    projected: bool = False,
    seed: int = 0,
) -> Problem:
    """A random problem of the given shape, with weights of the size that Keras's initialisers give.

    If x is projected, its features are the gates, whatever `features` is, and they have no dropout.
    """
    if projected:
        features = directions * 4 * units
    rng = np.random.default_rng([seed, batch, time, features, units])

    def normal(*shape: int, scale: float = 1.0) -> Array:
        return (scale * rng.standard_normal(shape)).astype(DTYPES[dtype])

    def multipliers(present: bool, size: int) -> Array | None:
        return (2 * rng.integers(0, 2, (4, batch, size))).astype(DTYPES[dtype]) if present else None

    each = range(directions)
    kernels = [normal(features, 4 * units, scale=(features + units) ** -0.5) for _ in each]
    if projected:
        kernels = np.split(np.eye(features, dtype=DTYPES[dtype]), directions, axis=1)
    return Problem(
        x=normal(batch, time, features),
        mask=make_mask(mask, batch, time, rng),
        kernels=[np.ascontiguousarray(kernel) for kernel in kernels],
        recurrent_kernels=[normal(units, 4 * units, scale=units**-0.5) for _ in each],
        biases=[normal(4 * units) if bias else None for _ in each],
        h0=[normal(batch, units, scale=0.5) if states else None for _ in each],
        c0=[normal(batch, units) if states else None for _ in each],
        input_dropout=[multipliers(input_dropout and not projected, features) for _ in each],
        recurrent_dropout=[multipliers(recurrent_dropout, units) for _ in each],
        dy=normal(batch, *([time] if return_sequences else []), directions * units),
        dh_n=[normal(batch, units) for _ in each],
        dc_n=[normal(batch, units) for _ in each],
        go_backwards=go_backwards and directions == 1,
        return_sequences=return_sequences,
        zero_output_for_mask=zero_output_for_mask,
        projected=projected,
    )


def with_other_bytes(problem: Problem) -> Problem:
    """The same problem, with a mask in which true is any byte but 0. For NumPy it equals the other mask."""
    assert problem.mask is not None
    other = 255 - np.arange(problem.mask.size).reshape(problem.mask.shape) % 255
    return replace(problem, mask=np.where(problem.mask, other, 0).astype(np.uint8).view(bool))


@dataclass(frozen=True)
class Solution:
    """All results of a problem. Gradients are absent if only the forward pass ran."""

    y: Array
    h_n: Sequence[Array]
    c_n: Sequence[Array]
    dx: Array | None = None
    dkernels: Sequence[Array | None] = ()
    drecurrent_kernels: Sequence[Array] = ()
    dbiases: Sequence[Array | None] = ()
    dh0: Sequence[Array] = ()
    dc0: Sequence[Array] = ()

    def named(self) -> dict[str, Array]:
        """Every array under its name, with the direction's number."""
        arrays: dict[str, Array] = {}
        for name, value in vars(self).items():
            if isinstance(value, (list, tuple)):
                arrays.update({f"{name}[{n}]": array for n, array in enumerate(value) if array is not None})
            elif value is not None:
                arrays[name] = value
        return arrays


@dataclass(frozen=True)
class Expected:
    """The exact solution, and how far each array may be off when it is computed in the problem's dtype."""

    solution: Solution
    allowance: Mapping[str, float]
    # How much larger the error of sums over the gradient of z may be if that is first stored in the problem's dtype.
    of_stored_dz: Mapping[str, float] = field(default_factory=dict)

    def check(self, actual: Solution, slack: float = 1.0) -> None:
        """Compares shapes, non-finite values and, within `slack` times the allowance, values."""
        expected, found = self.solution.named(), actual.named()
        assert found.keys() <= expected.keys()
        for name, array in found.items():
            tolerances.assert_close(
                np.asarray(array).astype(np.float64),
                expected[name].astype(np.float64),
                slack * self.allowance[name],
                err_msg=name,
            )


def solve_by_reference(problem: Problem, *, starts_from_state: bool = False) -> Expected:
    """The exact solution. `starts_from_state`: the outputs before the first real timestep are h0, not zero."""
    outputs = reference.forward(*problem.inputs, **problem.options)
    gradients = reference.backward(*problem.inputs, *problem.gradients, **problem.options)
    solution = Solution(*outputs, *gradients[:-1])
    roundoff = tolerances.ROUNDOFF[problem.x.dtype.name]
    of_stored_dz = {f"dbiases[{n}]": roundoff * tolerances.norm_of_columns(dz) for n, dz in enumerate(gradients.dz)}
    if not starts_from_state or problem.mask is None or problem.zero_output_for_mask:
        return Expected(solution, _allowances(problem, solution, gradients.dz), of_stored_dz)
    started = _starting_from_state(problem, solution)
    allowance = _allowances(problem, started, gradients.dz)
    for n, (total, by_steps) in enumerate(zip(started.dh0, solution.dh0, strict=True)):  # a sum of two stored arrays
        stored = tolerances.ROUNDOFF[problem.x.dtype.name]
        allowance[f"dh0[{n}]"] += stored * (tolerances.largest(by_steps) + tolerances.largest(total - by_steps))
    return Expected(started, allowance, of_stored_dz)


def _starting_from_state(problem: Problem, solution: Solution) -> Solution:
    batch, time = problem.mask.shape
    shape = (batch, time if problem.return_sequences else 1, -1)
    y, dy = solution.y.reshape(shape).copy(), problem.dy.reshape(shape).astype(np.float64)
    dh0 = []
    for n, h0 in enumerate(problem.h0):
        half = slice(n * problem.units, (n + 1) * problem.units)
        real = problem.mask[:, ::-1] if problem.go_backwards or n == 1 else problem.mask
        waits = ~np.logical_or.accumulate(real, axis=1)
        if not problem.return_sequences:
            waits = waits[:, -1:]
        elif n == 1:
            waits = waits[:, ::-1]
        y[..., half] = np.where(waits[..., None], 0.0 if h0 is None else h0[:, None], y[..., half])
        dh0.append(solution.dh0[n] + np.sum(waits[..., None] * dy[..., half], axis=1))
    return replace(solution, y=y.reshape(solution.y.shape), dh0=dh0)


def _allowances(problem: Problem, solution: Solution, dz: Sequence[Array]) -> dict[str, float]:
    batch, time, _ = problem.x.shape
    units = problem.units
    storage = problem.x.dtype.name
    roundoff = tolerances.ROUNDOFF["float64" if storage == "float64" else "float32"]  # 16-bit types compute in float32
    x = problem.x if problem.mask is None else np.where(problem.mask[..., None], problem.x, problem.x.dtype.type(0))
    allowance: dict[str, float] = {}
    for n, dz_n in enumerate(dz):
        kernel, recurrent_kernel = problem.kernels[n], problem.recurrent_kernels[n]
        x_scale = tolerances.largest(1.0, problem.input_dropout[n])
        h_scale = tolerances.largest(1.0, problem.h0[n]) * tolerances.largest(1.0, problem.recurrent_dropout[n])
        product = x_scale * tolerances.norm_of_rows(x) * tolerances.norm_of_columns(kernel)
        preactivation = (
            (tolerances.largest(x) if problem.projected else product)
            + h_scale * np.sqrt(units) * tolerances.norm_of_columns(recurrent_kernel)
            + tolerances.largest(problem.biases[n])
        )
        per_layer = roundoff * (1.0 + preactivation) * np.sqrt(1.0 + time)
        rows, columns = tolerances.norm_of_rows(dz_n), tolerances.norm_of_columns(dz_n)
        cell = tolerances.largest(1.0, problem.c0[n], solution.c_n[n])
        state = tolerances.largest(problem.dh_n[n], problem.dc_n[n], solution.dh0[n], solution.dc0[n])
        norms = {
            f"h_n[{n}]": tolerances.FORWARD * cell,
            f"c_n[{n}]": tolerances.FORWARD * cell,
            f"dkernels[{n}]": tolerances.GRADIENT * x_scale * tolerances.norm_of_columns(x) * columns,
            f"drecurrent_kernels[{n}]": tolerances.GRADIENT * h_scale * np.sqrt(batch * time) * columns,
            f"dbiases[{n}]": tolerances.GRADIENT * np.sqrt(batch * time) * columns,
            f"dh0[{n}]": tolerances.GRADIENT * (state + h_scale * rows * tolerances.norm_of_rows(recurrent_kernel)),
            f"dc0[{n}]": tolerances.GRADIENT * (state + h_scale * rows * tolerances.norm_of_rows(recurrent_kernel)),
        }
        allowance |= {name: per_layer * norm for name, norm in norms.items()}
        dx = tolerances.GRADIENT * per_layer * x_scale * rows * tolerances.norm_of_rows(kernel)
        allowance["dx"] = allowance.get("dx", 0.0) + dx
        allowance["y"] = max(allowance.get("y", 0.0), allowance[f"h_n[{n}]"])
    stored = tolerances.ROUNDOFF[storage]
    return {name: allowance[name] + stored * tolerances.largest(array) for name, array in solution.named().items()}


def solve_by_kernel(problem: Problem, *, reserve: str = "gates", backward: bool = True) -> Solution:
    """Runs the compiled kernels; `reserve` says what the forward pass keeps for the backward pass."""
    from lstm_fast import _core

    options = (*problem.options.values(), RESERVE_MODES[reserve])
    y, h_n, c_n, kept = _core.forward(*problem.kernel_inputs, *options)
    outputs = y if problem.return_sequences else y[:, 0], h_n, c_n
    if not backward:
        return Solution(*outputs)
    return Solution(*outputs, *_core.backward(*problem.kernel_inputs, kept, *problem.kernel_gradients, *options))


def differences(problem: Problem, forward: Callable[[Problem], Solution]) -> dict[str, Array]:
    """The gradients by central differences, of a float64 problem."""

    def loss() -> float:
        solution = forward(problem)
        products = [np.sum(problem.dy * solution.y)]
        products += [np.sum(d * h) for d, h in zip(problem.dh_n, solution.h_n, strict=True)]
        products += [np.sum(d * c) for d, c in zip(problem.dc_n, solution.c_n, strict=True)]
        return float(sum(products))

    def slope(array: Array, index: tuple[int, ...]) -> float:
        before, step = array[index], tolerances.DIFFERENCE_STEP
        array[index] = before + step
        above = loss()
        array[index] = before - step
        below = loss()
        array[index] = before
        return (above - below) / (2.0 * step)

    x, _, *lists = problem.kernel_inputs
    operands = Solution(*((), (), ()), x, *lists[:5])  # no outputs, only what has a gradient
    gradients = {}
    for name, array in operands.named().items():
        gradients[name] = np.array([slope(array, index) for index in np.ndindex(array.shape)]).reshape(array.shape)
    return gradients


def assert_same_bits(actual: Solution, expected: Solution) -> None:
    """Compares everything that the expected solution has."""
    found = actual.named()
    for name, array in expected.named().items():
        np.testing.assert_array_equal(found[name], array, err_msg=name, strict=True)
        assert found[name].tobytes() == array.tobytes(), name


def pairwise(options: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """A few combinations in which every two values of different options occur together (greedy, always the same)."""
    names = list(options)
    missing = {
        frozenset({(a, i), (b, j)})
        for a, b in itertools.combinations(names, 2)
        for i, j in itertools.product(range(len(options[a])), range(len(options[b])))
    }
    combinations = []
    while missing:
        chosen = dict(min(map(sorted, missing)))
        for name in names:
            if name not in chosen:
                chosen[name] = max(
                    range(len(options[name])),
                    key=lambda i: sum(frozenset({(name, i), other}) in missing for other in chosen.items()),
                )
        missing -= {frozenset(pair) for pair in itertools.combinations(chosen.items(), 2)}
        combinations.append({name: options[name][i] for name, i in chosen.items()})
    return combinations


def label(options: Mapping[str, Any]) -> str:
    """A test's name: the options that are on."""
    return "-".join(name if value is True else str(value) for name, value in options.items() if value is not False)
