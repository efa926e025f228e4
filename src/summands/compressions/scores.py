"""Which entries of several weights are kept, of a budget over all: the rules that pruning papers compare with.

positions = kept_positions(weights, keep=0.05, rule="lamp")
counts = keep_counts(weights, keep=0.05, rule="lamp")
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from ..errors import ArgumentError, must
from ..forms import Successive as SuccessiveForm
from .choose import largest
from .successive import Successive

Rule = Callable[[Sequence[Tensor], int], list[Tensor]]
"""(weights, total) -> for each weight the positions that it keeps, increasing, in sum `total`."""
Share = Callable[[Sequence[Tensor], int], list[int]]
"""(weights, total) -> how many each weight keeps: its largest."""


def kept_positions(weights: Mapping[str, Tensor], keep: float, rule: str = "lamp") -> dict[str, Tensor]:
    """For each weight the flat positions of the entries that it keeps, increasing: the share `keep` of all entries.

    Works in host memory, and the positions are there.

    Args:
        keep: in [0, 1].
        rule: "uniform" (the same share everywhere), "erk" (density proportional to the sum of the sizes over their
            product; Evci et al. 2020), "global" (one threshold on |w|), "lamp" (one threshold on w_u^2 over the sum of
            all squares no smaller; Lee et al. 2021), "lq" (proportional to d (1 - I) with the sparsity index I for
            p = 1/2 and q = 1, which is (sum |w|^1/2)^2 / sum |w|; Diao et al. 2022): these keep the largest entries
            of each weight. "surp-paper" and "surp-authors" keep what `Successive` picks first (seed 0) in all weights
            together, each normalised by its L1 or L2 norm; Isik et al. 2022. If there is too little to pick, the
            largest of the others are added.

    >>> import torch
    >>> kept_positions({"a": torch.tensor([3.0, 0.1, -2.0]), "b": torch.tensor([1.0])}, 0.5, rule="global")
    {'a': tensor([0, 2]), 'b': tensor([], dtype=torch.int64)}
    """
    if isinstance(keep, bool) or not isinstance(keep, int | float) or not 0 <= keep <= 1:
        raise ArgumentError(must("keep", "in [0, 1]", keep))
    check_rule("kept_positions", rule)
    total = round(keep * sum(w.numel() for w in weights.values()))
    return dict(zip(weights, RULES[rule]([w.detach().cpu() for w in weights.values()], total), strict=True))


def keep_counts(weights: Mapping[str, Tensor], keep: float, rule: str = "lamp") -> dict[str, int]:
    """For each weight how many entries `kept_positions` keeps.

    >>> import torch
    >>> keep_counts({"a": torch.ones(30, 10), "b": torch.ones(10)}, 0.1, rule="erk")
    {'a': 25, 'b': 6}
    """
    return {name: positions.numel() for name, positions in kept_positions(weights, keep, rule).items()}


def check_rule(owner: str, rule: str) -> None:
    """ArgumentError unless `rule` is one of RULES."""
    if rule not in RULES:
        raise ArgumentError(must(f"{owner}(rule=...)", f"one of {', '.join(map(repr, RULES))}", rule))


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


def _largest(share: Share) -> Rule:
    """The largest entries of each weight, as many as its share."""

    def keep(weights: Sequence[Tensor], total: int) -> list[Tensor]:
        return [largest(w.reshape(-1).abs(), k) for w, k in zip(weights, share(weights, total), strict=True)]

    return keep


def _picked(mode: str) -> Rule:
    """The first entries that successive pruning picks in all weights together."""

    def keep(weights: Sequence[Tensor], total: int) -> list[Tensor]:
        size = sum(w.numel() for w in weights)
        if not total:
            return _largest(_uniform)(weights, 0)
        present = {str(i): w for i, w in enumerate(weights) if w.numel()}
        picks = Successive(1 - total / size, mode=mode, per="task")  # type: ignore[arg-type]
        form = next(iter(picks.project_task(present).values()))
        assert isinstance(form, SuccessiveForm)
        magnitudes = torch.cat([w.reshape(-1).double().abs() for w in weights])
        magnitudes[form.events[form.events != 0].abs().to(torch.int64) - 1] = torch.inf
        return _cut(largest(magnitudes, total), weights)

    return keep


RULES: dict[str, Rule] = {
    "uniform": _largest(_uniform),
    "erk": _largest(_erk),
    "global": _largest(_global),
    "lamp": _largest(_lamp),
    "lq": _largest(_lq),
    "surp-paper": _picked("paper"),
    "surp-authors": _picked("authors"),
}


def _by_threshold(scores: Sequence[Tensor], total: int) -> list[int]:
    return [len(part) for part in _cut(largest(torch.cat(list(scores)), total), scores)] if scores else []


def _cut(positions: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
    """Increasing positions in the vector that joins the weights, as positions in each."""
    sizes = torch.tensor([w.numel() for w in weights])
    ends = sizes.cumsum(0)
    counts = torch.diff(torch.searchsorted(positions, ends), prepend=ends.new_zeros(1)).tolist()
    starts = (ends - sizes).tolist()
    return [part - start for part, start in zip(positions.split(counts), starts, strict=True)]


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
