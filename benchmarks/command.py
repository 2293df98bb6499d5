"""What the modules with a command line share."""

import argparse


def parser(module: str, doc: str) -> argparse.ArgumentParser:
    """A parser that describes the module by the first line of its docstring."""
    return argparse.ArgumentParser(prog=f"python -m benchmarks.{module}", description=doc.splitlines()[0])
