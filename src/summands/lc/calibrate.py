"""What calibration inputs tell of each weight: the second moments of its inputs, and how much the output feels it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..errors import CalibrationError, must
from ..network import feed
from .moments import Moments
from .observe import Inputs, Observer, Product, See, answer, check_calibration, on_batch
from .shrinkage import Shrinkage, best_shrinkage
from .statistics import Precision, StatisticsShift

Distance = Literal["values", "softmax"]
"""Between two outputs: half the squared difference; or the Kullback-Leibler divergence of their softmax, in nats."""

AS_THEY_ARE = Shrinkage()
_DRAWS, _DRAWS_BY_COLUMN = 32, 128
"""Random directions of the output that sensitivities are averaged over, at least."""


@dataclass(frozen=True, eq=False)
class Sensitivity:
    """Second moments of the gradient G of the distance's root in one weight: rows x n, in groups of rows.

    Attributes:
        rows: 2 x rows, their squares summed over all but the first axis: of the first half of the batches and of the
            others, both over the number of all inputs.
        columns: likewise 2 x groups x n x n, G'G of each group, float32; None where it was not asked for, or where
            the weight multiplies nothing.
    """

    rows: Tensor
    columns: Tensor | None = None

    @property
    def total(self) -> float:
        """F: a change e of all entries alike moves the output by 1/2 F e^2."""
        return float(self.rows.sum())


@dataclass
class Tally:
    """Running sums over all products of one weight, in float32, a block of inputs at a time.

    Attributes:
        gram, cross: sums of xh xh' and x xh', groups x n x n, or counts of an embedding's V rows; see `Moments`.
        first: `gram` over the first half of the batches, where halves are told apart.
        total, original_total: sums of xh and x, groups x n.
        bias: the parameter that was added to the output, that of the original network where there are two.
        calls: how many products there were.
    """

    gram: Tensor | None = None
    first: Tensor | None = None
    cross: Tensor | None = None
    total: Tensor | None = None
    original_total: Tensor | None = None
    bias: Tensor | None = None
    count: int = 0
    calls: int = 0

    def add(self, product: Product, original: Product | None = None, is_first: bool = False) -> None:
        """Counts one product; with the original network's inputs `x` at the same place, if they differ."""
        self.calls += 1
        if product.kind == "embedding":
            if self.total is None:  # of a weight that also multiplies, the products decide
                rows = product.inputs.reshape(-1)
                self.gram = _plus(self.gram, torch.bincount(rows, minlength=product.weight.shape[0]).float())
                self.count += rows.numel()
            return
        if self.total is None:
            self.gram, self.count = None, 0
        bias = (original or product).bias
        self.bias = self.bias if bias is None else bias
        before = original.patches() if original is not None else None
        for patches in product.patches():
            block = patches.float()
            squares = block @ block.mT
            if is_first:
                self.first = _plus(self.first, squares.clone())
            self.gram = _plus(self.gram, squares)
            self.total = _plus(self.total, block.sum(2))
            self.count += block.shape[2]
            if before is not None:
                other = next(before).float()
                self.cross = _plus(self.cross, other @ block.mT)
                self.original_total = _plus(self.original_total, other.sum(2))

    def moments(self, scale: float = 1.0, shrinkage: Shrinkage = AS_THEY_ARE, columns: Tensor | None = None) -> Moments:
        """The means, times a sensitivity, shrunk; towards the gradients' moments, where they are given."""
        assert self.gram is not None
        if self.total is None:
            frequencies = (self.gram.double() + 1) / (self.count + self.gram.numel())
            return Moments(frequencies * scale, self.count)
        gram, factor = shrinkage(self.gram, columns), scale * shrinkage.elsewhere / self.count
        cross = None if self.cross is None else gram + shrinkage.kept * (self.cross - self.gram)
        return Moments(gram * factor, self.count, None if cross is None else cross * factor)

    def shrinkage(self, damping: float, columns: Tensor | None = None, correlations: float | None = None) -> Shrinkage:
        """`best_shrinkage` by the two halves, whose gradients' moments may be given; none where there is one half."""
        apart = self.first is not None and self.gram is not None and not bool((self.first == 0).all())
        if apart and columns is not None:
            apart = bool(columns.diagonal(dim1=2, dim2=3).sum((1, 2)).all())
        if not apart or (columns is None and correlations is not None):
            return Shrinkage(correlations=correlations or 0.0)
        assert self.first is not None and self.gram is not None
        halves = (self.first, self.gram - self.first)
        return best_shrinkage(halves, damping, None if columns is None else tuple(columns), correlations)

    def means(self) -> tuple[Tensor, Tensor] | None:
        """E[x] and E[xh], groups x n; None for an embedding."""
        if self.total is None:
            return None
        original = self.total if self.original_total is None else self.original_total
        return original / self.count, self.total / self.count


