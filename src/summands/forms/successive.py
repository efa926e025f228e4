"""A sequence of picks, each of which moves one weight by the threshold of its moment: successive refinement."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

import numpy as np
import torch
from numba import njit
from torch import Tensor

from .form import ElementwiseForm, tensor_bits

Rule = Literal["paper", "authors"]
RULES: tuple[Rule, ...] = ("paper", "authors")
PAPER, AUTHORS = 0, 1
"""A rule's number is its place in RULES."""

UNIT_BITS = 32
ALPHA_BITS = 16
MAX_TOTAL = 1 << 30
MAX_ALPHA = 1 << 30


@dataclass(frozen=True, eq=False, kw_only=True)
class Successive(ElementwiseForm):
    """Magnitudes that grow from zero, one pick after the other (SuRP; Isik, No, Weissman 2022; algorithms 4).

    Both ends know the threshold T of every moment from the picks before it, so an event is a position and a sign: that
    entry moves by T away from zero. Any number of first events is the coarser weight that the same file began with.
    The arithmetic is integer, in units of 2^-32 of the mean magnitude: the same weight on every machine.

    Attributes:
        scale: one value, the size of 2^32 units: the mean magnitude at the start, as this weight is normalised.
        events: int32, a position of the vector plus 1 with the weight's sign, or 0: the threshold is refreshed. The
            weights of a task that were fitted together hold the same object.
        total: entries of the vector in which the picks were made.
        offset: the place in it of this weight's first entry.
        rule: how the threshold falls, "paper" or "authors" (`next_threshold`, `refreshed`).
        alpha: the first threshold in means, times 2^16.
        seed: of the sequence in which the coder counts positions (coding/sequence.py).
        sizes: only of a vector that joins several weights: their sizes, and `scale` has a value for each.
    """

    continuous: ClassVar[tuple[str, ...]] = ("scale",)
    scale: Tensor
    events: Tensor
    total: int
    offset: int = 0
    rule: Rule = "paper"
    alpha: int
    seed: int = 0
    sizes: tuple[int, ...] = ()

    def dense(self) -> Tensor:
        events = self.events.detach().cpu().numpy()
        moved = np.zeros(self.size, dtype=np.int64)
        replay(events, moved, self.offset, self.total, RULES.index(self.rule), self.alpha)
        units = torch.from_numpy(moved).to(self.scale.device).to(torch.float64)
        scale = self.scale.to(torch.float64) * 2.0**-UNIT_BITS
        if self.sizes:
            scale = scale.repeat_interleave(torch.tensor(self.sizes, device=scale.device))
        values = units * scale
        return values.to(self.dtype).reshape(self.shape)

    def prefix(self, count: int) -> Self:
        """The coarser weight after the first `count` events."""
        return replace(self, events=self.events[:count].clone())

    @property
    def picks(self) -> int:
        """Number of events that are picks."""
        return int(self.events.count_nonzero())

    @property
    def kept(self) -> int:
        """Number of entries of this weight that were picked at least once."""
        places = self.events.abs().to(torch.int64) - 1 - self.offset
        return int(places[(places >= 0) & (places < self.size)].unique().numel())

    def validate(self) -> None:
        if self.rule not in RULES:
            raise ValueError(f"a rule is one of {', '.join(RULES)}, got {self.rule!r}")
        if not 0 <= self.offset <= self.offset + self.size <= self.total <= MAX_TOTAL:
            raise ValueError(f"entries {self.offset} to {self.offset + self.size} of {self.total}, at most {MAX_TOTAL}")
        if not 1 <= self.alpha <= MAX_ALPHA:
            raise ValueError(f"alpha is in [1, {MAX_ALPHA}] / 2^{ALPHA_BITS}, got {self.alpha}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"a seed is in [0, 2^63), got {self.seed}")
        expected = (len(self.sizes),) if self.sizes else ()
        if tuple(self.scale.shape) != expected or not self.scale.is_floating_point():
            raise ValueError(f"a floating scale of shape {expected}, got {tuple(self.scale.shape)} {self.scale.dtype}")
        if self.sizes and sum(self.sizes) != self.size:
            raise ValueError(f"weights of {sum(self.sizes)} entries in a vector of {self.size}")
        if self.events.ndim != 1 or self.events.dtype != torch.int32:
            raise ValueError(f"events must be a vector of int32, got {self.events.ndim}-d {self.events.dtype}")
        if self.events.numel():
            low, high = (int(end) for end in self.events.aminmax())
            # That no entry has two signs is for the coder to see, once for all weights that share the events.
            if max(-low, high) > self.total:
                raise ValueError(f"a pick is outside [0, {self.total})")

    def paper_bits(self, billed: set[int]) -> float:
        """One fixed-width position for each pick, a sign for each entry kept, a flag for each event, the scale.

        The shared events of a task are billed with the first of its weights.
        """
        bits = tensor_bits(self.scale, billed)
        if id(self.events) in billed:
            return bits
        billed.add(id(self.events))
        signs = int(self.events[self.events != 0].unique().numel())
        return bits + self.picks * max(self.total - 1, 1).bit_length() + signs + self.events.numel()

    def split(self, shapes: Sequence[torch.Size], dtypes: Sequence[torch.dtype]) -> list[Self]:
        starts = itertools.accumulate((s.numel() for s in shapes), initial=self.offset)
        scales = self.scale if self.sizes else self.scale.expand(len(shapes))
        return [
            replace(self, shape=shape, dtype=dtype, scale=scale.clone(), offset=start, sizes=())
            for shape, dtype, scale, start in zip(shapes, dtypes, scales, starts, strict=False)
        ]

    @classmethod
    def join(cls, forms: Sequence[Self], dtype: torch.dtype) -> Self:
        first, end = forms[0], forms[0].offset
        for form in forms:
            same = (form.total, form.rule, form.alpha, form.seed) == (first.total, first.rule, first.alpha, first.seed)
            if form.events is not first.events or form.offset != end or form.sizes or not same:
                raise ValueError("forms of different picks cannot stand in one vector")
            end += form.size
        sizes, scale = tuple(form.size for form in forms), torch.stack([form.scale for form in forms])
        return replace(first, shape=torch.Size([sum(sizes)]), dtype=dtype, scale=scale, sizes=sizes)

    @classmethod
    def stack(cls, rows: Sequence[Self], shape: torch.Size, dtype: torch.dtype, axis: int) -> Self:
        raise ValueError("sequences of picks cannot stand in one weight")


@njit(cache=True, nogil=True, forceinline=True)
def first_threshold(alpha, total):
    """alpha times the mean, which is 1 at the start."""
    return level(alpha, total << UNIT_BITS, total)


@njit(cache=True, nogil=True, forceinline=True)
def level(alpha, rest, total):
    """alpha times the mean of residuals that sum to `rest`."""
    return (max(rest, 0) // total) * alpha >> ALPHA_BITS


@njit(cache=True, nogil=True, forceinline=True)
def next_threshold(rule, threshold, alpha, rest, total):
    """The threshold after a pick that left `rest`, at least 1.

    Paper: alpha times the mean. Authors: the last one times 1 - 1/n, which is above that while alpha > 1; it stops
    there, as thresholds that fall faster than the mean would sum to less than the weights.
    """
    mean = max(level(alpha, rest, total), 1)
    if rule == PAPER:
        return min(threshold, mean)
    return min(threshold, max(threshold - threshold // max(total, 2), mean))


@njit(cache=True, nogil=True, forceinline=True)
def refreshed(rule, threshold, alpha, rest, total, refreshes):
    """(threshold, alpha) after the refresh with this number, from 1: nothing exceeds the old threshold.

    The authors take alpha times the mean, and 0.9 alpha from every 20th refresh on. The paper's threshold follows the
    mean anyway; only a smaller alpha can help, so every refresh lowers it. A threshold never rises.
    """
    if rule == PAPER or refreshes % 20 == 0:
        alpha = alpha * 9 // 10
    return min(threshold, level(alpha, rest, total)), alpha


@njit(cache=True, nogil=True)
def replay(events, moved, offset, total, rule, alpha):
    """Adds what the events move, in units, to the entries of `moved`, which begin at `offset` of the vector."""
    if total == 0:
        return
    rest = np.int64(total) << UNIT_BITS
    threshold = first_threshold(alpha, total)
    refreshes = 0
    for event in events:
        if event == 0:
            refreshes += 1
            threshold, alpha = refreshed(rule, threshold, alpha, rest, total, refreshes)
            continue
        place = abs(np.int64(event)) - 1 - offset
        if 0 <= place < moved.size:
            moved[place] += threshold if event > 0 else -threshold
        rest -= threshold
        threshold = next_threshold(rule, threshold, alpha, rest, total)
