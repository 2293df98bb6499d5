"""Runs the test suite with every Keras backend that is installed.

Usage: python tests/run.py [options of pytest]

The last backend runs the whole suite. At the same time the others run, one after the other, the tests that are marked
for them.
"""

import concurrent.futures
import importlib.util
import os
import subprocess
import sys
from typing import Any

# The last one also runs the tests that need only one backend.
BACKENDS = ("torch", "jax", "tensorflow")


def test(backend: str, options: list[str], **how: Any) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "KERAS_BACKEND": backend}
    return subprocess.run([sys.executable, "-m", "pytest", *options], env=environment, text=True, check=False, **how)


def main(options: list[str]) -> int:
    installed = [backend for backend in BACKENDS if importlib.util.find_spec(backend)]
    for backend in BACKENDS:
        print(f"Keras on {backend}: {'tested' if backend in installed else 'not installed, SKIPPED'}", flush=True)
    if not installed:
        return 1
    *others, last = installed
    marked = ["-m", "backends", "-p", "no:cacheprovider", *options]
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with concurrent.futures.ThreadPoolExecutor(max_workers=1) as pool:
        beside = {backend: pool.submit(test, backend, marked, **how) for backend in others}
        print(f"\nKeras on {last}", flush=True)
        codes = [test(last, options).returncode]
        for backend, run in beside.items():
            print(f"\nKeras on {backend}\n{run.result().stdout}", flush=True)
            codes.append(run.result().returncode)
    return max(codes, key=abs)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
