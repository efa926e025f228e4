"""Codebooks: the best values for a weight, and the nearest value for each entry."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ..forms import Codebook
from ..forms.codebook import codes_dtype
from .compression import Terms
from .partition import CELL, ZERO, Partition, Points, best_partition, cell_means, coarse_partitions
from .scope import AXES, slices
from .stored import rounded


def host_slices(weight: Tensor, terms: Terms, per: str) -> list[tuple[np.ndarray, np.ndarray | None]]:
    """What one codebook each is fitted to, (entries, importance), in host memory: all entries, or rows or channels."""
    vectors = slices(terms.host if terms.host is not None else weight.cpu(), per)
    entries = as_entries(vectors)
    if terms.importance is None:
        return [(entry, None) for entry in entries]
    return list(zip(entries, slices(terms.importance.cpu(), per).to(torch.float64).numpy(), strict=True))


def as_entries(host: Tensor) -> np.ndarray:
    """For NumPy, which has no bfloat16 and sorts float16 slowly."""
    return host.to(torch.promote_types(host.dtype, torch.float32)).numpy()


def optimal_values(points: Points, k: int) -> np.ndarray:
    """At most k values with the least squared error to the nearest, ascending: 1-D k-means, globally optimal."""
    if points.values.size <= k:
        return points.values.astype(np.float64) if points.values.size else np.zeros(1)
    best = best_partition(points, [CELL] * k)
    return np.zeros(1) if best is None else cell_means(points, best.runs)


def optimal_values_and_zero(points: Points, k: int, least_zeros: float = 0.0) -> np.ndarray:
    """The same with 0 one of the k values, and at least so many entries at 0. The points are about zero.

    For each number of cells below the zero run one partition is optimal; most numbers fall to their first bound.
    """
    best = Partition(np.inf, [])
    for below in sorted(range(k), key=lambda cells: abs(2 * cells - k + 1)):
        kinds = [CELL] * below + [ZERO] + [CELL] * (k - 1 - below)
        best = best_partition(points, kinds, least_zeros=least_zeros, below=best.cost) or best
    return np.unique(np.append(cell_means(points, best.runs), 0.0))


def likely_counts(all_points: Sequence[Points], price: float, value_bits: int, most: int = 256) -> list[int]:
    """The three numbers of values with the least error + price * (entropy of the codes + bits of the values).

    On cuts between equal shares of the points. The caller decides among the three by their true cost.
    """
    buckets = max(64, 1024 // len(all_points))
    most = max(1, min(most, buckets // 4, max(points.values.size for points in all_points)))
    cost = np.zeros(most)
    for points in all_points:
        for i, partition in enumerate(coarse_partitions(points, most, buckets)):
            held = np.array([points.count[run.stop] - points.count[run.start] for run in partition.runs])
            held = held[held > 0]
            bits = held @ np.log2(held.sum() / held) + value_bits * (i + 1)
            cost[i] += partition.cost + price * bits
    return sorted(int(i) + 1 for i in np.argsort(cost, kind="stable")[:3])


def nearest_form(weight: Tensor, codebooks: Sequence[np.ndarray], per: str, dtype: str | None) -> Codebook:
    """Every entry at the nearest value of its codebook, once rounded to the stored dtype; ties to the lower value.

    The codebooks, ascending, and the borders between their values travel to the weight's device in one tensor.
    """
    longest = max(map(len, codebooks))
    values = torch.from_numpy(np.stack([np.pad(c, (0, longest - len(c)), mode="edge") for c in codebooks]))
    stored = rounded(values, dtype, weight.dtype)
    wide = torch.promote_types(torch.promote_types(weight.dtype, stored.dtype), torch.float32)
    seen = stored.to(weight.dtype).to(torch.float64)
    borders = _at_most(seen[:, 1:] / 2 + seen[:, :-1] / 2, wide)
    padded = torch.arange(1, longest) >= torch.tensor([len(c) for c in codebooks])[:, None]
    borders = borders.masked_fill(padded, torch.inf)
    table = torch.cat([stored.to(wide), borders], dim=1).to(weight.device)
    vectors = slices(weight, per).to(wide).contiguous()
    codes = torch.searchsorted(table[:, longest:].contiguous(), vectors, out_int32=True).to(codes_dtype(longest))
    values = table[:, :longest].to(stored.dtype, copy=True)
    if per not in AXES:
        return Codebook(shape=weight.shape, dtype=weight.dtype, values=values[0], codes=codes.reshape(weight.shape))
    axis = AXES[per]
    codes = codes.reshape(weight.movedim(axis, 0).shape).movedim(0, axis).contiguous()
    return Codebook(shape=weight.shape, dtype=weight.dtype, values=values, codes=codes, axis=axis)


Solve = Callable[[np.ndarray, np.ndarray | None], np.ndarray]
"""(entries, importance) -> a codebook, ascending."""


def fitted_form(weight: Tensor, terms: Terms, per: str, dtype: str | None, solve: Solve) -> Codebook:
    """The form with the codebook that `solve` finds for the weight, or for each row or channel of it."""
    return nearest_form(weight, [solve(*vector) for vector in host_slices(weight, terms, per)], per, dtype)


def _at_most(numbers: Tensor, dtype: torch.dtype) -> Tensor:
    """The largest values of `dtype` that do not exceed these: what a value of `dtype` is compared with exactly."""
    near = numbers.to(dtype)
    return torch.where(near.to(numbers.dtype) > numbers, near.nextafter(near.new_tensor(-torch.inf)), near)
