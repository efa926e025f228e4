"""Given values up to one scale."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import KW_ONLY, dataclass

import numpy as np
import torch
from numba import njit
from torch import Tensor

from ..forms import Codebook, Form
from .codebook_fit import fitted_form
from .compression import Compression, Terms
from .fixed_codebook import checked_values
from .scope import AXES, check_scope
from .stored import check_stored, stored_dtype


class ScaledLevels(Compression):
    """min ||w - a c[z]||^2 over a scale a >= 0 and the choice z: given values c up to one scale, exactly.

    As a grows from 0, entry v changes its value where a is v over the midpoint of two neighbouring values, and at no
    other a. Between two such events the best a is sum(v c) / sum(c^2), clamped to the interval: a sweep over the
    events in order keeps the best (algorithms of 2107.04380). Alternating between a and z is not exact. Cost: a sort
    and O(N K^2) for K values. The weight travels to host memory once and only the codebook comes back.
    """

    on_host = True
    takes_slices = True
    dtype: str | None

    @abstractmethod
    def levels(self) -> tuple[float, ...]:
        """The values before scaling, in any order."""

    def _project(self, weight: Tensor, terms: Terms) -> Form:
        levels = np.unique(np.array(self.levels(), float))

        def solve(entries: np.ndarray, importance: np.ndarray | None) -> np.ndarray:
            return best_scale(entries, importance, levels) * levels

        return fitted_form(weight, terms, self.per, self.dtype, solve)

    def _is_feasible(self, form: Form) -> bool:
        if not isinstance(form, Codebook) or form.axis != AXES.get(self.per):
            return False
        if form.values.dtype != stored_dtype(self.dtype, form.dtype):
            return False
        levels = torch.tensor(sorted(set(self.levels())), dtype=torch.float64)
        values = form.values.to("cpu", torch.float64).reshape(-1, form.values.shape[-1])
        if values.shape[1] != len(levels):
            return False
        top = levels.abs().argmax()
        scale = values[:, top, None] / levels[top] if levels[top] != 0 else torch.zeros(1, 1)
        limit = torch.finfo(form.values.dtype)
        off = (values - scale * levels).abs()
        return bool((scale >= 0).all()) and bool(
            (off <= 2 * limit.eps * values.abs() + 2 * limit.tiny * limit.eps).all()
        )


@dataclass(frozen=True)
class ScaledCodebook(ScaledLevels):
    """Given values up to one scale a >= 0, the best of which is found exactly (see `ScaledLevels`).

    Args:
        values: finite numbers, at least one.
        per, dtype: as for `Quantize`.

    >>> import torch
    >>> ScaledCodebook([-1.0, 0.0, 2.0]).project(torch.tensor([-3.0, 0.2, 6.1, 5.9])).values
    tensor([-3.,  0.,  6.])
    """

    values: tuple[float, ...]
    _: KW_ONLY
    per: str = "weight"
    dtype: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", checked_values("ScaledCodebook", self.values))
        check_scope("ScaledCodebook", self.per)
        check_stored("ScaledCodebook", self.dtype)

    def levels(self) -> tuple[float, ...]:
        return self.values


@dataclass(frozen=True)
class ScaledBinary(ScaledLevels):
    """Every entry at -a or a, a the mean magnitude (1707.04319, theorem 4.2; see `ScaledLevels`).

    Args:
        per, dtype: as for `Quantize`.

    >>> import torch
    >>> ScaledBinary().project(torch.tensor([-1.0, 3.0])).dense()
    tensor([-2.,  2.])
    """

    per: str = "weight"
    dtype: str | None = None

    def __post_init__(self) -> None:
        check_scope("ScaledBinary", self.per)
        check_stored("ScaledBinary", self.dtype)

    def levels(self) -> tuple[float, ...]:
        return (-1.0, 1.0)


@dataclass(frozen=True)
class ScaledTernary(ScaledLevels):
    """Every entry at -a, 0 or a: a is the mean of the j largest magnitudes, j such that their sum over the root of j
    is largest (1707.04319, theorem 4.3; see `ScaledLevels`).

    Args:
        per, dtype: as for `Quantize`.

    >>> import torch
    >>> ScaledTernary().project(torch.tensor([-1.0, 3.0, 3.2])).dense()
    tensor([0.0000, 3.1000, 3.1000])
    """

    per: str = "weight"
    dtype: str | None = None

    def __post_init__(self) -> None:
        check_scope("ScaledTernary", self.per)
        check_stored("ScaledTernary", self.dtype)

    def levels(self) -> tuple[float, ...]:
        return (-1.0, 0.0, 1.0)


def best_scale(entries: np.ndarray, importance: np.ndarray | None, levels: np.ndarray) -> float:
    """The a >= 0 with the least sum of h min_k (v - a c_k)^2 over all entries v, h their importance; c ascending."""
    if importance is None:
        ordered, weights = np.sort(entries), np.ones(entries.size)
    else:
        order = np.argsort(entries, kind="stable")
        ordered, weights = entries[order], importance[order].astype(np.float64)
    return float(_sweep_scales(ordered.astype(np.float64), weights, levels))


@njit(cache=True, nogil=True)
def _sweep_scales(v, h, levels):
    n, count = v.size, levels.size
    middle = (levels[:-1] + levels[1:]) / 2
    # One list of events a midpoint: the entries of its sign, from 0 outwards. `where` is the entry that comes next.
    step = np.sign(middle).astype(np.int64)
    where = np.empty(count - 1, np.int64)
    top, energy = 0.0, 0.0  # sum of h v c and of h c^2 at the assignment in force
    nearest_zero = np.min(np.abs(levels))
    first_positive = np.searchsorted(v, 0.0, side="right")
    last_negative = np.searchsorted(v, 0.0, side="left") - 1
    for i in range(n):
        level = levels[0] if v[i] < 0 else levels[-1] if v[i] > 0 else nearest_zero
        top += h[i] * v[i] * level
        energy += h[i] * level * level
    for k in range(count - 1):
        where[k] = first_positive if step[k] > 0 else last_negative if step[k] < 0 else n
    scale, best, start = 0.0, 0.0, 0.0
    while True:
        event, stop = -1, np.inf
        for k in range(count - 1):
            if 0 <= where[k] < n and v[where[k]] / middle[k] < stop:
                event, stop = k, v[where[k]] / middle[k]
        here = min(max(top / energy, start), stop) if energy > 0 else start
        score = here * (here * energy - 2 * top)
        if score < best:
            scale, best = here, score
        if event < 0:
            return scale
        old, new = (event + 1, event) if step[event] > 0 else (event, event + 1)
        i = where[event]
        top += h[i] * v[i] * (levels[new] - levels[old])
        energy += h[i] * (levels[new] ** 2 - levels[old] ** 2)
        where[event] += step[event]
        start = stop
