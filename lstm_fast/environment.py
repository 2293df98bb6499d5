"""The choice of Keras's backend, which must be made before Keras is imported."""

import importlib.util
import itertools
import json
import logging
import os
import sys
from pathlib import Path

# Keras's backends, and the package that each of them imports.
_NEEDED = {"tensorflow": "tensorflow", "jax": "jax", "torch": "torch", "numpy": "jax", "openvino": "openvino"}
# Those that train. If nobody has chosen a backend, the first installed one of these is used.
TRAINING = ("tensorflow", "jax", "torch")


def _is_command() -> bool:
    """Whether this process is `lstm-fast` or `python -m lstm_fast`."""
    program = next(iter(sys.argv), "")
    if program == "-m":  # while Python looks for the module
        return ("-m", "lstm_fast") in itertools.pairwise(sys.orig_argv)
    return os.path.basename(program) == "lstm-fast"


IS_COMMAND = _is_command()  # read once, now: Python changes sys.argv[0] later


def prepare() -> None:
    """Chooses an installed backend for Keras, if nobody has chosen one.

    Raises:
        ImportError: There is none to choose, or KERAS_BACKEND names one that is not installed or unknown.
    """
    if "keras" not in sys.modules:
        _choose_backend()


def _choose_backend() -> None:
    installed = [backend for backend in TRAINING if is_installed(_NEEDED[backend])]
    found = " and ".join(installed) or "none of them"
    if backend := os.environ.get("KERAS_BACKEND"):
        if backend not in _NEEDED:
            raise ImportError(
                f"KERAS_BACKEND: expected one of {', '.join(_NEEDED)}, found {backend!r}; installed of "
                f"{', '.join(TRAINING)}: {found}"
            )
        if not is_installed(_NEEDED[backend]):
            raise ImportError(
                f"KERAS_BACKEND: found {backend!r}, but the package {_NEEDED[backend]} that it needs is not installed; "
                f"installed of {', '.join(TRAINING)}: {found}"
            )
        return
    configured = _configured()
    if configured in _NEEDED and is_installed(_NEEDED[configured]):
        return
    if not installed:
        raise ImportError(
            "Keras needs TensorFlow, JAX or PyTorch, found none of them: run pip install tensorflow (or jax, or torch)"
        )
    os.environ["KERAS_BACKEND"] = installed[0]
    # With several installed, the user may want another one: a warning tells of the choice.
    level = logging.INFO if len(installed) == 1 else logging.WARNING
    logging.getLogger("lstm_fast").log(
        level,
        "Keras is set up for %s, which is not installed; it runs on %s (installed: %s). KERAS_BACKEND chooses another",
        configured,
        installed[0],
        found,
    )


def is_installed(name: str) -> bool:
    """Whether a package can be imported. A folder of the same name without code does not count."""
    if name in sys.modules:
        return sys.modules[name] is not None
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is not None


def _configured() -> str:
    """Returns the backend that Keras takes without KERAS_BACKEND: that of its configuration file, else its default."""
    if "KERAS_HOME" in os.environ:
        folder = Path(os.environ["KERAS_HOME"]).expanduser()
    else:
        home = Path("~").expanduser()
        folder = (home if os.access(home, os.W_OK) else Path("/tmp")) / ".keras"
    try:
        return str(json.loads((folder / "keras.json").read_text())["backend"])
    except (OSError, ValueError, TypeError, KeyError):
        return "tensorflow"
