"""The sum of compressions, which is a compression: Part V of Learning-Compression (2107.04380)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import ArgumentError, must
from ..forms import Form, Sum
from ..forms.sum import wide_dtype
from .compression import Compression, Terms
from .joint import solve_jointly

Forms = Mapping[str, Form]


@dataclass(frozen=True)
class Additive(Compression):
    """min ||w - sum_k Delta_k(Theta_k)||^2, what `a + b + ...` builds.

    Block coordinate descent (Part V, section 3): each part in turn is projected onto the residual of all others,
    starting from zero, or from `previous`, until a round lowers the objective by less than `tolerance` of it.
    Monotone. A part with per="task" sees the residuals of all weights of the task at once.

    In objective never worse than a feasible `previous`, nor than the best single part, up to rounding of stored dtypes.
    Cost: `rounds` projections of every part, at most; a warm start needs few.
    """

    rounds: ClassVar[int] = 30
    tolerance: ClassVar[float] = 1e-4
    terms: tuple[Compression, ...]

    def __post_init__(self) -> None:
        if len(self.terms) < 2 or any(isinstance(term, Additive) for term in self.terms):
            raise ArgumentError(must("Additive(terms)", "at least two compressions, none a sum itself", self.terms))

    def project_task(
        self,
        weights: Mapping[str, Tensor],
        *,
        mu: float | None = None,
        price: float | None = None,
        previous: Forms | None = None,
        importance: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Form]:
        descent = _Descent(self.terms, weights, mu, price, importance or {})
        for start in self._starts(descent, weights, previous):
            descent.consider(start)
        for _ in range(self.rounds):
            before = descent.objective
            descent.round()
            if not descent.objective < before * (1 - self.tolerance):
                break
        return descent.forms()

    def cost(self, form: Form, *, mu: float | None = None, price: float | None = None) -> float:
        return sum(t.cost(f, mu=mu, price=price) for t, f in zip(self.terms, form.parts(), strict=True))

    def is_feasible(self, forms: Forms, weights: Mapping[str, Tensor]) -> bool:
        if forms.keys() != weights.keys():
            return False
        if any(not isinstance(f, Sum) or len(f.terms) != len(self.terms) for f in forms.values()):
            return False
        wide = {name: w.to(wide_dtype(w.dtype)) for name, w in weights.items()}
        return all(
            term.is_feasible({name: form.parts()[k] for name, form in forms.items()}, wide)
            for k, term in enumerate(self.terms)
        )

    def parts(self) -> tuple[Compression, ...]:
        return self.terms

    def __str__(self) -> str:
        return " + ".join(str(term) for term in self.terms)

    def _starts(self, descent: _Descent, weights: Mapping[str, Tensor], previous: Forms | None) -> list[list[Forms]]:
        """Where to descend from: the exact joint solution if one is known, `previous`, or each part fitted first."""
        starts: list[list[Forms]] = []
        if previous and self.is_feasible(previous, weights):
            starts.append([{name: form.parts()[k] for name, form in previous.items()} for k in range(len(self.terms))])
        exact = solve_jointly(self.terms, descent.targets, mu=descent.mu, price=descent.price)
        if exact is not None and not descent.importance:
            starts.append(exact)
        if not starts:
            starts.extend(descent.greedy(first) for first in range(len(self.terms)))
        return starts

    def _project(self, weight: Tensor, terms: Terms) -> Form:
        raise AssertionError("a sum projects whole tasks; `project` and `project_task` never come here")

    def _is_feasible(self, form: Form) -> bool:
        raise AssertionError("a sum checks whole tasks; `is_feasible` never comes here")


class _Descent:
    """The state of block coordinate descent over one task: a form for every part and weight, and the objective."""

    def __init__(
        self,
        terms: tuple[Compression, ...],
        weights: Mapping[str, Tensor],
        mu: float | None,
        price: float | None,
        importance: Mapping[str, Tensor],
    ) -> None:
        self.terms, self.mu, self.price, self.importance = terms, mu, price, importance
        self.weights = weights
        self.targets = {name: w.detach().to(wide_dtype(w.dtype)) for name, w in weights.items()}
        self.state: list[Forms] = []
        self.dense: list[dict[str, Tensor]] = []
        self.objective = float("inf")

    def greedy(self, first: int) -> list[Forms]:
        """Every part fitted once to what the parts before it left, `first` before all others."""
        order = [first, *(k for k in range(len(self.terms)) if k != first)]
        rest, fitted = dict(self.targets), {}
        for k in order:
            fitted[k] = self._fit(k, rest, None)
            rest = {name: r - fitted[k][name].dense() for name, r in rest.items()}
        return [fitted[k] for k in range(len(self.terms))]

    def consider(self, state: list[Forms]) -> None:
        """Goes on from this state if it is better than the present one."""
        dense = [{name: form.dense() for name, form in part.items()} for part in state]
        objective = self._objective(state, dense)
        if objective < self.objective or not self.state:
            self.state, self.dense, self.objective = state, dense, objective

    def round(self) -> None:
        """Projects every part once onto the residual of the others; a step that would not descend is not taken."""
        for k in range(len(self.terms)):
            others = [dense for j, dense in enumerate(self.dense) if j != k]
            rest = {name: t - sum(dense[name] for dense in others) for name, t in self.targets.items()}
            self.consider([*self.state[:k], self._fit(k, rest, self.state[k]), *self.state[k + 1 :]])

    def forms(self) -> dict[str, Form]:
        return {
            name: Sum(shape=w.shape, dtype=w.dtype, terms=tuple(part[name] for part in self.state))
            for name, w in self.weights.items()
        }

    def _fit(self, k: int, rest: Mapping[str, Tensor], previous: Forms | None) -> Forms:
        return self.terms[k].project_task(
            rest, mu=self.mu, price=self.price, previous=previous, importance=self.importance
        )

    def _objective(self, state: list[Forms], dense: list[dict[str, Tensor]]) -> float:
        error = 0.0
        for name, target in self.targets.items():
            # From left to right in the terms' dtype, as Sum.dense() adds.
            total = dense[0][name]
            for part in dense[1:]:
                total = total + part[name]
            square = (target.to(torch.float64) - total.to(torch.float64)) ** 2
            error += float((square * self.importance[name] if name in self.importance else square).sum())
        cost = sum(
            term.cost(form, mu=self.mu, price=self.price)
            for term, part in zip(self.terms, state, strict=True)
            for form in part.values()
        )
        return error + cost
