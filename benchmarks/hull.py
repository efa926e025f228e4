"""Sizes at an equal loss, read off the lower hull of what was measured."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable

Point = tuple[float, float]
"""(loss, bytes)."""


def lower_hull(points: Iterable[Point]) -> list[Point]:
    """The points that no mixture of others beats in loss and log bytes, from the least loss to the fewest bytes.

    >>> lower_hull([(0.0, 100), (1.0, 5), (2.0, 1), (1.0, 50), (3.0, 5)])
    [(0.0, 100), (1.0, 5), (2.0, 1)]
    """
    hull: list[Point] = []
    for loss, size in sorted(points):
        if hull and size >= hull[-1][1]:
            continue
        while len(hull) > 1 and not _turns_up(hull[-2], hull[-1], (loss, size)):
            hull.pop()
        if hull and hull[-1][0] == loss:
            hull.pop()
        hull.append((loss, size))
    return hull


def bytes_at(points: Iterable[Point], loss: float) -> float | None:
    """Bytes at this loss: log bytes interpolated on the lower hull; None where every point has a greater loss.

    >>> round(bytes_at([(0.0, 100), (1.0, 10)], 0.5), 3), bytes_at([(1.0, 10)], 0.5), bytes_at([(1.0, 10)], 5.0)
    (31.623, None, 10)
    """
    hull = lower_hull(points)
    if not hull or loss < hull[0][0]:
        return None
    for (a, most), (b, least) in itertools.pairwise(hull):
        if loss < b:
            share = (loss - a) / (b - a)
            return math.exp((1 - share) * math.log(most) + share * math.log(least))
    return hull[-1][1]


def is_bound(points: Iterable[Point], loss: float) -> bool:
    """True where `bytes_at` is no more than a bound: no file that was made loses as much, and smaller ones might do.

    >>> is_bound([(0.0, 100), (1.0, 10)], 0.5), is_bound([(0.0, 100), (1.0, 10)], 1.5)
    (False, True)
    """
    hull = lower_hull(points)
    return bool(hull) and loss > hull[-1][0]


def _turns_up(a: Point, b: Point, c: Point) -> bool:
    """True when b lies below the straight line from a to c, in log bytes."""
    (x, p), (y, q), (z, r) = a, b, c
    return (math.log(q) - math.log(p)) * (z - x) < (math.log(r) - math.log(p)) * (y - x)
