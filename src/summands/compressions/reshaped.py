"""Sums of low-rank terms in several views: where to descend from (Idelbayev, Carreira-Perpinan, DCC 2021).

Block descent with hard thresholds never leaves one view for two: a rank enters a term only if it alone pays, while the
other view still holds half of it. So ranks are raised one after the other, and after each step all terms are fitted at
these ranks; what the best state on the way costs is what descent starts from. Raised where most is gained, and in turn.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..forms import Form
from ..views import View
from .low_rank import LowRank
from .spectral import Spectrum

LARGEST = 1 << 16
"""Weights of more entries are left to plain descent: a pursuit costs some hundred decompositions."""
_STATES, _FITS, _LAST_FITS, _SETS = 24, 5, 30, 2


def pursued(
    terms: Sequence[LowRank], weights: Mapping[str, Tensor], mu: float | None, price: float | None
) -> list[Mapping[str, Form]] | None:
    """For each term its forms by weight, near the optimum; None when a weight is too large for this, or has one view.

    On tiny weights of one rank in each of two views, and noise, descent from here ends within 2 % of the best of all
    ranks and several starts (tests/compressions/test_reshaped.py), where descent alone often stays far above it.
    """
    if any(w.numel() > LARGEST or not w.numel() for w in weights.values()):
        return None
    if any(len({view for term in terms for view in term.views(w.shape)}) < 2 for w in weights.values()):
        return None  # all in one view: the first term is the optimum
    found: list[dict[str, Form]] = [{} for _ in terms]
    for name, weight in weights.items():
        states = (_best_of(terms, chosen, weight, mu, price) for chosen in _choices(terms))
        best = min(states, key=lambda state: state.objective)
        for k, form in enumerate(best.forms(terms, weight)):
            found[k][name] = form
    return list(found)


def _choices(terms: Sequence[LowRank]) -> list[tuple[int, ...]]:
    """Which terms may have a rank: two or more of them. A term that is one too many leads the others astray."""
    sizes = range(2, len(terms) + 1)
    if all(term == terms[0] for term in terms):
        return [tuple(range(size)) for size in sizes]
    return [chosen for size in sizes for chosen in itertools.combinations(range(len(terms)), size)]


def _best_of(
    terms: Sequence[LowRank], chosen: Sequence[int], weight: Tensor, mu: float | None, price: float | None
) -> _State:
    """The best state in which only the chosen terms have a rank."""
    own = [terms[k] for k in chosen]
    paths = itertools.product(_likely_views(own, weight, mu, price), _turns(len(own)))
    states = (_pursuit(own, views, weight, mu, price, turn) for views, turn in paths)
    best = min(states, key=lambda state: state.objective)
    place = {k: i for i, k in enumerate(chosen)}
    return _State(
        tuple(best.views[place[k]] if k in place else term.views(weight.shape)[0] for k, term in enumerate(terms)),
        tuple(best.ranks[place[k]] if k in place else 0 for k in range(len(terms))),
        tuple(best.dense[place[k]] if k in place else torch.zeros_like(best.dense[0]) for k in range(len(terms))),
        best.objective,
    )


@dataclass(frozen=True)
class _State:
    """For each term its view, its rank and its dense value."""

    views: tuple[View, ...]
    ranks: tuple[int, ...]
    dense: tuple[Tensor, ...]
    objective: float

    def forms(self, terms: Sequence[LowRank], weight: Tensor) -> Iterator[Form]:
        """Each term's form: one more fit, whose factors are kept."""
        dense = list(self.dense)
        for k, (term, view, rank) in enumerate(zip(terms, self.views, self.ranks, strict=True)):
            rest = (weight.to(torch.float64) - _total(dense, leave_out=k)).to(weight.dtype)
            form = replace(term, rank=rank, view=view, alpha=None).project(rest)
            dense[k] = form.dense().to(torch.float64)
            yield form


Turn = Callable[[int, Sequence[float]], int]
"""(number of the step, net gain of each term) -> whose rank is raised."""


def _turns(count: int) -> list[Turn]:
    def best(step: int, gains: Sequence[float]) -> int:
        return max(range(count), key=gains.__getitem__)

    return [best, lambda step, gains: step % count, lambda step, gains: -(step + 1) % count]


