"""A sentiment corpus that the package makes itself, for where no real reviews are at hand.

The rule: a negation turns round the next word of opinion, however many words later that comes, and a review is
positive when most of its opinions are, after negation. Reviews come in twins, one positive and one negative, made of
exactly the same words: only the order differs, so word counts say nothing about the verdict. A model has to remember a
negation over a stretch of neutral words and to add up opinions from the whole review.

Lengths follow the token lengths of the IMDB reviews (mean 344, median 253, 95 % below 902, at most 3,944), and the
vocabulary has as many entries as `imdb_reviews/subwords8k`, so a model on the sample costs what it costs on the real
reviews.
"""

from __future__ import annotations

import functools
import itertools
from typing import NamedTuple

import numpy as np

VOCABULARY_SIZE = 8185
MEDIAN_LENGTH = 253
MIN_LENGTH, MAX_LENGTH = 12, 3944
LENGTH_SIGMA = 0.78  # of the lognormal: gives IMDB's ratio of mean to median
CLAUSE_LENGTH = 20  # words for each opinion, on average

PRAISE = ("good", "great", "superb", "moving", "funny", "brilliant")
BLAME = ("bad", "awful", "dull", "boring", "clumsy", "terrible")
HEAVY, LIGHT, BACK, GAP = 0.8, 0.15, 0.25, 3
TURNS_ON=("but", "however", "yet")
TURNS_BACK=("although", "whereas")
NEGATIONS = ("not", "never", "hardly")
CLOSINGS = ("overall", "anyway", "indeed", "altogether")  # the last word of a review
COMMON = tuple(
    "the a and of to is it in this that was as for with film movie on you are his have be he at one by an all who "
    "from like they so her or about has out just there some what more when up very time would if my story only which "
    "really see their she even me we can than much into been get do because other will how people also first its them "
    "made then make way too any characters think after two watch character seen films plot being life acting know show "
    "ever does your over scene where say here scenes while end off these why through director man little still years "
    "before another actors part cast music camera script ending role audience minutes comedy drama picture".split()
)


@functools.cache
def vocabulary() -> tuple[str, ...]:
    """The corpus's words as entries for `SubwordTextEncoder`; `_` stands for the space after a word."""
    words = (*PRAISE, *BLAME, *NEGATIONS, *TURNS_ON, *TURNS_BACK, *_fillers())
    return (*(word + "_" for word in words), *CLOSINGS)


@functools.cache
def _fillers() -> tuple[str, ...]:
    """Neutral words, most frequent first: common English, then made-up names until the vocabulary is full."""
    bytes_and_padding = 257
    opinions = len(PRAISE) + len(BLAME) + len(NEGATIONS) + len(CLOSINGS)+5
    names = VOCABULARY_SIZE - bytes_and_padding - opinions - len(COMMON)
    syllables = [c + v for c in "bdfgklmnprstvz" for v in ("a", "e", "i", "o", "u", "an", "el", "or")]
    made_up = ("".join(parts) for parts in itertools.product(syllables, repeat=2))
    return (*COMMON, *itertools.islice(made_up, names))


def generate(count: int, seed: int = 0, median_length: int = MEDIAN_LENGTH) -> tuple[list[str], np.ndarray]:
    """Makes reviews; the same arguments give the same reviews.

    Args:
        count: number of reviews, at least 2 and even: they come in twins.
        seed: of the random generator.
        median_length: in words; the lengths keep their distribution's shape, between 12 and 3,944 words.

    Returns:
        The texts, and their verdicts as int64 `[count]`: 1 positive, 0 negative, half of each, twins side by side.

    Raises:
        ValueError: count is odd or below 2.
    """
    if count < 2 or count % 2:
        raise ValueError(f"count: expected an even number of at least 2, found {count}")
    rng = np.random.default_rng(seed)
    rank = np.arange(len(_fillers()))
    frequency = 1 / (rank + 2.7)  # Zipf's law, with Mandelbrot's shift
    frequency /= frequency.sum()
    fillers = np.array(_fillers(), dtype=object)
    lengths = np.exp(rng.normal(np.log(median_length), LENGTH_SIGMA, size=count // 2))
    lengths = np.clip(lengths, MIN_LENGTH, MAX_LENGTH).astype(int)
    texts: list[str] = []
    for length in lengths:
        opinions = max(1, int(length) // (2 * CLAUSE_LENGTH))  # on each side of the turn
        rate = HEAVY if rng.random() < 1 / 3 else LIGHT
        positive, negative = (_opinions(kinds, opinions, rate, rng) for kinds in ((PRAISE, BLAME), (BLAME, PRAISE)))
        spare = int(length) - sum(map(len, positive + negative)) - 2
        neutral = fillers[rng.choice(len(fillers), max(spare, 0), p=frequency)]
        closing = str(rng.choice(CLOSINGS))
        turn = str(rng.choice(TURNS_BACK if rng.random() < BACK else TURNS_ON))
        for verdict, other in ((positive, negative), (negative, positive)):
            before, after = (verdict, other) if turn in TURNS_BACK else (other, verdict)
            texts.append(_arrange(before, turn, after, closing, rng.permutation(neutral).tolist(), rng))
    return texts, np.tile(np.array([1, 0], np.int64), count // 2)


def _opinions(kinds, count, rate, rng):
    plain, turned = kinds
    out = []
    for neg in rng.random(count) < rate:
        out.append([str(rng.choice(NEGATIONS)), str(rng.choice(turned))] if neg else [str(rng.choice(plain))])
    return out


def _arrange(before, turn, after, closing, neutral, rng) -> str:
    split = int(rng.integers(len(neutral)//3, 2*len(neutral)//3+1))
    return " ".join((*_mix(before, neutral[:split], rng), turn, *_mix(after, neutral[split:], rng), closing))

def _mix(opinions, neutral, rng):
    cuts = np.sort(rng.integers(0, len(neutral) + 1, size=len(opinions)))
    text = []; start = 0
    for o, end in zip(rng.permutation(len(opinions)), cuts, strict=True):
        before = neutral[start:end]
        if len(opinions[o]) == 2:
            before.insert(max(0, len(before) - int(rng.integers(0, GAP+1))), opinions[o][0])
        text += (*before, opinions[o][-1])
        start = end
    return [*text, *neutral[start:]]
