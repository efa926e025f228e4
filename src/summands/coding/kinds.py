"""Every kind of form that a file can hold, in one table: its numbers, its tensors, and which symbols these are.

To add a kind: one entry in KINDS with a new tag. The symbols of most tensors are floating values (`FLOATS`), indices
into a codebook (`Codes`), grid levels (`LEVELS`) or sorted positions (`Positions`); a dense weight's are `Values`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .. import forms
from ..errors import must
from ..forms.embedded import MAX_PLANES
from ..forms.successive import MAX_ALPHA, MAX_TOTAL, RULES
from ..forms.transform import check_basis
from ..views import Reshape, View, parse_view
from .trellis import NODES

Numbers = tuple[int, ...]
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_INTEGERS = (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64)
"""What torch calculates with; of its other dtypes a file can hold dense weights alone."""


@dataclass(frozen=True)
class Symbols:
    """What a tensor's entries mean to the coder."""

    def check(self, dtype: torch.dtype) -> None:
        """ValueError when such symbols cannot stand in this dtype."""


@dataclass(frozen=True)
class Values(Symbols):
    """Values of any dtype, bit for bit."""


@dataclass(frozen=True)
class Floats(Symbols):
    """Floating-point values that torch calculates with, bit for bit."""

    def check(self, dtype: torch.dtype) -> None:
        if dtype not in _FLOATS:
            raise ValueError(must("values", _listed(_FLOATS), dtype))


@dataclass(frozen=True)
class Levels(Symbols):
    """Signed integers, small ones the most likely."""

    def check(self, dtype: torch.dtype) -> None:
        _check_integers(dtype)


@dataclass(frozen=True)
class Digits(Levels):
    """Levels; where those of half as many cells are known, the binary digit that these lack, with the level's sign."""


@dataclass(frozen=True)
class PathLevels(Levels):
    """Levels that follow the path of a trellis from a node on, in memory order; or down the first axis (trellis.py)."""

    node: int
    down: bool


@dataclass(frozen=True)
class Codes(Symbols):
    """Integers in [0, count)."""

    count: int

    def check(self, dtype: torch.dtype) -> None:
        _check_integers(dtype)
        if self.count - 1 > torch.iinfo(dtype).max:
            raise ValueError(must(f"codes of dtype {dtype}", f"up to {torch.iinfo(dtype).max}", self.count - 1))


@dataclass(frozen=True)
class Positions(Symbols):
    """Strictly increasing integers, int64: flat positions in a weight of this shape."""

    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def check(self, dtype: torch.dtype) -> None:
        if dtype != torch.int64:
            raise ValueError(must("positions", "int64", dtype))


@dataclass(frozen=True)
class Picks(Symbols):
    """The events of successive pruning in a vector of `total` entries, int32 (forms/successive.py).

    Where the first events are known, those that follow.
    """

    total: int
    seed: int

    def check(self, dtype: torch.dtype) -> None:
        if dtype != torch.int32:
            raise ValueError(must("picks", "int32", dtype))


FLOATS, LEVELS = Floats(), Levels()


@dataclass(frozen=True)
class Field:
    """A tensor of a form: the field's name, its dimensions, its symbols."""

    name: str
    dims: tuple[int, ...]
    symbols: Symbols


@dataclass(frozen=True)
class Kind:
    """How one class of forms is described.

    Attributes:
        tag: its number in the file, never reused.
        form: the class.
        numbers_count: how many numbers describe its structure beyond shape and dtype.
        numbers: the form's numbers, all >= 0.
        fields: (shape, numbers) -> its tensors in coding order; ValueError when the numbers are impossible.
        plain: numbers -> the form's fields that are not tensors.
    """

    tag: int
    form: type[forms.Form]
    numbers_count: int
    numbers: Callable[[Any], Numbers]
    fields: Callable[[tuple[int, ...], Numbers], tuple[Field, ...]]
    plain: Callable[[Numbers], dict[str, Any]] = lambda numbers: {}

    @property
    def name(self) -> str:
        return self.form.__name__


def _dense_fields(shape: tuple[int, ...], numbers: Numbers) -> tuple[Field, ...]:
    return (Field("values", shape, Values()),)


def _codebook_fields(shape: tuple[int, ...], numbers: Numbers) -> tuple[Field, ...]:
    count, axis = numbers
    groups = _groups(shape, axis)
    if count == 0 and math.prod(shape) > 0:
        raise ValueError(must("the number of values of a codebook", "at least 1", count))
    return Field("values", (*groups, count), FLOATS), Field("codes", shape, Codes(count))


