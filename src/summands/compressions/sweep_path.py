"""The decisions of a sweep on the path of a trellis: Viterbi's algorithm down one column after the other.

Within a column no entry's error reaches another, so the best path through all of them is exact for the bits as they
are known; the column's errors are then passed on as without a trellis. Bits are those of an adaptive coder with counts
for each quantiser, in the class that the row so far and the best path's last entries lead to.
"""

# mypy: disable-error-code="assignment, operator"
from __future__ import annotations

import numpy as np
from numba import njit

from ..coding.trellis import NODES, PATH
from .entry_bits import CLASSES, MOST, SYMBOLS, bits_of, class_of

STEP = 0.6
"""The natural step on a path over that without one, about: twice as many levels at nearly the same error."""
_RUN, _AHEAD = 1024, 64  # entries on the paths at a time, and those of them that are decided with the next ones


class PathCounts:
    """What a sweep has learnt so far, and the place where it stands on a path in memory order."""

    def __init__(self, first: np.ndarray, rows: int) -> None:
        self.counts = np.stack([first, first])
        self.table = np.empty_like(self.counts)
        self.state, self.where = np.zeros(rows), np.zeros(2)  # means of rows; node, and the mean along the path
        _refresh(self.table, self.counts, np.ones(self.counts.shape[:2], np.bool_))

    def decide(
        self, work: np.ndarray, widths: np.ndarray, bends: np.ndarray, price: float, ridge: float, dead: float
    ) -> np.ndarray:
        """Levels of a run of entries, which goes on where the last one ended."""
        found = np.empty(work.size, np.int32)
        _run(work, widths, bends, price, ridge, dead, self.state, self.counts, self.table, self.where, found)
        return found

    def sweep(
        self,
        work: np.ndarray,
        widths: np.ndarray,
        bends: np.ndarray,
        near: np.ndarray,
        price: float,
        ridge: float,
        dead: float,
        start: int,
        errors: np.ndarray,
        levels: np.ndarray,
    ) -> None:
        """Decides `levels` of the columns from `start` on, as many as `near` covers, each on a path of its own."""
        known = (self.state, self.counts, self.table, self.where)
        _columns(work, widths, bends, near, price, ridge, dead, *known, start, errors, levels)


@njit(cache=True, nogil=True)
def _refresh(table, counts, touched):
    """-log2 of the shares of these classes, with a bit for the sign."""
    for odd in range(2):
        for k in range(CLASSES):
            if not touched[odd, k]:
                continue
            if counts[odd, k].sum() > MOST:
                counts[odd, k] *= 0.5
            total = np.log2(counts[odd, k].sum())
            for a in range(SYMBOLS):
                table[odd, k, a] = total - np.log2(counts[odd, k, a]) + (1.0 if a else 0.0)


@njit(cache=True, nogil=True)
def _columns(work, widths, bends, near, price, ridge, dead, state, counts, table, where, start, errors, levels):
    groups, m, _ = work.shape
    size, count = groups * m, near.shape[1]
    found = np.empty(size, np.int32)
    values, steps, curvature = np.empty(size), np.empty(size), np.empty(size)
    for j in range(count):
        for g in range(groups):
            values[g * m : (g + 1) * m] = work[g, :, start + j]
            steps[g * m : (g + 1) * m] = widths[g, :, start + j]
            curvature[g * m : (g + 1) * m] = bends[g, start + j]
        where[:] = 0.0
        _run(values, steps, curvature, price, ridge, dead, state, counts, table, where, found)
        for g in range(groups):
            for i in range(m):
                level = found[g * m + i]
                levels[g, i, start + j] = level
                error = values[g * m + i] - steps[g * m + i] * level
                errors[g, i, j] = error
                row, passed = work[g, i, start : start + count], near[g, j]
                for c in range(j + 1, count):
                    row[c] -= error * passed[c]


@njit(cache=True, nogil=True)
def _run(values, widths, bends, price, ridge, dead, state, counts, table, where, found):
    """The best path for these entries, a part at a time; what is decided is learnt from."""
    came = np.empty((_RUN, NODES), np.int8)
    sizes = np.empty((_RUN, NODES), np.int32)
    touched = np.zeros((2, CLASSES), np.bool_)
    start, period = 0, state.size
    while start < values.size:
        stop = min(start + _RUN, values.size)
        node = _walk(values, widths, bends, price, ridge, dead, state, table, where, start, stop, came, sizes)
        for i in range(stop - 1, start - 1, -1):
            size = sizes[i - start, node]
            found[i] = size if values[i] >= 0 else -size
            node = came[i - start, node]
        kept = stop if stop == values.size else stop - _AHEAD
        touched[:] = False
        node, above = np.int64(where[0]), where[1]
        for i in range(start, kept):
            row, odd, size = i % period, node & 1, abs(np.int64(found[i]))
            place = (size + odd) >> 1
            k = class_of((state[row] + above) / 2)
            counts[odd, k, min(place, SYMBOLS - 1)] += 1.0
            touched[odd, k] = True
            state[row] += (size / 2 - state[row]) / 32
            above += (size / 2 - above) / 16
            node = np.int64(PATH[2 * node + (place & 1)])
        where[0], where[1] = node, above
        _refresh(table, counts, touched)
        start = kept


@njit(cache=True, nogil=True)
def _walk(values, widths, bends, price, ridge, dead, state, table, where, start, stop, came, sizes):
    """The node at which the best path from `where` ends; the way back is in `came`, levels without sign in `sizes`."""
    cost, onward = np.full(NODES, np.inf), np.empty(NODES)
    means, moved = np.full(NODES, where[1]), np.empty(NODES)
    added, taken = np.empty((2, 2)), np.zeros((2, 2), np.int64)
    best = np.int64(where[0])
    cost[best] = 0.0
    for i in range(start, stop):
        size, s, d = abs(values[i]), widths[i], bends[i]
        k = class_of((state[i % state.size] + means[best]) / 2)
        for odd in range(2):
            added[odd] = np.inf
            lower = np.int64((size / s + odd) / 2)
            for which in range(4):
                place = lower + 2 - which if which else np.int64(0)
                if place < 0 or (which and place == 0):
                    continue
                level = 2 * place - odd if place else np.int64(0)
                value = s * level
                more = d * (size - value) ** 2 - ridge * value * value
                if price > 0:
                    more += price * bits_of(table[odd, k], place)
                if place:
                    more += dead * d * s * s
                if more < added[odd, place & 1]:
                    added[odd, place & 1], taken[odd, place & 1] = more, level
        onward[:] = np.inf
        for n in range(NODES):
            for parity in range(2):
                to, total = np.int64(PATH[2 * n + parity]), cost[n] + added[n & 1, parity]
                if total < onward[to]:
                    onward[to] = total
                    came[i - start, to] = n
                    sizes[i - start, to] = taken[n & 1, parity]
        best = np.int64(0)
        for n in range(NODES):
            if onward[n] < np.inf:
                before = means[came[i - start, n]]
                moved[n] = before + (sizes[i - start, n] / 2 - before) / 16
            if onward[n] < onward[best]:
                best = np.int64(n)
        cost, onward = onward, cost
        means, moved = moved, means
    return best
