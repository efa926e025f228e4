"""n of every m neighbours kept: the pattern that sparse tensor cores run."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ArgumentError, must
from ..forms import Form, Sparse
from .compression import Compression, Terms
from .prune import gains, is_sparse, sparse_at
from .stored import check_stored


@dataclass(frozen=True)
class PruneNM(Compression):
    """min ||w - x||^2 over x with at most n nonzero among every m neighbours of a row (Mishra et al. 2021).

    A row is all that belongs to one output; its last run may be shorter than m. The constraint binds each run alone,
    so keeping the n of largest magnitude there (of equal ones the first) is exact. Cost O(N log m).

    Args:
        n: how many are kept, from 0 to m.
        m: how many neighbours make a run, at least 1.
        dtype: of the kept values, "float32", "float16" or "bfloat16"; None is the weight's own.

    >>> import torch
    >>> PruneNM(2, 4).project(torch.tensor([[1.0, -4.0, 3.0, 2.0, 5.0, 0.0]])).dense()
    tensor([[ 0., -4.,  3.,  0.,  5.,  0.]])
    """

    n: int
    m: int
    dtype: str | None = None

    def __post_init__(self) -> None:
        if type(self.m) is not int or self.m < 1:
            raise ArgumentError(must("PruneNM(n, m)", "m an integer of at least 1", self.m))
        if type(self.n) is not int or not 0 <= self.n <= self.m:
            raise ArgumentError(must("PruneNM(n, m)", f"n an integer from 0 to m = {self.m}", self.n))
        check_stored("PruneNM", self.dtype)

    def _project(self, weight: Tensor, terms: Terms) -> Form:
        gain = gains(weight, terms.importance, self.dtype)
        runs, places = self._runs(gain.reshape(self._rows(weight.shape)), fill=-1.0)
        chosen = runs.argsort(dim=1, descending=True, stable=True)[:, : self.n]
        kept = places.gather(1, chosen)[runs.gather(1, chosen) >= 0]
        return sparse_at(weight, kept.sort().values, self.dtype)

    def _is_feasible(self, form: Form) -> bool:
        if not isinstance(form, Sparse) or not is_sparse(form, self.dtype):
            return False
        kept = torch.zeros(form.size, dtype=torch.int64, device=form.device).index_fill(0, form.indices, 1)
        runs, _ = self._runs(kept.reshape(self._rows(form.shape)), fill=0)
        return not runs.numel() or int(runs.sum(1).max()) <= self.n

    def _runs(self, rows: Tensor, fill: float) -> tuple[Tensor, Tensor]:
        """The runs of m neighbours, one a row, the last of each row filled up; and each entry's place in memory."""
        places = torch.arange(rows.numel(), device=rows.device).reshape(rows.shape)
        missing = -rows.shape[1] % self.m
        padded = torch.nn.functional.pad(rows, (0, missing), value=fill)
        return padded.reshape(-1, self.m), torch.nn.functional.pad(places, (0, missing)).reshape(-1, self.m)

    @staticmethod
    def _rows(shape: torch.Size) -> tuple[int, int]:
        rows = shape[0] if len(shape) > 1 else 1
        return rows, shape.numel() // max(rows, 1)
