"""The XLA handlers below JAX and TensorFlow: their declared interface, their errors, their threads."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from cases import DTYPES, Problem, make_problem
from keras_side import fused

from lstm_fast import _core

jax = pytest.importorskip("jax")

from lstm_fast.backends import jax as backend  # noqa: E402

ROOT = Path(__file__).parents[1]
assert backend.library()

# Our names and XLA's: structs with their fields in order, and the functions of the interface.
STRUCTS = {
    "Extension": "XLA_FFI_InternalExtension struct_size type next=next",
    "Version": "XLA_FFI_Api_Version struct_size extensions=extension_start major=major_version minor=minor_version",
    "Metadata": "XLA_FFI_Metadata struct_size version=api_version traits",
    "MetadataExtension": "XLA_FFI_Metadata_Extension base=extension_base metadata",
    "Bytes": "XLA_FFI_ByteSpan data=ptr size=len",
    "Buffer": "XLA_FFI_Buffer struct_size extensions=extension_start type=dtype data rank shape=dims",
    "Buffers": "XLA_FFI_Args struct_size extensions=extension_start size kinds=types values=args",
    "Scalar": "XLA_FFI_Scalar type=dtype value",
    "Attributes": "XLA_FFI_Attrs struct_size extensions=extension_start size kinds=types names values=attrs",
    "CreateError": "XLA_FFI_Error_Create_Args struct_size extensions=extension_start message code=errc",
    "GetDetails": "XLA_FFI_Error_GetDetails_Args struct_size extensions=extension_start error message code=errc",
    "DestroyError": "XLA_FFI_Error_Destroy_Args struct_size extensions=extension_start error",
    "Register": "XLA_FFI_Handler_Register_Args struct_size extensions=extension_start name platform "
    "instantiate=bundle.instantiate prepare=bundle.prepare initialize=bundle.initialize execute=bundle.execute "
    "record=bundle.record traits",
    "StreamGet": "XLA_FFI_Stream_Get_Args struct_size extensions=extension_start context=ctx stream",
    "Schedule": "XLA_FFI_ThreadPool_Schedule_Args struct_size extensions=extension_start context=ctx task data",
    "NumThreads": "XLA_FFI_ThreadPool_NumThreads_Args struct_size extensions=extension_start context=ctx "
    "count=num_threads",
    "CallFrame": "XLA_FFI_CallFrame struct_size extensions=extension_start api context=ctx stage arguments=args "
    "results=rets attributes=attrs",
    "Api": "XLA_FFI_Api struct_size extensions=extension_start version=api_version internal=internal_api "
    "create_error=XLA_FFI_Error_Create get_details=XLA_FFI_Error_GetDetails destroy_error=XLA_FFI_Error_Destroy "
    "register_handler=XLA_FFI_Handler_Register stream_get=XLA_FFI_Stream_Get "
    "schedule=XLA_FFI_ThreadPool_Schedule num_threads=XLA_FFI_ThreadPool_NumThreads",
}
# The interface grows at the end of these: runtimes provide more than we declare, and never less.
GROWING = ("Metadata", "CallFrame", "Api")
# A word of the newest header, and the replacements in the structs above for a header without it. If these leave fields
# out, our structs are larger, and the older runtimes do not read the other fields.
OLDER = [
    ("XLA_FFI_InternalExtension", "XLA_FFI_InternalExtension", "XLA_FFI_Extension_Base"),
    ("XLA_FFI_Error_GetDetails", "XLA_FFI_Error_GetDetails", "XLA_FFI_Error_GetMessage"),
    ("XLA_FFI_Error_GetDetails", " error message code=errc", " error message"),
    ("XLA_FFI_Handler* record;", " record=bundle.record traits", ""),
]
VALUES = {
    "Code::kInvalidArgument": "XLA_FFI_Error_Code_INVALID_ARGUMENT",
    "Code::kResourceExhausted": "XLA_FFI_Error_Code_RESOURCE_EXHAUSTED",
    "Code::kInternal": "XLA_FFI_Error_Code_INTERNAL",
    "Type::kBool": "XLA_FFI_DataType_PRED",
    "Type::kInt64": "XLA_FFI_DataType_S64",
    "Type::kUint8": "XLA_FFI_DataType_U8",
    "Type::kFloat16": "XLA_FFI_DataType_F16",
    "Type::kFloat32": "XLA_FFI_DataType_F32",
    "Type::kFloat64": "XLA_FFI_DataType_F64",
    "Type::kBFloat16": "XLA_FFI_DataType_BF16",
    "Kind::kBuffer": "XLA_FFI_ArgType_BUFFER",
    "AttributeKind::kScalar": "XLA_FFI_AttrType_SCALAR",
    "ExtensionType::kMetadata": "XLA_FFI_Extension_Metadata",
}


def comparison() -> str:
    """A program that compiles if our declarations are XLA's."""
    header = (Path(jax.ffi.include_dir()) / "xla" / "ffi" / "api" / "c_api.h").read_text()
    older = {new: old for word, new, old in OLDER if word not in header}
    lines = ["#include <cstddef>", '#include "xla/ffi/api/c_api.h"', '#include "bindings/xla_ffi.h"']
    lines += ["namespace ours = lstm_fast::xla;", "#define SAME(a, b) static_assert((a) == (b))"]
    lines.append("static_assert(ours::kMajor == XLA_FFI_API_MAJOR && ours::kMinor <= XLA_FFI_API_MINOR);")
    for ours, description in STRUCTS.items():
        known = description
        for new, old in older.items():
            known = known.replace(new, old)
        theirs, *fields = known.split()
        compare = "<=" if ours in GROWING else "==" if len(fields) == len(description.split()) - 1 else ">"
        lines.append(f"static_assert(sizeof(ours::{ours}) {compare} sizeof({theirs}));")
        for field in fields:
            mine, _, other = field.partition("=")
            other = other or mine
            lines.append(f"SAME(offsetof(ours::{ours}, {mine}), offsetof({theirs}, {other}));")
            lines.append(f"SAME(sizeof(ours::{ours}::{mine}), sizeof((({theirs}*)0)->{other}));")
        if ours in ("CreateError", "GetDetails", "Register"):  # their sizes are given without padding
            told = "==" if compare == "==" else ">"
            lines.append(f"static_assert(ours::k{ours}Size {told} {theirs}_STRUCT_SIZE);")
    if " record=bundle.record traits" in older:  # those runtimes read the traits from the null pointer
        lines.append("SAME(offsetof(ours::Register, record), offsetof(XLA_FFI_Handler_Register_Args, traits));")
    for ours, theirs in VALUES.items():
        lines.append(f"SAME(static_cast<int>(ours::{ours}), static_cast<int>({theirs}));")
    lines.append("SAME(static_cast<int>(ours::Kind::kBuffer), static_cast<int>(XLA_FFI_RetType_BUFFER));")
    return "\n".join(lines)


