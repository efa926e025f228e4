"""A learned codebook."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

from torch import Tensor

from ..errors import ArgumentError, must
from ..forms import Codebook, Form
from .codebook_fit import nearest_form, optimal_values
from .compression import Compression, Terms
from .scope import check_scope
from .stored import check_stored, stored_dtype


@dataclass(frozen=True)
class Quantize(Compression):
    """min ||w - c[z]||^2 over k values c and the choice z of one of them for each entry.

    This is k-means in one dimension, solved to the global optimum by dynamic programming on the sorted entries
    (Wu 1991; Part II of Learning-Compression, 1707.04319, section 4), and the optimum is then rounded to `dtype`.
    Cost: a sort and a few passes, O(N log N) on the weights of networks; O(k N log N) at worst. The weight travels to
    host memory once and only the codebook comes back.

    Args:
        k: how many values, at least 1. With k at least the number of distinct entries the form is exact.
        per: one codebook for each "weight", "row" or "channel", or for all weights of the "task".
        dtype: in which the values are stored, see `Keep`.

    >>> import torch
    >>> form = Quantize(2).project(torch.tensor([-1.1, -0.9, 1.0, 1.0, 1.3]))
    >>> form.values, form.codes
    (tensor([-1.0000,  1.1000]), tensor([0, 0, 1, 1, 1], dtype=torch.uint8))
    """

    on_host = True
    k: int
    _: KW_ONLY
    per: str = "weight"
    dtype: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.k, int) or self.k < 1:
            raise ArgumentError(must("Quantize(k)", "an integer of at least 1", self.k))
        check_scope("Quantize", self.per)
        check_stored("Quantize", self.dtype)

    def _project(self, weight: Tensor, terms: Terms) -> Form:
        return nearest_form(weight, optimal_values(terms.host, terms.importance, self.k), self.dtype)

    def _is_feasible(self, form: Form) -> bool:
        return (
            isinstance(form, Codebook)
            and form.values.shape[-1] <= self.k
            and form.values.dtype == stored_dtype(self.dtype, form.dtype)
            and form.axis == {"row": 0, "channel": 1}.get(self.per)
        )
