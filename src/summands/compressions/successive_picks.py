"""The picks of successive pruning: the members of S = {i : U_i > T}, each at its next place in the shared sequence.

Every pick is uniform over S, as the draws of the sequence are independent; O(log n). The threshold never rises, so an
entry enters S once between two of its picks: entries never picked wait in descending order, the others in a heap, and
the members stand in a heap by their next places.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from ..coding.sequence import new_sequence, next_place
from ..forms.successive import first_threshold, next_threshold, refreshed

_LN2 = np.log(2.0)


@njit(cache=True, nogil=True)
def _push(keys, entries, count, key, entry):
    """Adds to a heap of (key, entry), the least key on top."""
    i = count
    while i > 0 and keys[(i - 1) // 2] > key:
        keys[i], entries[i] = keys[(i - 1) // 2], entries[(i - 1) // 2]
        i = (i - 1) // 2
    keys[i], entries[i] = key, entry


@njit(cache=True, nogil=True)
def _pop(keys, entries, count):
    """Removes the top of a heap of `count`."""
    count -= 1
    key, entry, i = keys[count], entries[count], 0
    while 2 * i + 1 < count:
        child = 2 * i + 1
        if child + 1 < count and keys[child + 1] < keys[child]:
            child += 1
        if keys[child] >= key:
            break
        keys[i], entries[i] = keys[child], entries[child]
        i = child
    keys[i], entries[i] = key, entry


@njit(cache=True, nogil=True)
def _grown(array):
    longer = np.empty(2 * array.size, dtype=array.dtype)
    longer[: array.size] = array
    return longer


@njit(cache=True, nogil=True)
def index_bits(size, total):
    """The entropy of a geometric index with mean total / size."""
    if size >= total:
        return 0.0
    p = size / total
    return -(np.log(p) + (1 - p) / p * np.log1p(-p)) / _LN2


@njit(cache=True, nogil=True)
def pick_all(residual, descending, rule, alpha, seed, most_kept, least_rest, most_bits):
    """(events without signs, |S| at each event) until a limit is reached or nothing exceeds any threshold.

    Args:
        residual: magnitudes in units, changed to what is left of them.
        descending: the positions by decreasing magnitude.
        most_kept: stops when so many entries were picked,
        least_rest: or when the residuals sum to this or less,
        most_bits: or when the indices' entropies and a bit for each sign reach this.
    """
    total = np.int64(residual.size)
    events, sizes, count = np.empty(1024, dtype=np.int32), np.empty(1024, dtype=np.int32), 0
    picked = np.zeros(total, dtype=np.bool_)
    places, members, inside = np.empty(1024, dtype=np.int64), np.empty(1024, dtype=np.int32), 0
    below, waiting, outside = np.empty(1024, dtype=np.int64), np.empty(1024, dtype=np.int32), 0
    sequence, place = new_sequence(seed, total), np.int64(0)
    rest = total << 32
    threshold = first_threshold(alpha, total)
    upcoming, kept, refreshes, last, spent = np.int64(0), 0, 0, 0, 0.0
    while kept < most_kept and rest > least_rest and spent < most_bits:
        while True:
            if upcoming < total and residual[descending[upcoming]] > threshold:
                entering = np.int64(descending[upcoming])
                upcoming += 1
            elif outside > 0 and -below[0] > threshold:
                entering = np.int64(waiting[0])
                _pop(below, waiting, outside)
                outside -= 1
            else:
                break
            if inside == members.size:
                places, members = _grown(places), _grown(members)
            _push(places, members, inside, next_place(entering, place, sequence), entering)
            inside += 1
        if count == events.size:
            events, sizes = _grown(events), _grown(sizes)
        sizes[count] = inside
        if inside == 0:
            most = -below[0] if outside else np.int64(0)
            if upcoming < total:
                most = max(most, residual[descending[upcoming]])
            refreshes += 1
            threshold, alpha = refreshed(rule, threshold, alpha, rest, total, refreshes)
            if most == 0 or threshold == 0:
                break
            events[count] = 0
            count += 1
            continue
        m, place = np.int64(members[0]), places[0] + 1
        _pop(places, members, inside)
        inside -= 1
        spent += index_bits(sizes[count], total)
        events[count] = m + 1
        count += 1
        last = count
        if not picked[m]:
            picked[m] = True
            kept += 1
            spent += 1.0
        residual[m] -= threshold
        rest -= threshold
        threshold = next_threshold(rule, threshold, alpha, rest, total)
        if residual[m] > threshold:
            _push(places, members, inside, next_place(m, place, sequence), m)
            inside += 1
        else:
            if outside == waiting.size:
                below, waiting = _grown(below), _grown(waiting)
            _push(below, waiting, outside, -residual[m], m)
            outside += 1
    return events[:last], sizes[:last]
