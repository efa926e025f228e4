"""Encoded sections, kept while networks are measured that have most of their forms in common."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

from ..coding import Encoded, encode_section
from ..forms import Form
from .blocks import row_blocks

_kept: ContextVar[_Kept | None] = ContextVar("kept", default=None)


@contextmanager
def remembered() -> Iterator[None]:
    """Inside, a section of the same forms is encoded once: for allocations, which measure one network after another.

    The same objects, that is. They and the sections' bytes are kept until the end; the forms must not change meanwhile.
    """
    token = _kept.set(_Kept())
    try:
        yield
    finally:
        _kept.reset(token)


def encoded(forms: Sequence[Form], shared: Sequence[Tensor], earlier: Sequence[Form | None]) -> Encoded:
    """`encode_section` of these, or what it gave before."""
    kept = _kept.get()
    return encode_section(forms, shared, earlier) if kept is None else kept.encoded(forms, shared, earlier)


def blocks_of(form: Form, entries: int) -> list[Form]:
    """`row_blocks` of this form, or those it gave before."""
    kept = _kept.get()
    return row_blocks(form, entries) if kept is None else kept.blocks_of(form, entries)


class _Kept:
    """By the identity of objects, which stand beside what they gave, so that no others come to have it."""

    def __init__(self) -> None:
        self._sections: dict[tuple[int, ...], tuple[tuple[object, ...], Encoded]] = {}
        self._blocks: dict[tuple[int, int], tuple[Form, list[Form]]] = {}

    def encoded(self, forms: Sequence[Form], shared: Sequence[Tensor], earlier: Sequence[Form | None]) -> Encoded:
        objects = (*forms, None, *shared, None, *earlier)
        key = tuple(map(id, objects))
        if key not in self._sections:
            self._sections[key] = objects, encode_section(forms, shared, earlier)
        return self._sections[key][1]

    def blocks_of(self, form: Form, entries: int) -> list[Form]:
        key = id(form), entries
        if key not in self._blocks:
            self._blocks[key] = form, row_blocks(form, entries)
        return self._blocks[key][1]
