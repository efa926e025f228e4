"""What a network's weights must cost and do cost: rate-distortion theory beside the coders (algorithms 4 and 5).

The distortion is successive pruning's: a weight's L1 error relative to its L1 norm, and of a net the mean over its
weights. To first order it bounds how far the output moves. All bounds are for independent entries of these fixed
weights: contexts may go below, and retraining too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from torch import Tensor

from .coding.limits import rate_distortion_curve
from .compressions import Embedded, Successive
from .container import measure
from .errors import ArgumentError, WeightError, must
from .forms import Form
from .forms import Successive as SuccessiveForm
from .forms.successive import Rule
from .records import FitRecord, RateRecord

DISTORTIONS = (0.99, 0.95, 0.9, 0.8, 0.65, 0.5, 0.35)
_SLOPES = tuple(0.01 * 2 ** (i / 4) for i in range(51))
"""Of the histogram's curve, in 1/mean magnitude: a Laplacian has distortion 1/slope."""

Weights = Mapping[str, Tensor]


def laplace_fits(weights: Weights) -> list[FitRecord]:
    """How well a Laplacian around zero describes each weight.

    >>> import torch
    >>> weight = torch.distributions.Laplace(0.0, 2.0).icdf((torch.arange(20000) + 0.5) / 20000)
    >>> [fit] = laplace_fits({"w": weight})
    >>> round(fit.mean, 2), round(fit.kurtosis), fit.distance < 0.001
    (2.0, 6, True)
    """
    return [_fit(name, _entries(name, weight)) for name, weight in weights.items()]


def rate_table(weights: Weights, distortions: Sequence[float] = DISTORTIONS, *, seed: int = 0) -> list[RateRecord]:
    """For each weight, then for all together, the bits at each distortion.

    Args:
        weights: none of them all zero. Cost: seconds for 10^5 entries, most of it for the lowest distortion.
        distortions: each in (0, 1).
        seed: of the sequence in which successive pruning counts.
    """
    if not distortions or not all(0 < d < 1 for d in distortions):
        raise ArgumentError(must("distortions", "in (0, 1), at least one", distortions))
    entries = {name: _entries(name, weight) for name, weight in weights.items()}
    curves = {name: _curve(entry) for name, entry in entries.items()}
    rows: list[RateRecord] = []
    groups = [(name, [name]) for name in weights]
    if len(weights) > 1:
        groups.append(("all", list(weights)))
    for label, names in groups:
        own = {name: weights[name] for name in names}
        sizes = np.array([entries[name].size for name in names], dtype=float)
        paper, authors = (_successive(own, distortions, mode, seed) for mode in ("paper", "authors"))
        for i, d in enumerate(distortions):
            rows.append(
                RateRecord(
                    name=label,
                    size=int(sizes.sum()),
                    distortion=d,
                    laplace=_laplace(sizes, d),
                    histogram=_histogram([curves[name] for name in names], sizes, d),
                    paper=paper[i],
                    authors=authors[i],
                    embedded=_embedded(own, d),
                )
            )
    return rows


def relative_l1(weights: Weights, forms: Mapping[str, Form]) -> float:
    """The mean over the weights of ||w - Delta||_1 / ||w||_1."""
    found = []
    for name, weight in weights.items():
        exact = weight.detach().double()
        found.append(float((exact - forms[name].dense().double()).abs().sum() / exact.abs().sum()))
    return sum(found) / len(found)


def _entries(name: str, weight: Tensor) -> np.ndarray:
    entries = weight.detach().cpu().double().reshape(-1).numpy()
    if not np.isfinite(entries).all() or not entries.any():
        raise WeightError(must(f"the weight {name!r}", "finite and not all zero", f"{entries.size} entries"))
    return entries


def _fit(name: str, entries: np.ndarray) -> FitRecord:
    mean = float(np.abs(entries).mean())
    centred = entries - entries.mean()
    kurtosis = float((centred**4).mean() / (centred**2).mean() ** 2) if centred.any() else math.nan
    ordered = np.sort(entries)
    fitted = np.where(ordered < 0, 0.5 * np.exp(np.minimum(ordered, 0) / mean), 1 - 0.5 * np.exp(-ordered / mean))
    steps = np.arange(entries.size + 1) / entries.size
    distance = float(max((steps[1:] - fitted).max(), (fitted - steps[:-1]).max()))
    return FitRecord(name, entries.size, mean, kurtosis, distance)


