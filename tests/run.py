"""Runs the test suite with every Keras backend that is installed.

Usage: python tests/run.py [--all-backends] [options of pytest]

The first backends run the tests that are marked for them, the last one the whole suite. With --all-backends, a backend
that is not installed is an error.
"""

import importlib.util
import os
import subprocess
import sys

# The last one is that of the tests that need only one of them.
BACKENDS = ("torch", "jax", "tensorflow")


def main(arguments: list[str]) -> int:
    installed = [backend for backend in BACKENDS if importlib.util.find_spec(backend)]
    for backend in BACKENDS:
        print(f"Keras on {backend}: {'tested' if backend in installed else 'not installed, SKIPPED'}", flush=True)
    if not installed or ("--all-backends" in arguments and len(installed) < len(BACKENDS)):
        return 1
    options = [argument for argument in arguments if argument != "--all-backends"]
    for backend in installed:
        print(f"\nKeras on {backend}", flush=True)
        marked = [] if backend == installed[-1] else ["-m", "backends"]
        tests = subprocess.run(
            [sys.executable, "-m", "pytest", *marked, *options],
            env={**os.environ, "KERAS_BACKEND": backend},
            check=False,
        )
        if tests.returncode:
            return tests.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
