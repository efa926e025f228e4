"""L1: entries, or norms of groups, shrunk towards zero."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ArgumentError, must
from ..forms import Form, Sparse
from .compression import Compression, Terms
from .groups import Units, check_groups
from .penalty import check_alpha, penalty_over_mu
from .prune import is_sparse
from .scope import check_scope
from .stored import check_stored, rounded

_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class L1Ball(Compression):
    """min ||w - x||^2 over ||x||_1 <= radius: the Euclidean projection onto the L1 ball (Part I).

    Inside the ball the weight stays as it is. Outside x = sgn(v) max(|v| - theta, 0), with theta such that the norm is
    the radius, from one sort of |v| (Held, Wolfe, Crowder 1974): exact. With an importance h theta becomes theta/h.
    With groups the norm is sum_g sqrt(|g|) ||x_g||_2, and each group shrinks as a whole (Yuan, Lin 2006); they take no
    importance. Values are rounded to the nearest, or towards zero where the nearest would leave the ball. O(N log N).

    Args:
        radius: at least 0, in the units of the weight.
        per: "weight", "row", "channel" or "task"; groups allow "weight" alone.
        groups, dtype: as for `Prune`.

    >>> import torch
    >>> L1Ball(3.0).project(torch.tensor([3.0, -2.0, 0.5])).dense()
    tensor([ 2., -1.,  0.])
    """

    radius: float
    per: str = "weight"
    groups: str | None = None
    dtype: str | None = None

    def __post_init__(self) -> None:
        number = isinstance(self.radius, (int, float)) and not isinstance(self.radius, bool)
        if not number or not 0 <= self.radius < math.inf:
            raise ArgumentError(must("L1Ball(radius)", "a finite number of at least 0", self.radius))
        check_scope("L1Ball", self.per)
        check_groups("L1Ball", self.groups)
        check_stored("L1Ball", self.dtype)
        if self.groups is not None and self.per != "weight":
            raise ArgumentError(must("L1Ball(groups=..., per=...)", "'weight'", self.per))

    def _project(self, weight: Tensor, terms: Terms) -> Form:
        shrink = _Shrink(weight, self.groups, terms.importance, "L1Ball")
        return shrink.form(shrink.to_ball(self.radius), self.dtype, self.radius)

    def cost(self, form: Form, *, mu: float | None = None, price: float | None = None) -> float:
        return 0.0

    def _is_feasible(self, form: Form) -> bool:
        if not isinstance(form, Sparse) or not is_sparse(form, self.dtype):
            return False
        limit = self.radius * (1 + 1e-12)
        if self.per not in ("row", "channel"):
            return l1_norm(form, self.groups) <= limit
        slices = Units.of(self.per, [form.shape], form.device)
        norms = torch.zeros(slices.count, dtype=torch.float64, device=form.device)
        norms.index_add_(0, slices.at(form.indices), form.values.to(torch.float64).abs())
        return bool((norms <= limit).all())


@dataclass(frozen=True)
class SoftThreshold(Compression):
    """min alpha ||x||_1 + mu/2 ||w - x||^2: x = sgn(v) max(|v| - alpha/mu, 0) (Part I). Exact, O(N).

    With an importance h the threshold is alpha/(mu h). With groups the norm is sum_g sqrt(|g|) ||x_g||_2, and each
    group shrinks as a whole; they take no importance. Needs `mu`, which the LC loop gives.

    Args:
        alpha: the weight of the norm in units of the loss, at least 0.
        groups, dtype: as for `Prune`.

    >>> import torch
    >>> SoftThreshold(0.5).project(torch.tensor([0.25, 1.5, -2.0]), mu=1.0).dense()
    tensor([ 0.0000,  1.0000, -1.5000])
    """

    alpha: float
    groups: str | None = None
    dtype: str | None = None

    def __post_init__(self) -> None:
        check_alpha("SoftThreshold", self.alpha)
        check_groups("SoftThreshold", self.groups)
        check_stored("SoftThreshold", self.dtype)

    def _project(self, weight: Tensor, terms: Terms) -> Form:
        shrink = _Shrink(weight, self.groups, terms.importance, "SoftThreshold")
        return shrink.form(shrink.by(penalty_over_mu(self, terms.mu)), self.dtype)

    def cost(self, form: Form, *, mu: float | None = None, price: float | None = None) -> float:
        """(2 alpha/mu) times the norm."""
        norm = l1_norm(form, self.groups)
        return 2 * penalty_over_mu(self, mu) * norm if norm else 0.0

    def _is_feasible(self, form: Form) -> bool:
        return is_sparse(form, self.dtype)


class _Shrink:
    """A weight as units of norm n, with weight c in the L1 norm and importance h: norms become n - theta c/h."""

    def __init__(self, weight: Tensor, groups: str | None, importance: Tensor | None, owner: str) -> None:
        if groups is not None and importance is not None:
            raise ArgumentError(f"{owner}(groups=...) must get no importance: a group shrinks as a whole")
        self.weight = weight
        self.units = Units.of(groups, [weight.shape], weight.device)
        flat = weight.reshape(-1).to(torch.float64)
        self.norms = flat.abs() if groups is None else self.units.sum(flat**2).sqrt()
        sizes = self.units.sizes(weight.device).to(torch.float64)
        self.norm_weights = sizes.sqrt()
        self.importance = (
            torch.ones_like(self.norms) if importance is None else importance.reshape(-1).to(torch.float64)
        )
        self.slopes = self.norm_weights / self.importance

    def by(self, theta: float) -> Tensor:
        """The norms after shrinking; a unit without importance falls to zero, which costs nothing."""
        shrunk = (self.norms - theta * self.slopes).clamp(min=0)
        return shrunk.where(self.importance > 0, 0.0)

    def to_ball(self, radius: float) -> Tensor:
        """The norms after shrinking by the theta that makes their weighted sum the radius; as they are if inside."""
        if float((self.norm_weights * self.norms).sum()) <= radius:
            return self.norms
        # Unit i is nonzero while theta < n_i h_i / c_i. While the j largest of these are, the sum is linear in theta.
        active = (self.norms > 0) & (self.importance > 0)
        norms, c, slopes = self.norms[active], self.norm_weights[active], self.slopes[active]
        ends, order = (norms / slopes).sort(descending=True)
        excess = (c * norms)[order].cumsum(0) - radius
        thetas = excess / (c * slopes)[order].cumsum(0)
        holding = (thetas < ends).nonzero()
        if not holding.numel():  # the radius is 0, or nothing has importance
            return torch.zeros_like(self.norms)
        return self.by(max(float(thetas[holding.max()]), 0.0))

    def form(self, norms: Tensor, dtype: str | None, radius: float = math.inf) -> Sparse:
        """The sparse form with these norms and the weight's signs and directions."""
        scale = self.units.spread(norms / self.norms.where(self.norms > 0, 1.0))
        indices = scale.nonzero().reshape(-1)
        exact = self.weight.reshape(-1)[indices].to(torch.float64) * scale[indices]
        norm = l1_norm(self._sparse(indices, exact), self.units)
        if norm > radius:  # what cancellation left, where the radius is tiny beside the weight's norm
            exact = exact * (radius / norm)
        stored = rounded(exact, dtype, self.weight.dtype)
        if l1_norm(self._sparse(indices, stored), self.units) > radius:
            stored = _towards_zero(stored, exact)
        return self._sparse(indices, stored)

    def _sparse(self, indices: Tensor, values: Tensor) -> Sparse:
        kept = values != 0
        return Sparse(shape=self.weight.shape, dtype=self.weight.dtype, indices=indices[kept], values=values[kept])


def l1_norm(form: Form, groups: str | Units | None) -> float:
    """sum_g sqrt(|g|) ||x_g||_2 of a sparse form, in float64; without groups ||x||_1."""
    if not isinstance(form, Sparse):
        return math.inf
    values = form.values.to(torch.float64)
    units = groups if isinstance(groups, Units) else Units.of(groups, [form.shape], form.device)
    if units.numbers is None:
        return float(values.abs().sum())
    squares = torch.zeros(units.count, dtype=torch.float64, device=form.device)
    squares.index_add_(0, units.at(form.indices), values**2)
    return float((units.sizes(form.device) * squares).sqrt().sum())


def _towards_zero(stored: Tensor, exact: Tensor) -> Tensor:
    """The stored values one step nearer to zero where rounding had moved them away from it."""
    # A float's bits without the sign, read as an integer, grow with its magnitude.
    outside = stored.to(torch.float64).abs() > exact.abs()
    bits = stored.view(_INTEGERS[stored.element_size()])
    return (bits - outside.to(bits.dtype)).view(stored.dtype)
