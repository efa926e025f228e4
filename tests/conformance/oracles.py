"""Brute force: the least objective that a compression could reach on a tiny vector, by trying every choice.

An oracle is a function (vector, importance) -> least squared error, both float64 arrays, or one built from others.
"""

import itertools
from collections.abc import Callable

import numpy as np

from summands.coding.trellis import PATH

Oracle = Callable[[np.ndarray, np.ndarray], float]


def exact(vector, importance):
    """Everything is kept as it is."""
    return 0.0


def kept(count) -> Oracle:
    """At most `count` entries are not zero."""
    return outside(count, lambda vector, importance: float(importance @ vector**2))


def codebook(k, *, zero=False) -> Oracle:
    """Every assignment to k values, each the mean of its entries; with `zero`, the first is 0."""

    def least(vector, importance):
        label = _choices(k, len(vector))
        error = np.zeros(len(label))
        for value in range(k):
            chosen = (label == value) * importance
            mass = chosen.sum(1)
            mean = np.divide(chosen @ vector, mass, out=np.zeros_like(mass), where=mass > 0)
            if zero and value == 0:
                mean[:] = 0
            error += (chosen * (vector - mean[:, None]) ** 2).sum(1)
        return float(error.min())

    return least


def pruned_codebook(k, keep) -> Oracle:
    """The same with a zero, and at most a share `keep` of the entries elsewhere."""

    def least(vector, importance):
        most = round(keep * len(vector))
        return min(
            float(np.delete(importance, held) @ np.delete(vector, held) ** 2)
            + codebook(k, zero=True)(vector[list(held)], importance[list(held)])
            for held in itertools.combinations(range(len(vector)), most)
        )

    return least


def levels(*values, unless_zero=0.0) -> Oracle:
    """Each entry at the best of these values, all but 0 of which may cost something."""
    cost = unless_zero * (np.array(values) != 0)

    def least(vector, importance):
        return float((importance[:, None] * (vector[:, None] - np.array(values)) ** 2 + cost).min(1).sum())

    return least


def multiples(step, *, unless_zero=0.0) -> Oracle:
    """Each entry at the best multiple of the step, entries being at most 1e4."""
    most = int(1.01e4 / step)
    return levels(*np.arange(-most, most + 1) * step, unless_zero=unless_zero)


def path(step) -> Oracle:
    """Each entry at any multiple of the step near it, or 0, that the trellis allows after those before it."""

    def least(vector, importance):
        reached = {0: 0.0}
        for value, weight in zip(vector, importance, strict=True):
            further: dict[int, float] = {}
            for node, cost in reached.items():
                for level in {0, *range(int(value // step) - 3, int(value // step) + 5)}:
                    odd = node % 2
                    if level and level % 2 != odd:
                        continue
                    after = int(PATH[2 * node + (abs(level) + odd) // 2 % 2])
                    error = cost + weight * (value - step * level) ** 2
                    further[after] = min(error, further.get(after, np.inf))
            reached = further
        return float(min(reached.values()))

    return least


def scaled(*values) -> Oracle:
    """Every assignment to these values, each at its best scale that is not negative."""

    def least(vector, importance):
        chosen = np.array(values, float)[_choices(len(values), len(vector))]
        energy = chosen**2 @ importance
        scale = np.divide(chosen @ (importance * vector), energy, out=np.zeros_like(energy), where=energy > 0)
        error = (vector - np.maximum(scale, 0)[:, None] * chosen) ** 2 @ importance
        return float(error.min())

    return least


def outside(count, rest: Oracle, *, price=0.0) -> Oracle:
    """`rest` on all entries but at most `count`, which cost `price` each."""

    def least(vector, importance):
        most = min(count if isinstance(count, int) else round(count * len(vector)), len(vector))
        return min(
            price * len(free) + rest(np.delete(vector, free), np.delete(importance, free))
            for size in range(most + 1)
            for free in itertools.combinations(range(len(vector)), size)
        )

    return least


def in_runs(m, rest: Oracle) -> Oracle:
    """`rest` on each run of m neighbours alone."""

    def least(vector, importance):
        starts = range(0, len(vector), m)
        return sum(rest(vector[i : i + m], importance[i : i + m]) for i in starts)

    return least


def entropy_priced(price, value_bits) -> Oracle:
    """Any k of n entries are not zero, at price * (n H2(k/n) + value_bits k)."""

    def least(vector, importance):
        n = len(vector)
        lost = np.sort(importance * vector**2)
        shares = [(k / n, 1 - k / n) for k in range(n + 1)]
        bits = [sum(-n * p * np.log2(p) for p in both if p) + value_bits * k for k, both in enumerate(shares)]
        return min(float(lost[: n - k].sum()) + price * bits[k] for k in range(n + 1))

    return least


def ball(radius) -> Oracle:
    """The sum of magnitudes is at most `radius`: every support, shrunk to the boundary if it lies outside."""

    def least(vector, importance):
        best = float(importance @ vector**2)
        for chosen in itertools.product((False, True), repeat=len(vector)):
            inside = np.array(chosen, bool) & (importance > 0)
            size, weighting = np.abs(vector[inside]), importance[inside]
            theta = max((size.sum() - radius) / np.sum(1 / weighting), 0.0) if inside.any() else 0.0
            if (theta <= weighting * size).all():
                best = min(best, float(theta**2 * np.sum(1 / weighting) + importance[~inside] @ vector[~inside] ** 2))
        return best

    return least


def shrunk(price) -> Oracle:
    """Each entry pays `price` times its magnitude: at zero, or where the slopes of error and price cancel."""

    def least(vector, importance):
        back = np.divide(price / 2, importance, out=np.full_like(vector, np.inf), where=importance > 0)
        paid = importance * np.where(back < np.inf, back, 0) ** 2 + price * (np.abs(vector) - back)
        return float(np.where(back < np.abs(vector), paid, importance * vector**2).sum())

    return least


def _choices(k, n):
    """All k^n assignments, one a row."""
    return np.array(list(itertools.product(range(k), repeat=n)), int).reshape(k**n, n)
