"""The compression that pays best, chosen for each weight by the price that chooses its hyperparameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from ..coding import estimated_bits, shared_tensors
from ..errors import ArgumentError, must
from ..forms import Form
from .compression import Compression, Terms, squared_error
from .keep import Keep
from .low_rank import LowRank
from .prune import Prune
from .quantize import Quantize

Forms = Mapping[str, Form]

_Q, _P = Quantize("auto", dtype="float16"), Prune("auto", dtype="float16")
_L = LowRank("auto", view="auto", dtype="float16")
CANDIDATES: tuple[Compression, ...] = (_Q, _P, _L, _Q + _P, _L + _P, _L + _Q, Keep("float16"), Keep())
"""What `Auto()` chooses among: every part alone, the sums of two, and the weight as it is."""


@dataclass(frozen=True)
class Auto(Compression):
    """min over candidates and forms of ||w - Delta||^2 + price * estimated bits, for each weight by itself.

    Every candidate chooses its own hyperparameters at the price; the coder's estimate compares what they made, so a
    part that does not pay for its bytes loses to the candidate without it. Candidates with a part that is fitted
    per="task" take all weights of the task or none. As exact as its candidates are, and never worse than a feasible
    `previous`, which also warm-starts the candidate it came from. Needs a price, so a budget. Cost: that of all
    candidates.

    Args:
        candidates: compressions, sums among them, or their texts. Of equal ones the first wins. By default Q, P, L,
            Q + P, L + P, L + Q, and the weight itself in float16 or exactly; Q being Quantize("auto"), P Prune("auto")
            and L LowRank("auto", view="auto"), their values stored in float16. Two views, L + L, take seconds a price
            for a large kernel: list them where they are wanted.

    >>> import torch
    >>> weight = torch.outer(torch.arange(20.0), torch.arange(30.0))
    >>> weight[3, 7] += 10.0
    >>> auto = Auto([LowRank("auto"), Prune("auto"), LowRank("auto") + Prune("auto")])
    >>> form = auto.project(weight, price=0.1)
    >>> [type(part).__name__ for part in form.parts()], bool(torch.allclose(form.dense(), weight, atol=0.1))
    (['LowRank', 'Sparse'], True)
    """

    is_term = False
    candidates: tuple[Compression, ...] = ()

    if TYPE_CHECKING:  # what the field accepts is wider than what it holds

        def __init__(self, candidates: Sequence[Compression | str] = ()) -> None: ...

    def __post_init__(self) -> None:
        from .text import parse  # reads the package list, which this class is part of

        if isinstance(self.candidates, str) or not isinstance(self.candidates, Sequence):
            raise ArgumentError(must("Auto(candidates)", "a list of compressions", self.candidates))
        found = tuple(parse(c) if isinstance(c, str) else c for c in self.candidates)
        if any(not isinstance(c, Compression) or isinstance(c, Auto) for c in found):
            raise ArgumentError(must("Auto(candidates)", "compressions that leave no such choice themselves", found))
        object.__setattr__(self, "candidates", found)

    def project_task(
        self,
        weights: Mapping[str, Tensor],
        *,
        mu: float | None = None,
        price: float | None = None,
        previous: Forms | None = None,
        importance: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Form]:
        if price is None:
            raise ArgumentError("Auto() must get a price; set a budget, or one of its candidates instead")
        importance, previous = importance or {}, previous or {}

        def offers(names: tuple[str, ...], candidates: Sequence[Compression]) -> tuple[float, dict[str, Form]] | None:
            """The best that these candidates make of these weights together, and what it costs."""
            own = {name: weights[name] for name in names}
            last = {name: previous[name] for name in names if name in previous}
            best: tuple[float, dict[str, Form]] | None = None
            for candidate in candidates:
                warm = bool(last) and candidate.is_feasible(last, own)
                made = candidate.project_task(
                    own,
                    mu=mu,
                    price=price,
                    previous=last if warm else None,
                    importance={name: importance[name] for name in names if name in importance} or None,
                )
                for forms in [last, made] if warm else [made]:
                    error = sum(squared_error(own[name], forms[name], importance.get(name)) for name in names)
                    total = error + price * _bits(list(forms.values()))
                    if best is None or total < best[0]:
                        best = total, dict(forms)
            return best

        alone, joint = self._split(len(weights))
        each = [offers((name,), alone) for name in weights]
        whole = offers(tuple(weights), joint)
        apart = [found for found in each if found is not None]
        if whole is not None and (not apart or whole[0] < sum(total for total, _ in apart)):
            return whole[1]
        return {name: form for _, forms in apart for name, form in forms.items()}

    def is_feasible(self, forms: Forms, weights: Mapping[str, Tensor]) -> bool:
        if forms.keys() != weights.keys():
            return False
        alone, joint = self._split(len(weights))
        return any(candidate.is_feasible(forms, weights) for candidate in joint) or all(
            any(candidate.is_feasible({name: forms[name]}, {name: w}) for candidate in alone)
            for name, w in weights.items()
        )

    def reach(self) -> tuple[Compression, ...]:
        return tuple(part for candidate in self._all() for part in candidate.parts())

    def is_free(self) -> bool:
        return True

    def settled(self, forms: Forms) -> list[tuple[Compression, tuple[str, ...]]]:
        """For each weight the first candidate that its form is one of."""
        dense = {name: form.dense() for name, form in forms.items()}
        alone, joint = self._split(len(forms))
        for candidate in joint:
            if candidate.is_feasible(forms, dense):
                return [(candidate, tuple(forms))]
        return [(self._maker(alone, form, dense[name]), (name,)) for name, form in forms.items()]

    def without_jumps(self, now: Forms, beyond: Forms, bits: float) -> Compression:
        """The choice among the candidates that made none of the forms beyond, nor have the single part that did."""
        makers = [maker for maker, _ in self.settled(beyond)]
        alone = [maker for maker in makers if len(maker.parts()) == 1]
        left = [c for c in self._all() if c not in makers and not any(part in alone for part in c.parts())]
        return Auto(left) if left else self

    def __str__(self) -> str:
        return f"Auto([{', '.join(map(str, self.candidates))}])" if self.candidates else "Auto()"

    def _maker(self, candidates: Sequence[Compression], form: Form, dense: Tensor) -> Compression:
        for candidate in candidates:
            if candidate.is_feasible({"": form}, {"": dense}):
                return candidate
        raise ArgumentError(must("a form", f"one of the candidates of {self}", type(form).__name__))

    def _split(self, count: int) -> tuple[list[Compression], list[Compression]]:
        """The candidates that take a weight alone, and those that take all weights of a task of so many."""
        together = [count > 1 and any(part.per == "task" for part in c.parts()) for c in self._all()]
        alone = [c for c, joint in zip(self._all(), together, strict=True) if not joint]
        return alone, [c for c, joint in zip(self._all(), together, strict=True) if joint]

    def _all(self) -> tuple[Compression, ...]:
        return self.candidates or CANDIDATES

    def _project(self, weight: Tensor, terms: Terms) -> Form:
        raise AssertionError("a choice projects whole tasks; `project` and `project_task` never come here")

    def _is_feasible(self, form: Form) -> bool:
        raise AssertionError("a choice checks whole tasks; `is_feasible` never comes here")


def _bits(forms: Sequence[Form]) -> float:
    """Estimated bits of several forms, what they share billed once."""
    bits = sum(estimated_bits(form) for form in forms)
    for tensor in shared_tensors(tuple(forms)):
        holders = sum(any(held is tensor for held in form.tensors().values()) for form in forms)
        bits -= (holders - 1) * 8 * tensor.numel() * tensor.element_size()
    return bits
