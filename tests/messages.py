"""The messages that the package can print. Those of Python come from its syntax tree, those of C++ from its text.

A key is the longest fixed part of a message, cut to a few words: a reader would search for these.

Usage: python tests/messages.py     prints the messages that are missing in docs/troubleshooting.md, in its form
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "troubleshooting.md"
PACKAGE = ROOT / "lstm_fast"
NATIVE = [ROOT / "csrc" / folder for folder in ("bindings", "cpu", "cuda")]

# Calls whose first text is a message. Raised exceptions are messages as well.
SAYS = {"warn", "log", "warning", "error", "info", "Unavailable", "UnavailableError", "LibraryError", "note"}
# Functions that compose messages: all texts in them are parts of messages.
WRITES = {
    "backends/tensorflow_build.py": {"library"},
    "backends/tensorflow_cuda.py": {"_load", "slower_than_cudnn"},
    "cli.py": {"_positive_int", "_natural_int", "_positive_float", "_share", "_padding"},
    "cells.py": {"other_cell", "_other", "unfit"},
    "exports/errors.py": {"advice"},
    "exports/writing.py": {"_not_written"},
    "convert.py": {"_log", "check_model"},
    "functional.py": {"_advised", "_does_not_fit"},
    "fused.py": {"fallback"},
    "text/compare.py": {"problems"},
    "libraries.py": {"check_library", "cuda"},
    "layers.py": {"left_alone", "_patched", "_record_others"},
    "masks.py": {"warn_of_reversed"},
    "states.py": {"_expected", "_advice", "with_checked_batch"},
    "settings.py": {"misspelt"},
    "writing.py": {"_trouble"},
}
# Modules with errors for wrong calls inside this package: no user can cause them.
INTERNAL = {"text/models.py", "text/sample.py", "reference.py"}
LEAST_LETTERS, MOST_LETTERS = 12, 48


class Message(NamedTuple):
    key: str
    where: str
    text: str  # the whole message, with words in capitals for the parts that change


def all_messages() -> list[Message]:
    """Every message, each key once."""
    found = {message.key: message for message in (*_python(), *_native())}
    return list(found.values())


def missing() -> list[Message]:
    """The messages that are not on the page."""
    page = " ".join(PAGE.read_text(encoding="utf-8").split())
    return [message for message in all_messages() if message.key not in page]


def key_of(fixed: list[str]) -> str:
    """The key of a message with these fixed parts; empty if they are too short."""
    longest = max((" ".join(part.split()) for part in fixed), key=len, default="").strip(" '\"(:;,.")
    if len(longest) < LEAST_LETTERS or " " not in longest:
        return ""
    return longest if len(longest) <= MOST_LETTERS else longest[: MOST_LETTERS + 1].rpartition(" ")[0]


def _python() -> Iterator[Message]:
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if name not in INTERNAL:
            tree = ast.parse(path.read_text(encoding="utf-8"))
            constants = {
                target.id: node.value
                for node in ast.walk(tree)
                if isinstance(node, ast.Assign)
                for target in node.targets
                if isinstance(target, ast.Name)
            }
            for node in ast.walk(tree):
                for text in _texts_of(node, name):
                    value = constants.get(text.id, text) if isinstance(text, ast.Name) else text
                    if key := key_of(_fixed(value)):
                        yield Message(key, f"lstm_fast/{name}:{text.lineno}", _whole(value))


def _texts_of(node: ast.AST, name: str) -> Iterator[ast.expr]:
    """The expressions in or at a node that are messages."""
    if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
        yield from node.exc.args[:1]
    elif isinstance(node, ast.Call):
        function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        to_stderr = any(keyword.arg == "file" for keyword in node.keywords)
        if function in SAYS or (function == "print" and to_stderr):
            yield from node.args[:2]  # the level of a log comes first
    elif isinstance(node, ast.FunctionDef) and node.name in WRITES.get(name, ()):
        docstring = node.body[0].value if isinstance(node.body[0], ast.Expr) else None
        inner = {id(part) for text in ast.walk(node) if isinstance(text, ast.JoinedStr) for part in text.values}
        for text in ast.walk(node):
            is_text = isinstance(text, ast.JoinedStr) or (
                isinstance(text, ast.Constant) and isinstance(text.value, str) and text is not docstring
            )
            if is_text and id(text) not in inner:
                yield text


def _fixed(node: ast.expr) -> list[str]:
    """The fixed parts of a text."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.split(r"%[sdr]", node.value)
    if isinstance(node, ast.JoinedStr):
        return [part.value for part in node.values if isinstance(part, ast.Constant)]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _fixed(node.left) + _fixed(node.right)
    return []


def _whole(node: ast.expr) -> str:
    """A text, with words in capitals for the parts that change."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_whole, node.values))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _whole(node.left) + _whole(node.right)
    words = re.findall(r"[A-Za-z]{3,}", ast.unparse(node.value if isinstance(node, ast.FormattedValue) else node))
    return words[-1].upper() if words else "N"


def _native() -> Iterator[Message]:
    for folder in NATIVE:
        for path in sorted(file for file in folder.iterdir() if file.suffix in (".cc", ".cu", ".h", ".inl")):
            source = path.read_text(encoding="utf-8")
            for throw in re.finditer(r"(?:\bthrow [\w:]+|Error)\((.*?)\);\n", source, re.DOTALL):
                text = re.sub(r'"\s*\n\s*"', "", throw[1])  # adjacent literals are one
                fixed = re.findall(r'"((?:[^"\\]|\\.)*)"', text)
                if key := key_of(fixed):
                    line = source.count("\n", 0, throw.start()) + 1
                    yield Message(key, f"{path.relative_to(ROOT).as_posix()}:{line}", "VALUE".join(fixed))


if __name__ == "__main__":
    for message in missing():
        print(f"{message.where}\n{message.text}\n")
