"""The layers under their quadratics: what an error of each counts, and the C step that heeds it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor, nn

from ..coding import estimated_bits
from ..errors import in_context
from ..forms import Form
from ..plan import Task
from ..records import LayerRecord
from .calibrate import Calibration, Sensitivity, Tally
from .moments import Moments
from .options import PostTraining
from .passes import batch_norm_layers
from .precision import precisions
from .quadratic import Fitted, QuadraticLearner, fit
from .shrinkage import Shrinkage
from .statistics import norm_parameters

EVENED = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0)
"""What is tried: the share of an even sensitivity in those of a layer's outputs."""
_OWN = 0.5
"""What a squared error of an output counts where each layer answers for its own outputs: half of it."""


@dataclass(frozen=True)
class Layer:
    """A weight that meets inputs.

    Attributes:
        felt: half the output's curvature that an output of the layer feels, on average.
        shrinkage: of its moments.
        moments: of its inputs, times `felt`, so that the error of `moments.metric` counts the output's distance.
        means: E[x] and E[xh].
        bias: the parameter behind it.
    """

    felt: float
    shrinkage: Shrinkage
    moments: Moments
    learner: QuadraticLearner
    means: tuple[Tensor, Tensor] | None
    bias: str | None


@dataclass
class LayerFits:
    """What is known of the layers, and what it makes of them.

    Attributes:
        read: the original of a weight by its name, perhaps read anew each time.
        sizes: entries of each.
        sensitivities: of each weight, and of the entries of normalisations; None where every layer answers for its
            own outputs.
        layers: those whose inputs are known at present.
    """

    tasks: Sequence[Task]
    read: Callable[[str], Tensor]
    sizes: Mapping[str, int]
    sensitivities: Mapping[str, Sensitivity] | None
    options: PostTraining
    original: nn.Module
    layers: dict[str, Layer] = field(default_factory=dict)

    @classmethod
    def measured(
        cls,
        data: Calibration,
        tasks: Sequence[Task],
        read: Callable[[str], Tensor],
        options: PostTraining,
        seed: int,
    ) -> Self:
        """With the sensitivities of the tasks' weights, as `options` ask for them."""
        parameters = dict(data.original.named_parameters())
        names = [name for task in tasks for name in task.weights]
        sizes = {name: parameters[name].numel() for name in names}
        if options.distance is None:
            return cls(tasks, read, sizes, None, options, data.original)
        asked = list(dict.fromkeys([*names, *norm_parameters(data.original)]))
        felt = data.sensitivities(asked, options.distance, seed, by_column=options.by_column)
        return cls(tasks, read, sizes, felt, options, data.original)

    # What a weight's error counts

    def note(self, tallies: Mapping[str, Tally]) -> None:
        """Takes up layers by what calibration found of them."""
        biases = {id(p): name for name, p in self.original.named_parameters()}
        for name, tally in tallies.items():
            asked = self.options.shrinkage
            given = None if asked == "auto" else float(asked)
            shrinkage = tally.shrinkage(self.options.damping, self._columns(name), given)
            weight, moments = self.read(name), tally.moments()
            rows = self._felt_by_rows(name, moments)
            felt = self._felt_by(name, weight, moments, rows)
            self.layers[name] = self._layer(name, weight, tally, felt, rows, shrinkage, biases.get(id(tally.bias)))

    def renew(self, name: str, tally: Tally) -> None:
        """Other moments of a layer that is known."""
        old = self.layers[name]
        weight, rows = self.read(name), old.moments.felt
        self.layers[name] = self._layer(name, weight, tally, old.felt, rows, old.shrinkage, old.bias)

    def _felt_by_rows(self, name: str, moments: Moments) -> Tensor | None:
        """How much the output feels an error of each row, over the mean; None where nothing tells them apart."""
        if moments.is_diagonal or self.sensitivities is None or not self.options.by_row:
            return None
        traces = moments.gram.double().diagonal(dim1=1, dim2=2).sum(1).cpu()
        halves = self.sensitivities[name].rows.reshape(2, len(traces), -1) / traces.clamp_min(1e-300)[:, None]
        return evened((halves * (traces > 0)[:, None]).reshape(2, -1))

    def _felt_by(self, name: str, weight: Tensor, moments: Moments, rows: Tensor | None) -> float:
        """F / (2 trace): the error of an even change e of all entries is then exactly 1/2 sum F e^2."""
        if self.sensitivities is None:
            return _OWN
        if moments.is_diagonal:
            trace = weight[0].numel() * float(moments.gram.double().sum())
        else:
            traces = moments.gram.double().diagonal(dim1=1, dim2=2).sum(1).cpu()
            counts = torch.ones(weight.shape[0], dtype=torch.float64) if rows is None else rows
            trace = float(counts.reshape(len(traces), -1).sum(1) @ traces)
        return (self._total(name) or self._usual(name)) / (2 * trace) if trace else 0.0

    def _columns(self, name: str) -> Tensor | None:
        return None if self.sensitivities is None else self.sensitivities[name].columns

    def _layer(
        self,
        name: str,
        weight: Tensor,
        tally: Tally,
        felt: float,
        rows: Tensor | None,
        shrinkage: Shrinkage,
        bias: str | None,
    ) -> Layer:
        # A weight that the output does not feel, such as a bias before a normalisation, still needs a metric.
        columns = self._columns(name)
        both = None if columns is None else columns.sum(0)
        moments = replace(tally.moments(felt or 1e-12, shrinkage, both), felt=rows)
        learner = QuadraticLearner({name: weight}, {name: moments}, self.options.damping)
        return Layer(felt, shrinkage, moments, learner, tally.means(), bias)

    def plain_scale(self, names: Sequence[str]) -> float:
        """What a squared error of weights counts that no product tells of: half the mean of F."""
        if self.sensitivities is None:
            return _OWN
        known = names if any(self._total(n) for n in names) else list(self.sizes)
        return sum(self._total(n) for n in known) / (2 * sum(self.sizes[n] for n in known)) or 1.0

    def _usual(self, name: str) -> float:
        """What this weight's total would be if its entries counted as all do in the mean.

        Of a weight that what is compared does not feel: another output of the network may.
        """
        return sum(self._total(n) for n in self.sizes) * self.sizes[name] / sum(self.sizes.values())

    def _is_felt(self, name: str) -> bool:
        return bool(self.layers[name].felt) and (self.sensitivities is None or self._total(name) > 0)

    def _total(self, name: str) -> float:
        assert self.sensitivities is not None
        return self.sensitivities[name].total

    def error(self, name: str, form: Form) -> float:
        """The output's distance that this form causes, by the quadratic."""
        if name in self.layers:
            return self.layers[name].learner.error(name, form.dense())
        return self.error_of(name, form.dense().double() - self.read(name).double())

    def error_of_nothing(self, name: str) -> float:
        """The distance with zeros in the weight's place."""
        if name in self.layers:
            learner = self.layers[name].learner
            return learner.metrics[name].error(learner.targets[name])
        return self.error_of(name, self.read(name))

    def error_of(self, name: str, change: Tensor) -> float:
        """The distance that a change of the weight causes."""
        if name in self.layers:
            metric = self.layers[name].learner.metrics[name]
            return metric.error(metric.rows(change))
        return float(change.double().square().sum()) * self.plain_scale([name])

    def record(self, name: str, form: Form) -> LayerRecord:
        """What is said of a form in this weight's place."""
        layer = self.layers.get(name)
        bits, error = estimated_bits(form) / form.size, self.error(name, form)
        if layer is None:
            note = "" if len(form.shape) < 2 else "met no calibration input that is seen: projected plainly"
            return LayerRecord(name, None, error, bits, 0, 0, note)
        metric = layer.learner.metrics[name]
        norm = self.error_of_nothing(name)
        return LayerRecord(
            name=name,
            relative_error=error / norm if norm else 0.0,
            distance=error,
            bits_per_weight=bits,
            inputs=layer.moments.count,
            moments_bytes=metric.gram.numel() * metric.gram.element_size(),
            note=metric.note or ("" if self._is_felt(name) else "what is compared does not feel it on these inputs"),
        )

    # The C step

    def groups(self, names: Iterable[str] | None = None) -> Iterator[tuple[Task, tuple[str, ...]]]:
        """The weights of each task that are fitted together; only those that begin with one of `names`."""
        wanted = None if names is None else set(names)
        for task in self.tasks:
            for group in task.pieces():
                if wanted is None or group[0] in wanted:
                    yield task, group

    def project(self, price: float | None, only: Iterable[str] | None = None) -> dict[str, Form]:
        """The forms of all groups, or of those that begin with one of these names, in the order of the tasks."""
        forms: dict[str, Form] = {}
        for task, names in self.groups(only):
            with in_context(f"task {task.name!r}"):
                forms |= self._fit(task, names, price)
        return {name: forms[name] for name in self.sizes if name in forms}

    def _fit(self, task: Task, names: Sequence[str], price: float | None) -> dict[str, Form]:
        if any(name not in self.layers for name in names):
            weights = {name: self.read(name) for name in names}
            scale = self.plain_scale(names)
            return task.compression.project_task(weights, price=None if price is None else price / scale)
        if task.compression.is_term or len(task.compression.parts()) > 1:
            makers = [(task.compression, tuple(names))]
        else:  # a choice among several is made plainly, and then carried out for the inputs
            unit = sum(self.layers[name].learner.metrics[name].mean for name in names) / len(names)
            weights = {name: self.layers[name].learner.originals[name] for name in names}
            plain = task.compression.project_task(weights, price=None if price is None else price / unit)
            makers = task.compression.settled(plain)
        fitted: dict[str, Fitted] = {}
        for made, own in makers:
            fitted |= fit(self._learner(own), made, price=price, schedule=self.options.schedule)
        return {name: each.form for name, each in fitted.items()}

    def _learner(self, names: Sequence[str]) -> QuadraticLearner:
        if len(names) == 1:
            return self.layers[names[0]].learner
        weights = {n: self.layers[n].learner.originals[n] for n in names}
        return QuadraticLearner(weights, {n: self.layers[n].moments for n in names}, self.options.damping)

    # What follows a weight

    def shift_statistics(self, data: Calibration, current: nn.Module, price: float | None) -> None:
        """Moves the running statistics of `current`, and rounds them as the price asks for, if there is one."""
        if batch_norm_layers(current):
            known = {n: s.rows for n, s in ((self.sensitivities if price else None) or {}).items()}
            data.shift(current, precisions(self.original, known, price or 1.0))

    def correct_bias(self, current: nn.Module, name: str, form: Form) -> None:
        """b + W0 E[x] - W E[xh]: the mean output is the original's."""
        layer = self.layers.get(name)
        if layer is None or layer.bias is None or layer.means is None or layer.bias in self.sizes:
            return
        x, xh = layer.means
        groups, n = x.shape

        def mean(weight: Tensor, inputs: Tensor) -> Tensor:
            return (weight.double().reshape(groups, -1, n) @ inputs.double()[:, :, None]).reshape(-1)

        original = dict(self.original.named_parameters())[layer.bias]
        bias = dict(current.named_parameters())[layer.bias]
        with torch.no_grad():
            bias.copy_(original.double() + mean(layer.learner.originals[name], x) - mean(form.dense(), xh))


def evened(halves: Tensor) -> Tensor | None:
    """Sensitivities of rows over their mean, evened out by the share of EVENED with which either half of the inputs
    tells the other half best; None where that is all, or where there are no halves.

    Where t holds, steps as s^-1/2 cost log2(mean(t / s)) / 2 + mean(log2 s) / 2 bits an entry: the least is at s = t.
    """
    if not bool((halves.sum(1) > 0).all()):
        return None
    shares = halves / halves.mean(1, keepdim=True)

    def cost(even: float) -> float:
        mixed = (1 - even) * shares + even
        return sum(float((t / s).mean().log() + s.log().mean()) for s, t in zip(mixed, shares.flip(0), strict=True))

    even = min(EVENED, key=cost)
    total = halves.sum(0)
    return None if even == 1.0 else (1 - even) * total / total.mean() + even
