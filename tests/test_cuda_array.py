"""The compiled functions on arrays of any framework. Here these are arrays of NumPy that claim to be on the emulated
device, by DLPack or by the CUDA array interface.
"""

import ctypes
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import emulated
import numpy as np
import pytest
from cases import DTYPES, Problem, Solution, assert_same_bits, make_problem, with_other_bytes
from cuda_arrays import STREAM, arguments, results
from cuda_side import ran, solve_exactly

CUDA, CPU = 2, 1  # DLPack's device types


class Device(ctypes.Structure):
    _fields_ = [("type", ctypes.c_int32), ("ordinal", ctypes.c_int32)]


class Type(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16)]


class Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device", Device),
        ("rank", ctypes.c_int32),
        ("type", Type),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("offset", ctypes.c_uint64),
    ]


Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class Managed(ctypes.Structure):
    _fields_ = [("tensor", Tensor), ("context", ctypes.c_void_p), ("deleter", Deleter)]


class Versioned(ctypes.Structure):
    _fields_ = [
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", Deleter),
        ("flags", ctypes.c_uint64),
        ("tensor", Tensor),
    ]


new_capsule = ctypes.pythonapi.PyCapsule_New
new_capsule.restype, new_capsule.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]


class Exporter:
    """An array with DLPack's methods; `wrong` has false values for some fields, by name."""

    versioned = True

    def __init__(self, array: np.ndarray, **wrong: Any) -> None:
        self.array, self.wrong = array, wrong
        self.asked: list[dict[str, Any]] = []
        self.capsules: list[Any] = []
        self.deleted = 0

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.wrong.get("device", (CUDA, 0))

    def __dlpack__(self, **how: Any) -> Any:
        self.asked.append(how)
        if not self.versioned and "max_version" in how:
            raise TypeError("__dlpack__() got an unexpected keyword argument 'max_version'")
        if "error" in self.wrong:
            raise self.wrong["error"]
        array = self.array
        kind = {"f": 2, "u": 1, "b": 6}.get(array.dtype.kind, 4)
        sizes = ctypes.c_int64 * array.ndim
        self.kept = sizes(*array.shape), sizes(*(stride // array.itemsize for stride in array.strides))
        tensor = Tensor(
            array.ctypes.data - 16,
            Device(*self.wrong.get("tensor_device", (CUDA, 0))),
            array.ndim,
            Type(*self.wrong.get("type", (kind, 8 * array.itemsize, 1))),
            self.kept[0],
            None if self.wrong.get("dense") else self.kept[1],
            16,
        )
        self.deleter = Deleter(self.delete)
        if self.versioned:
            version = self.wrong.get("version", (1, 1))
            self.managed = Versioned(*version, None, self.deleter, self.wrong.get("flags", 0), tensor)
        else:
            self.managed = Managed(tensor, None, self.deleter)
        self.name = self.wrong.get("name", b"dltensor_versioned" if self.versioned else b"dltensor")
        self.capsules.append(new_capsule(ctypes.addressof(self.managed), self.name, None))
        return self.capsules[-1]

    def delete(self, managed: int) -> None:
        assert managed == ctypes.addressof(self.managed)
        self.deleted += 1


class OldExporter(Exporter):
    """The same, as before DLPack 1."""

    versioned = False


class Interface:
    """An array that has the CUDA array interface."""

    def __init__(self, array: np.ndarray, **wrong: Any) -> None:
        self.array = array
        described = {
            "shape": array.shape,
            "typestr": array.dtype.str,
            "data": (array.ctypes.data, False),
            "version": 3,
            "strides": None if array.flags.c_contiguous else array.strides,
        }
        self.__cuda_array_interface__ = {**described, **wrong}


PROTOCOLS = {"DLPack": Exporter, "DLPack before 1": OldExporter, "CUDA array interface": Interface}


@pytest.fixture
def module() -> Iterator[ModuleType]:
    loaded = emulated.load()
    loaded.take_waits()
    yield loaded
    loaded.take_waits()


def presented(given: dict[str, Any], protocol: Any) -> tuple[dict[str, Any], list[Any]]:
    """The arguments with every array wrapped for a protocol, and a list of the wrappers."""
    made: list[Any] = []

    def present(value: Any) -> Any:
        if isinstance(value, list):
            return list(map(present, value))
        if not isinstance(value, np.ndarray):
            return value
        made.append(protocol(value))
        return made[-1]

    return {name: present(value) for name, value in given.items()}, made


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("return_sequences", [True, False])
def test_agrees_with_reference(return_sequences: bool, dtype: str, protocol: Any, module: ModuleType) -> None:
    if protocol is Interface and dtype == "bfloat16":
        pytest.skip("it has no name there")
    problem = make_problem(
        3,
        4,
        units=9,
        directions=2,
        dtype=dtype,
        mask="holes",
        recurrent_dropout=True,
        return_sequences=return_sequences,
        projected=True,
    )
    forward, backward = arguments(module, problem)
    with ran(module, forward=1, backward=1):
        module.forward(**presented(forward, protocol)[0])
        module.backward(**presented(backward, protocol)[0])
    solve_exactly(problem).check(results(problem, forward, backward))


@pytest.mark.parametrize("zero_output_for_mask", [False, True])
def test_outputs_in_long_padding(zero_output_for_mask: bool, module: ModuleType) -> None:
    """They are those of the last real timestep. The search for it reads 32 timesteps at a time, in both directions."""
    problem = make_problem(
        4, 100, units=3, directions=2, mask="holes", projected=True, zero_output_for_mask=zero_output_for_mask
    )
    assert problem.mask is not None
    problem.mask[:] = False
    problem.mask[0, [0, 99]] = True  # 98 timesteps of padding
    problem.mask[1, [10, 42, 43, 76]] = True  # 31, none and 32
    problem.mask[2, 50] = True
    forward, backward = arguments(module, problem)
    with ran(module, forward=1, backward=1):
        module.forward(**presented(forward, Exporter)[0])
        module.backward(**presented(backward, Exporter)[0])
    solve_exactly(problem).check(results(problem, forward, backward))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("directions", "go_backwards"), [(1, False), (1, True), (2, False)])
def test_gradients_in_long_padding(directions: int, go_backwards: bool, dtype: str, module: ModuleType) -> None:
    """The last real timestep gets those of all outputs after it. Many threads add them, always to the same bits."""
    problem = make_problem(
        5,
        210,
        units=37,  # more than the lanes of a warp
        directions=directions,
        go_backwards=go_backwards,
        dtype=dtype,
        mask="holes",
        projected=True,
    )
    assert problem.mask is not None
    problem.mask[:] = False
    problem.mask[0, [0, 2, 6]] = True  # 203 timesteps of padding, and short gaps, which other code adds
    problem.mask[1, 140:150] = True  # padding on both sides, more and less than all warps read together
    problem.mask[2, [0, 209]] = True  # none at either end
    problem.mask[3, 64:] = True
    found = []
    for _ in range(2):
        forward, backward = arguments(module, problem)
        with ran(module, forward=1, backward=1):
            module.forward(**presented(forward, Exporter)[0])
            module.backward(**presented(backward, Exporter)[0])
        found.append(results(problem, forward, backward))
    solve_exactly(problem).check(found[0])
    assert_same_bits(*found)


@pytest.mark.parametrize("batch", [1, 31, 32, 33, 150, 8193])
def test_plan(batch: int, module: ModuleType) -> None:
    """Rows by falling count, equal ones in their order. Too many rows are not sorted."""
    time = 5 if batch > 1000 else 300
    problem = make_problem(batch, time, units=1, mask="holes", projected=True, states=False)
    assert problem.mask is not None
    rng = np.random.default_rng(batch)
    contiguous = rng.random(batch) < 0.5
    first, last = np.sort(rng.integers(0, time + 1, (2, batch)), axis=0)
    steps = np.arange(time)
    holes = rng.random((batch, time)) < rng.random((batch, 1))
    problem.mask[:] = np.where(contiguous[:, None], (first[:, None] <= steps) & (steps < last[:, None]), holes)
    forward, _ = arguments(module, problem)
    module.forward(**presented(forward, Exporter)[0])
    scratch = forward["scratch"]
    begin = -scratch.ctypes.data % 256  # scratch memory must be aligned
    plan = scratch[begin : begin + 4 * batch * (3 + time)].view(np.int32)
    order, count, where = plan[: 3 * batch].reshape(3, batch)
    np.testing.assert_array_equal(count, problem.mask.sum(axis=1))
    sorted_rows = np.argsort(-count, kind="stable")
    np.testing.assert_array_equal(order, np.arange(batch) if batch > 8192 else sorted_rows)
    for found, begins, mask in zip(plan[3 * batch :].reshape(batch, time), where, problem.mask, strict=True):
        real = np.flatnonzero(mask)
        together = real.size == 0 or real[-1] - real[0] + 1 == real.size
        assert begins == ((real[0] if real.size else 0) if together else -1)
        if not together:
            np.testing.assert_array_equal(found[: real.size], real)
    solve_exactly(problem).check(Solution(forward["y"], forward["h_n"], forward["c_n"]))


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
def test_any_byte_of_a_mask_but_0_is_real(protocol: Any, module: ModuleType) -> None:
    def solve(problem: Problem) -> Solution:
        forward, backward = arguments(module, problem)
        module.forward(**presented(forward, protocol)[0])
        module.backward(**presented(backward, protocol)[0])
        return results(problem, forward, backward)

    problem = make_problem(9, 6, units=7, mask="holes", projected=True)
    assert_same_bits(solve(with_other_bytes(problem)), solve(problem))


@pytest.mark.parametrize("absent", [None, 0])
def test_what_is_absent(absent: Any, module: ModuleType) -> None:
    problem = make_problem(bias=False, states=False, projected=True)
    forward, _ = arguments(module, problem)
    given, _ = presented(forward, Exporter)
    given |= {name: [absent] for name in ("biases", "h0", "c0", "recurrent_dropout")}
    module.forward(**{**given, "mask": absent, "reserve": absent})
    solve_exactly(problem).check(Solution(forward["y"], forward["h_n"], forward["c_n"]))


def test_addresses_and_arrays_may_be_mixed(module: ModuleType) -> None:
    problem = make_problem(projected=True)
    forward, _ = arguments(module, problem)
    given, _ = presented(forward, Interface)
    module.forward(**{**given, "z": forward["z"].ctypes.data, "y": Exporter(forward["y"])})
    solve_exactly(problem).check(Solution(forward["y"], forward["h_n"], forward["c_n"]))


# The duties of both sides


@pytest.mark.parametrize(("stream", "asked"), [(STREAM, STREAM), (0, 1)])
def test_dlpack_is_told_the_stream(stream: int, asked: int, module: ModuleType) -> None:
    given, made = presented(arguments(module, make_problem(projected=True))[0], Exporter)
    module.forward(**{**given, "stream": stream})
    assert all(array.asked == [{"stream": asked, "max_version": (1, 0)}] for array in made)
    assert module.take_waits() == []


def test_dlpack_from_before_version_1(module: ModuleType) -> None:
    given, made = presented(arguments(module, make_problem(projected=True))[0], OldExporter)
    module.forward(**given)
    assert all(array.asked[1:] == [{"stream": STREAM}] for array in made)


@pytest.mark.parametrize("protocol", [Exporter, OldExporter])
def test_a_capsule_is_used_up_and_its_memory_given_back(protocol: Any, module: ModuleType) -> None:
    forward = arguments(module, make_problem(projected=True))[0]
    given, made = presented(forward, protocol)
    module.forward(**given)
    refused = protocol(forward["z"].copy()[:, :-1])
    with pytest.raises(ValueError, match=r"^z: "):
        module.forward(**{**given, "z": refused})
    for array in [*made, refused]:
        assert array.deleted == len(array.capsules) > 0
        for capsule in array.capsules:
            assert f'"used_{array.name.decode()}"' in repr(capsule)


@pytest.mark.parametrize(
    ("stream", "theirs", "expected"),
    [
        (STREAM, None, []),
        (STREAM, STREAM, []),
        (0, 1, []),
        (STREAM, 1, [(STREAM, 1)]),
        (STREAM, 2, [(STREAM, 2)]),
        (0, STREAM, [(0, STREAM)]),
    ],
)
def test_the_stream_waits_for_that_of_the_interface(
    stream: int, theirs: Any, expected: list[tuple[int, int]], module: ModuleType
) -> None:
    forward = arguments(module, make_problem(projected=True))[0]
    given, _ = presented(forward, Interface)
    module.forward(**{**given, "stream": stream, "z": Interface(forward["z"], stream=theirs)})
    assert module.take_waits() == expected


# Bad arrays

Z = (3, 5, 1, 20)  # of the problem below


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("z", lambda _: None, "expected 1200 bytes of memory; found none"),
        ("y", lambda _: 0, "expected 300 bytes of memory; found none"),
        ("z", lambda z: z, "expected an array on CUDA device 0; found one on DLPack's device 0 of type 1"),
        ("z", lambda z: z.tolist(), "expected an address, or an array with __dlpack__ or .*; found list"),
        ("z", lambda _: "z", "expected an address, or .*; found str"),
        ("z", lambda z: Exporter(z, device=(CUDA, 1)), "device 0; found one on DLPack's device 1 of type 2"),
        ("z", lambda z: Exporter(z, device=(CPU, 0)), "device 0; found one on DLPack's device 0 of type 1"),
        ("z", lambda z: Exporter(z, tensor_device=(CPU, 0)), "found one on DLPack's device 0 of type 1"),
        ("z", lambda z: Exporter(z.astype(np.float64)), "expected dtype float32; found float64"),
        ("z", lambda z: Exporter(z, type=(4, 16, 1)), "expected dtype float32; found bfloat16"),
        ("z", lambda z: Exporter(z, type=(2, 32, 4)), "expected dtype float32; found float32x4"),
        ("z", lambda z: Exporter(z, type=(17, 4, 1)), "expected dtype float32; found DLPack's type code 17"),
        ("z", lambda z: Exporter(z, version=(2, 0)), "expected DLPack 1; found DLPack 2"),
        ("z", lambda z: Exporter(z, name=b"used_dltensor"), "expected a capsule .*; found <capsule object"),
        ("z", lambda z: Exporter(z, error=BufferError("it has a gradient")), "expected an array; it cannot be read"),
        ("z", lambda z: Exporter(z[..., ::2]), r"found shape \[3, 5, 1, 10\] with stride 2 along axis 3"),
        ("z", lambda z: Exporter(z[:, ::-1]), r"dense, row-major array; found shape .* with stride -20 along axis 1"),
        ("z", lambda z: Exporter(z[..., 0]), r"expected a dense, row-major array; found .* along axis 1"),
        ("z", lambda z: Exporter(z[0]), r"expected shape \[3, 5, 1, 20\] \(batch, .*\); found shape \[5, 1, 20\]"),
        ("z", lambda z: Exporter(z.reshape(1, *Z)), r"expected shape \[3, 5, 1, 20\] .*; found rank 5"),
        ("z", lambda z: Interface(z, version=1), "expected __cuda_array_interface__ of version 2 or later; found 1"),
        ("z", lambda z: Interface(z, mask=Interface(z)), "expected an array without a mask of its own"),
        ("z", lambda z: Interface(z, typestr=">f4"), "expected dtype float32; found >f4"),
        ("z", lambda z: Interface(z, typestr="<f8"), "expected dtype float32; found float64"),
        ("z", lambda z: Interface(z, typestr=""), "expected dtype float32; found $"),
        ("z", lambda z: Interface(z, typestr=4), "expected an array that keeps to its protocol; found"),
        ("z", lambda z: Interface(z, data=(1 << 63, False)), "device 0; found one on CUDA device 1"),
        ("z", lambda z: Interface(z, data=(64, False)), "device 0; found one on no CUDA device"),
        ("z", lambda z: Interface(z, data=(-64, False)), "expected an array that keeps to its protocol; found"),
        ("z", lambda z: Interface(z, data=(z.ctypes.data + 1, False)), "expected an address aligned to 4 bytes"),
        ("z", lambda z: Interface(z, stream=0), "expected a stream or none in __cuda_array_interface__; found 0"),
        ("z", lambda z: Interface(z[..., ::2]), r"found shape \[3, 5, 1, 10\] with stride 8 along axis 3"),
        ("z", lambda z: Interface(z, strides=(4,)), "expected as many strides as sizes; found 1"),
        ("z", lambda z: Interface(z[:2]), r"expected shape \[3, 5, 1, 20\] .*; found shape \[2, 5, 1, 20\]"),
        ("y", lambda y: Exporter(y, flags=1), "expected an array to write to; found a read-only one"),
        ("y", lambda y: Exporter(y, flags=2), "expected an array to write to; found a copy"),
        ("y", lambda y: Interface(y, data=(y.ctypes.data, True)), "an array to write to; found a read-only one"),
        ("mask", lambda _: Exporter(np.ones((3, 5), np.uint8)), "expected dtype bool; found uint8"),
        ("mask", lambda _: Interface(np.ones((3, 5), np.int8)), "expected dtype bool; found int8"),
        ("mask", lambda _: Interface(np.ones((5, 3), bool)), r"expected shape \[3, 5\] \(batch, time\); found"),
        ("reserve", lambda r: Exporter(r[..., :-16].copy()), "expected shape .* reserve_step_bytes"),
        ("reserve", lambda r: Exporter(r.view(np.float32)), "expected dtype uint8; found float32"),
        ("reserve", lambda r: Exporter(r, flags=1), "expected an array to write to; found a read-only one"),
        ("scratch", lambda _: Exporter(np.empty(3, np.uint8)), r"expected shape \[0\] \(scratch_bytes\)"),
    ],
)
def test_bad_arrays_are_named(name: str, make: Any, message: str, module: ModuleType) -> None:
    forward, _ = arguments(module, make_problem(3, 5, units=5, projected=True))
    given, _ = presented(forward, Exporter)
    with ran(module, forward=0), pytest.raises(ValueError, match=f"^{name}: .*{message}"):
        module.forward(**{**given, name: make(forward[name])})


