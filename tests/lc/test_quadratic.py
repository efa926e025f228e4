"""The layer-wise loop: its L step, its iterates, its inputs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from summands.coding import estimated_bits
from summands.compressions import Auto, Compression, Grid, LowRank, Prune, Quantize, ScaledGrid
from summands.errors import ArgumentError, WeightError
from summands.lc import Moments, QuadraticLearner, Schedule, Step, fit_layer, fit_task
from summands.lc.polish import Layers, polished

QUICK = Schedule(steps=12, mu0=1e-2, growth=1e3 ** (1 / 11), finetune=10)


def layer(m: int, n: int, groups: int = 1, samples: int = 50, seed: int = 0) -> tuple[torch.Tensor, Moments]:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(groups * m, n, generator=generator)
    mixing = torch.randn(groups, n, n, generator=generator)
    x = torch.randn(groups, samples, n, generator=generator) @ mixing
    return weight, Moments(x.mT @ x / samples, samples)


def felt(weight: torch.Tensor, moments: Moments) -> Moments:
    """With rows of which some count a hundred times what others do."""
    return replace(moments, felt=torch.logspace(-1, 1, len(weight), dtype=torch.float64))


def whole_error(weight: torch.Tensor, other: torch.Tensor, moments: Moments) -> float:
    """sum_i s_i e_i H e_i', row by row."""
    gram = moments.metric(0.01).gram
    rows = (other.double() - weight.double()).reshape(len(weight), -1)
    each = len(weight) // len(gram)
    errors = [float(row @ gram[i // each] @ row) for i, row in enumerate(rows)]
    return sum(s * error for s, error in zip(moments.felt.tolist(), errors, strict=True))  # type: ignore[union-attr]


@pytest.mark.parametrize(("compression", "share"), [
    (LowRank(2), 0.97), (Prune(keep=0.2), 0.97), (Quantize(3), 0.97), (Grid("auto", trellis=True), 1.0),
    (ScaledGrid("auto", per="row"), 0.97), (Quantize(2) + LowRank(1) + Prune(keep=0.05), 0.97),
    (Quantize(2, per="row"), 1.01), (Grid(0.5), 1.01),
], ids=repr)  # fmt: skip
@pytest.mark.parametrize("groups", [1, 2])
def test_an_error_counts_as_its_row_is_felt(compression: Compression, share: float, groups: int) -> None:
    """Which pays, unless every row stands alone."""
    weight, plain = layer(12 // groups, 16, groups)
    moments, price = felt(weight, plain), 0.05 if compression.is_free() else None
    fitted = fit_layer(weight, moments, compression, price=price, schedule=QUICK)
    reached = whole_error(weight, fitted.form.dense(), moments)
    assert fitted.error == pytest.approx(reached, rel=1e-6)
    assert compression.is_feasible({"w": fitted.form}, {"w": weight})
    other = fit_layer(weight, plain, compression, price=price, schedule=QUICK)
    paid = (price or 0.0) * (estimated_bits(fitted.form) - estimated_bits(other.form))
    assert reached + paid < share * whole_error(weight, other.form.dense(), moments)


def test_low_rank_is_the_best_under_rows_that_are_felt() -> None:
    weight, plain = layer(12, 16)
    moments = felt(weight, plain)
    root = torch.linalg.cholesky(moments.metric(0.01).gram[0])
    values = torch.linalg.svdvals(moments.felt.sqrt()[:, None] * weight.double() @ root)  # type: ignore[union-attr]
    reached = fit_layer(weight, moments, LowRank(3), schedule=QUICK).error
    assert reached == pytest.approx(float((values[3:] ** 2).sum()), rel=1e-4)


def test_steps_of_rows_follow_what_is_felt() -> None:
    weight, plain = layer(8, 6)
    moments = replace(plain, felt=torch.tensor([1.0, 1.0, 1.0, 1.0, 4.0, 4.0, 16.0, 16.0]))
    step = fit_layer(weight, moments, ScaledGrid("auto", per="row"), price=0.01).form.tensors()["step"]
    assert (step[0] / step[[4, 6]]).tolist() == pytest.approx([2.0, 4.0], rel=0.1)


@pytest.mark.parametrize(("felt", "message"), [
    (torch.ones(3), "4 numbers, one a row"), (torch.zeros(4), "above 0"), (torch.full((4,), torch.inf), "above 0"),
])  # fmt: skip
def test_what_rows_do_not_fit_is_refused(felt: torch.Tensor, message: str) -> None:
    weight, moments = layer(4, 5)
    with pytest.raises(ArgumentError, match=message):
        fit_layer(weight, replace(moments, felt=felt), Quantize(2))


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("some", [False, True])
def test_the_l_step_is_stationary(groups: int, some: bool) -> None:
    weight, moments = layer(4, 5, groups)
    moments = felt(weight, moments) if some else moments
    learner = QuadraticLearner({"w": weight}, {"w": moments})
    target = torch.randn(weight.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    learner.step({"w": target}, Step(0, 1, 0.3, 0, 1))
    metric = learner.metrics["w"]
    w = learner.weights()["w"].clone().requires_grad_()
    rows = metric.rows(w.detach()) + (w - w.detach()).reshape(groups, -1, 5) * (metric.factors if some else 1)
    loss = ((rows - learner.targets["w"]) @ metric.gram * (rows - learner.targets["w"])).sum() / 2
    (loss + 0.3 * metric.mean / 2 * (w - target).square().sum()).backward()
    assert w.grad is not None
    assert float(w.grad.abs().max()) < 1e-9 * metric.mean


def test_the_loop_is_better_than_the_plain_projection() -> None:
    weight, moments = layer(16, 24)
    compression = Quantize(2) + Prune(keep=0.05)
    learner = QuadraticLearner({"w": weight}, {"w": moments})
    plain = learner.error("w", compression.project(weight).dense())
    fitted = fit_layer(weight, moments, compression)
    assert fitted.error < 0.8 * plain
    assert fitted.error == pytest.approx(learner.error("w", fitted.form.dense()))
    assert compression.is_feasible({"w": fitted.form}, {"w": weight})


def test_an_embedding_weighs_its_rows() -> None:
    weight = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    frequencies = torch.tensor([0.5, 0.1, 0.1, 0.1, 0.1, 0.1])
    learner = QuadraticLearner({"w": weight}, {"w": Moments(frequencies, 10)}, damping=0.0)
    other = weight.clone()
    other[0] += 1
    assert learner.error("w", other) == pytest.approx(0.5 * 4)
    assert fit_layer(weight, Moments(frequencies, 10), LowRank(2)).form.shape == weight.shape


def test_without_damping_few_inputs_name_the_layer() -> None:
    weight, moments = layer(4, 30, samples=5)
    fitted = fit_layer(weight, moments, Quantize(2), name="conv1", damping=0.0)
    assert "layer 'conv1': damping raised from 0 to" in fitted.note


def test_inputs_of_zeros_leave_the_plain_projection() -> None:
    weight, _ = layer(4, 5)
    fitted = fit_layer(weight, Moments(torch.zeros(1, 5, 5), 3), Quantize(2))
    assert torch.equal(fitted.form.dense(), Quantize(2).project(weight).dense())
    assert "always zero" in fitted.note


def test_drift_aims_at_the_original_outputs() -> None:
    weight, _ = layer(4, 5)
    x = torch.randn(100, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    xh = x + 0.3 * torch.randn(100, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    moments = Moments((xh.T @ xh / 100)[None], 100, cross=(x.T @ xh / 100)[None])
    target = moments.target(weight, moments.metric(0.0))[0]
    expected = torch.linalg.lstsq(xh, x @ weight.double().T).solution.T
    assert torch.allclose(target, expected)


@pytest.mark.parametrize(
    ("weight", "moments", "error", "message"),
    [
        (torch.tensor([[1.0, torch.nan]]), Moments(torch.eye(2)[None], 1), WeightError, "finite.*layer 'fc'"),
        (torch.ones(2, 2), Moments(torch.full((1, 2, 2), torch.nan), 1), ArgumentError, "moments.*finite.*layer 'fc'"),
        (torch.ones(2, 3), Moments(torch.eye(2)[None], 1), ArgumentError, r"groups x 3 x 3.*\(1, 2, 2\)"),
        (torch.ones(2, 2), Moments(torch.eye(2)[None], 0), ArgumentError, "at least 1 input, got 0"),
        (torch.ones(2), Moments(torch.eye(2)[None], 1), WeightError, "two dimensions"),
    ],
)
def test_what_does_not_fit_is_refused(weight, moments, error, message) -> None:
    with pytest.raises(error, match=message):
        fit_layer(weight, moments, Quantize(2), name="fc")


@pytest.mark.parametrize("compression", [Quantize(2) + LowRank(1) + Prune(keep=0.05), LowRank(2), Grid(0.5)])
def test_polish_never_makes_the_error_worse_and_stays_feasible(compression: Compression) -> None:
    weight, moments = layer(16, 24)
    learner = QuadraticLearner({"w": weight}, {"w": moments})
    layers = Layers(compression, learner.targets, learner.metrics, {"w": weight.dtype})
    forms = compression.project_task({"w": weight})
    errors = [layers.objective(forms)]
    for _ in range(3):
        forms = polished(layers, forms, 1)
        errors.append(layers.objective(forms))
        assert layers.is_feasible(forms)
    assert errors == sorted(errors, reverse=True)
    assert errors[1] < 0.95 * errors[0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_error_is_that_of_the_stored_form(dtype: torch.dtype) -> None:
    weight, moments = layer(12, 10)
    weight = weight.to(dtype)
    compression = Quantize(3, dtype="float16") + LowRank(1, dtype="bfloat16")
    fitted = fit_layer(weight, moments, compression, schedule=QUICK)
    assert fitted.form.dense().dtype == dtype
    assert compression.is_feasible({"w": fitted.form}, {"w": weight})
    learner = QuadraticLearner({"w": weight}, {"w": moments})
    assert fitted.error == pytest.approx(learner.error("w", fitted.form.dense()))


def test_groups_are_fitted_each_to_its_own_inputs() -> None:
    weight, moments = layer(4, 9, groups=5)
    kernel = weight.reshape(20, 1, 3, 3)
    compression = Quantize(4)
    fitted = fit_layer(kernel, moments, compression, schedule=QUICK)
    learner = QuadraticLearner({"w": kernel}, {"w": moments})
    assert fitted.error < 0.7 * learner.error("w", compression.project(kernel).dense())


def test_a_task_that_shares_a_codebook_is_fitted_as_one() -> None:
    (a, ma), (b, mb) = layer(8, 6), layer(10, 12, seed=1)
    compression = Quantize(2, per="task") + Prune(keep=0.1, per="task")
    fitted = fit_task({"a": a, "b": b}, {"a": ma, "b": mb}, compression, schedule=QUICK)
    forms = {name: each.form for name, each in fitted.items()}
    assert compression.is_feasible(forms, {"a": a, "b": b})
    learner = QuadraticLearner({"a": a, "b": b}, {"a": ma, "b": mb})
    plain = compression.project_task({"a": a, "b": b})
    assert sum(f.error for f in fitted.values()) < 0.9 * sum(learner.error(n, f.dense()) for n, f in plain.items())


def test_a_feasible_previous_is_never_lost() -> None:
    weight, moments = layer(16, 24)
    compression = Quantize(2) + Prune(keep=0.05)
    good = fit_layer(weight, moments, compression)
    again = fit_layer(weight, moments, compression, previous=good.form, schedule=QUICK)
    assert again.error <= good.error * (1 + 1e-9)


def test_the_same_inputs_give_the_same_form() -> None:
    weight, moments = layer(8, 6)
    first, second = (fit_layer(weight, moments, Quantize(2) + LowRank(1), schedule=QUICK) for _ in range(2))
    assert first.form.same(second.form)


def test_a_price_decides_the_step_of_a_grid() -> None:
    weight, moments = layer(32, 24)
    cheap, dear = (fit_layer(weight, moments, Grid("auto"), price=price) for price in (0.01, 1.0))
    assert estimated_bits(dear.form) < estimated_bits(cheap.form)
    assert dear.error > cheap.error


def test_what_auto_chooses_is_fitted() -> None:
    weight, moments = layer(24, 16)
    auto = Auto([Quantize("auto"), LowRank("auto") + Prune("auto")])
    fitted = fit_layer(weight, moments, auto, price=0.05, schedule=QUICK)
    assert auto.is_feasible({"w": fitted.form}, {"w": weight})
    learner = QuadraticLearner({"w": weight}, {"w": moments})
    plain = auto.project(weight, price=0.05 / learner.metrics["w"].mean)
    paid = 0.05 * (estimated_bits(fitted.form) - estimated_bits(plain))
    assert fitted.error + paid < learner.error("w", plain.dense())


def test_given_bits_are_kept_and_used() -> None:
    weight, moments = layer(64, 48)
    part = Grid(bits_per_weight=2.0)
    fitted = fit_layer(weight, moments, part)
    assert part.is_feasible({"w": fitted.form}, {"w": weight})
    assert estimated_bits(fitted.form) > 1.9 * weight.numel()
    learner = QuadraticLearner({"w": weight}, {"w": moments})
    assert fitted.error < 0.6 * learner.error("w", part.project(weight).dense())


def test_a_step_that_layers_share_stays_shared() -> None:
    (a, ma), (b, mb) = layer(8, 6), layer(10, 12, seed=1)
    part = Grid("auto", per="task")
    fitted = fit_task({"a": a, "b": b}, {"a": ma, "b": mb}, part, price=0.1)
    assert fitted["a"].form.tensors()["step"] is fitted["b"].form.tensors()["step"]


@pytest.mark.parametrize("part", [Grid("auto"), ScaledGrid("auto")])
def test_a_free_step_without_a_price_is_refused(part: Compression) -> None:
    weight, moments = layer(8, 6)
    with pytest.raises(ArgumentError, match="price"):
        fit_layer(weight, moments, part)
