"""Few entries with their positions; all others are zero."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from .form import ElementwiseForm, tensor_bits


@dataclass(frozen=True, eq=False, kw_only=True)
class Sparse(ElementwiseForm):
    """`values` at the flat positions `indices` (int64, strictly increasing), zero elsewhere."""

    continuous: ClassVar[tuple[str, ...]] = ("values",)
    indices: Tensor
    values: Tensor

    def facts(self) -> dict[str, int | str]:
        return {"kept": self.indices.numel()}

    def dense(self) -> Tensor:
        zeros = self.values.new_zeros(self.size)
        return zeros.index_copy(0, self.indices, self.values).to(self.dtype).reshape(self.shape)

    def validate(self) -> None:
        if self.indices.ndim != 1 or self.indices.shape != self.values.shape:
            raise ValueError(f"{tuple(self.indices.shape)} indices for {tuple(self.values.shape)} values")
        if self.indices.dtype != torch.int64:
            raise ValueError(f"indices must be int64, got {self.indices.dtype}")
        if self.indices.numel():
            if not 0 <= int(self.indices[0]) <= int(self.indices[-1]) < self.size:
                raise ValueError(f"a position is outside [0, {self.size})")
            if not bool((self.indices[1:] > self.indices[:-1]).all()):
                raise ValueError("positions are not strictly increasing")

    def flops(self, in_size: Sequence[int] = (), out_size: Sequence[int] = (), groups: int = 1) -> int:
        return self.indices.numel() * math.prod(out_size) if len(self.shape) > 1 else 0

    def paper_bits(self, billed: set[int]) -> float:
        """Values, plus gaps in the best fixed width p from 2 to 32; a gap of 2^p - 1 or more takes filler fields."""
        bits = tensor_bits(self.values, billed)
        if not self.indices.numel():
            return bits
        gaps = torch.diff(self.indices, prepend=self.indices.new_tensor([-1])) - 1
        fields = (int((gaps // (2**p - 1)).sum()) + gaps.numel() for p in range(2, 33))
        return bits + min(p * count for p, count in zip(range(2, 33), fields, strict=True))

    def split(self, shapes: Sequence[torch.Size], dtypes: Sequence[torch.dtype]) -> list[Self]:
        ends = torch.tensor([s.numel() for s in shapes], device=self.indices.device).cumsum(0)
        cuts = torch.searchsorted(self.indices, ends).tolist()
        starts = [0, *ends.tolist()]
        return [
            type(self)(shape=s, dtype=d, indices=self.indices[a:b] - start, values=self.values[a:b])
            for s, d, a, b, start in zip(shapes, dtypes, [0, *cuts], cuts, starts, strict=False)
        ]

    @classmethod
    def join(cls, forms: Sequence[Self], dtype: torch.dtype) -> Self:
        starts = [0, *itertools.accumulate(form.size for form in forms)]
        indices = torch.cat([form.indices + start for form, start in zip(forms, starts, strict=False)])
        values = torch.cat([form.values for form in forms])
        return cls(shape=torch.Size([starts[-1]]), dtype=dtype, indices=indices, values=values)

    @classmethod
    def stack(cls, rows: Sequence[Self], shape: torch.Size, dtype: torch.dtype, axis: int) -> Self:
        # Position p of slice g is entry (g, p) of the tensor with `axis` moved first; map it back to memory order.
        order = torch.arange(shape.numel(), device=rows[0].indices.device).reshape(shape)
        order = order.movedim(axis, 0).reshape(shape[axis], -1)
        indices = torch.cat([order[g].index_select(0, row.indices) for g, row in enumerate(rows)])
        indices, by_position = indices.sort()
        values = torch.cat([row.values for row in rows]).index_select(0, by_position)
        return cls(shape=shape, dtype=dtype, indices=indices, values=values)
