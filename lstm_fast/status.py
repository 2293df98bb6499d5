"""What is compiled in, what runs, and why a layer fell back to Keras."""

from __future__ import annotations

import collections
import dataclasses
import difflib
import logging
import os
import sys
from typing import Any

import keras

from lstm_fast import functional
from lstm_fast.backends import (
    FRAMEWORKS,
    LibraryError,
    Unavailable,
    core,
    cuda,
    cuda_state,
    forced_precision,
    kernel_mode,
    tensorflow_ops_state,
)
from lstm_fast.locks import fork_safe_lock

ENVIRONMENT = (
    "LSTM_FAST_KERNEL",
    "LSTM_FAST_ISA",
    "LSTM_FAST_NUM_THREADS",
    "LSTM_FAST_KEEP_MIB",
    "LSTM_FAST_PRECISION",
    "LSTM_FAST_SKIP_REPEATS",
    "LSTM_FAST_CACHE",
)

# Of `lstm_fast._cuda.describe`: dtype, precision, batch, units, directions, dropout.
_WORKED_EXAMPLE = ("float32", "exact", 64, 64, 2, False)

# Rows of a status that tell of calls.
_OF_CALLS = ("kept memory", "fused calls", "timesteps", "fallbacks")

logger = logging.getLogger("lstm_fast")

_lock = fork_safe_lock()
_fallbacks: collections.Counter[str] = collections.Counter()
_fallback_layers: dict[str, list[str]] = {}

# Layers that are named of each reason: a program may make new ones, with new names, as long as it runs.
_NAMED = 5


def record_fallback(fallback: Unavailable, layer: str) -> None:
    """Counts a call that runs as Keras's own, and logs its reason once; raises RuntimeError if fallbacks are errors.

    Args:
        fallback: The reason.
        layer: The name of the layer.
    """
    if kernel_mode() == "fused":
        raise RuntimeError(
            f"LSTM_FAST_KERNEL=fused, but the fused kernel cannot run the layer '{layer}': {fallback.reason}"
        )
    with _lock:
        _fallbacks[fallback.reason] += 1
        first = _fallbacks[fallback.reason] == 1
        named = _fallback_layers.setdefault(fallback.reason, [])
        if layer not in named and len(named) <= _NAMED:  # one more, which tells that there are others
            named.append(layer)
    if first:
        level = logging.INFO if fallback.announced else logging.WARNING
        logger.log(level, "Layer '%s' runs as Keras's: %s", layer, fallback.reason)


