"""A codebook at a price for a bit: the entropy-constrained scalar quantiser, as a shortest path over cuts.

A code of n of N entries takes log2(N/n) bits each, so with a price p the best codebook minimises

    sum over runs  [ squared distance to the run's mean  +  p (n log2(N/n) + bits of one more value) ]

over all partitions of the sorted entries into runs, of any number. The bits of a run hang on nothing but its own
length, so this is the shortest path from the first cut to the last, F(j) = min_i F(i) + run(i, j): one pass finds the
number of values, the values and a dead zone together (Chou, Lookabaugh, Gray 1989 alternate instead). For unweighted
error the runs lose nothing: entry x pays (x - c)^2 + p l, and of two values the larger wins from some x on.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from numba import njit
from torch import Tensor

from ..forms import Codebook
from ..forms.codebook import codes_dtype
from .partition import Points
from .stored import rounded, stored_dtype

_CUTS = 1024
"""So many cuts, at equal shares of the entries and at equal distances, are compared at once."""


def priced_form(
    weight: Tensor,
    points: Points,
    importance: Tensor | None,
    price: float,
    dtype: str | None,
    least_zeros: float | None,
) -> Codebook:
    """The codebook form of least error + price * (entropy of the codes + bits of the values), all cuts considered.

    Exact among a thousand cuts; then among as many around those found, until they stand between single entries. With an
    importance, entries choose their code by their own importance, and values and code lengths are fitted again.

    Args:
        points: of the weight's entries; about zero if `least_zeros` is given.
        least_zeros: one of the values is 0, and at least so many entries are to stand at it.

    Cost: O(M^2) for M = 2048 at worst, far less where runs are short.
    """
    price = min(price, 1e100)  # an infinite one would make 0 bits cost what is no number
    bits = 8 * stored_dtype(dtype, weight.dtype).itemsize + 0.5 * math.log2(max(points.count[-1], 2))
    cuts = _best_cuts(points, price, price * bits, least_zeros)
    values, ends = _values(points, cuts, zero=least_zeros is not None)
    form = _by_ends(weight, values, ends, dtype)
    return form if importance is None else _by_importance(weight, form, importance, price, least_zeros)


def _best_cuts(points: Points, price: float, value_cost: float, least_zeros: float | None) -> np.ndarray:
    """Rows (start, stop, is zero), the runs of the shortest path."""
    size = points.values.size
    if not size:
        return np.zeros((1, 3), np.int64)
    spread = np.linspace(float(points.values[0]), float(points.values[-1]), _CUTS + 1)
    equal = np.linspace(0, size, min(size, _CUTS) + 1).astype(np.int64)
    sums = (points.count, points.mass, points.moment, points.energy)
    edges: np.ndarray = np.unique(np.concatenate([equal, np.searchsorted(points.values, spread)]))
    zero, least = least_zeros is not None, float(least_zeros or 0)
    while True:
        runs = _shortest(edges, price, value_cost, zero, least, *sums)
        found = np.unique(runs[:, :2])
        gap = int(np.diff(edges).max())
        near = max(1, _CUTS // len(found))  # candidates on either side of each cut
        if gap <= 1 or near < 2:
            return runs
        nexts = np.searchsorted(edges, found)
        before, after = edges[np.maximum(nexts - 1, 0)], edges[np.minimum(nexts + 1, len(edges) - 1)]
        share = np.linspace(0, 1, near + 1)[:, None]
        fine = np.concatenate([before + (found - before) * share, found + (after - found) * share])
        finer = np.unique(fine.astype(np.int64))
        if len(finer) == len(edges) and (finer == edges).all():
            return runs
        edges = finer


def _values(points: Points, runs: np.ndarray, zero: bool) -> tuple[np.ndarray, np.ndarray]:
    """The value of every run, 0 for the zero run; and the largest entry of every run, which tells codes apart."""
    values, ends = [], []
    for start, stop, is_zero in runs:
        if is_zero or start == stop:
            values.append(0.0)
        else:
            held, first = points.values[start:stop].astype(np.float64), float(points.values[start])
            mass = np.diff(points.mass[start : stop + 1])
            total = mass.sum()
            values.append(first + float((held - first) @ mass / total) if total > 0 else float(held.mean()))
        ends.append(float(points.values[stop - 1]) if stop else -np.inf)
    return np.array(values), np.array(ends)


def _by_ends(weight: Tensor, values: np.ndarray, ends: np.ndarray, dtype: str | None) -> Codebook:
    wide = torch.promote_types(weight.dtype, torch.float32)
    borders = torch.from_numpy(ends[:-1]).to(wide).to(weight.device)
    codes = torch.searchsorted(borders, weight.reshape(-1).to(wide).contiguous(), out_int32=True)
    stored = rounded(torch.from_numpy(values), dtype, weight.dtype).to(weight.device)
    codes = codes.to(codes_dtype(len(values))).reshape(weight.shape)
    return Codebook(shape=weight.shape, dtype=weight.dtype, values=stored, codes=codes)


def _by_importance(
    weight: Tensor, form: Codebook, importance: Tensor, price: float, least_zeros: float | None, turns: int = 3
) -> Codebook:
    """Codes by h (x - c)^2 + price * length, then values and lengths by the codes, in turn."""
    vector, weighting = weight.reshape(-1).to(torch.float64), importance.reshape(-1).to(torch.float64)
    if not vector.numel():
        return form
    values, codes = form.values.to(torch.float64), form.codes.reshape(-1).to(torch.int64)
    fixed = values == 0 if least_zeros is not None else torch.zeros_like(values, dtype=torch.bool)
    for _ in range(turns):
        share = torch.bincount(codes, minlength=len(values)) / len(codes)
        least, codes = torch.full_like(vector, torch.inf), torch.zeros_like(codes)
        for k in (share > 0).nonzero().reshape(-1).tolist():
            pays = weighting * (vector - values[k]) ** 2 - price * math.log2(float(share[k]))
            codes, least = torch.where(pays < least, k, codes), torch.minimum(least, pays)
        mass = torch.zeros_like(values).index_add_(0, codes, weighting)
        moment = torch.zeros_like(values).index_add_(0, codes, weighting * vector)
        values = torch.where((mass > 0) & ~fixed, moment / mass.where(mass > 0, 1.0), values)
    stored = rounded(values.to(form.dtype), None).to(form.values.dtype)
    return replace(form, values=stored, codes=codes.to(form.codes.dtype).reshape(weight.shape))


@njit(cache=True, nogil=True)
def _shortest(edges, price, value_cost, zero, least_zeros, count, mass, moment, energy):
    """The runs (start, stop, is zero) of the shortest path over these cuts; with `zero`, exactly one is the zero run.

    State 0 has not met the zero run yet, state 1 has. Going back from a cut, the error of the run only grows: the
    search ends where it alone is more than the best path so far.
    """
    m, total = edges.size, count[-1]
    cost = np.full((2, m), np.inf)
    where = np.zeros((2, m), np.int64)
    is_zero = np.zeros(m, np.bool_)
    cost[0, 0] = 0.0
    if zero and least_zeros <= 0:
        cost[1, 0], is_zero[0] = value_cost, True
    for j in range(1, m):
        b = edges[j]
        for i in range(j - 1, -1, -1):
            a = edges[i]
            held = count[b] - count[a]
            h, s = mass[b] - mass[a], moment[b] - moment[a]
            error = max(0.0, energy[b] - energy[a] - s * s / h) if h > 0 else 0.0
            if error >= cost[0, j] and (not zero or error >= cost[1, j]):
                break
            rate = value_cost + (price * held * np.log2(total / held) if 0 < held < total else 0.0)
            for state in range(2 if zero else 1):
                if cost[state, i] + error + rate < cost[state, j]:
                    cost[state, j], where[state, j] = cost[state, i] + error + rate, i
                    if state:
                        is_zero[j] = False
            if zero and held >= least_zeros:
                through = cost[0, i] + energy[b] - energy[a] + rate
                if through < cost[1, j]:
                    cost[1, j], where[1, j], is_zero[j] = through, i, True
        if zero and least_zeros <= 0 and cost[0, j] + value_cost < cost[1, j]:
            cost[1, j], where[1, j], is_zero[j] = cost[0, j] + value_cost, j, True
    runs = np.zeros((m + 1, 3), np.int64)
    state, j, n = int(zero), m - 1, 0
    while j > 0 or state:
        i = where[state, j]
        runs[n, 0], runs[n, 1] = edges[i], edges[j]
        if state and is_zero[j]:
            runs[n, 2], state = 1, 0
        n += 1
        j = i
    return runs[:n][::-1]
