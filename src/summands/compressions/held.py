"""A sum of which some parts stay as they are while the others are fitted anew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ..forms import Form, Sum
from ..forms.sum import wide_dtype
from .additive import Additive
from .compression import Compression, Terms


@dataclass(frozen=True, eq=False)
class Held(Compression):
    """min ||w - sum_k Delta_k||^2 over the parts that are not held.

    A budget needs it where the size of one part jumps over all that is left of the budget: the jump is not taken, and
    the other parts spend the rest. Cost: that of the sum of the other parts.

    Args:
        whole: the sum.
        held: for the index of each held term its forms, by weight; not all terms.
    """

    is_term = False
    whole: Additive
    held: Mapping[int, Mapping[str, Form]]

    def project_task(
        self,
        weights: Mapping[str, Tensor],
        *,
        mu: float | None = None,
        price: float | None = None,
        previous: Mapping[str, Form] | None = None,
        importance: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Form]:
        left = {name: weight.detach().to(wide_dtype(weight.dtype)) for name, weight in weights.items()}
        for forms in self.held.values():
            left = {name: weight - forms[name].dense() for name, weight in left.items()}
        terms = self.whole.terms
        free = [k for k in range(len(terms)) if k not in self.held]
        others = terms[free[0]] if len(free) == 1 else Additive(tuple(terms[k] for k in free))
        last = {name: self._others(form, free) for name, form in previous.items()} if previous else None
        if last is not None and not others.is_feasible(last, left):
            last = None
        made = others.project_task(left, mu=mu, price=price, previous=last, importance=importance)
        return {name: self._with(form, free, name, weights[name]) for name, form in made.items()}

    def parts(self) -> tuple[Compression, ...]:
        return self.whole.parts()

    def is_free(self) -> bool:
        return any(term.is_free() for k, term in enumerate(self.whole.terms) if k not in self.held)

    def __str__(self) -> str:
        return str(self.whole)

    def _others(self, form: Form, free: list[int]) -> Form:
        parts = tuple(form.parts()[k] for k in free)
        return parts[0] if len(parts) == 1 else Sum(shape=form.shape, dtype=parts[0].dtype, terms=parts)

    def _with(self, form: Form, free: list[int], name: str, weight: Tensor) -> Form:
        parts = dict(zip(free, form.parts(), strict=True)) | {k: forms[name] for k, forms in self.held.items()}
        terms = tuple(parts[k] for k in range(len(parts)))
        return Sum(shape=weight.shape, dtype=weight.dtype, terms=terms)

    def _project(self, weight: Tensor, terms: Terms) -> Form:
        raise AssertionError("a sum projects whole tasks; `project_task` never comes here")

    def _is_feasible(self, form: Form) -> bool:
        raise AssertionError("a sum checks whole tasks; `is_feasible` never comes here")
