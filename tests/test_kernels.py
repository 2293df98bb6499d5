"""The compiled kernels against the float64 reference: every instruction set, dtype, option and awkward size."""

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import (
    DTYPES,
    KINDS,
    MASKS,
    RESERVE_MODES,
    Problem,
    Solution,
    assert_same_bits,
    label,
    make_problem,
    pairwise,
    solve_by_kernel,
    solve_by_reference,
)

from lstm_fast import _core, reference

# One less and one more than the lanes of a vector (2 to 16), the lanes themselves, and primes.
SIZES = (1, 2, 3, 4, 5, 7, 8, 9, 13, 15, 16, 17, 31, 33)
OPTIONS = pairwise(
    {
        "units": SIZES,
        "features": SIZES,
        "batch": (1, 2, 3, 5, 7, 8, 13, 17),
        "time": (0, 1, 2, 15, 16, 17, 37),  # 16 steps lie between two checkpoints
        "reserve": tuple(RESERVE_MODES),
        **KINDS,
    }
)

every_isa = pytest.mark.usefixtures("isa")


@pytest.mark.parametrize("options", OPTIONS, ids=label)
@every_isa
def test_agrees_with_reference(options):
    reserve = options["reserve"]
    problem = make_problem(**{name: value for name, value in options.items() if name != "reserve"})
    solution = solve_by_kernel(problem, reserve=reserve)
    expected = solve_by_reference(problem)
    expected.check(solution)
    found = solution.named()
    assert found.keys() == expected.solution.named().keys()
    assert {array.dtype for array in found.values()} == {problem.x.dtype}


@pytest.mark.parametrize("reserve", RESERVE_MODES)
@pytest.mark.parametrize(("batch", "time"), [(0, 3), (3, 0), (0, 0)])
@every_isa
@pytest.mark.fast
def test_no_rows_or_no_timesteps(batch, time, reserve):
    problem = make_problem(batch, time, directions=2, mask="right")
    solve_by_reference(problem).check(solve_by_kernel(problem, reserve=reserve))


@pytest.mark.parametrize("reserve", RESERVE_MODES)
@every_isa
@pytest.mark.fast
def test_long_ragged_batch(reserve):
    problem = make_problem(19, 150, 24, 40, directions=2, mask="right", zero_output_for_mask=True)
    solve_by_reference(problem).check(solve_by_kernel(problem, reserve=reserve))


@every_isa
def test_wide_layer():
    problem = make_problem(5, 7, 130, 150, mask="holes")
    solve_by_reference(problem).check(solve_by_kernel(problem))


@pytest.mark.parametrize("absent", ["dy", "dh_n", "dc_n"])
@every_isa
def test_absent_gradient_is_zero(absent):
    problem = make_problem(directions=2)
    kept = {name: getattr(problem, name) for name in ("dy", "dh_n", "dc_n")}
    without = replace(problem, **{absent: None if absent == "dy" else [None, None]})
    zero = np.zeros_like(problem.dy) if absent == "dy" else [np.zeros_like(array) for array in kept[absent]]
    assert_same_bits(solve_by_kernel(without), solve_by_kernel(replace(problem, **{absent: zero})))


