"""The context models: how symbols become binary decisions. One kernel each codes, decodes and measures.

Magnitudes vary slowly over a weight: rows, columns and neighbourhoods differ in scale. A kernel keeps three running
means of the magnitudes seen: along the scan, fast (the neighbours) and slow (the row), and down each column. Their
mixture, in half octaves, is the context of the next decision. All is integer arithmetic, equal on every machine.

Kernels for `data` and `state` see range_coder.py; the columns of `choice` are named in choices.py.
"""

# mypy: disable-error-code="assignment, operator"
from __future__ import annotations

import math

import numpy as np
from numba import njit

from .range_coder import DECODE, ENCODE, LEAN, MEASURE, code_bit, code_even, code_number

CLASSES = 48
BLOCK = 16
SIDES = 4
UNIT = 12  # a mean has 12 fractional bits
LARGEST = 1 << 10  # magnitudes count as at most this in the means
_MODELLED = 30  # magnitudes have at most so many bits
# Contexts of `code_levels`: for each class the flags "magnitude has more than k bits", the first bit below the leading
# one, then classless ones.
SECOND = CLASSES * 32
_DEEPER = CLASSES * 64
_SIGNS = _DEEPER + 256
_BLOCKS = _SIGNS + 16
_FIRST = _BLOCKS + CLASSES
_SIDES = _FIRST + BLOCK * CLASSES
LEVEL_CONTEXTS = _SIDES + SIDES * CLASSES
# On the path of a trellis, what the second quantiser has of its own: zero or not, more than one bit, more than two.
SECOND_GRID = LEVEL_CONTEXTS
PATH_CONTEXTS = LEVEL_CONTEXTS + 3 * CLASSES


def _class_table(step: int) -> np.ndarray:
    # Class of a mean E in units of `step`: 0 for the least, then two classes an octave, from 2^-10 of a magnitude.
    values = np.arange(4096) * step + step / 2
    return np.array([min(max(round(2 * math.log2(v / 4)), 0), CLASSES - 1) for v in values], dtype=np.uint8)


_CLASSES = np.concatenate([_class_table(4), _class_table(1024)])


@njit(**LEAN, forceinline=True)
def class_of(mean, coarse):
    """The context class of a mean magnitude; `coarse` merges 2^coarse classes."""
    # One load from one of two tables: a branch here would be mispredicted time and again.
    place = mean >> 2 if mean < 16384 else 4096 + min(mean >> 10, 4095)
    return np.int64(_CLASSES[np.uint64(place)]) >> coarse


@njit(cache=True, nogil=True)
def code_levels(mode, state, data, model, x, columns, side, binary, path, node, choice):
    """Signed integers below 2^30 in absolute value, in rows of `columns`: zero or not, sign, bit length, bits.

    With blocks, BLOCK zeros in a row cost one decision. `side`, if not empty, has a number below SIDES for each entry
    that both ends know. Binary symbols are 0 or 1, and end with the first decision. With a `path` (trellis.py), entries
    follow it from `node` on, or where that is negative from 0 on in every row; False when they do not.
    """
    arguments = (state, data, model, x, columns, side, binary, path, node, choice)
    # A constant mode makes a copy of the loop without the other modes' code.
    if path.size > 0:
        if mode == DECODE:
            return _levels(DECODE, True, *arguments)
        return _levels(mode, True, *arguments)
    if mode == DECODE:
        return _levels(DECODE, False, *arguments)
    if mode == ENCODE:
        return _levels(ENCODE, False, *arguments)
    return _levels(MEASURE, False, *arguments)


