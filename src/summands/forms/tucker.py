"""A small core between two factors: a convolution through fewer channels on both sides."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..views import dense_flops
from .form import Form, tensor_bits


@dataclass(frozen=True, eq=False, kw_only=True)
class Tucker(Form):
    """`w[n, m, ...] = sum_pq out[n, p] core[p, q, ...] into[q, m]`, a Tucker-2 decomposition (Kim et al. 2016).

    Accumulated in float64 and rounded once. A rank of 0 is the zero weight.

    Attributes:
        out: n x r_out.
        core: r_out x r_in x d1 x ...
        into: r_in x m.
    """

    continuous: ClassVar[tuple[str, ...]] = ("out", "core", "into")
    out: Tensor
    core: Tensor
    into: Tensor

    @property
    def ranks(self) -> tuple[int, int]:
        """(r_out, r_in)."""
        return self.core.shape[0], self.core.shape[1]

    def facts(self) -> dict[str, int | str]:
        return {"rank": " x ".join(map(str, self.ranks))}

    def dense(self) -> Tensor:
        out, core, into = (t.to(torch.float64) for t in (self.out, self.core, self.into))
        inner = into.T @ core.movedim(1, 0).flatten(1)
        inner = inner.reshape(into.shape[1], *core.shape[:1], *core.shape[2:]).movedim(0, 1)
        return (out @ inner.flatten(1)).to(self.dtype).reshape(self.shape)

    def validate(self) -> None:
        if not 3 <= len(self.shape) <= 5 or self.core.ndim != len(self.shape):
            raise ValueError(f"a {self.core.ndim}-d core for a {len(self.shape)}-d weight; both must be 3-d to 5-d")
        (p, q), (n, m) = self.ranks, self.shape[:2]
        found = tuple(self.out.shape), tuple(self.into.shape), self.core.shape[2:]
        if found != ((n, p), (q, m), self.shape[2:]):
            raise ValueError(f"factors of shape {found[0]} and {found[1]} about a core of {tuple(self.core.shape)}")

    def flops(self, in_size: Sequence[int] = (), out_size: Sequence[int] = (), groups: int = 1) -> int:
        (p, q), (n, m), into, out = self.ranks, self.shape[:2], math.prod(in_size), math.prod(out_size)
        # The same q patterns and p filters in each group.
        stack = groups * (m * q * into + p * q * self.shape[2:].numel() * out) + n * p * out
        return min(stack, dense_flops(self.shape, out_size))

    def paper_bits(self, billed: set[int]) -> float:
        return sum(tensor_bits(t, billed) for t in (self.out, self.core, self.into))
