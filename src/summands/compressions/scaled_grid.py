"""Integer multiples of a step for each row or channel."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import ArgumentError, must
from ..forms import Form, Grid, Trellis
from .compression import Compression, Terms
from .scope import AXES, check_scope
from .stored import check_stored, coarse, rounded, stored_dtype
from .sweep import Sweep


@dataclass(frozen=True)
class ScaledGrid(Compression):
    """min ||w - s_g l||^2 + price * bits(l) over integers l, one for each entry, at a step s_g for each slice g.

    For post-training (WaterSIC 2026): under a layer's moments every channel takes the step that its errors deserve,
    and every row of an embedding the one that its token's frequency does. To the plain squared error all slices are
    alike, and so are their steps; with an importance, the step falls with the slice's mean. A level is the one of
    least error + price * -log2 of its share among the levels near it so far: near the optimum, like `Grid`'s. O(N).

    Args:
        step: s > 0 for all slices; or "auto", sqrt(6 price / (c ln 2)), c the slice's mean importance, which is optimal
            at high rates, rounded to three bits after the leading one. It needs a price.
        per: "row" or "channel".
        trellis: levels on a path through a trellis of eight nodes (see `Grid`); the step is that of all places on it.
        dtype: in which the steps are stored, see `Keep`.

    >>> import torch
    >>> form = ScaledGrid(0.5, per="row").project(torch.tensor([[0.2, 0.3], [-1.1, 0.9]]))
    >>> form.levels.tolist(), form.step.tolist()
    ([[0, 1], [-2, 2]], [0.5, 0.5])
    """

    on_host = True
    takes_slices: ClassVar[bool] = True
    step: float | str
    _: KW_ONLY
    per: str = "channel"
    trellis: bool = False
    dtype: str | None = None

    def __post_init__(self) -> None:
        if type(self.trellis) is not bool:
            raise ArgumentError(must("ScaledGrid(trellis=...)", "True or False", self.trellis))
        if self.step != "auto" and not (isinstance(self.step, int | float) and 0 < self.step < math.inf):
            raise ArgumentError(must("ScaledGrid(step)", "a finite number above 0, or 'auto'", self.step))
        check_scope("ScaledGrid", self.per)
        if self.per not in AXES:
            raise ArgumentError(must("ScaledGrid(per=...)", "'row' or 'channel'; one step is `Grid`'s", self.per))
        check_stored("ScaledGrid", self.dtype)

    def _project(self, weight: Tensor, terms: Terms) -> Form:
        axis = AXES[self.per]
        if weight.ndim <= axis:
            raise ArgumentError(must(f"ScaledGrid(per={self.per!r})", f"used where axis {axis} exists", weight.ndim))
        price, free = terms.price or 0.0, self.step == "auto"
        host = terms.host if terms.host is not None else weight.cpu()
        importance = None if terms.importance is None else terms.importance.cpu()
        sweep = Sweep.plain(host, importance, price, on_path=self.trellis)
        if not free:
            steps = torch.full((weight.shape[axis],), float(self.step), dtype=torch.float64)
            step = rounded(steps, self.dtype, weight.dtype)
        elif price > 0:
            step = coarse(rounded(sweep.natural_steps(weight.shape, self.per), self.dtype, weight.dtype))
        else:
            remedy = "set a budget, or a number for step"
            raise ArgumentError(must('the price of ScaledGrid("auto")', "above 0", terms.price, remedy))
        wide = step.to(torch.float64).reshape([-1] + [1] * (weight.ndim - 1 - axis)).expand(weight.shape)
        wide = wide.reshape(sweep.target.shape)
        if bool((sweep.target.abs() > 2.0**20 * wide).any()):
            allowed = f"at least 2^-20 of the largest entry, in {step.dtype}"
            raise ArgumentError(must("ScaledGrid(step)", allowed, self.step))
        levels = sweep.levels(wide).reshape(weight.shape).to(weight.device)
        step = step.to(weight.device) if free else torch.full_like(step, float(step[0]), device=weight.device)
        form = self._kind(shape=weight.shape, dtype=weight.dtype, levels=levels, step=step, axis=axis)
        last = terms.previous
        if last is None or not self.is_feasible({"": last}, {"": weight}):
            return form
        return min(
            (last, form),
            key=lambda f: self.objective(weight, f, price=terms.price, importance=terms.importance),
        )

    @property
    def _kind(self) -> type[Grid] | type[Trellis]:
        return Trellis if self.trellis else Grid

    def _is_feasible(self, form: Form) -> bool:
        if not isinstance(form, self._kind) or form.axis != AXES[self.per]:
            return False
        if form.step.dtype != stored_dtype(self.dtype, form.dtype) or not bool((form.step > 0).all()):
            return False
        if self.step == "auto":
            return True
        own = rounded(torch.tensor(float(self.step), dtype=torch.float64), self.dtype, form.dtype)
        return bool((form.step == own.to(form.step.device)).all())
