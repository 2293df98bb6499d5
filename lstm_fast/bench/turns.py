"""Contenders that take turns: whatever slows the machine slows all, and ratios are those of one round."""

import math
import statistics
import time
from collections.abc import Mapping, Sequence

from lstm_fast.bench.prepared import Prepared

# Before a turn. OpenBLAS's threads spin for 2^26 cycles, some 27 ms, after a product: on two cores, whoever ran next
# had one and a bit. FastLSTM's share at 64,256,64,64 was 39 % without the pause, 70 % with it.
PAUSE_SECONDS = 0.05
# Calls that are not timed, after the pause: a processor that has slept is slow at first. One call at 64,256,64,64 took
# 16 ms right after it, in a row 12.
WARM_SECONDS = 0.05
BLOCK_SECONDS, MAX_BLOCK_CALLS = 0.01, 50  # calls in a row that are timed
MIN_ROUNDS, MAX_ROUNDS = 3, 15


def take_turns(
    contenders: Mapping[str, Prepared],
    budget_seconds: float,
    *,
    together: bool = False,
    slow_seconds: float = math.inf,
    min_rounds: int = MIN_ROUNDS,
) -> dict[str, list[float]]:
    """Returns the seconds of each contender's step, one figure for every round, in which all have their turn.

    Args:
        contenders: who takes turns, warmed up; by name.
        budget_seconds: no round begins later, but for the first ones.
        together: whether the calls of a block are timed together, as where a step returns before it is done, or one
            by one, for their median.
        slow_seconds: a contender whose step takes longer is timed once, before the others take turns.
        min_rounds: number of those first ones.
    """
    blocks, times = {}, {}
    for name, contender in contenders.items():
        seconds = _seconds(contender)
        if slow_seconds < seconds < 10 * slow_seconds:
            seconds = min(seconds, _seconds(contender))  # something else may have been at work
        times[name] = [seconds]
        if seconds <= slow_seconds:
            times[name] = []
            warm, timed = (int(limit / max(seconds, 1e-9)) for limit in (WARM_SECONDS, BLOCK_SECONDS))
            blocks[name] = warm, max(1, min(MAX_BLOCK_CALLS, timed))
    start = time.perf_counter()
    for n in range(MAX_ROUNDS):
        if n >= min_rounds and time.perf_counter() - start > budget_seconds:
            break
        for name, (warm, calls) in blocks.items():
            contender = contenders[name]
            time.sleep(PAUSE_SECONDS)
            for _ in range(warm):
                contender.step()
            samples = [_seconds(contender, calls)] if together else [_seconds(contender) for _ in range(calls)]
            times[name].append(statistics.median(samples))
    return times


def ratio(own: Sequence[float], *others: Sequence[float]) -> float:
    """How many times as long the fastest of the others takes: the median of all rounds.

    Who was timed once counts with that time in every round.
    """
    rounds = max(map(len, (own, *others)))
    return statistics.median(min(other[n % len(other)] for other in others) / own[n % len(own)] for n in range(rounds))


def _seconds(contender: Prepared, calls: int = 1) -> float:
    start = contender.clock()
    for _ in range(calls):
        contender.step()
    return (contender.clock() - start) / calls
