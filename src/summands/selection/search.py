"""Which combination for this network? The runs to make, the front of those made, and when a run is hopeless.

Every run is one combination at one budget, independent of all others. Nothing here trains or starts a process.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from ..domain import Domain, Tensors
from ..errors import ArgumentError, must, near
from ..network import state_tensors
from ..plan import Plan, default_plan
from ..records import RunRecord
from .budget import Budget

_Q = 'Quantize("auto", dtype="float16")'
_P = 'Prune("auto", dtype="float16")'
_L = 'LowRank("auto", view="auto", dtype="float16")'
_V = 'LowRank("auto", view="any", dtype="float16")'

COMBINATIONS: dict[str, str] = {
    "Q": _Q,
    "P": _P,
    "L": _L,
    "Q + P": f"{_Q} + {_P}",
    "L + P": f"{_L} + {_P}",
    "Q + L": f"{_Q} + {_L}",
    "Q + L + P": f"{_Q} + {_L} + {_P}",
    "L + L": f"{_V} + {_V}",
    "Auto": "Auto()",
}
"""Name to the text of a compression, all hyperparameters "auto": the budget sets them by one price. Q is a codebook, P
pruning, L low rank; the two views of "L + L" are chosen among all that a weight's shape has."""


@dataclass(frozen=True)
class Trial:
    """A run to be made: a combination at a budget.

    Attributes:
        limit: the most bytes that the file may have.
        plan: what each weight gets, as `Plan.to_dict` has it.
        options: whatever else decides the outcome (schedule, seed), as plain values.
    """

    combination: str
    budget: str
    limit: int
    plan: Mapping[str, Any]
    options: Mapping[str, Any]

    @property
    def id(self) -> str:
        """A name fit for a folder, and another one as soon as anything differs that decides the outcome."""
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()
        name = re.sub(r"[^A-Za-z0-9.+_-]", "", f"{self.combination}-{self.budget}")
        return f"{name[:60]}-{digest[:8]}"


