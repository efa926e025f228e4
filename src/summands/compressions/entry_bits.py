"""What an adaptive coder spends on an entry, as a sweep knows it: counts of magnitudes by the neighbours' mean."""

from __future__ import annotations

import numpy as np
from numba import njit

CLASSES = 40  # of mean magnitudes: two an octave, from 2^-10
SYMBOLS = 18  # places 0 to 16 in a quantiser, and all farther ones
MOST = 1 << 14  # counts are halved here, so that the estimates follow the weight
_PRIOR = 32.0  # what the first guess of a class counts


def first_counts() -> np.ndarray:
    """Counts of magnitudes for each class of the neighbours' mean magnitude: at first geometric with that mean."""
    means = 2.0 ** ((np.arange(CLASSES) - 20) / 2)
    ratio = (means / (1 + means))[:, None]
    shares = (1 - ratio) * ratio ** np.arange(SYMBOLS)
    shares[:, -1] = ratio[:, 0] ** (SYMBOLS - 1)
    return _PRIOR * (shares + 1e-4)


@njit(cache=True, nogil=True)
def class_of(mean):
    return min(max(np.int64(2 * np.log2(mean + 1e-9) + 20.5), 0), CLASSES - 1)


@njit(cache=True, nogil=True)
def bits_of(table, magnitude):
    """Bits of a magnitude: -log2 of its share, and an Exp-Golomb code beyond the last symbol."""
    if magnitude < SYMBOLS - 1:
        return table[magnitude]
    return table[SYMBOLS - 1] + 2 * np.log2(magnitude - (SYMBOLS - 2)) + 1
