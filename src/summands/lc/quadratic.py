"""Post-training, one layer at a time: the LC loop with the layer's own quadratic in place of the loss.

L step   W <- argmin 1/2 tr((W - W0) H (W - W0)') + mu/2 ||W - Delta - Lam/mu||^2
           =  (W0 H + mu Delta + Lam) (H + mu I)^-1
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..compressions import Compression
from ..compressions.metric import Metric
from ..compressions.refit import nothing
from ..errors import in_context
from ..forms import Form
from .learner import Learner, Step
from .moments import Moments
from .polish import Layers, polished
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
    """The exact L step of each layer from one eigendecomposition of its moments; mu counts in mean eigenvalues.

    Attributes:
        originals: the weights as they came.
        metrics, targets: H and W*, in `metric.rows`.
    """

    def __init__(self, weights: Mapping[str, Tensor], moments: Mapping[str, Moments], damping: float = 0.01) -> None:
        self.originals = {name: weight.detach() for name, weight in weights.items()}
        self.metrics: dict[str, Metric] = {}
        self.targets: dict[str, Tensor] = {}
        self._weights = dict(self.originals)
        for name, weight in weights.items():
            with in_context(f"layer {name!r}"):
                moments[name].check(weight)
                metric = self.metrics[name] = moments[name].metric(damping)
                self.targets[name] = moments[name].target(weight, metric)

    def only(self, names: Sequence[str]) -> QuadraticLearner:
        """The learner of some of the layers; nothing is decomposed again."""
        part = object.__new__(QuadraticLearner)
        for field, values in vars(self).items():
            setattr(part, field, {name: values[name] for name in names})
        return part

    def weights(self) -> Mapping[str, Tensor]:
        return self._weights

    def step(self, targets: Mapping[str, Tensor], step: Step) -> float:
        for name, target in targets.items():
            metric = self.metrics[name]
            mu = metric.shift(step.mu * metric.mean)
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
    """`fit` of the layers of one task, their moments damped by this share of the mean diagonal."""
    learner = QuadraticLearner(weights, moments, damping)
    return fit(learner, compression, price=price, previous=previous, schedule=schedule)


def fit(
    learner: QuadraticLearner,
    compression: Compression,
    *,
    price: float | None = None,
    previous: Mapping[str, Form] | None = None,
    schedule: Schedule = QUADRATIC,
) -> dict[str, Fitted]:
    """The forms with the least output error that is found, for the layers of one task.

    The LC loop's best iterate, polished; a compression whose polish makes all choices itself (a grid) needs no loop.

    Args:
        learner: the layers; one that is kept saves its decompositions from price to price.
        price: output error tr(E H E') per bit, for hyperparameters left "auto".
        previous: forms to start from; the result is never worse.
        schedule: mu counts in mean eigenvalues of H; `finetune` is the most rounds of polish.

    A compression that chooses among several (`Auto`) chooses by the plain projections, at the price over the layer's
    mean eigenvalue; what it chose is then fitted.
    """
    dtypes = {name: w.dtype for name, w in learner.originals.items()}
    layers = Layers(compression, learner.targets, learner.metrics, dtypes, price)
    warm = previous is not None and layers.is_feasible(previous)
    direct: dict[str, Form] = {}
    if len(learner.originals) == 1 and (price or not compression.is_free()):  # else the projection asks for a price
        zeros = {name: nothing(compression, weight) for name, weight in learner.originals.items()}
        direct = {name: form for name, form in zeros.items() if form is not None}
    forms = dict(previous or {}) if warm else direct or _first(layers, learner.originals)
    settled = compression.settled(forms)
    if settled[0][0] is not compression:
        return {
            name: fitted
            for chosen, names in settled
            for name, fitted in fit(learner.only(names), chosen, price=price, schedule=schedule).items()
        }
    if not direct:
        forms = forms if warm else _start(layers, forms, learner.originals)
        forms = _loop(learner, layers, forms, schedule)
    best = polished(layers, forms, schedule.finetune)
    return {name: _fitted(learner, name, form) for name, form in best.items()}


def _whole(layers: Layers, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: m.weight(layers.targets[name], weights[name].shape) for name, m in layers.metrics.items()}


def _first(layers: Layers, weights: Mapping[str, Tensor]) -> dict[str, Form]:
    """The plain projection of the targets."""
    return _c_step(layers, _whole(layers, weights), 1.0, None)


def _start(layers: Layers, forms: dict[str, Form], weights: Mapping[str, Tensor]) -> dict[str, Form]:
    """The parts fitted one after the other, those that give every entry a level or a code last: they leave no rest."""
    terms = next(iter(forms.values())).parts()
    order = sorted(range(len(terms)), key=lambda k: _is_everywhere(terms[k]))
    if order == sorted(order):
        return forms
    whole = _whole(layers, weights)
    kept: list[int] = []
    for k in order:
        forms = _project_part(layers, whole, 1.0, forms, k, kept)
        kept.append(k)
    return forms


def _is_everywhere(form: Form) -> bool:
    return any(not t.is_floating_point() and t.shape == form.shape for t in form.tensors().values())


def _loop(learner: QuadraticLearner, layers: Layers, forms: dict[str, Form], schedule: Schedule) -> dict[str, Form]:
    """The best iterate, by the true objective, of the LC loop from these forms."""
    best, least = forms, layers.objective(forms)
    multipliers = {name: torch.zeros_like(w, dtype=torch.float64) for name, w in learner.originals.items()}
    for index in range(schedule.steps):
        mu = schedule.mu(index)
        dense = {name: form.dense().to(torch.float64) for name, form in forms.items()}
        pulls = {name: d + multipliers[name] / mu for name, d in dense.items()}
        learner.step(pulls, Step(index, schedule.steps, mu, 0, schedule.epochs))
        current = learner.weights()
        forms = _c_step(layers, {name: w - multipliers[name] / mu for name, w in current.items()}, mu, forms)
        if schedule.method == "augmented_lagrangian":
            for name, form in forms.items():
                multipliers[name] -= mu * (current[name] - form.dense().to(torch.float64))
        reached = layers.objective(forms)
        if reached < least:
            best, least = forms, reached
    return best


def _c_step(
    layers: Layers, targets: Mapping[str, Tensor], mu: float, previous: Mapping[str, Form] | None
) -> dict[str, Form]:
    """The projection of these targets. From `previous`, every part of a sum is projected once, onto what the others
    leave: the next L step brings more than more rounds would.
    """
    if previous is None:
        rest = {name: target.to(layers.dtypes[name]) for name, target in targets.items()}
        return _project(layers, layers.compression, rest, mu, None)
    forms = dict(previous)
    count = len(layers.compression.parts())
    for k in range(count):
        forms = _project_part(layers, targets, mu, forms, k, [j for j in range(count) if j != k])
    return forms


def _project_part(
    layers: Layers,
    targets: Mapping[str, Tensor],
    mu: float,
    forms: Mapping[str, Form],
    k: int,
    others: Sequence[int],
) -> dict[str, Form]:
    """The forms with part k projected onto what these other parts leave."""
    rest = {}
    for name, target in targets.items():
        terms = forms[name].parts()
        left = target - sum((terms[j].dense().to(torch.float64) for j in others), start=torch.zeros_like(target))
        rest[name] = left.to(terms[k].dtype)
    last = {name: form.parts()[k] for name, form in forms.items()}
    fitted = _project(layers, layers.compression.parts()[k], rest, mu, last)
    return {name: form.replace_part(k, fitted[name]) for name, form in forms.items()}


def _project(
    layers: Layers,
    part: Compression,
    targets: Mapping[str, Tensor],
    mu: float,
    last: Mapping[str, Form] | None,
) -> dict[str, Form]:
    """mu h/2 ||v - Delta||^2 + price/2 * bits, h the layer's mean eigenvalue: a plain projection at price / (mu h).

    Where one part joins several layers, h stands with the entries of each instead.
    """
    means = {name: layers.metrics[name].mean for name in targets}
    joined = len(targets) > 1 and any(each.per == "task" for each in layers.compression.parts())
    common = sum(means.values()) / len(means)
    forms: dict[str, Form] = {}
    for names in [list(targets)] if joined else [[name] for name in targets]:
        unit = mu * (common if joined else means[names[0]])
        forms |= part.project_task(
            {name: targets[name] for name in names},
            mu=unit,
            price=None if layers.price is None else layers.price / unit,
            previous=None if last is None else {name: last[name] for name in names},
            importance={n: torch.full_like(targets[n], means[n] / common) for n in names} if joined else None,
        )
    return forms


def _fitted(learner: QuadraticLearner, name: str, form: Form) -> Fitted:
    metric = learner.metrics[name]
    error, norm = learner.error(name, form.dense()), metric.error(learner.targets[name])
    note = f"layer {name!r}: {metric.note}" if metric.note else ""
    return Fitted(form, error, error / norm if norm else 0.0, note)
