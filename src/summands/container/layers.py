"""Refinement layers: a network that can be read in part, each layer better than the one before.

A form is taken apart into *pieces* of its terms, each a form itself:

    Grid      base-4 digits of the levels, signed, the most significant first: levels = sum_k 4^(m-1-k) piece_k.levels
    Sparse    the largest quarter of the entries, the next quarter, the rest
    LowRank   the first quarter of the ranks, the next quarter, the rest
    others    one piece
    Sum       the pieces of its terms; a term without a piece yet is absent

`assemble` puts together any pieces that came, and all of them give the form back exactly. Pieces follow each other by
value, the decrease of the squared error relative to the weight's norm, per estimated bit.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ..coding import estimated_bits
from ..forms import Form, Grid, LowRank, Sparse, Sum
from ..forms.sum import wide_dtype

SMALLEST = 64
"""Grids with fewer entries than this, and sparse terms with fewer kept ones, are one piece: it costs some ten bytes."""


@dataclass(frozen=True)
class Piece:
    """One piece of one term of a weight."""

    term: int
    form: Form


def take_apart(form: Form, shared: Collection[int]) -> list[Piece]:
    """The pieces of a form, in the order in which they must come; `shared` holds the `id` of tensors to leave whole."""
    pieces = [Piece(k, piece) for k, term in enumerate(form.parts()) for piece in _split(term, shared)]
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


def schedule(forms: Sequence[Form], layers: int, shared: Collection[int]) -> list[list[tuple[int, Piece]]]:
    """All pieces as (weight, piece), in `layers` layers of about equal size after the first, which has all weights."""
    first: list[tuple[int, Piece]] = []
    steps: list[_Step] = []
    for i, form in enumerate(forms):
        pieces = take_apart(form, shared)
        first.append((i, pieces[0]))
        steps.extend(_steps(i, form, pieces))
    # Stable, so that the steps of one weight, whose values decrease, keep their order.
    steps.sort(key=lambda step: -step.value)
    total, done = sum(step.bits for step in steps), 0.0
    rest: list[list[tuple[int, Piece]]] = [[] for _ in range(layers - 1)]
    for step in steps:
        # The layer that holds the middle of the step.
        middle = (done + step.bits / 2) / total if total else 0.0
        done += step.bits
        rest[min(int(middle * (layers - 1)), layers - 2)].extend((step.weight, piece) for piece in step.pieces)
    return [first, *(layer for layer in rest if layer)]


@dataclass
class _Step:
    """Pieces of one weight that come together, because only together they are worth their bits."""

    weight: int
    pieces: list[Piece]
    gain: float
    bits: float

    @property
    def value(self) -> float:
        return self.gain / max(self.bits, 1.0)


def _steps(weight: int, form: Form, pieces: Sequence[Piece]) -> list[_Step]:
    """The refinements of one weight in order, merged where needed so that each lowers the error, the best first."""
    if len(pieces) == 1:
        return []
    declared = count_pieces(p.term for p in pieces)
    exact = form.dense().to(torch.float64)
    scale = float(exact.square().sum()) or 1.0
    error = float((exact - assemble(pieces[:1], declared).dense()).square().sum()) / scale
    steps: list[_Step] = []
    for n, piece in enumerate(pieces[1:], start=2):
        before, error = error, float((exact - assemble(pieces[:n], declared).dense()).square().sum()) / scale
        steps.append(_Step(weight, [piece], before - error, estimated_bits(piece.form)))
        while len(steps) > 1 and (steps[-1].value >= steps[-2].value or steps[-2].gain <= 0):
            last = steps.pop()
            kept = steps[-1]
            steps[-1] = _Step(weight, kept.pieces + last.pieces, kept.gain + last.gain, kept.bits + last.bits)
    return steps


def count_pieces(terms: Iterable[int]) -> dict[int, int]:
    """How many pieces each term has."""
    counts: dict[int, int] = {}
    for term in terms:
        counts[term] = counts.get(term, 0) + 1
    return counts


def _split(term: Form, shared: Collection[int]) -> list[Form]:
    match term:
        case Grid() if id(term.levels) not in shared and term.size >= SMALLEST and term.levels.dtype.is_signed:
            return [replace(term, levels=digit) for digit in _digits(term.levels)]
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
    if any((type(p), p.shape, p.dtype) != (type(first), first.shape, first.dtype) for p in pieces):
        raise ValueError("pieces of different kinds")
    if declared == 1:
        return first
    match first:
        case Grid():
            if any(p.step is not first.step or p.axis != first.axis for p in pieces):
                raise ValueError("pieces of a grid with different steps")
            return replace(first, levels=_from_digits([p.levels for p in pieces], declared))
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


def _from_digits(digits: Sequence[Tensor], declared: int) -> Tensor:
    total = torch.zeros_like(digits[0], dtype=torch.int64)
    for digit in digits:
        total = 4 * total + digit
    return (total * 4 ** (declared - len(digits))).to(digits[0].dtype)
