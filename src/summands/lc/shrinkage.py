"""How far what some inputs say of a layer is believed on others: the first half of them asks the second.

Rounding for moments A makes errors of covariance A^-1, up to a factor. Where B holds, that costs
ln(tr(A^-1 B) / n) + ln det A / n, twice the nats an entry at equal error: the least is at A = B up to a factor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

CORRELATIONS = (0.0, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0)
DIFFERENCES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
FELT = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)
"""What is tried: see `Shrinkage`."""


@dataclass(frozen=True)
class Shrinkage:
    """What becomes of a layer's moments H before it is compressed for them.

    Attributes:
        correlations: share of the correlations between different inputs that is given up.
        differences: share of what tells the inputs' sizes apart that is given up, after that.
        felt: share of the gradients' moments in the place of H, before that.
        elsewhere: what errors shaped by the result cost on other inputs, over what it says itself.
    """

    correlations: float = 0.0
    differences: float = 0.0
    felt: float = 0.0
    elsewhere: float = 1.0

    def __call__(self, gram: Tensor, columns: Tensor | None = None) -> Tensor:
        """The moments, groups x n x n, at equal trace of every group.

        Args:
            columns: the gradients' moments, in any unit, which is not used where they are zero.
        """
        if self.felt and columns is not None:
            felt = at_equal_trace(columns, gram)
            gram = torch.where(_trace(felt) > 0, (1 - self.felt) * gram + self.felt * felt, gram)
        if not self.correlations and not self.differences:
            return gram
        diagonal = gram.diagonal(dim1=1, dim2=2)
        added = self._distinct * self.correlations * diagonal + self.differences * diagonal.mean(1, keepdim=True)
        return self._distinct * (1 - self.correlations) * gram + torch.diag_embed(added)

    @property
    def kept(self) -> float:
        """The share of H that is left as it is."""
        return self._distinct * (1 - self.correlations) * (1 - self.felt)

    @property
    def _distinct(self) -> float:
        return 1 - self.differences


def best_shrinkage(
    halves: Sequence[Tensor],
    damping: float,
    columns: Sequence[Tensor] | None = None,
    correlations: float | None = None,
) -> Shrinkage:
    """That with which either half of the inputs tells the other half best, as far as CORRELATIONS, ... have it.

    Args:
        halves: H of the first inputs and of the others, groups x n x n.
        columns: the gradients' moments of both. They are then what is to be told, since the output feels an error by
            them; but of few inputs H is the steadier estimate. Also measures the cost `elsewhere`.
        correlations: given up where this is not to be chosen; then no differences are.

    Cost: some 20 decompositions of either half, 4 n^3 / 3 each.
    """
    halves = [half.double() for half in halves]
    truths = halves[::-1] if columns is None else [felt.double() for felt in columns[::-1]]
    wanted = [_damped(truth, damping) for truth in truths]

    def shaped(by: Shrinkage) -> list[Tensor]:
        own = [None, None] if columns is None else columns
        return [_damped(by(h, felt), damping) for h, felt in zip(halves, own, strict=True)]

    def cost(by: Shrinkage) -> float:
        return sum(_mismatch(a, b) for a, b in zip(shaped(by), wanted, strict=True))

    best = Shrinkage(correlations=correlations or 0.0)
    if columns is not None:
        best = min((replace(best, felt=share) for share in FELT), key=cost)
    if correlations is None:
        best = min((replace(best, correlations=share) for share in CORRELATIONS), key=cost)
        best = min((replace(best, differences=share) for share in DIFFERENCES), key=cost)
    if columns is None:
        return best
    scaled = [at_equal_trace(truth, a) for truth, a in zip(truths, halves, strict=True)]
    factors = [torch.linalg.cholesky_ex(a).L for a in shaped(best)]
    return replace(best, elsewhere=sum(float(_excess(a, b).mean()) / 2 for a, b in zip(factors, scaled, strict=True)))


def at_equal_trace(moments: Tensor, like: Tensor) -> Tensor:
    """Moments times what gives each group the trace that it has in `like`; zeros stay."""
    own = _trace(moments.double())
    factor = torch.where(own > 0, _trace(like.double()) / own.clamp_min(1e-300), 0.0)
    return (moments.double() * factor).to(like)


def _trace(moments: Tensor) -> Tensor:
    return moments.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]


def _damped(gram: Tensor, damping: float) -> Tensor:
    mean = gram.diagonal(dim1=1, dim2=2).mean(1)
    added = max(damping, 1e-4) * torch.where(mean > 0, mean, 1.0)
    return gram + torch.diag_embed(added[:, None].expand(gram.shape[:2]))


def _mismatch(a: Tensor, b: Tensor) -> float:
    factor = torch.linalg.cholesky_ex(a).L
    excess = _excess(factor, b)
    return float((a.shape[1] * excess.log() + 2 * factor.diagonal(dim1=1, dim2=2).log().sum(1)).sum())


def _excess(factor: Tensor, b: Tensor) -> Tensor:
    """tr(A^-1 B) / n of every group, A by its Cholesky factor."""
    return torch.cholesky_solve(b, factor).diagonal(dim1=1, dim2=2).mean(1)
