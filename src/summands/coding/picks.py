"""The stream of successive pruning: runs of picks between refreshes, distances in a shared sequence, signs.

The index k of a pick is its distance from the last one in the sequence, geometric with mean n/|S|, and |S| is the
encoder's alone. The model follows it: S is drawn down to nothing between two refreshes, so the length of a run, which
is sent before it, says about how much of S is left at every pick. k is coded in units of about a sixth of the index so
expected: adaptive binary decisions, which learn how far off the expectation is, then plain bits. A sign is sent with
an entry's first pick.

A later piece of a sequence goes on where the one before ended: both ends run the events that they know through the
models first, and only a new run's length stands at the cut.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from .range_coder import DECODE, LEAN, MEASURE, code_bit, code_number, code_raw
from .sequence import new_sequence, next_place, position_at

_FARTHEST = 64  # epochs: no pick of an encoder is so far from the last one, with probability e^-64
_UNARY = 48  # units beyond which the rest of an index is coded by its length
_STEPS = 6
_RUNS = 8 * _STEPS  # contexts: units, then lengths of runs, then of escapes
_ESCAPES = _RUNS + 2 * 33
PICK_CONTEXTS = _ESCAPES + 64
_FAST, _SLOW = 127, 1023


@njit(**LEAN, forceinline=True)
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
def _run_length(events, start, stop, place, sequence):
    """Picks before the next refresh; of the last run, as many as S seems to have had, by the mean of its indices."""
    end = start
    while end < stop and events[end] != 0:
        end += 1
    length = np.int64(end - start)
    if end < stop or length == 0:
        return length
    # E[k] = n/|S| and |S| = L - j at the j-th pick: the sum of k (L - j) is about n times the number of picks.
    total, indices, weighted = sequence[1], np.int64(0), float(0)
    for j in range(length):
        there = next_place(abs(np.int64(events[start + j])) - 1, place, sequence)
        indices += there - place + 1
        weighted += float(there - place + 1) * j
        place = there + 1
    return max(length, min(np.int64((float(length) * total + weighted) / indices), total))


@njit(cache=True, nogil=True)
def code_picks(mode, state, data, model, events, known, total, seed):
    """The events from number `known` on of a successive form, of which both ends know those before.

    False when they are impossible: a pick too far away, an entry with two signs.
    """
    low, width, position = state[0], state[1], np.int64(0)
    # Which entries were picked, and their signs: open addressing, so that memory is bounded by the events.
    places = np.int64(16)
    while places < 2 * events.size:
        places *= 2
    seen = np.zeros(places, dtype=np.int32)
    sequence, place = new_sequence(seed, total), np.int64(0)
    refreshes, left, e, stop, coded = 0, np.int64(-1), 0, known, mode
    mode = MEASURE
    while e < events.size:
        if e == known:
            low, width, position = state[0], state[1], np.int64(state[2])
            mode, stop, left = coded, events.size, np.int64(-1)
        if left < 0:
            if mode != DECODE:
                left = _run_length(events, e, stop, place, sequence)
            runs = _RUNS + (33 if refreshes % 20 == 0 else 0)
            low, width, position, left = _code_length(mode, low, width, position, data, model, runs, left)
        if left == 0:
            events[e] = 0
            refreshes += 1
            left = np.int64(-1)
            e += 1
            continue
        index = np.int64(0)
        if mode != DECODE:
            index = next_place(abs(np.int64(events[e])) - 1, place, sequence) - place
        expected = np.int64(total) // left if left < total else np.int64(1)
        plain = 0
        while expected >> plain >= 8:
            plain += 1
        base = (expected >> plain) * _STEPS
        units = np.int64(0)
        while units < _UNARY:
            context = base + (units >> 1 if units < 2 * _STEPS else _STEPS - 1)
            more = 1 if index >> plain > units else 0
            low, width, position, more = code_bit(mode, low, width, position, data, model, context, _FAST, _SLOW, more)
            if more == 0:
                break
            units += 1
        if units == _UNARY:
            low, width, position, rest = _code_length(
                mode, low, width, position, data, model, _ESCAPES, (index >> plain) - _UNARY
            )
            units += rest
        if units << plain >= _FARTHEST * sequence[2]:
            return False
        low, width, position, below = code_number(
            mode, low, width, position, data, plain, index & ((np.int64(1) << plain) - 1)
        )
        index = (units << plain) + below
        place += index + 1
        entry = position_at(place - 1, sequence) + 1
        slot = (entry * 0x9E3779B1 >> 7) & (places - 1)
        while seen[slot] != 0 and abs(np.int64(seen[slot])) != entry:
            slot = (slot + 1) & (places - 1)
        if seen[slot] == 0:
            negative = 1 if events[e] < 0 else 0
            low, width, position, negative = code_raw(mode, low, width, position, data, 1, negative)
            seen[slot] = -entry if negative else entry
        elif mode != DECODE and seen[slot] != events[e]:
            return False
        events[e] = seen[slot]
        left -= 1
        e += 1
    state[0], state[1], state[2] = low, width, np.uint64(position)
    return True
