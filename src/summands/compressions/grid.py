"""Integer multiples of one step."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass

import numpy as np
import torch
from numba import njit
from torch import Tensor

from ..errors import ArgumentError, must
from ..forms import Form
from ..forms import Grid as GridForm
from .codebook_fit import host_slices
from .compression import Compression, Terms
from .scope import check_scope
from .stored import check_stored, rounded, stored_dtype

_MOST = 2**20
_SAMPLE = 2**16


@dataclass(frozen=True)
class Grid(Compression):
    """min ||w - s l||^2 + (2 z - 1) s^2 ||l||_0 + price * bits(l) over integers l, one for each entry, at a step s.

    Without a price every entry takes its best level alone: the nearest, and 0 up to z steps from it (z the dead zone);
    exact. With one, levels and their code lengths -log2(share of the level) are minimised in turn, exactly each, until
    the sum falls no more: the rounding of entropy-constrained quantisers (Chou, Lookabaugh, Gray 1989), whose dead
    zone comes of itself. The result is never worse than plain rounding by the coder's own estimated bits. O(N) a
    turn. The weight travels to host memory once and the levels come back.

    Args:
        step: s > 0, at least 2^-20 of the largest entry; or "auto", which needs a price: the best of the geometric
            grid of ratio 2^(1/4) around sqrt(6 price / ln 2), the optimum at high rates, by the entropy of at most
            65,536 order statistics; the best three compete in full.
        dead_zone: z in [1/2, 3/2]; 1/2 is plain rounding.
        per: one step "auto" for each "weight" or for all weights of the "task".
        dtype: in which the step is stored, see `Keep`.

    >>> import torch
    >>> Grid(0.5).project(torch.tensor([0.2, 0.3, -1.1])).levels
    tensor([ 0,  1, -2], dtype=torch.int32)
    >>> Grid(0.5, dead_zone=1.0).project(torch.tensor([0.2, 0.3, -1.1])).levels
    tensor([ 0,  0, -2], dtype=torch.int32)
    """

    on_host = True
    step: float | str
    _: KW_ONLY
    dead_zone: float = 0.5
    per: str = "weight"
    dtype: str | None = None

    def __post_init__(self) -> None:
        if self.step != "auto" and not (isinstance(self.step, (int, float)) and 0 < self.step < math.inf):
            raise ArgumentError(must("Grid(step)", "a finite number above 0, or 'auto'", self.step))
        if not (type(self.dead_zone) in (int, float) and 0.5 <= self.dead_zone <= 1.5):
            raise ArgumentError(must("Grid(dead_zone=...)", "in [0.5, 1.5]", self.dead_zone))
        check_scope("Grid", self.per)
        if self.per in ("row", "channel"):
            raise ArgumentError(must("Grid(per=...)", "'weight' or 'task'", self.per))
        check_stored("Grid", self.dtype)

    def _project(self, weight: Tensor, terms: Terms) -> Form:
        [(entries, importance)] = host_slices(weight, terms, "weight")
        weighting = np.ones(entries.size) if importance is None else importance
        price = 0.0 if terms.price is None else terms.price
        forms = [
            self._form(weight, entries, weighting, step, each)
            for step in self._steps(entries, weighting, terms, weight.dtype)
            for each in sorted({0.0, price})
        ]
        if terms.previous is not None and self.is_feasible({"weight": terms.previous}, {"weight": weight}):
            forms.append(terms.previous)
        if len(forms) == 1:
            return forms[0]
        return min(forms, key=lambda f: self.objective(weight, f, price=price, importance=terms.importance))

    def _form(self, weight: Tensor, entries: np.ndarray, importance: np.ndarray, step: float, price: float) -> Form:
        stored = rounded(torch.tensor(step, dtype=torch.float64), self.dtype, weight.dtype)
        if float(np.abs(entries).max(initial=0)) > float(stored) * _MOST:
            raise ArgumentError(must("Grid(step)", f"at least 2^-20 of the largest entry, in {stored.dtype}", step))
        levels, _ = _rounded(entries, importance, float(stored), self._penalty(float(stored)), price)
        return GridForm(
            shape=weight.shape,
            dtype=weight.dtype,
            levels=torch.from_numpy(levels).reshape(weight.shape).to(weight.device),
            step=torch.full((), float(stored), dtype=stored.dtype, device=weight.device),
        )

    def _steps(self, entries: np.ndarray, importance: np.ndarray, terms: Terms, own: torch.dtype) -> list[float]:
        if isinstance(self.step, (int, float)):
            return [float(self.step)]
        if terms.price is None or not terms.price > 0:
            remedy = "set a budget, or a number for step"
            raise ArgumentError(must('the price of Grid("auto")', "above 0", terms.price, remedy))
        stride = -(-entries.size // _SAMPLE) or 1
        order = np.argsort(entries, kind="stable")[stride // 2 :: stride]
        sample, weighting = entries[order], importance[order]
        peak = float(np.abs(entries).max(initial=0)) or 1.0
        tiny = torch.finfo(stored_dtype(self.dtype, own)).smallest_normal
        middle = math.sqrt(6 * terms.price / math.log(2))
        steps = [max(min(max(middle * 2 ** (i / 4), peak * 2.0**-16), 4 * peak), tiny) for i in range(-16, 17)]
        costs = [_rounded(sample, weighting, step, self._penalty(step), terms.price)[1] for step in steps]
        return [steps[i] for i in np.argsort(costs, kind="stable")[:3]]

    def _penalty(self, step: float) -> float:
        return (2 * self.dead_zone - 1) * step**2

    def cost(self, form: Form, *, mu: float | None = None, price: float | None = None) -> float:
        """(2 z - 1) s^2 ||l||_0 + price * estimated bits."""
        bits = super().cost(form, mu=mu, price=price)
        if not isinstance(form, GridForm) or self.dead_zone == 0.5:
            return bits
        return self._penalty(float(form.step)) * int(form.levels.count_nonzero()) + bits

    def _is_feasible(self, form: Form) -> bool:
        if not isinstance(form, GridForm) or form.axis is not None:
            return False
        if form.step.dtype != stored_dtype(self.dtype, form.dtype):
            return False
        if self.step == "auto":
            return True
        return float(form.step) == float(rounded(torch.tensor(self.step, dtype=torch.float64), self.dtype, form.dtype))


@njit(cache=True)
def _rounded(entries, importance, step, penalty, price):
    """Levels that minimise h (v - s l)^2 + penalty [l != 0] + price * code length, and that sum for all entries."""
    n = entries.size
    levels = np.empty(n, np.int32)
    for i in range(n):
        levels[i] = round(entries[i] / step)
    most = np.int64(np.abs(levels).max()) if n else np.int64(0)
    bits = np.zeros(2 * most + 1)
    total = np.inf
    for _ in range(20):
        if price > 0:
            counts = np.zeros(2 * most + 1)
            for i in range(n):
                counts[levels[i] + most] += 1
            for k in range(counts.size):
                bits[k] = price * (np.log2(n / counts[k]) if counts[k] > 0 else np.inf)
        before, total = total, 0.0
        for i in range(n):
            v, h = entries[i], importance[i]
            nearest = np.int64(round(v / step))
            best, where = np.inf, np.int64(0)
            for side in (-1, 1):  # outwards from the nearest level, until the error alone exceeds the best
                level = nearest if side < 0 else nearest + 1
                while -most <= level <= most:
                    error = h * (v - step * level) ** 2
                    if error >= best:
                        break
                    cost = error + bits[level + most] + (penalty if level != 0 else 0.0)
                    if cost < best or (cost == best and abs(level) < abs(where)):
                        best, where = cost, level
                    level += side
            cost = h * v * v + bits[most]
            if cost <= best:
                best, where = cost, np.int64(0)
            levels[i] = where
            total += best
        if price == 0 or not total < before * (1 - 1e-4):
            break
    return levels, total
