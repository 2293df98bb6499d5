"""Python and C++: one order of operands, one order of options, and one way from layers to a backend."""

import ast
import re
from pathlib import Path

import pytest

import lstm_fast
from lstm_fast.backends import FRAMEWORKS, PRECISIONS, Direction, Operands, Options, Outputs, core
from lstm_fast.backends.operands import RECURRENCE, present, spread, with_gradient

PACKAGE = Path(lstm_fast.__file__).parent
BINDINGS = PACKAGE.parent / "csrc" / "bindings"
# Arguments of the compiled functions are lists, with an entry for each direction.
PLURAL = {"kernel": "kernels", "recurrent_kernel": "recurrent_kernels", "bias": "biases"}


def named(direction: int) -> Direction:
    return Direction(*(f"{field}{direction}" for field in Direction._fields))


def parameters(function: str) -> list[str]:
    """Names of the parameters of a compiled function, as pybind11 writes them at the start of its docstring."""
    signature = getattr(core(), function).__doc__.splitlines()[0]
    return re.findall(r"[(,] ?(\w+):", signature)


@pytest.mark.parametrize("n", [1, 2])
def test_operands_are_flat_by_field_and_come_back(n):
    operands = Operands("x", None, [named(i) for i in range(n)])
    flat = operands.flatten()
    assert flat[:2] == ["x", None]
    assert flat[2:] == [f"{field}{i}" for field in Direction._fields for i in range(n)]
    assert Operands.unflatten(flat, n) == operands
    assert Operands.split([*flat, "reserve", "dy"], n) == (operands, ["reserve", "dy"])
    assert [value for values in operands.lists() for value in values] == flat[2:]
    assert operands.lists_of_recurrence() == [[f"{field}{i}" for i in range(n)] for field in RECURRENCE]
    with pytest.raises(AssertionError, match="more values than operands"):
        Operands.unflatten([*flat, "reserve"], n)


@pytest.mark.parametrize("n", [1, 2])
def test_outputs_are_flat_and_come_back(n):
    outputs = Outputs("y", [f"h{i}" for i in range(n)], [f"c{i}" for i in range(n)])
    assert outputs.flatten() == ["y", *outputs.h_n, *outputs.c_n]
    assert Outputs.unflatten(tuple(outputs.flatten())) == outputs


def test_gradients_are_those_of_arrays_but_the_mask_and_multipliers():
    flat = Operands("x", "mask", [named(0), named(1)]).flatten()
    fields = ("kernel", "recurrent_kernel", "bias", "h0", "c0")
    assert [flat[place] for place in with_gradient(2)] == ["x", *(f"{field}{i}" for field in fields for i in range(2))]


def test_spread_is_the_inverse_of_present():
    values = ["x", None, "kernel", None]
    assert present(values) == ["x", "kernel"]
    assert spread(values, [1, 2]) == [1, None, 2, None]


@pytest.mark.parametrize("function", ["forward", "backward"])
def test_the_compiled_functions_have_this_order(function):
    found = parameters(function)
    assert found[: 2 + len(Direction._fields)] == ["x", "mask", *(PLURAL.get(f, f) for f in Direction._fields)]
    first = found.index("go_backwards")
    assert found[first : first + len(Options._fields)] == list(Options._fields)


@pytest.mark.parametrize(("header", "fields"), [("arguments.h", Direction._fields), ("cuda_arguments.h", RECURRENCE)])
def test_the_tables_of_the_bindings_have_this_order(header, fields):
    if not BINDINGS.exists():
        pytest.skip("the sources are not here")
    table = re.findall(r'{"(\w+)", &\w+::(\w+), (?:true|false), (true|false)}', (BINDINGS / header).read_text())
    assert [(name, field) for name, field, _ in table] == [(PLURAL.get(f, f),) * 2 for f in fields]
    places = Operands(None, None, [Direction(*Direction._fields)]).flatten()
    differentiable = [places[place] for place in with_gradient(1)]
    assert [flag == "true" for *_, flag in table] == [field in differentiable for field in fields]


def test_the_ops_for_gpus_spell_their_table_out():
    source = BINDINGS / "tensorflow_gpu.cc"
    if not source.exists():
        pytest.skip("the sources are not here")
    ops = re.findall(r"REGISTER_OP\(\w+\)(.*?);", source.read_text(), re.DOTALL)
    inputs = [re.findall(r'\.Input\("(\w+): ', op) for op in ops]
    lists = [PLURAL.get(field, field) for field in RECURRENCE]
    assert inputs == [["z", "mask", *lists], ["x", "mask", *lists, "reserve", "dy", "dh_n", "dc_n"]]


def test_options_of_the_recurrence():
    options = Options(go_backwards=False, return_sequences=True, zero_output_for_mask=False, reserve_mode=2)
    for i, precision in enumerate(PRECISIONS):
        expected = {"go_backwards": False, "return_sequences": True, "zero_output_for_mask": False, "precision": i}
        assert options.of_recurrence(precision) == expected


def imported(path: Path) -> set[str]:
    """Modules, and names of modules, that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_only_functional_calls_backends():
    backends = {f"lstm_fast.backends.{path.stem}" for path in (PACKAGE / "backends").glob("*.py")}
    backends -= {"lstm_fast.backends.__init__", "lstm_fast.backends.operands"}  # these do not lead to the kernels
    callers = {}
    for path in PACKAGE.rglob("*.py"):
        name = path.relative_to(PACKAGE).as_posix()
        reached = {module for module in imported(path) if any(f"{module}.".startswith(f"{b}.") for b in backends)}
        if not name.startswith("backends/") and (reached or "backend_of" in path.read_text(encoding="utf-8")):
            callers[name] = reached
    assert callers.keys() == {"functional.py"}
    assert {f"lstm_fast.backends.{framework}" for framework in FRAMEWORKS} <= callers["functional.py"]
