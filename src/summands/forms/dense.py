"""The weight as it is, possibly in a narrower dtype."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from .form import ElementwiseForm, tensor_bits


@dataclass(frozen=True, eq=False, kw_only=True)
class Dense(ElementwiseForm):
    """Every entry stored in the dtype of `values` (float32, float16, bfloat16; or any, for a tensor left as it is)."""

    continuous: ClassVar[tuple[str, ...]] = ("values",)
    values: Tensor

    def dense(self) -> Tensor:
        return self.values.to(self.dtype)

    def validate(self) -> None:
        if self.values.shape != self.shape:
            raise ValueError(f"values have shape {tuple(self.values.shape)}, the weight {tuple(self.shape)}")

    def paper_bits(self, billed: set[int]) -> float:
        return tensor_bits(self.values, billed)

    def split(self, shapes: Sequence[torch.Size], dtypes: Sequence[torch.dtype]) -> list[Self]:
        runs = self.values.split([s.numel() for s in shapes])
        return [
            type(self)(shape=s, dtype=d, values=run.reshape(s)) for s, d, run in zip(shapes, dtypes, runs, strict=True)
        ]

    @classmethod
    def join(cls, forms: Sequence[Self], dtype: torch.dtype) -> Self:
        values = torch.cat([form.values.reshape(-1) for form in forms])
        return cls(shape=values.shape, dtype=dtype, values=values)

    @classmethod
    def stack(cls, rows: Sequence[Self], shape: torch.Size, dtype: torch.dtype, axis: int) -> Self:
        values = unstacked([row.values for row in rows], shape, axis)
        return cls(shape=shape, dtype=dtype, values=values)


def unstacked(rows: Sequence[Tensor], shape: torch.Size, axis: int) -> Tensor:
    """The tensor of this shape whose slices along `axis`, flattened, are `rows`."""
    moved = [shape[axis], *(n for i, n in enumerate(shape) if i != axis)]
    return torch.stack(list(rows)).reshape(moved).movedim(0, axis).contiguous()
