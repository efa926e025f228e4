"""Tucker-2: a convolution through fewer channels on both sides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import ArgumentError, WeightError, must
from ..forms import Dense, Form
from ..forms import Tucker as TuckerForm
from .compression import Compression, Terms
from .spectral import eigen
from .stored import check_stored, rounded, stored_dtype, value_bits


@dataclass(frozen=True)
class Tucker(Compression):
    """min ||W - core x_out U x_in V||^2 with r_out and r_in channels on the two sides of a kernel (Kim et al. 2016).

    Both bases start from the leading singular vectors of the unfoldings (HOSVD) and are then fitted in turn (HOOI; De
    Lathauwer et al. 2000): monotone, and a local optimum, as no exact solution is known. "auto" takes the ranks that
    minimise error + price * bits, the error being the truncated HOSVD's, exact by comparing all pairs; dense where
    that costs less. A better feasible `previous` is returned as it is. Cost: two eigendecompositions a sweep.

    Args:
        out_rank: r_out >= 0, or "auto" for both.
        in_rank: r_in >= 0; not with "auto".
        dtype: of the three tensors, "float32", "float16" or "bfloat16"; None is the weight's own.

    >>> import torch
    >>> form = Tucker(3, 2).project(torch.ones(6, 5, 3, 3))
    >>> tuple(form.core.shape), torch.allclose(form.dense(), torch.ones(6, 5, 3, 3))
    ((3, 2, 3, 3), True)
    """

    sweeps: ClassVar[int] = 5
    out_rank: int | str
    in_rank: int | None = None
    dtype: str | None = None

    def __post_init__(self) -> None:
        ranks = (self.out_rank, self.in_rank)
        if ranks != ("auto", None) and any(type(rank) is not int or rank < 0 for rank in ranks):
            raise ArgumentError(must("Tucker(out_rank, in_rank)", "integers of at least 0, or 'auto' alone", ranks))
        check_stored("Tucker", self.dtype)

    def cost(self, form: Form, *, mu: float | None = None, price: float | None = None) -> float:
        """price * bits of the three tensors, or of the dense weight, for "auto"; fixed ranks cost nothing."""
        if self.out_rank != "auto" or price is None:
            return 0.0
        return price * sum(t.numel() * value_bits(t.dtype, exponent_bits=3) for t in form.tensors().values())

    def _project(self, weight: Tensor, terms: Terms) -> Form:
        if not 3 <= weight.ndim <= 5:
            raise WeightError(must("a weight for Tucker", "3-d to 5-d, a convolution's kernel", f"{weight.ndim}-d"))
        if terms.importance is not None:
            raise ArgumentError("Tucker must get no importance; Prune, Quantize and LowRank take one")
        exact = weight.to(torch.float64)
        u, v = _basis(exact), _basis(exact.movedim(1, 0))
        ranks = self._ranks(weight, _core(exact, u, v), terms.price)
        if ranks is None:
            return Dense(shape=weight.shape, dtype=weight.dtype, values=rounded(weight, self.dtype).clone())
        u, v = u[:, : ranks[0]], v[:, : ranks[1]]
        for _ in range(self.sweeps if min(ranks) else 0):
            u = _basis(torch.einsum("nm...,mq->nq...", exact, v))[:, : ranks[0]]
            v = _basis(torch.einsum("nm...,np->mp...", exact, u))[:, : ranks[1]]
        parts = (rounded(t, self.dtype, weight.dtype).contiguous() for t in (u, _core(exact, u, v), v.T))
        out, core, into = parts
        form = TuckerForm(shape=weight.shape, dtype=weight.dtype, out=out, core=core, into=into)
        last = terms.previous
        if last is not None and self.is_feasible({"": last}, {"": weight}):
            return min(form, last, key=lambda f: self.objective(weight, f, price=terms.price))
        return form

    def _is_feasible(self, form: Form) -> bool:
        stored = stored_dtype(self.dtype, form.dtype)
        if any(t.dtype != stored for t in form.tensors().values()):
            return False
        limits = form.shape[:2] if self.in_rank is None else (int(self.out_rank), self.in_rank)
        if isinstance(form, TuckerForm):
            return form.ranks[0] <= limits[0] and form.ranks[1] <= limits[1]
        return isinstance(form, Dense) and limits[0] >= form.shape[0] and limits[1] >= form.shape[1]

    def _ranks(self, weight: Tensor, core: Tensor, price: float | None) -> tuple[int, int] | None:
        """The ranks to use, none above its dimension; None for dense."""
        n, m = weight.shape[:2]
        if self.in_rank is not None:
            ranks = (min(int(self.out_rank), n), min(self.in_rank, m))
            return None if ranks == (n, m) else ranks
        if price is None:
            raise ArgumentError('Tucker("auto") must get a price; set a budget, or numbers for the ranks')
        energy = torch.zeros(n + 1, m + 1, dtype=torch.float64, device=core.device)
        energy[1:, 1:] = core.square().flatten(2).sum(2).cumsum(0).cumsum(1)
        p, q = torch.arange(n + 1).to(energy)[:, None], torch.arange(m + 1).to(energy)
        numbers = n * p + m * q + p * q * weight.shape[2:].numel()
        unit = price * value_bits(stored_dtype(self.dtype, weight.dtype), exponent_bits=3)
        totals = energy[-1, -1] - energy + unit * numbers
        best = int(totals.argmin())
        if unit * weight.numel() < float(totals.flatten()[best]):
            return None
        return best // (m + 1), best % (m + 1)


def _basis(tensor: Tensor) -> Tensor:
    """The left singular vectors of the unfolding along the first axis, the strongest first."""
    unfolded = tensor.flatten(1)
    scale = (float(unfolded.abs().max()) if unfolded.numel() else 0.0) or 1.0
    unfolded = unfolded / scale
    return eigen(unfolded @ unfolded.T)[1]


def _core(tensor: Tensor, u: Tensor, v: Tensor) -> Tensor:
    return torch.einsum("nm...,np,mq->pq...", tensor, u, v)
