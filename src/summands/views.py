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
