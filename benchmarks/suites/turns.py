"""FastLSTM beside the fastest peers, and a matrix product among them; all take turns, as a noisy machine slows all."""

import itertools
from collections.abc import Sequence

from benchmarks import BASELINE, FAST, ON_NUMPY, ONNX_RUNTIME, PRODUCT, PYTORCH, XLA, parity
from benchmarks.contenders import BY_NAME
from benchmarks.results import Row, pass_name
from benchmarks.scenarios import SCENARIOS, SMOKE_SCENARIOS
from benchmarks.suites import Case, Settings
from lstm_fast.bench import product
from lstm_fast.bench.scenarios import Scenario
from lstm_fast.bench.turns import take_turns

SECONDS = 12.0
MAX_TIME_XLA = 100  # XLA takes seconds to compile and to train long sequences


def cases(settings: Settings) -> list[Case]:
    plain = [scenario for scenario in SCENARIOS if not (scenario.bidirectional or scenario.padded)]
    return of_scenarios("turns", SMOKE_SCENARIOS[:1] if settings.quick else plain)


def of_scenarios(suite: str, scenarios: Sequence[Scenario]) -> list[Case]:
    """Training and inference of each."""
    both = itertools.product(scenarios, (True, False))
    return [Case(suite, f"{scenario}", pass_name(training), (scenario, training)) for scenario, training in both]


def measure(case: Case, settings: Settings) -> list[Row]:
    names = (BASELINE, XLA, FAST, ON_NUMPY, PYTORCH, ONNX_RUNTIME, PRODUCT)
    return side_by_side(case, names, settings.budget(SECONDS))


def side_by_side(case: Case, names: Sequence[str], seconds: float) -> list[Row]:
    """Rows of those contenders that can compute a scenario, by turns, once each has shown that it is right."""
    scenario, training = case.what
    prepared = {}
    for name in names:
        through_xla = name.endswith("XLA")
        if name == PRODUCT:
            prepared[name] = product.on_numpy()
        elif (not through_xla or scenario.time <= MAX_TIME_XLA) and not BY_NAME[name].unavailable(scenario, training):
            prepared[name] = parity.prepare(BY_NAME[name], scenario, training)
    shape = {name: getattr(scenario, name) for name in ("batch", "time", "features", "units")}
    facts = {**shape, "flop": scenario.flop(training)}
    times = take_turns(prepared, seconds)
    return [
        case.row(name, rounds, **{**facts, "flop": 2 * product.SIZE**3} if name == PRODUCT else facts)
        for name, rounds in times.items()
    ]
