"""The structure of a form without its symbols: what a reader must know before it decodes, and may check before that.

A layout is plain numbers. It says which kind of form, of which shape and dtype, what each stored tensor's dtype is, and
whether a tensor is shared (then its values stand elsewhere, once). Every count is limited by the weight's shape or
declared by `decoded_bytes`, so a caller can refuse before anything is allocated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import must
from ..forms import Form, Sum
from ..forms.sum import wide_dtype
from .bytes_io import ByteReader, ByteWriter
from .kinds import Field, kind_named, kind_of, kind_tagged

_NAMES = (
    *("float32", "float16", "bfloat16", "float64", "uint8", "int8", "int16", "int32", "int64", "bool"),
    *("complex64", "complex128", "complex32", "uint16", "uint32", "uint64"),
    *("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"),
)
DTYPES: tuple[torch.dtype | None, ...] = tuple(getattr(torch, name, None) for name in _NAMES)
"""A dtype's number in the file is its place here: append only. None where this torch lacks one."""

MAX_DIMS = 8
MAX_SIZE = 2**48
MAX_TERMS = 64
MAX_SHARED = 2**24
_DTYPE_LIMIT = 32
_FIRST_TAG = 64


@dataclass(frozen=True)
class Stored:
    """One tensor of a form: its dtype, and which of the section's shared tensors it is, if it is one."""

    dtype: torch.dtype
    shared: int | None = None


@dataclass(frozen=True)
class Layout:
    """A form's structure.

    Attributes:
        kind: the name of its class.
        shape, dtype: of the dense weight.
        numbers: what the kind needs besides (kinds.py): number of values, axis, view, rank ...
        stored: its tensors, in the order of the kind's fields; none for a sum.
        terms: the layouts of a sum's terms.
    """

    kind: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    numbers: tuple[int, ...] = ()
    stored: tuple[Stored, ...] = ()
    terms: tuple[Layout, ...] = ()

    @property
    def size(self) -> int:
        """Number of entries of the dense weight."""
        return math.prod(self.shape)

    @property
    def dense_bytes(self) -> int:
        """Bytes of the dense weight in memory."""
        return self.size * self.dtype.itemsize

    @property
    def decoded_bytes(self) -> int:
        """Bytes of all tensors that decoding this layout allocates; shared tensors stand elsewhere."""
        own = sum(
            math.prod(field.dims) * stored.dtype.itemsize
            for field, stored in zip(self.fields(), self.stored, strict=True)
            if stored.shared is None
        )
        return own + sum(term.decoded_bytes for term in self.terms)

    def fields(self) -> tuple[Field, ...]:
        """The tensors that the form holds: name, dimensions, and which symbols they are. ValueError if impossible."""
        if self.kind == Sum.__name__:
            return ()
        return kind_named(self.kind).fields(self.shape, self.numbers)

    def leaves(self) -> tuple[Layout, ...]:
        """The layouts of its parts, in the order of `Form.parts()`."""
        return self.terms or (self,)

    def validate(self) -> None:
        """ValueError, with the reason, unless a form with this structure can exist."""
        if len(self.shape) > MAX_DIMS or any(n < 0 for n in self.shape) or _extent(self.shape) > MAX_SIZE:
            raise ValueError(must("a shape", f"at most {MAX_DIMS} sizes with a product up to 2^48", self.shape))
        if self.kind == Sum.__name__:
            self._validate_sum()
            return
        fields = self.fields()
        if len(fields) != len(self.stored):
            raise ValueError(must(f"a {self.kind}'s tensors", f"{len(fields)} in number", len(self.stored)))
        for field, stored in zip(fields, self.stored, strict=True):
            if _extent(field.dims) > MAX_SIZE:
                raise ValueError(must(f"the shape of {field.name}", "of a product up to 2^48", field.dims))
            field.symbols.check(stored.dtype)

    def _validate_sum(self) -> None:
        if not 2 <= len(self.terms) <= MAX_TERMS or self.numbers or self.stored:
            raise ValueError(must("a sum's terms", f"2 to {MAX_TERMS}", len(self.terms)))
        wide = wide_dtype(self.dtype)
        for term in self.terms:
            if term.terms or (term.shape, term.dtype) != (self.shape, wide):
                raise ValueError("a sum's term must be no sum, of the sum's shape and in its wide dtype")
            term.validate()

    def write(self, out: ByteWriter) -> None:
        """Appends this layout; `read_layout` reads it again."""
        number = DTYPES.index(self.dtype)
        out.varint(len(self.shape) * _DTYPE_LIMIT + number)
        for n in self.shape:
            out.varint(n)
        # Below 64 a number of further terms, from there a kind. Terms share the sum's shape and have its wide dtype.
        if self.terms:
            out.varint(len(self.terms) - 1)
        for leaf in self.leaves():
            leaf._write_kind(out)

    def _write_kind(self, out: ByteWriter) -> None:
        out.varint(_FIRST_TAG + kind_named(self.kind).tag)
        for n in self.numbers:
            out.varint(n)
        for stored in self.stored:
            out.varint(2 * DTYPES.index(stored.dtype) + (stored.shared is not None))
            if stored.shared is not None:
                out.varint(stored.shared)