def _grid_fields(shape: tuple[int, ...], numbers: Numbers) -> tuple[Field, ...]:
    return Field("step", _groups(shape, numbers[0]), FLOATS), Field("levels", shape, LEVELS)


def _trellis_fields(shape: tuple[int, ...], numbers: Numbers) -> tuple[Field, ...]:
    axis, rest = divmod(numbers[0], 2 * NODES)
    down, node = divmod(rest, NODES)
    if down and (node or len(shape) < 2):
        raise ValueError(must("a path down the first axis", "from node 0, of a matrix at least", (shape, node)))
    return Field("step", _groups(shape, axis), FLOATS), Field("levels", shape, PathLevels(node, bool(down)))


def _trellis_plain(numbers: Numbers) -> dict[str, Any]:
    axis, rest = divmod(numbers[0], 2 * NODES)
    return {**_plain_axis(axis), "down": rest >= NODES, "node": rest % NODES}


def _sparse_fields(shape: tuple[int, ...], numbers: Numbers) -> tuple[Field, ...]:
    (count,) = numbers
    size = math.prod(shape)
    if count > size:
        raise ValueError(must("the number of kept entries", f"at most {size}", count))
    return Field("indices", (count,), Positions(shape)), Field("values", (count,), FLOATS)


def _low_rank_fields(shape: tuple[int, ...], numbers: Numbers) -> tuple[Field, ...]:
    rank, *view = numbers
    rows, columns = number_view(*view).matrix_shape(shape)
    return Field("left", (rows, rank), FLOATS), Field("right", (rank, columns), FLOATS)


def _tucker_fields(shape: tuple[int, ...], numbers: Numbers) -> tuple[Field, ...]:
    p, q = numbers
    if not 3 <= len(shape) <= 5:
        raise ValueError(must("the dimensions of a Tucker weight", "3 to 5", len(shape)))
    core = (p, q, *shape[2:])
    return Field("out", (shape[0], p), FLOATS), Field("core", core, FLOATS), Field("into", (q, shape[1]), FLOATS)


def _transform_fields(shape: tuple[int, ...], numbers: Numbers) -> tuple[Field, ...]:
    count, terms, basis, *view = numbers
    rows, columns = number_view(*view).matrix_shape(shape)
    if basis >= len(_BASES):
        raise ValueError(must("a basis's number", f"below {len(_BASES)}", basis))
    check_basis(_BASES[basis], columns, terms)
    if count > rows * terms:
        raise ValueError(must("the number of coefficients", f"at most {rows * terms}", count))
    return Field("indices", (count,), Positions((rows, terms))), Field("values", (count,), FLOATS)


def _successive_fields(shape: tuple[int, ...], numbers: Numbers) -> tuple[Field, ...]:
    count, total, offset, rule, alpha, seed = numbers
    if not offset + math.prod(shape) <= total <= MAX_TOTAL:
        raise ValueError(must("the entries of a vector of picks", f"the weight's, at most {MAX_TOTAL}", total))
    if rule >= len(RULES) or not 1 <= alpha <= MAX_ALPHA:
        raise ValueError(must("a rule and its alpha", f"below {len(RULES)} and in [1, {MAX_ALPHA}]", (rule, alpha)))
    if count and not total:
        raise ValueError(must("the number of events of no entries", "0", count))
    return Field("scale", (), FLOATS), Field("events", (count,), Picks(total, seed))


def _events_fields(shape: tuple[int, ...], numbers: Numbers) -> tuple[Field, ...]:
    total, seed = numbers
    if len(shape) != 1 or total > MAX_TOTAL or (shape[0] and not total):
        raise ValueError(must("the entries of a vector of picks", f"in [1, {MAX_TOTAL}]", total))
    return (Field("values", shape, Picks(total, seed)),)


def _embedded_fields(shape: tuple[int, ...], numbers: Numbers) -> tuple[Field, ...]:
    (planes,) = numbers
    if not 1 <= planes <= MAX_PLANES:
        raise ValueError(must("the number of planes", f"in [1, {MAX_PLANES}]", planes))
    return Field("step", (), FLOATS), Field("points", (planes,), Codes(256)), Field("levels", shape, Digits())


