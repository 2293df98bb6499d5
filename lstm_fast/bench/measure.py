"""One scenario and pass: every contender checked, then timed by turns."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from lstm_fast.bench import keras_layers, product
from lstm_fast.bench.contenders import FAST, KERAS, Contender, keras_contender, users_contenders
from lstm_fast.bench.parity import TOLERANCE, errors
from lstm_fast.bench.prepared import Prepared
from lstm_fast.bench.scenarios import Problem, Scenario, make_problem
from lstm_fast.bench.turns import ratio, take_turns
from lstm_fast.diagnosis import status
from lstm_fast.errors import in_one_line

PRODUCT = "matrix product"
BUDGET_SECONDS = 4.0  # for the turns of a scenario and pass
SLOW_SECONDS = (
    2.0  # a contender that takes longer for a call is timed once: XLA, or Keras on PyTorch, at long sequences
)


@dataclasses.dataclass(frozen=True)
class Place:
    """Where and in which dtypes everything runs."""

    backend: str  # Keras's
    device: str | None  # name of the GPU; None: the CPU
    policy: str  # Keras's, of the dtypes
    dtype: str  # the compute dtype of it

    @property
    def tolerance(self) -> float:
        """How far results may be off. Frameworks compute float32 as TF32 on a GPU, unless told not to."""
        return TOLERANCE["tf32" if self.device and self.dtype == "float32" else self.dtype]

    @property
    def product(self) -> str:
        """What the floor is measured by, in words."""
        if self.device:
            return f"{self.backend}'s {self.dtype} matrix product of size {product.GPU_SIZE} on the GPU"
        return f"NumPy's float32 matrix product of size {product.SIZE}"

    @property
    def product_flop(self) -> int:
        """Multiplications and additions of it."""
        size = product.GPU_SIZE if self.device else product.SIZE
        return 2 * size**3


def place(policy: str) -> Place:
    """Returns where Keras runs."""
    dtype = keras.DTypePolicy(policy).compute_dtype
    return Place(keras.backend.backend(), keras_layers.framework().device(), policy, dtype)


@dataclasses.dataclass
class Measurement:
    """What `measure` found.

    Attributes:
        scenario: what was computed.
        training: with all gradients, or only the output.
        where: it was computed.
        seconds: of each contender that was timed, and of PRODUCT; a figure for every round.
        errors: of each contender that was checked, how far its worst array is off.
        fused_calls: of lstm_fast's kernels, while FastLSTM was checked.
        fallbacks: why FastLSTM ran as Keras's LSTM, if it did.
        absent: why contenders took no part, by name.
        failures: what contenders got wrong, by name.
    """

    scenario: Scenario
    training: bool
    where: Place
    seconds: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    errors: dict[str, float] = dataclasses.field(default_factory=dict)
    fused_calls: dict[str, int] = dataclasses.field(default_factory=dict)
    fallbacks: list[str] = dataclasses.field(default_factory=list)
    absent: dict[str, str] = dataclasses.field(default_factory=dict)
    failures: dict[str, str] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        return f"{'training' if self.training else 'inference'} {self.scenario}"

    def ms(self, name: str) -> float:
        """The median milliseconds of a contender."""
        return 1e3 * statistics.median(self.seconds[name])

    @property
    def us_per_step(self) -> float:
        """Microseconds of FastLSTM for a timestep of the longest row."""
        return 1e3 * self.ms(FAST) / self.scenario.time

    @property
    def ratios(self) -> dict[str, float]:
        """How many times as fast as each contender FastLSTM is; empty if that was not timed."""
        if FAST not in self.seconds:
            return {}
        others = (name for name in self.seconds if name not in (FAST, PRODUCT))
        return {name: ratio(self.seconds[FAST], self.seconds[name]) for name in others}

    @property
    def share(self) -> float:
        """The floor over the time of FastLSTM; the floor: its arithmetic, at the rate of the matrix product."""
        work = self.scenario.flop(self.training) / self.where.product_flop
        return work * ratio(self.seconds[FAST], self.seconds[PRODUCT])

    @property
    def product_rate(self) -> float:
        """Multiplications and additions a second of the matrix product."""
        return self.where.product_flop / statistics.median(self.seconds[PRODUCT])

    def as_dict(self) -> dict[str, Any]:
        """All figures, ready for JSON."""
        figures = {"us_per_step": self.us_per_step, "share_of_floor": self.share} if FAST in self.seconds else {}
        return {
            **dataclasses.asdict(self.scenario),
            "padding": 1 - self.scenario.real_share,
            "training": self.training,
            "flop": self.scenario.flop(self.training),
            "bytes": self.scenario.bytes(self.training),
            "ms": {name: [1e3 * value for value in seconds] for name, seconds in self.seconds.items()},
            "ratios": self.ratios,
            **figures,
            "errors": self.errors,
            "tolerance": self.where.tolerance,
            "fused_calls": self.fused_calls,
            "fallbacks": self.fallbacks,
            "absent": self.absent,
            "failures": self.failures,
        }


def total_work(where: Place) -> int:
    """How often `measure` calls `progress`."""
    return len(users_contenders(where.policy, where.device is not None)) + 1


def measure(
    scenario: Scenario, training: bool, where: Place, progress: Callable[[str], None] = lambda _: None
) -> Measurement:
    """Checks every contender against keras.layers.LSTM in float32, and times those that pass.

    Args:
        scenario: what to compute.
        training: whether to compute all gradients, too.
        where: of `place`.
        progress: called with what comes next, `total_work(where)` times in all.
    """
    found = Measurement(scenario, training, where)
    ready: dict[str, Prepared] = {}
    try:
        problem = _problem(scenario, where.dtype)
        judge = keras_contender(KERAS).prepare(problem, training)
        exact = judge.results(judge.step())
    except Exception as error:  # of a framework: too little memory, or what it cannot compile
        found.failures[KERAS] = in_one_line(error)
        return found
    for contender in users_contenders(where.policy, where.device is not None):
        progress(f"{found}: {contender.name}")
        if reason := contender.unavailable(scenario, training):
            found.absent[contender.name] = reason.removeprefix(f"{contender.name}: ")
            continue
        is_judge = contender.name == KERAS and where.policy == "float32"
        try:
            prepared = judge if is_judge else contender.prepare(problem, training)
            if _passes(contender, prepared, problem, exact, found):
                ready[contender.name] = prepared
        except Exception as error:  # likewise; the others go on
            found.failures[contender.name] = in_one_line(error)
    progress(f"{found}: taking turns")
    on_gpu = where.device is not None
    ready[PRODUCT] = product.on_device(where.dtype) if on_gpu else product.on_numpy()
    found.seconds = take_turns(ready, BUDGET_SECONDS, together=on_gpu, slow_seconds=SLOW_SECONDS)
    return found


def _problem(scenario: Scenario, dtype: str) -> Problem:
    """The numbers of a scenario, which the dtype can represent."""

    def to_dtype(array: np.ndarray) -> np.ndarray:
        tensor = keras.ops.cast(keras.ops.convert_to_tensor(array), dtype)
        return np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(tensor, "float32")))

    return make_problem(scenario, seeded=True).rounded(to_dtype)


def _passes(
    contender: Contender, prepared: Prepared, problem: Problem, exact: Sequence[np.ndarray], found: Measurement
) -> bool:
    """Whether the contender is right, and if it is ours, by the fused kernels; tells `found` if it is not."""
    before = status()
    results = prepared.results(prepared.step())
    after = status()
    wrong = dict(errors(results, exact, problem.mask))
    worst = max(wrong, key=lambda name: np.nan_to_num(wrong[name], nan=np.inf))
    found.errors[contender.name] = wrong[worst]
    allowed = found.where.tolerance
    if not wrong[worst] <= allowed:  # NaN is not
        found.failures[contender.name] = f"{worst} is off by {wrong[worst]:.1e} of its norm, {allowed:.0e} allowed"
        return False
    calls = contender.fused_calls(found.scenario)
    if calls == 0:
        return True
    found.fused_calls = {name: count - before.fused_calls[name] for name, count in after.fused_calls.items()}
    found.fallbacks = after.new_fallbacks(before)
    expected = {"forward": calls, "backward": calls * found.training}
    if not found.fallbacks and found.fused_calls != expected:
        found.failures[contender.name] = f"expected fused calls {expected}, found {found.fused_calls}"
    return found.fused_calls == expected and not found.fallbacks
