"""What each kind of form can do better under tr(E H E') than its plain projection: a table keyed by the form's type.

Every entry answers: given what the other parts leave, a form of this kind with less error (+ price * bits), from the
present one. The caller keeps it only if it is feasible and better.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..forms import Codebook, Form, Grid, LowRank, Sparse, Trellis
from .compression import Compression
from .grid import Grid as GridPart
from .metric import Metric
from .scaled_grid import ScaledGrid, coarse
from .scope import AXES
from .spectral import Spectrum
from .stored import rounded
from .sweep import Sweep, settle

_SUPPORTS = 5  # sets of positions that are tried in one step
_PRICES = 10  # that are tried to meet given bits


@dataclass(frozen=True, eq=False)
class Problem:
    """One part of one layer: min tr((R - D) H (R - D)') + price * bits(D).

    Attributes:
        part: the compression whose form D is.
        rest: R in `metric.rows`, what the other parts leave.
        price: None when no price is asked.
    """

    part: Compression
    rest: Tensor
    metric: Metric
    price: float | None = None

    def error(self, form: Form) -> float:
        return self.metric.error(self.rest - self.metric.rows(form.dense()))


def refit(problems: Mapping[str, Problem], forms: Mapping[str, Form]) -> dict[str, Form]:
    """Better forms, under the same names, for one part of all layers of a task; those that nothing is known for stay.

    A codebook that several layers share (per="task") is fitted to all of them at once.
    """
    shared = {id(form.values) for form in forms.values() if isinstance(form, Codebook)}
    if len(forms) > 1 and len(shared) == 1 and all(isinstance(form, Codebook) for form in forms.values()):
        return dict(_codebooks(problems, forms))  # type: ignore[arg-type]
    return {name: _STEPS.get(type(form), _same)(problems[name], form) for name, form in forms.items()}


def nothing(part: Compression, weight: Tensor) -> Form | None:
    """The zero weight as a form of a compression whose every choice `refit` makes by itself; None for any other.

    From it one refit is the solution: no projection and no loop need come before.
    """
    if isinstance(part, GridPart):
        axis = None
    elif isinstance(part, ScaledGrid) and weight.ndim > AXES[part.per]:
        axis = AXES[part.per]
    else:
        return None
    value = float(part.step) if isinstance(part.step, int | float) else 1.0
    step = torch.full(() if axis is None else (weight.shape[axis],), value, dtype=torch.float64, device=weight.device)
    levels = torch.zeros(weight.shape, dtype=torch.int32, device=weight.device)
    stored = rounded(step, part.dtype, weight.dtype)
    kind = Trellis if part.trellis else Grid
    return kind(shape=weight.shape, dtype=weight.dtype, levels=levels, step=stored, axis=axis)


def _same(problem: Problem, form: Form) -> Form:
    return form


def _low_rank(problem: Problem, form: LowRank) -> Form:
    """Whitened: SVD_r(R C) C^-1 with H = C C' leaves sum_{i>r} sigma_i^2(R C), so the rank of least cost is exact too.

    Only where the view's columns are the coordinates of H: one group, and rows of the weight as rows of the view.
    """
    metric, tokens = problem.metric, problem.metric.is_diagonal
    _, m, n = problem.rest.shape
    matrix = form.view.to_matrix(torch.arange(form.size).reshape(form.shape))
    seen = metric.layout(torch.arange(form.size, dtype=torch.float64).reshape(form.shape))[0]
    if problem.rest.shape[0] != 1 or not torch.equal(matrix.T if tokens else matrix, seen.to(torch.int64)):
        return form
    if tokens:
        root = metric.gram.sqrt()
        spectrum = Spectrum.of(problem.rest[0] * root)
    else:
        root = torch.linalg.cholesky(metric.gram[0])
        spectrum = Spectrum.of(problem.rest[0] @ root)
    rank = form.rank
    cost = problem.part.cost(form, price=problem.price)
    if cost and rank:
        tails = spectrum.tails()
        totals = tails + torch.arange(tails.numel(), device=tails.device) * (cost / rank)
        rank = min(int(totals.argmin()), min(m, n) - 1)
    left, right = spectrum.factors(rank)
    right = right / root if tokens else torch.linalg.solve_triangular(root, right, upper=False, left=False)
    left = left if metric.factors is None else left / metric.factors[0]
    # Factors of equal norm: the narrow dtypes round both alike.
    balance = (right.norm(dim=1) / left.norm(dim=0).clamp_min(1e-300)).sqrt().clamp(1e-150, 1e150)
    left, right = left * balance, right / balance[:, None]
    if tokens:
        left, right = right.T, left.T
    stored = form.left.dtype
    return replace(form, left=rounded(left, None, stored).contiguous(), right=rounded(right, None, stored).contiguous())


def _sparse(problem: Problem, form: Sparse) -> Form:
    """Values under H, positions fixed; then, while that is better, as many positions where they gain most.

    An entry gains (s + g/h)^2 h, what its best value saves over none while the others stay: h = H_jj, g its slope.
    """
    best, least = _values(problem, form), math.inf
    for _ in range(_SUPPORTS):
        error = problem.error(best)
        if not error < least * (1 - 1e-4):
            break
        least, dense = error, problem.metric.rows(best.dense())
        slope = problem.metric.times(problem.rest - dense)
        bend = problem.metric.gram if problem.metric.is_diagonal else problem.metric.gram.diagonal(dim1=1, dim2=2)
        bend = bend.expand(dense.shape[0], -1)[:, None]
        gain = problem.metric.shaped((dense + slope / bend) ** 2 * bend, form.shape).reshape(-1)
        indices = gain.topk(form.indices.numel()).indices.sort().values
        moved = _values(problem, replace(form, indices=indices, values=torch.ones_like(form.values)))
        like = {"": moved.dense()}
        if problem.error(moved) < least and problem.part.is_feasible({"": moved}, like):
            best = moved
    return best


def _values(problem: Problem, form: Sparse) -> Sparse:
    """Row by row S_iM = (R H)_iM (H_MM)^-1, rows of equal counts together."""
    metric, shape = problem.metric, form.shape
    if metric.is_diagonal or not form.indices.numel():
        exact = metric.weight(problem.rest, shape).reshape(-1).index_select(0, form.indices)
        return replace(form, values=rounded(exact, None, form.values.dtype))
    groups, m, n = problem.rest.shape
    pulled = metric.times(problem.rest).reshape(groups * m, n)
    row, column = form.indices // n, form.indices % n
    counts = torch.bincount(row, minlength=groups * m)
    first = counts.cumsum(0) - counts
    values = torch.empty(form.indices.numel(), dtype=torch.float64, device=form.device)
    for count in counts.unique().tolist():
        rows = (counts == count).nonzero().reshape(-1)
        # A bounded number of systems at once.
        for part in rows.split(max(1, (1 << 22) // max(count, 1) ** 2)) if count else ():
            places = first[part, None] + torch.arange(count, device=first.device)
            kept, group = column[places], (part // m)[:, None, None]
            systems = metric.gram[group, kept[:, :, None], kept[:, None, :]]
            values[places] = torch.linalg.solve(systems, pulled[part].gather(1, kept)[:, :, None])[:, :, 0]
    if metric.factors is not None:
        values = values / metric.factors.reshape(-1)[row]
    return replace(form, values=rounded(values, None, form.values.dtype))


def _codebook(problem: Problem, form: Codebook) -> Form:
    """Assignments entry by entry under H, values fixed; then the values by least squares, assignments fixed."""
    if form.axis is not None:
        return _scaled(problem, form)
    return _codebooks({"": problem}, {"": form})[""]


def _codebooks(problems: Mapping[str, Problem], forms: Mapping[str, Codebook]) -> dict[str, Form]:
    """Of layers that share their values; where only a common factor of the values is free, that factor."""
    settled = {name: _assigned(problems[name], form) for name, form in forms.items()}
    values = next(iter(settled.values())).values
    k = values.numel()
    normal = torch.zeros(k, k, dtype=torch.float64, device=values.device)
    pulled = torch.zeros(k, dtype=torch.float64, device=values.device)
    for name, form in settled.items():
        metric, codes = problems[name].metric, form.codes.reshape(-1).to(torch.int64)
        for a in range(k):
            weighted = metric.times(metric.rows((form.codes == a).to(torch.float64)))
            pulled[a] += (weighted * problems[name].rest).sum()
            own = metric.shaped(metric.scaled(weighted), form.shape)
            normal[a] += torch.bincount(codes, own.reshape(-1), minlength=k)
    used = normal.diagonal() > 0
    best = values.to(torch.float64, copy=True)
    best[used] = torch.linalg.lstsq(normal[used][:, used], pulled[used]).solution
    wide = values.to(torch.float64)
    scale = float(wide @ pulled) / (float(wide @ normal @ wide) or 1.0)
    for new in (best, wide * scale):
        fitted = rounded(new, None, values.dtype)
        ascending = bool((fitted.diff() >= 0).all())
        refitted: dict[str, Form] = {name: replace(form, values=fitted) for name, form in settled.items()}
        part = next(iter(problems.values())).part
        if ascending and part.is_feasible(refitted, {name: form.dense() for name, form in refitted.items()}):
            return refitted
    return dict(settled)


def _assigned(problem: Problem, form: Codebook) -> Codebook:
    """The same values, every entry at the one that is best while the others stay."""
    metric, values = problem.metric, form.values.to(torch.float64)
    if metric.is_diagonal:
        target = metric.weight(problem.rest, form.shape)
        borders = (values[1:] + values[:-1]) / 2
        return replace(form, codes=torch.searchsorted(borders, target.contiguous()).to(form.codes.dtype))
    codes = form.codes.reshape(problem.rest.shape)
    scales, nothing = metric.scaled(metric.gram.new_ones(1, 1, 1)), torch.zeros_like(values)
    return replace(form, codes=settle(problem.rest, metric, codes, values, scales, nothing).reshape(form.shape))


def _grid(problem: Problem, form: Grid | Trellis) -> Form:
    """Levels by the sweep at the natural steps, or at those given, then settled; a free single step by least squares.

    On a path they are not settled entry by entry, which would leave it.

    Where the bits are given and not the price, at the least price that keeps to them.
    """
    given = getattr(problem.part, "bits_per_weight", None)
    if given is None:
        return _swept(problem, form, problem.price or 0.0)
    variance = float(problem.rest.square().mean()) or 1.0
    price = 2 * math.log(2) * variance * problem.metric.mean * 4.0**-given
    low, high, best = 0.0, math.inf, form
    for _ in range(_PRICES):
        found = _swept(problem, form, price)
        if problem.part.is_feasible({"": found}, {"": found.dense()}):
            high, best = price, found
        else:
            low = price
        # Doubled or halved until both sides are known: a price four times higher saves about a bit.
        price = 2 * low if high == math.inf else high / 2 if low == 0 else math.sqrt(low * high)
    return best


def _swept(problem: Problem, form: Grid | Trellis, price: float) -> Grid | Trellis:
    part, metric, on_path = problem.part, problem.metric, isinstance(form, Trellis)
    free = price > 0 and getattr(part, "step", 0.0) in ("auto", None) and part.per != "task"
    sweep = Sweep(problem.rest, metric, price, on_path=on_path)
    step = form.step
    if free:
        natural = sweep.natural_steps(form.shape, "weight" if form.axis is None else list(AXES)[form.axis])
        step = rounded(natural.reshape(step.shape), None, step.dtype)
        step = step if form.axis is None else coarse(step)
    wide = step.to(torch.float64).reshape([-1] + [1] * (len(form.shape) - 1 - (form.axis or 0)))
    steps = metric.scaled(wide.expand(form.shape).reshape(sweep.target.shape))
    levels = sweep.levels(steps, getattr(part, "dead_zone", 0.5))
    if not metric.is_diagonal and not on_path:
        levels = _settled(problem, levels, steps, price)
    swept = replace(form, levels=levels.reshape(form.shape), step=step)
    if isinstance(swept, Trellis):
        swept = replace(swept, node=0, down=not metric.is_diagonal)
    return _scaled(problem, swept) if free and form.axis is None else swept  # type: ignore[return-value]


def _settled(problem: Problem, levels: Tensor, steps: Tensor, price: float) -> Tensor:
    """The levels, entry by entry under H, each paying -log2 of its share."""
    most = int(levels.abs().max()) if levels.numel() else 0
    if most > 1 << 12:
        return levels
    magnitudes = torch.bincount(levels.abs().reshape(-1), minlength=most + 1).to(torch.float64)
    bits = (magnitudes.sum() + most + 1).log2() - (magnitudes + 1).log2()
    bits[1:] += 1
    values = torch.arange(-most, most + 1, dtype=torch.float64, device=levels.device)
    costs = price * bits[values.abs().to(torch.int64)]
    return (settle(problem.rest, problem.metric, levels + most, values, steps, costs) - most).to(levels.dtype)


def _scaled(problem: Problem, form: Form) -> Form:
    """The form with its one continuous tensor, in which it is linear, times the best factor."""
    (name, values), *others = form.continuous_tensors().items()
    dense = problem.metric.rows(form.dense())
    weighted = problem.metric.times(dense)
    power = float((weighted * dense).sum())
    if others or not power:
        return form
    factor = float((weighted * problem.rest).sum()) / power
    if not math.isfinite(factor):
        return form
    return form.replace_tensors({name: rounded(values.to(torch.float64) * factor, None, values.dtype)})


_STEPS: dict[type[Form], Callable[..., Form]] = {
    Codebook: _codebook,
    Grid: _grid,
    Trellis: _grid,
    LowRank: _low_rank,
    Sparse: _sparse,
}


def cost(part: Compression, form: Form, price: float | None) -> float:
    """What a part pays besides the error: its own cost where it has a price, else nothing."""
    return 0.0 if price is None else part.cost(form, price=price)
