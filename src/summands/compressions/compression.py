"""The abstract compression: a pure projection from a weight to its nearest form.

To add one: a frozen dataclass with `_project` and `_is_feasible`, one line in the package list, one entry in the
conformance suite (CONTRIBUTING.md walks through it).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import ClassVar

import torch
from torch import Tensor

from ..coding import estimated_bits
from ..errors import ArgumentError, WeightError, must
from ..forms import Form
from . import scope


@dataclass(frozen=True)
class Terms:
    """What a C step knows besides the weight. All optional.

    Attributes:
        mu: weight of the penalty, for compressions with a cost of their own (alpha C(Theta) + mu/2 ||w - Delta||^2).
        price: squared error per estimated bit, for hyperparameters left "auto".
        previous: the form of the last C step, a warm start; a result is never worse than a feasible one.
        importance: a non-negative weight for each entry's squared error.
        host: the weight in host memory, when the compression declares `on_host`.
        shapes: of the weights that `per="task"` joined to this vector; None for one weight alone.
    """

    mu: float | None = None
    price: float | None = None
    previous: Form | None = None
    importance: Tensor | None = None
    host: Tensor | None = None
    shapes: tuple[torch.Size, ...] | None = None


@dataclass(frozen=True)
class Compression(ABC):
    """A projection Pi onto the weights of one kind: `project(w)` is argmin ||w - Delta(Theta)||^2.

    It keeps no state and draws no hidden randomness: the same inputs give the same form. `a + b` is a compression too.
    """

    on_host: ClassVar[bool] = False
    """The solver runs in host memory (Numba): the weight travels there once, its small result back once. Weights of a
    task are fitted side by side, in as many threads as torch has; the result does not depend on it."""
    is_term: ClassVar[bool] = True
    """It may be a part of a sum."""
    takes_slices: ClassVar[bool] = False
    """`_project` fits the rows or channels of a weight by itself; otherwise it is called with one after the other."""
    per = "weight"  # without annotation, so that it is no dataclass field here
    """Over what it is fitted (see scope.py); a compression that can do more than "weight" makes it a field."""

    def project(
        self,
        weight: Tensor,
        *,
        mu: float | None = None,
        price: float | None = None,
        previous: Form | None = None,
        importance: Tensor | None = None,
    ) -> Form:
        """The nearest form to one weight.

        Args:
            weight: any shape, device and float dtype; never changed. NaN or infinity raises WeightError.
            mu, price, previous, importance: see `Terms`.

        Returns:
            A form on the weight's device, whose `dense()` has the weight's shape and dtype.
        """
        forms = self.project_task(
            {"weight": weight},
            mu=mu,
            price=price,
            previous=None if previous is None else {"weight": previous},
            importance=None if importance is None else {"weight": importance},
        )
        return forms["weight"]

    def project_task(
        self,
        weights: Mapping[str, Tensor],
        *,
        mu: float | None = None,
        price: float | None = None,
        previous: Mapping[str, Form] | None = None,
        importance: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Form]:
        """The nearest forms to all weights of a task, each part fitted over what its `per` says."""

        joined = self.per == "task" and len(weights) > 1
        shapes = tuple(w.shape for w in weights.values()) if joined else None

        def fit(weight: Tensor, last: Form | None, weighting: Tensor | None) -> Form:
            host = weight.detach().cpu() if self.on_host and isinstance(weight, Tensor) else None
            check_weight(weight if host is None else host)
            _check_importance(weighting, weight)
            return self._project(weight.detach(), Terms(mu, price, last, weighting, host, shapes))

        per = "weight" if self.takes_slices and self.per != "task" else self.per
        threads = torch.get_num_threads() if self.on_host else 1  # torch has threads of its own
        return scope.project_task(fit, per, weights, previous or {}, importance or {}, threads)

    def objective(
        self,
        weight: Tensor,
        form: Form,
        *,
        mu: float | None = None,
        price: float | None = None,
        importance: Tensor | None = None,
    ) -> float:
        """The number that `project` minimises: the squared error plus `cost`."""
        return squared_error(weight, form, importance) + self.cost(form, mu=mu, price=price)

    def cost(self, form: Form, *, mu: float | None = None, price: float | None = None) -> float:
        """What `project` pays besides the squared error: price x estimated bits, when a price is given.

        A penalty alpha C(Theta) + mu/2 ||w - Delta||^2 counts as (2 alpha/mu) C(Theta) here.
        """
        return 0.0 if price is None else price * estimated_bits(form)

    def is_feasible(self, forms: Mapping[str, Form], weights: Mapping[str, Tensor]) -> bool:
        """True when `project_task` could have returned these forms for weights of these shapes and dtypes."""
        if forms.keys() != weights.keys():
            return False
        if any((forms[n].shape, forms[n].dtype) != (w.shape, w.dtype) for n, w in weights.items()):
            return False
        try:
            fitted = scope.fitted(list(forms.values()), self.per)
        except ValueError:  # no one fit over the task makes forms that do not join
            return False
        return all(self._is_feasible(form) for form in fitted)

    def parts(self) -> tuple[Compression, ...]:
        """The terms of a sum; of any other compression, itself."""
        return (self,)

    def reach(self) -> tuple[Compression, ...]:
        """Everything that may be fitted here, for the scopes: the parts, or those of all candidates."""
        return self.parts()

    def is_free(self) -> bool:
        """True when a price has something to choose."""
        return any(value == "auto" for part in self.parts() for value in vars(part).values())

    def settled(self, forms: Mapping[str, Form]) -> list[tuple[Compression, tuple[str, ...]]]:
        """The compressions, each with its weights, that made these forms: itself, unless it chooses among several."""
        return [(self, tuple(forms))]

    def without_jumps(self, now: Mapping[str, Form], beyond: Mapping[str, Form], bits: float) -> Compression:
        """This compression without whatever grows by more than `bits` from the forms `now` to those `beyond`.

        A part of a sum stays as it is now, as long as another part is free; a choice loses the candidates that grow;
        what can be told how much to take may take `bits` more than now. Itself where there is nothing to leave out.
        """
        return self

    def for_flops(self, in_size: tuple[int, ...], out_size: tuple[int, ...], groups: int) -> Compression:
        """This compression of one layer's weight with a price for a multiply-add in the place of a bit.

        Args:
            in_size, out_size: of the layer's input and output, as `View.rank_flops` takes them.
            groups: of a convolution.
        """
        if self.is_free():
            raise ArgumentError(
                f'a budget of FLOPs must be spent by LowRank("auto") parts, and {self} leaves more open'
            )
        return self

    def __add__(self, other: Compression) -> Compression:
        from .additive import Additive  # the one upward step: `+` builds the class that is built on this one

        if not isinstance(other, Compression):
            return NotImplemented
        return Additive(terms=self.parts() + other.parts())

    def __str__(self) -> str:
        """The text that `parse` turns back into this compression, defaults left out: `Prune(keep=0.01)`."""
        texts = []
        for i, field in enumerate(fields(self)):
            value = getattr(self, field.name)
            if i == 0 and field.default is MISSING:
                texts.append(_literal(value))
            elif value != field.default:
                texts.append(f"{field.name}={_literal(value)}")
        return f"{type(self).__name__}({', '.join(texts)})"

    @abstractmethod
    def _project(self, weight: Tensor, terms: Terms) -> Form:
        """The nearest form to `weight`, which is detached, finite and of a float dtype."""

    @abstractmethod
    def _is_feasible(self, form: Form) -> bool:
        """True when the form obeys this compression's own constraint; its shape and dtype are checked already."""


