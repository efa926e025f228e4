"""A product of two thin factors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ArgumentError, must
from ..forms import Dense, Form
from ..forms import LowRank as LowRankForm
from ..views import View, parse_view
from .compression import Compression, Terms
from .stored import check_stored, rounded, stored_dtype


@dataclass(frozen=True)
class LowRank(Compression):
    """min ||W - A B||^2 over A m x r, B r x n, W a matrix view of the weight: the truncated SVD (Eckart-Young).

    A = U sqrt(S), B = sqrt(S) V', each singular vector with the sign that makes the entry of V of largest magnitude
    positive. Cost: one eigendecomposition of the smaller Gram matrix, in float64. The factors are rounded to `dtype`
    at the end.

    Args:
        rank: r >= 0; from min(m, n) on, the weight is stored dense.
        view: how the weight is a matrix, see views.py.
        dtype: of the factors, "float32", "float16" or "bfloat16"; None is the weight's own.

    >>> import torch
    >>> form = LowRank(1).project(torch.tensor([[1.0, 2.0], [2.0, 4.0], [3.0, 6.0]]))
    >>> form.rank, torch.allclose(form.dense()[2], torch.tensor([3.0, 6.0]))
    (1, True)
    """

    rank: int
    view: str | View = "out"
    dtype: str | None = None

    def __post_init__(self) -> None:
        if type(self.rank) is not int or self.rank < 0:
            raise ArgumentError(must("LowRank(rank)", "an integer of at least 0", self.rank))
        object.__setattr__(self, "view", str(parse_view(self.view)))
        check_stored("LowRank", self.dtype)

    def _project(self, weight: Tensor, terms: Terms) -> Form:
        view = parse_view(self.view)
        if self.rank >= min(view.matrix_shape(weight.shape)):
            return Dense(shape=weight.shape, dtype=weight.dtype, values=rounded(weight, self.dtype).clone())
        left, right = factors(view.to_matrix(weight), self.rank)
        return LowRankForm(
            shape=weight.shape,
            dtype=weight.dtype,
            left=rounded(left, self.dtype, weight.dtype),
            right=rounded(right, self.dtype, weight.dtype),
            view=view,
        )

    def _is_feasible(self, form: Form) -> bool:
        view, stored = parse_view(self.view), stored_dtype(self.dtype, form.dtype)
        if isinstance(form, Dense):
            return self.rank >= min(view.matrix_shape(form.shape)) and form.values.dtype == stored
        return (
            isinstance(form, LowRankForm)
            and form.view == view
            and form.rank <= self.rank
            and form.left.dtype == form.right.dtype == stored
        )


def factors(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """U sqrt(S) and sqrt(S) V' of the truncated SVD, in float64."""
    if matrix.shape[0] < matrix.shape[1]:
        left, right = factors(matrix.T, rank)
        return right.T, left.T
    exact = matrix.to(torch.float64)
    _, vectors = torch.linalg.eigh(exact.T @ exact)
    basis = vectors[:, vectors.shape[1] - rank :].flip(1)
    peak = basis.gather(0, basis.abs().argmax(0, keepdim=True)) if rank else basis[:1]
    basis = basis * peak.sign()
    scaled = exact @ basis
    root = scaled.norm(dim=0).sqrt()
    left = scaled / torch.where(root > 0, root, 1.0)
    return left, (basis * root).T