@every_isa
@pytest.mark.fast
def test_misaligned_arrays():
    def shifted(array: np.ndarray) -> np.ndarray:
        """A copy that starts one element after a cache line."""
        lanes = 64 // array.itemsize
        room = np.empty(array.size + 2 * lanes, array.dtype)
        start = -(room.ctypes.data // array.itemsize) % lanes + 1
        copy = room[start : start + array.size].reshape(array.shape)
        copy[...] = array
        return copy

    problem = make_problem(5, 6, 7, 9, bias=True)
    moved = {
        name: shifted(value) if isinstance(value, np.ndarray) else [shifted(array) for array in value]
        for name in ("x", "kernels", "recurrent_kernels", "biases", "h0", "c0", "dy", "dh_n", "dc_n")
        if (value := getattr(problem, name)) is not None
    }
    assert_same_bits(solve_by_kernel(replace(problem, **moved)), solve_by_kernel(problem))


# A forced instruction set really runs


@pytest.mark.fast
def test_each_isa_runs_its_own_code():
    # One unit fills one vector, so the size of the reserve tells the number of lanes of the code that ran. NEON has as
    # many as the portable code, but it fuses products and sums, which changes the bits.
    one, many = make_problem(2, 3, 2, 1), make_problem(2, 3, 31, 33)
    before = _core.isa()
    kept = {}
    for name in _core.available_isas():
        _core.set_isa(name)
        *_, reserve = _core.forward(*one.inputs, *one.options.values(), RESERVE_MODES["gates"])
        y, *_ = _core.forward(*many.inputs, *many.options.values(), RESERVE_MODES["gates"])
        kept[name] = (reserve.nbytes, np.asarray(y).tobytes())
    _core.set_isa(before)
    assert len(set(kept.values())) == len(kept)
    assert len({size for name, (size, _) in kept.items() if name != "neon"}) == len(kept.keys() - {"neon"})


@pytest.mark.parametrize("name", ["generic", "avx2", "avx512", "neon"])
def test_isa_is_tested_here(name):
    if name not in _core.compiled_isas():
        pytest.skip(f"{name} is not compiled in")
    if name not in _core.available_isas():
        with pytest.raises(ValueError, match=name):
            _core.set_isa(name)
        pytest.skip(f"this processor has no {name}: its kernels were not tested")


def test_isa_names():
    assert "generic" in _core.available_isas()
    assert set(_core.available_isas()) <= set(_core.compiled_isas())
    before = _core.isa()
    with pytest.raises(ValueError, match="sse9"):
        _core.set_isa("sse9")
    assert _core.isa() == before


@pytest.mark.fast
def test_calls_are_counted():
    problem = make_problem()
    before = _core.fused_calls()
    solve_by_kernel(problem)
    solve_by_kernel(problem, backward=False)
    after = _core.fused_calls()
    assert {name: after[name] - before[name] for name in after} == {"forward": 2, "backward": 1}


# NaN and infinity


@every_isa
def test_nan_spreads_to_its_own_row_and_later_steps_only():
    clean = make_problem(5, 6, 3, 9)
    x = clean.x.copy()
    x[2, 3, 1] = np.nan
    expected = solve_by_kernel(clean, backward=False)
    y, h_n = expected.y.copy(), expected.h_n[0].copy()
    y[2, 3:] = h_n[2] = np.nan
    actual = solve_by_kernel(replace(clean, x=x), backward=False)
    np.testing.assert_array_equal(actual.y, y)
    np.testing.assert_array_equal(actual.h_n[0], h_n)


@every_isa
@pytest.mark.fast
def test_nan_reaches_the_gradients():
    problem = make_problem(2, 3, 3, 5)
    problem.dy[0, 1, 2] = np.nan
    solution = solve_by_kernel(problem)
    assert np.isnan(solution.dx[0, :2]).all()
    assert np.isfinite(solution.dx[0, 2]).all()
    assert np.isfinite(solution.dx[1]).all()
    assert np.isnan(solution.dkernels[0]).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
@every_isa
def test_infinity_saturates_the_gates(sign, dtype):
    problem = make_problem(3, 4, 2, 9, dtype=dtype)
    np.abs(problem.kernels[0], out=problem.kernels[0])
    finite = solve_by_reference(problem)
    problem.x[1, 2, 0] = sign * np.inf
    # Some of OpenBLAS's kernels multiply the infinity by zeros in unused lanes, and NumPy sees the flag.
    with np.errstate(invalid="ignore"):
        exact = Solution(*reference.forward(*problem.inputs, **problem.options))
    assert all(np.isfinite(array).all() for array in exact.named().values())
    replace(finite, solution=exact).check(solve_by_kernel(problem, backward=False))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@every_isa
def test_saturated_gates_stay_finite(dtype):
    problem = make_problem(4, 20, 3, 9, dtype=dtype)
    for weights in (problem.kernels[0], problem.recurrent_kernels[0], problem.biases[0]):
        np.multiply(weights, 1e4, out=weights)
    for name, array in solve_by_kernel(problem).named().items():
        assert np.isfinite(array).all(), name


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mask", MASKS[1:])
@every_isa
def test_masked_steps_are_never_read(mask, dtype):
    problem = make_problem(5, 18, 4, 6, mask=mask, dtype=dtype, directions=2, input_dropout=True)
    assert_same_bits(solve_by_kernel(problem.poisoned()), solve_by_kernel(problem))


# The same bits every time


# Batches of one tile of rows, of a few and of many, which the backward pass schedules differently; long enough for the
# kernels to use several threads.
@pytest.mark.parametrize("reserve", RESERVE_MODES)
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("batch", [9, 37, 150])
@pytest.mark.usefixtures("threads")
def test_bits_do_not_depend_on_threads_or_on_time(batch, directions, reserve):
    problem = make_problem(
        batch, 40, 24, 40, directions=directions, mask="holes", dtype="bfloat16" if batch == 9 else "float32"
    )
    _core.set_threads(1)
    alone = solve_by_kernel(problem, reserve=reserve)
    for count in (1, 2, 3, 5, 5):
        _core.set_threads(count)
        assert _core.threads() == count
        assert_same_bits(solve_by_kernel(problem, reserve=reserve), alone)


# A few rows with a recurrent kernel too large for L1: the threads share the units of a tile.
@pytest.mark.parametrize("reserve", RESERVE_MODES)
@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("mask", ["none", "holes"])
@pytest.mark.parametrize(("features", "directions"), [(3, 1), (150, 1), (150, 2)])
@pytest.mark.usefixtures("threads")
@every_isa
def test_bits_do_not_depend_on_the_size_of_a_team(features, directions, mask, batch, reserve):
    dtype = "float16" if batch == 2 else "float32"
    problem = make_problem(batch, 30, features, 205, directions=directions, mask=mask, dtype=dtype)
    _core.set_threads(1)
    alone = solve_by_kernel(problem, reserve=reserve)
    for count in (2, 3, 4):
        _core.set_threads(count)
        assert_same_bits(solve_by_kernel(problem, reserve=reserve), alone)


@pytest.mark.parametrize("mask", ["none", "right"])
@pytest.mark.usefixtures("threads")
def test_a_recurrent_kernel_beyond_the_caches(mask):
    """The backward pass then has tiles with more rows."""
    problem = make_problem(64, 9, 5, 740, mask=mask)  # two tiles instead of four
    expected = solve_by_reference(problem)
    _core.set_threads(1)
    alone = solve_by_kernel(problem)
    expected.check(alone)
    for count in (2, 3):
        _core.set_threads(count)
        assert_same_bits(solve_by_kernel(problem), alone)


@pytest.mark.parametrize("count", [0, -1])
def test_number_of_threads_must_be_positive(count):
    with pytest.raises(ValueError, match=str(count)):
        _core.set_threads(count)


@pytest.mark.parametrize("mask", ["none", "right", "holes"])
@every_isa
def test_a_row_does_not_depend_on_the_rest_of_the_batch(mask):
    problem = make_problem(23, 9, 6, 11, directions=2, mask=mask)
    whole = solve_by_kernel(problem, backward=False)
    for rows in (slice(0, 1), slice(3, 10), slice(22, 23), slice(1, 23)):
        part = solve_by_kernel(problem.rows(rows), backward=False)
        np.testing.assert_array_equal(part.y, whole.y[rows])
        np.testing.assert_array_equal(part.c_n[1], whole.c_n[1][rows])


# Few timesteps read the weights directly, many of them from packed panels.
@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@every_isa
def test_weights_in_place_give_the_bits_of_packed_ones(dtype, dropout):
    kinds = {"dtype": dtype, "input_dropout": dropout, "recurrent_dropout": dropout}
    problem = make_problem(21, 2, 37, 112, directions=2, mask="none", **kinds)
    packed = solve_by_kernel(problem, backward=False)
    for row in range(3):
        rows = slice(row, row + 1)
        in_place = solve_by_kernel(problem.rows(rows), backward=False)
        np.testing.assert_array_equal(in_place.y, packed.y[rows])
        np.testing.assert_array_equal(in_place.c_n[1], packed.c_n[1][rows])


@pytest.mark.parametrize(("batch", "time"), [(1, 1), (5, 1), (2, 8), (1, 9), (16, 8), (15, 9)])
@pytest.mark.parametrize(
    "options", [{}, {"states": False}, {"input_dropout": True, "recurrent_dropout": True}], ids=label
)
@pytest.mark.parametrize("reserve", RESERVE_MODES)
@every_isa
def test_few_timesteps_of_whole_vectors(reserve, options, batch, time):
    problem = make_problem(batch, time, 21, 48, directions=2, mask="none", **options)
    solve_by_reference(problem).check(solve_by_kernel(problem, reserve=reserve))


@pytest.mark.parametrize("batch", [1, 13])
@pytest.mark.usefixtures("threads")
@every_isa
def test_bits_in_place_do_not_depend_on_the_size_of_a_team(batch):
    problem = make_problem(batch, 1, 1100, 208, mask="none")
    _core.set_threads(1)
    alone = solve_by_kernel(problem)
    for count in (2, 3, 4):
        _core.set_threads(count)
        assert_same_bits(solve_by_kernel(problem), alone)


@pytest.mark.parametrize("byte", [2, 3, 128, 255])
@pytest.mark.parametrize("kind", ["right", "left", "holes", "all", "none"])
@pytest.mark.parametrize("reserve", RESERVE_MODES)
@every_isa
def test_any_byte_of_a_mask_but_0_is_real(reserve, kind, byte):
    """A NumPy array of bytes may be viewed as bool. It then equals a mask in which true is 1."""
    problem = make_problem(5, 200, 3, 9, mask=kind)
    mask = np.ones((5, 200), bool) if problem.mask is None else problem.mask
    mixed = np.where(np.arange(200) % 3 == 0, 1, byte).astype(np.uint8)
    odd = replace(problem, mask=np.where(mask, mixed, 0).astype(np.uint8).view(bool))
    even = replace(problem, mask=mask)
    assert_same_bits(solve_by_kernel(odd, reserve=reserve), solve_by_kernel(even, reserve=reserve))


def test_callers_at_the_same_time():
    problems = [make_problem(3 + n, 30, 5, 8 + n, mask="holes", seed=n) for n in range(12)]
    alone = [solve_by_kernel(problem) for problem in problems]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            for solution, expected in zip(pool.map(solve_by_kernel, problems), alone, strict=True):
                assert_same_bits(solution, expected)


FORK = """
import os, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)
from cases import make_problem, solve_by_kernel
from lstm_fast import _core
_core.set_threads(3)
problem = make_problem(33, 20, 6, 9)
before = solve_by_kernel(problem)
for _ in range(3):
    child = os.fork()
    if child == 0:
        again = solve_by_kernel(problem)
        os._exit(0 if (again.y == before.y).all() and (again.dx == before.dx).all() else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert (solve_by_kernel(problem).dx == before.dx).all()
"""


# TensorFlow's threads flush subnormal numbers to zero, Python's do not. A new thread inherits the setting.
SUBNORMAL = """
import dataclasses, sys
import numpy as np
import tensorflow as tf
from cases import make_problem, solve_by_kernel
from keras_side import solve_by_layer
from lstm_fast import FastLSTM, _core
_core.set_threads(2)
problem = make_problem(64, 40, 16, 32)
solve_by_layer(problem, FastLSTM, "graph")  # starts the helpers
kernels = [kernel * np.float32(1e38) for kernel in problem.kernels]
problem = dataclasses.replace(problem, x=problem.x * np.float32(1e-40), kernels=kernels)
assert problem.x.any()
together = solve_by_kernel(problem)
_core.set_threads(1)
alone = solve_by_kernel(problem)
zero = solve_by_kernel(dataclasses.replace(problem, x=np.zeros_like(problem.x)))
assert zero.y.all()
for found in (together, alone):
    assert (found.y == zero.y).all()
    assert (found.dx == zero.dx).all()
assert np.float32(1e-40) * np.float32(2) > 0, "the caller's own setting has changed"
"""


def test_subnormal_numbers_are_zero_on_every_thread():
    subprocess.run([sys.executable, "-c", SUBNORMAL], check=True, timeout=120, cwd=Path(__file__).parent)


def test_works_in_a_forked_child_and_still_in_its_parent():
    subprocess.run([sys.executable, "-c", FORK], check=True, timeout=120, cwd=Path(__file__).parent)


# Bad arguments


def wrong(array: np.ndarray, *shape: int) -> np.ndarray:
    return np.zeros(shape, array.dtype)


# The argument that is bad, and bad values for it in place of a good one (batch 3, time 5, 4 features, 5 units).
BAD_INPUTS: list[tuple[str, str, Callable[[Any], Any]]] = [
    ("x", "rank", lambda x: x[0]),
    ("x", "integers", lambda x: x.astype(np.int32)),
    ("x", "complex", lambda x: x.astype(np.complex64)),
    ("x", "strided", lambda x: x[:, ::-1]),
    ("x", "list", lambda x: x.tolist()),
    ("x", "none", lambda _: None),
    ("mask", "rank", lambda mask: mask[0]),
    ("mask", "batch", lambda mask: mask[1:]),
    ("mask", "time", lambda _: np.ones((3, 6), bool)),
    ("mask", "integers", lambda mask: mask.astype(np.int32)),
    ("kernels", "features", lambda arrays: [wrong(arrays[0], 3, 20)]),
    ("kernels", "gates", lambda arrays: [wrong(arrays[0], 4, 15)]),
    ("kernels", "rank", lambda arrays: [wrong(arrays[0], 80)]),
    ("kernels", "dtype", lambda arrays: [arrays[0].astype(np.float64)]),
    ("kernels", "empty", lambda _: []),
    ("kernels", "three", lambda arrays: arrays * 3),
    ("kernels", "none", lambda _: [None]),
    ("recurrent_kernels", "square", lambda arrays: [wrong(arrays[0], 5, 5)]),
    ("recurrent_kernels", "units", lambda arrays: [wrong(arrays[0], 6, 20)]),
    ("recurrent_kernels", "no units", lambda arrays: [wrong(arrays[0], 0, 0)]),
    ("recurrent_kernels", "count", lambda arrays: arrays * 2),
    ("biases", "size", lambda arrays: [wrong(arrays[0], 5)]),
    ("biases", "rank", lambda arrays: [wrong(arrays[0], 1, 20)]),
    ("biases", "count", lambda _: []),
    ("h0", "batch", lambda arrays: [wrong(arrays[0], 2, 5)]),
    ("h0", "units", lambda arrays: [wrong(arrays[0], 3, 4)]),
    ("h0", "count", lambda arrays: arrays * 2),
    ("c0", "rank", lambda arrays: [wrong(arrays[0], 5)]),
    ("c0", "dtype", lambda arrays: [arrays[0].astype(np.float16)]),
    ("input_dropout", "one mask", lambda arrays: [wrong(arrays[0], 3, 4)]),
    ("input_dropout", "features", lambda arrays: [wrong(arrays[0], 4, 3, 5)]),
    ("recurrent_dropout", "gates", lambda arrays: [wrong(arrays[0], 3, 3, 5)]),
    ("recurrent_dropout", "dtype", lambda arrays: [arrays[0].astype(bool)]),
]
BAD_GRADIENTS: list[tuple[str, str, Callable[[Any], Any]]] = [
    ("dy", "rank", lambda dy: dy[:, 0]),
    ("dy", "units", lambda dy: wrong(dy, 3, 5, 6)),
    ("dy", "dtype", lambda dy: dy.astype(np.float64)),
    ("dh_n", "batch", lambda arrays: [wrong(arrays[0], 2, 5)]),
    ("dh_n", "count", lambda arrays: arrays * 2),
    ("dc_n", "units", lambda arrays: [wrong(arrays[0], 3, 6)]),
]


def problem_with_everything() -> Problem:
    return make_problem(3, 5, 4, 5, mask="right", input_dropout=True, recurrent_dropout=True)


def named(cases: list[tuple[str, str, Callable[[Any], Any]]]) -> list[Any]:
    return [pytest.param(argument, spoil, id=f"{argument}: {case}") for argument, case, spoil in cases]


@pytest.mark.parametrize(("argument", "spoil"), named(BAD_INPUTS))
@pytest.mark.fast
def test_bad_input_is_named(argument, spoil):
    problem = problem_with_everything()
    bad = replace(problem, **{argument: spoil(getattr(problem, argument))})
    before = _core.fused_calls()
    with pytest.raises((TypeError, ValueError), match=rf"\b{argument}\b"):
        _core.forward(*bad.inputs, *problem.options.values(), RESERVE_MODES["gates"])
    assert _core.fused_calls() == before


@pytest.mark.parametrize(("argument", "spoil"), named(BAD_INPUTS + BAD_GRADIENTS))
def test_bad_argument_of_the_backward_pass_is_named(argument, spoil):
    problem = problem_with_everything()
    options = (*problem.options.values(), RESERVE_MODES["gates"])
    *_, kept = _core.forward(*problem.inputs, *options)
    bad = replace(problem, **{argument: spoil(getattr(problem, argument))})
    with pytest.raises((TypeError, ValueError), match=rf"\b{argument}\b"):
        _core.backward(*bad.inputs, kept, *bad.kernel_gradients, *options)


@pytest.mark.parametrize(
    "spoil", [lambda kept: kept[:-1], lambda kept: kept[:0], lambda kept: kept.view(np.float32), lambda _: None]
)
def test_wrong_reserve_is_named(spoil):
    problem = problem_with_everything()
    options = (*problem.options.values(), RESERVE_MODES["gates"])
    *_, kept = _core.forward(*problem.inputs, *options)
    with pytest.raises((TypeError, ValueError), match="reserve"):
        _core.backward(*problem.inputs, spoil(kept), *problem.kernel_gradients, *options)


def test_reserve_of_another_mask_is_refused():
    problem = make_problem(3, 5, mask="right")
    options = (*problem.options.values(), RESERVE_MODES["gates"])
    *_, kept = _core.forward(*problem.inputs, *options)
    unmasked = replace(problem, mask=None)
    with pytest.raises(ValueError, match="reserve"):
        _core.backward(*unmasked.inputs, kept, *unmasked.kernel_gradients, *options)


@pytest.mark.parametrize("mode", [-1, 3, 1.5, "gates"])
def test_wrong_reserve_mode_is_named(mode):
    problem = make_problem()
    with pytest.raises((TypeError, ValueError), match="reserve_mode"):
        _core.forward(*problem.inputs, *problem.options.values(), mode)


def test_two_directions_refuse_go_backwards():
    problem = make_problem(directions=2)
    with pytest.raises(ValueError, match="go_backwards"):
        _core.forward(*problem.inputs, True, True, False, RESERVE_MODES["none"])
