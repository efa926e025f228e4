"""No compression but a narrower dtype."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..forms import Dense, Form
from .compression import Compression, Terms
from .stored import check_stored, rounded, stored_dtype


@dataclass(frozen=True)
class Keep(Compression):
    """min ||w - x||^2 over x stored in `dtype`: every entry rounded to the nearest. Cost O(N).

    Args:
        dtype: "float32", "float16" or "bfloat16"; None keeps the weight's own, exactly. A finite entry beyond
            the range of `dtype` becomes its largest finite value.

    >>> import torch
    >>> Keep("float16").project(torch.tensor([0.1, 1e6])).dense()
    tensor([9.9976e-02, 6.5504e+04])
    """

    dtype: str | None = None

    def __post_init__(self) -> None:
        check_stored("Keep", self.dtype)

    def _project(self, weight: Tensor, terms: Terms) -> Form:
        return Dense(shape=weight.shape, dtype=weight.dtype, values=rounded(weight, self.dtype).clone())

    def _is_feasible(self, form: Form) -> bool:
        return isinstance(form, Dense) and form.values.dtype == stored_dtype(self.dtype, form.dtype)