@dataclasses.dataclass(frozen=True)
class Status:
    """The answer of `lstm_fast.status()`.

    Attributes:
        version: Version of the package.
        compiled_isas: Instruction sets that were compiled in.
        available_isas: Those that this processor has.
        isa: The active one; None if there is a problem.
        threads: Number of threads that the kernels use; None if there is a problem.
        threads_source: What decided it: "LSTM_FAST_NUM_THREADS", "OMP_NUM_THREADS", "CPU quota" (of a container or
            service), "processors", or "set_threads"; None if there is a problem.
        kept_bytes: Bytes of memory that the kernels keep for their next call, and the most that they keep; None if
            there is a problem. `lstm_fast.trim()` gives them back.
        keras_backend: Keras's backend.
        libraries: State of the compiled part for each framework: "loaded", "not used yet", or why it cannot be used.
        cuda: For which GPUs the CUDA kernels are compiled, or why they are not there or cannot be used.
        cuda_devices: What they find of each CUDA device, and how they would run the worked example there.
        tensorflow_gpu: For which TensorFlow its ops on GPUs are compiled, and where; or what is used in their place.
        gpus: Names of the GPUs that the framework sees.
        environment: The LSTM_FAST_* variables that are set.
        fused_calls: Calls of the compiled forward and backward pass in this process, on CPU and GPU.
        timesteps: Real timesteps of the forward passes in this process on the CPU, "given" and "computed". The others
            repeat, bit for bit, what came before them in their row, as padding that is not masked does for most of its
            length.
        fallbacks: Calls that ran as Keras's own, by reason. In a graph one call is one tracing.
        fallback_layers: Names of the layers that did, by reason: the first six of them.
        problems: What keeps the fused kernels from running, and what to do.
    """

    version: str
    compiled_isas: tuple[str, ...]
    available_isas: tuple[str, ...]
    isa: str | None
    threads: int | None
    threads_source: str | None
    kept_bytes: tuple[int, int] | None
    keras_backend: str
    libraries: dict[str, str]
    cuda: str
    cuda_devices: tuple[str, ...]
    tensorflow_gpu: str
    gpus: tuple[str, ...]
    environment: dict[str, str]
    fused_calls: dict[str, int]
    timesteps: dict[str, int]
    fallbacks: dict[str, int]
    fallback_layers: dict[str, tuple[str, ...]]
    problems: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Returns the fields, ready for JSON."""
        return dataclasses.asdict(self)

    def fallback_words(self, reason: str) -> str:
        """Returns a reason of `fallbacks` with the layers: "layer 'lstm_1': activation=relu: ..."."""
        layers = self.fallback_layers.get(reason, ())
        names = ", ".join(f"'{name}'" for name in layers[:_NAMED]) + " and others" * (len(layers) > _NAMED)
        return f"layer{'s' * (len(layers) > 1)} {names}: {reason}" if layers else reason

    def new_fallbacks(self, before: Status) -> list[str]:
        """Returns the reasons of what has fallen back since another status."""
        return [reason for reason, count in self.fallbacks.items() if count > before.fallbacks.get(reason, 0)]

    def __str__(self) -> str:
        return self.text()

    def text(self, *, calls: bool = True) -> str:
        """Returns a line for each field.

        Args:
            calls: whether with what the calls of this process have left: counts, kept memory, fallbacks.
        """

        def pairs(values: dict[str, Any]) -> str:
            return ", ".join(f"{name}={value}" for name, value in values.items()) or "none"

        rows = {
            "instruction set": f"{self.isa or 'none'} (compiled: {', '.join(self.compiled_isas) or 'none'}; "
            f"available here: {', '.join(self.available_isas) or 'none'})",
            "threads": f"{self.threads} ({self.threads_source})" if self.threads else "none",
            "kept memory": "{:.0f} of at most {:.0f} MiB".format(*(count / 2**20 for count in self.kept_bytes))
            if self.kept_bytes
            else "none",
            "keras backend": self.keras_backend,
            "libraries": "; ".join(f"{framework}: {state}" for framework, state in self.libraries.items()),
            "cuda": self.cuda,
            "tensorflow gpu": self.tensorflow_gpu,
            "gpus": ", ".join(self.gpus) or "none",
            "environment": pairs(self.environment),
            "fused calls": pairs(self.fused_calls),
            "timesteps": ", ".join(f"{count:,} {name}" for name, count in self.timesteps.items()) or "none",
        }
        lists = {
            "cuda devices": self.cuda_devices,
            "fallbacks": [f"{count} x {self.fallback_words(reason)}" for reason, count in self.fallbacks.items()],
            "problems": self.problems,
        }
        lines = [f"lstm_fast {self.version}"]
        lines += [f"  {name:<16} {value}" for name, value in rows.items() if calls or name not in _OF_CALLS]
        for title, entries in lists.items():
            if not calls and title in _OF_CALLS:
                continue
            lines += [f"  {title if i == 0 else '':<16} {entry}" for i, entry in enumerate(entries or ["none"])]
        return "\n".join(lines)


def trim() -> int:
    """Gives memory back to the system that the kernels on the CPU keep for their next call, and returns its bytes.

    They keep up to 512 MiB in each process, or as many MiB as the environment variable LSTM_FAST_KEEP_MIB says: new
    memory costs more to touch than to compute on. It may be called at any time, from any thread.

    Raises:
        ValueError: LSTM_FAST_KEEP_MIB has a bad value.
        RuntimeError: The compiled library cannot be used here; the message says why.

    Examples:
        >>> lstm_fast.trim() >= 0
        True
    """
    return int(core().trim())


def status() -> Status:
    """Returns what is compiled in, which instruction set is active, and why something falls back.

    Loads the compiled libraries if that has not happened yet. Never raises: what is wrong is in `problems`.

    Examples:
        >>> print(lstm_fast.status())
    """
    from lstm_fast import __version__

    problems: list[str] = []

    def attempt(call: Any, default: Any) -> Any:
        try:
            return call()
        except Exception as error:
            note(str(error) if isinstance(error, (ValueError, LibraryError)) else f"{type(error).__name__}: {error}")
            return default

    def note(problem: str) -> None:
        if problem not in problems:
            problems.append(problem)

    attempt(kernel_mode, None)
    attempt(forced_precision, None)
    attempt(lambda: core().skips_repeats(), None)
    for problem in _misspelt():
        note(problem)
    active = keras.backend.backend()
    libraries = {}
    for framework in FRAMEWORKS:
        if framework == active or functional.is_used(framework):
            libraries[framework] = state = _library_state(framework)
            if state != "loaded":
                note(state)
        else:
            libraries[framework] = "not used yet"
    gpus = attempt(lambda: functional.gpus(active), ())
    built_for, cuda_devices = _describe_cuda()
    with _lock:
        fallbacks = dict(_fallbacks)
        fallback_layers = {reason: tuple(names) for reason, names in _fallback_layers.items()}
    return Status(
        version=__version__,
        compiled_isas=tuple(attempt(lambda: core().compiled_isas(), ())),
        available_isas=tuple(attempt(lambda: core().available_isas(), ())),
        isa=attempt(lambda: core().isa(), None),
        threads=attempt(lambda: core().threads(), None),
        threads_source=attempt(lambda: core().threads_source(), None),
        kept_bytes=attempt(lambda: (core().kept_bytes(), core().kept_bytes_limit()), None),
        keras_backend=active,
        libraries=libraries,
        cuda=built_for,
        cuda_devices=cuda_devices,
        tensorflow_gpu=attempt(lambda: _describe_tensorflow_gpu(active, gpus), "none"),
        gpus=gpus,
        environment={name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
        fused_calls=attempt(_fused_calls, {}),
        timesteps=attempt(lambda: core().timesteps(), {}),
        fallbacks=fallbacks,
        fallback_layers=fallback_layers,
        problems=tuple(problems),
    )


def _misspelt() -> list[str]:
    """Says which variables of the environment look like one of this package's, but are none."""
    prefix, problems = "LSTM_FAST_", []
    known = [name.removeprefix(prefix) for name in ENVIRONMENT]
    for name in sorted(os.environ):
        last = name.removeprefix(prefix)
        if name.startswith(prefix) and last not in known and (meant := difflib.get_close_matches(last, known, n=1)):
            problems.append(f"{name}: nothing reads this variable; did you mean {prefix}{meant[0]}?")
    return problems


