"""After the loop: the parts of a sum refitted in turn under the layers' own metrics, until none gains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..compressions import Compression
from ..compressions.metric import Metric
from ..compressions.refit import Problem, refit
from ..forms import Form

_TOLERANCE = 1e-4


@dataclass(frozen=True, eq=False)
class Layers:
    """What the layers of one task are to minimise: the sum of tr((W* - D) H (W* - D)'), + price * bits.

    Attributes:
        targets: W* in `metric.rows`.
        dtypes: of the weights.
    """

    compression: Compression
    targets: Mapping[str, Tensor]
    metrics: Mapping[str, Metric]
    dtypes: Mapping[str, torch.dtype]
    price: float | None = None

    def error(self, name: str, dense: Tensor) -> float:
        """tr(E H E') of one layer with this weight."""
        metric = self.metrics[name]
        return metric.error(metric.rows(dense) - self.targets[name])

    def objective(self, forms: Mapping[str, Form]) -> float:
        """The errors, and what the compression pays besides."""
        total = sum(self.error(name, form.dense()) for name, form in forms.items())
        if self.price is None:
            return total
        return total + sum(self.compression.cost(form, price=self.price) for form in forms.values())

    def is_feasible(self, forms: Mapping[str, Form]) -> bool:
        like = {name: torch.empty(form.shape, dtype=self.dtypes[name], device="meta") for name, form in forms.items()}
        return self.compression.is_feasible(forms, like)


def polished(layers: Layers, forms: dict[str, Form], rounds: int) -> dict[str, Form]:
    """Forms that are never worse: each part of the compression in turn takes its own best step (refit.py).

    A step is kept if the result is feasible and the objective, in the dtypes that are stored, falls. At most `rounds`
    times over all parts, while a round gains a ten-thousandth.
    """
    best, least = forms, layers.objective(forms)
    parts = layers.compression.parts()
    for _ in range(rounds):
        before = least
        for k, part in enumerate(parts):
            problems = {name: _problem(layers, name, form, k, part) for name, form in best.items()}
            stepped = refit(problems, {name: form.parts()[k] for name, form in best.items()})
            candidate = {name: form.replace_part(k, stepped[name]) for name, form in best.items()}
            reached = layers.objective(candidate)
            if reached < least and layers.is_feasible(candidate):
                best, least = candidate, reached
        if not least < before * (1 - _TOLERANCE) or len(parts) == 1:
            break
    return best


def _problem(layers: Layers, name: str, form: Form, k: int, part: Compression) -> Problem:
    metric, rest = layers.metrics[name], layers.targets[name]
    for j, other in enumerate(form.parts()):
        if j != k:
            rest = rest - metric.rows(other.dense())
    return Problem(part, rest, metric, layers.price)
