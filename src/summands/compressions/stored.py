"""The dtypes in which continuous values may be stored."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import ArgumentError, must

STORED = ("float32", "float16", "bfloat16")
STEP_BITS = 4
"""Leading bits of a step that a price has chosen for a slice."""


def check_stored(owner: str, dtype: str | None) -> None:
    """ArgumentError unless `dtype` is None (the weight's own) or one of STORED."""
    if dtype is not None and dtype not in STORED:
        raise ArgumentError(must(f"{owner}(dtype=...)", f"None or one of {', '.join(map(repr, STORED))}", dtype))


def stored_dtype(dtype: str | None, own: torch.dtype) -> torch.dtype:
    """The torch dtype of a checked name; `own` for None."""
    return own if dtype is None else getattr(torch, dtype)


def rounded(values: Tensor, dtype: str | None, own: torch.dtype | None = None) -> Tensor:
    """The nearest finite values in the stored dtype (`own`, by default that of `values`, for None)."""
    own = own or values.dtype
    target = stored_dtype(dtype, own)
    most = min(torch.finfo(target).max, torch.finfo(own).max)
    if float(torch.tensor(most, dtype=torch.float64, device="cpu").to(target)) > most:
        # The largest float16 is no bfloat16: the next above it would be infinite when it is read back as float16.
        most *= 1 - torch.finfo(target).eps / 2
    wide = torch.promote_types(values.dtype, target)  # float16 and bfloat16 hold neither of each other's limits
    return values.to(wide).clamp(-most, most).to(target)


def leading(values: Tensor, bits: int) -> Tensor:
    """The nearest values with so many leading bits in their mantissas, in the dtype and range of their own."""
    mantissa, exponent = torch.frexp(values)
    return torch.ldexp((mantissa * 2.0**bits).round() / 2.0**bits, exponent).to(values.dtype)


def coarse(steps: Tensor, bits: int = STEP_BITS) -> Tensor:
    """The nearest values of few leading bits: a step need not be exact, and these cost a byte at most."""
    found = leading(steps.to(torch.float64), bits)
    return found.clamp(torch.finfo(steps.dtype).tiny, torch.finfo(steps.dtype).max / 2).to(steps.dtype)


def value_bits(dtype: torch.dtype, exponent_bits: float) -> float:
    """Bits that coding spends on a floating value, about: mantissa and sign as they are, the exponent by its entropy.

    The exponents of values cut off below, as pruning leaves them, take about 1 bit, those of a bell-shaped cloud 3.
    """
    return 1 - math.log2(torch.finfo(dtype).eps) + exponent_bits
