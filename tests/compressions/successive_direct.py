"""Successive pruning as it is written down: S by looking at all n entries for every pick. Slow, and plain."""

import numpy as np

from summands.coding.sequence import new_sequence, position_at


def pick_directly(residual, rule, alpha, seed, most_kept, least_rest):
    """(events without signs, |S| at each event, the reconstruction before each event and at the end)."""
    units, residual, rebuilt = residual, residual.copy(), []
    total = residual.size
    sequence, place = new_sequence(seed, total), 0
    rest, refreshes = total << 32, 0
    threshold = (rest // total) * alpha >> 16
    events, sizes, kept = [], [], set()
    while len(kept) < most_kept and rest > least_rest:
        members = np.count_nonzero(residual > threshold)
        if members == 0:
            refreshes += 1
            if rule == 0 or refreshes % 20 == 0:
                alpha = alpha * 9 // 10
            threshold = min(threshold, (max(rest, 0) // total) * alpha >> 16)
            if threshold == 0 or not residual.any():
                break
            events.append(0)
            sizes.append(0)
            rebuilt.append(units - residual)
            continue
        while residual[position_at(place, sequence)] <= threshold:
            place += 1
        m = position_at(place, sequence)
        place += 1
        rebuilt.append(units - residual)
        residual[m] -= threshold
        rest -= threshold
        kept.add(m)
        events.append(m + 1)
        sizes.append(members)
        mean = max((max(rest, 0) // total) * alpha >> 16, 1)
        decayed = mean if rule == 0 else max(threshold - threshold // max(total, 2), mean)
        threshold = min(threshold, decayed)
    while events and events[-1] == 0:
        events.pop()
        sizes.pop()
    rebuilt = [*rebuilt[: len(events)], units - residual]
    return np.array(events, dtype=np.int32), np.array(sizes, dtype=np.int32), rebuilt
