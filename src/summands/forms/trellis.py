"""Integer multiples of a step that follow a path through a trellis."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .form import Form, tensor_bits


@dataclass(frozen=True, eq=False, kw_only=True)
class Trellis(Form):
    """`levels * step`, where each level has the parity that the ones before it leave open (coding/trellis.py).

    Attributes:
        levels: an integer tensor of the weight's shape, in memory order on a path; the coder refuses any other.
        step: one value, the greatest common divisor of all that an entry may be.
        node: where the path starts, in [0, 8): 0 unless the weight is a block of a larger one.
    """

    continuous: ClassVar[tuple[str, ...]] = ("step",)
    levels: Tensor
    step: Tensor
    node: int = 0

    def dense(self) -> Tensor:
        wide = torch.promote_types(self.step.dtype, torch.float32)
        return (self.levels.to(wide) * self.step).to(self.dtype)

    def validate(self) -> None:
        if self.levels.shape != self.shape:
            raise ValueError(f"levels have shape {tuple(self.levels.shape)}, the weight {tuple(self.shape)}")
        if self.levels.is_floating_point() or not self.levels.dtype.is_signed:
            raise ValueError(f"levels must be signed integers, got {self.levels.dtype}")
        if self.step.ndim:
            raise ValueError(f"step has shape {tuple(self.step.shape)}, expected one value")

    def paper_bits(self, billed: set[int]) -> float:
        # Of a run of levels every second one is open to an entry.
        span = (int(self.levels.max()) - int(self.levels.min())) // 2 + 1 if self.size else 1
        return math.ceil(math.log2(max(span, 2))) * self.size + tensor_bits(self.step, billed)
