"""The least total error that a budget buys: one price for a bit (or a FLOP), the same in every task and part.

At a price p every free hyperparameter minimises error + p * bits. Where all of them stand at the same price, no byte
would buy more elsewhere (Everett 1963): the choice is optimal among those of its size. The size falls as the price
rises, so bisection finds the price at which the file just fits. Sizes come in jumps, one for each choice that changes;
what the last jump leaves free is filled weight by weight, best gain per byte first. A jump may be longer than all that
is left, such as that of a large layer from no codebook to one bit a weight: `steadied` gives the tasks in which it is
not taken, so that the other parts can spend the rest, and in which a grid takes a given share of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..coding import estimated_bits
from ..compressions import squared_error
from ..container import measure as measure_file
from ..container import remembered
from ..errors import BudgetError
from ..forms import Form
from ..plan import Task

Forms = dict[str, Form]
Project = Callable[[float], Forms]
"""price -> the forms of every task at this price."""
Measure = Callable[[Mapping[str, Form]], int]
"""forms -> what the network costs that has them and all that is fixed, such as the length of its file."""


def file_bytes(forms: Mapping[str, Form]) -> int:
    """The length of the file that holds these forms."""
    return measure_file(forms).size_bytes


_TRIES = 60
_CLOSE = 1e-4
"""Two prices nearer than this share are one."""
_SAME = 1e-3
"""Sizes that are nearer than this share of the limit, and not equal, lie on one side of a jump."""
_SPAN = 1e15
"""Prices this far on either side of the natural one are as good as infinite and zero."""


@dataclass(frozen=True)
class Limit:
    """The most that a network may cost, and how its cost is counted.

    >>> Limit(60_000).most, Limit(60_000).unit
    (60000, 'bytes')
    """

    most: int
    unit: str = "bytes"
    measure: Measure = file_bytes


@dataclass(frozen=True)
class Allocation:
    """What `allocate` found.

    Attributes:
        forms: by weight.
        price: squared error per bit at which they were chosen; filled tasks were chosen at a lower one.
        size: what the network costs, in the limit's unit; at most the limit.
        beyond: the choice at the next lower price, which costs more than the limit; None where none does.
    """

    forms: Forms
    price: float
    size: int
    beyond: Forms | None = None


def is_free(tasks: Sequence[Task]) -> bool:
    """True when some hyperparameter is left "auto", so that there is something to choose."""
    return any(task.compression.is_free() for task in tasks)


def allocate(
    tasks: Sequence[Task],
    weights: Mapping[str, Tensor],
    project: Project,
    limit: Limit,
    *,
    price: float | None = None,
    slack: float = 0.005,
    importance: Mapping[str, Tensor] | None = None,
    fill: bool = True,
) -> Allocation:
    """The forms of least total squared error, each entry times its importance, that cost at most the limit.

    Exact on the convex hull of what is to be had, within a share `slack` of the limit where sizes are that fine.
    Cost: about a dozen projections and encodings from nothing, two or three from a good `price`.

    Args:
        price: where to start looking, such as the last C step's.
        fill: go on within the share `slack`, weight by weight: two encodings for each of them.

    Raises:
        BudgetError: not even the smallest choice fits; the message states both sizes.
    """
    importance = importance or {}
    scale = sum(_energy(w, importance.get(name)) for name, w in weights.items()) / (8 * max(limit.most, 1)) or 1.0

    def at(p: float) -> Allocation:
        forms = project(p)
        return Allocation(forms, p, limit.measure(forms))

    low, high = _bracket(at, limit, scale if price is None else price, scale)
    if low is None:
        return high
    most = limit.most
    for i in range(_TRIES):
        if high.size >= (1 - slack) * most or high.price <= low.price * (1 + _CLOSE):
            break
        # A straight line finds the limit fast where sizes are fine; halving is sure where they jump.
        middle = at(_between(low, high, (1 - slack / 2) * most) if i % 2 == 0 else math.sqrt(low.price * high.price))
        moved = min(abs(middle.size - end.size) for end in (low, high)) / most
        close = high.price <= low.price * (1 + slack)
        low, high = (low, middle) if middle.size <= most else (middle, high)
        if close and 0 < moved < _SAME:
            break  # a jump between sizes that wander by some bytes, as those of levels priced one by one do
    if not fill and high.size >= (1 - slack) * most:
        return high
    with remembered():
        return _filled(tasks, weights, low, high, limit, importance)


def _bracket(
    at: Callable[[float], Allocation], limit: Limit, start: float, scale: float
) -> tuple[Allocation | None, Allocation]:
    """An allocation that is too large and one that fits; None for the first when even a price of zero fits."""
    here = at(start)
    step = 1.5
    if here.size <= limit.most:
        high = here
        while high.price > scale / _SPAN:
            low = at(high.price / step)
            if low.size > limit.most:
                return low, high
            high, step = low, step**2
        return None, high
    low = here
    while low.price < scale * _SPAN:
        high = at(low.price * step)
        if high.size <= limit.most:
            return low, high
        low, step = high, step**2
    raise BudgetError(
        f"the budget is {limit.most:,} {limit.unit}, but the smallest that the plan allows has {low.size:,}; "
        'leave more hyperparameters "auto", or raise the budget'
    )


def _between(low: Allocation, high: Allocation, aim: float) -> float:
    """A price between two, where a straight line through log size over log price meets the size `aim`."""
    a, b = math.log(low.price), math.log(high.price)
    drop = math.log((low.size + 1) / (high.size + 1))  # nothing at all may cost nothing
    share = math.log((low.size + 1) / (aim + 1)) / drop if drop > 0 else 0.5
    # Kept off the ends, so that the bracket shrinks at least by a tenth.
    return math.exp(a + min(max(share, 0.1), 0.9) * (b - a))


def _filled(
    tasks: Sequence[Task],
    weights: Mapping[str, Tensor],
    low: Allocation,
    high: Allocation,
    limit: Limit,
    importance: Mapping[str, Tensor],
) -> Allocation:
    """`high` with single weights exchanged for their forms in `low`, as long as it fits."""
    best = high
    gains = _gains(tasks, weights, low.forms, high.forms, limit.measure, importance)
    for _, names in sorted(gains, key=lambda item: -item[0]):
        forms = {**best.forms, **{name: low.forms[name] for name in names}}
        size = limit.measure(forms)
        if size <= limit.most:
            best = Allocation(forms, high.price, size)
    return replace(best, beyond=low.forms)


def steadied(tasks: Sequence[Task], found: Allocation, room: int) -> list[Task] | None:
    """The tasks with whatever jumps by more than `room` bytes to `found.beyond` kept from it; None if nothing can be.

    Those that jump have equal shares of the room, but for half a per cent, since bits are estimates. See
    `Compression.without_jumps`.
    """
    if found.beyond is None:
        return None
    pieces = [(task, names) for task in tasks for names in task.pieces()]
    grown = [_bits(found.beyond[n] for n in names) - _bits(found.forms[n] for n in names) for _, names in pieces]
    share = 0.995 * 8 * room / max(sum(more > 8 * room for more in grown), 1)
    kept: list[Task] = []
    changed = False
    for (task, names), more in zip(pieces, grown, strict=True):
        rule = task.compression
        if more > 8 * room:
            now, beyond = ({name: forms[name] for name in names} for forms in (found.forms, found.beyond))
            rule = rule.without_jumps(now, beyond, share)
        changed |= rule is not task.compression
        kept.append(Task(task.name if names == task.weights else names[0], names, rule))
    return kept if changed else None


def _bits(forms: Iterable[Form]) -> float:
    return sum(estimated_bits(form) for form in forms)


def _gains(
    tasks: Sequence[Task],
    weights: Mapping[str, Tensor],
    low: Forms,
    high: Forms,
    measure: Measure,
    importance: Mapping[str, Tensor],
) -> list[tuple[float, tuple[str, ...]]]:
    """For all weights that gain by their forms in `low`: squared error saved per unit of cost."""

    def error(name: str, form: Form) -> float:
        return squared_error(weights[name], form, importance.get(name))

    base = measure(high)
    gains = []
    for names in (names for task in tasks for names in task.pieces()):
        saved = sum(error(n, high[n]) - error(n, low[n]) for n in names)
        more = measure({**high, **{name: low[name] for name in names}}) - base
        if saved > 0:
            gains.append((saved / max(more, 1), names))
    return gains


def _energy(weight: Tensor, importance: Tensor | None) -> float:
    square = weight.to(torch.float64) ** 2
    return float((square if importance is None else square * importance.to(torch.float64)).sum())
