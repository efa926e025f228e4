"""The best partition of sorted points into consecutive runs, exact: what every learned codebook comes down to.

In one dimension an optimal codebook cuts the sorted points into runs (Wu 1991). A run is a *cell*, which pays the
squared distance to its own mean; a *zero run*, which pays the distance to 0; or an *outlier run*, which pays a price
a point. A partition names its runs in order, K cells for a codebook of K values, and any run may be empty.

Let F_t(j) be the least cost of the first j points in the first t runs: F_t(j) = min_i F_{t-1}(i) + cost_t(i, j).
The cost of a cell has the quadrangle inequality, so the best i grows with j and divide and conquer finds all of them
in O(N log N). Most cuts are never worth an exact look: they start in a few thousand buckets; a bucket's lower bound
charges a run only for the points that it holds wherever its two cuts lie in their buckets, which keeps the quadrangle
inequality; a bucket whose bound, forward plus backward, exceeds a known partition is dropped, the others are split.
When every bucket is a single cut the bound is F itself. The page "why exact" of docs/compressions.md has the proofs.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import njit

CELL, ZERO, OUTLIER = 0, 1, 2

_BUCKETS = 1024


@dataclass(frozen=True)
class Points:
    """Sorted values, and for j = 0..n sums over the first j of them: of entries, importance h, h x and h x^2.

    The sums run outwards from the middle of the points, so that far-off values cost those near it no digits; only
    their differences mean anything.
    """

    values: np.ndarray
    count: np.ndarray
    mass: np.ndarray
    moment: np.ndarray
    energy: np.ndarray


class Partition(NamedTuple):
    """Runs that cover all points, and what they pay."""

    cost: float
    runs: list[Run]


class Run(NamedTuple):
    """Points [start, stop) in one run."""

    kind: int
    start: int
    stop: int


def points_of(
    values: np.ndarray, importance: np.ndarray | None = None, *, about_zero: bool = False, merge: bool = True
) -> Points:
    """The sorted values, equal ones as one point; a value without importance is no point.

    Args:
        about_zero: sums are of the distances to 0, as zero runs need them, and not to the median.
        merge: without it every entry is a point of its own, as outliers that are counted need it.

    Cost: one sort.
    """
    if importance is None:
        values, mass = np.sort(values), np.empty(0)
    else:
        values, importance = values[importance > 0], importance[importance > 0]
        order = np.argsort(values, kind="stable")
        values, mass = values[order], importance[order].astype(np.float64)
    distinct, count = _distinct(values, merge)
    centre = 0.0 if about_zero or not distinct.size else float(distinct[distinct.size // 2])
    sums = _outward_sums(distinct, count, mass, centre, int(np.searchsorted(distinct, centre)))
    return Points(distinct, count, *sums)


def best_partition(
    points: Points, kinds: list[int], *, price: float = 0.0, least_zeros: float = 0.0, below: float = np.inf
) -> Partition | None:
    """The cheapest runs of these kinds, in this order, that cover all points; None if none costs less than `below`.

    Args:
        price: what each entry of an outlier run pays.
        least_zeros: the fewest entries that a zero run must hold.

    Cost: O(K N log N) time and 24 K N bytes if no cut can be ruled out; on the weights of networks, with N beyond a
    few thousand, a few K M log M with M = 1024, and no memory besides the sums. Ties go to the earliest cut.
    """
    problem = _problem(points, kinds, price, least_zeros)
    low, high, offsets = _first_buckets(points.values.size, len(kinds), _BUCKETS)
    slack = 1e-13 * (points.energy[-1] - points.energy[0])
    known = below
    while (low < high).any():
        forward = _sweep(low, high, offsets, 1, *problem)
        if forward[-1] >= below:
            return None
        known = min(known, _sweep(low, low, offsets, 1, *problem)[-1])
        through = forward + _sweep(low, high, offsets, -1, *problem)
        alive = through <= known * (1 + 1e-10) + slack
        if not np.logical_or.reduceat(alive, offsets[:-1]).all():
            return None
        low, high, offsets = _split(low, high, offsets, alive)
    cost = _sweep(low, low, offsets, 1, *problem)
    if not cost[-1] < below:
        return None
    cuts = _cuts(cost, low, offsets, *problem)
    return Partition(float(cost[-1]), _runs(kinds, cuts))


def coarse_partitions(points: Points, most: int, buckets: int = _BUCKETS) -> list[Partition]:
    """For each K = 1..most the best K cells whose cuts lie between equal shares of the points. O(K M log M)."""
    low, _, offsets = _first_buckets(points.values.size, most + 1, buckets)
    cost = _sweep(low, low, offsets, 1, *_problem(points, [CELL] * (most + 1), 0.0, 0.0))
    found = []
    for k in range(1, most + 1):
        stop = offsets[k + 1]  # the last cut of stage k is the end of all points
        cuts = _cuts(cost, low[:stop], offsets, *_problem(points, [CELL] * k, 0.0, 0.0))
        found.append(Partition(float(cost[stop - 1]), _runs([CELL] * k, cuts)))
    return found


def cell_means(points: Points, runs: list[Run]) -> np.ndarray:
    """The mean of every cell that holds a point, in float64."""
    return np.array([_mean(points, run) for run in runs if run.kind == CELL and run.start < run.stop])


def _mean(points: Points, run: Run) -> float:
    # About the first value, so that equal values have themselves as their mean, exactly.
    values, mass = points.values[run.start : run.stop], np.diff(points.mass[run.start : run.stop + 1])
    first, total = float(values[0]), mass.sum()
    if not total > 0:  # importances too small to show in the sums over all points
        return float(values.mean(dtype=np.float64))
    return first + float((values.astype(np.float64) - first) @ mass / total)


def _problem(points: Points, kinds: list[int], price: float, least_zeros: float) -> tuple:
    sums = (points.count, points.mass, points.moment, points.energy)
    return (np.array(kinds, np.int64), *sums, float(price), float(least_zeros))


def _runs(kinds: list[int], cuts: np.ndarray) -> list[Run]:
    return [Run(kind, int(a), int(b)) for kind, (a, b) in zip(kinds, itertools.pairwise(cuts), strict=True)]


def _first_buckets(n: int, runs: int, most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Buckets [low, high] of the cuts 0..runs, one after the other in one array: the ends fixed, the rest anywhere."""
    edges = np.unique(np.linspace(0, n, min(n, most) + 1).astype(np.int64))
    lows = [np.zeros(1, np.int64), *[edges] * (runs - 1), np.array([n])]
    highs = [np.zeros(1, np.int64), *[np.append(edges[1:] - 1, n)] * (runs - 1), np.array([n])]
    return np.concatenate(lows), np.concatenate(highs), np.cumsum([0, *map(len, lows)])