def _library_state(framework: str) -> str:
    """Loads the compiled part for a framework; returns "loaded", or why it cannot be used."""
    try:
        functional.load(framework)
    except LibraryError as error:
        return str(error)
    return "loaded"


def _fused_calls() -> dict[str, int]:
    calls = [module.fused_calls() for module in (core(), sys.modules.get("lstm_fast._cuda")) if module]
    return {name: sum(count[name] for count in calls) for name in calls[0]}


def _describe_tensorflow_gpu(active: str, gpus: tuple[str, ...]) -> str:
    """Returns the field `tensorflow_gpu`; compiles and loads the ops only where there is something to run them."""
    if gpus and (said := functional.gpu_ops(active)) is not None:
        return said
    state = tensorflow_ops_state()
    later = cuda_state().startswith("built") and not state.startswith("built")
    return f"{state}; compiled when TensorFlow first needs them on a GPU" if later else state


def _describe_cuda() -> tuple[str, tuple[str, ...]]:
    """Returns the fields `cuda` and `cuda_devices`."""
    try:
        state = cuda_state()
        if not state.startswith("built"):
            return state, ()
        module = cuda()
    except LibraryError as error:
        return str(error), ()
    if problem := module.device_problem():
        state += f"; no device can be used: {problem}"
    devices = []
    for i, device in enumerate(module.devices()):
        words = [f"cuda:{i} of compute capability {'.'.join(map(str, device['capability']))}"]
        try:
            words += [cut["words"] for cut in module.describe(i, *_WORKED_EXAMPLE).values()]
        except (ValueError, RuntimeError) as error:
            words.append(str(error))
        devices.append("; ".join(words))
    return state, tuple(devices)
