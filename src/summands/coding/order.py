"""Pseudo-random orders of n positions that both ends share: a new one for every step, read from either end in O(1).

An order is a bijection of [0, n): Feistel rounds on two halves of a number of bits, where a half is changed by a
multiplicative hash of the other one, repeated until the result is below n (cycle walking: below two times on average).
"""

from __future__ import annotations

import numpy as np
from numba import njit

_LEAST_BITS = 12  # halves of fewer bits would mix badly; below that, n is small and cycle walking is cheap
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_1, _27, _30, _31, _64 = np.uint64(1), np.uint64(27), np.uint64(30), np.uint64(31), np.uint64(64)


@njit(cache=True, nogil=True, forceinline=True)
def _scrambled(x):
    """SplitMix64 (Steele, Lea, Flood 2014)."""
    x = (x ^ (x >> _30)) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> _27)) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> _31)


@njit(cache=True, nogil=True, forceinline=True)
def order_of_step(seed, step, total):
    """The order of `total` positions for this step: the bits of its upper and lower half, and four keys."""
    bits = _LEAST_BITS
    while (np.int64(1) << bits) < total:
        bits += 1
    start = _scrambled(np.uint64(seed) + _GOLDEN) + np.uint64(step) * (_GOLDEN << np.uint64(2))
    upper, lower = np.uint64(bits - bits // 2), np.uint64(bits // 2)
    return (
        np.uint64(total),
        upper,
        lower,
        _scrambled(start),
        _scrambled(start + _GOLDEN),
        _scrambled(start + _GOLDEN + _GOLDEN),
        _scrambled(start - _GOLDEN),
    )


@njit(cache=True, nogil=True, forceinline=True)
def _hash(half, multiplier, addend, bits):
    return (half * (multiplier | _1) + addend) >> (_64 - bits)


@njit(cache=True, nogil=True, forceinline=True)
def rank_of(position, order):
    """The place of a position in an order."""
    total, upper, lower, one, two, three, four = order
    x = np.uint64(position)
    while True:
        high, low = x >> lower, x & ((_1 << lower) - _1)
        high ^= _hash(low, one, two, upper)
        low ^= _hash(high, two, three, lower)
        high ^= _hash(low, three, four, upper)
        low ^= _hash(high, four, one, lower)
        high ^= _hash(low, one, three, upper)
        low ^= _hash(high, two, four, lower)
        x = (high << lower) | low
        if x < total:
            return np.int64(x)


@njit(cache=True, nogil=True, forceinline=True)
def position_at(rank, order):
    """The position at this place in an order: the inverse of `rank_of`."""
    total, upper, lower, one, two, three, four = order
    x = np.uint64(rank)
    while True:
        high, low = x >> lower, x & ((_1 << lower) - _1)
        low ^= _hash(high, two, four, lower)
        high ^= _hash(low, one, three, upper)
        low ^= _hash(high, four, one, lower)
        high ^= _hash(low, three, four, upper)
        low ^= _hash(high, two, three, lower)
        high ^= _hash(low, one, two, upper)
        x = (high << lower) | low
        if x < total:
            return np.int64(x)
