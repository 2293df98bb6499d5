"""Every CUDA kernel, also those that are never chosen: each is forced, and must agree with the reference."""

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import emulated
import numpy as np
import pytest
from cases import DTYPES, Problem, Solution, make_problem, pairwise
from cuda_arrays import addresses, arguments, results
from cuda_side import solve_exactly

# Compute capability, multiprocessors, bytes of shared memory.
DEVICE, OLD_DEVICE = (9, 0, 132, 232_448), (7, 5, 40, 65_536)
PASSES = ("forward", "backward")
EXCHANGES = ("block", "cluster", "grid")
OPTIONS = pairwise(
    {
        "batch": (1, 4),
        "time": (1, 2, 7),
        "directions": (1, 2),
        "mask": ("none", "right", "holes", "masked_rows", "all"),
        "go_backwards": (False, True),
        "return_sequences": (True, False),
        "zero_output_for_mask": (False, True),
        "bias": (True, False),
        "states": (True, False),
    }
)


@pytest.fixture
def module() -> Iterator[ModuleType]:
    loaded = emulated.load()
    yield loaded
    loaded.set_device(*DEVICE)
    for name in PASSES:
        loaded.force(name)


def solve(module: ModuleType, problem: Problem, precision: str) -> Solution:
    forward, backward = arguments(module, problem, precision)
    module.forward(**addresses(forward))
    module.backward(**addresses(backward))
    return results(problem, forward, backward)


def units_of(variant: dict[str, Any]) -> list[int]:
    """Numbers of units for which there is this kernel."""
    most = variant["most_units"]
    return [most - 15, most - 8, most - 1, most] if most else [5, 24, 33]


def only_without_tensor_cores(variant: dict[str, Any]) -> bool:
    """Whether devices with tensor cores never choose it: several rows of half types are multiplied and added."""
    return variant["dtype"] in ("float16", "bfloat16") and variant["rows"] > 1 and not variant["tensor_cores"]


def exchanges_of(variant: dict[str, Any]) -> tuple[str, ...]:
    if variant["row_blocks"] > 0:
        return ("block",) if variant["row_blocks"] == 1 else ("cluster",)
    return ("block", "grid") if only_without_tensor_cores(variant) else EXCHANGES


@pytest.mark.parametrize("dropout", [False, True], ids=["plain", "dropout"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("exchange", EXCHANGES)
def test_agrees_with_reference(exchange: str, dtype: str, dropout: bool, module: ModuleType) -> None:
    variants = [each for each in module.variants() if each["dtype"] == dtype and each["dropout"] == dropout]
    ran = set()
    for variant in variants:
        module.set_device(*(OLD_DEVICE if only_without_tensor_cores(variant) else DEVICE))
        for i, options in enumerate(OPTIONS):
            of_units = units_of(variant)
            units = of_units[i % len(of_units)]
            forced = set()
            for name in PASSES:
                module.force(name, variant=variant["name"], exchange=exchange)
                sizes = (options["batch"], units, options["directions"], dropout)
                try:
                    module.describe(0, dtype, variant["precision"], *sizes)
                except ValueError:  # the kernel is for other exchanges, or the other pass
                    module.force(name)
                else:
                    forced.add(name)
                    ran.add(variant["name"])
            if not forced:
                continue
            problem = make_problem(
                units=units, dtype=dtype, recurrent_dropout=dropout, projected=True, seed=i, **options
            )
            found = solve(module, problem, variant["precision"])
            try:
                solve_exactly(problem, variant["precision"]).check(found)
            except AssertionError as error:
                raise AssertionError(f"{variant['name']}, {units} units, {options}") from error
    assert ran == {each["name"] for each in variants if exchange in exchanges_of(each)}


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_few_units_have_a_block_for_each_row(dtype: str, module: ModuleType) -> None:
    """For every batch size, until a multiprocessor has enough blocks."""
    for units in (1, 16, 17, 32, 33, 48, 49, 64):  # each has the kernel with the fewest products with zeros
        for batch in (1, 64, 256):
            cuts = module.describe(0, dtype, "exact", batch, units, 1, False)
            assert {cut["variant"] for cut in cuts.values()} == {f"{dtype}_single_{-(-units // 16) * 16}"}
            assert {cut["rows"] for cut in cuts.values()} == {1}
            assert {cut["groups"] for cut in cuts.values()} == {min(batch, 132)}
    for units in (65, 100, 128):
        cuts = module.describe(0, dtype, "exact", 64, units, 1, False)
        assert {cut["variant"] for cut in cuts.values()} == {f"{dtype}_single_{96 if units < 96 else 128}"}
        assert {cut["blocks"] for cut in cuts.values()} == {2}


@pytest.mark.parametrize("units", [9, 64])
def test_a_row_does_not_depend_on_its_batch(units: int, module: ModuleType) -> None:
    """With the same kernel, also if there are more rows than blocks on the device."""
    module.set_device(9, 0, 3, 232_448)
    for name in PASSES:
        module.force(name, variant=f"float32_single_{-(-units // 16) * 16}")
    problem = make_problem(8, 6, units=units, mask="holes", projected=True)
    all_rows = solve(module, problem, "exact")
    for b in (0, 5):
        alone = solve(module, problem.rows(slice(b, b + 1)), "exact").named()
        for name, values in all_rows.named().items():
            assert np.array_equal(alone[name], values[b : b + 1]), name


def test_nan_stays_in_its_row(module: ModuleType) -> None:
    """Also if a warp has lanes beyond the last unit."""
    problem = make_problem(2, 3, units=9, projected=True)
    problem.x[0, :, 8::9] = np.nan
    found = solve(module, problem, "exact")
    assert np.isnan(found.y[0]).any()
    assert np.isfinite(found.y[1]).all()
