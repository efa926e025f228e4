"""How a weight is seen as a matrix.

A view is a reversible rearrangement: `to_tensor(to_matrix(w), w.shape)` is `w`, for every shape the view accepts.
A convolution kernel has the shape n x m x d1 x d2 (n out, m in), as in PyTorch.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import ArgumentError, must


@dataclass(frozen=True)
class View(ABC):
    """A reversible rearrangement of a tensor into a matrix."""

    @abstractmethod
    def matrix_shape(self, shape: Sequence[int]) -> tuple[int, int]:
        """(rows, columns) of the matrix for a tensor of this shape; ArgumentError if the view does not apply."""

    @abstractmethod
    def to_matrix(self, tensor: Tensor) -> Tensor:
        """The tensor as a matrix. Shares memory where the layout allows."""

    @abstractmethod
    def to_tensor(self, matrix: Tensor, shape: Sequence[int]) -> Tensor:
        """The inverse of `to_matrix` for a tensor of this shape."""

    @abstractmethod
    def __str__(self) -> str:
        """The text that `parse_view` turns back into this view."""

    def rank_flops(
        self, shape: Sequence[int], in_size: Sequence[int] = (), out_size: Sequence[int] = (), groups: int = 1
    ) -> int | None:
        """Multiply-adds of one rank, when the layer runs in factors; None if this view cannot, and runs dense.

        Args:
            shape: of the weight: n x m of a linear layer, n x m x d1 x ... of a convolution.
            in_size, out_size: H x W of the convolution's input and output; () for a linear layer, at one position.
            groups: of the convolution, whose input has m * groups channels.
        """
        return None


def dense_flops(shape: Sequence[int], out_size: Sequence[int] = ()) -> int:
    """Multiply-adds of a linear layer or convolution (of any number of groups) with a weight of this shape.

    >>> dense_flops((10, 4, 3, 3), out_size=(5, 5))
    9000
    """
    return math.prod(shape) * math.prod(out_size) if len(shape) > 1 else 0


@dataclass(frozen=True)
class Axes(View):
    """Rows run over some axes of the tensor, columns over the others, both in their order.

    >>> OUT.matrix_shape((20, 5, 3, 3)), KERNEL.matrix_shape((20, 5, 3, 3))
    ((20, 45), (60, 15))
    """

    name: str
    ndims: tuple[int, ...]
    rows: tuple[int, ...]

    def _split(self, ndim: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        if ndim not in self.ndims:
            allowed = " or ".join(str(n) for n in self.ndims)
            raise ArgumentError(must(f"view={self.name!r} needs a tensor whose number of dimensions", allowed, ndim))
        rows = tuple(axis for axis in self.rows if axis < ndim)
        return rows, tuple(axis for axis in range(ndim) if axis not in rows)

    def matrix_shape(self, shape: Sequence[int]) -> tuple[int, int]:
        rows, columns = self._split(len(shape))
        return math.prod(shape[a] for a in rows), math.prod(shape[a] for a in columns)

    def to_matrix(self, tensor: Tensor) -> Tensor:
        rows, columns = self._split(tensor.ndim)
        return tensor.permute(*rows, *columns).reshape(self.matrix_shape(tensor.shape))

    def to_tensor(self, matrix: Tensor, shape: Sequence[int]) -> Tensor:
        order = sum(self._split(len(shape)), ())
        inverse = [order.index(axis) for axis in range(len(shape))]
        return matrix.reshape([shape[a] for a in order]).permute(inverse)

    def rank_flops(
        self, shape: Sequence[int], in_size: Sequence[int] = (), out_size: Sequence[int] = (), groups: int = 1
    ) -> int | None:
        rows = self._split(len(shape))[0]
        if len(shape) < 2:
            return None
        into, out = math.prod(in_size), math.prod(out_size)
        n, m, d = shape[0], shape[1] * groups, math.prod(shape[2:])
        if rows == (0,):
            return (m * d + n) * out
        if rows == (0, 1):
            return (m * d + n * shape[1]) * out
        if rows == (0, 2):
            # 1 x d2 first, along the width alone: it sees the input's height.
            return m * shape[3] * math.prod(in_size[:1]) * math.prod(out_size[1:]) + n * shape[2] * out
        # m x (n d1 d2): 1 x 1 to r channels, the same from every group, then d1 x d2.
        return m * into + n * d * out

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Reshape(View):
    """The entries in memory order, refilled into `rows` rows: any factorisation of the tensor's size (DCC 2021).

    >>> Reshape(30).matrix_shape((20, 6))
    (30, 4)
    """

    rows: int

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise ArgumentError(must("Reshape(rows)", "at least 1", self.rows))

    def matrix_shape(self, shape: Sequence[int]) -> tuple[int, int]:
        size = math.prod(shape)
        if size % self.rows:
            raise ArgumentError(
                must(f"Reshape({self.rows}) needs a tensor whose size", f"a multiple of {self.rows}", size)
            )
        return self.rows, size // self.rows

    def to_matrix(self, tensor: Tensor) -> Tensor:
        return tensor.reshape(self.matrix_shape(tensor.shape))

    def to_tensor(self, matrix: Tensor, shape: Sequence[int]) -> Tensor:
        return matrix.reshape(torch.Size(shape))

    def rank_flops(
        self, shape: Sequence[int], in_size: Sequence[int] = (), out_size: Sequence[int] = (), groups: int = 1
    ) -> int | None:
        if len(shape) < 2 or 0 in shape:
            return None
        n, m, d, out = shape[0], shape[1] * groups, math.prod(shape[2:]), math.prod(out_size)
        if self.rows % n == 0 and shape[1] % (self.rows // n) == 0:
            # A row is an output and one of a = rows/n runs of inputs: r patterns on each run, then a r to one output.
            return (m * d + self.rows) * out
        if n % self.rows == 0 and self.rows % groups == 0:
            # A row is a run of b = n/rows outputs: b r filters, then each output from its r.
            return (n // self.rows * m * d + n) * out
        return None

    def __str__(self) -> str:
        return f"reshape({self.rows})"


_ANY = (1, 2, 3, 4, 5)
OUT = Axes("out", _ANY, (0,))
"""n x (m d1 d2): one row an output. For a convolution: d1 x d2 to r channels, then 1 x 1 ("scheme 1")."""
KERNEL = Axes("kernel", (4,), (0, 2))
"""(n d1) x (m d2): for a convolution, 1 x d2 to r channels, then d1 x 1 ("scheme 2")."""
SPATIAL = Axes("spatial", (3, 4, 5), (0, 1))
"""(n m) x (d1 d2): the kernels as a dictionary of r spatial patterns."""
IN = Axes("in", (2, 3, 4, 5), (1,))
"""m x (n d1 d2): one row an input channel."""

NAMED_VIEWS: dict[str, View] = {str(v): v for v in (OUT, KERNEL, SPATIAL, IN)}


def every_view(shape: Sequence[int]) -> list[View]:
    """Every named view of a tensor of this shape, and every reshape near a square: candidates for a low rank.

    A rank of a rows x columns view costs rows + columns numbers, least for a square. So reshapes count whose rank costs
    at most four times the least one, and not those that refill a named view or are another's transpose.

    >>> [str(view) for view in every_view((6, 4))]
    ['out', 'reshape(2)', 'reshape(3)', 'reshape(4)', 'reshape(8)', 'reshape(12)']
    """
    named = [view for view in NAMED_VIEWS.values() if isinstance(view, Axes) and len(shape) in view.ndims]
    named = named[:1] if len(shape) < 3 else named  # the columns of a matrix are its transpose's rows
    size = math.prod(shape)
    low = [n for n in range(1, math.isqrt(size) + 1) if size % n == 0]
    rows = sorted({*low, *(size // n for n in low)})
    least = min((n + size // n for n in rows), default=0)
    # In memory order the rows of "out" and "spatial" are the first axes.
    taken = {view.matrix_shape(shape)[0] for view in named if view in (OUT, SPATIAL)}
    near = [n for n in rows if min(n, size // n) > 1 and n + size // n <= 4 * least and n not in taken]
    return [*named, *map(Reshape, near)]


def parse_view(text: str | View) -> View:
    """The view that a text names: "out", "kernel", "spatial", "in" or "reshape(ROWS)".

    >>> parse_view("reshape(30)")
    Reshape(rows=30)
    """
    if isinstance(text, View):
        return text
    if text in NAMED_VIEWS:
        return NAMED_VIEWS[text]
    if match := re.fullmatch(r"reshape\((\d+)\)", text):
        return Reshape(int(match[1]))
    allowed = ", ".join(repr(name) for name in NAMED_VIEWS)
    raise ArgumentError(must("view", f"one of {allowed}, 'reshape(ROWS)'", text))
