"""Integer multiples of one step."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..coding import estimated_bits, price_levels
from ..errors import ArgumentError, WeightError, must
from ..forms import Form, Trellis
from ..forms import Grid as GridForm
from .codebook_fit import as_entries
from .compression import Compression, Terms
from .scope import check_scope
from .stored import check_stored, rounded, stored_dtype

Levels = GridForm | Trellis
Forms = Mapping[str, Form]

_LARGEST = 1e150
"""Of the entries, whose squares are summed in float64."""
_MOST = 2**20
_MOST_BITS = 16
_SAMPLE = 2**15
_USUAL_SHARE = 0.55
"""What a trellis makes of the step, about: it has twice as many levels for nearly the same error."""
_COMPARED = 2**18
"""Priced levels of more entries are not compared with plain rounding: they save far more than a start costs."""


@dataclass(frozen=True)
class Grid(Compression):
    """min ||w - s l||^2 + (2 z - 1) s^2 ||l||_0 + price * bits(l) over integers l, one for each entry, at a step s.

    Without a price every entry takes its best level alone: the nearest, and 0 up to z steps from it (z the dead zone);
    exact. With one, each level is weighed against the bits that the coder's adaptive models would spend on it as they
    stand after the levels before it (coding/pricing.py): near the optimum, and for up to 2^18 entries never worse than
    plain rounding. A trellis lets entries depend on those before them and finds the best path by Viterbi's algorithm
    (coding/trellis.py): about 0.1 bits an entry less at the same error. The weight travels to host memory once and
    the levels come back. Cost: 0.2 us an entry at a price, 0.4 us with a trellis; with a free step 13 passes over
    32,768 entries more.

    Args:
        step: s > 0, at least 2^-20 of the largest entry; or "auto", which needs a price: the best step within an eighth
            of an octave on evenly spread entries, then fitted to the levels by least squares.
        bits_per_weight: instead of a step: step and price such that the levels take at most so many bits an entry, by
            the coder's own estimate, and nearly as many; an entry that has to go is one of little error per bit.
        trellis: levels on a path through a trellis of eight nodes; the step is that of all places on it.
        dead_zone: z in [1/2, 3/2]; 1/2 is plain rounding.
        per: one step for each "weight" or for all weights of the "task".
        dtype: in which the step is stored, see `Keep`.

    >>> import torch
    >>> Grid(0.5).project(torch.tensor([0.2, 0.3, -1.1])).levels
    tensor([ 0,  1, -2], dtype=torch.int32)
    >>> Grid(0.5, dead_zone=1.0).project(torch.tensor([0.2, 0.3, -1.1])).levels
    tensor([ 0,  0, -2], dtype=torch.int32)
    """

    on_host = True
    step: float | str | None = None
    _: KW_ONLY
    bits_per_weight: float | None = None
    trellis: bool = False
    dead_zone: float = 0.5
    per: str = "weight"
    dtype: str | None = None

    def __post_init__(self) -> None:
        if (self.step is None) == (self.bits_per_weight is None):
            given = (self.step, self.bits_per_weight)
            raise ArgumentError(must("Grid", "given either a step or bits_per_weight", given))
        if self.step is not None and self.step != "auto" and not _is_positive(self.step):
            raise ArgumentError(must("Grid(step)", "a finite number above 0, or 'auto'", self.step))
        if self.bits_per_weight is not None and not (
            _is_positive(self.bits_per_weight) and self.bits_per_weight <= _MOST_BITS
        ):
            raise ArgumentError(must("Grid(bits_per_weight=...)", "a number in (0, 16]", self.bits_per_weight))
        if not (type(self.dead_zone) in (int, float) and 0.5 <= self.dead_zone <= 1.5):
            raise ArgumentError(must("Grid(dead_zone=...)", "in [0.5, 1.5]", self.dead_zone))
        if type(self.trellis) is not bool:
            raise ArgumentError(must("Grid(trellis=...)", "True or False", self.trellis))
        check_scope("Grid", self.per)
        if self.per not in ("weight", "task"):
            raise ArgumentError(must("Grid(per=...)", "'weight' or 'task'", self.per))
        if self.trellis and self.per == "task":
            remedy = "a path is that of one weight; one price gives all of them nearly the same step"
            raise ArgumentError(must("Grid(trellis=True, per=...)", "'weight'", self.per, remedy))
        check_stored("Grid", self.dtype)

    def _project(self, weight: Tensor, terms: Terms) -> Form:
        host = terms.host if terms.host is not None else weight.cpu()
        importance = None if terms.importance is None else terms.importance.cpu()
        entries = np.atleast_1d(as_entries(host).astype(np.float64))
        if float(np.abs(entries).max(initial=0.0)) > _LARGEST:
            raise WeightError(must("weight", f"of entries up to {_LARGEST:g} for a Grid", "larger ones"))
        weighting = np.ones(entries.shape) if importance is None else importance.to(torch.float64).numpy()
        fit = _Fit(self, host, entries, weighting.reshape(entries.shape))
        price = terms.price or 0.0
        forms: list[Form]
        if self.bits_per_weight is not None:
            forms = [*fit.within(self.bits_per_weight * entries.size)]
        elif isinstance(self.step, (int, float)):
            forms = [*fit.forms(float(self.step), price)]
        elif price > 0:
            forms = [*fit.forms(fit.best_step(price, _step_of(terms.previous)), price)]
        else:
            remedy = "set a budget, or a number for step"
            raise ArgumentError(must('the price of Grid("auto")', "above 0", terms.price, remedy))
        if terms.previous is not None and self.is_feasible({"weight": terms.previous}, {"weight": weight}):
            forms.append(terms.previous)
        if len(forms) == 1:
            return _moved(forms[0], weight.device)
        hosted = [_moved(form, host.device) for form in forms]
        each = price or None if self.bits_per_weight is None else None
        costs = [self.objective(host, form, price=each, importance=importance) for form in hosted]
        return _moved(forms[int(np.argmin(costs))], weight.device)

    def without_jumps(self, now: Forms, beyond: Forms, bits: float) -> Compression:
        """The grid whose levels take at most `bits` more than now, for a weight that has a step of its own."""
        if self.step != "auto" or self.per == "task":
            return self
        (form,) = now.values()
        assert isinstance(form, (GridForm, Trellis))
        return replace(self, step=None, bits_per_weight=min((_level_bits(form) + bits) / form.size, _MOST_BITS))

    def penalty(self, step: float) -> float:
        """What a level other than 0 costs, for the dead zone: (2 z - 1) s^2."""
        return (2 * self.dead_zone - 1) * step**2

    def cost(self, form: Form, *, mu: float | None = None, price: float | None = None) -> float:
        """(2 z - 1) s^2 ||l||_0 + price * estimated bits."""
        bits = super().cost(form, mu=mu, price=price)
        if not isinstance(form, (GridForm, Trellis)) or self.dead_zone == 0.5:
            return bits
        return self.penalty(float(form.step)) * int(form.levels.count_nonzero()) + bits

    def _is_feasible(self, form: Form) -> bool:
        if not isinstance(form, Trellis if self.trellis else GridForm) or form.step.ndim:
            return False
        if form.step.dtype != stored_dtype(self.dtype, form.dtype):
            return False
        if self.bits_per_weight is not None:
            return _level_bits(form) <= self.bits_per_weight * form.size or not form.levels.any()
        if self.step == "auto":
            return True
        return float(form.step) == float(rounded(torch.tensor(self.step, dtype=torch.float64), self.dtype, form.dtype))


@dataclass(frozen=True)
class _Fit:
    """The levels of one weight, whose entries and their importance are float64 in its shape."""

    grid: Grid
    weight: Tensor
    entries: np.ndarray
    importance: np.ndarray

    def forms(self, step: float, price: float) -> list[Levels]:
        """The forms at a step that may be the best: plainly rounded; with a price, by models of two origins."""
        stored = self._stored(step)
        if float(np.abs(self.entries).max(initial=0)) > float(stored) * _MOST:
            raise ArgumentError(must("Grid(step)", f"at least 2^-20 of the largest entry, in {stored.dtype}", step))
        found = []
        if price > 0:
            first = self._priced(self.entries, self.importance, float(stored), price)[0]
            found = [first, self._priced(self.entries, self.importance, float(stored), price, first)[0]]
        if price == 0 or self.entries.size <= _COMPARED:
            found.append(self._priced(self.entries, self.importance, float(stored), 0.0)[0])
        return [self._form(levels, stored) for levels in found]

    def _form(self, levels: np.ndarray, step: Tensor) -> Levels:
        """The form of levels, its step fitted to them unless the step was given."""
        power = float((self.importance * levels.astype(np.float64) ** 2).sum())
        if power > 0 and not isinstance(self.grid.step, (int, float)):
            step = self._stored(float((self.importance * self.entries * levels).sum()) / power)
        return (Trellis if self.grid.trellis else GridForm)(
            shape=self.weight.shape,
            dtype=self.weight.dtype,
            levels=torch.from_numpy(levels).reshape(self.weight.shape),
            step=step,
        )

    def best_step(self, price: float, last: float | None = None) -> float:
        """The step of least error + price * bits for evenly spread entries, within an eighth of an octave.

        From the step of the last C step it is the nearest such one, downhill: a third of the work.
        """
        entries, importance = _spread(self.entries), _spread(self.importance)
        peak = float(np.abs(self.entries).max(initial=0)) or 1.0
        tiny = _tiny(self.grid.dtype, self.weight.dtype)
        # At high rates the error is s^2 / 12 and falls by a factor 4 a bit (with a trellis nearly the same).
        middle = math.sqrt(6 * price / math.log(2)) * (_USUAL_SHARE if self.grid.trellis else 1.0)

        def step(octaves: float) -> float:
            return max(min(max(middle * 2**octaves, peak * 2.0**-16), 4 * peak), tiny)

        def cost(octaves: float) -> float:
            return self._priced(entries, importance, step(octaves), price)[1]

        if last is not None and abs(near := math.log2(last / middle)) <= 3:
            costs = {near: cost(near)}
            strides = [0.25, 0.125]
        else:
            costs = {float(octaves): cost(octaves) for octaves in range(-3, 4)}
            strides = [0.5, 0.25, 0.125]
        for stride in strides:
            while beside := {min(costs, key=costs.__getitem__) + side for side in (-stride, stride)} - costs.keys():
                costs |= {octaves: cost(octaves) for octaves in sorted(beside)}
        return step(min(costs, key=costs.__getitem__))

    def within(self, most_bits: float) -> list[Levels]:
        """Forms whose levels take at most so many bits, one of them near the best; all zeros if there is no other."""
        rate = most_bits / max(self.entries.size, 1)
        power = float((self.importance * self.entries**2).mean()) if self.entries.size else 0.0
        # The error falls by a factor 4 a bit.
        price = 2 * math.log(2) * max(power, 1e-30) * 4.0**-rate
        found: list[Levels] = []
        over: Levels | None = None
        for _ in range(2):
            step_share = self.best_step(price) / math.sqrt(price)
            tried = _Tried(most_bits)
            while tried.more():
                form = self._best(step_share * math.sqrt(price), price)
                bits = _level_bits(form)
                if bits <= most_bits:
                    found.append(form)
                elif over is None or bits < _level_bits(over):
                    over = form
                price = tried.next_price(price, bits)
        jumped = over is not None and max((_level_bits(form) for form in found), default=0.0) < 0.97 * most_bits
        if jumped and isinstance(over, GridForm):
            found.append(self._thinned(over, most_bits))
        return found or [self._form(np.zeros(self.entries.shape, np.int32), self._stored(1.0))]

    def _thinned(self, form: GridForm, most_bits: float) -> Levels:
        """The form with as many levels, those that save most error first, as the bits allow.

        Entries with light tails go from none to many levels at one price: each makes the others cheaper.
        """
        levels = form.levels.numpy().reshape(self.entries.shape)
        saved = self.importance * (self.entries**2 - (self.entries - levels * float(form.step)) ** 2)
        order = np.argsort(-saved, axis=None, kind="stable")

        def kept(count: int) -> Levels:
            thin = np.zeros(levels.size, np.int32)
            thin[order[:count]] = levels.reshape(-1)[order[:count]]
            return self._form(thin.reshape(levels.shape), form.step)

        counts = range(1, int(np.count_nonzero(levels)) + 1)
        return kept(bisect_right(counts, most_bits, key=lambda count: _level_bits(kept(count))))

    def _best(self, step: float, price: float) -> Levels:
        peak = float(np.abs(self.entries).max(initial=0))
        forms = self.forms(max(step, peak / _MOST * 1.01, _tiny(self.grid.dtype, self.weight.dtype)), price)
        return min(forms, key=lambda form: self._error(form) + price * _level_bits(form))

    def _error(self, form: Levels) -> float:
        dense = form.levels.numpy().reshape(self.entries.shape) * float(form.step)
        return float((self.importance * (self.entries - dense) ** 2).sum())

    def _priced(
        self, entries: np.ndarray, importance: np.ndarray, step: float, price: float, like: np.ndarray | None = None
    ) -> tuple[np.ndarray, float]:
        penalty, on_path = self.grid.penalty(step), self.grid.trellis
        return price_levels(entries, importance, step, price=price, penalty=penalty, on_path=on_path, like=like)

    def _stored(self, step: float) -> Tensor:
        return rounded(torch.tensor(step, dtype=torch.float64), self.grid.dtype, self.weight.dtype)


class _Tried:
    """A search for the price at which bits come to a limit, from below: a straight line through their logarithms."""

    def __init__(self, most_bits: float) -> None:
        self.most_bits, self.left = most_bits, 16
        self.above: tuple[float, float] | None = None  # (log price, log bits) of what takes more than the limit
        self.below: tuple[float, float] | None = None

    def more(self) -> bool:
        return self.left > 0

    def next_price(self, price: float, bits: float) -> float:
        """Another price to try, after this one led to so many bits."""
        self.left -= 1
        here = (math.log(price), math.log(max(bits, 1.0)))
        if bits > self.most_bits:
            self.above = here
        else:
            self.below = here
            self.left = 0 if bits >= 0.995 * self.most_bits else self.left
        if self.above is None or self.below is None:
            return price * 4.0 if self.below is None else price / 4
        width = self.below[0] - self.above[0]
        self.left = 0 if width < 1e-3 else self.left
        share = (self.above[1] - math.log(0.9975 * self.most_bits)) / max(self.above[1] - self.below[1], 1e-9)
        return math.exp(self.above[0] + min(max(share, 0.1), 0.9) * width)


def _moved(form: Form, device: torch.device) -> Form:
    """The form on a device, its step made there."""
    if form.device == device or not isinstance(form, (GridForm, Trellis)):
        return form
    step = torch.full((), float(form.step), dtype=form.step.dtype, device=device)
    return form.replace_tensors({"levels": form.levels.to(device), "step": step})


def _step_of(form: Form | None) -> float | None:
    """The step of levels that are not all zero."""
    return float(form.step) if isinstance(form, (GridForm, Trellis)) and bool(form.levels.any()) else None


def _tiny(dtype: str | None, own: torch.dtype) -> float:
    return torch.finfo(stored_dtype(dtype, own)).smallest_normal


def _level_bits(form: Levels) -> float:
    """Estimated bits of a form without its step."""
    return max(estimated_bits(form) - 8 * form.step.element_size(), 0.0)


def _spread(array: np.ndarray) -> np.ndarray:
    """Rows, or else columns, evenly spread, of some 32,768 entries at most."""
    for axis in range(array.ndim):
        stride = min(-(-array.size // _SAMPLE), array.shape[axis]) or 1
        array = array[(slice(None),) * axis + (slice(stride // 2, None, stride),)]
    return array


def _is_positive(value: object) -> bool:
    return type(value) in (int, float) and 0 < value < math.inf  # type: ignore[operator]
