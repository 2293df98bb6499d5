"""What is compiled in, what runs, and why a layer fell back to Keras."""

import collections
import dataclasses
import logging
import os
import sys
import threading
from typing import Any

import keras

from lstm_fast import functional
from lstm_fast.backends import FRAMEWORKS, LibraryError, Unavailable, core

ENVIRONMENT = ("LSTM_FAST_KERNEL", "LSTM_FAST_ISA", "LSTM_FAST_NUM_THREADS")
KERNEL_MODES = ("auto", "fused", "keras")

logger = logging.getLogger("lstm_fast")

_lock = threading.Lock()
_fallbacks: collections.Counter[str] = collections.Counter()


def kernel_mode() -> str:
    """Returns LSTM_FAST_KERNEL, read anew; raises ValueError if it has an unknown value."""
    mode = os.environ.get("LSTM_FAST_KERNEL") or "auto"
    if mode not in KERNEL_MODES:
        raise ValueError(f"LSTM_FAST_KERNEL: expected one of {', '.join(KERNEL_MODES)}, found {mode!r}")
    return mode


def record_fallback(fallback: Unavailable) -> None:
    """Counts a call that runs as Keras's own, and logs its reason once; raises RuntimeError if fallbacks are errors."""
    if kernel_mode() == "fused":
        raise RuntimeError(f"LSTM_FAST_KERNEL=fused, but the fused kernel cannot run this layer: {fallback.reason}")
    with _lock:
        _fallbacks[fallback.reason] += 1
        first = _fallbacks[fallback.reason] == 1
    if first:
        level = logging.INFO if fallback.announced else logging.WARNING
        logger.log(level, "FastLSTM runs as keras.layers.LSTM: %s", fallback.reason)


@dataclasses.dataclass(frozen=True)
class Status:
    """The answer of `lstm_fast.status()`.

    Attributes:
        version: Version of the package.
        compiled_isas: Instruction sets that were compiled in.
        available_isas: Those that this processor has.
        isa: The active one; None if there is a problem.
        threads: Number of threads that the kernels use; None if there is a problem.
        keras_backend: Keras's backend.
        libraries: State of the compiled part for each framework: "loaded", "not used yet", or why it cannot be used.
        cuda: Whether CUDA kernels are compiled in.
        gpus: Names of the GPUs that the framework sees.
        environment: The LSTM_FAST_* variables that are set.
        fused_calls: Calls of the compiled forward and backward pass in this process.
        fallbacks: Calls that ran as Keras's own, by reason. In a graph one call is one tracing.
        problems: What keeps the fused kernels from running, and what to do.
    """

    version: str
    compiled_isas: tuple[str, ...]
    available_isas: tuple[str, ...]
    isa: str | None
    threads: int | None
    keras_backend: str
    libraries: dict[str, str]
    cuda: bool
    gpus: tuple[str, ...]
    environment: dict[str, str]
    fused_calls: dict[str, int]
    fallbacks: dict[str, int]
    problems: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Returns the fields, ready for JSON."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        def pairs(values: dict[str, Any]) -> str:
            return ", ".join(f"{name}={value}" for name, value in values.items()) or "none"

        rows = {
            "instruction set": f"{self.isa or 'none'} (compiled: {', '.join(self.compiled_isas) or 'none'}; "
            f"available here: {', '.join(self.available_isas) or 'none'})",
            "threads": self.threads or "none",
            "keras backend": self.keras_backend,
            "libraries": "; ".join(f"{framework}: {state}" for framework, state in self.libraries.items()),
            "cuda": "built" if self.cuda else "not built",
            "gpus": ", ".join(self.gpus) or "none",
            "environment": pairs(self.environment),
            "fused calls": pairs(self.fused_calls),
        }
        lines = [f"lstm_fast {self.version}"]
        lines += [f"  {name:<16} {value}" for name, value in rows.items()]
        for title, entries in (
            ("fallbacks", [f"{count} x {reason}" for reason, count in self.fallbacks.items()]),
            ("problems", self.problems),
        ):
            lines += [f"  {title if i == 0 else '':<16} {entry}" for i, entry in enumerate(entries or ["none"])]
        return "\n".join(lines)


def status() -> Status:
    """Returns what is compiled in, which instruction set is active, and why something falls back.

    Loads the compiled libraries if that has not happened yet. Never raises: what is wrong is in `problems`.

    Example:
    >>> print(lstm_fast.status())
    """
    from lstm_fast import __version__

    problems = []

    def attempt(call: Any, default: Any) -> Any:
        try:
            return call()
        except (ValueError, LibraryError) as error:
            if str(error) not in problems:
                problems.append(str(error))
            return default

    attempt(kernel_mode, None)
    build_info = attempt(lambda: core().build_info(), {})
    active = keras.backend.backend()
    libraries = {}
    for framework in FRAMEWORKS:
        if framework == active or f"lstm_fast.backends.{framework}" in sys.modules:
            library = functional.backend_of(framework).library
            libraries[framework] = "loaded" if attempt(library, None) else problems[-1]
        else:
            libraries[framework] = "not used yet"
    gpus = functional.backend_of(active).gpus() if active in FRAMEWORKS else ()
    with _lock:
        fallbacks = dict(_fallbacks)
    return Status(
        version=__version__,
        compiled_isas=tuple(attempt(lambda: core().compiled_isas(), ())),
        available_isas=tuple(attempt(lambda: core().available_isas(), ())),
        isa=attempt(lambda: core().isa(), None),
        threads=attempt(lambda: core().threads(), None),
        keras_backend=active,
        libraries=libraries,
        cuda=bool(build_info.get("cuda", False)),
        gpus=gpus,
        environment={name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
        fused_calls=dict(attempt(lambda: core().fused_calls(), {})),
        fallbacks=fallbacks,
        problems=tuple(problems),
    )