def compiles(program: str, folder: Path) -> bool:
    source = folder / "comparison.cc"
    source.write_text(program)
    includes = [f"-I{jax.ffi.include_dir()}", f"-I{ROOT / 'csrc'}"]
    done = subprocess.run(
        ["g++", "-std=c++17", "-fsyntax-only", "-Wno-invalid-offsetof", *includes, source],
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stderr)
    return done.returncode == 0


@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")
def test_declarations_are_those_of_xla(tmp_path):
    program = comparison()
    assert compiles(program, tmp_path)
    # The comparison can fail:
    assert not compiles(program.replace("context), offsetof(XLA_FFI_CallFrame, ctx)", "api), 0"), tmp_path)


def test_every_struct_is_compared():
    header = (ROOT / "csrc" / "bindings" / "xla_ffi.h").read_text()
    assert set(re.findall(r"^struct (\w+) {", header, re.MULTILINE)) == STRUCTS.keys()


# What the handlers refuse


def operands_of(problem: Problem, *further: Any) -> list[Any]:
    absent = np.zeros(0, problem.x.dtype)
    lists = [absent if value is None else value for column in problem.kernel_inputs[2:] for value in column]
    return [problem.x, np.zeros(0, bool) if problem.mask is None else problem.mask, *lists, *further]