def _likely_views(
    terms: Sequence[LowRank], weight: Tensor, mu: float | None, price: float | None
) -> list[tuple[View, ...]]:
    """The most promising sets of views, one a term: by a few fits of terms that share what one term alone costs."""
    sets: dict[frozenset[View] | tuple[View, ...], tuple[View, ...]] = {}
    alike = all(term == terms[0] for term in terms)
    for views in itertools.product(*(term.views(weight.shape) for term in terms)):
        if len(set(views)) == len(views) or any(len(term.views(weight.shape)) == 1 for term in terms):
            sets.setdefault(frozenset(views) if alike else views, views)
    if len(sets) <= _SETS:
        return list(sets.values())
    target = weight.to(torch.float64)
    free = [term for term in terms if term.rank == "auto"]
    alone = min(term.cost(term.project(weight, mu=mu, price=price), mu=mu, price=price) for term in free)

    def objective(views: tuple[View, ...]) -> float:
        ranks = []
        for term, view in zip(terms, views, strict=True):
            each = term.rank_price(view, weight.shape, weight.dtype, mu, price)
            most = _most(term, view, weight.shape)
            ranks.append(min(max(1, round(alone / len(terms) / each)), most) if each else most)
        zeros = [torch.zeros_like(target)] * len(terms)
        return _fitted(terms, target, weight.dtype, views, ranks, zeros, mu, price, _FITS).objective

    return sorted(sets.values(), key=objective)[:_SETS]


def _pursuit(
    terms: Sequence[LowRank],
    views: tuple[View, ...],
    weight: Tensor,
    mu: float | None,
    price: float | None,
    turn: Turn,
) -> _State:
    target = weight.to(torch.float64)
    energy, zero = float((target**2).sum()), torch.zeros_like(target)
    state = _State(views, (0,) * len(terms), (zero,) * len(terms), energy)
    best = state
    for step in range(_STATES * len(terms)):
        rest = target - _total(state.dense)
        choices = [_next(term, state, k, rest, weight, mu, price) for k, term in enumerate(terms)]
        k = turn(step, [gain for gain, _ in choices])
        if choices[k][0] == -torch.inf:
            if all(gain == -torch.inf for gain, _ in choices):
                break
            continue
        ranks = list(state.ranks)
        ranks[k] = choices[k][1]
        state = _fitted(terms, target, weight.dtype, state.views, ranks, state.dense, mu, price, _FITS)
        if state.objective < best.objective:
            best = state
        if state.objective > 2 * best.objective:
            break
    return _fitted(terms, target, weight.dtype, best.views, best.ranks, best.dense, mu, price, _LAST_FITS)


def _next(
    term: LowRank, state: _State, k: int, rest: Tensor, weight: Tensor, mu: float | None, price: float | None
) -> tuple[float, int]:
    """What the next rank of a term gains, net, and the rank to go to."""
    view = state.views[k]
    most = _most(term, view, weight.shape)
    raised = min(most, state.ranks[k] + max(1, most // _STATES))
    if raised == state.ranks[k]:
        return -torch.inf, raised
    top = float(torch.linalg.matrix_norm(view.to_matrix(rest), 2)) ** 2
    return top - term.rank_price(view, weight.shape, weight.dtype, mu, price), raised


def _most(term: LowRank, view: View, shape: torch.Size) -> int:
    full = min(view.matrix_shape(shape))
    return full if term.rank == "auto" else min(full, int(term.rank))


def _fitted(
    terms: Sequence[LowRank],
    target: Tensor,
    dtype: torch.dtype,
    views: Sequence[View],
    ranks: Sequence[int],
    dense: Sequence[Tensor],
    mu: float | None,
    price: float | None,
    fits: int,
) -> _State:
    """All terms fitted in turn at these ranks."""
    now = list(dense)
    held = [k for k in range(len(terms)) if ranks[k]]
    for _ in range(fits if len(held) > 1 else 1):
        for k in held:
            left, right = Spectrum.of(views[k].to_matrix(target - _total(now, leave_out=k))).factors(ranks[k])
            now[k] = views[k].to_tensor(left @ right, target.shape)
    cost = sum(ranks[k] * terms[k].rank_price(views[k], target.shape, dtype, mu, price) for k in held)
    error = float(((target - _total(now)) ** 2).sum())
    return _State(tuple(views), tuple(ranks), tuple(now), error + cost)


def _total(dense: Sequence[Tensor], leave_out: int = -1) -> Tensor:
    total = torch.zeros_like(dense[0])
    for k, each in enumerate(dense):
        if k != leave_out:
            total = total + each
    return total
