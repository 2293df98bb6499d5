"""The recurrence alone, on inputs that are projected already: the compiled kernels, and `lstm_fast.recurrence` with
each of Keras's backends. There is more about JAX and `jit_compile=True` in their own tests.
"""

from dataclasses import replace
from typing import Any

import keras
import numpy as np
import pytest
import tolerances
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
from keras_side import MODES, framework, fused, to_numpy

import lstm_fast
from lstm_fast import _core, functional
from lstm_fast.backends import Direction

OPTIONS = pairwise(
    {
        "units": (1, 2, 3, 4, 5, 7, 8, 9, 13, 15, 16, 17, 31, 33),  # around the lanes of a vector, 2 to 16
        "batch": (1, 2, 3, 5, 7, 8, 13, 17),
        "time": (0, 1, 2, 15, 16, 17, 37),  # 16 steps lie between two checkpoints
        "reserve": tuple(RESERVE_MODES),
        **{name: values for name, values in KINDS.items() if name != "input_dropout"},
    }
)

every_isa = pytest.mark.usefixtures("isa")
every_backend = pytest.mark.backends("tensorflow", "jax", "torch")


# The compiled kernels


@pytest.mark.parametrize("options", OPTIONS, ids=label)
@every_isa
def test_agrees_with_reference(options):
    reserve = options["reserve"]
    problem = make_problem(projected=True, **{name: value for name, value in options.items() if name != "reserve"})
    solution = solve_by_kernel(problem, reserve=reserve)
    expected = solve_by_reference(problem)
    expected.check(solution)
    found = solution.named()
    assert found.keys() == {name for name in expected.solution.named() if not name.startswith("dkernels")}
    assert {array.dtype for array in found.values()} == {problem.x.dtype}


@pytest.mark.parametrize("reserve", RESERVE_MODES)
@pytest.mark.parametrize("shape", [(0, 3, 1, 5), (0, 0, 1, 5), (19, 150, 1, 40), (5, 7, 1, 150)])
@every_isa
@pytest.mark.fast
def test_sizes(shape, reserve):
    problem = make_problem(*shape, directions=2, mask="right", projected=True)
    solve_by_reference(problem).check(solve_by_kernel(problem, reserve=reserve))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("mask", ["none", "holes"])
@every_isa
def test_same_bits_as_the_layer_with_a_kernel_that_picks(mask, directions, dtype):
    """Products with ones and zeros do not round."""
    problem = make_problem(6, 18, units=21, directions=directions, mask=mask, dtype=dtype, projected=True)
    for reserve in RESERVE_MODES:
        found = solve_by_kernel(problem, reserve=reserve)
        expected = solve_by_kernel(replace(problem, projected=False), reserve=reserve)
        for name in ("y", "h_n", "c_n", "dx", "dh0", "dc0"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)


@pytest.mark.parametrize("reserve", RESERVE_MODES)
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize(("batch", "units"), [(1, 205), (5, 205), (37, 40), (150, 40)])
@pytest.mark.usefixtures("threads")
def test_bits_do_not_depend_on_threads(batch, units, directions, reserve):
    problem = make_problem(
        batch,
        40,
        units=units,
        directions=directions,
        mask="holes",
        dtype="float16" if batch == 5 else "float32",
        projected=True,
    )
    _core.set_threads(1)
    alone = solve_by_kernel(problem, reserve=reserve).named()
    for count in (2, 3, 4):
        _core.set_threads(count)
        for name, array in solve_by_kernel(problem, reserve=reserve).named().items():
            np.testing.assert_array_equal(array, alone[name], err_msg=name)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mask", MASKS[1:])