def read_layout(reader: ByteReader) -> Layout:
    """The layout that `Layout.write` wrote, validated; ValueError on anything out of range."""
    head = reader.varint((MAX_DIMS + 1) * _DTYPE_LIMIT - 1)
    dtype = _dtype(head % _DTYPE_LIMIT)
    shape = tuple(reader.varint(MAX_SIZE) for _ in range(head // _DTYPE_LIMIT))
    tag = reader.varint()
    if tag < _FIRST_TAG:
        if not 1 <= tag < MAX_TERMS:
            raise ValueError(must("a sum's terms", f"2 to {MAX_TERMS}", tag + 1))
        terms = tuple(_read_kind(reader, reader.varint(), shape, wide_dtype(dtype)) for _ in range(tag + 1))
        layout = Layout(Sum.__name__, shape, dtype, terms=terms)
    else:
        layout = _read_kind(reader, tag, shape, dtype)
    layout.validate()
    return layout


def _read_kind(reader: ByteReader, tag: int, shape: tuple[int, ...], dtype: torch.dtype) -> Layout:
    kind = kind_tagged(tag - _FIRST_TAG)
    numbers = tuple(reader.varint() for _ in range(kind.numbers_count))
    stored = []
    for _ in kind.fields(shape, numbers):
        code = reader.varint(2 * _DTYPE_LIMIT)
        stored.append(Stored(_dtype(code // 2), reader.varint(MAX_SHARED) if code % 2 else None))
    return Layout(kind.name, shape, dtype, numbers, tuple(stored))


def layout_of(form: Form, shared: Sequence[Tensor] = ()) -> Layout:
    """The structure of a form whose tensors that are (the same object as) one of `shared` stand there."""
    shape = tuple(form.shape)
    if isinstance(form, Sum):
        return Layout(Sum.__name__, shape, form.dtype, terms=tuple(layout_of(term, shared) for term in form.terms))
    kind = kind_of(form)
    numbers = kind.numbers(form)
    places = {id(tensor): i for i, tensor in enumerate(shared)}
    tensors = [getattr(form, field.name) for field in kind.fields(shape, numbers)]
    stored = tuple(Stored(t.dtype, places.get(id(t))) for t in tensors)
    return Layout(kind.name, shape, form.dtype, numbers, stored)


def shared_tensors(forms: Sequence[Form]) -> list[Tensor]:
    """The tensors that stand in these forms more than once, in the order in which they are first met."""
    seen: dict[int, int] = {}
    found: list[Tensor] = []
    for form in forms:
        for tensor in form.tensors().values():
            seen[id(tensor)] = seen.get(id(tensor), 0) + 1
            if seen[id(tensor)] == 2:
                found.append(tensor)
    return found


def _extent(dims: Sequence[int]) -> int:
    """The product of the sizes that are not 0, which torch forms for its strides even where there are no entries."""
    return math.prod(n for n in dims if n)


def _dtype(number: int) -> torch.dtype:
    dtype = DTYPES[number] if number < len(DTYPES) else None
    if dtype is None:
        raise ValueError(must("a dtype's number", f"below {len(DTYPES)} and known to this torch", number))
    return dtype
