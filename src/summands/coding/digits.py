"""One more binary digit of every level, where both ends know the digits above it: a pass of an embedded quantiser.

A level that is zero so far is asked whether it becomes 1, then for its sign; any other for its digit. The context is
the mean magnitude around the entry, as in contexts.py: with the new digits before it in the scan, with those known
after it in each column.
"""

# mypy: disable-error-code="assignment, operator"
from __future__ import annotations

import numpy as np
from numba import njit

from .contexts import CLASSES, class_of
from .range_coder import DECODE, code_bit, code_even

_LARGEST = 1 << 10  # magnitudes count as at most this in the means
_UNIT = 12
DIGIT_CONTEXTS = 4 * CLASSES


@njit(cache=True, nogil=True)
def code_digits(mode, state, data, model, x, columns, known, choice):
    """Digits in {-1, 0, 1}: the levels are 2 known + x, and x has the sign of a level that is not zero yet known."""
    near, row, column, coarse, drift = choice[0], choice[1], choice[2], choice[3], choice[4]
    fast, slow = choice[5], choice[6]
    low, width, position = state[0], state[1], np.int64(state[2])
    means = np.zeros(columns, np.int64)
    for i in range(x.size):
        means[i % columns] += min(2 * abs(np.int64(known[i])), _LARGEST)
    rows = max(x.size // columns, 1)
    for c in range(columns):
        means[c] = (means[c] << _UNIT) // rows
    quick = steady = np.int64(0)
    j = 0
    for i in range(x.size):
        level = np.int64(known[i])
        k = class_of((near * quick + row * steady + column * means[np.uint64(j)]) >> 4, coarse)
        k += min(abs(level), 3) * CLASSES
        bit = 1 if x[i] != 0 else 0
        low, width, position, bit = code_bit(mode, low, width, position, data, model, k, fast, slow, bit)
        negative = 1 if level < 0 else 0
        if level == 0 and bit != 0:
            negative = 1 if x[i] < 0 else 0
            low, width, position, negative = code_even(mode, low, width, position, data, negative)
        if mode == DECODE:
            x[i] = -bit if negative else bit
        scaled = min(2 * abs(level) + bit, _LARGEST) << _UNIT
        quick += (scaled - quick) >> 1
        steady += (scaled - steady) >> 5
        means[np.uint64(j)] += (scaled - means[np.uint64(j)]) >> drift
        j = j + 1 if j + 1 < columns else 0
    state[0], state[1], state[2] = low, width, np.uint64(position)