@dataclass(frozen=True)
class Patience:
    """When to stop a run that others have overtaken.

    A run is stopped once it has taken `share` of its steps if a finished file, no larger than this run's best, has an
    error lower by more than `margin` of its own, and the last quarter of its iterates within the budget brought no
    error lower than those before. It never touches a run that still improves, or whose budget still tightens; what it
    stops might have recovered all the same, which is why a stopped run is marked as such, and goes on from where it
    stood when a search has no patience.

    Args:
        share: in (0, 1].
        margin: relative, at least 0: with 0.25 an error of 1.26 % is overtaken by one of 1.00 %.
    """

    share: float = 0.5
    margin: float = 0.25

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ArgumentError(must("Patience(share=...)", "in (0, 1]", self.share))
        if not self.margin >= 0:
            raise ArgumentError(must("Patience(margin=...)", "at least 0", self.margin))

    def overtaken_by(self, run: RunRecord, others: Iterable[RunRecord]) -> RunRecord | None:
        """The finished run that makes this one hopeless, if there is one."""
        within = [row for row in run.history if row.size_bytes <= run.limit]
        errors = [row.error for row in within if row.phase != "reference" and row.error is not None]
        taken = sum(row.phase in ("lc", "finetune") for row in run.history)
        if taken < self.share * run.total or not errors or run.error is None or run.size_bytes is None:
            return None
        if within[-1] is not run.history[-1]:
            return None
        last = max(1, len(errors) // 4)
        if min(errors[-last:]) < min(errors[:-last], default=math.inf):
            return None
        for other in others:
            if other.status != "finished" or other.error is None or other.size_bytes is None:
                continue
            if other.size_bytes <= run.size_bytes and other.error * (1 + self.margin) < run.error:
                return other
        return None


def trials(
    tensors: Tensors,
    budgets: Sequence[str],
    combinations: Mapping[str, str],
    *,
    ignore: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
) -> list[Trial]:
    """Every combination at every budget, budget by budget.

    Matrices and kernels get the combination, each weight by itself; all other tensors what `default_plan` gives them.

    Args:
        combinations: name to the text of a compression.
        ignore: patterns of weights to keep exactly.

    Raises:
        BudgetError: a budget has no meaning. PlanError: a text or pattern has none.
    """
    reference_bytes, entries = _sizes(tensors)
    plans = {name: plan_of(tensors, text, ignore).to_dict() for name, text in combinations.items()}
    limits = {budget: Budget.of(budget).limit(reference_bytes, entries) for budget in budgets}
    return [
        Trial(name, budget, limit, plans[name], options or {}) for budget, limit in limits.items() for name in plans
    ]


def plan_of(tensors: Tensors, text: str, ignore: Sequence[str] = ()) -> Plan:
    """The plan that gives every matrix and kernel of a network this compression, and the rest what is safe."""
    domain, cautious = Domain(tensors), default_plan(tensors)
    ignored = {entry.name for pattern in ignore for entry in domain.find(pattern)}
    weights: dict[str, Any] = {}
    exact = []
    for entry in domain.entries:
        if entry.kept is not None or entry.name in ignored:
            continue
        if entry.tensor.ndim >= 2:
            weights[entry.name] = text
        elif entry.name in cautious.weights:
            weights[entry.name] = cautious.weights[entry.name]
        else:
            exact.append(entry.name)
    return Plan(weights, [*ignore, *exact])


def default_budgets(tensors: Tensors) -> list[str]:
    """Ratios from 4 bits a weight down by halves to 1/4, as far as the tensors that no combination touches allow.

    >>> import torch
    >>> default_budgets(torch.nn.Linear(784, 300))
    ['8x', '16x', '32x', '64x', '128x']
    """
    reference_bytes, entries = _sizes(tensors)
    rest = sum(e.tensor.nbytes for e in Domain(tensors).entries if e.kept is not None or e.tensor.ndim < 2)
    width = 8 * reference_bytes / max(entries, 1)
    ratios = [width / bits for bits in (4, 2, 1, 0.5, 0.25)]
    return [f"{ratio:.3g}x" for ratio in ratios if reference_bytes / ratio > 2 * rest] or ["4x"]


def chosen_combinations(wanted: Sequence[str]) -> dict[str, str]:
    """Name to text for names of COMBINATIONS (blanks do not matter), or for compressions of the user's own.

    >>> chosen_combinations(["Q+P", "tiny=Quantize(2)"])["tiny"]
    'Quantize(2)'
    """
    if not wanted:
        return dict(COMBINATIONS)
    known = {_plain(name): name for name in COMBINATIONS}
    chosen: dict[str, str] = {}
    allowed = f"one of {', '.join(map(repr, COMBINATIONS))}, or NAME=Compression(...)"
    for text in wanted:
        name, equals, compression = text.partition("=")
        if equals and "(" not in name:
            name = name.strip()
        elif "(" in text:
            name, compression = text, text
        elif _plain(text) in known:
            name = known[_plain(text)]
            compression = COMBINATIONS[name]
        else:
            raise ArgumentError(must("a combination", allowed, text, near(text, COMBINATIONS)))
        if not name:
            raise ArgumentError(must("a combination", allowed, text))
        if chosen.setdefault(name, compression.strip()) != compression.strip():
            raise ArgumentError(must("the name of a combination", "one for each compression", f"{name!r} twice"))
    return chosen


def _plain(name: str) -> str:
    return name.replace(" ", "").lower()


def front(runs: Iterable[RunRecord]) -> list[RunRecord]:
    """The runs whose files no other beats: none is at most as large with a lower error, or smaller with at most its.

    By size. Runs without a file or an error take no part. Of several with equal size and error the first counts.
    """
    measured = [
        (run.size_bytes, run.error, run)
        for run in runs
        if run.status == "finished" and run.size_bytes is not None and run.error is not None
    ]
    best, found = math.inf, []
    for _, error, run in sorted(measured, key=lambda each: each[:2]):
        if error < best:
            best = error
            found.append(run)
    return found


def _sizes(tensors: Tensors) -> tuple[int, int]:
    """(bytes, entries) of all tensors of the network, by which ratios and bits a weight are meant."""
    state = state_tensors(tensors) if isinstance(tensors, nn.Module) else tensors
    return sum(t.nbytes for t in state.values()), sum(t.numel() for t in state.values())
