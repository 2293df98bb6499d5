"""FastLSTM against every other LSTM: one group per (pass, scenario), with all contenders in it."""

from collections.abc import Callable

import pytest

from benchmarks.contenders import CONTENDERS, Contender
from benchmarks.scenarios import SCENARIOS, SMOKE_SCENARIOS
from lstm_fast.bench.scenarios import Scenario


@pytest.mark.scenarios(real=SCENARIOS, smoke=SMOKE_SCENARIOS)
@pytest.mark.parametrize("contender", CONTENDERS, ids=lambda contender: contender.name)
@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
def test_layer(measure: Callable[..., None], scenario: Scenario, contender: Contender, training: bool) -> None:
    measure("layers", contender, scenario, training)
