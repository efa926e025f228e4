"""Integer multiples of a step."""

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
class Grid(ElementwiseForm):
    """`levels * step`, with one step for the tensor or one for each slice along `axis`.

    Attributes:
        levels: an integer tensor of the weight's shape.
        step: one value; with an axis, G values, G the size of that axis.
    """

    continuous: ClassVar[tuple[str, ...]] = ("step",)
    scaling: ClassVar[str | None] = "step"
    is_assigned: ClassVar[bool] = True
    has_dead_zone: ClassVar[bool] = True
    levels: Tensor
    step: Tensor
    axis: int | None = None

    def facts(self) -> dict[str, int | str]:
        return {"kept": int(self.levels.count_nonzero()), "levels": self.levels.unique().numel()}

    def dense(self) -> Tensor:
        return in_steps(self.levels, self.step, self.axis).to(self.dtype)

    def validate(self) -> None:
        check_levels(self.shape, self.levels, self.step, self.axis)

    def paper_bits(self, billed: set[int]) -> float:
        span = int(self.levels.max()) - int(self.levels.min()) + 1 if self.size else 1
        return math.ceil(math.log2(span)) * self.size + tensor_bits(self.step, billed)

    def reassigned(self, dense: Tensor, dead_zone: float = 0.5) -> Self:
        """A zero stays one: where the others stand is what a sparse grid's bits are spent on."""
        steps = dense / _each(self.step.detach(), dense.ndim, self.axis)
        moves = (self.levels != 0) & (steps.abs() >= dead_zone)
        return replace(self, levels=(steps.round() * moves).to(self.levels.dtype))

    def split(self, shapes: Sequence[torch.Size], dtypes: Sequence[torch.dtype]) -> list[Self]:
        runs = self.levels.split([s.numel() for s in shapes])
        return [
            type(self)(shape=s, dtype=d, levels=run.reshape(s), step=self.step)
            for s, d, run in zip(shapes, dtypes, runs, strict=True)
        ]

    @classmethod
    def join(cls, forms: Sequence[Self], dtype: torch.dtype) -> Self:
        if any(form.step is not forms[0].step or form.axis is not None for form in forms):
            raise ValueError("forms with different steps cannot stand in one vector")
        levels = torch.cat([form.levels.reshape(-1) for form in forms])
        return cls(shape=levels.shape, dtype=dtype, levels=levels, step=forms[0].step)

    @classmethod
    def stack(cls, rows: Sequence[Self], shape: torch.Size, dtype: torch.dtype, axis: int) -> Self:
        levels = unstacked([row.levels for row in rows], shape, axis)
        return cls(shape=shape, dtype=dtype, levels=levels, step=torch.stack([r.step for r in rows]), axis=axis)


def in_steps(levels: Tensor, step: Tensor, axis: int | None) -> Tensor:
    """levels * step, at least in float32, with one step or one for each slice along `axis`."""
    return levels.to(torch.promote_types(step.dtype, torch.float32)) * _each(step, levels.ndim, axis)


def _each(step: Tensor, dims: int, axis: int | None) -> Tensor:
    """The step or steps, to be broadcast over entries of so many dimensions."""
    return step if axis is None else step.reshape([-1] + [1] * (dims - 1 - axis))


def check_levels(shape: torch.Size, levels: Tensor, step: Tensor, axis: int | None) -> None:
    """ValueError where these are no levels and steps of such a weight."""
    if levels.shape != shape:
        raise ValueError(f"levels have shape {tuple(levels.shape)}, the weight {tuple(shape)}")
    if levels.is_floating_point():
        raise ValueError(f"levels must be integers, got {levels.dtype}")
    if axis is not None and not 0 <= axis < len(shape):
        raise ValueError(f"axis {axis} is not one of the weight's {len(shape)}")
    expected = () if axis is None else (shape[axis],)
    if tuple(step.shape) != expected:
        raise ValueError(f"step has shape {tuple(step.shape)}, expected {expected}")
