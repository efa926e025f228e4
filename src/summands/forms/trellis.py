"""Integer multiples of a step that follow a path through a trellis."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .form import Form, tensor_bits
from .grid import check_levels, in_steps

NODES = 8


@dataclass(frozen=True, eq=False, kw_only=True)
class Trellis(Form):
    """`levels * step`, where each level has the parity that the ones before it leave open (coding/trellis.py).

    Attributes:
        levels: an integer tensor of the weight's shape, on a path in memory order; the coder refuses any other.
        step: one value, the greatest common divisor of all that an entry may be; with an axis, G values, G its size.
        node: where the path starts, in [0, 8): 0 unless the weight is a block of a larger one.
        down: the path runs down the first axis, anew from node 0 for every place on the others: so it can be found
            column after column, each heeding the errors of those before it, in any order.
    """

    continuous: ClassVar[tuple[str, ...]] = ("step",)
    scaling: ClassVar[str | None] = "step"
    is_linear: ClassVar[bool] = True
    levels: Tensor
    step: Tensor
    node: int = 0
    axis: int | None = None
    down: bool = False

    def dense(self) -> Tensor:
        return in_steps(self.levels, self.step, self.axis).to(self.dtype)

    def validate(self) -> None:
        check_levels(self.shape, self.levels, self.step, self.axis)
        if not self.levels.dtype.is_signed:
            raise ValueError(f"levels must be signed integers, got {self.levels.dtype}")
        if not 0 <= self.node < NODES:
            raise ValueError(f"a path starts at a node in [0, {NODES}), got {self.node}")
        if self.down and (self.node or len(self.shape) < 2):
            raise ValueError(f"a path down the first of {len(self.shape)} axes, from node {self.node}, not 0")

    def paper_bits(self, billed: set[int]) -> float:
        # Of a run of levels every second one is open to an entry.
        span = (int(self.levels.max()) - int(self.levels.min())) // 2 + 1 if self.size else 1
        return math.ceil(math.log2(max(span, 2))) * self.size + tensor_bits(self.step, billed)