def results_of(problem: Problem, reserve_mode: int = 1) -> list[Any]:
    batch, time, _ = problem.x.shape
    n, dtype = len(problem.kernels), problem.x.dtype
    shapes = [(batch, time if problem.return_sequences else 1, n * problem.units), *[(batch, problem.units)] * 2 * n]
    results = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
    if reserve_mode:
        step = _core.reserve_step_bytes(reserve_mode, dtype.name, problem.units)
        results.append(jax.ShapeDtypeStruct((batch, n, time, step), np.uint8))
    return results


def attributes_of(problem: Problem, reserve_mode: int = 1) -> dict[str, Any]:
    values = {"directions": len(problem.kernels), **problem.options, "reserve_mode": reserve_mode}
    return {name: np.int64(value) for name, value in values.items()}


def call(target: str, operands: list[Any], results: list[Any], attributes: dict[str, Any]) -> list[Any]:
    return jax.ffi.ffi_call(target, results)(*operands, **attributes)


def forward(problem: Problem) -> list[Any]:
    return call("lstm_fast_forward", operands_of(problem), results_of(problem), attributes_of(problem))


@pytest.fixture
def small() -> Problem:
    return make_problem(3, 5, 4, 5, mask="right", input_dropout=True, recurrent_dropout=True)


OPERANDS = ("x", "mask", "kernels", "recurrent_kernels", "biases", "h0", "c0", "input_dropout", "recurrent_dropout")


@pytest.mark.parametrize("index", range(len(OPERANDS)), ids=OPERANDS)
@pytest.mark.parametrize(
    "spoil", [lambda value: value[:, :-1] if value.ndim > 1 else value[:-1], lambda value: value[0]]
)
def test_wrong_shape_is_named(small, index, spoil):
    operands = operands_of(small)
    operands[index] = spoil(operands[index])
    # Fewer rows, timesteps or features of x show in the operands that are compared with x.
    name = OPERANDS[index] if index else "x|mask"
    with fused(0), pytest.raises(Exception, match=rf"INVALID_ARGUMENT: ({name})\b.*expected .*found") as caught:
        call("lstm_fast_forward", operands, results_of(small), attributes_of(small))
    assert caught.type.__name__.endswith("RuntimeError")


@pytest.mark.parametrize("index", range(len(OPERANDS)), ids=OPERANDS)
def test_wrong_dtype_is_named(small, index):
    operands = operands_of(small)
    operands[index] = operands[index].astype(np.int32 if index == 0 else ml_dtypes.bfloat16)
    with fused(0), pytest.raises(Exception, match=rf"INVALID_ARGUMENT: {OPERANDS[index]}\b.*expected .*found"):
        call("lstm_fast_forward", operands, results_of(small), attributes_of(small))


@pytest.mark.parametrize("count", [0, 1, 8])
def test_missing_operands_are_refused(small, count):
    with fused(0), pytest.raises(Exception, match=f"INVALID_ARGUMENT: operands: expected more than {count}"):
        call("lstm_fast_forward", operands_of(small)[:count], results_of(small), attributes_of(small))


def test_further_operands_are_ignored(small):
    operands = operands_of(small, np.zeros(3, np.int32), np.zeros(2, np.int32))
    with fused(2):
        y, *_ = call("lstm_fast_forward", operands, results_of(small), attributes_of(small))
        np.testing.assert_array_equal(y, forward(small)[0])


@pytest.mark.parametrize("index", [0, 1, 2, 3])
def test_wrong_results_are_named(small, index):
    results = results_of(small)
    shape = results[index].shape
    results[index] = jax.ShapeDtypeStruct((*shape[:-1], shape[-1] + 1), results[index].dtype)
    name = ("y", r"h_n\[0\]", r"c_n\[0\]", "reserve")[index]
    with fused(0), pytest.raises(Exception, match=rf"INVALID_ARGUMENT: {name}: expected shape .*found shape"):
        call("lstm_fast_forward", operands_of(small), results, attributes_of(small))


