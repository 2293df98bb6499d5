"""Whether a tree is slower than another one, by the rounds of both in which they took turns."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.results import Row

THRESHOLD = 0.05  # a change of the time that is none
CONFIDENCE = 0.95
ROUNDS = 9  # the least for a verdict; the interval of the median then leaves out the two outermost ratios
THIS, OTHER = "this", "other"
SLOWER, FASTER, SAME, UNCLEAR, WRONG = "slower", "faster", "same", "unclear", "WRONG"


class Interval(NamedTuple):
    """How many times as fast this tree is as the other one."""

    low: float
    median: float
    high: float


def interval(ratios: Sequence[float]) -> Interval:
    """The median, and an interval that has the true one in 95 of 100 cases, whatever the distribution.

    The bounds are the n-th ratios from below and from above. As many ratios are below the true median as a coin that is
    thrown that often shows heads. This gives n. With too few ratios there are no such bounds.
    """
    ranked, rank, below = sorted(ratios), 0, 0.0
    while True:
        below += math.comb(len(ranked), rank) / 2 ** len(ranked)
        if below > (1 - CONFIDENCE) / 2:
            break
        rank += 1
    low, high = (ranked[rank - 1], ranked[-rank]) if rank else (0.0, math.inf)
    return Interval(low, statistics.median(ranked), high)


def judge(found: Interval, threshold: float) -> str:
    """The verdict of one pair of processes."""
    if found.high < 1 / (1 + threshold):
        return SLOWER
    if found.low > 1 + threshold:
        return FASTER
    return SAME if 1 / (1 + threshold) <= found.low and found.high <= 1 + threshold else UNCLEAR


class Line(NamedTuple):
    """What came of one case: rows of both trees, a pair for each attempt in new processes.

    There is no interval where a tree computes something wrong: its time says nothing.
    """

    rows: list[Row]
    verdict: str
    interval: Interval | None
    why: str = ""


def line(rows: Sequence[Row], threshold: float) -> Line:
    """The verdict of all attempts: a difference counts only if new processes show it again."""
    for row in rows:
        if row.facts.get("wrong"):
            return Line(list(rows), WRONG, None, f"{row.facts['tree']} tree: {row.facts['wrong']}")
    attempts: dict[int, dict[str, list[float]]] = {}
    for row in rows:
        attempts.setdefault(row.facts["attempt"], {})[row.facts["tree"]] = row.seconds
    found = [interval([b / a for a, b in zip(each[THIS], each[OTHER], strict=True)]) for each in attempts.values()]
    said = {judge(each, threshold) for each in found}
    return Line(list(rows), said.pop() if len(said) == 1 else UNCLEAR, found[0])


def lines(rows: Sequence[Row]) -> list[Line]:
    """The verdicts of results of benchmarks.against, whose rows say what its threshold was."""
    cases: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        cases.setdefault((row.case, row.pass_, row.contender), []).append(row)
    return [line(members, members[0].facts["threshold"]) for members in cases.values()]
