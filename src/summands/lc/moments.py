"""The second moments of a layer's input: all that post-training needs to know of the data."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..compressions.metric import Metric
from ..errors import ArgumentError, WeightError, must


@dataclass(frozen=True, eq=False)
class Moments:
    """What calibration found for one weight; undamped.

    The weight is seen as groups x (out / groups) x n, n = in / groups * prod(kernel): the unfolded patch of one group.

    Attributes:
        gram: groups x n x n, the mean of xh xh' over all inputs xh that the compressed network feeds this layer; or,
            for an embedding of V tokens, their V frequencies, smoothed: (n_j + 1) / (N + V).
        count: the number of inputs N.
        cross: like `gram`, the mean of x xh', x being what the original network feeds here; None when both are the
            same. The layer then aims at the outputs W0 x of the original from the inputs xh that it really gets.
        felt: how much an error of each output counts, one positive number for each row of the weight; None for all
            alike, as for an embedding, whose rows are its tokens.
    """

    gram: Tensor
    count: int
    cross: Tensor | None = None
    felt: Tensor | None = None

    @property
    def is_diagonal(self) -> bool:
        return self.gram.ndim == 1

    def check(self, weight: Tensor) -> None:
        """WeightError or ArgumentError unless the moments fit a weight of this shape and are finite."""
        if not isinstance(weight, Tensor) or not weight.is_floating_point() or weight.ndim < 2:
            got = f"{tuple(weight.shape)} of {weight.dtype}" if isinstance(weight, Tensor) else type(weight).__name__
            raise WeightError(must("weight", "a floating tensor of at least two dimensions", got))
        if not bool(torch.isfinite(weight).all()):
            raise WeightError(
                must("weight", "finite", f"{int((~torch.isfinite(weight)).sum())} NaN or infinite entries")
            )
        if self.count < 1:
            raise ArgumentError(must("the count of a layer's moments", "at least 1 input", self.count))
        n = weight.shape[0] if self.is_diagonal else math.prod(weight.shape[1:])
        fits = self.gram.ndim in (1, 3) and self.gram.shape[-1] == n and weight.shape[0] % self.gram.shape[0] == 0
        if not fits or (self.gram.ndim == 3 and self.gram.shape[1] != n):
            needed = f"groups x {n} x {n}, or {weight.shape[0]} token frequencies, for this weight"
            raise ArgumentError(must("the moments of a layer's input", needed, tuple(self.gram.shape)))
        if self.felt is not None and (self.is_diagonal or self.felt.shape != weight.shape[:1]):
            allowed = "left out for an embedding" if self.is_diagonal else f"{weight.shape[0]} numbers, one a row"
            raise ArgumentError(must("felt", allowed, tuple(self.felt.shape)))
        if self.felt is not None and not bool((self.felt > 0).all() and torch.isfinite(self.felt).all()):
            raise ArgumentError(must("felt", "finite numbers above 0", float(self.felt.min())))
        if self.cross is not None and (self.cross.shape != self.gram.shape or self.is_diagonal):
            raise ArgumentError(
                must("cross", f"of the moments' shape {tuple(self.gram.shape)}", tuple(self.cross.shape))
            )
        if self.cross is not None and not bool(torch.isfinite(self.cross).all()):
            raise ArgumentError(must("cross", "finite", "NaN or infinite entries"))

    def metric(self, damping: float = 0.01) -> Metric:
        """H, damped (see `Metric.of`), and decomposed once however often it is asked for."""
        kept: dict[float, Metric] = self.__dict__.setdefault("_metrics", {})
        if damping not in kept:
            metric = Metric.of(self.gram, damping)
            if self.felt is not None:
                factors = self.felt.to(metric.gram).sqrt().reshape(len(metric.gram), -1, 1)
                metric = metric.counting(factors)
            kept[damping] = metric
        return kept[damping]

    def target(self, weight: Tensor, metric: Metric) -> Tensor:
        """The weight that reproduces the original outputs best: W0 E[x xh'] H^-1, in `metric.rows`.

        Both moments are damped alike, so that without drift it is W0 itself.
        """
        original = metric.rows(weight)
        if self.cross is None:
            return original
        gram = self.gram.to(torch.float64)
        drift = self.cross.to(torch.float64) - (gram + gram.mT) / 2
        return original + metric.solve(original @ drift)