def test_missing_results_are_refused(small):
    with fused(0), pytest.raises(Exception, match="INVALID_ARGUMENT: results: expected more than 3"):
        call("lstm_fast_forward", operands_of(small), results_of(small)[:3], attributes_of(small))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("directions", np.int64(3)),
        ("reserve_mode", np.int64(7)),
        ("reserve_mode", np.float32(0.5)),
        ("go_backwards", "yes"),
        ("return_sequences", None),
    ],
)
def test_wrong_attribute_is_named(small, name, value):
    attributes = attributes_of(small)
    if value is None:
        del attributes[name]
    else:
        attributes[name] = value
    expected = "kernels" if name == "directions" else name
    with fused(0), pytest.raises(Exception, match=rf"INVALID_ARGUMENT: {expected}: expected .*found"):
        call("lstm_fast_forward", operands_of(small), results_of(small), attributes)


def test_reserve_of_another_size_is_refused(small):
    *_, reserve = forward(small)
    gradients = [jax.ShapeDtypeStruct(value.shape, value.dtype) for value in operands_of(small)[:1]]
    none = jax.ShapeDtypeStruct((0,), small.x.dtype)
    further = (reserve[:, :, 1:], small.dy, *small.dh_n, *small.dc_n)
    with fused(0), pytest.raises(Exception, match="INVALID_ARGUMENT: reserve: expected"):
        call("lstm_fast_backward", operands_of(small, *further), [*gradients, *[none] * 5], attributes_of(small))


def test_only_the_gradients_that_are_asked_for_are_computed(small):
    *_, reserve = forward(small)
    none = jax.ShapeDtypeStruct((0,), small.x.dtype)
    further = (reserve, small.dy, *small.dh_n, *small.dc_n)
    every = [jax.ShapeDtypeStruct(value.shape, value.dtype) for value in operands_of(small)[:7] if value.dtype != bool]
    whole = call("lstm_fast_backward", operands_of(small, *further), every, attributes_of(small))
    for i, result in enumerate(every):
        asked = [result if j == i else none for j in range(len(every))]
        found = call("lstm_fast_backward", operands_of(small, *further), asked, attributes_of(small))
        np.testing.assert_array_equal(found[i], whole[i])


def test_a_kernel_that_is_not_there_has_no_gradient():
    problem = make_problem(3, 5, units=5, projected=True)
    *_, reserve = forward(problem)
    further = (reserve, problem.dy, *problem.dh_n, *problem.dc_n)
    none = jax.ShapeDtypeStruct((0,), problem.x.dtype)
    asked = [none, jax.ShapeDtypeStruct(problem.kernels[0].shape, problem.x.dtype), *[none] * 4]
    with fused(0), pytest.raises(Exception, match=r"INVALID_ARGUMENT: dkernels\[0\]: expected nothing .*found shape"):
        call("lstm_fast_backward", operands_of(problem, *further), asked, attributes_of(problem))


