"""Expansion in a fixed basis: the low frequencies, or the largest coefficients."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ArgumentError, WeightError, must
from ..forms import Form
from ..forms import Transform as TransformForm
from ..forms.transform import MAX_DEGREES, basis_functions, check_basis
from ..views import View, parse_view
from .choose import largest, position_bits, worth_their_bits
from .compression import Compression, Terms
from .prune import Prune
from .stored import check_stored, rounded, stored_dtype, value_bits


@dataclass(frozen=True)
class Transform(Compression):
    """min ||W - C Phi'||^2, Phi a fixed orthonormal basis for the rows of a view of the weight (ApproxConv 2022).

    C has either the first q coefficients of every row, vec(filter) = Phi c by least squares; or the k largest
    of all, or those worth their bits, chosen as `Prune` chooses entries. As Phi keeps lengths, each is exact up to
    the rounding of the dense weight. The basis costs no bits. Cost O(rows columns^2).

    Args:
        terms: q, above the number of columns as many as there are. Exactly one of terms, keep and count is given.
        keep: the share of all coefficients that are kept, in [0, 1]; or "auto", which needs a price.
        count: how many.
        basis: "dct"; or "chebyshev", polynomials at equidistant points, at most 32 of them and only with `terms`.
        view: whose rows are expanded (views.py), of at most 8192 columns.
        dtype: of the coefficients, "float32", "float16" or "bfloat16"; None is the weight's own.

    >>> import torch
    >>> ramp = torch.arange(12.0).reshape(2, 6)
    >>> torch.allclose(Transform(terms=2, basis="chebyshev").project(ramp).dense(), ramp, atol=1e-5)
    True
    """

    terms: int | None = None
    keep: float | str | None = None
    count: int | None = None
    basis: str = "dct"
    view: str | View = "out"
    dtype: str | None = None

    def __post_init__(self) -> None:
        given = (self.terms, self.keep, self.count)
        if given.count(None) != 2:
            raise ArgumentError(must("Transform(terms=..., keep=..., count=...)", "given one of the three", given))
        if self.terms is not None and (type(self.terms) is not int or self.terms < 0):
            raise ArgumentError(must("Transform(terms=...)", "an integer of at least 0", self.terms))
        if self.basis not in ("dct", "chebyshev"):
            raise ArgumentError(must("Transform(basis=...)", "'dct' or 'chebyshev'", self.basis))
        if self.basis == "chebyshev" and (self.terms is None or self.terms > MAX_DEGREES):
            raise ArgumentError(must('Transform(basis="chebyshev", terms=...)', f"at most {MAX_DEGREES}", self.terms))
        object.__setattr__(self, "view", str(parse_view(self.view)))
        check_stored("Transform", self.dtype)
        if self.terms is None:
            Prune(self.keep, self.count)  # raises what it would raise

    def cost(self, form: Form, *, mu: float | None = None, price: float | None = None) -> float:
        """price * (n H2(k/n) + value bits) for "auto", k of n coefficients being kept; all else costs nothing."""
        if self.keep != "auto" or price is None or not isinstance(form, TransformForm):
            return 0.0
        kept = torch.tensor(form.indices.numel(), dtype=torch.float64)
        return price * float(position_bits(kept, form.size) + value_bits(form.values.dtype, exponent_bits=1) * kept)

    def _project(self, weight: Tensor, terms: Terms) -> Form:
        if terms.importance is not None:
            raise ArgumentError("Transform must get no importance; Prune, Quantize and LowRank take one")
        view = parse_view(self.view)
        columns = view.matrix_shape(weight.shape)[1]
        used = columns if self.terms is None else min(self.terms, columns)
        try:
            check_basis(self.basis, columns, used)
        except ValueError as error:
            raise WeightError(str(error)) from error
        basis = basis_functions(self.basis, columns, used).to(weight.device)
        exact = (view.to_matrix(weight).to(torch.float64) @ basis).reshape(-1)
        stored = rounded(exact, self.dtype, weight.dtype)
        indices = self._chosen(exact, stored, terms.price)
        return TransformForm(
            shape=weight.shape,
            dtype=weight.dtype,
            indices=indices,
            values=stored[indices],
            terms=used,
            basis=self.basis,
            view=view,
        )

    def _chosen(self, exact: Tensor, stored: Tensor, price: float | None) -> Tensor:
        """The positions of the coefficients to keep."""
        if self.terms is not None:
            return torch.arange(len(exact), device=exact.device)
        if self.keep == "auto":
            if price is None:
                raise ArgumentError('Transform(keep="auto") must get a price; set a budget, or a number for keep')
            gain = exact**2 - (exact - stored) ** 2
            return worth_their_bits(gain, (stored != 0).long(), price, value_bits(stored.dtype, exponent_bits=1))
        chosen = largest(exact.abs(), self._limit(len(exact)))
        return chosen[stored[chosen] != 0]

    def _is_feasible(self, form: Form) -> bool:
        if not isinstance(form, TransformForm) or form.values.dtype != stored_dtype(self.dtype, form.dtype):
            return False
        view = parse_view(self.view)
        rows, columns = view.matrix_shape(form.shape)
        terms = columns if self.terms is None else min(self.terms, columns)
        limit = rows * terms if self.terms is not None or self.keep == "auto" else self._limit(rows * terms)
        found = (form.basis, form.view, form.terms)
        return found == (self.basis, view, terms) and form.indices.numel() <= limit

    def _limit(self, size: int) -> int:
        wanted = self.count if self.count is not None else round(float(self.keep or 0) * size)
        return min(wanted, size)
