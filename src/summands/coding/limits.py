"""What any coder must spend: entropy, and rate-distortion bounds to print beside a measured size.

All rates are bits an entry, for independent entries of the given distribution: contexts may go below the entropy of a
histogram, retraining below everything. Formulas: Cover and Thomas, chapter 10; Blahut 1972; Arimoto 1972.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from ..errors import ArgumentError, must

LEAST_LIMITED = 256
"""Entries from which on a histogram says something of a source."""


def entropy(symbols: Tensor | np.ndarray) -> float:
    """Zeroth-order empirical entropy of integers, in bits a symbol.

    >>> entropy(np.array([0, 0, 1, 1]))
    1.0
    """
    _, counts = np.unique(np.asarray(symbols), return_counts=True)
    shares = counts / max(counts.sum(), 1)
    return float(-(shares * np.log2(shares)).sum()) + 0.0


def laplace_rate_l1(distortion: float, scale: float) -> float:
    """R(D) of a Laplace source of mean magnitude `scale` at mean absolute error D: log2(scale / D), exact.

    >>> laplace_rate_l1(0.25, scale=1.0)
    2.0
    """
    _check_positive("distortion", distortion)
    return max(0.0, math.log2(scale / distortion)) if scale > 0 else 0.0


def gaussian_rate(distortion: float, variance: float) -> float:
    """R(D) of a Gaussian source at mean squared error D: log2(variance / D) / 2; no source of that variance needs more.

    >>> gaussian_rate(0.25, variance=1.0)
    1.0
    """
    _check_positive("distortion", distortion)
    return max(0.0, 0.5 * math.log2(variance / distortion)) if variance > 0 else 0.0


def shannon_lower_bound(distortion: float, differential_entropy: float) -> float:
    """h - log2(2 pi e D) / 2 <= R(D) at mean squared error D, for a source of differential entropy h in bits."""
    _check_positive("distortion", distortion)
    return max(0.0, differential_entropy - 0.5 * math.log2(2 * math.pi * math.e * distortion))


def laplace_rate_mse_bound(distortion: float, variance: float) -> float:
    """The Shannon lower bound of a Laplace source: log2(variance / D) / 2 - 0.1044, loose at low rates."""
    _check_positive("distortion", distortion)
    if variance <= 0:
        return 0.0
    return shannon_lower_bound(distortion, math.log2(2 * math.e * math.sqrt(variance / 2)))


def rate_distortion(
    values: Tensor | np.ndarray, distortion: float, *, squared: bool = True, cells: int = 400, tolerance: float = 1e-3
) -> float:
    """R(D) of the values' own histogram by the Blahut-Arimoto algorithm, in bits a value.

    Args:
        values: any shape, finite.
        distortion: mean squared error, or mean absolute error with squared=False.
        cells: of the histogram, and places of reconstruction.
        tolerance: relative accuracy of the distortion that is met by bisection over the slope.

    Returns:
        R(D) of the discretised source: 0 where one value is good enough. Seconds for 400 cells.
    """
    _check_positive("distortion", distortion)
    entries = np.asarray(values, dtype=np.float64).reshape(-1)
    if entries.size == 0 or entries.min() == entries.max():
        return 0.0
    source, errors = _discretised(entries, squared, cells)
    if (source @ errors).min() <= distortion:
        return 0.0
    # D falls as the slope s of exp(-s error) grows: bisection on log s, each run warm-started.
    low, high = -20.0 - math.log(errors.max()), 40.0 - math.log(errors.max())
    output, rate = np.full(cells, 1 / cells), 0.0
    for _ in range(60):
        slope = (low + high) / 2
        rate, reached, output = _blahut_arimoto(source, errors, math.exp(slope), output)
        if abs(reached - distortion) <= tolerance * distortion:
            break
        low, high = (slope, high) if reached > distortion else (low, slope)
    return rate


def rate_distortion_curve(
    values: Tensor | np.ndarray, slopes: Sequence[float], *, squared: bool = True, cells: int = 400
) -> list[tuple[float, float]]:
    """(distortion, rate) where R(D) of the values' histogram falls by this many nats per unit of distortion.

    Points of equal slope are an optimal allocation over several sources. Arguments as for `rate_distortion`.
    """
    entries = np.asarray(values, dtype=np.float64).reshape(-1)
    if entries.size == 0 or entries.min() == entries.max():
        return [(0.0, 0.0)] * len(slopes)
    source, errors = _discretised(entries, squared, cells)
    points, output = [], np.full(cells, 1 / cells)
    for slope in slopes:
        rate, reached, output = _blahut_arimoto(source, errors, slope, output)
        points.append((reached, rate))
    return points


def _discretised(entries: np.ndarray, squared: bool, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """The histogram's shares above zero, and the error of each cell at each place of reconstruction."""
    counts, edges = np.histogram(entries, bins=cells)
    centres = (edges[1:] + edges[:-1]) / 2
    errors = np.abs(centres[counts > 0, None] - centres[None, :])
    return counts[counts > 0] / entries.size, errors**2 if squared else errors


