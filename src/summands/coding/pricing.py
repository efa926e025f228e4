"""Levels that minimise error + price * bits, with the bits of the coder's own adaptive models.

The entries are taken in the order of the coder. For each, the candidates are the two nearest levels and zero; their
bits come from the models as they stand, in the class that the levels so far lead to, and the models learn from what is
decided. Without a trellis this is greedy: one path. With one, Viterbi's algorithm keeps the best path to every node,
each with running means of its own; decisions leave it when the paths are long enough to have one beginning. Means of
columns follow the decisions, so they are exact where rows are longer than that.
"""

# mypy: disable-error-code="assignment, operator"
from __future__ import annotations

import numpy as np
from numba import njit

from .choices import Choice, order_of, scanned
from .contexts import CLASSES, LARGEST, LEVEL_CONTEXTS, SECOND, SECOND_GRID, UNIT, class_of
from .range_coder import LEAN, bits_of, learn, new_model
from .streams import halved, learnt_levels
from .trellis import NO_PATH, PATH

_WINDOW, _KEPT = 256, 64  # entries on the paths, and those that stay when the older ones are decided


def price_levels(
    entries: np.ndarray,
    importance: np.ndarray,
    step: float,
    *,
    price: float = 0.0,
    penalty: float = 0.0,
    on_path: bool = False,
    like: np.ndarray | None = None,
) -> tuple[np.ndarray, float]:
    """Levels l, near the least sum of importance (w - step l)^2 + penalty [l != 0] + price * bits(l), and that sum.

    Args:
        entries: of a weight, in its shape; float64.
        on_path: the levels follow the path of a trellis (trellis.py); then without a price the optimum.
        like: levels that the models have learnt from at the start, by default the rounded entries.

    Cost: some 0.2 us an entry, 0.4 us on a path.
    """
    if like is None:
        like = np.rint(entries / (2 * step if on_path else step)).astype(np.int32)
    elif on_path:
        like = halved(like)
    # A path is one of the entries in memory order.
    choice, known = learnt_levels(like, on_path=on_path) if price else (Choice(), new_model(LEVEL_CONTEXTS))
    model = np.concatenate([known, known[: 3 * 3 * CLASSES]])  # both quantisers begin alike; three numbers a context
    run, columns = scanned(entries, choice.scan)
    weighting, path = scanned(importance, choice.scan)[0], PATH if on_path else NO_PATH
    found, cost = _priced(run, weighting, step, price, penalty, model, columns, path, choice.for_kernel())
    order = order_of(entries.ndim, choice.scan)
    levels = np.empty(entries.shape, np.int32)
    levels.transpose(order)[...] = found.reshape([entries.shape[a] for a in order])
    return levels, cost


@njit(**LEAN, forceinline=True)
def _bits(model, k, odd, magnitude):
    """Bits of a magnitude in class k, its sign included."""
    base = SECOND_GRID if odd else 0
    total = bits_of(model, base + k, 1 if magnitude else 0)
    if magnitude == 0:
        return total
    length = 1
    while magnitude >> length:
        total += bits_of(model, length * CLASSES + k + (base if length <= 2 else 0), 1)
        length += 1
    total += bits_of(model, length * CLASSES + k + (base if length <= 2 else 0), 0) + length
    if length > 1:
        total += bits_of(model, SECOND + length * CLASSES + k, (magnitude >> (length - 2)) & 1) - 1
    return total


@njit(**LEAN, forceinline=True)
def _learn(model, k, odd, magnitude, fast, slow):
    base = SECOND_GRID if odd else 0
    learn(model, base + k, fast, slow, 1 if magnitude else 0)
    if magnitude == 0:
        return
    length = 1
    while magnitude >> length:
        learn(model, length * CLASSES + k + (base if length <= 2 else 0), fast, slow, 1)
        length += 1
    learn(model, length * CLASSES + k + (base if length <= 2 else 0), fast, slow, 0)
    if length > 1:
        learn(model, SECOND + length * CLASSES + k, fast, slow, (magnitude >> (length - 2)) & 1)


