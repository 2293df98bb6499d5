"""`lstm_fast.status`: collects the state of every part of the package."""

import sys
from typing import Any

import keras

from lstm_fast import fallbacks, functional, settings
from lstm_fast.backends import FRAMEWORKS
from lstm_fast.libraries import LibraryError, core, cuda, cuda_state, tensorflow_ops_state
from lstm_fast.status import Status

# Arguments of `lstm_fast._cuda.describe`: dtype, precision, batch, units, directions, dropout.
_WORKED_EXAMPLE = ("float32", "exact", 64, 64, 2, False)


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

    for name in settings.VARIABLES:
        attempt(lambda name=name: getattr(settings.config, name), None)
    for problem in settings.misspelt():
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
    attempt(lambda: settings.follow_threads(*functional.threads(active)), None)
    built_for, cuda_devices = _describe_cuda()
    fallen_back, fallback_layers = fallbacks.counted()
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
        environment=settings.set_in_environment(),
        config={name: str(value) for name, value in settings.set_here().items()},
        fused_calls=attempt(_fused_calls, {}),
        timesteps=attempt(lambda: core().timesteps(), {}),
        fallbacks=fallen_back,
        fallback_layers=fallback_layers,
        problems=tuple(problems),
    )


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
    """Returns the field `tensorflow_gpu`. Compiles and loads the ops only if there is a GPU to run them."""
    if gpus and (ops := functional.gpu_ops(active)) is not None:
        return ops
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