def rate_distortion_points(
    values: Tensor | np.ndarray, *, points: int = 36, cells: int = 128, sample: int = 1 << 17
) -> list[tuple[float, float]]:
    """Points (D, R) of the rate-distortion function at squared error, D as a share of the values' mean square.

    A curve to draw, from D = 1 at no bits down to what the histogram resolves; `rate_distortion` is for one D. At most
    `sample` order statistics are looked at, at even distances. About half a second.

    >>> rate_distortion_points(np.array([1.0, -1.0, 0.5, -0.5]))[0]
    (1.0, 0.0)
    """
    entries = np.sort(np.asarray(values, dtype=np.float64).reshape(-1))
    entries = entries[:: max(1, entries.size // sample)]
    power = float(np.square(entries).mean()) if entries.size else 0.0
    found = [(1.0, 0.0)]
    if not power:
        return found
    resolved = (float(entries[-1] - entries[0]) / cells) ** 2 / 3 / power
    slopes = np.geomspace(0.005, max(2 / resolved, 1.0) if resolved else 1.0, points) / power
    for distortion, rate in rate_distortion_curve(entries, [float(slope) for slope in slopes], cells=cells):
        share = distortion / power
        if resolved < share < found[-1][0] and rate > found[-1][1]:
            found.append((share, rate))
    return found


def differential_entropy(values: Tensor | np.ndarray, *, cells: int = 400) -> float:
    """h in bits of the density that a histogram of so many cells draws; -infinity for a single value."""
    counts, edges = np.histogram(np.asarray(values, dtype=np.float64).reshape(-1), bins=cells)
    if edges[0] == edges[-1] or counts.max() == counts.sum():
        return -math.inf
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum() + math.log2(edges[1] - edges[0]))


def limits_of(values: Tensor, distortion: float) -> tuple[float, float, float]:
    """(R(D), Shannon's bound, Laplace's bound) in bits a value at a mean squared error; about a second.

    R(D) of the histogram with 160 cells, which are to be finer than the error: at high rates Shannon's bound, then
    exact, stands in its place.
    """
    entries = values.detach().double().cpu().numpy()
    cells = 160
    shannon = shannon_lower_bound(distortion, differential_entropy(entries))
    width = float(np.ptp(entries)) / cells
    fine = distortion > width**2 / 2
    rate = rate_distortion(entries, distortion, cells=cells, tolerance=0.01) if fine else shannon
    return rate, shannon, laplace_rate_mse_bound(distortion, float(entries.var()))


def _blahut_arimoto(
    source: np.ndarray, errors: np.ndarray, slope: float, output: np.ndarray
) -> tuple[float, float, np.ndarray]:
    """(rate, distortion, output distribution) of the point of R(D) with this slope."""
    kernel = np.exp(-slope * errors)
    output = np.maximum(output, 1e-12)
    output = output / output.sum()
    for _ in range(2000):
        mass = kernel @ output
        factor = (source / mass) @ kernel
        output = output * factor
        # Blahut's bound: the rate is within log(max factor) of the optimum.
        if math.log2(factor.max()) < 1e-4:
            break
    joint = source[:, None] * kernel * output / (kernel @ output)[:, None]
    reached = float((joint * errors).sum())
    rate = -slope * reached / math.log(2) - float(source @ np.log2(kernel @ output))
    return max(rate, 0.0), reached, output


def _check_positive(name: str, value: float) -> None:
    if not value > 0:
        raise ArgumentError(must(name, "greater than 0", value))
