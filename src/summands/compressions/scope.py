"""Over what a compression is fitted: each weight, each row or channel of it, or all weights of a task together.

This is the one task-level projection, {name: tensor} -> {name: form}. `+` runs its residuals through it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import cast

import torch
from torch import Tensor

from ..errors import ArgumentError, in_context, must
from ..forms import ElementwiseForm, Form

SCOPES = ("weight", "row", "channel", "task")
AXES = {"row": 0, "channel": 1}

Fit = Callable[[Tensor, Form | None, Tensor | None], Form]
"""(weight, previous form, importance) -> the nearest form."""


def check_scope(owner: str, per: str) -> None:
    """ArgumentError unless `per` is one of SCOPES."""
    if per not in SCOPES:
        raise ArgumentError(must(f"{owner}(per=...)", f"one of {', '.join(map(repr, SCOPES))}", per))


def project_task(
    fit: Fit,
    per: str,
    weights: Mapping[str, Tensor],
    previous: Mapping[str, Form],
    importance: Mapping[str, Tensor],
    threads: int = 1,
) -> dict[str, Form]:
    """Fits every weight; or its slices, stacked again; or all entries of the task in one vector, split again.

    With `threads`, so many weights at once: for fits that release the GIL.
    """
    if per == "task" and len(weights) > 1:
        return _joined(fit, weights, previous, importance)

    def form(name: str) -> Form:
        with in_context(f"weight {name!r}"):
            if per in AXES:
                return _sliced(fit, weights[name], importance.get(name), per)
            return fit(weights[name], previous.get(name), importance.get(name))

    if min(threads, len(weights)) < 2:
        return {name: form(name) for name in weights}
    with ThreadPoolExecutor(threads) as pool:
        return dict(zip(weights, pool.map(form, weights), strict=True))


def fitted(forms: Sequence[Form], per: str) -> list[Form]:
    """The forms as `fit` returned them: for a task of several weights, the one vector's form if they still join."""
    if per != "task" or len(forms) == 1:
        return list(forms)
    kind = type(forms[0])
    if not issubclass(kind, ElementwiseForm) or any(type(form) is not kind for form in forms):
        raise ArgumentError(f'per="task" needs forms whose entries stand alone, got {kind.__name__}')
    return [kind.join(cast(Sequence[ElementwiseForm], forms), _widest(f.dtype for f in forms))]


def slices(tensor: Tensor, per: str) -> Tensor:
    """The tensor as a matrix, one row for each fit: all entries in one, or the rows or channels."""
    if per not in AXES:
        return tensor.reshape(1, -1)
    axis = AXES[per]
    if tensor.ndim <= axis or 0 in tensor.shape:
        raise ArgumentError(must(f"a weight fitted per={per!r}", "so sliced", f"the shape {tuple(tensor.shape)}"))
    return tensor.movedim(axis, 0).reshape(tensor.shape[axis], -1)


def _joined(
    fit: Fit, weights: Mapping[str, Tensor], previous: Mapping[str, Form], importance: Mapping[str, Tensor]
) -> dict[str, Form]:
    dtype = _widest(w.dtype for w in weights.values())
    vector = torch.cat([w.detach().reshape(-1).to(dtype) for w in weights.values()])
    weighting = None
    if importance:
        blank = {name: torch.ones_like(w, dtype=dtype) for name, w in weights.items() if name not in importance}
        weighting = torch.cat([{**importance, **blank}[name].reshape(-1).to(dtype) for name in weights])
    form = fit(vector, None, weighting)
    if not isinstance(form, ElementwiseForm):
        raise ArgumentError(must('a compression with per="task"', "one whose entries stand alone", type(form).__name__))
    split = form.split([w.shape for w in weights.values()], [w.dtype for w in weights.values()])
    return dict(zip(weights, split, strict=True))


def _sliced(fit: Fit, weight: Tensor, importance: Tensor | None, per: str) -> Form:
    rows = slices(weight, per)
    weightings = [None] * len(rows) if importance is None else slices(importance, per)
    forms = [fit(row, None, weighting) for row, weighting in zip(rows, weightings, strict=True)]
    if not isinstance(forms[0], ElementwiseForm):
        raise ArgumentError(must("a compression by slices", "one whose entries stand alone", type(forms[0]).__name__))
    return type(forms[0]).stack(cast(list[ElementwiseForm], forms), weight.shape, weight.dtype, AXES[per])


def _widest(dtypes) -> torch.dtype:
    widest = torch.float16
    for i, dtype in enumerate(dtypes):
        widest = dtype if i == 0 else torch.promote_types(widest, dtype)
    return widest