@every_isa
def test_masked_steps_are_never_read(mask, dtype):
    problem = make_problem(5, 18, units=6, mask=mask, dtype=dtype, directions=2, projected=True)
    expected = solve_by_kernel(problem)
    assert_same_bits(solve_by_kernel(problem.poisoned()), expected)
    assert not expected.dx[~problem.mask].any()


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("x", np.zeros((3, 5, 41), np.float32), r"\[3, 5, 40\] \(.*directions.*no kernels\); found shape \[3, 5, 41\]"),
        ("x", np.zeros((3, 5, 20), np.float32), r"\[3, 5, 40\]"),
        ("x", np.zeros((3, 5, 2, 20), np.float32), r"rank 3"),
        ("kernels", [None, np.zeros((40, 20), np.float32)], r"\[1\]: expected nothing .*found shape \[40, 20\]"),
        ("kernels", [np.zeros((40, 20), np.float32), None], r"\[1\]: expected shape .*found nothing"),
        ("input_dropout", [None, np.ones((4, 3, 40), np.float32)], r"\[1\]: expected nothing .*found shape"),
    ],
)
def test_bad_input_is_named(argument, value, message):
    problem = make_problem(3, 5, units=5, directions=2, projected=True)
    names = ("x", "mask", "kernels", "recurrent_kernels", "biases", "h0", "c0", "input_dropout", "recurrent_dropout")
    inputs = {**dict(zip(names, problem.kernel_inputs, strict=True)), argument: value}
    with fused(0), pytest.raises(ValueError, match=f"^{argument}.*{message}"):
        _core.forward(**inputs, **problem.options, reserve_mode=1)
    *_, kept = _core.forward(*problem.kernel_inputs, *problem.options.values(), 1)
    gradients = dict(zip(("dy", "dh_n", "dc_n"), problem.kernel_gradients, strict=True))
    with fused(0), pytest.raises(ValueError, match=f"^{argument}.*{message}"):
        _core.backward(**inputs, reserve=kept, **gradients, **problem.options, reserve_mode=1)


# Keras's backends


def solve_by_function(problem: Problem, mode: str, reserve: str) -> Solution:
    """Outputs and gradients by the function under `lstm_fast.recurrence`, which also takes two directions."""
    n = len(problem.recurrent_kernels)
    columns = (problem.recurrent_kernels, problem.biases, problem.h0, problem.c0)
    lists = [value for column in columns for value in column]

    def call(x: Any, *given: Any) -> Any:
        remaining = iter(given)
        values = [None if value is None else next(remaining) for value in lists]
        multipliers = [None if m is None else keras.ops.convert_to_tensor(m) for m in problem.recurrent_dropout]
        directions = [Direction(None, *values[i::n], None, multipliers[i]) for i in range(n)]
        y, h_n, c_n = functional.run(
            x,
            problem.mask,
            directions,
            **problem.options,
            recompute=reserve == "recompute",
            training=reserve != "none",
        )
        return y if problem.return_sequences else y[:, 0], *h_n, *c_n

    seeds = iter((problem.dy, *problem.dh_n, *problem.dc_n))
    arrays = [problem.x, *(value for value in lists if value is not None)]
    outputs, gradients = framework.run(call, arrays, [], [], lambda _: next(seeds), mode)
    y, *states = map(to_numpy, outputs)
    dx, *remaining = map(to_numpy, gradients)
    found = iter(remaining)
    by_field = [[None if value is None else next(found) for value in column] for column in columns]
    return Solution(y, states[:n], states[n:], dx, (), *by_field)


@every_backend
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "options",
    pairwise({"reserve": tuple(RESERVE_MODES), **{k: v for k, v in KINDS.items() if k != "input_dropout"}}),
    ids=label,
)
def test_results_and_gradients(options, mode):
    reserve = options["reserve"]
    problem = make_problem(
        5, 18, units=7, projected=True, **{name: value for name, value in options.items() if name != "reserve"}
    )
    with framework.precision(problem.x.dtype.name), fused(forward=1, backward=1):
        found = solve_by_function(problem, mode, reserve)
    solve_by_reference(problem).check(found)


@every_backend
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("return_sequences", [False, True])
def test_function_of_a_projection_is_lstm(return_sequences, mode):
    problem = make_problem(mask="holes", recurrent_dropout=True, zero_output_for_mask=True, go_backwards=True)
    x, mask, *lists = problem.inputs
    kernel, recurrent_kernel, bias, h0, c0, _, recurrent_dropout = (column[0] for column in lists)
    options = {
        "mask": mask,
        "go_backwards": True,
        "return_sequences": return_sequences,
        "zero_output_for_mask": True,
        "recurrent_dropout": recurrent_dropout,
    }

    def whole(x: Any, kernel: Any, *others: Any) -> Any:
        return lstm_fast.lstm(x, kernel, *others[:2], initial_state=others[2:], **options)

    def alone(x: Any, kernel: Any, *others: Any) -> Any:
        z = keras.ops.matmul(x, kernel)
        return lstm_fast.recurrence(z, *others[:2], initial_state=others[2:], **options)

    def solve(function: Any) -> list[np.ndarray]:
        given = [x, kernel, recurrent_kernel, bias, h0, c0]
        outputs, gradients = framework.run(function, given, [], [], lambda y: np.ones(tuple(y.shape)), mode)
        return [*map(to_numpy, outputs), *map(to_numpy, gradients)]

    with fused(forward=2, backward=2):
        for found, expected in zip(solve(alone), solve(whole), strict=True):
            atol = tolerances.between_layers("float32", x.size + problem.units, expected)
            tolerances.assert_close(found, expected, atol)


