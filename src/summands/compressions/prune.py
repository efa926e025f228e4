"""Few entries kept, all others zero."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import ArgumentError, must
from ..forms import Form, Sparse
from .compression import Compression, Terms
from .scope import check_scope
from .stored import check_stored, rounded, stored_dtype


@dataclass(frozen=True)
class Prune(Compression):
    """min ||w - x||^2 over x with at most k nonzero entries: the k of largest magnitude (Part I; CVPR 2018).

    Exact, also when the kept values are rounded: what entry v gains by being kept, max over stored values r of
    2 v r - r^2, never falls as |v| grows. With an importance h the gain is h (v^2 - (v - r)^2). Ties go to the entry
    that comes first. A kept value that is (rounded to) zero is not stored. Cost O(N), by selection and not by sorting.

    Args:
        keep: the share of entries to keep, in [0, 1]; k is the nearest integer.
        count: k itself. Exactly one of keep and count is given. A count above the size keeps everything.
        per: "weight"; "row" or "channel" keeps k in each slice; "task" keeps k in all weights of the task together.
        dtype: of the kept values, "float32", "float16" or "bfloat16"; None is the weight's own.

    >>> import torch
    >>> Prune(count=2).project(torch.tensor([0.5, -3.0, 1.0, -1.0])).dense()
    tensor([ 0., -3.,  1.,  0.])
    """

    keep: float | None = None
    count: int | None = None
    per: str = "weight"
    dtype: str | None = None

    def __post_init__(self) -> None:
        if (self.keep is None) == (self.count is None):
            raise ArgumentError(must("Prune(keep=..., count=...)", "given one of both", (self.keep, self.count)))
        if self.keep is not None and not (_is_number(self.keep) and 0 <= self.keep <= 1):
            raise ArgumentError(must("Prune(keep=...)", "in [0, 1]", self.keep))
        if self.count is not None and (type(self.count) is not int or self.count < 0):
            raise ArgumentError(must("Prune(count=...)", "an integer of at least 0", self.count))
        check_scope("Prune", self.per)
        check_stored("Prune", self.dtype)

    def _project(self, weight: Tensor, terms: Terms) -> Form:
        score = gain(weight, terms.importance, self.dtype)
        return sparse_at(weight, largest(score, self._count(weight.numel())), self.dtype)

    def _is_feasible(self, form: Form) -> bool:
        return (
            isinstance(form, Sparse)
            and form.indices.numel() <= self._count(form.size)
            and form.values.dtype == stored_dtype(self.dtype, form.dtype)
        )

    def _count(self, size: int) -> int:
        wanted = self.count if self.count is not None else round((self.keep or 0.0) * size)
        return min(wanted, size)


def gain(weight: Tensor, importance: Tensor | None, dtype: str | None) -> Tensor:
    """For each entry, in memory order, a number that orders entries by the error that keeping them saves."""
    flat = weight.reshape(-1)
    if importance is None:
        return flat.abs()
    exact = flat.to(torch.float64)
    left = exact - rounded(flat, dtype).to(torch.float64)
    return importance.reshape(-1).to(torch.float64) * (exact**2 - left**2)


def largest(score: Tensor, count: int) -> Tensor:
    """The positions, increasing, of the `count` largest of a vector of scores; of equal scores the first ones."""
    size = score.numel()
    if count <= 0:
        return torch.empty(0, dtype=torch.int64, device=score.device)
    if count >= size:
        return torch.arange(size, device=score.device)
    if score.dtype in (torch.float16, torch.bfloat16):
        score = score.float()
    if score.device.type == "cpu":  # NumPy's selection is several times faster than torch's, on the same memory
        threshold = float(np.partition(score.numpy(), size - count)[size - count])
    else:
        threshold = float(score.kthvalue(size - count + 1).values)
    kept = score > threshold
    level = (score == threshold).nonzero().reshape(-1)
    kept[level[: count - int(kept.sum())]] = True
    return kept.nonzero().reshape(-1)


def sparse_at(weight: Tensor, indices: Tensor, dtype: str | None) -> Sparse:
    """The sparse form that keeps these positions of a weight; those that round to zero are left out."""
    values = rounded(weight.reshape(-1).index_select(0, indices), dtype)
    nonzero = values != 0
    return Sparse(shape=weight.shape, dtype=weight.dtype, indices=indices[nonzero], values=values[nonzero])


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