@njit(cache=True, nogil=True, forceinline=True)
def _levels(mode, on_path, state, data, model, x, columns, side, binary, path, node, choice):
    near, row, column, coarse, drift = choice[0], choice[1], choice[2], choice[3], choice[4]
    fast, slow, blocks, signs = choice[5], choice[6], choice[7], choice[8]
    low, width, position = state[0], state[1], np.int64(state[2])
    means = np.zeros(columns, np.int32)
    above = np.zeros(columns, np.int8)
    quick = steady = np.int64(0)
    left = np.int64(0)
    unit = UNIT - 1 if on_path else UNIT
    modelled = _MODELLED - 1 if on_path else _MODELLED
    restarts = node < 0
    node = max(np.int64(node), np.int64(0))
    odd = np.int64(0)
    j = 0
    start = 0
    while start < x.size:
        end = min(start + BLOCK, x.size) if blocks else x.size
        seen = True
        if blocks:
            any_set = 0
            total = np.int64(0)
            # Most blocks lie within a row: runs that the compiler makes vector code of.
            within = j + (end - start) <= columns
            if within:
                for c in range(np.uint64(j), np.uint64(j + (end - start))):
                    total += means[c]
            else:
                c = j
                for _ in range(start, end):
                    total += means[np.uint64(c)]
                    c = c + 1 if c + 1 < columns else 0
            if mode != DECODE:
                for i in range(np.uint64(start), np.uint64(end)):
                    any_set |= x[i]
            mean = (near * quick + row * steady + column * (total // (end - start))) >> 4
            context = _BLOCKS + class_of(mean, coarse)
            low, width, position, any_set = code_bit(
                mode, low, width, position, data, model, context, fast, slow, 1 if any_set else 0
            )
            if any_set == 0:
                if mode == DECODE:
                    x[start:end] = 0
                if within:
                    means_in, above_in = means[j : j + end - start], above[j : j + end - start]
                    for c in range(end - start):
                        means_in[c] -= (means_in[c] + (1 << drift) - 1) >> drift
                    above_in[:] = 0
                    j = j + end - start if j + end - start < columns else 0
                else:
                    for _ in range(start, end):
                        means[np.uint64(j)] -= (means[np.uint64(j)] + (1 << drift) - 1) >> drift
                        above[np.uint64(j)] = 0
                        j = j + 1 if j + 1 < columns else 0
                if on_path:
                    if restarts and j < end - start:  # the last j entries are those of another row
                        node = np.int64(0)
                    for _ in range(j if restarts and j < end - start else end - start):
                        node = np.int64(path[np.uint64(2 * node)])
                quick = quick >> 5
                steady -= steady >> 1
                left = 0
                start = end
                continue
            seen = False
        for i in range(start, end):
            mean = (near * quick + row * steady + column * means[np.uint64(j)]) >> 4
            k = class_of(mean, coarse)
            value = np.int64(x[i])
            magnitude = abs(value)
            if on_path:
                odd = node & 1
                if mode != DECODE and value != 0 and (value & 1) != odd:
                    return False
                magnitude = (magnitude + odd) >> 1
            bit = 1 if magnitude else 0
            if seen or i < end - 1:
                context = k
                if not seen:
                    context = _FIRST + (i - start) * CLASSES + (k >> 1)
                elif odd:
                    context = SECOND_GRID + k
                elif side.size:
                    context = _SIDES + side[i] * CLASSES + k
                low, width, position, bit = code_bit(mode, low, width, position, data, model, context, fast, slow, bit)
            else:
                bit = 1
            seen = seen or bit != 0
            if binary:
                magnitude = bit
                if mode == DECODE:
                    x[i] = bit
            elif bit:
                negative = 1 if value < 0 else 0
                if signs:
                    context = _SIGNS + 3 * left + above[np.uint64(j)]
                    low, width, position, negative = code_bit(
                        mode, low, width, position, data, model, context, fast, slow, negative
                    )
                else:
                    low, width, position, negative = code_even(mode, low, width, position, data, negative)
                length = 1
                while length < modelled:
                    more = 1 if magnitude >> length else 0
                    context = length * CLASSES + k
                    if odd and length <= 2:
                        context += SECOND_GRID
                    low, width, position, more = code_bit(
                        mode, low, width, position, data, model, context, fast, slow, more
                    )
                    if more == 0:
                        break
                    length += 1
                decoded = np.int64(1)
                rest = length - 1
                while rest > 0 and length - rest <= 3:
                    context = SECOND + length * CLASSES + k
                    if rest < length - 1:
                        context = _DEEPER + length * 8 + decoded
                    low, width, position, bit = code_bit(
                        mode, low, width, position, data, model, context, fast, slow, (magnitude >> (rest - 1)) & 1
                    )
                    decoded = 2 * decoded + bit
                    rest -= 1
                if rest > 0:
                    low, width, position, bit = code_number(
                        mode, low, width, position, data, rest, magnitude & ((1 << rest) - 1)
                    )
                    decoded = (decoded << rest) | bit
                if mode == DECODE:
                    magnitude = decoded
                    value = 2 * decoded - odd if on_path else decoded
                    x[i] = -value if negative else value
                left = 1 + negative
            else:
                left = magnitude = 0
                if mode == DECODE:
                    x[i] = 0
            above[np.uint64(j)] = left
            size = magnitude
            if on_path:
                node = np.int64(path[np.uint64(2 * node + (magnitude & 1))])
                size = 2 * magnitude - odd if magnitude else magnitude
            scaled = min(size, LARGEST) << unit
            quick += (scaled - quick) >> 1
            steady += (scaled - steady) >> 5
            means[np.uint64(j)] += (scaled - means[np.uint64(j)]) >> drift
            j = j + 1 if j + 1 < columns else 0
            if on_path and restarts and j == 0:
                node = np.int64(0)
        start = end
    state[0], state[1], state[2] = low, width, np.uint64(position)
    return True


@njit(cache=True, nogil=True)
def code_tree(mode, state, data, model, x, columns, bits, centre, choice):
    """Integers of so many bits, the highest bit first; all bits below the eighth are taken as equally likely.

    The class comes from the distances to `centre`, half the largest: a codebook sorted by value has its scale there.
    """
    near, row, column, coarse, drift = choice[0], choice[1], choice[2], choice[3], choice[4]
    fast, slow = choice[5], choice[6]
    low, width, position = state[0], state[1], np.int64(state[2])
    means = np.zeros(columns, np.int32)
    quick = steady = np.int64(0)
    deep = min(bits, 8)
    j = 0
    for i in range(x.size):
        k = class_of((near * quick + row * steady + column * means[np.uint64(j)]) >> 4, coarse)
        value = np.int64(x[i])
        node = np.int64(1)
        for b in range(bits - 1, bits - deep - 1, -1):
            low, width, position, bit = code_bit(
                mode, low, width, position, data, model, node * CLASSES + k, fast, slow, (value >> b) & 1
            )
            node = 2 * node + bit
        decoded = node - (1 << deep)
        if bits > deep:
            rest = bits - deep
            low, width, position, tail = code_number(mode, low, width, position, data, rest, value & ((1 << rest) - 1))
            decoded = (decoded << rest) | tail
        if mode == DECODE:
            x[i] = decoded
        scaled = min(abs(2 * decoded - centre) >> 1, LARGEST) << UNIT
        quick += (scaled - quick) >> 1
        steady += (scaled - steady) >> 5
        means[np.uint64(j)] += (scaled - means[np.uint64(j)]) >> drift
        j = j + 1 if j + 1 < columns else 0
    state[0], state[1], state[2] = low, width, np.uint64(position)


FLOAT_CLASSES = 8


def float_contexts(exponent_bits: int) -> int:
    """How many contexts `code_floats` needs."""
    return ((FLOAT_CLASSES + 8) << exponent_bits) + SIDES


@njit(cache=True, nogil=True)
def code_floats(mode, state, data, model, x, columns, side, exponent_bits, mantissa_bits, tail, choice):
    """Floating values by their bit patterns: exponent, sign, the first mantissa bits by contexts, the rest as it is.

    The exponent's class is the running means' distance from the mean over all; the last `tail` mantissa bits are zeros.
    """
    near, row, column, drift = choice[0], choice[1], choice[2], choice[4]
    fast, slow, modelled = choice[5], choice[6], choice[7]
    low, width, position = state[0], state[1], np.int64(state[2])
    one = np.int64(1)
    signs = (FLOAT_CLASSES + 8) << exponent_bits
    means = np.zeros(columns, np.int32)
    quick = steady = level = np.int64(0)
    j = 0
    for i in range(x.size):
        value = np.int64(x[i])
        exponent = (value >> mantissa_bits) & ((one << exponent_bits) - 1)
        mantissa = value & ((one << mantissa_bits) - 1)
        negative = (value >> (exponent_bits + mantissa_bits)) & 1
        k = 0
        if near + row + column > 0:
            mean = (near * quick + row * steady + column * means[np.uint64(j)]) >> 4
            k = min(max(((mean - level + 16) >> 3) + 2, 1), FLOAT_CLASSES - 1)
        node = one
        for b in range(exponent_bits - 1, -1, -1):
            context = (k << exponent_bits) + node
            low, width, position, bit = code_bit(
                mode, low, width, position, data, model, context, fast, slow, (exponent >> b) & 1
            )
            node = 2 * node + bit
        exponent = node - (one << exponent_bits)
        context = signs + side[i] if side.size else signs
        low, width, position, negative = code_bit(
            mode, low, width, position, data, model, context, fast, slow, negative
        )
        head = min(modelled, mantissa_bits - tail)
        node = one
        for b in range(mantissa_bits - 1, mantissa_bits - 1 - head, -1):
            context = (FLOAT_CLASSES << exponent_bits) + exponent * 8 + node
            low, width, position, bit = code_bit(
                mode, low, width, position, data, model, context, fast, slow, (mantissa >> b) & 1
            )
            node = 2 * node + bit
        rest = mantissa_bits - head - tail
        low, width, position, bits = code_number(
            mode, low, width, position, data, rest, (mantissa >> tail) & ((one << rest) - 1)
        )
        if mode == DECODE:
            mantissa = (((node - (one << head)) << rest) | bits) << tail
            x[i] = (((negative << exponent_bits) | exponent) << mantissa_bits) | mantissa
        scaled = exponent << 4
        if i == 0:
            quick = steady = level = scaled
            means[:] = scaled
        quick += (scaled - quick) >> 1
        steady += (scaled - steady) >> 4
        level += (scaled - level) >> 8
        means[np.uint64(j)] += (scaled - means[np.uint64(j)]) >> drift
        j = j + 1 if j + 1 < columns else 0
    state[0], state[1], state[2] = low, width, np.uint64(position)


@njit(cache=True, nogil=True)
def code_bytes(mode, state, data, model, x, width_bytes, fast, slow):
    """Bytes, each by its place in its entry: a tree of eight decisions."""
    low, width, position = state[0], state[1], np.int64(state[2])
    for i in range(x.size):
        byte, node = np.int64(x[i]), 1
        base = (i % width_bytes) * 256
        for k in range(7, -1, -1):
            low, width, position, bit = code_bit(
                mode, low, width, position, data, model, base + node, fast, slow, (byte >> k) & 1
            )
            node = 2 * node + bit
        if mode == DECODE:
            x[i] = node & 255
    state[0], state[1], state[2] = low, width, np.uint64(position)


GAP_CONTEXTS = 64 + 8 * 64


@njit(cache=True, nogil=True)
def code_gaps(mode, state, data, model, x, size, fast, slow):
    """Increasing positions below `size` by their gaps: bit length by adaptive decisions, then the bits."""
    low, width, position = state[0], state[1], np.int64(state[2])
    last = np.int64(-1)
    for i in range(x.size):
        gap = np.int64(x[i]) - last
        # Every remaining position needs a place, so a gap is at most `most`.
        most = size - (x.size - i - 1) - 1 - last
        node = np.int64(1)
        length = 0
        while (1 << (length + 1)) <= most:
            low, width, position, bit = code_bit(
                mode, low, width, position, data, model, length, fast, slow, 1 if gap >> (length + 1) else 0
            )
            if bit == 0:
                break
            length += 1
        for k in range(length - 1, -1, -1):
            # Only the first three bits after the leading one are worth a context each.
            context = 64 + 8 * length + node if node < 8 else 63
            low, width, position, bit = code_bit(
                mode, low, width, position, data, model, context, fast, slow, (gap >> k) & 1
            )
            node = 2 * node + bit
        if node > most:
            return False
        last += node
        if mode == DECODE:
            x[i] = last
    state[0], state[1], state[2] = low, width, np.uint64(position)
    return True
