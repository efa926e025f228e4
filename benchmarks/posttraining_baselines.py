"""Whole networks rounded as others round them, within a number of bytes: what post-training is compared with.

- RTN: every weight to the nearest multiples of a step of its own; no data.
- GPTQ: the same steps, column after column, each error passed on by the inverse of the damped second moments of the
  layer's inputs in the original network (Frantar et al. 2022).
- sequential: Q, then S, then L, each once. GPTQ; then half a percent of the entries free, those with the largest error
  times root mean square of their input; then what is left in rank four, whitened, of matrices of 64 x 64 or more.

A step is c times the root mean square of its weight, and one c fills the budget. Vectors are float16, files ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from scipy.optimize import brentq
from torch import Tensor, nn

from summands.compressions import Keep, LowRank, Prune
from summands.compressions.metric import Metric
from summands.compressions.refit import Problem, refit
from summands.compressions.sweep import Sweep
from summands.container import measure
from summands.forms import Form, Sum
from summands.forms import Grid as GridForm
from summands.lc.calibrate import Calibration
from summands.network import Network, snapshot, state_tensors

WAYS = ("RTN", "GPTQ", "sequential")
DAMPING = 0.01
SPARSE = Prune(keep=0.005, dtype="float16")
LOW_RANK = LowRank(4, dtype="float16")
_NARROW = 64
_LEAST, _MOST = -6.0, 8.0
"""log2 c."""


@dataclass
class Rounding:
    """One weight under the metric of its inputs, or under none."""

    weight: Tensor
    metric: Metric | None
    _sweep: Sweep | None = field(init=False)

    def __post_init__(self) -> None:
        self._sweep = None if self.metric is None else Sweep(self.metric.rows(self.weight), self.metric)

    def grid(self, c: float) -> GridForm:
        step = (c * self.weight.double().square().mean().sqrt()).float().clamp_min(1e-30)
        if self._sweep is None:
            levels = (self.weight / step).round()
        else:
            levels = self._sweep.levels(step.double()).reshape(self.weight.shape)
        return GridForm(shape=self.weight.shape, dtype=self.weight.dtype, levels=levels.int(), step=step)

    def sum(self, c: float) -> Form:
        """Q, then S, then L."""
        quantised, metric = self.grid(c), self.metric
        if metric is None or metric.is_diagonal:
            return quantised
        rest = self.weight - quantised.dense()
        squares = metric.gram.diagonal(dim1=1, dim2=2)[:, None].expand_as(metric.rows(rest))
        sparse = SPARSE.project(rest, importance=metric.weight(squares, rest.shape).float())
        terms: tuple[Form, ...] = (quantised, sparse)
        if metric.gram.shape[0] == 1 and min(len(rest), rest[0].numel()) >= _NARROW:
            rest = rest - sparse.dense()
            problem = Problem(LOW_RANK, metric.rows(rest), metric)
            terms = (*terms, refit({"": problem}, {"": LOW_RANK.project(rest)})[""])
        return Sum(shape=rest.shape, dtype=rest.dtype, terms=terms)


def compressed(model: nn.Module, way: str, budget: int, batches: Iterable[Any]) -> Network:
    """The largest file within the budget, to half a percent; `way` is one of WAYS."""
    weights = {name: t for name, t in state_tensors(model).items() if t.is_floating_point()}
    names = [name for name, weight in weights.items() if weight.ndim > 1]
    metrics: Mapping[str, Metric] = {}
    if way != "RTN":
        tallies = Calibration(model, batches).tally(names)
        metrics = {name: tally.moments().metric(DAMPING) for name, tally in tallies.items()}
    roundings = {name: Rounding(weights[name], metrics.get(name)) for name in names}
    vectors = {name: Keep("float16").project(w) for name, w in weights.items() if name not in names}
    make = Rounding.sum if way == "sequential" else Rounding.grid
    return _filled(lambda c: snapshot(model, {**vectors, **{n: make(r, c) for n, r in roundings.items()}}), budget)


def _filled(make: Callable[[float], Network], budget: int) -> Network:
    """The network of the least c whose file fits."""
    best: tuple[int, Network] | None = None

    def excess(octaves: float) -> float:
        nonlocal best
        made = make(2.0**octaves)
        size = measure(made).size_bytes
        if size <= budget and (best is None or size > best[0]):
            best = size, made
        # A little less than all: so the root itself fits.
        return 0.0 if 0.995 * budget <= size <= budget else size - 0.9975 * budget

    brentq(excess, _LEAST, _MOST, xtol=1e-4)
    assert best is not None  # the root fits
    return best[1]
