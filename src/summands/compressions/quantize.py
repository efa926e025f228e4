"""A learned codebook."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, replace

import torch
from torch import Tensor

from ..errors import ArgumentError, must
from ..forms import Codebook, Form
from .choose import largest
from .codebook_fit import (
    host_slices,
    likely_counts,
    nearest_form,
    optimal_values,
    optimal_values_and_zero,
)
from .compression import Compression, Terms
from .entropy_fit import priced_form
from .partition import Points, points_of
from .scope import AXES, check_scope, slices
from .stored import check_stored, stored_dtype


@dataclass(frozen=True)
class Quantize(Compression):
    """min ||w - c[z]||^2 over k values c and the choice z of one of them for each entry.

    This is k-means in one dimension, solved to the global optimum by dynamic programming on the sorted entries
    (Wu 1991; Part II of Learning-Compression, 1707.04319, section 4), and the optimum is then rounded to `dtype`.
    Cost: a sort and a few passes, O(N log N) on the weights of networks; O(k N log N) at worst. The weight travels to
    host memory once and only the codebook comes back. With an importance it solves the weighted problem, as exactly.

    Args:
        k: how many values, at least 1. With k at least the number of distinct entries the form is exact. "auto" frees
            the choice of codes too: error + price * (entropy of the codes + bits of the values) is least over all
            numbers of values and all cuts (entropy_fit.py), which makes a dead zone where that pays. By "row" or
            "channel" it is the best of the three most promising k.
        per: one codebook for each "weight", "row" or "channel", or for all weights of the "task".
        dtype: in which the values are stored, see `Keep`.
        zero: one of the k values is 0. As exact: the entries at 0 are one run of the sorted ones.
        keep: with `zero`, the largest share of entries that are not at 0: a pruned codebook, as exact;
            with an importance only the assignment is exact, given the values.

    >>> import torch
    >>> form = Quantize(2).project(torch.tensor([-1.1, -0.9, 1.0, 1.0, 1.3]))
    >>> form.values, form.codes
    (tensor([-1.0000,  1.1000]), tensor([0, 0, 1, 1, 1], dtype=torch.uint8))
    >>> Quantize(2, zero=True, keep=0.25).project(torch.tensor([0.5, -1.0, 3.0, 2.5])).dense()
    tensor([0., 0., 3., 0.])
    """

    on_host = True
    takes_slices = True
    k: int | str
    _: KW_ONLY
    per: str = "weight"
    dtype: str | None = None
    zero: bool = False
    keep: float | None = None

    def __post_init__(self) -> None:
        if self.k != "auto" and (type(self.k) is not int or self.k < 1):
            raise ArgumentError(must("Quantize(k)", "an integer of at least 1, or 'auto'", self.k))
        check_scope("Quantize", self.per)
        check_stored("Quantize", self.dtype)
        if type(self.zero) is not bool:
            raise ArgumentError(must("Quantize(zero=...)", "True or False", self.zero))
        if self.keep is not None and not (type(self.keep) in (int, float) and 0 <= self.keep <= 1 and self.zero):
            raise ArgumentError(must("Quantize(keep=...)", "in [0, 1], beside zero=True", self.keep))

    def _project(self, weight: Tensor, terms: Terms) -> Form:
        vectors = host_slices(weight, terms, self.per)
        about_zero, merge = self.zero, self.keep is None
        points = [points_of(*vector, about_zero=about_zero, merge=merge) for vector in vectors]
        if self.k != "auto":
            return self._fit(weight, points, terms.importance, int(self.k))
        if terms.price is None:
            raise ArgumentError('Quantize("auto") must get a price; set a budget, or a number for k')
        forms: list[Form] = []
        if self.per in AXES:  # one number of values for all codebooks
            bits = 8 * stored_dtype(self.dtype, weight.dtype).itemsize
            counts = likely_counts(points, terms.price, bits)
            forms += [self._fit(weight, points, terms.importance, k) for k in counts]
        else:
            least = self._least_zeros(weight.numel(), points[0]) if self.zero else None
            form = priced_form(weight, points[0], terms.importance, terms.price, self.dtype, least)
            forms.append(self._pruned(weight, form, terms.importance))
        if len(forms) == 1 and terms.previous is None:
            return forms[0]
        if terms.previous is not None and self.is_feasible({"weight": terms.previous}, {"weight": weight}):
            forms.append(terms.previous)
        return min(forms, key=lambda f: self.objective(weight, f, price=terms.price, importance=terms.importance))

    def _fit(self, weight: Tensor, points: list[Points], importance: Tensor | None, k: int) -> Codebook:
        size = weight.numel() // max(len(points), 1)
        codebooks = []
        for each in points:
            if self.zero:
                codebooks.append(optimal_values_and_zero(each, k, self._least_zeros(size, each)))
            else:
                codebooks.append(optimal_values(each, k))
        return self._pruned(weight, nearest_form(weight, codebooks, self.per, self.dtype), importance)

    def _least_zeros(self, size: int, points: Points) -> float:
        """The fewest points that must stand at 0, entries without importance being as good as there."""
        ignored = size - points.count[-1]
        return max(0, size - self._limit(size) - ignored)

    def _pruned(self, weight: Tensor, form: Codebook, importance: Tensor | None) -> Codebook:
        """At most the share `keep` of each vector stays: the entries that lose most by going to 0."""
        if self.keep is None:
            return form
        gain = weight.to(torch.float64) ** 2 - (weight.to(torch.float64) - form.dense()) ** 2
        gains = slices(gain if importance is None else gain * importance, self.per)
        kept = torch.zeros_like(gains, dtype=torch.bool)
        for row, kept_row in zip(gains, kept, strict=True):
            kept_row[largest(row, self._limit(row.numel()))] = True
        zero = (form.values == 0).to(torch.uint8).argmax(-1).reshape(-1, 1)
        codes = torch.where(kept, slices(form.codes, self.per), zero.to(form.codes.dtype))
        if form.axis is not None:
            codes = codes.reshape(weight.movedim(form.axis, 0).shape).movedim(0, form.axis).contiguous()
        return replace(form, codes=codes.reshape(weight.shape))

    def cost(self, form: Form, *, mu: float | None = None, price: float | None = None) -> float:
        """price * estimated bits for "auto"; a fixed k costs nothing."""
        return super().cost(form, mu=mu, price=price) if self.k == "auto" else 0.0

    def _limit(self, size: int) -> int:
        return size if self.keep is None else round(self.keep * size)

    def _is_feasible(self, form: Form) -> bool:
        if not isinstance(form, Codebook) or form.axis != AXES.get(self.per):
            return False
        if isinstance(self.k, int) and form.values.shape[-1] > self.k:
            return False
        if self.zero and not bool((form.values == 0).any(-1).all()):
            return False
        if self.keep is not None:
            held = slices(form.dense() != 0, self.per).sum(1)
            if int(held.max()) > self._limit(form.size // len(held)):
                return False
        return form.values.dtype == stored_dtype(self.dtype, form.dtype)
