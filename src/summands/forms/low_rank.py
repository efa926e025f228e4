"""A product of two thin factors, in some matrix view of the weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..views import View, dense_flops
from .form import Form, tensor_bits


@dataclass(frozen=True, eq=False, kw_only=True)
class LowRank(Form):
    """`view.to_tensor(left @ right)`, left rows x r and right r x columns; r = 0 is the zero weight.

    The product is accumulated in float64 and rounded once, so that its bits do not hang on the order of summation.
    """

    continuous: ClassVar[tuple[str, ...]] = ("left", "right")
    left: Tensor
    right: Tensor
    view: View

    @property
    def rank(self) -> int:
        return self.left.shape[1]

    def facts(self) -> dict[str, int | str]:
        return {"rank": self.rank, "view": str(self.view)}

    def dense(self) -> Tensor:
        product = self.left.to(torch.float64) @ self.right.to(torch.float64)
        return self.view.to_tensor(product.to(self.dtype), self.shape).contiguous()

    def validate(self) -> None:
        rows, columns = self.view.matrix_shape(self.shape)
        found = (tuple(self.left.shape), tuple(self.right.shape))
        if self.left.ndim != 2 or found != ((rows, self.rank), (self.rank, columns)):
            raise ValueError(f"factors of shape {found[0]} and {found[1]} for a {rows} x {columns} view")

    def flops(self, in_size: Sequence[int] = (), out_size: Sequence[int] = (), groups: int = 1) -> int:
        dense, each = dense_flops(self.shape, out_size), self.view.rank_flops(self.shape, in_size, out_size, groups)
        return dense if each is None else min(self.rank * each, dense)

    def paper_bits(self, billed: set[int]) -> float:
        return tensor_bits(self.left, billed) + tensor_bits(self.right, billed)
