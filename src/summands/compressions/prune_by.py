"""Entries kept over all weights of a task, shared out among them by the rule of a pruning paper."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ArgumentError, must
from ..forms import Form, Sparse
from .compression import Compression, Terms, squared_error
from .prune import is_sparse, sparse_at
from .scores import check_rule, kept_positions
from .stored import check_stored


@dataclass(frozen=True)
class PruneBy(Compression):
    """A given share of all entries of a task kept with their values; the rule says which (scores.py).

    The rule "global" is `Prune(keep=..., per="task")` and has the smallest squared error. The others bet on a smaller
    loss of the network and are no projections: LAMP, ERK, uniform and l_q keep the largest of each weight, in numbers
    of their own; SuRP keeps what successive pruning picks first. The weights travel to host memory once and the
    positions come back. Cost O(N), LAMP and SuRP O(N log N).

    Args:
        rule: "uniform", "erk", "global", "lamp", "lq", "surp-paper" or "surp-authors", as in `kept_positions`.
        keep: the share of the task's entries to keep, in [0, 1], to the nearest integer.
        dtype: of the kept values, "float32", "float16" or "bfloat16"; None is the weights' own.

    >>> import torch
    >>> weights = {"a": torch.tensor([3.0, 2.0, 1.0, -4.0]), "b": torch.tensor([0.2, -0.1])}
    >>> forms = PruneBy("uniform", keep=0.5).project_task(weights)
    >>> [form.dense().tolist() for form in forms.values()]
    [[3.0, 0.0, 0.0, -4.0], [0.20000000298023224, 0.0]]
    """

    rule: str
    keep: float
    dtype: str | None = None

    per = "task"
    on_host = True

    def __post_init__(self) -> None:
        check_rule("PruneBy", self.rule)
        if isinstance(self.keep, bool) or not isinstance(self.keep, int | float) or not 0 <= self.keep <= 1:
            raise ArgumentError(must("PruneBy(keep=...)", "in [0, 1]", self.keep))
        check_stored("PruneBy", self.dtype)

    def _project(self, weight: Tensor, terms: Terms) -> Form:
        if terms.importance is not None:
            raise ArgumentError("PruneBy has no weighted distortion; leave out `importance`")
        shapes = terms.shapes or (weight.shape,)
        assert terms.host is not None
        pieces = terms.host.reshape(-1).split([shape.numel() for shape in shapes])
        weights = {str(i): piece.reshape(shape) for i, (piece, shape) in enumerate(zip(pieces, shapes, strict=True))}
        positions, start = [], 0
        for shape, kept in zip(shapes, kept_positions(weights, self.keep, self.rule).values(), strict=True):
            positions.append(kept + start)
            start += shape.numel()
        form = sparse_at(weight, torch.cat(positions).to(weight.device), self.dtype)
        last = terms.previous
        if last is not None and self.is_feasible({"": last}, {"": weight}):
            return min(form, last, key=lambda kept: squared_error(weight, kept))
        return form

    def _is_feasible(self, form: Form) -> bool:
        if not isinstance(form, Sparse) or not is_sparse(form, self.dtype):
            return False
        return form.indices.numel() <= round(self.keep * form.size)
