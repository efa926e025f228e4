"""Rounding under tr(E H E') + price * bits: column after column, each error passed on to the next; then entry by entry.

The sweep has the order of GPTQ (Frantar et al. 2022) and the decisions of CERWU (2025): every entry weighs its error,
seen through what the columns to come can make good, against the bits that an adaptive coder spends on it.
"""

# mypy: disable-error-code="assignment"
from __future__ import annotations

import math
from typing import Self

import numpy as np
import torch
from numba import njit
from torch import Tensor

from .entry_bits import CLASSES, MOST, SYMBOLS, bits_of, class_of, first_counts
from .metric import Metric
from .scope import slices
from .sweep_path import STEP, PathCounts

_COLUMNS = 48  # between two products that pass the errors on
_RUN = 1 << 21  # entries that are copied at a time where no errors are passed on
_NONE = np.zeros((0, 0, 0))


class Sweep:
    """The rounding of one target at one price, for any steps.

    With bits(q) about gamma (s q)^2 / 2 + the rest, gamma = 1/(ln 2 Var w), the square joins H: the target shrinks to
    W H H'^-1, H' = H + ridge, ridge = price gamma / 2, and the decisions pay for the rest. Columns come in the order of
    falling H_jj, which evens out what an error in each of them costs. Rounding runs in host memory.

    Cost: O(n^3 + m n^2) multiply-adds a group, and 0.1 us an entry, 0.2 us on a path.

    Args:
        on_path: levels on paths of a trellis: down every column of all groups; of a diagonal metric, and of `plain`,
            in memory order.

    Attributes:
        target: groups x m x n, in the order of the weight's memory.
        curvature: groups x n, R_jj^2 where H' = R R', R upper triangular in the order of the sweep: what an error of
            column j costs when the columns after it make good what they can.
    """

    def __init__(self, rows: Tensor, metric: Metric, price: float = 0.0, *, on_path: bool = False) -> None:
        self.price, self.ridge, self.on_path = price, _ridge(rows, price), on_path
        self._order: Tensor | None = None
        self._factors: Tensor | None = None
        self._feedback: np.ndarray | None = None
        if metric.is_diagonal:
            # An embedding: every token is a group, and passes nothing on.
            tokens = rows.mT.reshape(-1, 1, rows.shape[1])
            self._stand_alone(tokens, metric.gram[:, None].expand(-1, rows.shape[1]))
            return
        self.target = metric.solve(metric.times(rows), self.ridge) if self.ridge else rows
        self._factors = metric.factors
        diagonal = metric.gram.diagonal(dim1=1, dim2=2)
        if on_path:  # a column's path runs through all groups
            diagonal = diagonal.mean(0, keepdim=True).expand_as(diagonal)
        order = diagonal.argsort(dim=1, descending=True, stable=True)
        gram = metric.gram.take_along_dim(order[:, :, None], 1).take_along_dim(order[:, None, :], 2)
        eye = torch.eye(rows.shape[2], dtype=rows.dtype, device=rows.device)
        factor = torch.linalg.cholesky((gram + self.ridge * eye).flip(1, 2)).flip(1, 2)
        diagonal = factor.diagonal(dim1=1, dim2=2)
        self.curvature = torch.empty_like(diagonal).scatter_(1, order, diagonal**2)
        inverse = torch.linalg.solve_triangular(factor, eye.expand_as(factor), upper=True)
        self._order, self._feedback = order, (inverse * diagonal[:, :, None]).cpu().numpy()

    @classmethod
    def plain(cls, weight: Tensor, importance: Tensor | None, price: float, *, on_path: bool = False) -> Self:
        """For the squared error of every entry alone, times its importance."""
        rows = weight.to(torch.float64).reshape(len(weight) if weight.ndim else 1, 1, -1)
        sweep = cls.__new__(cls)
        sweep.price, sweep.ridge, sweep.on_path = price, _ridge(rows, price), on_path
        sweep._order = sweep._feedback = sweep._factors = None
        factors = torch.ones_like(rows) if importance is None else importance.to(torch.float64).reshape(rows.shape)
        sweep._stand_alone(rows, factors[:, 0])
        return sweep

    def _stand_alone(self, rows: Tensor, importance: Tensor) -> None:
        self.curvature = importance + self.ridge
        share = torch.where(self.curvature > 0, importance / self.curvature, 1.0)
        self.target = rows * share[:, None]

    def natural_steps(self, shape: torch.Size, per: str) -> Tensor:
        """sqrt(6 price / (c ln 2)), c the mean curvature of a slice: its optimal common step at high rates.

        Between 2^-16 of the largest entry and four times that. On a path the share of it that all places have.
        """
        factors = 1.0 if self._factors is None else self._factors
        curvature = (self.curvature[:, None] * factors**2).expand(self.target.shape)
        curvature = slices(curvature.reshape(shape), per).mean(1)
        least = (1e-12 * curvature.max()).clamp_min(torch.finfo(torch.float64).tiny)
        share = STEP if self.on_path else 1.0
        steps = share * torch.sqrt(6 * self.price / math.log(2) / curvature.maximum(least))
        # Levels stay below 2^16; a weight that is zero may have any step.
        peak = float((self.target / factors).abs().max()) if self.target.numel() else 0.0
        return steps.clamp(peak * 2.0**-16, 4 * peak) if peak else torch.ones_like(steps)

    def levels(self, steps: Tensor, dead_zone: float = 0.5) -> Tensor:
        """Integer levels, for a step of each entry; both in the shape of `target`."""
        groups, m, n = self.target.shape
        order, feedback = self._order, self._feedback
        steps, target, curvature = steps.expand(self.target.shape), self.target, self.curvature
        dead = 2 * dead_zone - 1
        if order is None or feedback is None:
            return self._one_by_one(steps, dead)
        steps, target = (t.take_along_dim(order[:, None, :], 2) for t in (steps, target))
        curvature = curvature.take_along_dim(order, 1)
        work, widths, bends = (_array(t) for t in (target, steps, curvature))
        levels = np.empty((groups, m, n), np.int32)
        errors, state, counts = np.zeros((groups, m, min(_COLUMNS, n))), np.zeros((groups, m)), first_counts()
        paths = PathCounts(counts, groups * m)
        for start in range(0, n, _COLUMNS):
            stop = min(start + _COLUMNS, n)
            near = np.ascontiguousarray(feedback[:, start:stop, start:stop])
            if self.on_path:
                paths.sweep(work, widths, bends, near, self.price, self.ridge, dead, start, errors, levels)
            else:
                _sweep(work, widths, bends, near, self.price, self.ridge, dead, counts, state, start, errors, levels)
            if stop < n:
                work[:, :, stop:] -= errors[:, :, : stop - start] @ feedback[:, start:stop, stop:]
        found = torch.from_numpy(levels).to(target.device)
        return torch.empty_like(found).scatter_(2, order[:, None, :].expand_as(found), found)

    def _one_by_one(self, steps: Tensor, dead: float) -> Tensor:
        """Where nothing is passed on: in runs of groups, which bound what is copied."""
        groups, m, n = self.target.shape
        levels, last, counts = np.empty((groups, m, n), np.int32), 0.0, first_counts()
        paths = PathCounts(counts, n)
        count = max(1, _RUN // max(m * n, 1))
        for first in range(0, groups, count):
            run = slice(first, first + count)
            work, widths, bends = (_array(t[run]) for t in (self.target, steps, self.curvature))
            if self.on_path:
                flat = work.reshape(-1), widths.reshape(-1), bends.repeat(m, axis=0).reshape(-1)
                levels[run] = paths.decide(*flat, self.price, self.ridge, dead).reshape(work.shape)
                continue
            state = np.zeros((len(work), m))
            if state.size:
                state[0, 0] = last
            errors, found = np.zeros((len(work), m, 0)), levels[run]
            _sweep(work, widths, bends, _NONE, self.price, self.ridge, dead, counts, state, 0, errors, found)
            last = state[-1, -1] if state.size else 0.0
        return torch.from_numpy(levels).to(self.target.device)


def _array(tensor: Tensor) -> np.ndarray:
    return np.array(tensor.cpu().numpy(), order="C")


def _ridge(rows: Tensor, price: float) -> float:
    """price gamma / 2."""
    variance = float(rows.square().mean()) if rows.numel() else 0.0
    return price / (2 * math.log(2) * variance) if variance else 0.0


@njit(cache=True, nogil=True)
def _refresh(table, counts, k):
    """-log2 of the shares of class k, with a bit for the sign."""
    total = np.log2(counts[k].sum())
    for a in range(SYMBOLS):
        table[k, a] = total - np.log2(counts[k, a]) + (1.0 if a else 0.0)


@njit(cache=True, nogil=True)
def _sweep(target, steps, curvature, feedback, price, ridge, dead, counts, state, start, errors, levels):
    """Decides `levels` of the columns from `start` on, as many as `feedback` covers (0: all, and nothing passed on).

    `state` holds a running mean of each row's magnitudes, another one runs down every column. Their mixture is the
    class whose counts price a level: the contexts of the coder, in short.
    """
    groups, m, n = target.shape
    count = min(feedback.shape[1], n - start) if feedback.shape[1] else n
    table = np.empty((CLASSES, SYMBOLS))
    fresh = np.zeros(CLASSES, np.int64)
    for k in range(CLASSES):
        _refresh(table, counts, k)
    above = np.zeros(count)
    for g in range(groups):
        for i in range(m):
            row = target[g, i, start : start + count]
            steady = state[g, i]
            if start == 0 and i + g > 0:
                steady = state[g, i - 1] if i else state[g - 1, m - 1]
            for j in range(count):
                w, s, d = row[j], steps[g, i, start + j], curvature[g, start + j]
                k = class_of((steady + above[j]) / 2)
                magnitude = np.int64(np.rint(abs(w) / s))
                if price > 0 or dead > 0:
                    nearest, best = magnitude, np.inf
                    for candidate in (nearest, nearest - 1, nearest - 2, 0):
                        if candidate < 0:
                            continue
                        value = s * candidate
                        cost = d * (abs(w) - value) ** 2 + price * bits_of(table[k], candidate) - ridge * value * value
                        if candidate > 0:
                            cost += dead * d * s * s
                        if cost < best:
                            best, magnitude = cost, np.int64(candidate)
                q = magnitude if w >= 0 else -magnitude
                levels[g, i, start + j] = q
                if feedback.shape[1]:
                    error = w - s * q
                    errors[g, i, j] = error
                    passed = feedback[g, j]
                    for c in range(j + 1, count):
                        row[c] -= error * passed[c]
                counts[k, min(magnitude, SYMBOLS - 1)] += 1.0
                fresh[k] += 1
                if fresh[k] >= 16:
                    fresh[k] = 0
                    if counts[k].sum() > MOST:
                        counts[k] *= 0.5
                    _refresh(table, counts, k)
                steady += (magnitude - steady) / 32
                above[j] += (magnitude - above[j]) / 16
            state[g, i] = steady


def settle(
    rows: Tensor, metric: Metric, codes: Tensor, values: Tensor, scales: Tensor, costs: Tensor, passes: int = 4
) -> Tensor:
    """Codes that no change of a single entry to a value near its optimum improves, or after so many passes.

    min tr(E H E') + sum costs[code], E = rows - scales * values[code]: entry by entry, the others fixed. Every change
    lowers the objective. Cost: O(n) a change, O(1) an entry that stays; the first product O(m n^2).

    Args:
        rows, codes: groups x m x n, of a metric that is not diagonal.
        values: K values, ascending.
        scales: factors of the entries, in a shape that expands to theirs.
        costs: K, of an entry with each value; `values[argmin |values|]` is always tried.
    """
    table, chosen = values.to(torch.float64), codes.to(torch.int64)
    gradient = metric.times(rows - scales * table[chosen])
    slope, gram, factors, table, paid = (
        t.to(torch.float64).cpu().contiguous().numpy()
        for t in (gradient, metric.gram, scales.expand(rows.shape), table, costs)
    )
    found = chosen.cpu().contiguous().numpy().copy()
    if found.size:
        _settle(slope, gram, factors, table, paid, found, passes)
    return torch.from_numpy(found).to(codes.device, codes.dtype)


@njit(cache=True, nogil=True)
def _settle(gradient, gram, scales, values, costs, codes, passes):
    groups, m, n = codes.shape
    zero = np.argmin(np.abs(values))
    last = values.size - 1
    for _ in range(passes):
        changes = 0
        for g in range(groups):
            for i in range(m):
                slope = gradient[g, i]
                for j in range(n):
                    code, s, bend = codes[g, i, j], scales[g, i, j], gram[g, j, j]
                    now = values[code]
                    wanted = now + slope[j] / (bend * s)
                    above = min(np.searchsorted(values, wanted), last)
                    best, new = 1e-12 * bend * s * s, code
                    for candidate in (above, above - 1, above + 1, above - 2, zero):
                        if candidate < 0 or candidate > last or candidate == code:
                            continue
                        step = s * (values[candidate] - now)
                        gain = step * (2 * slope[j] - step * bend) + costs[code] - costs[candidate]
                        if gain > best:
                            best, new = gain, candidate
                    if new != code:
                        changes += 1
                        codes[g, i, j] = new
                        step = s * (values[new] - now)
                        passed = gram[g, j]
                        for c in range(n):
                            slope[c] -= step * passed[c]
        if changes * 1000 < codes.size:
            break
