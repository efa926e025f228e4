"""The norm in which a layer feels an error of its weight: tr(E H E'), H the second moments of the layer's input."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from ..errors import ArgumentError, must

_LEAST = 1e-9
"""Smallest eigenvalue, as a share of the largest, with which float64 still solves to single precision."""


@dataclass(frozen=True, eq=False)
class Metric:
    """||E||^2 = sum_g tr(D E_g H_g E_g' D), with D times the weight seen as `rows`: groups x m x n, n the inputs of one
    output.

    Attributes:
        gram: H, float64 and positive definite: groups x n x n; or n values, the diagonal of an embedding whose n rows
            are weighted one by one.
        damping: what was added to its diagonal, as a share of the mean.
        note: what had to be done to make it positive definite; "" for nothing.
        factors: D, groups x m x 1, float64 and above 0: how much an error of each row counts; None for all alike.
    """

    gram: Tensor
    damping: float = 0.0
    note: str = ""
    factors: Tensor | None = None

    @classmethod
    def of(cls, gram: Tensor, damping: float = 0.01) -> Self:
        """The metric of undamped moments: delta times the mean diagonal is added to the diagonal of every group.

        An input that is always zero keeps H_jj = delta. Where the sum is not positive definite, which happens to few
        samples without damping and to moments summed in low precision, delta grows tenfold until it is; moments that
        are all zero become the identity. One eigendecomposition a group, O(n^3), in float64.

        Raises:
            ArgumentError: the moments are not finite, of a wrong shape, or have a negative diagonal.
        """
        if not (isinstance(damping, int | float) and 0 <= damping < math.inf):
            raise ArgumentError(must("damping", "a finite share of at least 0", damping))
        wide = gram.detach().to(torch.float64)
        if not bool(torch.isfinite(wide).all()):
            count = int((~torch.isfinite(wide)).sum())
            raise ArgumentError(must("the moments of a layer's input", "finite", f"{count} NaN or infinite entries"))
        if wide.ndim == 1:
            if bool((wide < 0).any()):
                raise ArgumentError(must("the diagonal of the moments", "at least 0", float(wide.min())))
            mean = float(wide.mean()) if wide.numel() else 0.0
            return cls(wide + damping * mean if mean else torch.ones_like(wide), damping)
        if wide.ndim != 3 or wide.shape[1] != wide.shape[2]:
            raise ArgumentError(must("the moments of a layer's input", "groups x n x n, or n", tuple(wide.shape)))
        wide = (wide + wide.mT) / 2
        means = wide.diagonal(dim1=1, dim2=2).mean(1)
        if bool((means < 0).any()):
            raise ArgumentError(must("the diagonal of the moments", "at least 0", float(means.min())))
        values, vectors = torch.linalg.eigh(wide)
        share = float(damping)
        # Dead groups take the mean of the others; an input of zeros alone leaves plain squared errors.
        scale = torch.where(means > 0, means, means.mean()) if bool((means > 0).any()) else torch.ones_like(means)
        dead = not bool((means > 0).any())
        while not dead and bool((values[:, 0] + share * scale < _LEAST * (values[:, -1] + share * scale)).any()):
            share = max(10 * share, 1e-8)
        note = "" if share == damping else f"damping raised from {damping:g} to {share:g} of the mean diagonal"
        if dead:
            share, note = 1.0, "its input is always zero: the plain squared error decides"
        added = share * scale
        metric = cls(wide + torch.diag_embed(added[:, None].expand(values.shape)), share, note)
        metric.__dict__["_eigen"] = (values + added[:, None], vectors)
        return metric

    def counting(self, factors: Tensor) -> Self:
        """The same with these factors for its rows; nothing is decomposed again."""
        counting = replace(self, factors=factors)
        counting.__dict__.update({k: v for k, v in self.__dict__.items() if k == "_eigen"})
        return counting

    @property
    def is_diagonal(self) -> bool:
        return self.gram.ndim == 1

    def rows(self, weight: Tensor) -> Tensor:
        """D times the weight as groups x m x n in float64; of an embedding, 1 x d x V."""
        return self.scaled(self.layout(weight))

    def weight(self, rows: Tensor, shape: torch.Size) -> Tensor:
        """The inverse of `rows`, in float64."""
        return self.shaped(rows if self.factors is None else rows / self.factors, shape)

    def scaled(self, rows: Tensor) -> Tensor:
        """D times rows."""
        return rows if self.factors is None else rows * self.factors

    def layout(self, weight: Tensor) -> Tensor:
        """What stands where in `rows`, without D."""
        wide = weight.detach().to(torch.float64)
        if self.is_diagonal:
            return wide.reshape(weight.shape[0], -1).T[None]
        groups, n, _ = self.gram.shape
        return wide.reshape(groups, -1, n)

    def shaped(self, rows: Tensor, shape: torch.Size) -> Tensor:
        """The inverse of `layout`."""
        return (rows[0].T if self.is_diagonal else rows).reshape(shape)

    def times(self, rows: Tensor) -> Tensor:
        """rows H."""
        return rows * self.gram if self.is_diagonal else rows @ self.gram

    def solve(self, rows: Tensor, shift: float | Tensor = 0.0) -> Tensor:
        """rows (H + shift I)^-1; the shift may be one for each row, groups x m x 1."""
        if self.is_diagonal:
            return rows / (self.gram + shift)
        values, vectors = self._eigen
        return (rows @ vectors) / (values[:, None, :] + shift) @ vectors.mT

    def shift(self, mu: float) -> float | Tensor:
        """The shift in `solve` that stands for mu ||W||^2: mu D^-2."""
        return mu if self.factors is None else mu / self.factors**2

    def error(self, rows: Tensor) -> float:
        """sum_g tr(E_g H_g E_g') of what `rows` gives."""
        if self.is_diagonal:
            return float(rows.square().sum((0, 1)) @ self.gram)
        return float((self.times(rows) * rows).sum())

    @cached_property
    def mean(self) -> float:
        """The mean over all entries of the weight of what an error of one counts."""
        if self.is_diagonal:
            return float(self.gram.mean())
        return float(self.scaled(self.scaled(self.gram.diagonal(dim1=1, dim2=2)[:, None])).mean())

    @cached_property
    def _eigen(self) -> tuple[Tensor, Tensor]:
        values, vectors = torch.linalg.eigh(self.gram)
        return values, vectors
