"""The smallest file whose error is at most so much above the network's own."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import BudgetError
from ..network import Network
from ..records import StepRecord, Verdict
from ..selection import Limit, Tried, file_bytes, smallest
from .loop import Loop

_DIRECT_TRIES = 30
_CLOSE_RUNS = 0.05
"""Trained runs stop when the next smaller file that failed is within this share."""

Make = Callable[[float | None, Limit | None], Loop]
"""(price, None) -> a direct loop at this price of a bit; (None, limit) -> the training loop within this limit."""


@dataclass(frozen=True)
class Found:
    """The kept run, and (bytes, error) of all that were tried, in order."""

    network: Network
    history: list[StepRecord]
    verdict: Verdict
    tried: list[tuple[int, float]]


def smallest_within(make: Make, allowed: float, price: float, *, runs: int, resume: bool) -> Found:
    """Direct compression at prices found by bisection, to within 1 %; then, with training, at most `runs` runs below.

    A price gives one network at once, where a number of bytes would take a search of its own, so direct compression
    bisects over the price. A trained run costs hours: they start at half the bytes that direct compression needs, and
    bisect to within 5 %. Every run keeps its best iterate by `evaluate`, and the file found has been measured.

    Raises:
        BudgetError: nothing that the plan leaves open comes as near; with the least error found.
    """

    def direct(p: float) -> Tried:
        return _tried(make(p, None).run())

    best, tried = smallest(direct, allowed, price, tries=_DIRECT_TRIES)
    if runs:
        reference = best.size if best is not None else max(now.size for now in tried)

        def trained(ratio: float) -> Tried:
            limit = Limit(int(reference / ratio))
            try:
                return _tried(make(None, limit).run(resume=resume))
            except BudgetError:  # below the smallest file that the plan allows
                return Tried(limit.most, math.inf)

        known = None if best is None else (1.0, best)
        better, more = smallest(trained, allowed, 2.0 if best else 1.0, tries=runs, close=_CLOSE_RUNS, known=known)
        tried = tried + more
        if better is not None and (best is None or better.size < best.size):
            best = better
    if best is None:
        nearest = min(tried, key=lambda now: now.error)
        raise BudgetError(
            f"the error must be at most {allowed:.6g}, but the least that the plan reached is {nearest.error:.6g}, "
            f"in {nearest.size:,} bytes; allow more, or keep more of the network exact"
        )
    network, history, verdict = best.made
    return Found(network, history, verdict, [(now.size, now.error) for now in tried])


def _tried(outcome: tuple[Network, list[StepRecord], Verdict]) -> Tried:
    network, history, _ = outcome
    errors = [row.error for row in history if row.best and row.error is not None]
    return Tried(file_bytes(network), errors[-1] if errors else math.inf, outcome)
