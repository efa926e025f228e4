"""Entries that stand or fall together: rows (filters), input channels, kernels, blocks."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ArgumentError, must

_AXES = {"row": (0,), "channel": (1,), "kernel": (0, 1)}
_BLOCK = r"block\((\d+),\s*(\d+)\)"


def check_groups(owner: str, groups: str | None) -> None:
    """ArgumentError unless `groups` is None, "row", "channel", "kernel" or "block(ROWS, COLUMNS)"."""
    if groups is None or groups in _AXES:
        return
    block = re.fullmatch(_BLOCK, groups) if isinstance(groups, str) else None
    if block is None or "0" in (block[1], block[2]):
        raise ArgumentError(must(f"{owner}(groups=...)", "None, 'row', 'channel', 'kernel' or 'block(R, C)'", groups))


@dataclass(frozen=True)
class Units:
    """The units in which entries are kept: the entries themselves, or groups of them.

    Attributes:
        numbers: for each entry, in memory order, the number of its group; None when every entry is a unit.
        count: how many units there are.
    """

    numbers: Tensor | None
    count: int

    @classmethod
    def of(cls, groups: str | None, shapes: Sequence[torch.Size], device: torch.device) -> Units:
        """The units of one weight, or of several one after the other."""
        if groups is None:
            return cls(None, sum(shape.numel() for shape in shapes))
        runs, count = [], 0
        for shape in shapes:
            numbers, own = _group_numbers(groups, shape, device)
            runs.append(numbers + count)
            count += own
        return cls(torch.cat(runs), count)

    def sum(self, values: Tensor) -> Tensor:
        """The sum of the values of each unit, in float64."""
        values = values.to(torch.float64)
        if self.numbers is None:
            return values
        return torch.zeros(self.count, dtype=torch.float64, device=values.device).index_add_(0, self.numbers, values)

    def spread(self, per_unit: Tensor) -> Tensor:
        """For each entry what its unit has."""
        return per_unit if self.numbers is None else per_unit.index_select(0, self.numbers)

    def sizes(self, device: torch.device) -> Tensor:
        """How many entries each unit has."""
        if self.numbers is None:
            return torch.ones(self.count, dtype=torch.int64, device=device)
        return torch.bincount(self.numbers, minlength=self.count)

    def at(self, indices: Tensor) -> Tensor:
        """The numbers of the units of these entries."""
        return indices if self.numbers is None else self.numbers.index_select(0, indices)

    def touched(self, indices: Tensor) -> Tensor:
        """The numbers of the units that hold any of these entries."""
        return self.at(indices).unique()

    def entries(self, chosen: Tensor) -> Tensor:
        """The positions, increasing, of all entries of the chosen units."""
        if self.numbers is None:
            return chosen
        kept = torch.zeros(self.count, dtype=torch.bool, device=chosen.device)
        kept[chosen] = True
        return kept[self.numbers].nonzero().reshape(-1)


def _group_numbers(groups: str, shape: torch.Size, device: torch.device) -> tuple[Tensor, int]:
    if block := re.fullmatch(_BLOCK, groups):
        if not shape:
            raise ArgumentError(must(f"groups={groups!r} needs a weight whose number of dimensions", "at least 1", 0))
        # Blocks of the matrix with a row for each output; those at the far edges may be smaller.
        rows, columns = shape[0], math.prod(shape[1:])
        height, width = int(block[1]), int(block[2])
        across = -(-columns // width)
        row = torch.arange(rows, device=device) // height * across
        column = torch.arange(columns, device=device) // width
        return (row[:, None] + column).reshape(-1), -(-rows // height) * across
    axes = _AXES[groups]
    if len(shape) <= max(axes):
        needed = f"at least {max(axes) + 1}"
        raise ArgumentError(must(f"groups={groups!r} needs a weight whose number of dimensions", needed, len(shape)))
    count = math.prod(shape[a] for a in axes)
    coarse = [n if a in axes else 1 for a, n in enumerate(shape)]
    return torch.arange(count, device=device).reshape(coarse).expand(shape).reshape(-1), count
