"""Pseudo-random orders of n positions that both ends share: a new one for every step, read from either end in O(1).

An order is a bijection of [0, n): rounds of adding a key, multiplying by an odd number and folding the upper half onto
the lower one, modulo a power of two, repeated until the result is below n (cycle walking: under two times on average).
"""

from __future__ import annotations

import numpy as np
from numba import njit

_LEAST_BITS = 6  # below that, cycle walking is cheap and rounds on fewer bits would mix badly
_ODD = np.uint64(0x9E3779B1)
_INVERSE = np.uint64(pow(0x9E3779B1, -1, 2**32))
_32 = np.uint64(32)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@njit(cache=True, nogil=True, forceinline=True)
def _scrambled(x):
    """SplitMix64 (Steele, Lea, Flood 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@njit(cache=True, nogil=True, forceinline=True)
def order_keys(seed, step):
    """The keys of the order of this step."""
    start = _scrambled(np.uint64(seed) + _GOLDEN) + np.uint64(step) * np.uint64(2) * _GOLDEN
    return _scrambled(start), _scrambled(start + _GOLDEN)


@njit(cache=True, nogil=True, forceinline=True)
def order_bits(total):
    """The number of bits in which an order of `total` positions works."""
    bits = _LEAST_BITS
    while (np.int64(1) << bits) < total:
        bits += 1
    return bits


@njit(cache=True, nogil=True, forceinline=True)
def rank_of(position, total, bits, one, two):
    """The place of a position in the order with keys `one` and `two`."""
    mask = (np.uint64(1) << np.uint64(bits)) - np.uint64(1)
    half = np.uint64((bits + 1) // 2)
    x = np.uint64(position)
    while True:
        x = ((x + one) * _ODD) & mask
        x ^= x >> half
        x = ((x + (one >> _32)) * _ODD) & mask
        x ^= x >> half
        x = ((x + two) * _ODD) & mask
        x ^= x >> half
        x = ((x + (two >> _32)) * _ODD) & mask
        x ^= x >> half
        if x < np.uint64(total):
            return np.int64(x)


@njit(cache=True, nogil=True, forceinline=True)
def position_at(rank, total, bits, one, two):
    """The position at this place in the order: the inverse of `rank_of`."""
    mask = (np.uint64(1) << np.uint64(bits)) - np.uint64(1)
    half = np.uint64((bits + 1) // 2)
    x = np.uint64(rank)
    while True:
        x ^= x >> half
        x = (x * _INVERSE - (two >> _32)) & mask
        x ^= x >> half
        x = (x * _INVERSE - two) & mask
        x ^= x >> half
        x = (x * _INVERSE - (one >> _32)) & mask
        x ^= x >> half
        x = (x * _INVERSE - one) & mask
        if x < np.uint64(total):
            return np.int64(x)
