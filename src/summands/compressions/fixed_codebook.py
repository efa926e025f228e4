"""Codebooks that are given."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import ArgumentError, must
from ..forms import Codebook, Form
from .codebook_fit import nearest_form
from .compression import Compression, Terms


class GivenCodebook(Compression):
    """min ||w - c[z]||^2 over the choice z of one of the given values c for each entry: the nearest, exactly. O(N)."""

    @abstractmethod
    def levels(self) -> tuple[float, ...]:
        """The values, in any order."""

    def _project(self, weight: Tensor, terms: Terms) -> Form:
        return nearest_form(weight, [np.unique(np.array(self.levels(), float))], "weight", None)

    def _is_feasible(self, form: Form) -> bool:
        if not isinstance(form, Codebook) or form.axis is not None or form.values.dtype != form.dtype:
            return False
        return form.values.tolist() == torch.tensor(sorted(set(self.levels())), dtype=form.dtype).tolist()


@dataclass(frozen=True)
class FixedCodebook(GivenCodebook):
    """Every entry at the nearest of given values (Part II of Learning-Compression, 1707.04319, section 4.2).

    Args:
        values: finite numbers, at least one.

    >>> import torch
    >>> FixedCodebook([-1.0, 0.0, 0.5]).project(torch.tensor([-3.0, 0.2, 0.3])).dense()
    tensor([-1.0000,  0.0000,  0.5000])
    """

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", checked_values("FixedCodebook", self.values))

    def levels(self) -> tuple[float, ...]:
        return self.values


@dataclass(frozen=True)
class Binary(GivenCodebook):
    """Every entry at its sign, -1 or 1; 0 at -1 (1707.04319, theorem 4.1).

    >>> import torch
    >>> Binary().project(torch.tensor([-0.2, 3.0])).dense()
    tensor([-1.,  1.])
    """

    def levels(self) -> tuple[float, ...]:
        return (-1.0, 1.0)


@dataclass(frozen=True)
class Ternary(GivenCodebook):
    """Every entry at the nearest of -1, 0 and 1 (1707.04319, section 4.2).

    >>> import torch
    >>> Ternary().project(torch.tensor([-0.2, 3.0])).dense()
    tensor([0., 1.])
    """

    def levels(self) -> tuple[float, ...]:
        return (-1.0, 0.0, 1.0)


@dataclass(frozen=True)
class PowersOfTwo(GivenCodebook):
    """Every entry at the nearest of 0, +-1, +-1/2, ..., +-2^-c: multiplications become shifts (1707.04319, th. A.1).

    Args:
        c: the largest exponent, an integer from 0 to 100.

    >>> import torch
    >>> PowersOfTwo(2).project(torch.tensor([-0.7, 0.3, 0.1])).dense()
    tensor([-0.5000,  0.2500,  0.0000])
    """

    c: int

    def __post_init__(self) -> None:
        if type(self.c) is not int or not 0 <= self.c <= 100:
            raise ArgumentError(must("PowersOfTwo(c)", "an integer in [0, 100]", self.c))

    def levels(self) -> tuple[float, ...]:
        powers = tuple(2.0**-exponent for exponent in range(self.c + 1))
        return (*(-power for power in powers), 0.0, *powers)


def checked_values(owner: str, values: object) -> tuple[float, ...]:
    """The values as a tuple; ArgumentError unless they are finite numbers, at least one."""
    numbers = tuple(values) if isinstance(values, (tuple, list)) else ()
    if not numbers or not all(type(v) in (int, float) and math.isfinite(v) for v in numbers):
        raise ArgumentError(must(f"{owner}(values)", "a list of finite numbers, at least one", values))
    return tuple(float(v) for v in numbers)