@njit(cache=True, nogil=True)
def _priced(x, importance, step, price, penalty, model, columns, path, choice):
    """(levels, sum of importance (x - step l)^2 + penalty [l != 0] + price * bits) for entries in scan order.

    `model` and `choice` are those of `code_levels`; the model learns. Without a path `path` is empty.
    """
    near, row, column, coarse, drift = choice[0], choice[1], choice[2], choice[3], choice[4]
    fast, slow = choice[5], choice[6]
    n = x.size
    on_path = path.size > 0
    nodes = path.size >> 1 if on_path else 1
    unit = UNIT - 1 if on_path else UNIT
    window, kept = (_WINDOW, _KEPT) if on_path else (1, 0)
    levels = np.empty(n, np.int32)
    means = np.zeros(columns, np.int32)
    came = np.zeros((window, nodes), np.int8)
    sizes = np.zeros((window, nodes), np.int32)
    classes = np.zeros((window, nodes), np.int8)
    cost, next_cost = np.full(nodes, np.inf), np.empty(nodes)
    quick, next_quick = np.zeros(nodes, np.int64), np.empty(nodes, np.int64)
    steady, next_steady = np.zeros(nodes, np.int64), np.empty(nodes, np.int64)
    # For each quantiser the class in which the best levels of either parity, and what they add, are known.
    known, added, taken = np.empty(2, np.int64), np.empty((2, 2)), np.empty((2, 2), np.int64)
    cost[0] = 0.0
    done = filled = 0  # entries decided, and entries on the paths
    here = there = 0  # the columns of the next entry on the paths, and of the next one to be decided
    for i in range(n):
        value, h = abs(np.float64(x[i])), importance[i]
        in_steps = value / step
        from_column = column * means[np.uint64(here)]
        next_cost[:] = np.inf
        known[:] = -1
        for s in range(nodes):
            if cost[s] == np.inf:
                continue
            odd = s & 1
            k = class_of((near * quick[s] + row * steady[s] + from_column) >> 4, coarse)
            if k != known[odd]:  # most nodes of a quantiser are in one class
                known[odd] = k
                added[odd] = np.inf
                lower = np.int64((in_steps + odd) / 2) if on_path else np.int64(in_steps)
                for which in range(3):  # of equal ones the first
                    magnitude = lower + which - 1 if which else np.int64(0)
                    if which == 1 and lower == 0:
                        continue
                    size = 2 * magnitude - odd if on_path and magnitude else magnitude
                    gap = value - step * size
                    more = h * gap * gap + (penalty if magnitude else 0.0)
                    if price > 0:
                        more += price * _bits(model, k, odd, magnitude)
                    parity = magnitude & 1 if on_path else np.int64(0)
                    if more < added[odd, parity]:
                        added[odd, parity] = more
                        taken[odd, parity] = size
            for parity in range(2 if on_path else 1):
                t = np.int64(path[2 * s + parity]) if on_path else np.int64(0)
                total = cost[s] + added[odd, parity]
                if total < next_cost[t]:
                    next_cost[t] = total
                    came[filled, t] = s
                    sizes[filled, t] = taken[odd, parity]
                    classes[filled, t] = k
        for t in range(nodes):
            s = came[filled, t]
            scaled = min(np.int64(sizes[filled, t]), LARGEST) << unit
            next_quick[t] = quick[s] + ((scaled - quick[s]) >> 1)
            next_steady[t] = steady[s] + ((scaled - steady[s]) >> 5)
        cost, next_cost = next_cost, cost
        quick, next_quick = next_quick, quick
        steady, next_steady = next_steady, steady
        filled += 1
        here = here + 1 if here + 1 < columns else 0
        if filled < window and i < n - 1:
            continue
        # Decide on all but the last entries, as the best path has them. Paths that began otherwise end.
        count = filled if i == n - 1 else filled - kept
        best = np.argmin(cost)
        begin = best
        for r in range(filled - 1, count - 1, -1):
            begin = came[r, begin]
        for t in range(nodes):
            s = t
            if cost[t] < np.inf and count < filled:
                for r in range(filled - 1, count - 1, -1):
                    s = came[r, s]
                if s != begin:
                    cost[t] = np.inf
        s = begin
        for r in range(count - 1, -1, -1):
            levels[done + r] = sizes[r, s]
            classes[r, 0] = classes[r, s]
            came[r, 0], s = s, came[r, s]
        for r in range(count):
            size = np.int64(levels[done + r])
            if x[done + r] < 0:
                levels[done + r] = -size
            s = came[r - 1, 0] if r else s
            scaled = min(size, LARGEST) << unit
            means[np.uint64(there)] += (scaled - means[np.uint64(there)]) >> drift
            there = there + 1 if there + 1 < columns else 0
            odd = s & 1
            if price > 0:
                _learn(model, np.int64(classes[r, 0]), odd, (size + odd) >> 1 if on_path else size, fast, slow)
        done += count
        for r in range(filled - count):
            came[r], sizes[r], classes[r] = came[count + r], sizes[count + r], classes[count + r]
        filled -= count
    return levels, cost.min() if n else 0.0
