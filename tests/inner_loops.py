"""The compiled code of the register tile: the innermost loops that multiply and add, and how often their vectors go to
the stack and back. A sum that goes there costs as much as several products.

Usage: python tests/inner_loops.py [--objdump OBJDUMP] FILE...     FILE: an object, a library or a program
prints the loops that use the stack too much, and fails if there are any, or none that multiply and add.
"""

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

# Uses of the stack for each product of a loop. 0 on AArch64. On x86, GCC 12 may unroll sums over a fixed number of
# terms and then keep two of them on the stack: four uses to 48 products. More uses mean that the tile is too large.
MOST = {"aarch64": 0.0, "x86-64": 1 / 12}

_FUNCTION = re.compile(r"^[0-9a-f]+ <(.*)>:$")
_INSTRUCTION = re.compile(r"^\s*([0-9a-f]+):\t(.*)$")
_JUMP = re.compile(r"(?:j\w+|b(?:\.\w+)?|cbn?z\s+\w+,|tbn?z\s+\w+, #\w+,)\s+([0-9a-f]+)\b")
_PRODUCT = re.compile(r"vfn?m(?:add|sub)\w+ |fml[as]\s")
# Only the activations divide. They have more constants than registers, which are read from anywhere.
_DIVISION = re.compile(r"v?f?div")


class Loop(NamedTuple):
    function: str
    products: int
    on_stack: list[str]  # instructions that move a vector to the stack or back


class Target(NamedTuple):
    frame: re.Pattern[str]  # what makes the frame's register one
    stack: str  # the register that points to the stack, as a pattern
    either: str  # the same, or the frame's
    vector: str


_TARGETS = {
    "x86-64": Target(re.compile(r"mov\s+%rsp,%rbp"), r"\(%rsp\b", r"\(%r[sb]p\b", r"%[xyz]mm\d"),
    "aarch64": Target(re.compile(r"(?:mov|add)\s+x29, sp"), r"\[sp\b", r"\[(?:sp|x29)\b", r"\b[bhsdqv]\d"),
}


def architecture(file: Path, objdump: str = "objdump") -> str:
    """`x86-64` or `aarch64`; raises ValueError if it is neither, or objdump cannot say."""
    found = subprocess.run([objdump, "-f", file], capture_output=True, text=True, check=False)
    for name in _TARGETS:
        if re.search(rf"architecture: .*{name}", found.stdout):
            return name
    raise ValueError(f"{file}: {objdump} finds neither x86-64 nor aarch64 in it: {found.stdout or found.stderr}")


def loops(file: Path, objdump: str = "objdump") -> Iterator[Loop]:
    """The innermost loops that multiply and add and do not divide."""
    target = _TARGETS[architecture(file, objdump)]
    listing = subprocess.run([objdump, "-d", "--no-show-raw-insn", file], check=True, capture_output=True, text=True)
    for function, code in _functions(listing.stdout):
        has_frame = any(target.frame.match(text) for _, text in code)
        stack = re.compile(target.either if has_frame else target.stack)
        for body in _innermost(code):
            products = sum(bool(_PRODUCT.match(text)) for text in body)
            if products and not any(_DIVISION.match(text) for text in body):
                uses = [text for text in body if stack.search(text) and re.search(target.vector, text)]
                yield Loop(function, products, uses)


def too_many(found: list[Loop], most: float) -> list[Loop]:
    """The loops that use the stack more than `most` times for each product."""
    return [loop for loop in found if len(loop.on_stack) > most * loop.products]


def _functions(listing: str) -> Iterator[tuple[str, list[tuple[int, str]]]]:
    name: str | None = None
    code: list[tuple[int, str]] = []
    for line in listing.splitlines():
        if match := _FUNCTION.match(line):
            if name is not None:
                yield name, code
            name, code = match[1], []
        elif match := _INSTRUCTION.match(line):
            code.append((int(match[1], 16), match[2].strip()))
    if name is not None:
        yield name, code


def _innermost(code: list[tuple[int, str]]) -> Iterator[list[str]]:
    """The code between the target of a backward jump and the jump, unless there is another such pair in it."""
    found = set()
    for address, text in code:
        match = _JUMP.match(text)
        if match and code[0][0] <= (to := int(match[1], 16)) <= address:
            found.add((to, address))
    for first, last in found:
        if not any((a, b) != (first, last) and first <= a and b <= last for a, b in found):
            yield [text for address, text in code if first <= address <= last]


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objdump", default="objdump")
    parser.add_argument("files", nargs="+", type=Path)
    arguments = parser.parse_args()
    failed = False
    for file in arguments.files:
        found = list(loops(file, arguments.objdump))
        wrong = too_many(found, MOST[architecture(file, arguments.objdump)])
        for loop in wrong:
            print(f"{loop.products} products, {len(loop.on_stack)} uses of the stack: {loop.function}")
        print(f"{file}: {len(found)} inner loops, {len(wrong)} of them use the stack too much")
        failed |= bool(wrong) or not found
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
