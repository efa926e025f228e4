"""The smallest network that is still good enough, by bisection over whatever makes networks small."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_CLOSE = 1e-3
"""Two knobs nearer than this share are one."""


@dataclass(frozen=True)
class Tried:
    """One network: how large it is, how wrong, and whatever the caller needs of it."""

    size: int
    error: float
    made: Any = None


def smallest(
    run: Callable[[float], Tried],
    allowed: float,
    start: float,
    *,
    tries: int,
    close: float = 0.01,
    known: tuple[float, Tried] | None = None,
) -> tuple[Tried | None, list[Tried]]:
    """The smallest of the networks tried whose error is at most `allowed`, None if there is none; and all of them.

    The knob is anything above 0 of which more makes networks smaller and worse: a price, a ratio of sizes. From `start`
    it is turned by growing steps to find a network on either side, then halved in the logarithm, until the next smaller
    one that fails is within the share `close` in size, or after `tries` networks. Errors measured on data are not
    monotone: what is returned holds, and the one that failed beside it may have been bad luck.

    Args:
        known: a knob and its network that is good enough, which is not tried again.
    """
    good: list[tuple[float, Tried]] = [] if known is None else [known]
    bad: list[tuple[float, Tried]] = []
    tried: list[Tried] = []
    knob, step = start, 1.5
    for _ in range(tries):
        now = run(knob)
        tried.append(now)
        (good if now.error <= allowed else bad).append((knob, now))
        if not bad:
            if len(good) > 4 and good[-1][1].size >= good[-2][1].size:
                break  # as small as it gets
            knob, step = knob * step, min(step**2, 1e4)
        elif not good:
            knob, step = knob / step, min(step**2, 1e4)
        else:
            (low, best), (high, failed) = max(good, key=_knob), min(bad, key=_knob)
            if failed.size >= (1 - close) * best.size or high <= low * (1 + _CLOSE):
                break
            knob = math.sqrt(low * high)
    return min((now for _, now in good), key=lambda now: now.size, default=None), tried


def _knob(pair: tuple[float, Tried]) -> float:
    return pair[0]
