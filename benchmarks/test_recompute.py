"""What `recompute=True` costs: a training step that keeps the gates, and one that computes them again."""

from collections.abc import Callable

import pytest

from benchmarks import FAST
from benchmarks.contenders import BY_NAME, Contender, fast_contender
from lstm_fast.bench.scenarios import Scenario

CONTENDERS = (BY_NAME[FAST], fast_contender("FastLSTM, recompute", recompute=True))


@pytest.mark.scenarios(real=[Scenario(64, 1354, 64, 64)], smoke=[Scenario(3, 33, 4, 6)])
@pytest.mark.parametrize("contender", CONTENDERS, ids=lambda contender: contender.name)
def test_recompute(measure: Callable[..., None], scenario: Scenario, contender: Contender) -> None:
    measure("recompute", contender, scenario, training=True)
