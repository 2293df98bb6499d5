"""The types of the compiled modules, lstm_fast/_core.pyi and _cuda.pyi, against the modules themselves.

`make lint` runs mypy's stubtest, too. It does not see the parameters of compiled functions. The first line of their
help has them.
"""

import ast
from pathlib import Path
from types import ModuleType

import pytest

import lstm_fast
from lstm_fast.backends import core, cuda, cuda_state

PACKAGE = Path(lstm_fast.__file__).parent


@pytest.fixture(params=["_core", "_cuda"])
def module(request: pytest.FixtureRequest) -> ModuleType:
    if request.param == "_cuda":
        if not cuda_state().startswith("built"):
            pytest.skip(cuda_state())
        return cuda()
    return core()


def stub_of(module: ModuleType) -> list[ast.stmt]:
    path = PACKAGE / f"{module.__name__.rpartition('.')[2]}.pyi"
    return ast.parse(path.read_text(encoding="utf-8")).body


def parameters(function: ast.FunctionDef) -> list[tuple[str, str | None]]:
    """Names of parameters, with their defaults as text."""
    arguments = function.args
    names = [argument.arg for argument in arguments.args]
    defaults = [None] * (len(names) - len(arguments.defaults)) + [ast.unparse(value) for value in arguments.defaults]
    return list(zip(names, defaults, strict=True))


@pytest.mark.fast
def test_parameters(module: ModuleType) -> None:
    stub = {node.name: parameters(node) for node in stub_of(module) if isinstance(node, ast.FunctionDef)}
    found = {}
    for name, member in vars(module).items():
        if callable(member):
            signature = member.__doc__.splitlines()[0]
            (function,) = ast.parse(f"def {signature}: ...").body
            found[name] = parameters(function)
    assert stub == found


def test_attributes(module: ModuleType) -> None:
    stub = {
        ast.unparse(node.target): ast.unparse(node.annotation)
        for node in stub_of(module)
        if type(node) is ast.AnnAssign
    }
    stub = {name: annotation for name, annotation in stub.items() if annotation != "TypeAlias"}
    own = {name: type(value).__name__ for name, value in vars(module).items() if isinstance(value, str | int)}
    ignored = {"__name__", "__doc__", "__package__", "__file__"}
    assert stub == {name: kind for name, kind in own.items() if name not in ignored}


def test_keys_of_results(module: ModuleType) -> None:
    nodes = stub_of(module)
    dicts = {
        node.name: {entry.target.id: ast.unparse(entry.annotation) for entry in node.body}
        for node in nodes
        if isinstance(node, ast.ClassDef)
    }
    checked = set()
    for node in nodes:
        if isinstance(node, ast.FunctionDef) and not node.args.args:
            named = [part.id for part in ast.walk(node.returns) if isinstance(part, ast.Name) and part.id in dicts]
            result = getattr(module, node.name)() if named else None
            for entry in result if isinstance(result, list) else [result] if named else []:
                kinds = {key: annotation.partition("[")[0] for key, annotation in dicts[named[0]].items()}
                assert {key: type(value).__name__ for key, value in entry.items()} == kinds, node.name
                checked.add(node.name)
    assert {"build_info", "fused_calls"} <= checked
