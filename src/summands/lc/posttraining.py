"""Post-training: a trained network, some unlabelled inputs, no training pipeline (algorithms 6).

Every layer is compressed by the LC loop with a quadratic of its own: half of s tr(E H E'), the output's distance from
the original's as a change E of the layer's weight makes it, H the second moments of the layer's input and s measured.
So errors of all layers are in one unit, and one price for a bit divides a budget among them.
"""

from __future__ import annotations

import copy
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from ..coding import estimated_bits
from ..container import measure
from ..errors import ArgumentError, BudgetError, in_context, must
from ..forms import Form
from ..network import Network, load_into, snapshot, state_tensors
from ..plan import Task
from ..records import LayerRecord, StepRecord, Verdict
from ..selection import Limit, allocate
from .calibrate import Calibration, Tally
from .distill import distilled
from .judge import Evaluate, error_of
from .moments import Moments
from .observe import Inputs, check_calibration
from .options import PostTraining
from .passes import back_on_constraints, batch_norm_layers, settled, shrunk, statistics_of
from .quadratic import Fitted, QuadraticLearner, fit
from .statistics import StatisticsShift, halved

Report = Callable[[StepRecord | LayerRecord], None]

_FINE, _ROUGH = 0.005, 0.03
"""How near to the limit a search for the price comes; roughly, where another one follows."""
_ROOM = 0.003
_SPARE = 16
"""Share of a budget, and bytes, that are left for what happens to biases and statistics afterwards."""


@dataclass(frozen=True)
class _Layer:
    """A weight that meets inputs.

    Attributes:
        felt: half the output's curvature that an output of the layer feels, on average.
        shrinkage: of its moments: of correlations, and of differences.
        moments: of its inputs, times `felt`, so that tr(E H E') counts the output's distance.
        means: E[x] and E[xh].
        bias: the parameter behind it.
    """

    felt: float
    shrinkage: tuple[float, float]
    moments: Moments
    learner: QuadraticLearner
    means: tuple[Tensor, Tensor] | None
    bias: str | None


