"""The context models: how each kind of symbol becomes binary decisions. One kernel codes, decodes and measures."""

from __future__ import annotations

import numpy as np
from numba import njit

from .range_coder import DECODE, code_bit


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
            context = 64 + 64 * length + k
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
