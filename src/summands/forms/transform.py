"""Coefficients in a basis that encoder and decoder both know."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..views import View
from .form import Form, tensor_bits
from .sparse import Sparse

MAX_COLUMNS = 8192
"""Beyond it the basis itself, columns x columns in float64, would fill the memory."""
MAX_DEGREES = 32


@dataclass(frozen=True, eq=False, kw_only=True)
class Transform(Form):
    """`view.to_tensor(C @ Phi')`, Phi an orthonormal basis of `terms` columns, C rows x terms and mostly zero.

    Accumulated in float64 and rounded once.

    Attributes:
        indices: flat positions in C, int64, strictly increasing.
        values: the coefficients there.
        terms: how many basis functions there are.
        basis: "dct" or "chebyshev".
        view: whose rows are expanded.
    """

    continuous: ClassVar[tuple[str, ...]] = ("values",)
    indices: Tensor
    values: Tensor
    terms: int
    basis: str
    view: View

    def dense(self) -> Tensor:
        rows, columns = self.view.matrix_shape(self.shape)
        values = self.values.to(torch.float64)
        zeros = torch.zeros(rows * self.terms, dtype=torch.float64, device=values.device)
        coefficients = zeros.index_copy(0, self.indices, values).reshape(rows, self.terms)
        matrix = coefficients @ basis_functions(self.basis, columns, self.terms).to(values.device).T
        return self.view.to_tensor(matrix.to(self.dtype), self.shape).contiguous()

    def validate(self) -> None:
        rows, columns = self.view.matrix_shape(self.shape)
        check_basis(self.basis, columns, self.terms)
        self._coefficients(rows).validate()

    def paper_bits(self, billed: set[int]) -> float:
        rows, _ = self.view.matrix_shape(self.shape)
        if self.indices.numel() == rows * self.terms:  # no position needs saying
            return tensor_bits(self.values, billed)
        return self._coefficients(rows).paper_bits(billed)

    def _coefficients(self, rows: int) -> Sparse:
        shape = torch.Size([rows, self.terms])
        return Sparse(shape=shape, dtype=torch.float64, indices=self.indices, values=self.values)


def check_basis(basis: str, columns: int, terms: int) -> None:
    """ValueError, with the reason, unless `terms` functions of this basis on `columns` points can be built."""
    limit = {"dct": MAX_COLUMNS, "chebyshev": MAX_DEGREES}.get(basis)
    if limit is None:
        raise ValueError(f"basis must be 'dct' or 'chebyshev', got {basis!r}")
    if columns > MAX_COLUMNS:
        raise ValueError(f"a view to be expanded in a basis must have at most {MAX_COLUMNS} columns, got {columns}")
    if not 0 <= terms <= min(columns, limit):
        raise ValueError(
            f"terms must be from 0 to {min(columns, limit)} for {basis!r} on {columns} points, got {terms}"
        )


def basis_functions(basis: str, columns: int, terms: int) -> Tensor:
    """The first `terms` functions as the columns of a matrix with orthonormal columns, float64, on the CPU.

    "dct" is the DCT-II, "chebyshev" the Chebyshev polynomials at equidistant points, made orthonormal in their order.
    """
    points = torch.arange(columns, dtype=torch.float64) + 0.5
    degrees = torch.arange(terms, dtype=torch.float64)
    if basis == "dct":
        waves = torch.cos(math.pi / max(columns, 1) * points[:, None] * degrees)
        return waves * ((1 + (degrees > 0).to(torch.float64)) / max(columns, 1)).sqrt()
    angles = torch.acos((2 * points / max(columns, 1) - 1).clamp(-1, 1))
    q, r = torch.linalg.qr(torch.cos(angles[:, None] * degrees))
    return q * r.diagonal().sign()