@dataclass
class PostTrainer:
    """One run. `model` is changed: the caller passes its own copy."""

    model: nn.Module
    tasks: Sequence[Task]
    calibration: Inputs
    options: PostTraining
    limit: Limit | None = None
    seed: int = 0
    evaluate: Evaluate | None = None
    report: Report = lambda row: None
    history: list[StepRecord] = field(default_factory=list)
    layers: list[LayerRecord] = field(default_factory=list)
    _layers: dict[str, _Layer] = field(default_factory=dict)
    _distances: dict[str, float] = field(default_factory=dict)
    """Of layers that are settled, and whose moments are given up."""
    _price: float | None = None

    def run(self) -> tuple[Network, list[StepRecord], list[LayerRecord], Verdict]:
        """The compressed network, the history, a record of every weight, and how it ended."""
        self.model.eval()
        self._began = time.perf_counter()
        original = copy.deepcopy(self.model).requires_grad_(True)
        with torch.no_grad():
            for layer in batch_norm_layers(self.model):
                for statistic in statistics_of(layer):
                    statistic.copy_(halved(statistic))
        check_calibration(original, self.calibration)
        self._weights = {n: state_tensors(original)[n] for task in self.tasks for n in task.weights}
        self._data = Calibration(original, self.calibration)
        self._felt = self._data.sensitivities(list(self._weights), self.options.distance, self.seed)
        matrices = [name for name, w in self._weights.items() if w.ndim > 1]
        forms = self._at_once(matrices) if self.options.memory_bytes is None else self._in_runs(matrices)
        self._record("calibrated", forms)
        best = snapshot(self.model, forms)
        if self.options.tune:
            best = self._tune(forms, best)
        return best, self.history, self.layers, self._verdict()

    def _at_once(self, names: Sequence[str]) -> dict[str, Form]:
        """All layers at one price, their moments held together."""
        self._note_layers(self._data.tally(names))
        forms, price = self._project_all(self._aim(), slack=_ROUGH if self.options.drift else _FINE)
        if self.options.drift:
            self._follow_drift(forms, price)
            forms, price = self._project_all(self._aim(), price)
        self._finish(forms)
        aim = self._aim()
        if aim is not None and self.limit is not None and (excess := self._size(forms) - self.limit.most) > 0:
            forms, price = self._project_all(aim - 2 * excess, price)
            self._finish(forms)
        self.layers = [self._layer_record(name, form) for name, form in forms.items()]
        if not self.options.drift:
            for row in self.layers:
                self.report(row)
        return forms

    def _in_runs(self, names: Sequence[str]) -> dict[str, Form]:
        """Run after run of layers, whose moments fit into the memory allowed; each settled before the next is seen."""
        if self.limit is not None:
            allowed = "left out where `memory_bytes` is given: one price needs the moments of all layers"
            raise BudgetError(must("the budget", allowed, self.limit.most))
        sizes = self._data.survey(names)
        runs = list(_runs(sizes, self.options.memory_bytes or 0))
        self._check_together(runs)
        forms = self._project(None, [name for name in self._weights if name not in sizes])
        self.layers = [self._layer_record(name, form) for name, form in forms.items()]
        for i, run in enumerate(runs):
            if self.options.drift and i:
                with StatisticsShift(self._data.original, self.model) as shift:
                    self._note_layers(self._data.tally_drift(run, self.model, shift))
            else:
                self._note_layers(self._data.tally(run))
            made = self._project(None, run)
            self._install(made)
            self.layers += [self._layer_record(name, form) for name, form in made.items()]
            self._distances |= {name: self._error(name, form) for name, form in made.items()}
            forms |= made
            self._layers = {}
        self._finish(forms)
        return {name: forms[name] for name in self._weights}

    def _check_together(self, runs: Sequence[Sequence[str]]) -> None:
        """ArgumentError where layers that are compressed together do not stand in one run."""
        place = {name: i for i, run in enumerate(runs) for name in run}
        for task in self.tasks:
            for names in self._fitted_together(task):
                if len({place.get(name) for name in names}) > 1:
                    allowed = f"enough for all layers of task {task.name!r}, which one part is fitted to together"
                    raise ArgumentError(must("memory_bytes", allowed, self.options.memory_bytes))

    # What a weight's error counts

    def _note_layers(self, tallies: Mapping[str, Tally]) -> None:
        biases = {id(p): name for name, p in self._data.original.named_parameters()}
        for name, tally in tallies.items():
            asked = self.options.shrinkage
            shrinkage = tally.shrinkage(self.options.damping) if asked == "auto" else (float(asked), 0.0)
            felt = self._felt_by(name, tally.moments())
            self._layers[name] = self._layer(name, tally, felt, shrinkage, biases.get(id(tally.bias)))

    def _felt_by(self, name: str, moments: Moments) -> float:
        """F / (2 trace H): the error of an even change e of all entries is then exactly 1/2 sum F e^2."""
        weight = self._weights[name]
        diagonal = moments.gram if moments.is_diagonal else moments.gram.diagonal(dim1=1, dim2=2)
        rows = weight[0].numel() if moments.is_diagonal else weight.shape[0] / moments.gram.shape[0]
        trace = rows * float(diagonal.double().sum())
        return float(self._felt[name].sum()) / (2 * trace) if trace else 0.0

    def _layer(self, name: str, tally: Tally, felt: float, shrinkage: tuple[float, float], bias: str | None) -> _Layer:
        # A weight that the output does not feel, such as a bias before a normalisation, still needs a metric.
        moments = tally.moments(felt or 1e-12, *shrinkage)
        learner = QuadraticLearner({name: self._weights[name]}, {name: moments}, self.options.damping)
        return _Layer(felt, shrinkage, moments, learner, tally.means(), bias)

    def _plain_scale(self, names: Sequence[str]) -> float:
        """What a squared error of weights counts that no product tells of: half the mean of F."""
        felt = sum(float(self._felt[n].sum()) for n in names) or sum(float(f.sum()) for f in self._felt.values())
        known = names if any(float(self._felt[n].sum()) for n in names) else list(self._felt)
        return felt / (2 * sum(self._weights[n].numel() for n in known)) or 1.0

    def _error(self, name: str, form: Form) -> float:
        """The output's distance that this form causes, by the quadratic."""
        if name in self._distances:
            return self._distances[name]
        if name in self._layers:
            return self._layers[name].learner.error(name, form.dense())
        change = (form.dense().double() - self._weights[name].double()).square()
        return float(change.sum()) * self._plain_scale([name])

    # The C step of the whole network

    def _aim(self) -> int | None:
        return None if self.limit is None else int((1 - _ROOM) * self.limit.most) - _SPARE

    def _size(self, forms: Mapping[str, Form]) -> int:
        return measure(snapshot(self.model, forms)).size_bytes

    def _project_all(
        self, aim: int | None, start: float | None = None, slack: float = _FINE
    ) -> tuple[dict[str, Form], float | None]:
        if aim is None:
            return self._project(None), None
        network = snapshot(self.model, {})
        norms = sum(self._error_of_nothing(name) for name in self._weights)
        found = allocate(
            self.tasks,
            self._weights,
            self._project,
            Limit(aim, measure=lambda forms: measure({**network, **forms}).size_bytes),
            price=start or 0.01 * norms / (8 * aim) or None,
            slack=slack,
            fill=False,
        )
        self._price = found.price
        return found.forms, found.price

    def _error_of_nothing(self, name: str) -> float:
        if name in self._layers:
            learner = self._layers[name].learner
            return learner.metrics[name].error(learner.targets[name])
        return float(self._weights[name].double().square().sum()) * self._plain_scale([name])

    def _project(self, price: float | None, only: Sequence[str] | None = None) -> dict[str, Form]:
        forms: dict[str, Form] = {}
        for task in self.tasks:
            with in_context(f"task {task.name!r}"):
                for names in self._fitted_together(task):
                    if only is None or names[0] in only:
                        forms |= self._fit(task, names, price)
        return {name: forms[name] for name in self._weights if name in forms}

    @staticmethod
    def _fitted_together(task: Task) -> Iterator[tuple[str, ...]]:
        if any(part.per == "task" for part in task.compression.parts()):
            yield task.weights
        else:
            yield from ((name,) for name in task.weights)

    def _fit(self, task: Task, names: Sequence[str], price: float | None) -> dict[str, Form]:
        weights = {name: self._weights[name] for name in names}
        if any(name not in self._layers for name in names):
            scale = self._plain_scale(names)
            return task.compression.project_task(weights, price=None if price is None else price / scale)
        if task.compression.is_term or len(task.compression.parts()) > 1:
            makers = [(task.compression, tuple(names))]
        else:  # a choice among several is made plainly, and then carried out for the inputs
            unit = sum(self._layers[name].learner.metrics[name].mean for name in names) / len(names)
            plain = task.compression.project_task(weights, price=None if price is None else price / unit)
            makers = task.compression.settled(plain)
        fitted: dict[str, Fitted] = {}
        for made, own in makers:
            fitted |= fit(self._learner(own), made, price=price, schedule=self.options.schedule)
        return {name: each.form for name, each in fitted.items()}

    def _learner(self, names: Sequence[str]) -> QuadraticLearner:
        if len(names) == 1:
            return self._layers[names[0]].learner
        weights = {name: self._weights[name] for name in names}
        return QuadraticLearner(weights, {n: self._layers[n].moments for n in names}, self.options.damping)

    # Drift, statistics and biases

    def _follow_drift(self, forms: Mapping[str, Form], price: float | None) -> None:
        """Compresses stage after stage, each for the inputs that the compressed ones before it make."""
        order = [name for name in self._data.calls if name in self._layers]
        joint = {n for task in self.tasks for names in self._fitted_together(task) if len(names) > 1 for n in names}
        parameters = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, form in forms.items():
                if name in joint or name not in self._layers:
                    parameters[name].copy_(form.dense())
        for stage in _stages(order, self.options.stages):
            if stage[0] != order[0]:
                with StatisticsShift(self._data.original, self.model) as shift:
                    tallies = self._data.tally_drift(stage, self.model, shift)
                for name in stage:
                    layer = self._layers[name]
                    self._layers[name] = self._layer(name, tallies[name], layer.felt, layer.shrinkage, layer.bias)
            self._install(self._project(price, [n for n in stage if n not in joint]))

    def _install(self, forms: Mapping[str, Form]) -> None:
        """Puts layers into the compressed network, each with its bias, and reports them."""
        parameters = dict(self.model.named_parameters())
        for name, form in forms.items():
            with torch.no_grad():
                parameters[name].copy_(form.dense())
            self._correct_bias(name, form)
            self.report(self._layer_record(name, form))

    def _correct_bias(self, name: str, form: Form) -> None:
        """b + W0 E[x] - W E[xh]: the mean output is the original's."""
        layer = self._layers.get(name)
        if layer is None or layer.bias is None or layer.means is None or layer.bias in self._weights:
            return
        x, xh = layer.means
        groups, n = x.shape

        def mean(weight: Tensor, inputs: Tensor) -> Tensor:
            return (weight.double().reshape(groups, -1, n) @ inputs.double()[:, :, None]).reshape(-1)

        original = dict(self._data.original.named_parameters())[layer.bias]
        bias = dict(self.model.named_parameters())[layer.bias]
        with torch.no_grad():
            bias.copy_(original.double() + mean(self._weights[name], x) - mean(form.dense(), xh))

    def _finish(self, forms: Mapping[str, Form]) -> None:
        load_into(self.model, {**snapshot(self.model, {}), **forms})
        for name, form in forms.items():
            self._correct_bias(name, form)
        if batch_norm_layers(self.model):
            self._data.shift(self.model)

    def _tune(self, forms: Mapping[str, Form], best: Network) -> Network:
        options = self.options
        restored = partial(self._restored, settled(self.tasks, forms))
        tuned = distilled(self.model, forms, restored, self._data, options.distance, options.tune, options.lr)
        network = snapshot(self.model, tuned.forms)
        before = self.history[-1].error
        row = self._record("tuned", tuned.forms, tuned.after)
        fits = self.limit is None or row.size_bytes <= self.limit.most
        better = tuned.after < tuned.before and (row.error is None or before is None or row.error <= before)
        return network if fits and better else best

    def _restored(self, tasks: Sequence[Task], forms: dict[str, Form]) -> dict[str, Form]:
        for task in tasks:
            price = None if self._price is None else self._price / self._plain_scale(task.weights)
            forms = back_on_constraints([task], forms, price)
        if self.limit is None or self._size(forms) <= self.limit.most:
            return forms
        return shrunk(self.limit, tasks, forms, snapshot(self.model, {}))

    # Records

    def _record(self, phase: str, forms: Mapping[str, Form], loss: float | None = None) -> StepRecord:
        errors = {name: self._error(name, form) for name, form in forms.items()}
        moved = sum(float((forms[n].dense().double() - w.double()).square().sum()) for n, w in self._weights.items())
        norm = sum(float(w.double().square().sum()) for w in self._weights.values())
        row = StepRecord(
            phase=phase,
            index=0,
            mu=0.0,
            loss=sum(errors.values()) if loss is None else loss,
            gap=math.sqrt(moved / norm) if norm else 0.0,
            error=None if self.evaluate is None else error_of(self.evaluate, self.model, phase),
            size_bytes=self._size(forms),
            learn_seconds=0.0,
            compress_seconds=time.perf_counter() - self._began,
            measure_seconds=0.0,
        )
        self._began = time.perf_counter()
        self.history.append(row)
        self.report(row)
        return row

    def _layer_record(self, name: str, form: Form) -> LayerRecord:
        layer = self._layers.get(name)
        if layer is None:
            note = "" if self._weights[name].ndim < 2 else "met no calibration input: projected plainly"
            bits = estimated_bits(form) / form.size
            return LayerRecord(name, None, self._error(name, form), bits, 0, 0, note)
        metric = layer.learner.metrics[name]
        norm = self._error_of_nothing(name)
        error = self._error(name, form)
        return LayerRecord(
            name=name,
            relative_error=error / norm if norm else 0.0,
            distance=error,
            bits_per_weight=estimated_bits(form) / form.size,
            inputs=layer.moments.count,
            moments_bytes=metric.gram.numel() * metric.gram.element_size(),
            note=metric.note or ("" if layer.felt else "the output does not feel it on these inputs"),
        )

    def _verdict(self) -> Verdict:
        return Verdict.UNREACHED if any("met no" in row.note for row in self.layers) else Verdict.CALIBRATED


def _stages(order: Sequence[str], count: int) -> Iterator[list[str]]:
    """The layers in runs of nearly equal number."""
    bounds = [round(i * len(order) / count) for i in range(count + 1)]
    for first, last in itertools.pairwise(bounds):
        if first < last:
            yield list(order[first:last])


def _runs(sizes: Mapping[str, int], most: int) -> Iterator[list[str]]:
    """The layers in order, in runs of at most so many bytes; a larger one stands alone."""
    run: list[str] = []
    for name, size in sizes.items():
        if run and sum(sizes[each] for each in run) + size > most:
            yield run
            run = []
        run.append(name)
    if run:
        yield run
