"""Forms to bytes and back, exactly. A section is one run of the coder over several forms that share their contexts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import must
from ..forms import Codebook, Embedded, Form, Grid, Sparse, Sum, Trellis
from .kinds import Digits, Field, Picks, Positions, kind_named
from .layout import Layout, layout_of
from .range_coder import DECODE, ENCODE, MEASURE
from .streams import Section


@dataclass(frozen=True)
class Encoded:
    """A coded section.

    Attributes:
        payload: its bytes.
        part_bits: for each form, for each of its parts, the bits spent on it; in sum 8 * len(payload) up to the
            rounding of the last bytes.
    """

    payload: bytes
    part_bits: tuple[tuple[float, ...], ...]


Earlier = Callable[[int, Sequence[Form]], Form | None]
"""(number of a form in its section, the forms before it there) -> the form that the pieces before it make together."""


def encode_section(
    forms: Sequence[Form], shared: Sequence[Tensor] = (), earlier: Sequence[Form | None] = ()
) -> Encoded:
    """The forms' symbols as bytes; tensors in `shared` (the same objects) are left out.

    `earlier` has, for each form that is a later piece of a sequence of picks or of an embedded quantiser, the form of
    the pieces before it (layers.py): the tensor of that name is coded as what it lacks.
    `decode_section` needs the forms' layouts, the shared tensors and the earlier forms. Cost: 15 to 50 ns an integer of
    0.1 to 5 bits, one thread, the GIL released. The same forms give the same bytes on every machine.
    """
    section = Section(ENCODE)
    part_bits = tuple(
        _code_parts(section, form, layout_of(form, shared), before) for form, before in zip_longest(forms, earlier)
    )
    return Encoded(section.coder.finish(), part_bits)


def decode_section(
    payload: bytes, layouts: Sequence[Layout], shared: Sequence[Tensor] = (), earlier: Earlier | None = None
) -> list[Form]:
    """The forms that `encode_section` coded, on the CPU, equal to the last bit.

    Every layout is validated before anything is allocated, and allocation is what `Layout.decoded_bytes` says.

    Raises:
        ValueError: the payload is not exactly what `encode_section` writes for forms of these layouts.
    """
    for layout in layouts:
        layout.validate()
        for leaf in layout.leaves():
            _check_shared(leaf, shared)
    section = Section(DECODE, payload)
    forms: list[Form] = []
    for i, layout in enumerate(layouts):
        forms.append(_decode(section, layout, shared, earlier(i, forms) if earlier else None))
    section.coder.finish()
    for form in forms:
        form.validate()
    return forms


def estimated_bits(form: Form, earlier: Form | None = None) -> float:
    """Bits that the form takes alone in a section: the coder's own models, run without writing.

    With `earlier`, those of a later piece (`encode_section`).

    Shared tensors count fully. Within 1 % + 16 bytes of the encoded size; the cost is about that of encoding.
    """
    section = Section(MEASURE)
    return sum(_code_parts(section, form, layout_of(form), earlier))


def _code_parts(section: Section, form: Form, layout: Layout, earlier: Form | None = None) -> tuple[float, ...]:
    bits = []
    side = None
    parts = form.parts()
    for part, leaf in zip(parts, layout.leaves(), strict=True):
        before = section.coder.bits
        tensors = {name: tensor.detach().cpu() for name, tensor in part.tensors().items()}
        for field, stored in zip(leaf.fields(), leaf.stored, strict=True):
            if stored.shared is None:
                section.code(tensors[field.name], field, _side_of(leaf, field, tensors, side, earlier))
        bits.append(section.coder.bits - before)
        if len(parts) > 1:
            side = _side_after(part, side)
    return tuple(bits)


def _decode(section: Section, layout: Layout, shared: Sequence[Tensor], earlier: Form | None) -> Form:
    shape = torch.Size(layout.shape)
    if not layout.terms:
        return _decode_leaf(section, layout, shared, None, earlier)
    terms: list[Form] = []
    side = None
    for term in layout.terms:
        terms.append(_decode_leaf(section, term, shared, side))
        side = _side_after(terms[-1], side)
    return Sum(shape=shape, dtype=layout.dtype, terms=tuple(terms))


def _decode_leaf(
    section: Section,
    layout: Layout,
    shared: Sequence[Tensor],
    side: Tensor | None,
    earlier: Form | None = None,
) -> Form:
    kind = kind_named(layout.kind)
    fields: dict[str, Any] = kind.plain(layout.numbers)
    for field, stored in zip(layout.fields(), layout.stored, strict=True):
        if stored.shared is None:
            tensor = _empty(field.dims, stored.dtype)
            section.code(tensor, field, _side_of(layout, field, fields, side, earlier))
        else:
            tensor = shared[stored.shared]
        fields[field.name] = tensor
    return kind.form(shape=torch.Size(layout.shape), dtype=layout.dtype, **fields)


def _empty(dims: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """`torch.empty` from NumPy, which asks for large pages: at the first use of each small one threads would wait."""
    size = math.prod(dims)
    return torch.from_numpy(np.empty(max(size, 1) * dtype.itemsize, np.uint8)).view(dtype)[:size].reshape(dims)


def _side_of(
    leaf: Layout, field: Field, tensors: dict[str, Any], side: Tensor | None, earlier: Form | None
) -> Tensor | None:
    """What earlier pieces, or an earlier term of the sum, say about the entries of this tensor, if anything."""
    if isinstance(field.symbols, (Picks, Digits)):
        return None if earlier is None else earlier.tensors()[field.name].detach().cpu()
    # The positions of other kinds are not those of the weight's entries.
    if side is None or leaf.kind != Sparse.__name__:
        return None
    if isinstance(field.symbols, Positions):
        return side
    indices = tensors["indices"]
    # Shared ones were decoded elsewhere, and no form has checked them yet.
    if indices.numel() and not 0 <= int(indices.min()) <= int(indices.max()) < side.numel():
        raise ValueError(must("a position", f"in [0, {side.numel()})", f"{int(indices.min())} to {int(indices.max())}"))
    return side.reshape(-1).index_select(0, indices)


def _side_after(form: Form, side: Tensor | None) -> Tensor | None:
    """The side of a weight that a codebook or grid puts each entry on: 0 and 3 its ends, 1 and 2 between.

    Outliers lie at the ends of a codebook, and their corrections have their sign.
    """
    if side is not None:
        return side
    if isinstance(form, Codebook):
        codes, last = form.codes.cpu().to(torch.int64), form.values.shape[-1] - 1
        return (torch.where(codes == last, 3, (codes > 0) + ((2 * codes > last) & (codes > 0)).int())).to(torch.uint8)
    if isinstance(form, (Grid, Embedded, Trellis)):
        return (torch.sign(form.levels.cpu()) + 1).to(torch.uint8)
    return None


def _check_shared(layout: Layout, shared: Sequence[Tensor]) -> None:
    for field, stored in zip(layout.fields(), layout.stored, strict=True):
        if stored.shared is None:
            continue
        if stored.shared >= len(shared):
            raise ValueError(must("a shared tensor's number", f"below {len(shared)}", stored.shared))
        tensor = shared[stored.shared]
        if (tuple(tensor.shape), tensor.dtype) != (field.dims, stored.dtype):
            raise ValueError(
                f"{field.name} is a shared tensor of shape {field.dims} and {stored.dtype}, "
                f"but that one has {tuple(tensor.shape)} and {tensor.dtype}"
            )
