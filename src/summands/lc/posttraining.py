"""Post-training: a trained network, some unlabelled inputs, no training pipeline (algorithms 6).

Every layer is compressed by the LC loop with a quadratic of its own: half of s tr(E H E'), the output's distance from
the original's as a change E of the layer's weight makes it, H the second moments of the layer's input and s measured.
So errors of all layers are in one unit, and one price for a bit divides a budget among them.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import nn

from ..container import measure
from ..errors import BudgetError, must
from ..forms import Form
from ..network import Network, copied, load_into, snapshot, state_tensors
from ..plan import Task
from ..records import LayerRecord, StepRecord, Verdict
from ..selection import Limit, allocate
from .calibrate import Calibration
from .distill import distilled
from .fits import LayerFits
from .in_runs import InRuns
from .judge import Evaluate, error_of
from .observe import Inputs
from .options import PostTraining
from .passes import back_on_constraints, settled, shrunk
from .precision import coarsened, finer_bytes
from .statistics import StatisticsShift, halve_statistics
from .training import seeded

Report = Callable[[StepRecord | LayerRecord], None]

_FINE, _ROUGH = 0.002, 0.03
"""How near to the limit a search for the price comes; roughly, where another one follows."""
_ROOM = 0.001
_MOST_BITS = 24
"""An entry: a budget may leave far more than any weight can use."""
_SPARE = 16
"""Share of a budget, and bytes, that are left for what happens to biases and statistics afterwards."""
_UNFILLED = 0.005
"""Share of a budget that is worth another projection."""
_MOST_HELD = 0.02
"""Share of a budget that is left for finer steps, where training will move them."""


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
    _price: float | None = None
    _held: int = 0
    _projected: int = 0  # bytes at the last projection, with the statistics of then

    def run(self) -> tuple[Network, list[StepRecord], list[LayerRecord], Verdict]:
        """The compressed network, the history, a record of every weight, and how it ended.

        torch's random numbers are seeded inside: a DataLoader that shuffles gives the same batches for the same seed.
        """
        with seeded(self.seed, next(self.model.parameters()).device):
            return self._run()

    def _run(self) -> tuple[Network, list[StepRecord], list[LayerRecord], Verdict]:
        self._check_limit()
        self.model.eval()
        self._began = time.perf_counter()
        original = copied(self.model)
        thawed = [original]
        if not any(parameter.requires_grad for parameter in self.model.parameters()):
            thawed.append(self.model)  # it came for inference; what is frozen beside others is meant to stay
        for parameter in itertools.chain.from_iterable(model.parameters() for model in thawed):
            parameter.requires_grad_(parameter.is_floating_point())
        halve_statistics(self.model)
        self._data = Calibration(original, self.calibration)
        self._data.check()
        state = state_tensors(original)
        self._weights = {n: state[n] for task in self.tasks for n in task.weights}
        self._fits = LayerFits.measured(self._data, self.tasks, self._weights.__getitem__, self.options, self.seed)
        matrices = [name for name, w in self._weights.items() if w.ndim > 1]
        memory = self.options.memory_bytes
        forms = self._at_once(matrices) if memory is None else self._in_runs(matrices, memory)
        self._add(self._row("calibrated", forms, sum(row.distance for row in self.layers)), best=True)
        best = snapshot(self.model, forms)
        if self.options.tune:
            best = self._tune(forms, best)
        return best, self.history, self.layers, verdict_of(self.layers)

    def _check_limit(self) -> None:
        """BudgetError where there is no one price by which a budget could be divided."""
        if self.limit is None:
            return
        if self.options.memory_bytes is not None:
            allowed = "left out where `memory_bytes` is given: one price needs the moments of all layers"
            raise BudgetError(must("the budget", allowed, self.limit.most))
        if self.options.distance is None:
            allowed = 'left out where `distance` is None: one price needs one unit, "values" or "softmax"'
            raise BudgetError(must("the budget", allowed, self.limit.most))

    def _at_once(self, names: Sequence[str]) -> dict[str, Form]:
        """All layers at one price, their moments held together."""
        self._fits.note(self._data.tally(names))
        drift = self.options.drift
        forms, price = self._project_all(self._room(), slack=_ROUGH if drift else _FINE)
        if self.options.tune and self.limit is not None and price:
            finer = finer_bytes(forms, price, self._fits.error_of)
            self._held = min(finer, int(_MOST_HELD * self.limit.most))
        if drift:
            self._follow_drift(forms, price)
        if drift or self._held:
            forms, price = self._project_all(self._room(), price)
        self._finish(forms)
        forms = self._back_within(forms, price)
        self.layers = [self._fits.record(name, form) for name, form in forms.items()]
        if not self.options.drift:
            for row in self.layers:
                self.report(row)
        return forms

    def _back_within(self, forms: dict[str, Form], price: float | None) -> dict[str, Form]:
        """The forms at another price, where biases and statistics now take more than the room that was left for them.

        The next projection counts them as they are now, and they change little once more; if too much, it leaves more.
        Likewise once where they take so much less that the budget is no longer filled.
        """
        room = self._room()
        if self.limit is not None and self._projected - self._size(forms) > _UNFILLED * self.limit.most:
            forms, price = self._project_all(room, price)
            self._finish(forms)
        while self.limit is not None and (excess := self._over(forms) + self._held) > 0:
            forms, price = self._project_all(room, price)
            self._finish(forms)
            room += 2 * excess
        return forms

    def _in_runs(self, names: Sequence[str], memory_bytes: int) -> dict[str, Form]:
        """Run after run of layers, whose moments fit into the memory allowed."""
        forms: dict[str, Form] = {}
        parameters = dict(self.model.named_parameters())

        def put(made: Mapping[str, Form]) -> None:
            forms.update(made)
            with torch.no_grad():
                for name, form in made.items():
                    parameters[name].copy_(form.dense())

        self.layers = InRuns(self._fits, self._data, self.model, put, memory_bytes, self.report).run(names)
        return {name: forms[name] for name in self._weights}

    # The C step of the whole network

    def _room(self) -> int:
        """Bytes of the limit that a projection leaves free."""
        return 0 if self.limit is None else self.limit.most - int((1 - _ROOM) * self.limit.most) + _SPARE + self._held

    def _over(self, forms: Mapping[str, Form]) -> int:
        """Bytes beyond the limit, if there is one."""
        return 0 if self.limit is None else self._size(forms) - self.limit.most

    def _size(self, forms: Mapping[str, Form]) -> int:
        return measure(snapshot(self.model, forms)).size_bytes

    def _project_all(
        self, room: int, start: float | None = None, slack: float = _FINE
    ) -> tuple[dict[str, Form], float | None]:
        if self.limit is None:
            return self._fits.project(None), None
        network = snapshot(self.model, {})
        found = allocate(
            self.tasks,
            self._weights,
            self._fits.project,
            Limit(self.limit.most, measure=lambda forms: measure({**network, **forms}).size_bytes + room),
            price=start or self._natural_price(self.limit.most - room),
            slack=slack,
            fill=False,
        )
        self._price, self._projected = found.price, found.size - room
        return found.forms, found.price

    def _natural_price(self, size: int) -> float | None:
        """About the price at which all weights take so many bytes: an error falls by a factor 4 a bit (6.02 dB)."""
        entries = {name: weight.numel() for name, weight in self._weights.items() if weight.numel()}
        norms = {name: self._fits.error_of_nothing(name) for name in entries}
        if not any(norms.values()):
            return None
        felt = sum(entries[name] for name, norm in norms.items() if norm > 0)
        evened = sum(n * math.log(norms[name] / n) for name, n in entries.items() if norms[name] > 0) / felt
        return 2 * math.log(2) * math.exp(evened) * 4.0 ** -min(8 * size / felt, _MOST_BITS)

    # Drift, statistics and biases

    def _follow_drift(self, forms: Mapping[str, Form], price: float | None) -> None:
        """Compresses stage after stage, each for the inputs that the compressed ones before it make."""
        order = [name for name in self._data.calls if name in self._fits.layers]
        joint = {n for _, names in self._fits.groups() if len(names) > 1 for n in names}
        parameters = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, form in forms.items():
                if name in joint or name not in self._fits.layers:
                    parameters[name].copy_(form.dense())
        for stage in _stages(order, self.options.stages):
            if stage[0] != order[0]:
                with StatisticsShift(self._data.original, self.model) as shift:
                    tallies = self._data.tally_drift(stage, self.model, shift)
                for name in stage:
                    self._fits.renew(name, tallies[name])
            self._install(self._fits.project(price, [n for n in stage if n not in joint]))

    def _install(self, forms: Mapping[str, Form]) -> None:
        """Puts layers into the compressed network, each with its bias, and reports them."""
        parameters = dict(self.model.named_parameters())
        for name, form in forms.items():
            with torch.no_grad():
                parameters[name].copy_(form.dense())
            self._fits.correct_bias(self.model, name, form)
            self.report(self._fits.record(name, form))

    def _finish(self, forms: Mapping[str, Form]) -> None:
        load_into(self.model, {**snapshot(self.model, {}), **forms})
        for name, form in forms.items():
            self._fits.correct_bias(self.model, name, form)
        self._fits.shift_statistics(self._data, self.model, self._price)

    def _tune(self, forms: Mapping[str, Form], best: Network) -> Network:
        options = self.options
        assert options.distance is not None  # it checks that
        restored = partial(self._restored, settled(self.tasks, forms))
        tuned = distilled(self.model, forms, restored, self._data, options.distance, options.tune, options.lr)
        network = snapshot(self.model, tuned.forms)
        before = self.history[-1].error
        row = self._row("tuned", tuned.forms, tuned.after)
        fits = self.limit is None or row.size_bytes <= self.limit.most
        better = tuned.after < tuned.before and (row.error is None or before is None or row.error <= before)
        self._add(row, fits and better)
        return network if fits and better else best

    def _restored(self, tasks: Sequence[Task], forms: dict[str, Form]) -> dict[str, Form]:
        for task in tasks:
            price = None if self._price is None else self._price / self._fits.plain_scale(task.weights)
            forms = back_on_constraints([task], forms, price)
        if self._price:
            forms = coarsened(forms, self._price, self._fits.error_of)
        if self.limit is None or self._over(forms) <= 0:
            return forms
        return shrunk(self.limit, tasks, forms, snapshot(self.model, {}))

    # Records

    def _row(self, phase: str, forms: Mapping[str, Form], loss: float) -> StepRecord:
        moved = sum(float((forms[n].dense().double() - w.double()).square().sum()) for n, w in self._weights.items())
        norm = sum(float(w.double().square().sum()) for w in self._weights.values())
        row = StepRecord(
            phase=phase,
            index=0,
            mu=0.0,
            loss=loss,
            gap=math.sqrt(moved / norm) if norm else 0.0,
            error=None if self.evaluate is None else error_of(self.evaluate, self.model, phase),
            size_bytes=self._size(forms),
            learn_seconds=0.0,
            compress_seconds=time.perf_counter() - self._began,
            measure_seconds=0.0,
        )
        self.model.eval()  # whatever `evaluate` did
        self._began = time.perf_counter()
        return row

    def _add(self, row: StepRecord, best: bool) -> None:
        row = replace(row, best=best)
        self.history.append(row)
        self.report(row)


def verdict_of(layers: Sequence[LayerRecord]) -> Verdict:
    """CALIBRATED, unless a weight that multiplies met no input."""
    return Verdict.UNREACHED if any("met no" in row.note for row in layers) else Verdict.CALIBRATED


def _stages(order: Sequence[str], count: int) -> Iterator[list[str]]:
    """The layers in runs of nearly equal number."""
    bounds = [round(i * len(order) / count) for i in range(count + 1)]
    for first, last in itertools.pairwise(bounds):
        if first < last:
            yield list(order[first:last])
