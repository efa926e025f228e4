"""The least total error that a budget buys: one price for a bit, the same in every task and part.

At a price p every free hyperparameter minimises error + p * bits. Where all of them stand at the same price, no byte
would buy more elsewhere (Everett 1963): the choice is optimal among those of its size. The size falls as the price
rises, so bisection finds the price at which the file just fits. Sizes come in jumps, one for each choice that changes;
what the last jump leaves free is filled task by task, best gain per byte first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from ..compressions import squared_error
from ..errors import BudgetError
from ..forms import Form
from ..plan import Task

Forms = dict[str, Form]
Project = Callable[[float], Forms]
"""price -> the forms of every task at this price."""
Measure = Callable[[Mapping[str, Form]], int]
"""forms -> the length of the file that holds them and all that is fixed."""

_TRIES = 60
_CLOSE = 1e-4
"""Two prices nearer than this share are one."""
_SPAN = 1e15
"""Prices this far on either side of the natural one are as good as infinite and zero."""


@dataclass(frozen=True)
class Allocation:
    """What `allocate` found.

    Attributes:
        forms: by weight.
        price: squared error per bit at which they were chosen; filled tasks were chosen at a lower one.
        size_bytes: of the whole file; at most the limit.
    """

    forms: Forms
    price: float
    size_bytes: int


def is_free(tasks: Sequence[Task]) -> bool:
    """True when some hyperparameter is left "auto", so that there is something to choose."""
    return any(value == "auto" for task in tasks for part in task.compression.parts() for value in vars(part).values())


def allocate(
    tasks: Sequence[Task],
    weights: Mapping[str, Tensor],
    project: Project,
    measure: Measure,
    limit: int,
    *,
    price: float | None = None,
    slack: float = 0.005,
) -> Allocation:
    """The forms of least total squared error whose file has at most `limit` bytes.

    Exact on the convex hull of what is to be had, within a share `slack` of the limit where sizes are that fine.
    Cost: about a dozen projections and encodings from nothing, two or three from a good `price`.

    Args:
        price: where to start looking, such as the last C step's.

    Raises:
        BudgetError: not even the smallest file fits; the message states both sizes.
    """
    scale = sum(float(w.double().square().sum()) for w in weights.values()) / (8 * limit) or 1.0
    tried: dict[float, Allocation] = {}

    def at(p: float) -> Allocation:
        if p not in tried:
            forms = project(p)
            tried[p] = Allocation(forms, p, measure(forms))
        return tried[p]

    low, high = _bracket(at, limit, scale if price is None else price, scale)
    if low is None:
        return high
    for i in range(_TRIES):
        if high.size_bytes >= (1 - slack) * limit or high.price <= low.price * (1 + _CLOSE):
            break
        # A straight line finds the limit fast where sizes are fine; halving is sure where they jump.
        middle = at(_between(low, high, limit) if i % 2 == 0 else math.sqrt(low.price * high.price))
        low, high = (low, middle) if middle.size_bytes <= limit else (middle, high)
    return _filled(tasks, weights, low, high, measure, limit)


def _bracket(
    at: Callable[[float], Allocation], limit: int, start: float, scale: float
) -> tuple[Allocation | None, Allocation]:
    """An allocation that is too large and one that fits; None for the first when even a price of zero fits."""
    here = at(start)
    step = 1.5
    if here.size_bytes <= limit:
        high = here
        while high.price > scale / _SPAN:
            low = at(high.price / step)
            if low.size_bytes > limit:
                return low, high
            high, step = low, step**2
        return None, high
    low = here
    while low.price < scale * _SPAN:
        high = at(low.price * step)
        if high.size_bytes <= limit:
            return low, high
        low, step = high, step**2
    raise BudgetError(
        f"the budget is {limit:,} bytes, but the smallest file that the plan allows has {low.size_bytes:,}; "
        'leave more hyperparameters "auto", or raise the budget'
    )


def _between(low: Allocation, high: Allocation, limit: int) -> float:
    """A price between two, where a straight line through log size over log price meets just under the limit."""
    a, b = math.log(low.price), math.log(high.price)
    drop = math.log(low.size_bytes / high.size_bytes)
    share = math.log(low.size_bytes / (0.9975 * limit)) / drop if drop > 0 else 0.5
    # Kept off the ends, so that the bracket shrinks at least by a tenth.
    return math.exp(a + min(max(share, 0.1), 0.9) * (b - a))


def _filled(
    tasks: Sequence[Task],
    weights: Mapping[str, Tensor],
    low: Allocation,
    high: Allocation,
    measure: Measure,
    limit: int,
) -> Allocation:
    """`high` with single tasks exchanged for their forms in `low`, as long as the file fits."""
    best = high
    gains = _gains(tasks, weights, low.forms, high.forms, measure)
    for _, task in sorted(gains, key=lambda item: -item[0]):
        forms = {**best.forms, **{name: low.forms[name] for name in task.weights}}
        size = measure(forms)
        if size <= limit:
            best = Allocation(forms, high.price, size)
    return best


def _gains(
    tasks: Sequence[Task], weights: Mapping[str, Tensor], low: Forms, high: Forms, measure: Measure
) -> list[tuple[float, Task]]:
    """For every task that gains by its forms in `low`: squared error saved per byte of the file."""
    base = measure(high)
    gains = []
    for task in tasks:
        saved = sum(squared_error(weights[n], high[n]) - squared_error(weights[n], low[n]) for n in task.weights)
        more = measure({**high, **{name: low[name] for name in task.weights}}) - base
        if saved > 0:
            gains.append((saved / max(more, 1), task))
    return gains
