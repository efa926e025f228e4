"""An adaptive binary range coder in integer arithmetic; one function codes, decodes and measures.

The interval is [low, low + width), both in 64 bits and width >= 2^32. Whenever width falls below that, 32 bits leave;
a carry out of low runs back over the bytes already written (Martin 1979; LZMA's coder is a relative). With 20-bit
probabilities the truncation of width * p costs about 1e-5 bits a decision.

The decoder reads zeros after the end of its input. The coder ends with the shortest byte string inside its interval,
trailing zeros left out; the decoder derives that string again from its own last state. So one sequence of decisions
has one byte string, and every other string is refused (`Coder.finish`).

Kernels hold (low, width, position) in local variables, so that a decision is a few instructions. `low` is the low end
when encoding, and the input minus the low end when decoding.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numba import njit

ENCODE, DECODE, MEASURE = 0, 1, 2

LIMIT_MAX = 8191
STATE_BITS = 28
_PROBABILITY_BITS = 20

_FULL = np.uint64(2**64 - 1)
_LEAST = np.uint64(2**32)
_1, _2, _8, _32, _56 = np.uint64(1), np.uint64(2), np.uint64(8), np.uint64(32), np.uint64(56)
_SHIFT = np.uint64(20)  # probabilities have 20 bits
_DROP = STATE_BITS + 1 - 20  # the sum of two estimates has one bit more
# What an estimate moves to after a 0 or a 1. Not quite 0 and 1, so that no decision is ever impossible.
_ZERO, _ONE = 1 << 9, (1 << STATE_BITS) - (1 << 9)

# After n decisions an estimate moves by 1 / (n + 1.5) of its error: Krichevsky and Trofimov's start. Where n stops at a
# limit, the rate stays.
_RECIPROCALS = np.array([round(2**32 / (n + 1.5)) for n in range(LIMIT_MAX + 1)], dtype=np.int64)
_BITS = -np.log2((np.arange(4096) + 0.5) / 4096)  # of a decision whose chance lies in the n-th part of 4096

LEAN: dict[str, Any] = {"cache": True, "nogil": True, "_nrt": False}
"""Numba's options of what is called for every decision: no counting of references to its arrays, which the compiler
would not remove. Such a function can make no array."""


@njit(**LEAN)
def _carry(data, position):
    """Adds one to the number written so far."""
    position -= 1
    while position >= 0 and data[position] == 255:
        data[position] = 0
        position -= 1
    if position >= 0:
        data[position] += 1


@njit(**LEAN, forceinline=True)
def _shift_word(mode, low, position, data):
    """Moves 32 bits out, or in: zeros after the end of the input."""
    if mode == ENCODE:
        for i in range(position, position + 4):
            data[i] = low >> _56
            low = low << _8
    elif mode == DECODE:
        low = low << _32
        if position + 4 <= data.size:
            for i in range(4):
                low |= np.uint64(data[position + i]) << np.uint64(24 - 8 * i)
    return low


@njit(**LEAN, forceinline=True)
def learn(model, i, fast, slow, bit):
    """What context i of the model takes from a decision: both estimates move towards it, and the count grows."""
    place = np.uint64(3 * i)  # unsigned, or Numba looks for negative indices
    quick = np.int64(model[place])
    steady = np.int64(model[place + _1])
    count = np.int64(model[place + _2])
    target = _ONE if bit != 0 else _ZERO
    model[place] = quick + (((target - quick) * _RECIPROCALS[np.uint64(min(count, fast))]) >> 32)
    model[place + _1] = steady + (((target - steady) * _RECIPROCALS[np.uint64(count)]) >> 32)
    model[place + _2] = min(count + 1, slow)


@njit(**LEAN, forceinline=True)
def bits_of(model, i, bit):
    """Bits that a decision under context i of the model would take now, within 0.01 unless it takes more than 9."""
    place = np.uint64(3 * i)
    chance = (np.int64(model[place]) + np.int64(model[place + _1])) >> (STATE_BITS + 1 - 12)
    return _BITS[np.uint64(chance if bit != 0 else 4095 - chance)]


@njit(**LEAN, forceinline=True)
def code_bit(mode, low, width, position, data, model, i, fast, slow, bit):
    """One decision under context i of the model, which learns from it.

    A context is (fast estimate, slow estimate, count). The probability of a 1 is the mean of both estimates, whose
    counts stop at the limits fast <= slow.
    """
    place = np.uint64(3 * i)
    quick = np.int64(model[place])
    steady = np.int64(model[place + _1])
    bound = (width >> _SHIFT) * np.uint64((quick + steady) >> _DROP)
    if mode == DECODE:
        bit = 1 if low < bound else 0
    if bit != 0:
        width = bound
    else:
        if mode == ENCODE:
            low += bound
            if low < bound:
                _carry(data, position)
        elif mode == DECODE:
            low -= bound
        width -= bound
    learn(model, i, fast, slow, bit)
    if width < _LEAST:
        low = _shift_word(mode, low, position, data)
        width = width << _32
        position += 4
    return low, width, position, bit


@njit(**LEAN, forceinline=True)
def code_even(mode, low, width, position, data, bit):
    """One decision with even odds."""
    width = width >> np.uint64(1)
    if mode == DECODE:
        bit = 1 if low >= width else 0
        if bit != 0:
            low -= width
    elif mode == ENCODE and bit != 0:
        low += width
        if low < width:
            _carry(data, position)
    if width < _LEAST:
        low = _shift_word(mode, low, position, data)
        width = width << _32
        position += 4
    return low, width, position, bit


@njit(**LEAN, forceinline=True)
def code_raw(mode, low, width, position, data, bits, value):
    """The lowest `bits` (at most 16) bits of a value, all values equally likely."""
    part = width >> np.uint64(bits)
    if mode == DECODE:
        value = np.int64(min(low // part, np.uint64((1 << bits) - 1)))
        low -= part * np.uint64(value)
    elif mode == ENCODE:
        step = part * np.uint64(value)
        low += step
        if low < step:
            _carry(data, position)
    width = part
    if width < _LEAST:
        low = _shift_word(mode, low, position, data)
        width = width << _32
        position += 4
    return low, width, position, value


@njit(**LEAN)
def code_number(mode, low, width, position, data, bits, value):
    """The lowest `bits` (at most 64) bits of a value, all values equally likely."""
    result = np.int64(0)
    if bits <= 3:  # a division takes longer
        for k in range(bits - 1, -1, -1):
            low, width, position, piece = code_even(mode, low, width, position, data, (value >> k) & 1)
            result = 2 * result + piece
        return low, width, position, result
    while bits > 0:
        take = min(bits, 16)
        bits -= take
        piece = (value >> bits) & ((1 << take) - 1)
        low, width, position, piece = code_raw(mode, low, width, position, data, take, piece)
        result = (result << take) | piece
    return low, width, position, result


def new_model(contexts: int) -> np.ndarray:
    """Contexts that know nothing, three numbers each: both estimates at 1/2, no decision seen."""
    return _fresh(contexts).copy()


@lru_cache(maxsize=64)
def _fresh(contexts: int) -> np.ndarray:
    return np.tile(np.array([1 << (STATE_BITS - 1), 1 << (STATE_BITS - 1), 0], dtype=np.int32), contexts)


class Coder:
    """The state between kernels. Kernels take (mode, state, data, ...) and leave the state changed.

    Args:
        mode: ENCODE, DECODE or MEASURE (encode, but only count).
        data: the input of DECODE, which is never read beyond its end.
    """

    def __init__(self, mode: int, data: bytes | memoryview = b"") -> None:
        self.mode = mode
        self.input = bytes(data)
        start = 0
        if mode == DECODE:
            padded = self.input + bytes(8 + -len(self.input) % 4)
            start = int.from_bytes(padded[:8], "big")
        else:
            padded = bytes(64)
        self.data = np.frombuffer(bytearray(padded), dtype=np.uint8)
        self.state = np.array([start, _FULL, 8 if mode == DECODE else 0], dtype=np.uint64)

    def reserve(self, count: int) -> None:
        """Makes room for `count` more bytes when encoding."""
        if self.mode == ENCODE and self.data.size < int(self.state[2]) + count + 16:
            grown = np.zeros(2 * self.data.size + count + 16, dtype=np.uint8)
            grown[: self.data.size] = self.data
            self.data = grown

    @property
    def bits(self) -> float:
        """Bits of information coded so far."""
        words = int(self.state[2]) - (8 if self.mode == DECODE else 0)
        return 8 * words + 64 - math.log2(int(self.state[1]))

    def number(self, bits: int, value: int = 0) -> int:
        """A number of so many bits, all values equally likely: coded, or decoded and returned."""
        self.reserve(8)
        return int(_code_one_number(self.mode, self.state, self.data, bits, np.int64(value)))

    def finish(self) -> bytes:
        """Encoding: the bytes. Decoding: ValueError unless the input is what encoding the same decisions writes."""
        low, width, position = (int(s) for s in self.state)
        if self.mode == ENCODE:
            tail = _shortest(low, width)
            if tail >> 64:
                _carry(self.data, position)
            written = self.data[:position].tobytes() + (tail & int(_FULL)).to_bytes(8, "big")
            return written.rstrip(b"\0")
        if low >= width:
            raise ValueError("the coded data leave the coder's interval")
        if len(self.input) > position or self.input.endswith(b"\0"):
            raise ValueError("coded data go on after their end")
        window = int.from_bytes(self.input[position - 8 : position].ljust(8, b"\0"), "big")
        if _shortest((window - low) & int(_FULL), width) & int(_FULL) != window:
            raise ValueError("the coder ends in a wrong state")
        return self.input


def _shortest(low: int, width: int) -> int:
    """The number in [low, low + width) with the most trailing zero bytes, the least of these; may be 2^64."""
    for kept in range(9):
        unit = 1 << (64 - 8 * kept)
        number = -(-low // unit) * unit
        if number < low + width:
            return number
    raise ValueError("an empty interval")


@njit(cache=True, nogil=True)
def _code_one_number(mode, state, data, bits, value):
    low, width, position, value = code_number(mode, state[0], state[1], np.int64(state[2]), data, bits, value)
    state[0], state[1], state[2] = low, width, np.uint64(position)
    return value
