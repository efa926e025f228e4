"""A product of two thin factors, of a given rank, or of the rank and in the view that pay."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import ArgumentError, must
from ..forms import Dense, Form
from ..forms import LowRank as LowRankForm
from ..views import NAMED_VIEWS, View, dense_flops, every_view, parse_view
from .compression import Compression, Terms
from .penalty import check_alpha, penalty_over_mu
from .spectral import Spectrum
from .stored import check_stored, rounded, stored_dtype, value_bits

_SWEEPS, _TOLERANCE = 20, 1e-4


@dataclass(frozen=True)
class LowRank(Compression):
    """min ||W - A B||^2 over A m x r, B r x n, W a matrix view of the weight: the truncated SVD (Eckart-Young).

    A = U sqrt(S), B = sqrt(S) V', with fixed signs, rounded to `dtype` at the end. Of rank min(m, n) or more: dense.

    "auto" minimises ||W - A B||^2 + u min(C(r), C_dense) by comparing all ranks and views, which is exact (CVPR 2020):
    C(r) is r (m + n) numbers stored, or the multiply-adds of r ranks; u is the price of one, from `price` (per bit, or
    per multiply-add), or 2 alpha/mu. If the cap binds, the weight is stored dense.

    With an importance h, `project` descends by majorisation (Srebro, Jaakkola 2003) from the unweighted solution or a
    better `previous`: no exact solution is known. Cost: one eigendecomposition of the smaller Gram matrix a view.

    Args:
        rank: r >= 0, or "auto".
        view: how the weight is a matrix (views.py); for rank "auto" also several, "auto" for all named ones, or "any"
            for these and all reshapes near a square (`every_view`).
        alpha: for rank "auto", the penalty alpha C(r) + mu/2 ||.||^2 instead of a price; needs `mu`.
        priced: "storage" or "flops", what C(r) counts.
        in_size, out_size: of a convolution priced by flops, its input's and output's size, as (28, 28). A budget of
            FLOPs sets them, and `priced` and `groups`, from the network.
        dtype: of the factors, "float32", "float16" or "bfloat16"; None is the weight's own.
        groups: of a convolution priced by flops.

    >>> import torch
    >>> form = LowRank(1).project(torch.tensor([[1.0, 2.0], [2.0, 4.0], [3.0, 6.0]]))
    >>> form.rank, torch.allclose(form.dense()[2], torch.tensor([3.0, 6.0]))
    (1, True)
    >>> LowRank("auto").project(torch.diag(torch.tensor([9.0, 2.0, 1.0, 0.1, 0.1])), price=0.01).rank
    2
    """

    rank: int | str
    view: str | View | tuple[str, ...] = "out"
    alpha: float | None = None
    priced: str = "storage"
    in_size: tuple[int, ...] = ()
    out_size: tuple[int, ...] = ()
    dtype: str | None = None
    groups: int = 1

    def __post_init__(self) -> None:
        if self.rank != "auto" and (type(self.rank) is not int or self.rank < 0):
            raise ArgumentError(must("LowRank(rank)", "an integer of at least 0, or 'auto'", self.rank))
        several = isinstance(self.view, tuple) or self.view in ("auto", "any")
        if self.rank != "auto" and (several or self.alpha is not None):
            raise ArgumentError(must("LowRank(rank)", "'auto' where several views or alpha are given", self.rank))
        if isinstance(self.view, tuple) and not self.view:
            raise ArgumentError(must("LowRank(view=...)", "at least one view", self.view))
        if not several:
            object.__setattr__(self, "view", str(parse_view(self.view)))  # type: ignore[arg-type]
        for view in self.view if isinstance(self.view, tuple) else ():
            parse_view(view)
        if self.alpha is not None:
            check_alpha("LowRank", self.alpha)
        if self.priced not in ("storage", "flops"):
            raise ArgumentError(must("LowRank(priced=...)", "'storage' or 'flops'", self.priced))
        check_stored("LowRank", self.dtype)

    def cost(self, form: Form, *, mu: float | None = None, price: float | None = None) -> float:
        """u min(C(r), C_dense) for "auto"; a fixed rank costs nothing."""
        if self.rank == "auto" and (price is not None or self.alpha is not None):
            return _times(self._unit(form.dtype, mu, price), self._count(form))
        return 0.0

    def for_flops(self, in_size: tuple[int, ...], out_size: tuple[int, ...], groups: int) -> Compression:
        if self.rank != "auto":
            return self
        return replace(self, priced="flops", in_size=in_size, out_size=out_size, groups=groups)

    def _project(self, weight: Tensor, terms: Terms) -> Form:
        unit = self._unit(weight.dtype, terms.mu, terms.price) if self.rank == "auto" else 0.0
        best = self._nearest(weight, weight, unit)
        if terms.importance is None:
            return best
        return self._descend(weight, terms.importance, best, terms, unit)

    def _is_feasible(self, form: Form) -> bool:
        stored = stored_dtype(self.dtype, form.dtype)
        if isinstance(form, Dense):
            full = min(min(view.matrix_shape(form.shape)) for view in self.views(form.shape))
            return (self.rank == "auto" or int(self.rank) >= full) and form.values.dtype == stored
        return (
            isinstance(form, LowRankForm)
            and form.view in self.views(form.shape)
            and (self.rank == "auto" or form.rank <= int(self.rank))
            and form.left.dtype == form.right.dtype == stored
        )

    def _nearest(self, target: Tensor, weight: Tensor, unit: float) -> Form:
        """The optimal form of `target`, a tensor like the weight; where dense is best, the weight itself."""
        dense_count = self._dense_count(weight.shape)
        least, found = math.inf, None
        for view in self.views(weight.shape):
            full = min(view.matrix_shape(weight.shape))
            if self.rank != "auto" and int(self.rank) >= full:
                break
            spectrum = Spectrum.of(view.to_matrix(target))
            # From the rank on at which the cap binds, dense costs no more and has no error.
            per_rank = self._rank_count(view, weight.shape)
            most = full if self.rank != "auto" else min(full, max(0, -(-dense_count // max(per_rank, 1)) - 1))
            counts = torch.arange(most + 1, dtype=torch.float64, device=target.device) * per_rank
            totals = spectrum.tails()[: most + 1] + torch.where(counts > 0, counts * unit, 0.0)
            rank = int(totals.argmin()) if self.rank == "auto" else int(self.rank)
            total = float(totals[rank])
            if found is None or total < least:
                least, found = total, (view, spectrum, rank)
        if found is None or (self.rank == "auto" and _times(unit, dense_count) < least):
            return Dense(shape=weight.shape, dtype=weight.dtype, values=rounded(weight, self.dtype).clone())
        view, spectrum, rank = found
        left, right = (rounded(factor, self.dtype, weight.dtype) for factor in spectrum.factors(rank))
        return LowRankForm(shape=weight.shape, dtype=weight.dtype, left=left, right=right.contiguous(), view=view)

    def _descend(self, weight: Tensor, importance: Tensor, best: Form, terms: Terms, unit: float) -> Form:
        """Projections of x + h (w - x) with h scaled to at most 1, whose error majorises the weighted one."""
        top = float(importance.max()) if importance.numel() else 0.0
        if not top:
            return best

        def objective(form: Form) -> float:
            return self.objective(weight, form, mu=terms.mu, price=terms.price, importance=importance)

        least = objective(best)
        last = terms.previous
        if last is not None and self.is_feasible({"": last}, {"": weight}) and objective(last) < least:
            best, least = last, objective(last)
        share, exact = importance.to(torch.float64) / top, weight.to(torch.float64)
        for _ in range(_SWEEPS):
            now = best.dense().to(torch.float64)
            form = self._nearest(now + share * (exact - now), weight, unit / top)
            reached = objective(form)
            if not reached < least:
                break
            settled = reached > least * (1 - _TOLERANCE)
            best, least = form, reached
            if settled:
                break
        return best

    def views(self, shape: torch.Size) -> list[View]:
        """The views among which a weight of this shape is seen."""
        if isinstance(self.view, tuple):
            return [parse_view(view) for view in self.view]
        if self.view == "any":
            return every_view(shape)
        if self.view != "auto":
            return [parse_view(self.view)]
        # The views of a matrix are itself and its transpose, whose factors are the same.
        names = ["out"] if len(shape) < 3 else ["out", "spatial", "in"] if len(shape) != 4 else list(NAMED_VIEWS)
        return [NAMED_VIEWS[name] for name in names]

    def rank_price(
        self, view: View, shape: torch.Size, own: torch.dtype, mu: float | None, price: float | None
    ) -> float:
        """What one rank in this view costs an "auto" term of a weight of this shape and dtype; a fixed rank nothing."""
        return _times(self._unit(own, mu, price), self._rank_count(view, shape)) if self.rank == "auto" else 0.0

    def _unit(self, own: torch.dtype, mu: float | None, price: float | None) -> float:
        if self.alpha is not None:
            return 2 * penalty_over_mu(self, mu)  # type: ignore[arg-type]
        if price is None:
            raise ArgumentError('LowRank("auto") must get a price or alpha; set a budget, or a number for the rank')
        number = value_bits(stored_dtype(self.dtype, own), exponent_bits=3)
        return price * (number if self.priced == "storage" else 1)

    def _count(self, form: Form) -> int:
        dense = self._dense_count(form.shape)
        return (
            min(self._rank_count(form.view, form.shape) * form.rank, dense) if isinstance(form, LowRankForm) else dense
        )

    def _dense_count(self, shape: torch.Size) -> int:
        return math.prod(shape) if self.priced == "storage" else dense_flops(shape, self.out_size)

    def _rank_count(self, view: View, shape: torch.Size) -> int:
        """C(1); a view that cannot run in factors costs as much as dense with one rank."""
        if self.priced == "storage":
            return sum(view.matrix_shape(shape))
        if len(shape) > 2 and not len(self.in_size) == len(self.out_size) == len(shape) - 2:
            sizes = f"{len(shape) - 2} sizes each for a weight of shape {tuple(shape)}"
            raise ArgumentError(must("LowRank(in_size=..., out_size=...)", sizes, (self.in_size, self.out_size)))
        flops = view.rank_flops(shape, self.in_size, self.out_size, self.groups)
        return self._dense_count(shape) if flops is None else flops


def _times(unit: float, count: int) -> float:
    """unit * count, with nothing costing nothing at an infinite price."""
    return unit * count if count else 0.0
