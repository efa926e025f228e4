"""What the encoder may choose for a tensor, and how it finds the best: it measures, with the models that will code."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
from numba import njit

from .range_coder import code_bit

# Weights, in sixteenths, of the means near (along the scan), of the row and of the column; none at all is the first.
MIXES = ((0, 0, 0), (0, 8, 8), (4, 4, 8), (0, 4, 12), (4, 8, 4), (0, 16, 0), (8, 4, 4), (4, 0, 12))
DRIFTS = (3, 4, 5, 6)
RATES = ((255, 1023), (60, 1023), (30, 255), (1023, 8191))
_BITS = {"kernel": 1, "scan": 2, "mix": 3, "coarse": 2, "drift": 2, "rate": 2, "detail": 2, "signs": 1}
CHOICE_BITS = np.array(list(_BITS.values()), dtype=np.int64)
CHOICE_CONTEXTS = 16 * (len(_BITS) + 1)
LEAST_SAMPLE, MOST_SAMPLE = 8192, 32768


@dataclass(frozen=True)
class Choice:
    """The encoder's choices for one tensor, each a small number.

    Attributes:
        kernel: which of two ways of coding, where there are two.
        scan: the order of the entries (`orders`).
        mix: which running means make the class of a context: a place in MIXES.
        coarse: merges 2^coarse classes.
        drift: a place in DRIFTS, the means of columns move by 2^-drift of the difference.
        rate: a place in RATES, the limits of the counts in the adaptive estimates.
        detail: blocks of zeros in one decision; for floating values the mantissa bits that are modelled.
        signs: signs in the context of the neighbours' signs.
    """

    kernel: int = 0
    scan: int = 0
    mix: int = 0
    coarse: int = 0
    drift: int = 2
    rate: int = 0
    detail: int = 0
    signs: int = 0

    def for_kernel(self) -> np.ndarray:
        """The numbers that the kernels take."""
        numbers = (*MIXES[self.mix], self.coarse, DRIFTS[self.drift], *RATES[self.rate], self.detail, self.signs)
        return np.array(numbers, dtype=np.int64)

    def numbers(self) -> np.ndarray:
        """The fields, of CHOICE_BITS each."""
        return np.array([getattr(self, name) for name in _BITS], dtype=np.int64)


@njit(cache=True, nogil=True)
def code_choices(mode, state, data, model, first, bits, values):
    """The encoder's choices from number `first` on, of so many bits each: decisions in trees of 16 contexts."""
    low, width, position = state[0], state[1], np.int64(state[2])
    for i in range(values.size):
        node = np.int64(1)
        for b in range(bits[i] - 1, -1, -1):
            context = 16 * (first + i) + node
            low, width, position, bit = code_bit(
                mode, low, width, position, data, model, context, 30, 255, (values[i] >> b) & 1
            )
            node = 2 * node + bit
        values[i] = node - (1 << bits[i])
    state[0], state[1], state[2] = low, width, np.uint64(position)


Trials = Iterable[tuple[str, tuple[int, ...]]]
_GAIN = {"detail": 0.005}
"""A change must save this part of the bits, else 0.0005: ties stay as they are, and blocks are quick to decode."""


def best_choice(start: Choice, trials: Trials, cost: Callable[[Choice], float]) -> Choice:
    """The cheapest choice that coordinate descent from `start` finds: each field's alternatives in turn."""
    best, least = start, cost(start)
    tried = {start}
    for name, values in trials:
        for value in values:
            other = replace(best, **{name: value})
            if other in tried:
                continue
            tried.add(other)
            bits = cost(other)
            if bits < least * (1 - _GAIN.get(name, 0.0005)):
                best, least = other, bits
    return best


def orders(ndim: int) -> list[tuple[int, ...]]:
    """The axes' orders in which a tensor may be scanned; columns are all axes but those that stand for the rows."""
    if ndim < 2:
        return [tuple(range(ndim))]
    rest = tuple(range(2, ndim))
    found = [tuple(range(ndim)), (1, *rest, 0)]
    return found if ndim == 2 else [*found, (*rest, 0, 1), (1, 0, *rest)]


def scanned(array: np.ndarray, scan: int) -> tuple[np.ndarray, int]:
    """The entries in the order of a scan, copied to one run, and the number of columns."""
    order = order_of(array.ndim, scan)
    moved = np.ascontiguousarray(array.transpose(order))
    return moved.reshape(-1), columns_of(array.shape, scan)


def columns_of(shape: tuple[int, ...], scan: int) -> int:
    """The number of columns of a scan: of a vector 1, else what follows the row axes."""
    if len(shape) < 2 or 0 in shape:
        return 1
    moved = [shape[a] for a in order_of(len(shape), scan)]
    # Scan 1 has the first axis, scan 2 the second one as its columns; the others all but the first.
    return moved[-1] if scan in (1, 2) else math.prod(moved[1:])


def order_of(ndim: int, scan: int) -> tuple[int, ...]:
    """The order of the axes; ValueError for a scan that such a tensor does not have."""
    found = orders(ndim)
    if scan >= len(found):
        raise ValueError(f"a tensor of {ndim} dimensions has no scan {scan}")
    return found[scan]


def sample(array: np.ndarray, *, rare: bool = False) -> np.ndarray:
    """A box from the middle of an array: what the choices are tried on.

    It has an eighth of the entries, within bounds; eight times as many when nonzeros are `rare`: zeros are quick to
    code and say little.
    """
    target = min(max(array.size // 8, LEAST_SAMPLE), MOST_SAMPLE) * (8 if rare else 1)
    while array.size > target * 3 // 2:
        # The first axis down to 64, then the longest of the others.
        axis = 0 if array.shape[0] > 64 or array.ndim == 1 else 1 + int(np.argmax(array.shape[1:]))
        n = array.shape[axis]
        if n == 1:
            axis, n = int(np.argmax(array.shape)), max(array.shape)
        array = array.take(range(n // 4, n // 4 + (n + 1) // 2), axis=axis)
    return array
