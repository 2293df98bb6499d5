"""The settings of this process: those that the program sets, else the environment's, else the defaults."""

from __future__ import annotations

import contextlib
import difflib
import operator
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

from lstm_fast.backends.operands import PRECISIONS
from lstm_fast.libraries import LibraryError, core, share_skips
from lstm_fast.locks import fork_safe_lock

if TYPE_CHECKING:
    from typing_extensions import Unpack

KERNELS = ("auto", "fused", "keras")

# Setting and variable of the environment.
VARIABLES = {
    "kernel": "LSTM_FAST_KERNEL",
    "isa": "LSTM_FAST_ISA",
    "threads": "LSTM_FAST_NUM_THREADS",
    "keep_mib": "LSTM_FAST_KEEP_MIB",
    "precision": "LSTM_FAST_PRECISION",
    "skip_repeats": "LSTM_FAST_SKIP_REPEATS",
    "cache": "LSTM_FAST_CACHE",
}

_MOST_MIB = 2**30


class Settings(TypedDict, total=False):
    """The arguments of `lstm_fast.config`; None stands for the environment's value, else the default."""

    kernel: str | None
    threads: int | None
    keep_mib: int | None
    precision: str | None
    skip_repeats: bool | None
    cache: str | os.PathLike[str] | None


class _Setting(NamedTuple):
    """How a setting is checked and applied. The compiled library stores its own settings."""

    check: Callable[[str, Any], Any]
    apply: Callable[[Any], None] = lambda _: None


def _one_of(choices: tuple[str, ...]) -> Callable[[str, Any], Any]:
    def check(name: str, value: Any) -> str:
        if not isinstance(value, str) or value not in choices:
            raise ValueError(f"{name}: expected one of {', '.join(choices)}, found {value!r}")
        return choices[choices.index(value)]  # not `value`, which may be of an enumeration

    return check


def _integer(least: int, most: int) -> Callable[[str, Any], Any]:
    def check(name: str, value: Any) -> int:
        expected = f"{name}: expected an integer from {least} to {most}, found {value!r}"
        try:
            number = operator.index(value)
        except TypeError:
            raise TypeError(expected) from None
        if isinstance(value, bool):
            raise TypeError(expected)
        if not least <= number <= most:
            raise ValueError(expected)
        return number

    return check


def _boolean(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name}: expected True or False, found {value!r}")
    return value


def _folder(name: str, value: Any) -> Path:
    if not isinstance(value, (str, os.PathLike)) or not os.fspath(value):
        raise TypeError(f"{name}: expected the path of a folder, found {value!r}")
    return Path(os.path.expanduser(value)).absolute()


def _set_threads(threads: int | None) -> None:
    core().set_threads(threads)


def _set_kept(mebibytes: int | None) -> None:
    core().set_kept_bytes_limit(None if mebibytes is None else mebibytes * 2**20)


def _set_skips_repeats(skips: bool | None) -> None:
    core().set_skips_repeats(skips)
    share_skips()


_SETTINGS = {
    "kernel": _Setting(_one_of(KERNELS)),
    "threads": _Setting(_integer(1, 4096), _set_threads),
    "keep_mib": _Setting(_integer(0, _MOST_MIB), _set_kept),
    "precision": _Setting(_one_of(PRECISIONS)),
    "skip_repeats": _Setting(_boolean, _set_skips_repeats),
    "cache": _Setting(_folder),
}