def _successive_numbers(form: forms.Successive) -> Numbers:
    if form.sizes:
        raise ValueError("a vector that joins weights is coded as its split forms")
    return form.events.numel(), form.total, form.offset, RULES.index(form.rule), form.alpha, form.seed


def _groups(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    """One codebook or step, or one for each slice along `axis` - 1."""
    if axis > len(shape):
        raise ValueError(must("an axis", f"one of the weight's {len(shape)}", axis - 1))
    return () if axis == 0 else (shape[axis - 1],)


def _axis(form: Any) -> int:
    return 0 if form.axis is None else form.axis + 1


def _plain_axis(axis: int) -> dict[str, Any]:
    return {"axis": axis - 1 if axis else None}


_BASES = ("dct", "chebyshev")
"""A basis's number in the file is its place here."""
_VIEWS = ("out", "kernel", "spatial", "in")
"""A view's number in the file is its place here; the next one is reshape(ROWS)."""


def view_numbers(view: View) -> Numbers:
    """The two numbers of a view."""
    if isinstance(view, Reshape):
        return len(_VIEWS), view.rows
    return _VIEWS.index(str(view)), 0


def number_view(place: int, rows: int) -> View:
    """The view with these numbers; ValueError when there is none."""
    if place == len(_VIEWS):
        return Reshape(rows)
    if place > len(_VIEWS) or rows:
        raise ValueError(must("a view's numbers", f"at most {len(_VIEWS)}", (place, rows)))
    return parse_view(_VIEWS[place])


KINDS: tuple[Kind, ...] = (
    Kind(0, forms.Dense, 0, lambda form: (), _dense_fields),
    Kind(
        1,
        forms.Codebook,
        2,
        lambda form: (form.values.shape[-1], _axis(form)),
        _codebook_fields,
        lambda numbers: _plain_axis(numbers[1]),
    ),
    Kind(2, forms.Grid, 1, lambda form: (_axis(form),), _grid_fields, lambda numbers: _plain_axis(numbers[0])),
    Kind(3, forms.Sparse, 1, lambda form: (form.indices.numel(),), _sparse_fields),
    Kind(
        4,
        forms.LowRank,
        3,
        lambda form: (form.rank, *view_numbers(form.view)),
        _low_rank_fields,
        lambda numbers: {"view": number_view(*numbers[1:])},
    ),
    Kind(5, forms.Tucker, 2, lambda form: form.ranks, _tucker_fields),
    Kind(
        6,
        forms.Transform,
        5,
        lambda form: (form.indices.numel(), form.terms, _BASES.index(form.basis), *view_numbers(form.view)),
        _transform_fields,
        lambda numbers: {"terms": numbers[1], "basis": _BASES[numbers[2]], "view": number_view(*numbers[3:])},
    ),
    Kind(
        7,
        forms.Successive,
        6,
        _successive_numbers,
        _successive_fields,
        lambda n: {"total": n[1], "offset": n[2], "rule": RULES[n[3]], "alpha": n[4], "seed": n[5]},
    ),
    Kind(
        8,
        forms.Events,
        2,
        lambda form: (form.total, form.seed),
        _events_fields,
        lambda numbers: {"total": numbers[0], "seed": numbers[1]},
    ),
    Kind(9, forms.Embedded, 1, lambda form: (form.planes,), _embedded_fields),
    Kind(
        10,
        forms.Trellis,
        1,
        lambda form: (form.node + NODES * form.down + 2 * NODES * _axis(form),),
        _trellis_fields,
        _trellis_plain,
    ),
)


def kind_of(form: forms.Form) -> Kind:
    """The entry of a form's class; ValueError when the file format has none."""
    for kind in KINDS:
        if type(form) is kind.form:
            return kind
    raise ValueError(must("a form", f"one of {', '.join(k.name for k in KINDS)} or a Sum", type(form).__name__))


def kind_named(name: str) -> Kind:
    """The entry of this name."""
    return next(kind for kind in KINDS if kind.name == name)


def kind_tagged(tag: int) -> Kind:
    """The entry with this number; ValueError when there is none."""
    for kind in KINDS:
        if kind.tag == tag:
            return kind
    raise ValueError(must("a form's tag", f"one of {', '.join(str(k.tag) for k in KINDS)}", tag))


def _check_integers(dtype: torch.dtype) -> None:
    if dtype not in _INTEGERS:
        raise ValueError(must("codes and levels", _listed(_INTEGERS), dtype))


def _listed(dtypes: Sequence[torch.dtype]) -> str:
    return "of " + ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