def _laplace(sizes: np.ndarray, distortion: float) -> float:
    """Reverse water-filling: d_l = min(1, theta n_l) of mean `distortion`, log2(1/d_l) bits for each weight."""
    theta = _solve(lambda theta: float(np.minimum(1.0, theta * sizes).mean()), distortion, 1e-12, 1.0)
    return float((sizes * -np.log2(np.minimum(1.0, theta * sizes))).sum() / sizes.sum())


def _curve(entries: np.ndarray) -> np.ndarray:
    """Rows of distortion and rate at _SLOPES, both in units of the mean magnitude."""
    mean = float(np.abs(entries).mean())
    points = np.array(rate_distortion_curve(entries, [s / mean for s in _SLOPES], squared=False))
    return points / [mean, 1.0]


def _histogram(curves: Sequence[np.ndarray], sizes: np.ndarray, distortion: float) -> float:
    """The rates of equal slope: of weight l it is beta / n_l, as its distortion counts relative to its norm."""

    def at(beta: float) -> np.ndarray:
        return np.array([_point_at(c, beta / n) for c, n in zip(curves, sizes, strict=True)])

    # The slope rises as the distortion falls.
    beta = 1 / _solve(lambda inverse: float(at(1 / inverse)[:, 0].mean()), distortion, 1e-12, 1e3)
    return float((at(beta)[:, 1] * sizes).sum() / sizes.sum())


def _point_at(curve: np.ndarray, slope: float) -> tuple[float, float]:
    """Distortion and rate at a slope; beyond the last point as of a smooth density, where D = 1/slope."""
    place = math.log(slope)
    logs = np.log(_SLOPES)
    distortion, rate = (float(np.interp(place, logs, column)) for column in curve.T)
    beyond = max(place - logs[-1], 0.0)
    return distortion * math.exp(-beyond), rate + beyond / math.log(2)


def _successive(weights: Weights, distortions: Sequence[float], mode: Rule, seed: int) -> list[float]:
    """Coded bits a weight at each distortion: prefixes of one sequence of picks."""
    goal = min(distortions)
    while True:
        forms = Successive(distortion=goal, mode=mode, per="task", seed=seed).project_task(weights)
        if relative_l1(weights, forms) <= min(distortions) * (1 + 1e-6):
            break
        goal *= 0.8  # the authors' rule measures it in other norms
    first = next(iter(forms.values()))
    assert isinstance(first, SuccessiveForm)

    def cut(count: int) -> dict[str, Form]:
        events = first.events[:count].clone()
        return {name: form.replace_tensors({"events": events}) for name, form in forms.items()}

    rates = []
    for d in distortions:
        low, high = 0, first.events.numel()
        while low < high:
            middle = (low + high) // 2
            enough = relative_l1(weights, cut(middle)) <= d
            low, high = (low, middle) if enough else (middle + 1, high)
        rates.append(_coded(cut(low)))
    return rates


def _embedded(weights: Weights, distortion: float) -> float:
    """Coded bits a weight, with steps in proportion to the weights' norms, as equal slopes ask for."""
    if len(weights) == 1:
        return _coded(Embedded(distortion=distortion).project_task(weights))
    norms = {name: float(weight.detach().double().abs().sum()) for name, weight in weights.items()}
    tops = {name: float(weight.detach().abs().max()) for name, weight in weights.items()}

    def forms(scale: float) -> dict[str, Form]:
        # A step above the largest entry says no more than one at it.
        return {n: Embedded(min(scale * norms[n], 1.01 * tops[n])).project(w) for n, w in weights.items()}

    most = max(1.01 * tops[name] / norms[name] for name in weights)
    scale = _solve(lambda scale: relative_l1(weights, forms(scale)), distortion, most * 2.0**-20, most)
    return _coded(forms(scale))


def _coded(forms: Mapping[str, Form]) -> float:
    """Bits a weight of all payloads, without the header."""
    written = measure(forms)
    return 8 * (written.shared_bytes + written.payload_bytes) / sum(form.size for form in forms.values())


def _solve(function: Callable[[float], float], value: float, low: float, high: float) -> float:
    """The largest place, to 1e-5, where a rising function is not above the value; by bisection of the logarithm."""
    while high / low > 1 + 1e-5:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if function(middle) <= value else (low, middle)
    return low
