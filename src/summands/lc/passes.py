"""Passes over all tasks or all batches: the C step, and the statistics of BatchNorm."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..compressions import squared_error
from ..errors import ArgumentError, BudgetError, in_context, must
from ..forms import Form
from ..network import feed
from ..plan import Task
from ..selection import Allocation, Limit, allocate, steadied

_FILLED = 0.99
"""Share of a budget from which on it counts as spent."""


def c_step(
    tasks: Iterable[Task],
    targets: Mapping[str, Tensor],
    *,
    mu: float | None = None,
    price: float | None = None,
    previous: Mapping[str, Form] | None = None,
    importance: Mapping[str, Tensor] | None = None,
) -> dict[str, Form]:
    """Projects the weights of every task; this function alone knows how the independent tasks run: in turn.

    Args:
        importance: of each entry's squared error, or one number for a weight.
    """
    forms: dict[str, Form] = {}
    for task in tasks:
        with in_context(f"task {task.name!r}"):
            for names, number, weighting in _alike(task, targets, importance or {}):
                made = task.compression.project_task(
                    {name: targets[name] for name in names},
                    mu=None if mu is None else mu * number,
                    price=None if price is None else price / number,
                    previous={name: previous[name] for name in names} if previous else None,
                    importance=weighting or None,
                )
                forms.update(made)
    return {name: forms[name] for task in tasks for name in task.weights}


def _alike(
    task: Task, targets: Mapping[str, Tensor], importance: Mapping[str, Tensor]
) -> list[tuple[Sequence[str], float, dict[str, Tensor]]]:
    """Weights that are projected together, the number by which their errors count, and else their importance.

    c ||w - Delta||^2 + price * bits is c times ||w - Delta||^2 + price / c * bits: no solver need know of c.
    """
    given = {name: importance[name] for name in task.weights if name in importance}
    if all(h.ndim == 0 and float(h) > 0 for h in given.values()):
        groups: dict[float, list[str]] = {}
        for names in task.pieces():
            numbers = {float(given[name]) if name in given else 1.0 for name in names}
            if len(numbers) > 1:
                break
            groups.setdefault(numbers.pop(), []).extend(names)
        else:
            return [(names, number, {}) for number, names in groups.items()]
    return [(task.weights, 1.0, {name: h.expand_as(targets[name]) for name, h in given.items()})]


def c_step_within(
    limit: Limit,
    tasks: Sequence[Task],
    targets: Mapping[str, Tensor],
    network: Mapping[str, Form],
    *,
    mu: float | None = None,
    price: float | None = None,
    previous: Mapping[str, Form] | None = None,
    importance: Mapping[str, Tensor] | None = None,
) -> Allocation:
    """The C step at the one price at which the whole network costs at most the limit.

    A sum is fitted by descent, which takes few rounds from the solution at a near price: each price tried starts from
    the next higher one before it, whose forms are smaller, if there is one. Starts from both sides would leave two
    solutions for a price, the larger one kept from below and the smaller one from above, and no way to what lies
    between. What jumps by more bytes than the limit leaves is held, and the search goes on without.

    Args:
        network: a form for every tensor of the network; those of the tasks are exchanged.
        price: where to look first.
        importance: a non-negative number for each entry's squared error, or one for a weight; 1 for weights left out.
    """

    def at_one_price(
        tasks: Sequence[Task], start: float | None, first: Mapping[str, Form] | None, decided: Mapping[str, Form]
    ) -> Allocation:
        whole = replace(limit, measure=lambda forms: limit.measure({**network, **decided, **forms}))
        if not tasks:
            return Allocation({}, start or 0.0, whole.measure({}))
        solved: dict[float, dict[str, Form]] = {}

        def project(p: float) -> dict[str, Form]:
            higher = min((q for q in solved if q > p), default=None) or max(solved, default=None)
            warm = first if higher is None else solved[higher]
            solved[p] = c_step(tasks, targets, mu=mu, price=p, previous=warm, importance=importance)
            return solved[p]

        return allocate(tasks, targets, project, whole, price=start, importance=importance)

    def error(forms: Mapping[str, Form]) -> float:
        weighting = importance or {}
        return sum(squared_error(targets[name], form, weighting.get(name)) for name, form in forms.items())

    found = best = at_one_price(tasks, price, previous, {})
    decided: dict[str, Form] = {}
    while limit.unit == "bytes" and best.size < _FILLED * limit.most:
        steady = steadied(tasks, best, limit.most - best.size)
        if steady is None:
            break
        # What has been told how much to take no longer depends on the price.
        free = {name for task in tasks if task.compression.is_free() for name in task.weights}
        told = [task for task in steady if not task.compression.is_free() and free.issuperset(task.weights)]
        now = decided | c_step(told, targets, mu=mu, previous=best.forms, importance=importance)
        tasks = [task for task in steady if task not in told]
        try:
            again = at_one_price(tasks, best.price, best.forms, now)
        except BudgetError:
            break
        if again.size > limit.most or error({**again.forms, **now}) >= error({**best.forms, **decided}):
            break
        best, decided = again, now
    best = replace(best, forms={**best.forms, **decided})
    return replace(best, price=found.price)


def shrunk(
    limit: Limit,
    tasks: Sequence[Task],
    forms: dict[str, Form],
    network: Mapping[str, Form],
    *,
    mu: float | None = None,
    price: float | None = None,
    importance: Mapping[str, Tensor] | None = None,
) -> dict[str, Form]:
    """Forms near these within the limit, for which training made them too costly; these, if nothing smaller is left."""
    dense = {name: form.dense() for name, form in forms.items()}
    try:
        found = c_step_within(limit, tasks, dense, network, mu=mu, price=price, previous=forms, importance=importance)
        return found.forms
    except BudgetError:
        return forms


def settled(tasks: Iterable[Task], forms: Mapping[str, Form]) -> list[Task]:
    """The tasks with the compressions that made these forms: one choice among candidates each, made for good."""
    found = []
    for task in tasks:
        makers = task.compression.settled({name: forms[name] for name in task.weights})
        found += [Task(task.name if len(makers) == 1 else names[0], names, made) for made, names in makers]
    return found


def back_on_constraints(
    tasks: Iterable[Task], forms: Mapping[str, Form], price: float | None = None
) -> dict[str, Form]:
    """The forms with every part that training moved off its compression's constraint projected back onto it.

    Training moves values freely; a codebook with a zero, or of -a and a, allows less. `price` is for what is "auto".
    """
    restored = dict(forms)
    for task in tasks:
        for k, term in enumerate(task.compression.parts()):
            parts = {name: restored[name].parts()[k] for name in task.weights}
            dense = {name: part.dense() for name, part in parts.items()}
            if term.is_feasible(parts, dense):
                continue
            for name, part in term.project_task(dense, price=price).items():
                restored[name] = restored[name].replace_part(k, part)
    return restored


def has_batch_norm(model: nn.Module) -> bool:
    """True when the model keeps running statistics that depend on its weights."""
    return bool(batch_norm_layers(model))


def recompute_batch_norm(model: nn.Module, inputs: Iterable[Any]) -> None:
    """Replaces every running mean and variance by the plain average over `inputs` (batches of the model's input)."""
    layers = batch_norm_layers(model)
    if not layers:
        return
    kept = {layer: layer.momentum for layer in layers}
    training = {module: module.training for module in model.modules()}
    model.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # a cumulative average
        layer.train()
    count = 0
    try:
        with torch.no_grad():
            for batch in inputs:
                feed(model, batch)
                count += 1
    finally:
        for layer in layers:
            layer.momentum = kept[layer]
        for module, mode in training.items():
            module.training = mode
    if not count:
        raise ArgumentError(must("inputs", "an iterable of batches that can be run through more than once", "no batch"))


def batch_norm_layers(model: nn.Module) -> list[nn.modules.batchnorm._NormBase]:
    """Every module that keeps running statistics, in the network's order."""
    kind = nn.modules.batchnorm._NormBase
    return [layer for layer in model.modules() if isinstance(layer, kind) and layer.track_running_stats]


def statistics_of(layer: nn.modules.batchnorm._NormBase) -> tuple[Tensor, Tensor]:
    """The running mean and variance of one of `batch_norm_layers`."""
    mean, var = layer.running_mean, layer.running_var
    assert mean is not None and var is not None  # it tracks them
    return mean, var