@pytest.mark.fast
def test_numpy():
    problem = make_problem(mask="holes", return_sequences=False, projected=True)
    with fused(forward=1):
        y, h, c = lstm_fast.recurrence(
            problem.x,
            problem.recurrent_kernels[0],
            problem.biases[0],
            initial_state=[problem.h0[0], problem.c0[0]],
            mask=problem.mask,
        )
    solve_by_reference(problem).check(Solution(y, [h], [c]))


BAD_ARGUMENTS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "z width": (
        {"z": np.zeros((3, 5, 19), np.float32)},
        ValueError,
        r"`z`: expected shape \(batch=3, time=5, 4 \* units=20\), found \(3, 5, 19\)",
    ),
    "z rank": ({"z": np.zeros((3, 20), np.float32)}, ValueError, "`z`: expected shape"),
    "z dtype": ({"z": np.zeros((3, 5, 20), np.int32)}, TypeError, "`z`: expected dtype"),
    "z type": ({"z": [[[0.0] * 20]]}, TypeError, r"`z`: expected a tf\.Tensor.*, found builtins\.list"),
    "units": (
        {"recurrent_kernel": np.zeros((4, 16), np.float32), "bias": None},
        ValueError,
        r"`z`: .*units=16\), found \(3, 5, 20\)",
    ),
    "no recurrent_kernel": ({"recurrent_kernel": None}, TypeError, "`recurrent_kernel`: .*found None"),
    "bias": ({"bias": np.zeros(5, np.float32)}, ValueError, "`bias`: expected shape"),
    "bias type": ({"bias": object()}, TypeError, "`bias`: object cannot be converted to the array type of `z`: "),
    "input_dropout": ({"input_dropout": np.ones((4, 3, 20), np.float32)}, TypeError, "input_dropout"),
    "mask": ({"mask": np.ones((5, 3))}, ValueError, "`mask`: expected shape"),
}


@every_backend
@pytest.mark.parametrize(("arguments", "error", "message"), BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS)
@pytest.mark.parametrize("convert", [np.asarray, keras.ops.convert_to_tensor], ids=["numpy", "tensor"])
@pytest.mark.fast
def test_bad_arguments(convert, arguments, error, message):
    problem = make_problem(projected=True)
    given = {"z": problem.x, "recurrent_kernel": problem.recurrent_kernels[0], "bias": problem.biases[0], **arguments}
    if isinstance(given["z"], np.ndarray):
        given["z"] = convert(given["z"])
    with fused(0), pytest.raises(error, match=message):
        lstm_fast.recurrence(**given)


def test_no_kernel_does_not_make_lstm_the_recurrence():
    problem = make_problem(projected=True)
    with fused(0), pytest.raises(TypeError, match=r"`kernel`: expected an array, found None"):
        lstm_fast.lstm(problem.x, None, problem.recurrent_kernels[0])


def test_dropout_of_projected_inputs_is_refused():
    problem = make_problem(projected=True)
    direction = Direction(None, problem.recurrent_kernels[0], input_dropout=np.ones((4, 3, 20), np.float32))
    with fused(0), pytest.raises(ValueError, match=r"`input_dropout`: .*projected"):
        functional.run(
            problem.x,
            None,
            [direction],
            return_sequences=True,
            zero_output_for_mask=False,
            recompute=False,
            training=False,
        )


@pytest.mark.parametrize("name", ["lstm", "recurrence"])
def test_functions_mind_the_kernel_mode(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = {"lstm": [(2, 3, 4), (4, 8), (2, 8)], "recurrence": [(2, 3, 8), (2, 8)]}[name]

    def call() -> Any:
        return getattr(lstm_fast, name)(*(np.ones(shape, np.float32) for shape in arrays))

    for mode in ("auto", "fused", ""):
        monkeypatch.setenv("LSTM_FAST_KERNEL", mode)
        with fused(forward=1):
            call()
    monkeypatch.setenv("LSTM_FAST_KERNEL", "keras")
    with (
        fused(0),
        pytest.raises(RuntimeError, match=r"LSTM_FAST_KERNEL=keras: .* no Keras path; use a layer"),
    ):
        call()
    monkeypatch.setenv("LSTM_FAST_KERNEL", "turbo")
    with fused(0), pytest.raises(ValueError, match="LSTM_FAST_KERNEL: expected one of auto, fused, keras, found"):
        call()
