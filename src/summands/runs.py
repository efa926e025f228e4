"""Where the layers of a network are at work: the sizes that their multiply-adds hang on, seen on one batch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from .errors import BudgetError, must
from .forms import Form
from .network import check_batches, feed, state_tensors

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Run:
    """Where a layer's weight is at work: the sizes of what goes in and comes out, and the groups of a convolution.

    A linear layer's sizes are the number of positions that it maps, such as a sequence's length. A layer that runs
    several times counts as one run on an input so many times as high.
    """

    in_size: tuple[int, ...]
    out_size: tuple[int, ...]
    groups: int = 1

    def flops(self, form: Form) -> int:
        """Multiply-adds of this run with a form as the weight."""
        return form.flops(self.in_size, self.out_size, self.groups)


def recorded_runs(model: nn.Module, inputs: Iterable[Any]) -> dict[str, Run]:
    """For the weight of every linear layer and convolution its run, from one batch of the model's input.

    A weight that a layer computes from others, as parametrizations do, is no parameter and has none.
    """
    first = {id(t): name for name, t in _parameters(model).items()}
    seen: dict[str, list[Run]] = {}

    def watch(layer: nn.Module, arguments: tuple[Tensor, ...], named: dict[str, Tensor], out: Tensor) -> None:
        name = first.get(id(layer.weight))
        if name is None:
            return
        x = arguments[0] if arguments else named["input"]
        if isinstance(layer, nn.Linear):
            run = Run((math.prod(x.shape[1:-1]),), (math.prod(x.shape[1:-1]),))
        else:
            dims = len(layer.kernel_size)  # type: ignore[arg-type]
            run = Run(tuple(x.shape[-dims:]), tuple(out.shape[-dims:]), int(layer.groups))  # type: ignore[arg-type]
        seen.setdefault(name, []).append(run)

    check_batches(inputs)
    with torch.random.fork_rng(devices=[]):  # a DataLoader draws a seed
        batch = next(iter(inputs), None)
    if batch is None:
        raise BudgetError(must("inputs", "batches of the model's input for a budget of FLOPs", ()))
    hooks = [m.register_forward_hook(watch, with_kwargs=True) for m in model.modules() if isinstance(m, _LAYERS)]
    training = {module: module.training for module in model.modules()}
    try:
        with torch.no_grad():
            feed(model.eval(), batch)
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in training.items():
            module.training = mode
    return {name: _together(name, runs) for name, runs in seen.items()}


def _together(name: str, runs: Sequence[Run]) -> Run:
    first = runs[0]
    if any((run.in_size[1:], run.out_size[1:]) != (first.in_size[1:], first.out_size[1:]) for run in runs):
        raise BudgetError(f"{name!r} runs at several sizes, of which a budget of FLOPs can make no one price")
    high_in, high_out = (sum(size) for size in zip(*((r.in_size[0], r.out_size[0]) for r in runs), strict=True))
    return replace(first, in_size=(high_in, *first.in_size[1:]), out_size=(high_out, *first.out_size[1:]))


def _parameters(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter under its first name, the object itself."""
    named = dict(model.named_parameters())
    return {name: named[name] for name in state_tensors(model) if name in named}
