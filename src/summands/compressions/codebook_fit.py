"""Codebooks: the best values for a weight, and the nearest value for each entry."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..forms import Codebook
from ..forms.codebook import codes_dtype
from .partition import CELL, Points, Run, best_partition, points_of
from .stored import rounded


def optimal_values(host: Tensor, importance: Tensor | None, k: int) -> Tensor:
    """At most k values with the least squared error to the nearest, ascending, float64: 1-D k-means, globally optimal.

    Fewer when fewer are distinct.
    """
    points = points_of(as_array(host), None if importance is None else as_array(importance))
    if points.values.size <= k:
        return torch.from_numpy(points.values if points.values.size else np.zeros(1))
    return torch.from_numpy(cell_means(points, best_partition(points, [CELL] * k)))


def cell_means(points: Points, runs: list[Run]) -> np.ndarray:
    """The mean of every cell that holds a point."""
    mass = np.diff(points.mass)
    cells = [slice(run.start, run.stop) for run in runs if run.kind == CELL and run.start < run.stop]
    return np.array([_mean(points.values[cell], mass[cell]) for cell in cells])


def nearest_form(weight: Tensor, values: Tensor, dtype: str | None) -> Codebook:
    """Every entry at the nearest of `values`, once these are rounded to the stored dtype; ties to the lower value.

    `values` are ascending, float64, in host memory. They and the borders travel to the weight's device in one tensor.
    """
    stored = rounded(values, dtype, weight.dtype)
    wide = torch.promote_types(torch.promote_types(weight.dtype, stored.dtype), torch.float32)
    seen = stored.to(weight.dtype).to(torch.float64)
    table = torch.cat([stored.to(wide), _at_most((seen[1:] + seen[:-1]) / 2, wide)]).to(weight.device)
    codes = torch.bucketize(weight.to(wide), table[len(values) :], out_int32=True)
    return Codebook(
        shape=weight.shape,
        dtype=weight.dtype,
        values=table[: len(values)].to(stored.dtype),
        codes=codes.to(codes_dtype(len(values))),
    )


def as_array(host: Tensor) -> np.ndarray:
    """A vector for NumPy, which has no bfloat16 and sorts float16 slowly."""
    return host.reshape(-1).to(torch.promote_types(host.dtype, torch.float32)).numpy()


def _at_most(numbers: Tensor, dtype: torch.dtype) -> Tensor:
    """The largest values of `dtype` that do not exceed these: what a value of `dtype` is compared with exactly."""
    near = numbers.to(dtype)
    return torch.where(near.to(numbers.dtype) > numbers, near.nextafter(near.new_tensor(-torch.inf)), near)


def _mean(values: np.ndarray, mass: np.ndarray) -> float:
    # About the first value, so that equal values have themselves as their mean, exactly.
    return float(values[0] + np.dot(values - values[0], mass) / mass.sum())
