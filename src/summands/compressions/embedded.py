"""An embedded quantiser: what successive refinement can be in practice (algorithms 4, 5)."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..coding import estimated_bits
from ..errors import ArgumentError, must
from ..forms import Embedded as EmbeddedForm
from ..forms import Form
from .compression import Compression, Terms, squared_error
from .stored import check_stored, rounded, stored_dtype

_DEEPEST = 24
"""Planes at most, so that a level and its point are exact in float32 arithmetic."""


@dataclass(frozen=True)
class Embedded(Compression):
    """Levels of one step, rounded towards zero, in bit planes: a file in layers can end after any plane.

    |w| in [l s, (l + 1) s) becomes (l + p) s with the sign of w, and 0 for l = 0: cells of s and a zone of 2 s around
    zero. Halved levels are such a quantiser of step 2 s, so that every prefix of the planes is what `Embedded(2^k s)`
    gives. p is the median of all (|w| / s) mod 1 with l > 0, in 1/256, for each plane: the least L1 error. For a
    Laplacian weight and L1 this zone costs at most 1.5 % more bits at the same error than the best scalar quantiser of
    any zone, at rates up to 4 bits; the theory's bound is 1.13 to 1.29 times lower.

    A rounding to a grid, not a projection: `Grid` has the smaller squared error at a step. Ignores ``mu`` and
    ``price``. Cost O(N) for a step, and about 20 times that for a goal.

    Args:
        step: s > 0, at least 2^-24 of the largest entry.
        distortion: or the L1 error that may be left, relative to the L1 norm, in (0, 1).
        bits_per_weight: or the rate, as coded (without step, points and header), above 0. Exactly one is given.
        dtype: in which the step is stored, see `Keep`.

    >>> import torch
    >>> form = Embedded(1.0).project(torch.tensor([0.9, -1.5, 2.5, 3.5]))
    >>> form.dense(), form.coarser(1).dense()
    (tensor([ 0.0000, -1.5000,  2.5000,  3.5000]), tensor([0., 0., 3., 3.]))
    """

    step: float | None = None
    _: KW_ONLY
    distortion: float | None = None
    bits_per_weight: float | None = None
    dtype: str | None = None

    on_host = True

    def __post_init__(self) -> None:
        goals = {"step": self.step, "distortion": self.distortion, "bits_per_weight": self.bits_per_weight}
        given = {name: value for name, value in goals.items() if value is not None}
        if len(given) != 1:
            which = "Embedded(step=..., distortion=..., bits_per_weight=...)"
            raise ArgumentError(must(which, "given one of the three", f"{len(given)} of them"))
        [(name, value)] = given.items()
        most, allowed = (1.0, "in (0, 1)") if name == "distortion" else (math.inf, "a finite number above 0")
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < most:
            raise ArgumentError(must(f"Embedded({name}=...)", allowed, value))
        check_stored("Embedded", self.dtype)

    def _project(self, weight: Tensor, terms: Terms) -> Form:
        if terms.importance is not None:
            raise ArgumentError("Embedded has no weighted distortion; leave out `importance`")
        assert terms.host is not None
        entries = terms.host.to(torch.float64).numpy()
        form = self._form(weight, entries, self._step(weight, entries))
        # New tensors on the weight's device: only the levels travel.
        form = replace(
            form,
            levels=form.levels.to(weight.device),
            step=weight.new_tensor(form.step.item(), dtype=form.step.dtype),
            points=weight.new_tensor(form.points.tolist(), dtype=torch.uint8),
        )
        last = terms.previous
        if last is not None and self.distortion is None and self.is_feasible({"": last}, {"": weight}):
            return min(form, last, key=lambda kept: squared_error(weight, kept))
        return form

    def _form(self, weight: Tensor, entries: np.ndarray, step: float) -> EmbeddedForm:
        stored = rounded(torch.tensor(step, dtype=torch.float64), self.dtype, weight.dtype)
        cells = np.abs(entries) / (float(stored) or math.ulp(0.0))
        top = float(cells.max(initial=0.0))
        if not top < 2**_DEEPEST:
            raise ArgumentError(must("Embedded(step)", f"at least 2^-24 of the largest entry, in {stored.dtype}", step))
        levels = np.copysign(np.floor(cells), entries).astype(np.int32)
        points = [_point(cells * 2.0**-k) for k in range(max(int(top).bit_length(), 1))]
        return EmbeddedForm(
            shape=weight.shape,
            dtype=weight.dtype,
            levels=torch.from_numpy(np.asarray(levels)),
            step=stored,
            points=torch.tensor(points, dtype=torch.uint8),
        )

    def _step(self, weight: Tensor, entries: np.ndarray) -> float:
        """The step; for a goal, of those a thousandth apart the largest that meets the distortion, or the least within
        the rate."""
        if self.step is not None:
            return self.step
        ordered = np.sort(np.abs(entries), axis=None)
        below = np.concatenate([[0.0], np.cumsum(ordered)])
        top = float(ordered[-1]) if ordered.size and ordered[-1] else 1.0
        precision = torch.finfo(stored_dtype(self.dtype, weight.dtype))

        def step_at(place: int) -> float:
            """Powers of 2^(-1/700); the first, -1, is above the largest entry also when stored, unless nothing is."""
            if place < 0:
                return top * (1 + 2 * precision.eps)
            return max(top * 2 ** (-place / 700), precision.smallest_normal)

        def enough(step: float) -> bool:
            if self.bits_per_weight is not None:
                return self._rate(self._form(weight, entries, step)) > self.bits_per_weight
            zeros = int(np.searchsorted(ordered, step))
            cells = ordered[zeros:] / step
            rest = np.abs(cells % 1 - _point(cells) / 256).sum() * step
            return float(below[zeros] + rest) <= (self.distortion or 0.0) * float(below[-1])

        low, high = -1, 700 * (_DEEPEST - 1)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if enough(step_at(middle)) else (middle, high)
        return step_at(low if self.bits_per_weight is not None else high)

    def _rate(self, form: EmbeddedForm) -> float:
        """Coded bits a weight, of the levels alone."""
        zeros = replace(form, levels=torch.zeros_like(form.levels))
        return (estimated_bits(form) - estimated_bits(zeros)) / max(form.size, 1)

    def _is_feasible(self, form: Form) -> bool:
        if not isinstance(form, EmbeddedForm):
            return False
        if self.step is not None:
            return math.isclose(float(form.step), self.step, rel_tol=2.0**-6)
        return self.bits_per_weight is None or self._rate(form) <= self.bits_per_weight


def _point(cells: np.ndarray) -> int:
    """Where in a cell, in 1/256 of it and inside, the entries of all cells but the zeroth have their median."""
    inside = cells[cells >= 1] % 1
    return min(max(round(256 * float(np.median(inside))), 1), 255) if inside.size else 128
