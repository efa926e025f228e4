"""Codebooks that are best when some entries need not fit: so many of them, or each at a price."""

from __future__ import annotations

import numpy as np
from numba import njit

from .partition import CELL, OUTLIER, Points, best_partition, cell_means, cell_step, points_of

_TABLE = 10_000_000
_SAMPLE = 20_000


def priced_values(entries: np.ndarray, k: int, price: float) -> np.ndarray:
    """At most k values that minimise the squared error of the entries that fit plus `price` for every other: exact.

    The entries that do not fit the optimum are runs between its cells: best_partition with outlier runs. O(k N log N).
    """
    points = points_of(entries)
    # Where one outlier costs more than all entries in one cell, none is worth it, and the price would only cost digits.
    affordable = price <= points.energy[-1] - points.energy[0]
    kinds = [OUTLIER, *[CELL, OUTLIER] * k] if affordable else [CELL] * k
    best = best_partition(points, kinds, price=price if affordable else 0.0)
    return _ascending(None if best is None else cell_means(points, best.runs))


def is_countable(size: int, k: int, count: int) -> bool:
    """True where `counted_values` is exact: for one value, for no outliers or no others, or while N count k <= 1e7."""
    return k == 1 or size * count * k <= _TABLE or count >= size


def counted_values(entries: np.ndarray, k: int, count: int) -> np.ndarray:
    """At most k values that minimise the squared error of all but `count` entries.

    Exact where `is_countable`: one value is the mean of a window of N - count sorted entries; for more, by dynamic
    programming over (values used, entries left out, first entries). Elsewhere the point of the lower hull with at
    most `count` outliers, by bisection of their price, on at most 20,000 evenly spaced order statistics: the caller
    fills up to `count` and descends from there.
    """
    if count >= entries.size:
        return np.zeros(1)
    if k == 1:
        return np.array([best_window(entries, count)])
    if count == 0:
        return priced_values(entries, k, np.inf)
    if is_countable(entries.size, k, count):
        points = points_of(entries, merge=False)
        values = points.values.astype(np.float64)
        means = _counted_means(values, k, count, points.mass, points.moment, points.energy)
        return _ascending(means[~np.isnan(means)])
    stride = -(-entries.size // _SAMPLE)
    return _hull_values(points_of(np.sort(entries)[stride // 2 :: stride]), k, count / stride)


def best_window(entries: np.ndarray, count: int) -> float:
    """The mean of the N - count consecutive sorted entries closest to their own mean, in square. O(N log N)."""
    points = points_of(entries, merge=False)
    held = entries.size - count
    moment, energy = (sums[held:] - sums[: sums.size - held] for sums in (points.moment, points.energy))
    start = int(np.argmin(energy - moment**2 / held))
    return float(points.values[start : start + held].mean(dtype=np.float64))


def _hull_values(points: Points, k: int, count: float) -> np.ndarray:
    """The values at the least price with at most `count` outliers."""
    kinds = [OUTLIER, *[CELL, OUTLIER] * k]
    low, high = 0.0, float(points.values[-1] - points.values[0]) ** 2
    values = np.zeros(1)
    for _ in range(40):
        price = np.sqrt(low * high) if low > 0 else high * 1e-6
        best = best_partition(points, kinds, price=price)
        runs = [] if best is None else best.runs
        outliers = sum(points.count[run.stop] - points.count[run.start] for run in runs if run.kind == OUTLIER)
        if outliers <= count:
            high, values = price, cell_means(points, runs)
        else:
            low = price
        if outliers == count or (low > 0 and high <= low * 1.001) or high == 0:
            break
    return _ascending(values)


def _ascending(values: np.ndarray | None) -> np.ndarray:
    return np.zeros(1) if values is None or not values.size else np.unique(values)


@njit(cache=True, nogil=True)
def _counted_means(values, k, count, mass, moment, energy):
    """The means of the cells of the best partition of all but `count` points into k cells; NaN for an empty cell."""
    n = values.size
    cut = np.arange(n + 1)
    # fit[c, m, j]: the first j points, c cells, m outliers, the last point in a cell; least[c, m, j]: in either.
    fit = np.full((k + 1, count + 1, n + 1), np.inf)
    least = np.full((k + 1, count + 1, n + 1), np.inf)
    fit[0, 0, 0] = 0.0
    for c in range(k + 1):
        for m in range(count + 1):
            if c > 0:
                fit[c, m] = cell_step(least[c - 1, m], cut, cut, cut, cut, 1, mass, moment, energy)
            least[c, m] = fit[c, m]
            if m > 0:
                least[c, m, 1:] = np.minimum(fit[c, m, 1:], least[c, m - 1, :-1])
    means = np.full(k, np.nan)
    j, m = n, int(np.argmin(least[k, :, n]))
    for c in range(k, 0, -1):
        while least[c, m, j] < fit[c, m, j]:
            j, m = j - 1, m - 1
        best, start = np.inf, j
        for i in range(j + 1):
            s, h = moment[j] - moment[i], mass[j] - mass[i]
            cost = least[c - 1, m, i] + (max(0.0, energy[j] - energy[i] - s * s / h) if i < j else 0.0)
            if cost < best:
                best, start = cost, i
        if start < j:
            means[c - 1] = values[start:j].mean()
        j = start
    return means
