"""The log of calls that run as Keras's own, by reason."""

import collections
import logging

from lstm_fast.backends import Unavailable
from lstm_fast.locks import fork_safe_lock
from lstm_fast.settings import config, origin

_logger = logging.getLogger("lstm_fast")

_lock = fork_safe_lock()
_fallbacks: collections.Counter[str] = collections.Counter()
_fallback_layers: dict[str, list[str]] = {}

# How many layers are named for each reason. There is a limit because a program may make new layers for ever.
NAMED = 5


def record(fallback: Unavailable, layer: str) -> None:
    """Counts a call that runs as Keras's own, and logs its reason once; raises RuntimeError if fallbacks are errors.

    Args:
        fallback: The reason.
        layer: The name of the layer.
    """
    if config.kernel == "fused":
        raise RuntimeError(
            f"{origin('kernel')}, but the fused kernel cannot run the layer '{layer}': {fallback.reason}"
        )
    with _lock:
        _fallbacks[fallback.reason] += 1
        first = _fallbacks[fallback.reason] == 1
        named = _fallback_layers.setdefault(fallback.reason, [])
        if layer not in named and len(named) <= NAMED:  # one more than NAMED shows that there are others
            named.append(layer)
    if first:
        level = logging.INFO if fallback.announced else logging.WARNING
        _logger.log(level, "Layer '%s' runs as Keras's: %s", layer, fallback.reason)


def counted() -> tuple[dict[str, int], dict[str, tuple[str, ...]]]:
    """Returns for each reason the number of calls that fell back, and the names of the first six of their layers."""
    with _lock:
        return dict(_fallbacks), {reason: tuple(names) for reason, names in _fallback_layers.items()}
