"""The stream of successive pruning: runs of picks between refreshes, indices by their rank in a shared order, signs.

The index of a pick is its place k in the order of its step, about geometric with mean n/|S|, and |S| is the encoder's
alone. The model follows it: under the authors' rule S is drawn down to nothing between two refreshes, so the length of
a run, which is sent before it, says what is left of S at every pick; under the paper's rule |S| stays about ln n, and a
running mean of the indices follows it. k is coded in units of about an eighth of the expected index: adaptive binary
decisions, which learn how far off the expectation is, then plain bits. A sign is sent with an entry's first pick.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from ..forms.successive import AUTHORS
from .order import order_of_step, position_at, rank_of
from .range_coder import DECODE, code_bit, code_number, code_raw

_UNARY = 48  # units beyond which the rest of an index is coded by its length
_STEPS = 6
_RUNS = 8 * _STEPS  # contexts: units, then lengths of runs, then of escapes
_ESCAPES = _RUNS + 2 * 33
PICK_CONTEXTS = _ESCAPES + 64
_FAST, _SLOW = 127, 1023


@njit(cache=True, nogil=True, forceinline=True)
def _code_length(mode, low, width, position, data, model, base, value):
    """A number in [0, 2^31): how long value + 1 is by adaptive decisions, then its bits below the leading one."""
    length = 0
    while length < 31:
        more = 1 if (value + 1) >> (length + 1) else 0
        low, width, position, more = code_bit(
            mode, low, width, position, data, model, base + length, _FAST, _SLOW, more
        )
        if more == 0:
            break
        length += 1
    below = (value + 1) & ((np.int64(1) << length) - 1)
    low, width, position, below = code_number(mode, low, width, position, data, length, below)
    return low, width, position, (np.int64(1) << length) + below - 1


@njit(cache=True, nogil=True)
def _rank(event, step, total, seed):
    return rank_of(abs(np.int64(event)) - 1, order_of_step(seed, step, total)) + 1


@njit(cache=True, nogil=True)
def _run_length(events, start, step, total, rule, seed):
    """Picks before the next refresh; of the authors' last run, as many as S seems to have had, by its indices' mean."""
    end = start
    while end < events.size and events[end] != 0:
        end += 1
    length = np.int64(end - start)
    if end < events.size or rule != AUTHORS or length == 0:
        return length
    # E[k] = n/|S| and |S| = L - j at the j-th pick: the sum of k (L - j) is about n times the number of picks.
    ranks, weighted = np.int64(0), float(0)
    for j in range(length):
        rank = _rank(events[start + j], step + j, total, seed)
        ranks += rank
        weighted += float(rank) * j
    return min(max(length, np.int64((float(length) * total + weighted) / ranks)), total)


@njit(cache=True, nogil=True)
def code_picks(mode, state, data, model, events, total, rule, seed):
    """The events of a successive form; False when what is decoded leaves the vector."""
    low, width, position = state[0], state[1], np.int64(state[2])
    # Which entries were picked, and their signs: open addressing, so that memory is bounded by the events.
    places = 16
    while places < 2 * events.size:
        places *= 2
    seen = np.zeros(places, dtype=np.int32)
    mean = 16 * (np.int64(total) // 8 + 1)  # of the indices, in sixteenths
    refreshes, step, left, e = 0, 0, np.int64(-1), 0
    while e < events.size:
        if left < 0:
            if mode != DECODE:
                left = _run_length(events, e, step, total, rule, seed)
            base = _RUNS + (33 if refreshes % 20 == 0 else 0)
            low, width, position, left = _code_length(mode, low, width, position, data, model, base, left)
            if left > total and rule == AUTHORS:
                return False
        if left == 0:
            events[e] = 0
            refreshes += 1
            left = -1
            e += 1
            continue
        order = order_of_step(seed, step, total)
        rank = np.int64(0)
        if mode != DECODE:
            rank = rank_of(abs(np.int64(events[e])) - 1, order)
        expected = max(np.int64(total) // left if rule == AUTHORS else mean >> 4, 1)
        plain = 0
        while expected >> plain >= 8:
            plain += 1
        base = (expected >> plain) * _STEPS
        units = np.int64(0)
        while units < _UNARY:
            context = base + min(units >> 1, _STEPS - 1)
            more = 1 if rank >> plain > units else 0
            low, width, position, more = code_bit(
                mode, low, width, position, data, model, context, _FAST, _SLOW, more
            )
            if more == 0:
                break
            units += 1
        if units == _UNARY:
            low, width, position, rest = _code_length(
                mode, low, width, position, data, model, _ESCAPES, (rank >> plain) - _UNARY
            )
            units += rest
        low, width, position, below = code_number(
            mode, low, width, position, data, plain, rank & ((np.int64(1) << plain) - 1)
        )
        rank = (units << plain) + below
        if rank >= total or units > total:
            return False
        place = position_at(rank, order) + 1
        slot = (place * 0x9E3779B1 >> 7) & (places - 1)
        while seen[slot] != 0 and abs(np.int64(seen[slot])) != place:
            slot = (slot + 1) & (places - 1)
        if seen[slot] == 0:
            negative = 1 if events[e] < 0 else 0
            low, width, position, negative = code_raw(mode, low, width, position, data, 1, negative)
            seen[slot] = -place if negative else place
        elif mode != DECODE and seen[slot] != events[e]:
            return False
        events[e] = seen[slot]
        mean += ((16 * (rank + 1)) - mean) // min(step + 2, 24)
        step += 1
        left -= 1
        e += 1
        if left == 0 and e == events.size:
            break
    state[0], state[1], state[2] = low, width, np.uint64(position)
    return True
