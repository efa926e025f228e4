"""Post-training, one layer at a time: the LC loop with the layer's own quadratic in place of the loss.

L step   W <- argmin 1/2 tr((W - W0) H (W - W0)') + mu/2 ||W - Delta - Lam/mu||^2
           =  (W0 H + mu Delta + Lam) (H + mu I)^-1
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..compressions import Compression
from ..compressions.metric import Metric
from ..errors import in_context
from ..forms import Form
from .learner import Learner, Step
from .moments import Moments
from .schedule import Schedule

QUADRATIC = Schedule(steps=60, mu0=1e-2, growth=1e3 ** (1 / 59), finetune=20, tolerance=0.0)
"""mu from 1e-2 to 10 times the mean eigenvalue of H; at most 20 rounds of polish."""


@dataclass(frozen=True)
class Fitted:
    """One layer's result.

    Attributes:
        form: the compressed weight.
        error: tr(E H E'): the mean squared error of the layer's outputs, summed over them, H damped.
        relative_error: the same over tr(W H W').
        note: what had to be done to the moments, naming the layer; "" for nothing.
    """

    form: Form
    error: float
    relative_error: float
    note: str = ""


class QuadraticLearner(Learner):
    """The exact L step of each layer from one eigendecomposition of its moments; mu counts in mean eigenvalues."""

    def __init__(self, weights: Mapping[str, Tensor], moments: Mapping[str, Moments], damping: float = 0.01) -> None:
        self.metrics: dict[str, Metric] = {}
        self.targets: dict[str, Tensor] = {}
        self._weights = {name: w.detach().to(torch.float64).clone() for name, w in weights.items()}
        for name, weight in weights.items():
            with in_context(f"layer {name!r}"):
                moments[name].check(weight)
                metric = self.metrics[name] = moments[name].metric(damping)
                self.targets[name] = moments[name].target(weight, metric)

    def weights(self) -> Mapping[str, Tensor]:
        return self._weights

    def step(self, targets: Mapping[str, Tensor], step: Step) -> float:
        for name, target in targets.items():
            metric = self.metrics[name]
            mu = step.mu * metric.mean
            pulled = metric.times(self.targets[name]) + mu * metric.rows(target)
            self._weights[name] = metric.weight(metric.solve(pulled, mu), target.shape)
        return sum(self.error(name, self._weights[name]) for name in targets) / 2

    def error(self, name: str, weight: Tensor) -> float:
        """tr(E H E') of a weight in place of the layer's target."""
        metric = self.metrics[name]
        return metric.error(metric.rows(weight) - self.targets[name])


def fit_layer(
    weight: Tensor,
    moments: Moments,
    compression: Compression,
    *,
    name: str = "weight",
    price: float | None = None,
    previous: Form | None = None,
    schedule: Schedule = QUADRATIC,
    damping: float = 0.01,
) -> Fitted:
    """`fit_task` of one layer."""
    last = None if previous is None else {name: previous}
    return fit_task(
        {name: weight}, {name: moments}, compression, price=price, previous=last, schedule=schedule, damping=damping
    )[name]


def fit_task(
    weights: Mapping[str, Tensor],
    moments: Mapping[str, Moments],
    compression: Compression,
    *,
    price: float | None = None,
    previous: Mapping[str, Form] | None = None,
    schedule: Schedule = QUADRATIC,
    damping: float = 0.01,
) -> dict[str, Fitted]:
    """The forms with the least output error that the loop finds, for the layers of one task.

    Args:
        weights: any float dtype; the forms have theirs.
        moments: by the same names.
        price: output error tr(E H E') per bit, for hyperparameters left "auto".
        previous: forms to start from; the result is never worse.
        schedule: mu counts in mean eigenvalues of H; `finetune` is the most rounds of polish.
        damping: share of the mean diagonal added to H.
    """
    learner = QuadraticLearner(weights, moments, damping)
    dtypes = {name: w.dtype for name, w in weights.items()}
    shapes = {name: w.shape for name, w in weights.items()}
    scale = {name: metric.mean for name, metric in learner.metrics.items()}
    multipliers = {name: torch.zeros_like(w) for name, w in learner.weights().items()}
    start = {n: learner.metrics[n].weight(learner.targets[n], shapes[n]) for n in weights}

    def c_step(targets: Mapping[str, Tensor], mu: float, last: Mapping[str, Form] | None) -> dict[str, Form]:
        # error + price * bits, in units of mu times the mean eigenvalue: the projection's own squared error.
        unit = mu * sum(scale.values()) / len(scale)
        rounded = {name: t.to(dtypes[name]) for name, t in targets.items()}
        return compression.project_task(rounded, mu=unit, price=None if price is None else price / unit, previous=last)

    def objective(forms: Mapping[str, Form]) -> float:
        error = sum(learner.error(name, form.dense()) for name, form in forms.items())
        return error + sum(compression.cost(form, price=price) for form in forms.values() if price is not None)

    forms = dict(previous) if previous else c_step(start, 1.0, None)
    best, least = forms, objective(forms)
    for index in range(schedule.steps):
        mu = schedule.mu(index)
        dense = {name: form.dense().to(torch.float64) for name, form in forms.items()}
        learner.step(
            {name: d + multipliers[name] / mu for name, d in dense.items()},
            Step(index, schedule.steps, mu, 0, schedule.epochs),
        )
        current = learner.weights()
        forms = c_step({name: w - multipliers[name] / mu for name, w in current.items()}, mu, forms)
        if schedule.method == "augmented_lagrangian":
            for name, form in forms.items():
                multipliers[name] -= mu * (current[name] - form.dense().to(torch.float64))
        reached = objective(forms)
        if reached < least:
            best, least = forms, reached
    return {name: _fitted(learner, name, form) for name, form in best.items()}


def _fitted(learner: QuadraticLearner, name: str, form: Form) -> Fitted:
    metric = learner.metrics[name]
    error, norm = learner.error(name, form.dense()), metric.error(learner.targets[name])
    note = f"layer {name!r}: {metric.note}" if metric.note else ""
    return Fitted(form, error, error / norm if norm else 0.0, note)
