"""A made-up corpus of film reviews with a sentiment, if there are no real reviews.

The rule: the opinions before the turning word ("but") are those of other people, the opinions after it are the verdict.
A negation reverses the opinion after it. A review is positive if most opinions of the verdict are, after negation.
Reviews come in pairs, one positive and one negative. In the second one the two halves of the opinions change places, so
both have the same words and the same phrases, and counting these does not help. A model must know on which side of the
turning word an opinion is, sometimes hundreds of words away from it. It must follow negations, and add the opinions up.

The lengths are distributed like the token lengths of the IMDB reviews (mean 344, median 253, 95 % below 902, at most
3,944). The vocabulary has as many entries as `imdb_reviews/subwords8k`. So the sample costs a model as much time as the
real reviews.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

import numpy as np

VOCABULARY_SIZE = 8185
MEDIAN_LENGTH = 253
MIN_LENGTH, MAX_LENGTH = 12, 3944
# Of the lognormal. The tail of IMDB's lengths is lighter than a lognormal's: with their 0.78, batches would be longer.
LENGTH_SIGMA = 0.74
LEARNING_RATE = 5e-3  # learns the rule within 3 epochs of 2,000 reviews
WORDS_PER_OPINION = 6
CONTRARY_SHARE = 0.25  # the largest share of one side's opinions that contradicts that side
# Every third reviewer negates most opinions, the others few: a model that ignores negations is wrong.
NEGATION_RATES = (0.15, 0.15, 0.8)
NEGATION_GAP = 2  # the largest number of words between a negation and its opinion

PRAISE = ("good", "great", "superb", "moving", "funny", "brilliant")
BLAME = ("bad", "awful", "dull", "boring", "clumsy", "terrible")
NEGATIONS = ("not", "never", "hardly")
TURNS = ("but", "however", "yet")
CLOSINGS = ("overall", "anyway", "indeed", "altogether")  # the last word of a review
COMMON_WORDS = """
the a and of to is it in this that was as for with film movie on you are his have be he at one by an all who from like
they so her or about has out just there some what more when up very time would if my story only which really see their
she even me we can than much into been get do because other will how people also first its them made then make way too
any characters think after two watch character seen films plot being life acting know show ever does your over scene
where say here scenes while end off these why through director man little still years before another actors part cast
music camera script ending role audience minutes comedy drama picture
"""
COMMON = tuple(COMMON_WORDS.split())


@functools.cache
def vocabulary() -> tuple[str, ...]:
    """The corpus's words as entries for `SubwordTextEncoder`; `_` stands for the space after a word."""
    words = (*PRAISE, *BLAME, *NEGATIONS, *TURNS, *_neutral_words())
    return (*(word + "_" for word in words), *CLOSINGS)


@functools.cache
def _neutral_words() -> tuple[str, ...]:
    """Words without opinion, most frequent first: common English, then made-up names until the vocabulary is full."""
    bytes_and_padding = 257
    known = {*PRAISE, *BLAME, *NEGATIONS, *TURNS, *CLOSINGS, *COMMON}
    syllables = [c + v for c in "bdfgklmnprstvz" for v in ("a", "e", "i", "o", "u", "an", "el", "or")]
    names = (name for name in map("".join, itertools.product(syllables, repeat=2)) if name not in known)
    return (*COMMON, *itertools.islice(names, VOCABULARY_SIZE - bytes_and_padding - len(known)))


def generate(count: int, seed: int = 0, median_length: int = MEDIAN_LENGTH) -> tuple[list[str], np.ndarray]:
    """Makes reviews. The same arguments give the same reviews.

    Args:
        count: Number of reviews, at least 2 and even: they come in pairs.
        seed: The seed of the random generator.
        median_length: The median length in words. All lengths are between 12 and 3,944 words.

    Returns:
        The texts, and their verdicts as int64 `[count]`: 1 positive, 0 negative, half of each, the pairs side by side.

    Raises:
        ValueError: count is odd or below 2.
    """
    if count < 2 or count % 2:
        raise ValueError(f"count: expected an even number of at least 2, found {count}")
    rng = np.random.default_rng(seed)
    neutral_words = np.array(_neutral_words(), dtype=object)
    frequency = 1 / (np.arange(len(neutral_words)) + 2.7)  # Zipf's law, with Mandelbrot's shift
    frequency /= frequency.sum()
    lengths = np.exp(rng.normal(np.log(median_length), LENGTH_SIGMA, size=count // 2))
    texts: list[str] = []
    for length in np.clip(lengths, MIN_LENGTH, MAX_LENGTH).astype(int).tolist():
        each_side = length // (2 * WORDS_PER_OPINION)
        negation_rate = rng.choice(NEGATION_RATES)
        favourable = _opinions(PRAISE, BLAME, each_side, negation_rate, rng)
        unfavourable = _opinions(BLAME, PRAISE, each_side, negation_rate, rng)
        turn, closing = rng.choice(TURNS), rng.choice(CLOSINGS)
        room = length - sum(map(len, favourable + unfavourable)) - 2
        neutral = neutral_words[rng.choice(len(neutral_words), room, p=frequency)]
        for others_said, verdict in ((unfavourable, favourable), (favourable, unfavourable)):
            split = int(rng.integers(room // 3, 2 * room // 3 + 1))
            shuffled = rng.permutation(neutral).tolist()
            before = _spread(others_said, shuffled[:split], rng)
            after = _spread(verdict, shuffled[split:], rng)
            texts.append(" ".join((*before, turn, *after, closing)))
    return texts, np.tile(np.array([1, 0], np.int64), count // 2)


def _opinions(
    plain: Sequence[str], opposite: Sequence[str], count: int, negation_rate: float, rng: np.random.Generator
) -> list[list[str]]:
    """Returns opinions, most of them on the side of `plain`: a word of it, or a negation and a word of `opposite`."""
    negated = rng.random(count) < negation_rate
    says_plain = np.arange(count) >= rng.integers(0, int(CONTRARY_SHARE * count) + 1)
    words = np.where(negated == says_plain, rng.choice(opposite, count), rng.choice(plain, count)).tolist()
    negations = rng.choice(NEGATIONS, count).tolist()
    return [[negations[i], words[i]] if negated[i] else [words[i]] for i in range(count)]


def _spread(opinions: list[list[str]], neutral: list[str], rng: np.random.Generator) -> list[str]:
    """Returns the neutral words with the opinions among them, in random order. Negations come a few words before."""
    words: list[str] = []
    start = 0
    ends = np.sort(rng.integers(0, len(neutral) + 1, size=len(opinions))).tolist()
    for index, end in zip(rng.permutation(len(opinions)), ends, strict=True):
        *negation, word = opinions[index]
        gap = max(start, end - int(rng.integers(0, NEGATION_GAP + 1)))
        words += (*neutral[start:gap], *negation, *neutral[gap:end], word)
        start = end
    return [*words, *neutral[start:]]
