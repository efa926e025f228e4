"""A sequence of picks that the weights of one task share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .form import Form, tensor_bits
from .successive import MAX_TOTAL


@dataclass(frozen=True, eq=False, kw_only=True)
class Events(Form):
    """`Successive.events` as a file holds them once for several weights; no weight by itself.

    Attributes:
        values: int32, a position of the vector plus 1 with the weight's sign, or 0 for a refresh.
        total: entries of the vector in which the picks were made.
        seed: of the sequence in which the coder counts positions.
    """

    values: Tensor
    total: int
    seed: int

    def dense(self) -> Tensor:
        return self.values

    def validate(self) -> None:
        if self.values.shape != self.shape or self.values.ndim != 1 or self.values.dtype != torch.int32:
            raise ValueError(f"events must be a vector of int32, got {self.values.ndim}-d {self.values.dtype}")
        if not 0 <= self.total <= MAX_TOTAL or not 0 <= self.seed < 2**63:
            raise ValueError(f"a vector of at most {MAX_TOTAL} entries and a seed below 2^63, got {self.total}")

    def paper_bits(self, billed: set[int]) -> float:
        return tensor_bits(self.values, billed)
