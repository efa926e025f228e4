"""The sum of compressions, which is a compression: Part V of Learning-Compression (2107.04380)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..coding import estimated_bits
from ..errors import ArgumentError, in_context, must
from ..forms import Form, Sum
from ..forms.sum import wide_dtype
from .compression import Compression, Terms, check_weight
from .joint import Joint, solve_jointly

Forms = Mapping[str, Form]


@dataclass(frozen=True)
class Additive(Compression):
    """min ||w - sum_k Delta_k(Theta_k)||^2, what `a + b + ...` builds.

    Where the optimum is known (joint.py) it is taken. Elsewhere block coordinate descent (Part V, section 3): each part
    in turn is projected onto the residual of all others, from `previous`, or else from fitting the parts one after
    the other, until a round lowers the objective by less than `tolerance` of it. Other starts, a joint solution that
    is only near the optimum, or another part fitted first, are descended from if they begin below that.

    In objective never worse than a feasible `previous`, than plain descent, or than the best single part when the
    other parts can be zero; all up to the rounding of stored dtypes. A part with per="task" sees the residuals of all
    weights of the task at once. Cost: `rounds` projections of every part, at most; a warm start needs few.
    """

    is_term = False
    rounds: ClassVar[int] = 30
    tolerance: ClassVar[float] = 1e-4
    terms: tuple[Compression, ...]

    def __post_init__(self) -> None:
        if len(self.terms) < 2 or any(not term.is_term for term in self.terms):
            allowed = "at least two compressions, none a sum or a choice itself"
            raise ArgumentError(must("Additive(terms)", allowed, tuple(map(str, self.terms))))

    def project_task(
        self,
        weights: Mapping[str, Tensor],
        *,
        mu: float | None = None,
        price: float | None = None,
        previous: Forms | None = None,
        importance: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Form]:
        for name, weight in weights.items():
            with in_context(f"weight {name!r}"):
                check_weight(weight)
        problem = _Problem(self.terms, weights, mu, price, importance or {})
        warm = bool(previous) and self.is_feasible(previous or {}, weights)
        joint = None if importance else solve_jointly(self.terms, problem.targets, mu=mu, price=price, near=not warm)
        if joint is not None and joint.optimal:
            return problem.sums(joint.parts)
        if warm and previous:
            first = problem.state(_parts(previous, len(self.terms)))
        else:
            first = problem.state(problem.one_after_the_other(0))
        best = self._descend(problem, first)
        for start in self._other_starts(problem, joint, best.objective):
            if start.objective < best.objective:
                best = min(best, self._descend(problem, start), key=lambda state: state.objective)
        return problem.sums(best.parts)

    def cost(self, form: Form, *, mu: float | None = None, price: float | None = None) -> float:
        return sum(t.cost(f, mu=mu, price=price) for t, f in zip(self.terms, form.parts(), strict=True))

    def is_feasible(self, forms: Forms, weights: Mapping[str, Tensor]) -> bool:
        if forms.keys() != weights.keys():
            return False
        if any(not isinstance(f, Sum) or len(f.terms) != len(self.terms) for f in forms.values()):
            return False
        if any((forms[n].shape, forms[n].dtype) != (w.shape, w.dtype) for n, w in weights.items()):
            return False
        wide = {name: w.to(wide_dtype(w.dtype)) for name, w in weights.items()}
        parts = _parts(forms, len(self.terms))
        return all(term.is_feasible(part, wide) for term, part in zip(self.terms, parts, strict=True))

    def parts(self) -> tuple[Compression, ...]:
        return self.terms

    def without_jumps(self, now: Forms, beyond: Forms, bits: float) -> Compression:
        before, after = _parts(now, len(self.terms)), _parts(beyond, len(self.terms))
        held = {
            k: before[k]
            for k, term in enumerate(self.terms)
            if term.is_free() and _bits(after[k]) - _bits(before[k]) > bits
        }
        rest = Held(self, held)
        return rest if held and rest.is_free() else self

    def for_flops(self, in_size: tuple[int, ...], out_size: tuple[int, ...], groups: int) -> Compression:
        return Additive(tuple(term.for_flops(in_size, out_size, groups) for term in self.terms))

    def __str__(self) -> str:
        return " + ".join(str(term) for term in self.terms)

    def _descend(self, problem: _Problem, state: _State) -> _State:
        for _ in range(self.rounds):
            before = state.objective
            for k in range(len(self.terms)):
                state = problem.step(state, k)
            if not state.objective < before * (1 - self.tolerance):
                break
        return state

    def _other_starts(self, problem: _Problem, near: Joint | None, objective: float) -> Iterator[_State]:
        """Where else to descend from: a joint solution that is not exact, each part that alone is already better."""
        if near is not None:
            yield problem.state(near.parts)
        for k in range(len(self.terms)):
            if problem.alone(k) < objective:
                yield problem.state(problem.one_after_the_other(k))

    def _project(self, weight: Tensor, terms: Terms) -> Form:
        raise AssertionError("a sum projects whole tasks; `project` and `project_task` never come here")

    def _is_feasible(self, form: Form) -> bool:
        raise AssertionError("a sum checks whole tasks; `is_feasible` never comes here")


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
    held: Mapping[int, Forms]

    def project_task(
        self,
        weights: Mapping[str, Tensor],
        *,
        mu: float | None = None,
        price: float | None = None,
        previous: Forms | None = None,
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


def _parts(sums: Forms, count: int) -> list[Forms]:
    """For each part its forms by weight."""
    return [{name: form.parts()[k] for name, form in sums.items()} for k in range(count)]


def _bits(forms: Forms) -> float:
    return sum(estimated_bits(form) for form in forms.values())


@dataclass(frozen=True)
class _State:
    """For each part its forms by weight, their dense tensors and their cost; and the objective of the whole."""

    parts: list[Forms]
    dense: list[dict[str, Tensor]]
    costs: list[float]
    objective: float


class _Problem:
    """One task's weights, in the dtype in which the terms are added, and what the parts are to minimise."""

    def __init__(
        self,
        terms: tuple[Compression, ...],
        weights: Mapping[str, Tensor],
        mu: float | None,
        price: float | None,
        importance: Mapping[str, Tensor],
    ) -> None:
        self.terms, self.weights, self.mu, self.price, self.importance = terms, weights, mu, price, importance
        self.targets = {name: w.detach().to(wide_dtype(w.dtype)) for name, w in weights.items()}

    def state(self, parts: list[Forms]) -> _State:
        dense = [self._dense(forms) for forms in parts]
        costs = [self._cost(k, forms) for k, forms in enumerate(parts)]
        return _State(parts, dense, costs, self._error(dense) + sum(costs))

    def step(self, state: _State, k: int) -> _State:
        """Part k projected onto what the others leave; the same state if that does not lower the objective."""
        others = [dense for j, dense in enumerate(state.dense) if j != k]
        forms = self._fit(k, self._left(others), state.parts[k])
        dense = [*state.dense[:k], self._dense(forms), *state.dense[k + 1 :]]
        costs = [*state.costs[:k], self._cost(k, forms), *state.costs[k + 1 :]]
        objective = self._error(dense) + sum(costs)
        if not objective < state.objective:
            return state
        return _State([*state.parts[:k], forms, *state.parts[k + 1 :]], dense, costs, objective)

    def one_after_the_other(self, first: int) -> list[Forms]:
        """Every part fitted once to what the parts before it left, `first` before all others."""
        fitted: dict[int, Forms] = {}
        for k in sorted(range(len(self.terms)), key=lambda k: k != first):
            fitted[k] = self._fit(k, self._left([self._dense(forms) for forms in fitted.values()]), None)
        return [fitted[k] for k in range(len(self.terms))]

    def alone(self, k: int) -> float:
        """The objective of part k without the others."""
        forms = self._fit(k, self.targets, None)
        return self._error([self._dense(forms)]) + self._cost(k, forms)

    def sums(self, parts: Sequence[Forms]) -> dict[str, Form]:
        return {
            name: Sum(shape=w.shape, dtype=w.dtype, terms=tuple(part[name] for part in parts))
            for name, w in self.weights.items()
        }

    def _fit(self, k: int, rest: Mapping[str, Tensor], previous: Forms | None) -> Forms:
        return self.terms[k].project_task(
            rest, mu=self.mu, price=self.price, previous=previous, importance=self.importance
        )

    def _cost(self, k: int, forms: Forms) -> float:
        return sum(self.terms[k].cost(form, mu=self.mu, price=self.price) for form in forms.values())

    def _dense(self, forms: Forms) -> dict[str, Tensor]:
        return {name: form.dense() for name, form in forms.items()}

    def _left(self, dense: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        left = dict(self.targets)
        for part in dense:
            left = {name: rest - part[name] for name, rest in left.items()}
        return left

    def _error(self, dense: Sequence[Mapping[str, Tensor]]) -> float:
        error = 0.0
        for name, target in self.targets.items():
            # From left to right in the terms' dtype, as Sum.dense() adds.
            total = dense[0][name]
            for part in dense[1:]:
                total = total + part[name]
            left = (target.to(torch.float64) - total.to(torch.float64)).reshape(-1)
            weighting = self.importance.get(name)
            error += float(left @ (left if weighting is None else left * weighting.reshape(-1).to(torch.float64)))
        return error
