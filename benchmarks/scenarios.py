"""Which scenarios are measured, beside those that `lstm-fast bench` has, too."""

from dataclasses import replace

import numpy as np

from lstm_fast.bench.scenarios import FULL, IMDB_PADDING, Scenario

SCENARIOS = FULL
VOCABULARY = 8185  # the entries of `subwords8k`
SMOKE_SCENARIOS = (
    Scenario(3, 5, 4, 6),
    Scenario(3, 5, 4, 6, padding=IMDB_PADDING),
    Scenario(3, 5, 4, 6, bidirectional=True),
    Scenario(3, 5, 4, 6, bidirectional=True, padding=IMDB_PADDING),
)
REPEATING_SMOKE = Scenario(3, 5, 4, 6, padding=IMDB_PADDING, repeating=True)

# On a GPU a precision is the type of numbers in memory and, for float32, how products are computed.
PRECISIONS = ("float32", "tf32", "bfloat16", "float16")
SMALL_GPU_SCENARIOS = tuple(Scenario(batch, 256, size, size) for size in (32, 64, 128) for batch in (64, 1))
IMDB = Scenario(64, 1354, 64, 64, bidirectional=True, padding=IMDB_PADDING)  # a batch of the single model
IMDB_REPEATING = replace(IMDB, repeating=True)  # the same, not masked
GPU_SCENARIOS = (
    *(Scenario(64, 256, size, size) for size in (32, 64, 128, 192, 256, 512, 1024)),
    IMDB,
    IMDB_REPEATING,
    Scenario(16, 1024, 768, 768),
    *(Scenario(1, 256, size, size) for size in (32, 64)),
    *(Scenario(batch, 256, size, size) for size in (128, 512) for batch in (1, 16, 256)),
    Scenario(64, 256, 128, 128, bidirectional=True),
    Scenario(64, 256, 256, 256, padding=IMDB_PADDING),
)


def ids_and_labels(scenario: Scenario, vocabulary: int = VOCABULARY) -> tuple[np.ndarray, np.ndarray]:
    """A batch of made-up reviews for a model; id 0 is padding."""
    rng = np.random.default_rng(0)
    ids = rng.integers(1, vocabulary, (scenario.batch, scenario.time))
    ids[np.arange(scenario.time) >= scenario.lengths[:, None]] = 0
    return ids, rng.integers(0, 2, (scenario.batch, 1))
