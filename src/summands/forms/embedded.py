"""Magnitudes in bit planes: every prefix of the planes is a coarser quantiser of the same weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from .form import Form, tensor_bits

MAX_PLANES = 31


@dataclass(frozen=True, eq=False, kw_only=True)
class Embedded(Form):
    """sign(l) (|l| + p) s for a level l != 0, else 0: cells of one step s, and a zone of two around zero.

    Half the levels, rounded towards zero, with the doubled step is such a quantiser again, and its cells are unions of
    these: the planes of |l|, the highest first, are a description that can end after any of them (`coarser`).

    Attributes:
        levels: an integer tensor of the weight's shape.
        step: one value.
        points: uint8, for each plane from the lowest: where in a cell it rebuilds, in 1/256 of it.
    """

    continuous: ClassVar[tuple[str, ...]] = ("step",)
    is_linear: ClassVar[bool] = True
    levels: Tensor
    step: Tensor
    points: Tensor

    def dense(self) -> Tensor:
        levels = self.levels.to(torch.promote_types(self.step.dtype, torch.float32))
        # The level plus a multiple of 1/256 is exact in float32 up to 2^16, and rounds once above.
        inside = self.points[0].to(levels.dtype) / 256
        return ((levels + inside * levels.sign()) * self.step).to(self.dtype)

    @property
    def planes(self) -> int:
        """Number of planes, at least 1."""
        return self.points.numel()

    def coarser(self, planes: int) -> Self:
        """The quantiser without so many of the lowest planes; its step is 2^planes as large."""
        return type(self)(
            shape=self.shape,
            dtype=self.dtype,
            levels=self.levels.sign() * (self.levels.abs() >> planes),
            step=coarser_step(self.step, planes),
            points=self.points[planes:].clone(),
        )

    def validate(self) -> None:
        if self.levels.shape != self.shape:
            raise ValueError(f"levels have shape {tuple(self.levels.shape)}, the weight {tuple(self.shape)}")
        if self.levels.dtype != torch.int32:
            raise ValueError(f"levels must be int32, got {self.levels.dtype}")
        if self.step.ndim or not self.step.is_floating_point():
            raise ValueError(f"a single floating step, got shape {tuple(self.step.shape)} and {self.step.dtype}")
        if self.points.ndim != 1 or self.points.dtype != torch.uint8 or not 1 <= self.planes <= MAX_PLANES:
            raise ValueError(f"1 to {MAX_PLANES} points of uint8, got {self.planes} of {self.points.dtype}")
        if self.size:
            low, high = (int(end) for end in self.levels.aminmax())
            if max(-low, high) >> self.planes:
                raise ValueError(f"a level in [{low}, {high}] has more than {self.planes} planes")

    def paper_bits(self, billed: set[int]) -> float:
        own = 0 if id(self.levels) in billed else (self.planes + 1) * self.size
        billed.add(id(self.levels))
        return own + tensor_bits(self.step, billed) + tensor_bits(self.points, billed)


def coarser_step(step: Tensor, planes: int) -> Tensor:
    """2^planes steps; in float32 at least where there are any planes, as float16 may not reach so far."""
    return step.to(torch.promote_types(step.dtype, torch.float32)) * 2**planes if planes else step
