"""The kernels alone on one thread, and on as many as there are."""

from collections.abc import Callable

import pytest

from benchmarks import ON_NUMPY
from benchmarks.contenders import BY_NAME
from benchmarks.scenarios import SCENARIOS, SMOKE_SCENARIOS
from lstm_fast import _core
from lstm_fast.bench.scenarios import Scenario


@pytest.mark.scenarios(real=[s for s in SCENARIOS if s.batch >= 32], smoke=SMOKE_SCENARIOS)
@pytest.mark.parametrize("number", ["one", "all"])
@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
def test_threads(measure: Callable[..., None], threads: int, scenario: Scenario, training: bool, number: str) -> None:
    if number == "one":
        _core.set_threads(1)
    elif threads == 1:
        pytest.skip("there is only one thread")
    measure("scaling", BY_NAME[ON_NUMPY], scenario, training, threads=_core.threads())