def _split(
    low: np.ndarray, high: np.ndarray, offsets: np.ndarray, alive: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The buckets alive, each cut into as many parts as leave about `_BUCKETS` for its stage, but at least two."""
    lows, highs = [], []
    for a, b in itertools.pairwise(offsets):
        start, stop = low[a:b][alive[a:b]], high[a:b][alive[a:b]] + 1
        parts = np.minimum(stop - start, max(2, _BUCKETS // len(start)))
        bucket = np.repeat(np.arange(len(start)), parts)
        part = np.arange(len(bucket)) - np.repeat(np.cumsum(parts) - parts, parts)
        size, parts = (stop - start)[bucket], parts[bucket]
        lows.append(start[bucket] + size * part // parts)
        highs.append(start[bucket] + size * (part + 1) // parts - 1)
    return np.concatenate(lows), np.concatenate(highs), np.cumsum([0, *map(len, lows)])


@njit(cache=True, nogil=True)
def _distinct(values, merge):
    """The values that differ from the one before, or all of them, and how many entries come before each and in all."""
    n = values.size
    if merge:
        n = min(n, 1)
        for i in range(1, values.size):
            n += values[i] != values[i - 1]
    distinct, count = np.empty(n, values.dtype), np.empty(n + 1)
    j = 0
    for i in range(values.size):
        if i == 0 or not merge or values[i] != values[i - 1]:
            distinct[j], count[j] = values[i], i
            j += 1
    count[n] = values.size
    return distinct, count


@njit(cache=True, nogil=True)
def _outward_sums(values, count, mass, centre, middle):
    """Sums of h, h x and h x^2 from the middle outwards; with no mass h counts entries, and its sum is `count`."""
    n = values.size
    total = np.empty(n + 1) if mass.size else count
    moment, energy = np.empty(n + 1), np.empty(n + 1)
    moment[middle] = energy[middle] = 0.0
    if mass.size:
        total[middle] = 0.0
        for j in range(middle, n):
            total[j + 1] = total[j] + mass[int(count[j]) : int(count[j + 1])].sum()
        for j in range(middle - 1, -1, -1):
            total[j] = total[j + 1] - mass[int(count[j]) : int(count[j + 1])].sum()
    for j in range(middle, n):
        x, h = values[j] - centre, total[j + 1] - total[j]
        moment[j + 1] = moment[j] + h * x
        energy[j + 1] = energy[j] + h * x * x
    for j in range(middle - 1, -1, -1):
        x, h = values[j] - centre, total[j + 1] - total[j]
        moment[j] = moment[j + 1] - h * x
        energy[j] = energy[j + 1] - h * x * x
    return total, moment, energy


@njit(cache=True, nogil=True)
def _sweep(low, high, offsets, sign, kinds, count, mass, moment, energy, price, least_zeros):
    """For every bucket the least cost of all points before it (sign 1) or after it (sign -1), as a lower bound."""
    cost = np.empty(low.size)
    stages = kinds.size
    first = 0 if sign > 0 else stages
    cost[offsets[first] : offsets[first + 1]] = 0.0
    for step in range(stages):
        here = step if sign > 0 else stages - step
        there = here + sign
        kind = kinds[min(here, there)]
        a, b = offsets[here], offsets[here + 1]
        c, d = offsets[there], offsets[there + 1]
        if sign > 0:
            old, old_edge, old_inner = cost[a:b].copy(), low[a:b].copy(), high[a:b].copy()
            new_edge, new_inner = high[c:d].copy(), low[c:d].copy()
        else:
            old, old_edge, old_inner = cost[a:b][::-1].copy(), high[a:b][::-1].copy(), low[a:b][::-1].copy()
            new_edge, new_inner = low[c:d][::-1].copy(), high[c:d][::-1].copy()
        if kind == CELL:
            new = cell_step(old, old_edge, old_inner, new_edge, new_inner, sign, mass, moment, energy)
        elif kind == ZERO:
            new = _additive_step(old, old_edge, old_inner, new_edge, new_inner, sign, count, energy, 1.0, least_zeros)
        else:
            new = _additive_step(old, old_edge, old_inner, new_edge, new_inner, sign, count, count, price, 0.0)
        cost[c:d] = new if sign > 0 else new[::-1]
    return cost


@njit(cache=True, nogil=True)
def _cell_cost(a, b, sign, mass, moment, energy):
    m = sign * (mass[b] - mass[a])
    if m <= 0.0:
        return 0.0
    s = moment[b] - moment[a]
    return max(0.0, sign * (energy[b] - energy[a]) - s * s / m)


@njit(cache=True, nogil=True)
def cell_step(old, old_edge, old_inner, new_edge, new_inner, sign, mass, moment, energy):
    """min over i of old[i] + the cell from i to j, every j; the best i grows with j: each j is searched between the
    best of its neighbours at twice the stride."""
    n, m = old.size, new_edge.size
    reach = np.empty(m, np.int64)
    i = 0
    for j in range(m):
        while i < n and sign * old_edge[i] <= sign * new_edge[j]:
            i += 1
        reach[j] = i
    new, best = np.full(m, np.inf), np.zeros(m, np.int64)
    stride = 1
    while stride < m:
        stride *= 2
    while stride >= 1:
        for j in range(stride - 1, m, 2 * stride):
            first = best[j - stride] if j >= stride else 0
            last = best[j + stride] + 1 if j + stride < m else n
            least, where = np.inf, first
            for i in range(first, min(last, reach[j])):
                cost = old[i] + _cell_cost(old_inner[i], new_inner[j], sign, mass, moment, energy)
                if cost < least:
                    least, where = cost, i
            new[j], best[j] = least, where
        stride //= 2
    return new


@njit(cache=True, nogil=True)
def _additive_step(old, old_edge, old_inner, new_edge, new_inner, sign, count, sums, price, least):
    """min over i of old[i] + price * (the sums from i to j), every j, over runs of at least `least` points."""
    n, m = old.size, new_edge.size
    new = np.full(m, np.inf)
    i, lowest = 0, np.inf
    for j in range(m):
        end = price * sums[new_inner[j]]
        while (
            i < n
            and sign * (count[new_edge[j]] - count[old_edge[i]]) >= least
            and sign * old_inner[i] <= sign * new_inner[j]
        ):
            lowest = min(lowest, old[i] - sign * price * sums[old_inner[i]])
            i += 1
        new[j] = lowest + sign * end
        k = i  # buckets that overlap j's: their run may hold no point
        while k < n and sign * (count[new_edge[j]] - count[old_edge[k]]) >= least:
            new[j] = min(new[j], old[k])
            k += 1
    return new


@njit(cache=True, nogil=True)
def _cuts(cost, position, offsets, kinds, count, mass, moment, energy, price, least_zeros):
    """The cuts of the partition that `cost`, from a sweep over single cuts, belongs to; ties to the earliest."""
    stages = kinds.size
    cuts = np.empty(stages + 1, np.int64)
    cuts[stages] = position[-1]
    for t in range(stages - 1, -1, -1):
        j = cuts[t + 1]
        least, cuts[t] = np.inf, position[offsets[t]]
        for c in range(offsets[t], offsets[t + 1]):
            i = position[c]
            if i > j or (kinds[t] == ZERO and count[j] - count[i] < least_zeros):
                break
            if kinds[t] == CELL:
                run = _cell_cost(i, j, 1, mass, moment, energy)
            elif kinds[t] == ZERO:
                run = energy[j] - energy[i]
            else:
                run = price * (count[j] - count[i])
            if cost[c] + run < least:
                least, cuts[t] = cost[c] + run, i
    return cuts
