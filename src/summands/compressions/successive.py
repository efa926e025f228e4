"""Successive pruning by rate-distortion theory: SuRP (Isik, No, Weissman 2022; algorithms 4)."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..coding import estimated_bits
from ..errors import ArgumentError, WeightError, must
from ..forms import Events, Form
from ..forms import Successive as SuccessiveForm
from ..forms.successive import ALPHA_BITS, MAX_ALPHA, MAX_TOTAL, RULES, UNIT_BITS, Rule
from .compression import Compression, Terms, squared_error
from .successive_picks import pick_all


@dataclass(frozen=True)
class Successive(Compression):
    """Weights rebuilt from zero, pick by pick, each pick as good as its bits allow for Laplacian weights.

    Of magnitudes U and a threshold T, in each step one entry m is picked uniformly from {i : U_i > T}, U_m -= T, and
    its reconstruction grows by T. Entries that are never picked stay zero: the best code for a Laplacian source prunes.
    If nothing exceeds T, T is refreshed, and both ends know it. Every prefix of the picks is a coarser network.

        paper     magnitudes over the weight's L1 norm; T = alpha times their mean, which falls with every pick;
                  each refresh lowers alpha by a tenth, as the mean itself is never out of date
        authors   over the L2 norm, as in their released code; T falls by 1 - 1/n a pick; a refresh takes alpha times
                  the mean, and from every 20th on alpha is a tenth lower

    A greedy code, not a projection: `Prune` has the smaller squared error for the same number of entries, this form the
    shorter file for the same L1 error. Ignores ``mu`` and ``price``. Cost: a sort, then O(log n) a pick. The weight
    travels to host memory once and only the picks come back.

    Args:
        sparsity: the share of entries that stay zero, in [0, 1]; those that are zero already count.
        bits_per_weight: or the rate, as coded (without scale and header), above 0.
        distortion: or the L1 error that may be left, relative to the L1 norm, in (0, 1]. Exactly one is given.
        mode: "paper" or "authors".
        per: "weight", or "task": one threshold and one sequence of picks for all weights of a task, each normalised.
        alpha: the first threshold in means; None is ln(n / ln n), with n the number of entries.
        seed: of the order in which both ends count positions.

    >>> import torch
    >>> weight = torch.distributions.Laplace(0.0, 1.0).icdf(torch.linspace(0.001, 0.999, 1000))
    >>> form = Successive(sparsity=0.98).project(weight)
    >>> int(form.dense().count_nonzero()), int(form.prefix(5).dense().count_nonzero())
    (20, 5)
    """

    sparsity: float | None = None
    _: KW_ONLY
    bits_per_weight: float | None = None
    distortion: float | None = None
    mode: Rule = "paper"
    per: str = "weight"
    alpha: float | None = None
    seed: int = 0

    on_host = True

    def __post_init__(self) -> None:
        given = [goal for goal in (self.sparsity, self.bits_per_weight, self.distortion) if goal is not None]
        if len(given) != 1:
            which = "Successive(sparsity=..., bits_per_weight=..., distortion=...)"
            raise ArgumentError(must(which, "given one of the three", f"{len(given)} of them"))
        self._check("sparsity", self.sparsity, "in [0, 1]", lambda x: 0 <= x <= 1)
        self._check("bits_per_weight", self.bits_per_weight, "a finite number above 0", lambda x: 0 < x < math.inf)
        self._check("distortion", self.distortion, "in (0, 1]", lambda x: 0 < x <= 1)
        largest = MAX_ALPHA >> ALPHA_BITS
        self._check("alpha", self.alpha, f"None or in [0.01, {largest}]", lambda x: 0.01 <= x <= largest)
        if self.mode not in RULES:
            raise ArgumentError(must("Successive(mode=...)", f"one of {', '.join(map(repr, RULES))}", self.mode))
        if self.per not in ("weight", "task"):
            raise ArgumentError(must("Successive(per=...)", "'weight' or 'task'", self.per))
        if type(self.seed) is not int or not 0 <= self.seed < 2**63:
            raise ArgumentError(must("Successive(seed=...)", "an integer in [0, 2^63)", self.seed))

    def _check(self, name: str, value: object, allowed: str, holds) -> None:
        if value is None:
            return
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not holds(value):
            raise ArgumentError(must(f"Successive({name}=...)", allowed, value))

    def _project(self, weight: Tensor, terms: Terms) -> Form:
        if terms.importance is not None:
            raise ArgumentError("Successive has no weighted distortion; leave out `importance`")
        if not 0 < weight.numel() <= MAX_TOTAL:
            raise WeightError(must("the size of a weight for Successive", f"in [1, {MAX_TOTAL}]", weight.numel()))
        assert terms.host is not None
        magnitudes = terms.host.reshape(-1).to(torch.float64).numpy()
        sizes = tuple(shape.numel() for shape in terms.shapes or ())
        scale = self._scales(magnitudes, sizes or (magnitudes.size,), weight.dtype)
        form = SuccessiveForm(
            shape=weight.shape,
            dtype=weight.dtype,
            scale=scale if sizes else scale[0],
            events=torch.from_numpy(self._events(magnitudes, scale.tolist(), sizes)),
            total=weight.numel(),
            rule=self.mode,
            alpha=self._alpha(weight.numel()),
            seed=self.seed,
            sizes=sizes,
        )
        if self.bits_per_weight is not None:
            form = self._within_rate(form)
        # A new tensor on the weight's device: only the events travel.
        form = replace(
            form,
            scale=weight.new_tensor(form.scale.tolist(), dtype=form.scale.dtype),
            events=form.events.to(weight.device),
        )
        last = terms.previous
        if last is not None and self.distortion is None and self.is_feasible({"": last}, {"": weight}):
            return min(form, last, key=lambda kept: squared_error(weight, kept))
        return form

    def _alpha(self, total: int) -> int:
        """The first threshold in means, rounded once: both ends go on in integers. ln ln n > 0 needs n > 2."""
        alpha = self.alpha
        if alpha is None:
            alpha = math.log(total / math.log(total)) if total > 2 else 0.5
        return round(alpha * 2**ALPHA_BITS)

    def _scales(self, weights: np.ndarray, sizes: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """For each weight its norm, times the mean of all normalised magnitudes, as stored."""
        parts = np.split(np.abs(weights), np.cumsum(sizes)[:-1])
        # A norm of scaled entries, so that no square overflows or vanishes.
        tops = [float(part.max(initial=0.0)) for part in parts]
        power = 1 if self.mode == "paper" else 2
        norms = [
            top * float(((p / (top or 1.0)) ** power).sum() ** (1 / power)) for p, top in zip(parts, tops, strict=True)
        ]
        sums = [float((p / (n or 1.0)).sum()) for p, n in zip(parts, norms, strict=True)]
        mean = sum(sums) / weights.size
        limit = torch.finfo(_scale_dtype(dtype)).max
        return torch.tensor([min(norm * mean, limit) for norm in norms], dtype=_scale_dtype(dtype))

    def _events(self, weights: np.ndarray, scale: list[float], sizes: tuple[int, ...]) -> np.ndarray:
        unit = np.repeat(np.array(scale), sizes or weights.size) * 2.0**-UNIT_BITS
        units = np.divide(np.abs(weights), unit, out=np.zeros(weights.size), where=unit > 0)
        residual = np.minimum(units, 2.0**62).astype(np.int64)
        descending = np.argsort(-residual, kind="stable").astype(np.int32)
        events, _ = pick_all(
            residual,
            descending,
            RULES.index(self.mode),
            self._alpha(weights.size),
            self.seed,
            weights.size + 1 if self.sparsity is None else self._most_kept(weights.size),
            -1 if self.distortion is None else int(self.distortion * 2**UNIT_BITS * weights.size),
            math.inf if self.bits_per_weight is None else 64 + 1.1 * self.bits_per_weight * weights.size,
        )
        negative = weights[np.maximum(events - 1, 0)] < 0
        return np.where(negative, -events, events)

    def _most_kept(self, size: int) -> int:
        return round((1 - (self.sparsity or 0)) * size)

    def _within_rate(self, form: SuccessiveForm) -> SuccessiveForm:
        """The longest prefix whose coded size is within the rate, by bisection."""
        low, high = 0, form.events.numel()
        while low < high:
            middle = (low + high + 1) // 2
            if self._rate(form.prefix(middle)) <= (self.bits_per_weight or 0):
                low = middle
            else:
                high = middle - 1
        return form.prefix(low)

    def _rate(self, form: SuccessiveForm) -> float:
        """Coded bits a weight, of the picks alone."""
        events = form.events
        picks = Events(shape=events.shape, dtype=events.dtype, values=events, total=form.total, seed=form.seed)
        return estimated_bits(picks) / form.size

    def _is_feasible(self, form: Form) -> bool:
        if not isinstance(form, SuccessiveForm) or form.rule != self.mode:
            return False
        if self.sparsity is not None:
            return form.kept <= self._most_kept(form.size)
        return self.bits_per_weight is None or self._rate(form) <= self.bits_per_weight


def _scale_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32