@pytest.mark.parametrize(("mode", "dtype"), [(3, "float32"), (-1, "float32"), (1, "int32")])
@pytest.mark.fast
def test_reserve_step_bytes_checks_its_arguments(mode, dtype):
    with pytest.raises(ValueError, match="expected"):
        _core.reserve_step_bytes(mode, dtype, 5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_reserve_has_room_for_every_instruction_set(dtype, isa):
    del isa
    problem = make_problem(2, 3, 2, 1, dtype=dtype)
    *_, kept = _core.forward(*problem.inputs, *problem.options.values(), 1)
    assert 0 < kept.nbytes <= 2 * 3 * _core.reserve_step_bytes(1, dtype, 1)
    assert _core.reserve_step_bytes(0, dtype, 1) == 0


# Threads


@pytest.fixture
def thread_counts() -> Iterator[tuple[int, ...]]:
    before = _core.threads()
    yield (1, 2, 3, 5)
    _core.set_threads(before)


# With many rows each thread has its own tiles. With few rows of many units the threads share a tile and wait for each
# other at every step.
@pytest.mark.parametrize("shape", [(37, 40, 24, 40), (2, 30, 150, 205)])
def test_bits_are_those_of_the_kernels_on_their_own_threads(shape, thread_counts):
    problem = make_problem(*shape, mask="holes", directions=2)
    expected = _core.forward(*problem.inputs, *problem.options.values(), 0)
    run = jax.jit(lambda *operands: call("lstm_fast_forward", operands, results, attributes))
    results, attributes = results_of(problem, 0), attributes_of(problem, 0)
    for count in thread_counts:
        _core.set_threads(count)
        y, h_forward, h_backward, *_ = run(*operands_of(problem))
        np.testing.assert_array_equal(y, expected[0])
        np.testing.assert_array_equal(h_forward, expected[1][0])
        np.testing.assert_array_equal(h_backward, expected[1][1])


@pytest.mark.parametrize("shape", [(37, 40, 24, 40), (2, 30, 150, 205)])
def test_many_calls_at_once_neither_wait_for_ever_nor_disturb_each_other(shape):
    """More calls than XLA has threads, from several threads and within one program, so that helpers come too late."""
    problem = make_problem(*shape)
    results, attributes = results_of(problem, 0), attributes_of(problem, 0)

    def several(x: Any, *others: Any) -> list[Any]:
        return [call("lstm_fast_forward", [x * scale, *others], results, attributes)[0] for scale in (1.0, 0.5, 0.25)]

    run = jax.jit(several)
    operands = operands_of(problem)
    expected = [np.asarray(y) for y in run(*operands)]
    with fused(3 * 60), ThreadPoolExecutor(6) as pool:
        for found in pool.map(lambda _: jax.block_until_ready(run(*operands)), range(60)):
            for y, y_expected in zip(found, expected, strict=True):
                np.testing.assert_array_equal(y, y_expected)


# Each thread has its own setting for subnormal numbers. XLA makes it for the thread that starts a program.
SUBNORMAL = """
import jax, numpy as np
from cases import make_problem
from test_xla import attributes_of, call, operands_of, results_of
from lstm_fast import _core
problem = make_problem(64, 40, 16, 32)
problem.x[...] *= np.float32(1e-40)
problem.kernels[0][...] *= np.float32(1e38)
run = jax.jit(lambda *operands: call("lstm_fast_forward", operands, results_of(problem, 0), attributes_of(problem, 0)))
found = {}
for threads in (1, 4):
    _core.set_threads(threads)
    found[threads] = [np.asarray(run(*operands_of(problem))[0]) for _ in range(20)]
problem.x[...] = 0
expected = np.asarray(run(*operands_of(problem))[0])
for y in found[1] + found[4]:
    np.testing.assert_array_equal(y, expected)
"""

# TensorFlow and JAX each contain their own XLA.
BOTH = """
import sys
import numpy as np
for name in sys.argv[1:]:
    __import__(name)
import jax, tensorflow as tf
from lstm_fast import _core, lstm
rng = np.random.default_rng(0)
arrays = [rng.standard_normal(shape).astype("float32") for shape in ((4, 6, 3), (3, 20), (5, 20))]
expected = lstm(*arrays)[0]
def loss(x, *weights):
    return (lstm(x, *weights)[0] ** 2).sum()
@tf.function(jit_compile=True)
def step(x, *weights):
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = lstm(x, *weights)[0]
        total = tf.reduce_sum(y ** 2)
    return y, tape.gradient(total, x)
before = _core.fused_calls()
for _ in range(2):
    y, dx = step(*map(tf.constant, arrays))
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(jax.jit(lstm)(*map(jax.numpy.asarray, arrays))[0], expected)
    np.testing.assert_array_equal(jax.jit(jax.grad(loss))(*arrays), dx)
after = _core.fused_calls()
assert {name: after[name] - before[name] for name in after} == {"forward": 6, "backward": 4}, (before, after)
"""


def run_python(script: str, *arguments: str, **environment: str) -> None:
    subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:lstm_fast", "-c", script, *arguments],
        env={**os.environ, **environment},
        cwd=Path(__file__).parent,
        check=True,
        timeout=240,
    )


def test_subnormal_numbers_are_zero_on_every_thread():
    devices = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=4"
    run_python(SUBNORMAL, KERAS_BACKEND="jax", XLA_FLAGS=devices)


@pytest.mark.parametrize("order", [("jax", "tensorflow"), ("tensorflow", "jax")], ids="-".join)
def test_tensorflow_and_jax_in_one_process(order):
    run_python(BOTH, *order)
