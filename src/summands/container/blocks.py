"""A large weight as row blocks, so that several threads can decode it.

A block is a form of its own, of some consecutive rows (slices along axis 0). What all rows have in common, such as a
codebook, stays the same tensor object in every block, and is therefore written once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ..coding import node_after
from ..forms import Codebook, Dense, Form, Grid, Sparse, Sum, Trellis


def row_blocks(form: Form, entries: int) -> list[Form]:
    """The form cut into blocks of about `entries` entries; alone, if it is smaller or its rows hang together."""
    count = math.ceil(form.size / entries)
    if count < 2 or not form.shape or form.shape[0] < 2 or not _has_free_rows(form):
        return [form]
    count = min(count, form.shape[0])
    cuts = [form.shape[0] * i // count for i in range(count + 1)]
    return [_rows(form, a, b) for a, b in pairwise(cuts)]


def stack_blocks(blocks: Sequence[Any]) -> Form:
    """The inverse of `row_blocks`; ValueError when the blocks do not fit under one another."""
    first = blocks[0]
    if len(blocks) == 1:
        return first
    if any(type(b) is not type(first) or b.dtype != first.dtype or b.shape[1:] != first.shape[1:] for b in blocks):
        raise ValueError("row blocks of different kinds")
    shape = torch.Size([sum(b.shape[0] for b in blocks), *first.shape[1:]])
    match first:
        case Dense():
            return replace(first, shape=shape, values=_cat([b.values for b in blocks]))
        case Codebook():
            _check_equal([b.axis for b in blocks])
            values = _by_axis([b.values for b in blocks], first.axis)
            return replace(first, shape=shape, values=values, codes=_cat([b.codes for b in blocks]))
        case Grid():
            _check_equal([b.axis for b in blocks])
            step = _by_axis([b.step for b in blocks], first.axis)
            return replace(first, shape=shape, step=step, levels=_cat([b.levels for b in blocks]))
        case Trellis():
            _check_equal([(b.axis, b.down) for b in blocks])
            step = _by_axis([b.step for b in blocks], first.axis)
            if first.down:
                raise ValueError("row blocks of paths that run down all rows")
            if any(node_after(one.levels.numpy(), one.node) != other.node for one, other in pairwise(blocks)):
                raise ValueError("row blocks that do not go on with each other's path")
            return replace(first, shape=shape, step=step, levels=_cat([b.levels for b in blocks]))
        case Sparse():
            starts = [0]
            for block in blocks:
                starts.append(starts[-1] + block.size)
            indices = _cat([b.indices + start for b, start in zip(blocks, starts, strict=False)])
            return replace(first, shape=shape, indices=indices, values=_cat([b.values for b in blocks]))
        case Sum():
            _check_equal([len(b.terms) for b in blocks])
            terms = tuple(stack_blocks(terms) for terms in zip(*(b.terms for b in blocks), strict=True))
            return replace(first, shape=shape, terms=terms)
    raise ValueError(f"{type(first).__name__} forms have no row blocks")


def _has_free_rows(form: Form) -> bool:
    return all(
        isinstance(part, (Dense, Codebook, Grid, Sparse)) or (isinstance(part, Trellis) and not part.down)
        for part in form.parts()
    )


def _rows(form: Form, start: int, stop: int) -> Form:
    shape = torch.Size([stop - start, *form.shape[1:]])
    match form:
        case Dense():
            return replace(form, shape=shape, values=form.values[start:stop])
        case Codebook():
            values = form.values[start:stop] if form.axis == 0 else form.values
            return replace(form, shape=shape, values=values, codes=form.codes[start:stop])
        case Grid():
            step = form.step[start:stop] if form.axis == 0 else form.step
            return replace(form, shape=shape, step=step, levels=form.levels[start:stop])
        case Trellis():
            node = node_after(form.levels[:start].cpu().numpy(), form.node)
            step = form.step[start:stop] if form.axis == 0 else form.step
            return replace(form, shape=shape, step=step, levels=form.levels[start:stop], node=node)
        case Sparse():
            width = form.size // form.shape[0]
            bounds = torch.tensor([start * width, stop * width], device=form.indices.device)
            a, b = torch.searchsorted(form.indices, bounds).tolist()
            return replace(form, shape=shape, indices=form.indices[a:b] - start * width, values=form.values[a:b])
        case Sum():
            return replace(form, shape=shape, terms=tuple(_rows(term, start, stop) for term in form.terms))
    raise ValueError(f"{type(form).__name__} forms have no row blocks")


def _cat(tensors: Sequence[Tensor]) -> Tensor:
    _check_equal([t.dtype for t in tensors])
    return torch.cat(list(tensors))


def _by_axis(tensors: Sequence[Tensor], axis: int | None) -> Tensor:
    """Per-row values follow each other; any other values are common to all blocks."""
    if axis == 0:
        return _cat(tensors)
    if any(t is not tensors[0] for t in tensors):
        raise ValueError("row blocks that do not share their values")
    return tensors[0]


def _check_equal(values: Sequence[object]) -> None:
    if any(value != values[0] for value in values):
        raise ValueError(f"row blocks that differ: {values[0]} and others")
