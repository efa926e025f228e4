"""What a compressed network may cost. The truth is the length of the whole file."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Self

from ..errors import BudgetError, must

_BYTES = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_FLOPS = {"FLOPs": 1, "kFLOPs": 10**3, "MFLOPs": 10**6, "GFLOPs": 10**9}
_TEXT = re.compile(r"\s*(-?[0-9.]+(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z/]*)\s*")
_ALLOWED = (
    "a number of bytes, or a text such as '60 kB', '1.5 MiB', '20x', '2.5 bits' (a weight), '10 MFLOPs' or "
    "'0.005 drop' (of the error)"
)


@dataclass(frozen=True)
class Budget:
    """The most that the network may cost. A file counts whole, header, biases and BatchNorm too; metadata is extra.

    Exactly one of:

    Args:
        bytes: length of the file.
        ratio: bytes of the tensors that come in, in their own dtypes, over the length of the file.
        bits_per_weight: bits of the file over the number of entries of all tensors.
        flops: multiply-adds of all linear layers and convolutions for one sample, run in factors. For LowRank("auto").
        max_drop: the smallest file whose error, by `evaluate`, exceeds the network's own by at most this.

    >>> Budget.of("60 kB"), Budget.of("20x"), Budget.of("2.5 bits")
    (Budget(bytes=60000), Budget(ratio=20.0), Budget(bits_per_weight=2.5))
    >>> Budget.of("1.5 MFLOPs"), Budget.of("0.005 drop")
    (Budget(flops=1500000), Budget(max_drop=0.005))
    >>> Budget.of("20x").limit(reference_bytes=1_066_440, entries=266_610)
    53322
    """

    bytes: int | None = None
    ratio: float | None = None
    bits_per_weight: float | None = None
    flops: int | None = None
    max_drop: float | None = None

    def __post_init__(self) -> None:
        given = {name: value for name, value in vars(self).items() if value is not None}
        if len(given) != 1:
            raise BudgetError(must("Budget", f"given exactly one of {', '.join(vars(self))}", given or None))
        ((name, value),) = given.items()
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not (number and (value > 0 or (value == 0 and name == "max_drop"))):
            allowed = "a number of at least 0" if name == "max_drop" else "a number above 0"
            raise BudgetError(must(f"Budget({name}=...)", allowed, value))

    def __repr__(self) -> str:
        ((name, value),) = ((n, v) for n, v in vars(self).items() if v is not None)
        return f"Budget({name}={value!r})"

    @classmethod
    def of(cls, budget: Self | int | str) -> Self:
        """The budget that a number of bytes or a text stands for."""
        if isinstance(budget, cls):
            return budget
        if isinstance(budget, int) and not isinstance(budget, bool):
            return cls(bytes=budget)
        match = _TEXT.fullmatch(budget) if isinstance(budget, str) else None
        if match is None:
            raise BudgetError(must("budget", _ALLOWED, budget))
        try:
            number, unit = float(match[1]), match[2]
        except ValueError:
            raise BudgetError(must("budget", _ALLOWED, budget)) from None
        if not math.isfinite(number):
            raise BudgetError(must("budget", _ALLOWED, budget))
        if unit in ("x", "X"):
            return cls(ratio=number)
        if unit in ("bits", "bit", "bits/weight"):
            return cls(bits_per_weight=number)
        if unit in _BYTES or not unit:
            return cls(bytes=int(number * _BYTES[unit or "B"]))
        if unit in _FLOPS:
            return cls(flops=int(number * _FLOPS[unit]))
        if unit == "drop":
            return cls(max_drop=number)
        units = ", ".join([*_BYTES, "x", "bits", *_FLOPS, "drop"])
        raise BudgetError(must("the unit of a budget", f"one of {units}", unit))

    @property
    def needs_model(self) -> bool:
        """True for what the tensors alone do not tell."""
        return self.flops is not None or self.max_drop is not None

    def limit(self, reference_bytes: int, entries: int) -> int:
        """The most bytes that the file may have, for a budget of bytes in any of their three forms."""
        if self.bytes is not None:
            return self.bytes
        if self.ratio is not None:
            return int(reference_bytes / self.ratio)
        if self.bits_per_weight is None:
            raise BudgetError(must("a budget", "one of bytes", self))
        return int(self.bits_per_weight * entries / 8)
