"""How many entries each weight keeps of a budget over all: the layerwise rules that pruning papers compare with.

counts = keep_counts(weights, keep=0.05, rule="lamp")
plan = {name: Prune(count=count) for name, count in counts.items()}
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from ..errors import ArgumentError, must
from .choose import largest

Rule = Callable[[Sequence[Tensor], int], list[int]]
"""(weights, total) -> for each weight how many of its entries are kept, in sum `total`."""


def keep_counts(weights: Mapping[str, Tensor], keep: float, rule: str = "lamp") -> dict[str, int]:
    """For each weight how many entries it keeps, of the share `keep` of all; in each the largest should be kept.

    Args:
        keep: in [0, 1].
        rule: "uniform" (the same share everywhere), "erk" (density proportional to the sum of the sizes over their
            product; Evci et al. 2020), "global" (one threshold on |w|), "lamp" (one threshold on w_u^2 over the sum of
            all squares no smaller; Lee et al. 2021), "lq" (proportional to d (1 - I) with the sparsity index I for
            p = 1/2 and q = 1, which is (sum |w|^1/2)^2 / sum |w|; Diao et al. 2022).

    >>> import torch
    >>> keep_counts({"a": torch.ones(30, 10), "b": torch.ones(10)}, 0.1, rule="erk")
    {'a': 25, 'b': 6}
    """
    if not 0 <= keep <= 1:
        raise ArgumentError(must("keep_counts(keep=...)", "in [0, 1]", keep))
    if rule not in RULES:
        raise ArgumentError(must("keep_counts(rule=...)", f"one of {', '.join(map(repr, RULES))}", rule))
    total = round(keep * sum(w.numel() for w in weights.values()))
    return dict(zip(weights, RULES[rule]([w.detach() for w in weights.values()], total), strict=True))


def _uniform(weights: Sequence[Tensor], total: int) -> list[int]:
    return _proportional([w.numel() for w in weights], weights, total)


def _erk(weights: Sequence[Tensor], total: int) -> list[int]:
    return _proportional([sum(w.shape) or 1 for w in weights], weights, total)


def _lq(weights: Sequence[Tensor], total: int) -> list[int]:
    # d (1 - I) = d d^(q/p - 1)^-1 ||w||_p / ||w||_q, the number of entries that w seems to have.
    roots = [float(w.double().abs().sqrt().sum()) ** 2 for w in weights]
    sums = [float(w.double().abs().sum()) for w in weights]
    return _proportional(
        [root / total if total else 0.0 for root, total in zip(roots, sums, strict=True)], weights, total
    )


def _global(weights: Sequence[Tensor], total: int) -> list[int]:
    return _by_threshold([w.reshape(-1).double().abs() for w in weights], total)


def _lamp(weights: Sequence[Tensor], total: int) -> list[int]:
    scores = []
    for w in weights:
        square = w.reshape(-1).double().square().sort(descending=True).values
        scores.append((square / square.cumsum(0)).nan_to_num(0.0))
    return _by_threshold(scores, total)


RULES: dict[str, Rule] = {"uniform": _uniform, "erk": _erk, "global": _global, "lamp": _lamp, "lq": _lq}


def _by_threshold(scores: Sequence[Tensor], total: int) -> list[int]:
    if not scores:
        return []
    kept = largest(torch.cat(list(scores)), total)
    ends = torch.tensor([len(score) for score in scores], device=kept.device).cumsum(0)
    return torch.diff(torch.searchsorted(kept, ends), prepend=ends.new_zeros(1)).tolist()


def _proportional(shares: Sequence[float], weights: Sequence[Tensor], total: int) -> list[int]:
    """Counts proportional to the shares, none above its weight's size, rounded by the largest remainder."""
    sizes = [w.numel() for w in weights]
    exact, open_, rest = [0.0] * len(sizes), [i for i, n in enumerate(sizes) if n], total
    while open_:
        weighting = shares if sum(shares[i] for i in open_) > 0 else sizes
        scale = rest / sum(weighting[i] for i in open_)
        full = [i for i in open_ if scale * weighting[i] >= sizes[i]]
        if not full:
            for i in open_:
                exact[i] = scale * weighting[i]
            break
        for i in full:
            exact[i], rest = float(sizes[i]), rest - sizes[i]
        open_ = [i for i in open_ if i not in full]
    counts = [int(x + 1e-9) for x in exact]
    by_remainder = sorted(range(len(sizes)), key=lambda i: counts[i] - exact[i])
    for i in by_remainder:
        if sum(counts) < total and counts[i] < sizes[i]:
            counts[i] += 1
    return counts
