"""Which units to keep: so many, of so much total size, or as many as a price allows. Ties go to the first."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_TABLE = 10_000_000
"""The largest table of the exact knapsack; beyond it the greedy solution on the hull is taken."""


def largest(score: Tensor, count: int) -> Tensor:
    """The positions, increasing, of the `count` largest of a vector of scores; of equal scores the first ones. O(N)."""
    size = score.numel()
    if count <= 0:
        return torch.empty(0, dtype=torch.int64, device=score.device)
    if count >= size:
        return torch.arange(size, device=score.device)
    if score.dtype in (torch.float16, torch.bfloat16):
        score = score.float()
    if score.device.type == "cpu":  # NumPy's selection is several times faster than torch's, on the same memory
        threshold = float(np.partition(score.numpy(), size - count)[size - count])
    else:
        threshold = float(score.kthvalue(size - count + 1).values)
    kept = score > threshold
    level = (score == threshold).nonzero().reshape(-1)
    kept[level[: count - int(kept.count_nonzero())]] = True
    return kept.nonzero().reshape(-1)


def most_valuable(gain: Tensor, sizes: Tensor, limit: int) -> Tensor:
    """The units of largest total gain whose sizes sum to at most `limit`, increasing: a knapsack.

    With equal sizes the largest gains. Otherwise exact by dynamic programming over the capacity in units of the sizes'
    greatest common divisor, while the table has at most 1e7 cells; beyond that by gain per entry, skipping what
    no longer fits (the point on the hull, then filled).
    """
    if not gain.numel():
        return torch.empty(0, dtype=torch.int64, device=gain.device)
    least, most = int(sizes.min()), int(sizes.max())
    if least == most:
        return largest(gain, limit // most if most else 0)
    value, weight = gain.cpu().numpy(), sizes.cpu().numpy()
    step = int(np.gcd.reduce(weight))
    weight = weight // step
    capacity = min(limit // step, int(weight.sum()))
    exact = len(value) * (capacity + 1) <= _TABLE
    chosen = _by_table(value, weight, capacity) if exact else _by_ratio(value, weight, capacity)
    return torch.from_numpy(chosen).to(gain.device)


def _by_table(value: np.ndarray, weight: np.ndarray, capacity: int) -> np.ndarray:
    best = np.zeros(capacity + 1)
    taken = np.zeros((len(value), capacity + 1), dtype=bool)
    for i, (gain, size) in enumerate(zip(value, weight, strict=True)):
        if size <= capacity:
            with_it = best[: capacity + 1 - size] + gain
            taken[i, size:] = with_it > best[size:]
            best[size:] = np.maximum(best[size:], with_it)
    chosen, room = [], capacity
    for i in reversed(range(len(value))):
        if taken[i, room]:
            chosen.append(i)
            room -= weight[i]
    return np.array(chosen[::-1], dtype=np.int64)


def _by_ratio(value: np.ndarray, weight: np.ndarray, capacity: int) -> np.ndarray:
    chosen = []
    for i in np.argsort(-value / np.maximum(weight, 1), kind="stable"):
        if weight[i] <= capacity:
            chosen.append(i)
            capacity -= weight[i]
    return np.sort(np.array(chosen, dtype=np.int64))


def worth_their_bits(gain: Tensor, sizes: Tensor, price: float, value_bits: float) -> Tensor:
    """The units, increasing, that minimise lost gain + price * (position bits + value_bits * size), exactly.

    The position bits of k out of n units, `position_bits(k, n)`, depend on k alone, so for every k the best are the
    k largest of gain - price * value_bits * size; all k are compared. O(N log N). A unit of size 0 is never chosen.
    """
    net = (gain - price * value_bits * sizes).where(sizes > 0, -torch.inf)
    usable = int((sizes > 0).count_nonzero())
    # NumPy sorts faster than torch, on the same memory.
    rising = torch.from_numpy(np.sort(net.numpy())) if net.device.type == "cpu" else net.sort().values
    saved = torch.cat([net.new_zeros(1), rising[len(net) - usable :].flip(0).cumsum(0)])
    kept = torch.arange(usable + 1, dtype=torch.float64, device=gain.device)
    best = int((price * position_bits(kept, gain.numel()) - saved).argmin())
    return largest(net, best)


def position_bits(kept: Tensor, size: int) -> Tensor:
    """n H2(k/n): bits that say which k of n units are kept, with the density known."""
    rest = size - kept
    return (torch.special.xlogy(size, torch.as_tensor(max(size, 1)).to(kept)) - torch.xlogy(kept, kept)
            - torch.xlogy(rest, rest)) / np.log(2)  # fmt: skip
