"""The abstract form: a compressed weight as a value.

A form knows nothing of how it was found. Its tensors are its own or shared: two forms share a codebook exactly when
they hold the *same tensor object*, and then it is written, trained and billed once (docs/decisions/0002-sharing.md).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from ..views import dense_flops


@dataclass(frozen=True, eq=False, kw_only=True)
class Form(ABC):
    """A compressed weight Theta; `dense()` is Delta(Theta).

    Attributes:
        shape: shape of the dense weight.
        dtype: dtype of the dense weight; what the form stores may be narrower.
    """

    continuous: ClassVar[tuple[str, ...]] = ()
    """Fields that training may move while all others stay frozen."""
    is_linear: ClassVar[bool] = False
    """True when every entry of the weight is linear in one entry of each of these, the others fixed."""
    scaling: ClassVar[str | None] = None
    """The one of them, if any, that multiplies all the weight, or each slice, and may be stored in few bits."""
    is_assigned: ClassVar[bool] = False
    """True when every entry of the weight is one of a few values, whichever it is: `reassigned` chooses anew."""
    has_dead_zone: ClassVar[bool] = False
    """True when it heeds the one of `reassigned`."""

    shape: torch.Size
    dtype: torch.dtype

    @abstractmethod
    def dense(self) -> Tensor:
        """The weight, with `shape` and `dtype`; differentiable in the continuous fields."""

    @abstractmethod
    def validate(self) -> None:
        """Raises ValueError, with the reason, unless every tensor fits the others. Costs one pass over the tensors."""

    @abstractmethod
    def paper_bits(self, billed: set[int]) -> float:
        """Bits by the accounting of the LC papers (algorithms 8): fixed-width codes, no entropy coding, no headers.

        `billed` holds the `id` of every shared tensor already paid for, and is extended.
        """

    def parts(self) -> tuple[Form, ...]:
        """The terms of a sum; of any other form, itself."""
        return (self,)

    def replace_part(self, index: int, part: Form) -> Form:
        """This form with one of its `parts()` exchanged."""
        return part

    def reassigned(self, dense: Tensor, dead_zone: float = 0.5) -> Self:
        """This form, of those that are assigned, with each entry the nearest of its values to `dense`.

        Args:
            dead_zone: up to how many steps from 0 an entry of a grid is 0 all the same, at least 1/2.
        """
        raise NotImplementedError(f"no entry of a {type(self).__name__} is one of a few values")

    def facts(self) -> dict[str, int | str]:
        """What a reader of a table wants to know of this form besides its bits: its rank, how many values it has."""
        return {}

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor that the form holds, by field name."""
        named = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in named.items() if isinstance(value, Tensor)}

    def replace_tensors(self, tensors: Mapping[str, Tensor]) -> Self:
        """This form with some of its tensors exchanged, by the names of `tensors()`."""
        changes: dict[str, Any] = dict(tensors)
        return replace(self, **changes)

    def continuous_tensors(self) -> dict[str, Tensor]:
        """The tensors that training may move, by the names of `tensors()`."""
        return {name: tensor for name, tensor in self.tensors().items() if name.split(".")[-1] in self.continuous}

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """This form with `function` applied to each of its tensors.

        To keep what several forms share, pass a function that returns the same object for the same object.
        """
        return self.replace_tensors({name: function(tensor) for name, tensor in self.tensors().items()})

    @property
    def size(self) -> int:
        """Number of entries of the dense weight."""
        return math.prod(self.shape)

    @property
    def dense_bytes(self) -> int:
        """Bytes of the dense weight in memory."""
        return self.size * self.dtype.itemsize

    @property
    def device(self) -> torch.device:
        return next(iter(self.tensors().values())).device

    def flops(self, in_size: Sequence[int] = (), out_size: Sequence[int] = (), groups: int = 1) -> int:
        """Multiply-adds of a linear layer or convolution that runs with this form, never above the dense ones.

        Args:
            in_size, out_size: H x W of a convolution's input and output; () for a linear layer, at one position.
            groups: of the convolution.
        """
        return dense_flops(self.shape, out_size)

    def same(self, other: Form) -> bool:
        """True when both are the same value to the last bit: same kind, same fields, same tensors."""
        if type(self) is not type(other) or (self.shape, self.dtype) != (other.shape, other.dtype):
            return False
        mine, theirs = self.tensors(), other.tensors()
        plain = [f.name for f in fields(self) if f.name not in mine]
        return (
            mine.keys() == theirs.keys()
            and all(getattr(self, name) == getattr(other, name) for name in plain)
            and all(_same_bits(mine[name], theirs[name]) for name in mine)
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class ElementwiseForm(Form):
    """A form in which every entry stands alone, so that a vector's form splits and rows' forms stack."""

    is_linear: ClassVar[bool] = True

    @abstractmethod
    def split(self, shapes: Sequence[torch.Size], dtypes: Sequence[torch.dtype]) -> list[Self]:
        """One form for each run of entries of this vector's form; shared tensors stay shared."""

    @classmethod
    @abstractmethod
    def join(cls, forms: Sequence[Self], dtype: torch.dtype) -> Self:
        """The vector's form that `split` takes apart again; ValueError when the forms cannot stand in one vector."""

    @classmethod
    @abstractmethod
    def stack(cls, rows: Sequence[Self], shape: torch.Size, dtype: torch.dtype, axis: int) -> Self:
        """The form of the tensor whose slices along `axis` have these vectors' forms."""


def paper_bits(forms: Iterable[Form]) -> float:
    """Bits of several forms by the papers' accounting, what they share billed once."""
    billed: set[int] = set()
    return sum(form.paper_bits(billed) for form in forms)


def relative_error(weight: Tensor, form: Form) -> float:
    """||w - Delta||^2 / ||w||^2; 0 when both are the same to the last bit, infinity for a zero weight that changed."""
    dense = form.dense()
    if _same_bits(dense, weight.detach()):
        return 0.0
    error = float((weight.detach().double() - dense.double()).square().sum())
    norm = float(weight.detach().double().square().sum())
    return error / norm if norm else math.inf if error else 0.0


def tensor_bits(tensor: Tensor, billed: set[int]) -> int:
    """Bits of a tensor as stored; nothing when it was billed before."""
    if id(tensor) in billed:
        return 0
    billed.add(id(tensor))
    return tensor.numel() * tensor.element_size() * 8


def _same_bits(a: Tensor, b: Tensor) -> bool:
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    if a.numel() == 0:
        return True
    return torch.equal(raw_bytes(a), raw_bytes(b))


def raw_bytes(tensor: Tensor) -> Tensor:
    """Its bytes in memory order; the same memory where that can be."""
    return tensor.resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8)
