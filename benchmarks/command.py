"""What the modules with a command line share."""

import argparse
import json
from pathlib import Path
from typing import Any


def parser(module: str, doc: str) -> argparse.ArgumentParser:
    """A parser that describes the module by the first line of its docstring."""
    return argparse.ArgumentParser(prog=f"python -m benchmarks.{module}", description=doc.splitlines()[0])


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")
