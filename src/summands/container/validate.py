"""One pass over everything that a header declares, before anything is allocated.

`read_layout` has validated each layout alone; here is what must hold between them. ValueError names the first fault.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ..coding import NODES, Layout
from ..forms.sum import wide_dtype
from .header import Header
from .layers import MOST

MAX_DIGITS = 32
"""Base-4 digits of a 64-bit level."""


def check(header: Header) -> None:
    """ValueError unless the parts of this header fit each other."""
    if len(set(header.names)) < len(header.names):
        twice = next(name for name, count in Counter(header.names).items() if count > 1)
        raise ValueError(f"two weights are named {twice!r}")
    shared = [member.layout for member in header.shared.members] if header.shared else []
    if any(layout.kind not in ("Dense", "Events") or layout.stored[0].shared is not None for layout in shared):
        raise ValueError("a shared tensor must be Dense or Events and stored where it stands")
    if any(layout.dtype != layout.stored[0].dtype for layout in shared):
        raise ValueError("a shared tensor of two dtypes")
    for name, layouts in header.layouts.items():
        for layout in layouts:
            for leaf in layout.leaves():
                if leaf.kind == "Events":
                    raise ValueError(f"{name!r} is Events, which only a shared tensor can be")
                _check_shared(name, leaf, shared)
    if header.is_progressive:
        _check_pieces(header, shared)
    else:
        for name, layouts in header.layouts.items():
            if len(layouts) > 1:
                _check_blocks(name, layouts)


def _check_shared(name: str, leaf: Layout, shared: Sequence[Layout]) -> None:
    if all(stored.shared is None for stored in leaf.stored):
        return
    for field, stored in zip(leaf.fields(), leaf.stored, strict=True):
        if stored.shared is None:
            continue
        if stored.shared >= len(shared):
            raise ValueError(f"{name!r} holds shared tensor {stored.shared} of {len(shared)}")
        there = shared[stored.shared]
        if (there.shape, there.dtype) != (field.dims, stored.dtype):
            raise ValueError(f"{name!r} holds a shared tensor as {field.dims}, which is {there.shape}")


def _check_blocks(name: str, blocks: Sequence[Layout]) -> None:
    """Row blocks differ in the number of rows and of kept entries alone, and share what is not stored by row."""
    first = blocks[0]
    for block in blocks:
        if not block.shape or (block.kind, block.dtype, block.shape[1:]) != (first.kind, first.dtype, first.shape[1:]):
            raise ValueError(f"the row blocks of {name!r} have different kinds or shapes")
        if len(block.terms) != len(first.terms):
            raise ValueError(f"the row blocks of {name!r} have different terms")
        for one, other in zip(first.leaves(), block.leaves(), strict=True):
            if (one.kind, [s.dtype for s in one.stored]) != (other.kind, [s.dtype for s in other.stored]):
                raise ValueError(f"the row blocks of {name!r} have different terms")
            if one.kind not in _COMMON or not _COMMON[one.kind](one, other):
                raise ValueError(f"the row blocks of {name!r} do not fit under one another")


def _free(one: Layout, other: Layout) -> bool:
    return True


def _same_values(one: Layout, other: Layout) -> bool:
    return one.numbers == other.numbers and _go_on(one, other, one.numbers[-1])


def _same_steps(one: Layout, other: Layout) -> bool:
    nodes = 2 * NODES
    return one.numbers[0] // nodes == other.numbers[0] // nodes and _go_on(one, other, one.numbers[0] // nodes)


def _go_on(one: Layout, other: Layout, axis: int) -> bool:
    """By row, each block has values of its own; else they are one tensor."""
    values = one.stored[0].shared
    return axis == 1 or (values is not None and values == other.stored[0].shared)


_COMMON = {
    "Dense": _free,
    "Sparse": _free,
    "Codebook": _same_values,
    "Grid": _same_values,
    "Trellis": _same_steps,  # and each starts where the one before ends: `stack_blocks`
}
"""Whether two row blocks of a kind go together. The last number of a codebook or grid is its axis plus one; in that of
a trellis it counts by 16."""


def _check_pieces(header: Header, shared: Sequence[Layout]) -> None:
    terms: list[list[list[Layout]]] = [[] for _ in header.names]
    runs = [[layout] for layout in shared]
    for section in header.sections:
        for member in section.members:
            if member.weight >= len(terms):
                if member.term:
                    raise ValueError(f"term {member.term} of a shared tensor, which is none")
                runs[member.weight - len(terms)].append(member.layout)
                continue
            name, own = header.names[member.weight], terms[member.weight]
            if member.term > len(own) or member.layout.terms:
                raise ValueError(f"a piece of term {member.term} of {name!r}, which has {len(own)} before it")
            if member.term == len(own):
                own.append([])
            own[member.term].append(member.layout)
    for place, own_runs in enumerate(runs):
        if len(own_runs) > 1:
            _check_term(f"shared tensor {place}", own_runs)
    for name, own in zip(header.names, terms, strict=True):
        first = own[0][0]
        if any((piece.shape, piece.dtype) != (first.shape, first.dtype) for pieces in own for piece in pieces):
            raise ValueError(f"the pieces of {name!r} have different shapes or dtypes")
        for pieces in own:
            if len(pieces) > 1:
                _check_term(name, pieces)
        if len(own) > 1:
            Layout("Sum", first.shape, first.dtype, terms=tuple(_widened(pieces[0]) for pieces in own)).validate()


def _check_term(name: str, pieces: Sequence[Layout]) -> None:
    first = pieces[0]
    if any((p.kind, [s.dtype for s in p.stored]) != (first.kind, [s.dtype for s in first.stored]) for p in pieces):
        raise ValueError(f"the pieces of a term of {name!r} have different kinds or dtypes")
    match first.kind:
        case "Grid":
            step = first.stored[0].shared
            fits = step is not None and all(p.numbers == first.numbers and p.stored[0].shared == step for p in pieces)
            fits = fits and len(pieces) <= MAX_DIGITS and first.stored[1].dtype.is_signed
        case "Sparse":
            fits = sum(piece.numbers[0] for piece in pieces) <= first.size
        case "Embedded":
            common = [s.shared for s in first.stored[:2]]
            fits = None not in common and all([s.shared for s in p.stored] == [*common, None] for p in pieces)
            fits = fits and len(pieces) <= first.numbers[0] and all(p.numbers == first.numbers for p in pieces)
        case "Successive":
            scale = first.stored[0].shared
            fits = scale is not None and all([s.shared for s in p.stored] == [scale, None] for p in pieces)
            fits = fits and len(pieces) <= MOST and all(p.numbers[1:] == first.numbers[1:] for p in pieces)
        case "Events":
            fits = len(pieces) <= MOST and all(p.numbers == first.numbers for p in pieces)
            fits = fits and all(p.stored[0].shared is None for p in pieces)
        case "LowRank":
            fits = all(piece.numbers[1:] == first.numbers[1:] for piece in pieces)
        case _:
            fits = False
    if not fits:
        raise ValueError(f"the pieces of a term of {name!r} do not go together")


def _widened(layout: Layout) -> Layout:
    return Layout(layout.kind, layout.shape, wide_dtype(layout.dtype), layout.numbers, layout.stored)
