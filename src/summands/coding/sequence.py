"""An endless pseudo-random sequence of positions below n that both ends share, read from either end in O(1).

Successive pruning picks the next member of a set S in it: uniform over S, after a number of places that is geometric
with mean n/|S|, and the decoder needs neither S nor a search. So a place must give its position (`position_at`) and a
position its next place (`next_place`), and what comes next must not hang on what came: independent draws.

The sequence is made of epochs. In an epoch of M draws, 1/(e c!) of the positions occur c times, as in M independent
draws up to 1/M: a fixed list of M slots, with two bijections of its own for each epoch, one from places to slots and
one from the list to positions. Few positions stand in the list several times, so that M is large enough. A bijection
of [0, M) is Feistel rounds with multiplicative hashes, repeated until the result is below M (cycle walking).
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

LEAST = 4096
"""An epoch has at least so many draws."""
_MOST = 12  # times that a position occurs in an epoch
_SHARES = np.array([round(2**40 / (math.e * math.factorial(c))) for c in range(_MOST + 1)], dtype=np.int64)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_1, _2, _27, _30, _31, _64 = (np.uint64(k) for k in (1, 2, 27, 30, 31, 64))


@njit(cache=True, nogil=True)
def new_sequence(seed, total):
    """(seed, n, M, first entry of the list for each number of times, 0 being last; first slot likewise)."""
    copies = (LEAST + total - 1) // total
    size = np.int64(copies * total)
    starts, slots = np.zeros(_MOST + 2, dtype=np.int64), np.zeros(_MOST + 2, dtype=np.int64)
    counts = np.zeros(_MOST + 1, dtype=np.int64)
    once = size
    for times in range(2, _MOST + 1):
        # In two pieces, as size * share may need more than 63 bits.
        counts[times] = ((size >> 15) * _SHARES[times] + ((size & 32767) * _SHARES[times] >> 15)) >> 25
        once -= times * counts[times]
    counts[1] = once
    for times in range(1, _MOST + 1):
        starts[times + 1] = starts[times] + counts[times]
        slots[times + 1] = slots[times] + times * counts[times]
    return np.int64(seed), np.int64(total), size, starts, slots


@njit(cache=True, nogil=True, forceinline=True)
def _scrambled(x):
    """SplitMix64 (Steele, Lea, Flood 2014)."""
    x = (x ^ (x >> _30)) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> _27)) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> _31)


@njit(cache=True, nogil=True, forceinline=True)
def _bijection(seed, epoch, which, size):
    """The bijection number `which` (0 or 1) of an epoch: size, bits of the halves, four keys."""
    bits = 2
    while (np.int64(1) << bits) < size:
        bits += 1
    start = _scrambled(np.uint64(seed) + _GOLDEN) + (np.uint64(2 * epoch + which) << _2) * _GOLDEN
    return (
        np.uint64(size),
        np.uint64(bits - bits // 2),
        np.uint64(bits // 2),
        _scrambled(start),
        _scrambled(start + _GOLDEN),
        _scrambled(start + _GOLDEN + _GOLDEN),
        _scrambled(start - _GOLDEN),
    )


@njit(cache=True, nogil=True, forceinline=True)
def _hash(half, multiplier, addend, bits):
    return (half * (multiplier | _1) + addend) >> (_64 - bits)


@njit(cache=True, nogil=True, forceinline=True)
def _forward(value, bijection):
    size, upper, lower, one, two, three, four = bijection
    x = np.uint64(value)
    while True:
        high, low = x >> lower, x & ((_1 << lower) - _1)
        high ^= _hash(low, one, two, upper)
        low ^= _hash(high, two, three, lower)
        high ^= _hash(low, three, four, upper)
        low ^= _hash(high, four, one, lower)
        high ^= _hash(low, one, three, upper)
        low ^= _hash(high, two, four, lower)
        x = (high << lower) | low
        if x < size:
            return np.int64(x)


@njit(cache=True, nogil=True, forceinline=True)
def _backward(value, bijection):
    size, upper, lower, one, two, three, four = bijection
    x = np.uint64(value)
    while True:
        high, low = x >> lower, x & ((_1 << lower) - _1)
        low ^= _hash(high, two, four, lower)
        high ^= _hash(low, one, three, upper)
        low ^= _hash(high, four, one, lower)
        high ^= _hash(low, three, four, upper)
        low ^= _hash(high, two, three, lower)
        high ^= _hash(low, one, two, upper)
        x = (high << lower) | low
        if x < size:
            return np.int64(x)


@njit(cache=True, nogil=True)
def position_at(place, sequence):
    """The position at a place >= 0 of the sequence."""
    seed, total, size, starts, slots = sequence
    epoch = place // size
    slot = _forward(place - epoch * size, _bijection(seed, epoch, 0, size))
    times = 1
    while slot >= slots[times + 1]:
        times += 1
    entry = starts[times] + (slot - slots[times]) // times
    return _forward(entry, _bijection(seed, epoch, 1, size)) % total


@njit(cache=True, nogil=True)
def next_place(position, place, sequence):
    """The first place >= `place` at which a position stands."""
    seed, total, size, starts, slots = sequence
    epoch = place // size
    while True:
        to_places, to_entries = _bijection(seed, epoch, 0, size), _bijection(seed, epoch, 1, size)
        first = size
        for copy in range(position, size, total):
            entry = _backward(copy, to_entries)
            if entry >= starts[_MOST + 1]:
                continue
            times = 1
            while entry >= starts[times + 1]:
                times += 1
            slot = slots[times] + (entry - starts[times]) * times
            for s in range(slot, slot + times):
                there = _backward(s, to_places)
                if there < first and epoch * size + there >= place:
                    first = there
        if first < size:
            return epoch * size + first
        epoch += 1
