"""BatchNorm after compression: running statistics moved by as much as compression moved the activations.

Recomputing them from calibration inputs would replace what training saw by a few inputs; their *change* is what
compression did, and it is measured on the same inputs in both networks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..compressions.stored import leading
from .passes import batch_norm_layers, statistics_of
from .precision import MOST_BITS, Precision


class StatisticsShift:
    """mh + (mean - m) sqrt(vh / v) and var * vh / v for every BatchNorm of `current`; m and v the original's.

    Exact where compression scaled and shifted an activation.

    While a context of both networks runs, each layer of `current` normalises by its own batch's shift, so that layers
    behind it see what they will see. `settle` stores the average over the batches.
    """

    def __init__(self, original: nn.Module, current: nn.Module) -> None:
        self._pairs = list(zip(batch_norm_layers(original), batch_norm_layers(current), strict=True))
        self._stored = [_copied(layer) for layer, _ in self._pairs]
        self._kept = [_copied(layer) for _, layer in self._pairs]
        self._sums: dict[int, list[tuple[Tensor, Tensor]]] = defaultdict(list)
        self._seen: dict[int, list[tuple[Tensor, Tensor]]] = defaultdict(list)

    def __enter__(self) -> StatisticsShift:
        return self

    def __exit__(self, *fault: Any) -> None:
        """The running statistics of `current` as `settle` left them, or as they were."""
        for (_, layer), (mean, var) in zip(self._pairs, self._kept, strict=True):
            _put(layer, (mean, var))

    @contextmanager
    def of_original(self) -> Iterator[None]:
        """A run of the original network: each layer's statistics of this batch are noted."""
        self._seen.clear()

        def note(i: int, inputs: Tensor) -> None:
            self._seen[i].append(_statistics(inputs))

        with _hooked([layer for layer, _ in self._pairs], note):
            yield

    @contextmanager
    def of_current(self) -> Iterator[None]:
        """The same batch through the compressed network."""

        def move(i: int, inputs: Tensor) -> None:
            (mean, var), (mean_, var_) = self._seen[i].pop(0), _statistics(inputs)
            layer, (stored_mean, stored_var) = self._pairs[i][1], self._stored[i]
            widened = (var_ + layer.eps) / (var + layer.eps)
            moved = mean_ + (stored_mean - mean) * widened.sqrt(), stored_var * widened
            _put(layer, moved)
            self._sums[i].append(moved)

        with _hooked([layer for _, layer in self._pairs], move):
            yield

    def settle(self, precisions: Sequence[Precision]) -> None:
        """Keeps the average over all batches, this exactly."""
        for i, moved in self._sums.items():
            mean, var = (torch.stack(values).mean(0) for values in zip(*moved, strict=True))
            eps, own = self._pairs[i][1].eps, precisions[i]
            if own.step:  # a power of two, of which a multiple has few bits
                step = torch.exp2((own.step * (var + eps).sqrt()).log2().round())
                mean = (mean / step).round() * step
            self._kept[i] = (leading(mean, MOST_BITS), leading(var, own.bits))


def halve_statistics(model: nn.Module) -> None:
    """Rounds the running statistics of a network as a float16 would, in the dtype and range of their own, in place."""
    with torch.no_grad():
        for layer in batch_norm_layers(model):
            for statistic in statistics_of(layer):
                statistic.copy_(leading(statistic, MOST_BITS))


def norm_parameters(model: nn.Module) -> list[str]:
    """The names of the scales and shifts behind running statistics."""
    layers = {id(layer) for layer in batch_norm_layers(model)}
    owned = {id(p) for module in model.modules() if id(module) in layers for p in module.parameters(recurse=False)}
    return [name for name, parameter in model.named_parameters() if id(parameter) in owned]


def _copied(layer: nn.modules.batchnorm._NormBase) -> tuple[Tensor, Tensor]:
    mean, var = statistics_of(layer)
    return mean.clone(), var.clone()


def _put(layer: nn.modules.batchnorm._NormBase, values: tuple[Tensor, Tensor]) -> None:
    for statistic, value in zip(statistics_of(layer), values, strict=True):
        statistic.copy_(value)


def _statistics(inputs: Tensor) -> tuple[Tensor, Tensor]:
    axes = [axis for axis in range(inputs.ndim) if axis != 1]
    var, mean = torch.var_mean(inputs, axes, correction=0)
    return mean, var


@contextmanager
def _hooked(layers: list[Any], see: Any) -> Iterator[None]:
    handles = [
        layer.register_forward_pre_hook(lambda _, inputs, i=i: see(i, inputs[0])) for i, layer in enumerate(layers)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
