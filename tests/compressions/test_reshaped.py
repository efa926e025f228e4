"""Sums of low-rank terms in several views against all ranks from many starts, on tiny weights."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from summands.compressions import LowRank
from summands.compressions.compression import squared_error
from summands.views import OUT, View, every_view, parse_view

PAIRS = [((6, 8), "out", "reshape(12)"), ((4, 3, 2, 2), "out", "kernel"), ((6, 6), "out", "reshape(4)")]


def truncated(tensor: Tensor, view: View, rank: int) -> Tensor:
    left, values, right = torch.linalg.svd(view.to_matrix(tensor), full_matrices=False)
    return view.to_tensor((left[:, :rank] * values[:rank]) @ right[:rank], tensor.shape)


def planted(shape: tuple[int, ...], views: list[View], seed: int) -> Tensor:
    """One rank in each view, and noise."""
    generator = torch.Generator().manual_seed(seed)
    noise = [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(3)]
    return truncated(noise[0], views[0], 1) + truncated(noise[1], views[1], 1) + 0.1 * noise[2]


def descended(weight: Tensor, views: list[View], ranks: tuple[int, int], start: Tensor) -> float:
    """Plain alternation at fixed ranks."""
    second, last = start, float("inf")
    for _ in range(100):
        first = truncated(weight - second, views[0], ranks[0])
        second = truncated(weight - first, views[1], ranks[1])
        error = float(((weight - first - second) ** 2).sum())
        if last - error < 1e-8 * last:
            break
        last = error
    return error


def by_brute_force(weight: Tensor, views: list[View], unit: float, starts: int) -> float:
    """The least error + unit * numbers over all ranks, each from several starts; dense is one more choice."""
    generator = torch.Generator().manual_seed(1)
    each = [sum(view.matrix_shape(weight.shape)) for view in views]
    inits = [torch.zeros_like(weight)]
    inits += [torch.randn(weight.shape, generator=generator, dtype=weight.dtype) * weight.std() for _ in range(starts)]
    best = unit * weight.numel()
    for ranks in itertools.product(*(range(min(view.matrix_shape(weight.shape))) for view in views)):
        cost = unit * sum(rank * c for rank, c in zip(ranks, each, strict=True))
        if cost < best:
            best = min(best, cost + min(descended(weight, views, ranks, start) for start in inits))
    return best


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_ranks_of_two_views_are_near_the_best_of_all(pair) -> None:
    shape, *names = pair
    views = [parse_view(name) for name in names]
    ratios = []
    for seed, unit in itertools.product((1, 5), (0.02, 0.1, 0.3)):
        weight = planted(shape, views, seed)
        price = unit / 56  # estimated bits of a float64 number
        both = LowRank("auto", view=names[0]) + LowRank("auto", view=names[1])
        reached = both.objective(weight, both.project(weight, price=price), price=price)
        ratios.append(reached / by_brute_force(weight, views, unit, starts=2))
    assert max(ratios) < 1.02, ratios


def test_plain_descent_is_worse() -> None:
    """What the pursuit is for: hard thresholds alone stay in one view."""
    shape, *names = PAIRS[1]
    weight = planted(shape, [parse_view(name) for name in names], 1)
    both = LowRank("auto", view=names[0]) + LowRank("auto", view=names[1])
    price = 0.1 / 56
    form = both.project(weight, price=price)
    alone = [LowRank("auto", view=name).project(weight, price=price) for name in names]
    least = min(LowRank("auto", view=n).objective(weight, f, price=price) for n, f in zip(names, alone, strict=True))
    assert [part.rank for part in form.parts()] == [1, 1]
    assert both.objective(weight, form, price=price) < 0.85 * least


@pytest.mark.parametrize("names", [("auto",) * 3, ("kernel", "spatial", "out")], ids=str)
@pytest.mark.parametrize("share", [0.02, 0.03, 0.05])
def test_a_third_term_is_never_worse_than_none(names: tuple[str, ...], share: float) -> None:
    """With one on its way, ranks of the first two could end elsewhere, or all in one view."""
    shape, generator = (10, 6, 3, 3), torch.Generator().manual_seed(1)
    weight = 0.3 * torch.randn(shape, generator=generator, dtype=torch.float64)
    for name, rank in (("kernel", 3), ("spatial", 2), ("out", 1)):
        part = torch.randn(shape, generator=generator, dtype=torch.float64)
        weight = weight + truncated(part, parse_view(name), rank) / rank**0.5
    price = share * float((weight**2).sum()) / weight.numel() * 10 / 56
    terms = [LowRank("auto", view=name) for name in names]
    two, three = terms[0] + terms[1], terms[0] + terms[1] + terms[2]
    reached, wanted = (each.objective(weight, each.project(weight, price=price), price=price) for each in (three, two))
    assert reached <= wanted * (1 + 1e-6)


def test_fixed_ranks_are_pursued_too() -> None:
    shape, *names = PAIRS[0]
    views = [parse_view(name) for name in names]
    weight = planted(shape, views, 3)
    both = LowRank(1, view=names[0]) + LowRank(1, view=names[1])
    form = both.project(weight)
    assert [part.rank for part in form.parts()] == [1, 1]
    best = min(descended(weight, views, (1, 1), start) for start in (torch.zeros_like(weight), weight))
    assert squared_error(weight, form) <= best * 1.05


def test_the_set_of_views_is_chosen_with_the_ranks() -> None:
    weight = planted((12, 10), [OUT, parse_view("reshape(8)")], 2)
    both = LowRank("auto", view="any") + LowRank("auto", view="any")
    form = both.project(weight, price=0.1 / 56)
    assert {str(part.view) for part in form.parts() if part.rank} == {"out", "reshape(8)"}
    assert squared_error(weight, form) < 0.03 * float((weight**2).sum())


@pytest.mark.parametrize("shape", [(), (1,), (6,), (7, 11), (20, 30), (4, 3, 2, 2), (3, 4, 2), (0, 3)])
def test_every_view_applies_once(shape: tuple[int, ...]) -> None:
    tensor = torch.arange(float(torch.Size(shape).numel())).reshape(shape)
    seen = set()
    for view in every_view(shape) if shape else []:
        matrix = view.to_matrix(tensor)
        assert torch.equal(view.to_tensor(matrix, shape), tensor)
        key = (tuple(matrix.shape), tuple(matrix.reshape(-1).tolist()))
        assert key not in seen or not tensor.numel()
        seen.add(key)