def squared_error(weight: Tensor, form: Form, importance: Tensor | None = None) -> float:
    """||w - Delta(Theta)||^2 in float64, each entry times its importance."""
    error = (weight.to(torch.float64) - form.dense().to(torch.float64)) ** 2
    return float((error if importance is None else error * importance.to(torch.float64)).sum())


def check_weight(weight: Tensor) -> None:
    """WeightError unless the weight is a finite tensor of a floating dtype."""
    if not isinstance(weight, Tensor) or not weight.is_floating_point():
        got = weight.dtype if isinstance(weight, Tensor) else type(weight).__name__
        raise WeightError(must("weight", "a tensor of a floating dtype", got, "list it under `ignore`"))
    finite = torch.isfinite(weight)
    if not bool(finite.all()):
        count = int((~finite).sum())
        raise WeightError(must("weight", "finite", f"{count} NaN or infinite of {weight.numel()} entries"))


def _check_importance(importance: Tensor | None, weight: Tensor) -> None:
    if importance is None:
        return
    if importance.shape != weight.shape:
        raise ArgumentError(must("importance", f"of the weight's shape {tuple(weight.shape)}", tuple(importance.shape)))
    if not bool(((importance >= 0) & torch.isfinite(importance)).all()):
        raise ArgumentError(must("importance", "finite and not negative", "other entries"))


def _literal(value: object) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(map(_literal, value))}{',' * (len(value) == 1)})"
    if isinstance(value, Compression):
        return str(value)
    return f'"{value}"' if isinstance(value, str) else repr(value)
