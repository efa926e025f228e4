"""Refinement layers: a network that can be read in part, each layer better than the one before.

A form is taken apart into *pieces* of its terms, each a form itself:

    Grid      base-4 digits of the levels, signed, the most significant first: levels = sum_k 4^(m-1-k) piece_k.levels
    Sparse    the largest quarter of the entries, the next quarter, the rest
    LowRank   the first quarter of the ranks, the next quarter, the rest
    Embedded  the planes of the levels, signed, the highest first: levels = sum_k 2^(m-1-k) piece_k.levels
    Successive   runs of events, one for each layer
    others    one piece
    Sum       the pieces of its terms; a term without a piece yet is absent

`assemble` puts together any pieces that came, and all of them give the form back exactly. Pieces follow each other by
value, the decrease of the squared error relative to the weight's norm, per estimated bit.

A piece of Embedded or Successive is coded as what the pieces before it leave open (`so_far`), at the cost of the whole.
Events that several weights share are a shared tensor, which has pieces of its own: the first run stands where shared
tensors stand, and each weight holds it; the later runs come as pieces of that tensor (`cut_sequences`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ..coding import estimated_bits
from ..forms import Embedded, Events, Form, Grid, LowRank, Sparse, Successive, Sum
from ..forms.embedded import coarser_step
from ..forms.sum import wide_dtype
from .header import CONTINUED

SMALLEST = 64
"""A grid of fewer entries, or a sparse term of fewer kept ones, is one piece: a further one costs some ten bytes."""
SHORTEST = 16
"""Events of a run, at least."""

_WORST = 1e100
"""An error as large as this, or without a number."""
MOST = 32
"""Pieces of a term that are coded as what those before leave open, at most: each decodes these again."""


@dataclass(frozen=True)
class Piece:
    """One piece of one term of a weight."""

    term: int
    form: Form


def take_apart(form: Form, shared: Collection[int], runs: int = MOST) -> list[Piece]:
    """The pieces of a form, in the order in which they must come.

    Args:
        shared: holds the `id` of tensors to leave whole.
        runs: at most so many of a sequence of events.
    """
    pieces = [Piece(k, piece) for k, term in enumerate(form.parts()) for piece in _split(term, shared, runs)]
    # Alone, the first term is the weight: pieces have the weight's dtype, and get the terms' own back in the sum.
    return [Piece(p.term, replace(p.form, dtype=form.dtype)) for p in pieces]


def assemble(pieces: Sequence[Piece], declared: Mapping[int, int]) -> Form:
    """The form of the pieces that came; `declared` says how many each term has in all."""
    terms = []
    for k in range(max(p.term for p in pieces) + 1):
        came = [p.form for p in pieces if p.term == k]
        if not came:
            raise ValueError(f"term {k} of a sum has no piece")
        terms.append(_join(came, declared[k]))
    if len(terms) == 1:
        return terms[0]
    shape, dtype = terms[0].shape, terms[0].dtype
    return Sum(shape=shape, dtype=dtype, terms=tuple(replace(t, dtype=wide_dtype(dtype)) for t in terms))


def so_far(pieces: Sequence[Form]) -> Form | None:
    """What the decoder knows of a term before the next of its pieces; None where that piece is coded alone."""
    return _join(pieces, len(pieces)) if pieces and type(pieces[0]).__name__ in CONTINUED else None


@dataclass(frozen=True, eq=False)
class Runs:
    """The runs of a shared sequence of events, and which weights hold the whole of it."""

    pieces: list[Piece]
    holders: list[Form]
    whole: Tensor

    @property
    def first(self) -> Tensor:
        return self.pieces[0].form.tensors()["values"]

    def holding(self, count: int) -> list[Form]:
        """The holders with the first `count` runs."""
        events = torch.cat([piece.form.tensors()["values"] for piece in self.pieces[:count]])
        return [form.map(lambda tensor: events if tensor is self.whole else tensor) for form in self.holders]


def cut_sequences(forms: Sequence[Form], layers: int, shared: Collection[int]) -> tuple[list[Form], list[Runs]]:
    """The forms with the first run of every sequence of events that they share, and all runs of each."""
    found: dict[int, Runs] = {}
    for form in forms:
        for part in form.parts():
            if isinstance(part, Successive) and id(part.events) in shared and id(part.events) not in found:
                events = part.events
                pieces = [
                    Piece(0, Events(shape=run.shape, dtype=run.dtype, values=run, total=part.total, seed=part.seed))
                    for run in _runs(events, layers)
                ]
                holders = [f for f in forms if any(tensor is events for tensor in f.tensors().values())]
                found[id(events)] = Runs(pieces, holders, events)
    cut = {whole: runs.first for whole, runs in found.items()}
    return [form.map(lambda tensor: cut.get(id(tensor), tensor)) for form in forms], list(found.values())


def schedule(
    forms: Sequence[Form], layers: int, shared: Collection[int], sequences: Sequence[Runs] = ()
) -> list[list[tuple[int, Piece]]]:
    """All pieces as (weight, piece), in `layers` layers of about equal size after the first, which has all weights.

    The later runs of the sequences follow as those of the weights with the numbers len(forms) and up.
    """
    first: list[tuple[int, Piece]] = []
    steps: list[_Step] = []
    for i, form in enumerate(forms):
        pieces = take_apart(form, shared, layers)
        first.append((i, pieces[0]))
        declared = count_pieces(p.term for p in pieces)
        steps.extend(_steps(i, pieces, [form], partial(_first_of, pieces, declared)))
    for i, sequence in enumerate(sequences, start=len(forms)):
        steps.extend(_steps(i, sequence.pieces, sequence.holders, sequence.holding))
    # Stable, so that the steps of one weight, whose values decrease, keep their order.
    steps.sort(key=lambda step: -step.value)
    total, done = sum(step.bits for step in steps), 0.0
    rest: list[list[tuple[int, Piece]]] = [[] for _ in range(layers - 1)]
    for step in steps:
        for pieces, bits in step.parts:
            # The layer that holds the middle of the part.
            middle = (done + bits / 2) / total if total else 0.0
            done += bits
            rest[min(int(middle * (layers - 1)), layers - 2)].extend((step.weight, piece) for piece in pieces)
    return [first, *(layer for layer in rest if layer)]


@dataclass
class _Step:
    """Pieces of one weight that come one after the other, as those before are worth less than those after.

    Its parts, each some pieces and their bits, are what a layer can end after.
    """

    weight: int
    parts: list[tuple[list[Piece], float]]
    gain: float

    @property
    def bits(self) -> float:
        return sum(bits for _, bits in self.parts)

    @property
    def value(self) -> float:
        return self.gain / max(self.bits, 1.0)

    def followed_by(self, later: _Step) -> _Step:
        """Both together, apart only where the first half is a gain by itself and costs nothing to be apart."""
        parts = self.parts + later.parts
        if self.gain <= 0 or type(later.parts[0][0][0].form).__name__ not in CONTINUED:
            parts = [([piece for pieces, _ in parts for piece in pieces], sum(bits for _, bits in parts))]
        return _Step(self.weight, parts, self.gain + later.gain)


def _steps(
    weight: int, pieces: Sequence[Piece], exact: Sequence[Form], after: Callable[[int], Sequence[Form]]
) -> list[_Step]:
    """The refinements of one weight in order, merged where needed so that each lowers the error, the best first.

    `after` gives what `exact` is known as after so many pieces.
    """
    if len(pieces) == 1:
        return []
    error = _error(exact, after(1))
    steps: list[_Step] = []
    for n, piece in enumerate(pieces[1:], start=2):
        before, error = error, _error(exact, after(n))
        known = so_far([p.form for p in pieces[: n - 1] if p.term == piece.term])
        steps.append(_Step(weight, [([piece], estimated_bits(piece.form, known))], before - error))
        while len(steps) > 1 and (steps[-1].value >= steps[-2].value or steps[-2].gain <= 0):
            last = steps.pop()
            steps[-1] = steps[-1].followed_by(last)
    return steps


def _first_of(pieces: Sequence[Piece], declared: Mapping[int, int], count: int) -> list[Form]:
    return [assemble(pieces[:count], declared)]


def _error(exact: Sequence[Form], known: Sequence[Form]) -> float:
    """The squared errors relative to the norms, summed; finite, so that gains have an order whatever overflows."""
    total = 0.0
    for one, other in zip(exact, known, strict=True):
        dense = one.dense().to(torch.float64)
        total += float((dense - other.dense()).square().sum()) / (float(dense.square().sum()) or 1.0)
    return total if total < _WORST else _WORST


def count_pieces(terms: Iterable[int]) -> dict[int, int]:
    """How many pieces each term has."""
    counts: dict[int, int] = {}
    for term in terms:
        counts[term] = counts.get(term, 0) + 1
    return counts


def _split(term: Form, shared: Collection[int], most: int) -> list[Form]:
    match term:
        case Grid() if id(term.levels) not in shared and term.size >= SMALLEST and term.levels.dtype.is_signed:
            return [replace(term, levels=digit) for digit in _digits(term.levels)]
        case Embedded() if id(term.levels) not in shared and term.size >= SMALLEST:
            sign, size = term.levels.sign(), term.levels.abs()
            return [replace(term, levels=sign * (size >> p & 1)) for p in reversed(range(term.planes))]
        case Successive() if id(term.events) not in shared:
            return [replace(term, events=run) for run in _runs(term.events, most)]
        case Sparse() if not {id(term.values), id(term.indices)} & set(shared) and term.values.numel() >= SMALLEST:
            order = term.values.to(torch.float64).abs().argsort(descending=True, stable=True)
            runs = [order[a:b].sort().values for a, b in _quarters(order.numel())]
            return [replace(term, indices=term.indices[run], values=term.values[run]) for run in runs]
        case LowRank() if not {id(term.left), id(term.right)} & set(shared) and term.rank >= 4:
            return [replace(term, left=term.left[:, a:b], right=term.right[a:b]) for a, b in _quarters(term.rank)]
    return [term]


def _join(pieces: Sequence[Any], declared: int) -> Form:
    """One term from its first pieces; ValueError when they do not go together."""
    first = pieces[0]
    if any(type(p) is not type(first) or p.dtype != first.dtype for p in pieces):
        raise ValueError("pieces of different kinds")
    if declared == 1:
        return first
    if not isinstance(first, Events) and any(p.shape != first.shape for p in pieces):
        raise ValueError("pieces of different shapes")
    match first:
        case Grid():
            if any(p.step is not first.step or p.axis != first.axis for p in pieces):
                raise ValueError("pieces of a grid with different steps")
            return replace(first, levels=_from_digits([p.levels for p in pieces], 4, declared))
        case Embedded():
            if any(p.step is not first.step or p.points is not first.points for p in pieces):
                raise ValueError("pieces of an embedded quantiser with different steps")
            missing = declared - len(pieces)
            levels = _from_digits([p.levels for p in pieces], 2, len(pieces))
            return replace(first, levels=levels, step=coarser_step(first.step, missing), points=first.points[missing:])
        case Successive():
            if any(p.scale is not first.scale for p in pieces):
                raise ValueError("pieces of a successive weight with different scales")
            return replace(first, events=torch.cat([p.events for p in pieces]))
        case Events():
            values = torch.cat([p.values for p in pieces])
            return replace(first, shape=values.shape, values=values)
        case Sparse():
            indices, order = torch.cat([p.indices for p in pieces]).sort()
            values = torch.cat([p.values for p in pieces])[order]
            return replace(first, indices=indices, values=values)
        case LowRank():
            left, right = torch.cat([p.left for p in pieces], 1), torch.cat([p.right for p in pieces])
            return replace(first, left=left, right=right)
    raise ValueError(f"a {type(first).__name__} has one piece, got {declared}")


def _quarters(count: int) -> list[tuple[int, int]]:
    cuts = [0, count // 4, count // 2, count]
    return list(pairwise(cuts))


def _digits(levels: Tensor) -> list[Tensor]:
    """Base-4 digits, the most significant first, until that is at most 4 in magnitude.

    Quotients round to the nearest, halves toward zero: the level that a prefix gives is never farther from the exact
    one than that of a shorter prefix.
    """
    rest = levels.to(torch.int64)
    digits: list[Tensor] = []
    while int(rest.abs().max()) > 4:
        quotient = rest.sign() * (rest.abs() + 1).div(4, rounding_mode="floor")
        digits.append(rest - 4 * quotient)
        rest = quotient
    return [digit.to(levels.dtype) for digit in [rest, *reversed(digits)]]


def _runs(events: Tensor, most: int) -> list[Tensor]:
    """The events in runs of about equal length, one at least."""
    count = max(min(most, MOST, events.numel() // SHORTEST), 1)
    return [run.clone() for run in events.tensor_split(count)]


def _from_digits(digits: Sequence[Tensor], base: int, declared: int) -> Tensor:
    total = torch.zeros_like(digits[0], dtype=torch.int64)
    for digit in digits:
        total = base * total + digit
    return (total * base ** (declared - len(digits))).to(digits[0].dtype)
