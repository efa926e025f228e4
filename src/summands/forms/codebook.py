"""Few values and, for each entry, which of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from .dense import unstacked
from .form import ElementwiseForm, tensor_bits


@dataclass(frozen=True, eq=False, kw_only=True)
class Codebook(ElementwiseForm):
    """`values[codes]`, with one codebook for the tensor or one for each slice along `axis`.

    Attributes:
        values: K values; with an axis, G x K, G the size of that axis. Several forms may hold the same object.
        codes: an integer tensor of the weight's shape, each in [0, K).
        axis: None, or the axis whose slices have their own codebooks.
    """

    continuous: ClassVar[tuple[str, ...]] = ("values",)
    is_assigned: ClassVar[bool] = True
    values: Tensor
    codes: Tensor
    axis: int | None = None

    def facts(self) -> dict[str, int | str]:
        return {"values": self.values.shape[-1]}

    def dense(self) -> Tensor:
        if self.axis is None:
            picked = self.values.index_select(0, self.codes.reshape(-1).int())
            return picked.reshape(self.shape).to(self.dtype)
        slices = self.codes.movedim(self.axis, 0)
        picked = self.values.gather(1, slices.reshape(slices.shape[0], math.prod(slices.shape[1:])).long())
        return picked.reshape(slices.shape).movedim(0, self.axis).contiguous().to(self.dtype)

    def validate(self) -> None:
        if self.codes.shape != self.shape:
            raise ValueError(f"codes have shape {tuple(self.codes.shape)}, the weight {tuple(self.shape)}")
        expected = 1 if self.axis is None else 2
        if self.values.ndim != expected:
            raise ValueError(f"a codebook with axis={self.axis} needs {expected}-d values, got {self.values.ndim}-d")
        if self.axis is not None and not 0 <= self.axis < len(self.shape):
            raise ValueError(f"axis {self.axis} is not one of the weight's {len(self.shape)}")
        if self.axis is not None and self.values.shape[0] != self.shape[self.axis]:
            raise ValueError(f"{self.values.shape[0]} codebooks for {self.shape[self.axis]} slices")
        if self.codes.numel() and not 0 <= int(self.codes.min()) <= int(self.codes.max()) < self.values.shape[-1]:
            raise ValueError(f"a code is outside [0, {self.values.shape[-1]})")

    def paper_bits(self, billed: set[int]) -> float:
        return math.ceil(math.log2(max(self.values.shape[-1], 1))) * self.size + tensor_bits(self.values, billed)

    def reassigned(self, dense: Tensor, dead_zone: float = 0.5) -> Self:
        values, order = self.values.detach().sort(-1)
        middles = (values[..., 1:] + values[..., :-1]) / 2
        if self.axis is None:
            ranks = torch.bucketize(dense, middles)
            return replace(self, codes=order[ranks].to(self.codes.dtype))
        slices = dense.movedim(self.axis, 0)
        ranks = torch.searchsorted(middles, slices.reshape(slices.shape[0], -1).contiguous())
        codes = order.gather(1, ranks).reshape(slices.shape).movedim(0, self.axis)
        return replace(self, codes=codes.contiguous().to(self.codes.dtype))

    def split(self, shapes: Sequence[torch.Size], dtypes: Sequence[torch.dtype]) -> list[Self]:
        runs = self.codes.split([s.numel() for s in shapes])
        return [
            type(self)(shape=s, dtype=d, values=self.values, codes=run.reshape(s))
            for s, d, run in zip(shapes, dtypes, runs, strict=True)
        ]

    @classmethod
    def join(cls, forms: Sequence[Self], dtype: torch.dtype) -> Self:
        if any(form.values is not forms[0].values or form.axis is not None for form in forms):
            raise ValueError("forms with different codebooks cannot stand in one vector")
        codes = torch.cat([form.codes.reshape(-1) for form in forms])
        return cls(shape=codes.shape, dtype=dtype, values=forms[0].values, codes=codes)

    @classmethod
    def stack(cls, rows: Sequence[Self], shape: torch.Size, dtype: torch.dtype, axis: int) -> Self:
        # A row with fewer distinct values than K has a shorter codebook: its last value is repeated, never chosen.
        longest = max(row.values.numel() for row in rows)
        padded = [torch.cat([r.values, r.values[-1:].expand(longest - r.values.numel())]) for r in rows]
        codes = unstacked([row.codes for row in rows], shape, axis)
        return cls(shape=shape, dtype=dtype, values=torch.stack(padded), codes=codes, axis=axis)


def codes_dtype(count: int) -> torch.dtype:
    """The narrowest integer dtype for codes in [0, count)."""
    return torch.uint8 if count <= 256 else torch.int16 if count <= 32768 else torch.int32
