"""The Learning-Compression loop (Part I, 1707.01209): L step, C step, multipliers, and the best iterate.

    L step   w      <- argmin L(w) + mu/2 ||w - Delta(Theta) - lambda/mu||^2        the learner's
    C step   Theta  <- Pi(w - lambda/mu)                                            the compressions'
             lambda <- lambda - mu (w - Delta(Theta))

Nothing here names a concrete form or compression.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..container import measure
from ..errors import BudgetError
from ..forms import Form
from ..network import Network, applied, load_into, snapshot
from ..plan import Task
from ..records import StepRecord, Verdict
from ..selection import Limit
from .checkpoint import Checkpoint
from .finetune import Trainable
from .judge import Evaluate, error_of
from .learner import Learner, Step
from .passes import (
    back_on_constraints,
    c_step,
    c_step_within,
    has_batch_norm,
    recompute_batch_norm,
    settled,
    shrunk,
)
from .schedule import Schedule
from .state import State
from .training import seeded

_ROOM = 0.002
"""Share of the budget left free in a C step."""

_DEAD_ZONES = tuple(0.5 + i / 256 for i in range(257))
"""In steps of a grid."""
_SPENT = 0.97
"""Share of the budget from which on the dead zone is left as it is."""

_CHOOSING = 0.25
"""Share of the steps in which weights choose among candidates; after it each keeps its last choice."""


@dataclass(frozen=True)
class Loop:
    """One run. `model` is trained and changed: the caller passes its own copy.

    Args:
        inputs: batches of the model's input, to recompute BatchNorm statistics for the compressed weights.
        limit: the most that the network may cost.
        price: of a bit, in squared error, where no limit finds it.
        importance: how much a weight's squared error and its penalty count, a number; in direct compression also one
            for each entry.
        before: steps of the runs that this one continues; they count in the seeds of its own.
        report: called with every new row of the history.
    """

    model: nn.Module
    tasks: Sequence[Task]
    learner: Learner | None
    schedule: Schedule
    evaluate: Evaluate | None = None
    inputs: Iterable[Any] = ()
    limit: Limit | None = None
    price: float | None = None
    importance: Mapping[str, Tensor] | None = None
    seed: int = 0
    before: int = 0
    checkpoint: Checkpoint | None = None
    report: Callable[[StepRecord], None] = lambda row: None

    def run(self, resume: bool = False) -> tuple[Network, list[StepRecord], Verdict]:
        """The best compressed network, the history, and how it ended."""
        state = self.checkpoint.load(self.model) if resume and self.checkpoint else None
        if state is None:
            state = self._start()
            self._save(state)
        verdict = Verdict.DIRECT
        if self.learner is not None:
            verdict = self._lc(state, self.learner)
            if self.schedule.finetune and verdict is not Verdict.DIVERGED and not self._finetune(state, self.learner):
                verdict = Verdict.DIVERGED
        kept = next((row for row in reversed(state.history) if row.best), None)
        if verdict is Verdict.STEPS_USED and kept is not None and kept.phase == "finetune":
            verdict = Verdict.FINETUNED  # whose weights are their forms
        return state.best, state.history, verdict

    def _start(self) -> State:
        if self.inputs != ():
            # A budget must count the statistics as they will be, not as an untrained layer's zeros and ones.
            self._recompute()
        began = time.perf_counter()
        weights = self._weights()
        zeros = {name: torch.zeros_like(w) for name, w in weights.items()}
        state = State(forms={}, multipliers=zeros, best={})
        # A penalty is balanced against mu, so the path begins with the solution at the first one.
        mu = self.schedule.mu(0) if self.learner is not None and self.schedule.steps else None
        state.forms, known = self._c_step(state, weights, mu)
        compressed = time.perf_counter() - began
        self._measure(state, "direct", 0, 0.0, None, 0.0, compressed, state.forms, known)
        if mu is not None and self._is_relaxed(0):
            state.forms, _ = self._c_step(state, weights, mu, self.schedule.budget_factor(0))
        return state

    def _lc(self, state: State, learner: Learner) -> Verdict:
        schedule = self.schedule
        while state.phase == "lc" and state.index < schedule.steps:
            mu = schedule.mu(state.index)
            mus = self._mus(mu)
            targets = {name: form.dense() + state.multipliers[name] / mus[name] for name, form in state.forms.items()}
            most = max(mus.values(), default=mu) / mu
            step = Step(state.index, schedule.steps, mu, self._step_seed(state), schedule.epochs, most)
            began = time.perf_counter()
            loss = learner.step(targets, step)
            learned = time.perf_counter() - began
            if not self._healthy(loss):
                return Verdict.DIVERGED
            began = time.perf_counter()
            weights = self._weights()
            shifted = {name: w - state.multipliers[name] / mus[name] for name, w in weights.items()}
            state.forms, known = self._c_step(state, shifted, mu, schedule.budget_factor(state.index))
            if schedule.method == "augmented_lagrangian":
                for name, form in state.forms.items():
                    state.multipliers[name] -= mus[name] * (weights[name] - form.dense())
            compressed = time.perf_counter() - began
            gap = self._measure(state, "lc", state.index, mu, loss, learned, compressed, state.forms, known)
            is_done = gap < schedule.tolerance and not self._is_relaxed(state.index)
            state.index += 1
            if is_done:
                state.index = schedule.steps
            self._save(state)
        lc = [row for row in state.history if row.phase == "lc"]
        if not lc:
            return Verdict.FINETUNED if schedule.finetune else Verdict.DIRECT
        return Verdict.CONVERGED if lc[-1].gap < schedule.tolerance else Verdict.STEPS_USED

    def _mus(self, mu: float) -> dict[str, float]:
        """Of every weight's own penalty."""
        importance = self.importance or {}
        names = [name for task in self.tasks for name in task.weights]
        return {name: mu * float(importance[name]) if name in importance else mu for name in names}

    def _is_relaxed(self, index: int) -> bool:
        """True while the budget of a step is larger than the limit."""
        return self.limit is not None and self.schedule.budget_factor(index) > 1

    def _c_step(
        self, state: State, targets: Mapping[str, Tensor], mu: float | None = None, factor: float = 1.0
    ) -> tuple[dict[str, Form], Network | None]:
        """At `factor` times the limit, if there is one; the forms of before where no others are within it.

        With them what a file of the network holds, where the bytes of its BatchNorm statistics had to be known.
        """
        previous = state.forms or None
        tasks = self.tasks
        if previous and state.index >= _CHOOSING * self.schedule.steps and factor == 1:
            tasks = settled(tasks, previous)
        if self.limit is None:
            free = c_step(tasks, targets, mu=mu, price=self.price, previous=previous, importance=self.importance)
            return free, None
        limit = replace(self.limit, most=int(factor * self.limit.most))
        network, excess = snapshot(self.model, {}), 0
        while True:
            try:
                found = c_step_within(
                    _with_room(limit, excess),
                    tasks,
                    targets,
                    network,
                    mu=mu,
                    price=state.price,
                    previous=previous,
                    importance=self.importance,
                )
            except BudgetError:
                # The weights have moved to where the plan fits no more; they may come back.
                if previous is None:
                    raise
                return previous, None
            state.price = found.price
            if limit.unit != "bytes" or self.inputs == () or not has_batch_norm(self.model):
                return found.forms, None
            with self._compressed(found.forms) as network:
                over = limit.measure(network) - limit.most
            if over <= 0:
                return found.forms, network
            excess += over

    def _finetune(self, state: State, learner: Learner) -> bool:
        """False when it diverged."""
        total = -(-self.schedule.finetune // self.schedule.epochs)
        if state.phase == "lc":
            state.phase, state.index = "finetune", 0
            state.forms = {name: state.best[name] for name in state.forms}
            load_into(self.model, state.best)
        trainable = Trainable(state.forms, self.schedule.straight_through)
        if state.trainable is not None:
            trainable.restore(state.trainable)
        left = self.schedule.finetune - state.index * self.schedule.epochs
        while state.index < total:
            step = Step(state.index, total, 0.0, self._step_seed(state), min(self.schedule.epochs, left))
            began = time.perf_counter()
            with trainable.installed(self.model):
                loss = learner.step({}, step)
            learned = time.perf_counter() - began
            if not (self._healthy(loss) and all(bool(torch.isfinite(t).all()) for t in trainable.values())):
                return False
            began = time.perf_counter()
            tasks = settled(self.tasks, state.forms)
            self._set_dead_zone(trainable)
            tuned = back_on_constraints(tasks, trainable.current(), state.price)
            fitted = self._fitted(state, tasks, tuned)
            if fitted is not tuned:
                state.forms, trainable = fitted, Trainable(fitted, self.schedule.straight_through)
            compressed = time.perf_counter() - began
            self._measure(state, "finetune", state.index, 0.0, loss, learned, compressed, fitted)
            state.index, left = state.index + 1, left - step.epochs
            state.trainable = trainable.values()
            self._save(state)
        return True

    def _set_dead_zone(self, trainable: Trainable) -> None:
        """Makes it as small as the limit allows, or as large as it may be: latents near 0 become zeros, and may return.

        Training then makes up for what changed; so it stays as it is while the limit is kept and all but spent.
        """
        if self.limit is None or not trainable.has_dead_zone:
            return
        limit = _with_room(self.limit)

        def size(dead_zone: float) -> int:
            trainable.dead_zone = dead_zone
            return limit.measure(snapshot(self.model, trainable.current()))

        def is_over(dead_zone: float) -> bool:
            return size(dead_zone) > limit.most

        if _SPENT * limit.most <= size(trainable.dead_zone) <= limit.most:
            return
        trainable.dead_zone = _DEAD_ZONES[bisect_left(_DEAD_ZONES[:-1], True, key=lambda zone: not is_over(zone))]

    def _fitted(self, state: State, tasks: Sequence[Task], tuned: dict[str, Form]) -> dict[str, Form]:
        """The same forms, or smaller ones near them where their trained values cost more than the limit."""
        if self.limit is None:
            return tuned
        with self._compressed(tuned) as network:
            if self.limit.measure(network) <= self.limit.most:
                return tuned
        mu = self.schedule.mu(self.schedule.steps)
        return shrunk(
            _with_room(self.limit), tasks, tuned, network, mu=mu, price=state.price, importance=self.importance
        )

    def _measure(
        self,
        state: State,
        phase: str,
        index: int,
        mu: float,
        loss: float | None,
        learned: float,
        compressed: float,
        forms: Mapping[str, Form],
        known: Network | None = None,
    ) -> float:
        """Evaluates the compressed network, keeps it if it is the best, and adds a row; returns the gap."""
        began = time.perf_counter()
        gap = 0.0 if phase == "finetune" else _gap(self._weights(), forms)
        with self._compressed(forms, known) as network:
            error = self._error(phase)
        size = measure(network).size_bytes
        # Without `evaluate` the last iterate counts as the best; of equals, the later one.
        fits = self.limit is None or self.limit.measure(network) <= self.limit.most
        # NaN is infinity by now, and no better than an infinity that came before.
        lost = error == math.inf and phase != "direct"
        best = fits and not lost and (error is None or error <= state.best_error)
        if best:
            state.best, state.best_error = network, math.inf if error is None else error
        state.best = state.best or network
        measured = time.perf_counter() - began
        row = StepRecord(phase, index, mu, loss, gap, error, size, learned, compressed, measured, best)
        state.history.append(row)
        self.report(row)
        return gap

    @contextmanager
    def _compressed(self, forms: Mapping[str, Form], known: Network | None = None) -> Iterator[Network]:
        """The model with these forms and the BatchNorm statistics that go with them; what a file of it holds.

        That may be `known`; then the statistics are not computed again.
        """
        with applied(self.model, forms):
            if known is not None:
                load_into(self.model, known)
            elif self.inputs != ():
                self._recompute()
            yield snapshot(self.model, forms)

    def _recompute(self) -> None:
        """BatchNorm statistics from the same batches each time, also those of a DataLoader that shuffles."""
        with seeded(self.seed, next(self.model.parameters()).device):
            recompute_batch_norm(self.model, self.inputs)

    def _error(self, phase: str) -> float | None:
        if self.evaluate is None:
            return None
        return error_of(self.evaluate, self.model, phase, self._kept())

    def _kept(self) -> str:
        """What is not lost."""
        path = self.checkpoint.path if self.checkpoint else None
        return f"; all steps before are in {path}, go on with resume" if path and path.exists() else ""

    def _weights(self) -> dict[str, Tensor]:
        parameters = dict(self.model.named_parameters())
        return {name: parameters[name].detach() for task in self.tasks for name in task.weights}

    def _healthy(self, loss: float | None) -> bool:
        # Frozen ones may be a mask of -inf.
        finite = all(bool(torch.isfinite(p).all()) for p in self.model.parameters() if p.requires_grad)
        return finite and (loss is None or math.isfinite(loss))

    def _step_seed(self, state: State) -> int:
        """A seed of its own for every step, fine-tuning after the loop's."""
        number = self.before + state.index + (0 if state.phase == "lc" else 1 << 20)
        return (self.seed << 24) + number

    def _save(self, state: State) -> None:
        if self.checkpoint is not None:
            self.checkpoint.save(self.model, state)


def _with_room(limit: Limit, excess: int = 0) -> Limit:
    """The limit less a little, and `excess`, for what training does to the other tensors."""
    if limit.unit != "bytes":
        return limit
    room = int(_ROOM * limit.most) + excess
    return replace(limit, measure=lambda forms: limit.measure(forms) + room)


def _gap(weights: Mapping[str, Tensor], forms: Mapping[str, Form]) -> float:
    """||w - Delta|| / ||w|| over all weights."""
    error = sum(float((w.double() - forms[name].dense().double()).square().sum()) for name, w in weights.items())
    norm = sum(float(w.double().square().sum()) for w in weights.values())
    return math.sqrt(error / norm) if norm else 0.0