def _plus(total: Tensor | None, more: Tensor) -> Tensor:
    return more if total is None else total.add_(more)


class _Enough(BaseException):
    """Everything asked for was seen; no error, so that no `except Exception` of the model's stops it."""


@dataclass
class Calibration:
    """The original network and the batches to run it on.

    Attributes:
        calls: of every weight that took part, in the order of their first products, the products per run of the
            network; known once `tally` has run.
        at_hand: a context in which the values of this network, and of one compared with it, can be had; may be
            entered again and again.
    """

    original: nn.Module
    batches: Inputs
    calls: dict[str, int] = field(default_factory=dict)
    at_hand: AbstractContextManager[Any] = field(default_factory=nullcontext)

    def check(self) -> None:
        """`check_calibration` of these batches."""
        with self.at_hand:
            check_calibration(self.original, self.batches)

    def tally(self, names: Sequence[str]) -> dict[str, Tally]:
        """The tallies of these weights in the original network; of weights that meet no input, none."""
        weights = self._weights(self.original, names)
        tallies: dict[str, Tally] = defaultdict(Tally)
        runs, half = 0, self._half()
        with torch.no_grad(), self.at_hand:
            for batch in self.batches:
                is_first = runs < half

                def see(name: str, product: Product, is_first: bool = is_first) -> None:
                    tallies[name].add(product, is_first=is_first)

                with Observer(weights, see), on_batch(runs):
                    feed(self.original, batch)
                runs += 1
        if not runs:
            raise CalibrationError(must("calibration", "as many batches each time it is iterated", "none this time"))
        self.calls |= {name: -(-tally.calls // runs) for name, tally in tallies.items()}
        _check_finite(tallies)
        return dict(tallies)

    def tally_drift(self, names: Sequence[str], current: nn.Module, shift: StatisticsShift) -> dict[str, Tally]:
        """The tallies of weights whose inputs come from `current`, a compressed prefix, against the original's.

        Both networks run side by side, no further than to the last product asked for.
        """
        tallies: dict[str, Tally] = defaultdict(Tally)
        half = self._half()
        theirs, ours = self._weights(self.original, names), self._weights(current, names)
        with torch.no_grad(), self.at_hand, shift:
            for i, batch in enumerate(self.batches):
                seen: dict[str, list[Product]] = defaultdict(list)
                note = self._until_last(names, lambda name, product, seen=seen: seen[name].append(product))
                with shift.of_original(), Observer(theirs, note), suppress(_Enough):
                    feed(self.original, batch)

                def add(name: str, product: Product, seen: Any = seen, is_first: bool = i < half) -> None:
                    original = seen[name].pop(0) if seen[name] else None
                    if original is None or original.inputs.shape != product.inputs.shape:
                        allowed = "as many inputs in the compressed network as in the original, for drift correction"
                        remedy = "a network that routes its inputs needs PostTraining(drift=False)"
                        there = "none" if original is None else tuple(original.inputs.shape)
                        got = f"{tuple(product.inputs.shape)}, and {there} there"
                        raise CalibrationError(must(f"layer {name!r}", allowed, got, remedy))
                    tallies[name].add(product, original, is_first)

                with shift.of_current(), Observer(ours, self._until_last(names, add)), suppress(_Enough):
                    feed(current, batch)
        _check_finite(tallies)
        return dict(tallies)

    def survey(self, names: Sequence[str]) -> dict[str, int]:
        """Bytes that each weight's moments take while it is compressed, in the order of execution."""
        sizes: dict[str, int] = {}
        calls: Counter[str] = Counter()

        def see(name: str, product: Product) -> None:
            calls[name] += 1
            square = product.groups * product.columns**2
            sizes[name] = 24 * (product.weight.shape[0] if product.kind == "embedding" else square)

        runs = 0
        with torch.no_grad(), self.at_hand, Observer(self._weights(self.original, names), see):
            for batch in self.batches:
                with on_batch(runs):
                    feed(self.original, batch)
                runs += 1
                if sizes.keys() >= set(names):  # a layer may come in with a later batch
                    break
        self.calls |= {name: -(-count // max(runs, 1)) for name, count in calls.items()}
        return sizes

    def _half(self) -> int:
        return sum(1 for _ in self.batches) // 2

    def shift(self, current: nn.Module, precisions: Sequence[Precision]) -> None:
        """Moves the running statistics of `current` by what compression moved its activations.

        Args:
            precisions: of each normalisation.
        """
        with torch.no_grad(), self.at_hand, StatisticsShift(self.original, current) as shift:
            for batch in self.batches:
                with shift.of_original():
                    feed(self.original, batch)
                with shift.of_current():
                    feed(current, batch)
            shift.settle(precisions)

    def sensitivities(
        self, names: Sequence[str], distance: Distance, seed: int, *, by_column: bool = False
    ) -> dict[str, Sensitivity]:
        """How much the output feels errors of every weight, by rows and, if asked for, by columns and their products.

        A change e of the weights moves the output by about 1/2 e'Fe with F = E[J' M J], M the curvature of the
        distance: the Fisher information for "softmax". One random direction of the output for each input, v ~ N(0, M),
        has E[J'v v'J] = F (Hutchinson), whatever the batch sums over: J'v is the gradient of one backward pass.
        """
        weights = {n: w for n, w in self._weights(self.original, names).items() if w.requires_grad}
        generator = torch.Generator().manual_seed(seed)
        totals = {
            n: torch.zeros(2, w.shape[0], dtype=torch.float64) for n, w in self._weights(self.original, names).items()
        }
        columns: dict[str, Tensor] = {}

        def see(name: str, product: Product) -> None:
            if product.kind != "embedding" and name not in columns:
                shape = (2, product.groups, product.columns, product.columns)
                columns[name] = torch.zeros(shape, device=product.weight.device)

        half = self._half()
        draws = -(-(_DRAWS_BY_COLUMN if by_column else _DRAWS) // max(sum(1 for _ in self.batches), 1))
        count = 0
        with self.at_hand:
            for number, batch in enumerate(self.batches):
                observed = Observer(weights, see) if by_column else nullcontext()
                with torch.enable_grad(), observed, on_batch(number):
                    output = answer(feed(self.original, batch))
                if not output.requires_grad:
                    allowed = "differentiable in the weights, to measure what it feels of each"
                    remedy = "or leave that out: PostTraining(distance=None)"
                    got = "a forward without gradients"
                    raise CalibrationError(must("the model's output", allowed, got, remedy))
                own = int(number >= half)
                rows, products = ({n: t[own] for n, t in found.items()} for found in (totals, columns))
                with _gradients_seen(weights, rows, products):
                    for draw in range(draws):
                        direction = _direction(output.detach(), distance, generator)
                        retained = draw < draws - 1
                        torch.autograd.backward(output, direction, retained, inputs=list(weights.values()))
                count += draws * count_answers(output, distance)
        return {
            name: Sensitivity(total / count, columns[name].div_(count) if name in columns else None)
            for name, total in totals.items()
        }

    def _until_last(self, names: Sequence[str], see: Callable[..., None]) -> See:
        """`see`, and after the last product that a run of the network has, the end of it."""
        left = sum(self.calls[name] for name in names)

        def see_and_count(name: str, product: Product) -> None:
            nonlocal left
            see(name, product)
            left -= 1
            if left == 0:
                raise _Enough

        return see_and_count

    @staticmethod
    def _weights(model: nn.Module, names: Sequence[str]) -> dict[str, Tensor]:
        parameters = dict(model.named_parameters())
        return {name: parameters[name] for name in names}


def count_answers(output: Tensor, distance: Distance) -> int:
    """By how many a sum of distances is divided: samples, or for "softmax" the distributions over the last axis."""
    if not output.ndim:
        return 1
    return output.shape[0] if distance == "values" else output[..., 0].numel()


@contextmanager
def _gradients_seen(
    weights: Mapping[str, Tensor], rows: Mapping[str, Tensor], columns: Mapping[str, Tensor]
) -> Iterator[None]:
    """Adds every gradient's squares by rows, and G'G where it is wanted; and drops it, so that one exists at a time."""

    def add(name: str, weight: Tensor) -> None:
        assert weight.grad is not None
        gradient, weight.grad = weight.grad.reshape(weight.shape[0], -1), None
        rows[name].add_(gradient.double().square().sum(1).cpu())
        if name in columns:
            apart = gradient.float().reshape(len(columns[name]), -1, gradient.shape[1])
            columns[name].add_(apart.mT @ apart)

    handles = [w.register_post_accumulate_grad_hook(partial(add, name)) for name, w in weights.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _direction(output: Tensor, distance: Distance, generator: torch.Generator) -> Tensor:
    """v with E[v v'] the curvature of the distance in the output: I, or diag(p) - p p'."""
    if distance == "values":
        return torch.randn(output.shape, generator=generator, device="cpu").to(output)
    shares = output.softmax(-1).reshape(-1, output.shape[-1])
    drawn = torch.multinomial(shares.float().cpu(), 1, generator=generator)[:, 0].to(output.device)
    return (shares - nn.functional.one_hot(drawn, shares.shape[1]).to(shares)).reshape(output.shape)


def _check_finite(tallies: Mapping[str, Tally]) -> None:
    for name, tally in tallies.items():
        if tally.gram is not None and not bool(torch.isfinite(tally.gram).all()):
            raise CalibrationError(
                must(f"the input of layer {name!r}", "finite for every calibration batch", "NaN or infinite entries")
            )
