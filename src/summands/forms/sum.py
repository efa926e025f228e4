"""The sum of several forms: the one mechanism for combining compressions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from .form import Form


@dataclass(frozen=True, eq=False, kw_only=True)
class Sum(Form):
    """`sum(term.dense() for term in terms)`, added from left to right in the terms' dtype, then rounded to `dtype`.

    The terms are not sums themselves, and all have the shape of the whole.
    """

    terms: tuple[Form, ...]

    def dense(self) -> Tensor:
        total = self.terms[0].dense()
        for term in self.terms[1:]:
            total = total + term.dense()
        return total.to(self.dtype)

    def validate(self) -> None:
        if len(self.terms) < 2:
            raise ValueError(f"a sum has at least 2 terms, got {len(self.terms)}")
        for term in self.terms:
            if isinstance(term, Sum):
                raise ValueError("a sum inside a sum; its terms must be listed flat")
            if term.shape != self.shape:
                raise ValueError(f"a term of shape {tuple(term.shape)} in a sum of shape {tuple(self.shape)}")
            if term.dtype != wide_dtype(self.dtype):
                raise ValueError(f"a term of dtype {term.dtype} in a sum of dtype {self.dtype}")
            term.validate()

    def flops(self, in_size: Sequence[int] = (), out_size: Sequence[int] = (), groups: int = 1) -> int:
        parallel = sum(term.flops(in_size, out_size, groups) for term in self.terms)
        return min(parallel, super().flops(in_size, out_size, groups))

    def paper_bits(self, billed: set[int]) -> float:
        return sum(term.paper_bits(billed) for term in self.terms)

    def parts(self) -> tuple[Form, ...]:
        return self.terms

    def replace_part(self, index: int, part: Form) -> Form:
        return replace(self, terms=(*self.terms[:index], part, *self.terms[index + 1 :]))

    def tensors(self) -> dict[str, Tensor]:
        return {f"{i}.{name}": t for i, term in enumerate(self.terms) for name, t in term.tensors().items()}

    def continuous_tensors(self) -> dict[str, Tensor]:
        return {f"{i}.{name}": t for i, term in enumerate(self.terms) for name, t in term.continuous_tensors().items()}

    def replace_tensors(self, tensors: Mapping[str, Tensor]) -> Self:
        terms = []
        for i, term in enumerate(self.terms):
            own = {name.partition(".")[2]: t for name, t in tensors.items() if name.partition(".")[0] == str(i)}
            terms.append(term.replace_tensors(own))
        return replace(self, terms=tuple(terms))

    def same(self, other: Form) -> bool:
        return (
            isinstance(other, Sum)
            and (self.shape, self.dtype, len(self.terms)) == (other.shape, other.dtype, len(other.terms))
            and all(mine.same(theirs) for mine, theirs in zip(self.terms, other.terms, strict=True))
        )


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which the terms of a sum are added: float32, or float64 for a float64 weight."""
    return torch.float64 if dtype == torch.float64 else torch.float32
