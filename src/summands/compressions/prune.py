"""Few entries, or groups of entries, kept; all others zero."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ArgumentError, must
from ..forms import Form, Sparse
from .choose import largest, most_valuable, position_bits, worth_their_bits
from .compression import Compression, Terms
from .groups import Units, check_groups
from .penalty import check_alpha, penalty_over_mu
from .scope import check_scope
from .stored import check_stored, rounded, stored_dtype, value_bits


@dataclass(frozen=True)
class Prune(Compression):
    """min ||w - x||^2 over x with at most k nonzero entries: the k of largest magnitude (Part I; CVPR 2018).

    Exact, also when the kept values are rounded: what entry v gains by being kept, max over stored values r of
    2 v r - r^2, never falls as |v| grows. With an importance h the gain is h (v^2 - (v - r)^2). Ties go to the entry
    that comes first. A kept value that is zero once rounded is not stored. Cost O(N), by selection and not by sorting.

    With groups, a group's gain is the sum of its entries', and the groups kept have at most k entries in all; groups
    of unequal sizes are a knapsack (choose.py). With "auto" and a price, the kept set minimises
    error + price * (n H2(k/n) + value bits), by scanning every k: exact for this estimate, O(N log N).

    Args:
        keep: the share of entries to keep, in [0, 1], k being the nearest integer; or "auto".
        count: k itself. Exactly one of keep and count is given. A count above the size keeps everything.
        per: "weight"; "row" or "channel" keeps k in each slice; "task" keeps k in all weights of the task together.
            Groups allow "weight" and "task", "auto" only "weight": a price divides a task by itself.
        groups: None, "row" (a filter of a convolution), "channel", "kernel" or "block(R, C)" of the rows' matrix.
        dtype: of the kept values, "float32", "float16" or "bfloat16"; None is the weight's own.

    >>> import torch
    >>> Prune(count=2).project(torch.tensor([0.5, -3.0, 1.0, -1.0])).dense()
    tensor([ 0., -3.,  1.,  0.])
    >>> Prune(keep=0.5, groups="row").project(torch.tensor([[1.0, 1.0], [0.0, 9.0]])).dense()
    tensor([[0., 0.],
            [0., 9.]])
    """

    keep: float | str | None = None
    count: int | None = None
    per: str = "weight"
    groups: str | None = None
    dtype: str | None = None

    def __post_init__(self) -> None:
        if (self.keep is None) == (self.count is None):
            raise ArgumentError(must("Prune(keep=..., count=...)", "given one of both", (self.keep, self.count)))
        if self.keep not in (None, "auto") and not _is_share(self.keep):
            raise ArgumentError(must("Prune(keep=...)", "in [0, 1] or 'auto'", self.keep))
        if self.count is not None and (type(self.count) is not int or self.count < 0):
            raise ArgumentError(must("Prune(count=...)", "an integer of at least 0", self.count))
        check_scope("Prune", self.per)
        check_groups("Prune", self.groups)
        check_stored("Prune", self.dtype)
        if self.keep == "auto" and self.per != "weight":
            raise ArgumentError(must('Prune("auto", per=...)', "'weight', as a price divides a task", self.per))
        if self.groups is not None and self.per in ("row", "channel"):
            raise ArgumentError(must("Prune(groups=..., per=...)", "'weight' or 'task'", self.per))

    def _project(self, weight: Tensor, terms: Terms) -> Form:
        units = Units.of(self.groups, terms.shapes or [weight.shape], weight.device)
        if self.keep == "auto":
            if terms.price is None:
                raise ArgumentError('Prune("auto") must get a price; set a budget, or a number for keep')
            stored = units.sum(rounded(weight.reshape(-1), self.dtype) != 0)
            gain, bits = units.sum(gains(weight, terms.importance, self.dtype)), self._value_bits(weight.dtype)
            kept = worth_their_bits(gain, stored, terms.price, bits)
        elif self.groups is None and terms.importance is None:
            kept = largest(weight.reshape(-1).abs(), self.limit(weight.numel()))
        else:
            gain = units.sum(gains(weight, terms.importance, self.dtype))
            kept = most_valuable(gain, units.sizes(weight.device), self.limit(weight.numel()))
        return sparse_at(weight, units.entries(kept), self.dtype)

    def cost(self, form: Form, *, mu: float | None = None, price: float | None = None) -> float:
        """price * (n H2(k/n) + value bits) for "auto", k of n units being kept; a fixed number costs nothing."""
        if self.keep != "auto" or price is None or not isinstance(form, Sparse):
            return 0.0
        units = Units.of(self.groups, [form.shape], form.device)
        touched = torch.tensor(units.touched(form.indices).numel(), dtype=torch.float64)
        positions = float(position_bits(touched, units.count))
        return price * (positions + self._value_bits(form.dtype) * form.indices.numel())

    def is_feasible(self, forms: Mapping[str, Form], weights: Mapping[str, Tensor]) -> bool:
        if not super().is_feasible(forms, weights):
            return False
        if self.groups is None or self.keep == "auto":
            return True
        sizes = {name: sum_touched(form, self.groups) for name, form in forms.items()}
        if self.per == "task":
            return sum(sizes.values()) <= self.limit(sum(form.size for form in forms.values()))
        return all(size <= self.limit(forms[name].size) for name, size in sizes.items())

    def _is_feasible(self, form: Form) -> bool:
        if not isinstance(form, Sparse) or not is_sparse(form, self.dtype):
            return False
        if self.keep == "auto":
            return True
        if self.per not in ("row", "channel"):
            return form.indices.numel() <= self.limit(form.size)
        slices = Units.of(self.per, [form.shape], form.device)
        kept = torch.bincount(slices.at(form.indices), minlength=slices.count)
        return bool((kept <= self.limit(form.size // slices.count)).all())

    def limit(self, size: int) -> int:
        """How many of so many entries are kept at most."""
        wanted = self.count if self.count is not None else round(float(self.keep or 0) * size)
        return min(wanted, size)

    def _value_bits(self, own: torch.dtype) -> float:
        return value_bits(stored_dtype(self.dtype, own), exponent_bits=1)


@dataclass(frozen=True)
class PrunePenalty(Compression):
    """min alpha ||x||_0 + mu/2 ||w - x||^2: keeps what gains more than 2 alpha/mu, |v| > sqrt(2 alpha/mu) (CVPR 2018).

    With groups, C(x) is the number of entries in the kept groups: group g is kept if its norm exceeds
    sqrt(2 alpha |g| / mu). Exact; a tie is pruned. Needs `mu`, which the LC loop gives. At small mu nothing is kept,
    as it should be: the network recovers as mu grows. Cost O(N).

    Args:
        alpha: the price of one entry in units of the loss, at least 0.
        groups, dtype: as for `Prune`.

    >>> import torch
    >>> PrunePenalty(0.5).project(torch.tensor([0.9, 1.1, -2.0]), mu=1.0).dense()
    tensor([ 0.0000,  1.1000, -2.0000])
    """

    alpha: float
    groups: str | None = None
    dtype: str | None = None

    def __post_init__(self) -> None:
        check_alpha("PrunePenalty", self.alpha)
        check_groups("PrunePenalty", self.groups)
        check_stored("PrunePenalty", self.dtype)

    def _project(self, weight: Tensor, terms: Terms) -> Form:
        units = Units.of(self.groups, [weight.shape], weight.device)
        gain = units.sum(gains(weight, terms.importance, self.dtype))
        threshold = 2 * penalty_over_mu(self, terms.mu)
        sizes = 1 if self.groups is None else units.sizes(weight.device)
        return sparse_at(weight, units.entries((gain > threshold * sizes).nonzero().reshape(-1)), self.dtype)

    def cost(self, form: Form, *, mu: float | None = None, price: float | None = None) -> float:
        """(2 alpha/mu) C(x)."""
        entries = sum_touched(form, self.groups)
        return 2 * penalty_over_mu(self, mu) * entries if entries else 0.0

    def _is_feasible(self, form: Form) -> bool:
        return is_sparse(form, self.dtype)


def gains(weight: Tensor, importance: Tensor | None, dtype: str | None) -> Tensor:
    """For each entry, in memory order, by how much keeping it (rounded to `dtype`) lowers the error."""
    flat = weight.reshape(-1)
    exact = flat.to(torch.float64)
    left = exact - rounded(flat, dtype).to(torch.float64)
    gain = exact**2 - left**2
    return gain if importance is None else gain * importance.reshape(-1).to(torch.float64)


def sparse_at(weight: Tensor, indices: Tensor, dtype: str | None) -> Sparse:
    """The sparse form that keeps these positions of a weight; those that round to zero are left out."""
    values = rounded(weight.reshape(-1).index_select(0, indices), dtype)
    nonzero = values != 0
    if not bool(nonzero.all()):
        indices, values = indices[nonzero], values[nonzero]
    return Sparse(shape=weight.shape, dtype=weight.dtype, indices=indices, values=values)


def is_sparse(form: Form, dtype: str | None) -> bool:
    """True for a sparse form with values of this stored dtype."""
    return isinstance(form, Sparse) and form.values.dtype == stored_dtype(dtype, form.dtype)


def sum_touched(form: Form, groups: str | None) -> int:
    """How many entries the groups have in which a sparse form keeps any."""
    if not isinstance(form, Sparse):
        return form.size
    units = Units.of(groups, [form.shape], form.device)
    return int(units.sizes(form.device)[units.touched(form.indices)].sum())


def _is_share(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and not math.isnan(value) and 0 <= value <= 1