@pytest.mark.parametrize("name", ["h0", "dh_n", "dh0"])
@pytest.mark.parametrize("protocol", [Exporter, Interface])
def test_bad_entries_of_lists_are_named(protocol: Any, name: str, module: ModuleType) -> None:
    problem = make_problem(directions=2, projected=True)
    _, backward = arguments(module, problem)
    given, _ = presented(backward, protocol)
    wrong = protocol(backward[name][1].T.copy())
    with ran(module, forward=0), pytest.raises(ValueError, match=rf"^{name}\[1\]: expected shape \[3, 5\]"):
        module.backward(**{**given, name: [given[name][0], wrong]})
    with ran(module, forward=0), pytest.raises(ValueError, match=f"^{name}: expected 2 entries"):
        module.backward(**{**given, name: given[name][:1]})


def test_the_cause_is_kept(module: ModuleType) -> None:
    given, _ = presented(arguments(module, make_problem(projected=True))[0], Exporter)
    error = BufferError("it has a gradient")
    with pytest.raises(ValueError, match=r"^h0\[0\]: ") as caught:
        module.forward(**{**given, "h0": [Exporter(given["h0"][0].array, error=error)]})
    assert caught.value.__cause__ is error


def test_inputs_may_be_read_only(module: ModuleType) -> None:
    forward, _ = arguments(module, make_problem(projected=True))
    given, _ = presented(forward, Exporter)
    module.forward(**{**given, "z": Exporter(forward["z"], flags=1)})
    z = Interface(forward["z"], data=(forward["z"].ctypes.data, True))
    with ran(module, forward=1):
        module.forward(**{**given, "z": z})


def test_arrays_of_nothing_have_no_strides_to_be_wrong(module: ModuleType) -> None:
    forward, _ = arguments(module, make_problem(0, 5, projected=True))
    given, _ = presented(forward, Exporter)
    z = Interface(forward["z"], data=(0, False), strides=(4, 4, 4, 4))
    with ran(module, forward=1):
        module.forward(**{**given, "z": z})
