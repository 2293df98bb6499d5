"""What masking is worth: FastLSTM on one padded batch, with its mask and without."""

import dataclasses
from collections.abc import Callable

import pytest

from benchmarks import FAST
from benchmarks.contenders import BY_NAME
from benchmarks.scenarios import SCENARIOS, SMOKE_SCENARIOS
from lstm_fast.bench.scenarios import Scenario


@pytest.mark.scenarios(real=[s for s in SCENARIOS if s.padded], smoke=[s for s in SMOKE_SCENARIOS if s.padded])
@pytest.mark.parametrize("masked", [True, False], ids=["masked", "unmasked"])
@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
def test_mask(measure: Callable[..., None], scenario: Scenario, training: bool, masked: bool) -> None:
    computed = scenario if masked else dataclasses.replace(scenario, padding=0.0)  # the same numbers
    info = {"masked": masked, "padding": 1 - scenario.real_share}
    measure("padding", BY_NAME[FAST], computed, training, group=str(scenario), **info)