class Config:
    """The settings, `lstm_fast.config`: attributes to read and to set. A call sets several, also for a `with` block.

    A setting is for the whole process, for all its threads. A value that is set here comes before the environment
    variable. None removes it again: the variable is then read as it is now. An attribute shows the value in use.

    Setting one raises TypeError or ValueError, with what was expected and found, or RuntimeError if the compiled
    library cannot be used here. Reading one raises ValueError if the variable has a bad value.

    Examples:
        >>> lstm_fast.config.threads = 2
        >>> with lstm_fast.config(kernel="keras"):
        ...     expected = model(x)
        >>> lstm_fast.config.threads = None
    """

    __slots__ = ("_lock", "_set")

    def __init__(self) -> None:
        self._lock = fork_safe_lock()
        self._set: dict[str, Any] = {}

    def __call__(self, **settings: Unpack[Settings]) -> PutBack:
        """Sets several settings, by the names of the attributes. If one of them is wrong, none is set.

        In a `with` statement, the end of the block restores the settings from before. Two threads must not have such
        blocks at the same time: the settings are the process's, and each block restores what it found.
        """
        return PutBack(self, self._update(settings))

    def __reduce__(self) -> str:
        return "config"  # a copy, or a pickle in another process, is the process's own

    def __repr__(self) -> str:
        return f"<lstm_fast.config {' '.join(f'{name}={self._shown(name)}' for name in VARIABLES)}>"

    if not TYPE_CHECKING:  # mypy knows the attributes, and would take any name then

        def __setattr__(self, name: str, value: object) -> None:
            if not hasattr(type(self), name) or name == "isa":
                raise AttributeError(_no_setting(name))
            object.__setattr__(self, name, value)

    @property
    def kernel(self) -> str:
        """Which code runs: "auto", "fused" or "keras". LSTM_FAST_KERNEL, else "auto".

        "fused": it is an error if a layer runs as Keras's. "keras": all layers run as Keras's. Read at each call of a
        layer. A graph or a compiled program, such as that of `fit`, keeps the value from its tracing.
        """
        kernel: str = self._chosen("kernel") or "auto"
        return kernel

    @kernel.setter
    def kernel(self, kernel: str | None) -> None:
        self._update({"kernel": kernel})

    @property
    def isa(self) -> str:
        """Instruction set on the CPU: one of `lstm_fast.status().available_isas`. LSTM_FAST_ISA, else the best.

        It cannot be set here: the backward pass needs the instruction set of its forward pass. The variable is read at
        the first call. Results of different instruction sets may differ in their last bits.
        """
        return str(core().isa())

    @property
    def threads(self) -> int:
        """Threads on the CPU, 1 to 4096. LSTM_FAST_NUM_THREADS, else as the page on threads says.

        Read at each call, also in a graph. XLA's programs (JAX, `jit_compile=True`) run on XLA's threads.
        """
        return int(core().threads())

    @threads.setter
    def threads(self, threads: int | None) -> None:
        self._update({"threads": threads})

    @property
    def keep_mib(self) -> int:
        """MiB of memory on the CPU that are kept for the next call, 0 to 2**30. LSTM_FAST_KEEP_MIB, else 512.

        If more is kept now, the rest is given back at once.
        """
        return int(core().kept_bytes_limit()) // 2**20

    @keep_mib.setter
    def keep_mib(self, keep_mib: int | None) -> None:
        self._update({"keep_mib": keep_mib})

    @property
    def skip_repeats(self) -> bool:
        """Whether timesteps that repeat, or have no gradient, are left out. LSTM_FAST_SKIP_REPEATS, else True.

        Read at each call, also in a graph, but not in a CUDA graph. The outputs have the same bits; gradients of
        weights differ by rounding.
        """
        return bool(core().skips_repeats())

    @skip_repeats.setter
    def skip_repeats(self, skip_repeats: bool | None) -> None:
        self._update({"skip_repeats": skip_repeats})

    @property
    def precision(self) -> str | None:
        """How the recurrence multiplies float32 on a GPU. LSTM_FAST_PRECISION, else None.

        "exact"; "tf32"; "tf32x3", three products of TF32; None: as the framework multiplies. Read when `kernel` is.
        """
        precision: str | None = self._chosen("precision")
        return precision

    @precision.setter
    def precision(self, precision: str | None) -> None:
        self._update({"precision": precision})

    @property
    def cache(self) -> Path | None:
        """Folder for the library that is compiled for TensorFlow on a GPU. LSTM_FAST_CACHE, else None.

        Read when the library is compiled. None: `lstm_fast` in XDG_CACHE_HOME, else ~/.cache/lstm_fast.
        """
        cache: Path | None = self._chosen("cache")
        return cache

    @cache.setter
    def cache(self, cache: str | os.PathLike[str] | None) -> None:
        self._update({"cache": cache})

    def _shown(self, name: str) -> str:
        try:
            return repr(getattr(self, name))
        except (ValueError, LibraryError):  # status() says why
            return "?"

    def _chosen(self, name: str) -> Any:
        """Returns the value that the program or else the environment sets; None if neither does."""
        if (value := self._set.get(name)) is not None:
            return value
        variable = VARIABLES[name]
        text = os.environ.get(variable)
        return _SETTINGS[name].check(variable, text) if text else None

    def _update(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Sets some settings and returns their old values. If one is wrong, raises and sets none."""
        checked = {}
        for name, value in settings.items():
            if name not in _SETTINGS:
                raise TypeError(_no_setting(name))
            checked[name] = None if value is None else _SETTINGS[name].check(f"lstm_fast.config: `{name}`", value)
        with self._lock:
            before = {name: self._set.get(name) for name in checked}
            try:
                self._apply(checked)
            except BaseException as error:
                with contextlib.suppress(ValueError, LibraryError):  # the first error is the one to tell
                    self._apply(before)
                raise error from None
            return before

    def restore(self, settings: Mapping[str, Any]) -> None:
        """Sets some settings to values that they have had: all that can be. Raises if a variable has a bad value."""
        with self._lock:
            self._apply(settings)

    def _apply(self, settings: Mapping[str, Any]) -> None:
        """Sets as many as can be set, then raises the first error."""
        first: Exception | None = None
        for name, value in settings.items():
            try:
                _SETTINGS[name].apply(value)
                self._set[name] = value
            except Exception as error:
                first = first or error
        if first:
            raise first


def _no_setting(name: str) -> str:
    """Returns why a name cannot be set."""
    if name == "isa":
        return "lstm_fast.config: `isa` cannot be set; set the variable LSTM_FAST_ISA before the first call of a layer"
    close = [known for known in _SETTINGS if known in name] or difflib.get_close_matches(name, _SETTINGS, n=1)
    meant = f"; did you mean `{close[0]}`?" if close else ""
    return f"lstm_fast.config: expected {', '.join(_SETTINGS)}, found `{name}`{meant}"


class PutBack:
    """Restores the settings that `lstm_fast.config(...)` has changed, at the end of a `with` block."""

    def __init__(self, config: Config, before: Mapping[str, Any]) -> None:
        self._config, self._before, self._used = config, before, False

    def __enter__(self) -> Config:
        if self._used:
            raise RuntimeError("lstm_fast.config: a block has ended with these settings; call lstm_fast.config again")
        self._used = True
        return self._config

    def __exit__(self, *_: object) -> None:
        self._config.restore(self._before)


config = Config()
"""The settings of this process: the one object of the class `Config`."""


def origin(name: str) -> str:
    """Returns where a setting was made, and its value: "LSTM_FAST_KERNEL=keras", "lstm_fast.config.kernel='keras'"."""
    if (value := set_here().get(name)) is not None:
        return f"lstm_fast.config.{name}={value!r}"
    return f"{VARIABLES[name]}={os.environ.get(VARIABLES[name], '')}"


def set_here() -> dict[str, Any]:
    """Returns the settings that the program has made. They come before those of the environment."""
    return {name: value for name, value in config._set.copy().items() if value is not None}


def set_in_environment() -> dict[str, str]:
    """Returns the variables of the environment that are settings."""
    return {name: os.environ[name] for name in VARIABLES.values() if name in os.environ}


def misspelt() -> list[str]:
    """Says which variables of the environment look like a setting, but are none."""
    prefix, problems = "LSTM_FAST_", []
    known = [name.removeprefix(prefix) for name in VARIABLES.values()]
    for name in sorted(os.environ):
        last = name.removeprefix(prefix)
        if name.startswith(prefix) and last not in known and (meant := difflib.get_close_matches(last, known, n=1)):
            problems.append(f"{name}: nothing reads this variable; did you mean {prefix}{meant[0]}?")
    return problems


def follow_threads(threads: int, source: str) -> None:
    """Limits the threads of the kernels to those of a framework, unless the user has set a number for the kernels.

    Args:
        threads: The framework's number of threads, 0 if the user has not set it.
        source: The name of the framework's setting, for `lstm_fast.status()`.
    """
    if _followed != [(threads, source)]:  # cheaper than the call
        core().follow_threads(threads, source)
        _followed[:] = [(threads, source)]


_followed = [(0, "")]  # the last arguments


def check_compiled() -> None:
    """Raises ValueError if a variable that the library reads has a bad value. An op would raise an error of its own."""
    library = core()
    library.isa()  # LSTM_FAST_ISA
    library.threads()  # LSTM_FAST_NUM_THREADS
    library.kept_bytes_limit()  # LSTM_FAST_KEEP_MIB
    library.skips_repeats()  # LSTM_FAST_SKIP_REPEATS
