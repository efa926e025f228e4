"""The loop against problems whose constrained optimum is known, and its behaviour when something goes wrong."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

import summands as sm
from summands.compressions import Compression, Terms
from summands.errors import ArgumentError, MismatchError, TrainingError
from summands.forms import Dense, Form
from summands.lc import Learner, Loop, Penalty, Schedule, Step
from summands.plan import Task
from summands.records import Verdict


@dataclass(frozen=True)
class Equal(Compression):
    """All entries equal: a subspace, so that the constrained optimum of a quadratic is known in closed form."""

    def _project(self, weight: Tensor, terms: Terms) -> Form:
        return Dense(shape=weight.shape, dtype=weight.dtype, values=weight.mean().expand(weight.shape).clone())

    def _is_feasible(self, form: Form) -> bool:
        return isinstance(form, Dense) and bool((form.values == form.values[0]).all())


class Quadratic(Learner):
    """Loss 1/2 (w - c)' H (w - c), whose L step is exact."""

    def __init__(self, hessian: Tensor, centre: Tensor) -> None:
        self.hessian, self.centre = hessian, centre
        self.model = nn.Module()
        self.model.w = nn.Parameter(centre.clone())

    def weights(self) -> Mapping[str, Tensor]:
        return {"w": self.model.w}

    def loss(self, w: Tensor) -> float:
        return float((w - self.centre) @ self.hessian @ (w - self.centre)) / 2

    def step(self, targets: Mapping[str, Tensor], step: Step) -> float:
        eye = torch.eye(len(self.centre), dtype=self.centre.dtype)
        right = self.hessian @ self.centre + step.mu * targets["w"]
        self.model.w.data = torch.linalg.solve(self.hessian + step.mu * eye, right)
        return self.loss(self.model.w.data)


def quadratic(n: int, seed: int) -> Quadratic:
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(n, n, generator=generator, dtype=torch.float64)
    return Quadratic(root @ root.T + 0.1 * torch.eye(n), torch.randn(n, generator=generator, dtype=torch.float64))


def run(learner: Quadratic, compression: Compression, schedule: Schedule) -> tuple[Tensor, Verdict]:
    loop = Loop(
        model=learner.model,
        tasks=[Task("w", ("w",), compression)],
        learner=learner,
        schedule=schedule,
        evaluate=lambda model: learner.loss(model.w.data),
    )
    network, _, verdict = loop.run()
    return network["w"].dense(), verdict


@pytest.mark.parametrize("seed", range(5))
def test_multipliers_reach_the_constrained_optimum_at_a_fixed_mu(seed: int) -> None:
    learner = quadratic(6, seed)
    ones = torch.ones(6, dtype=torch.float64)
    optimum = float(ones @ learner.hessian @ learner.centre) / float(ones @ learner.hessian @ ones)
    schedule = Schedule(steps=2000, mu0=5.0, growth=1.0, tolerance=1e-9)
    w, verdict = run(learner, Equal(), schedule)
    assert verdict is Verdict.CONVERGED
    torch.testing.assert_close(w, optimum * ones, rtol=1e-6, atol=1e-6)


def test_without_multipliers_a_fixed_mu_does_not_converge() -> None:
    """The test above can fail: the quadratic penalty at the same fixed mu keeps a gap."""
    schedule = Schedule(steps=200, mu0=5.0, growth=1.0, tolerance=1e-9, method="quadratic_penalty")
    _, verdict = run(quadratic(6, 0), Equal(), schedule)
    assert verdict is Verdict.STEPS_USED


def test_quadratic_penalty_converges_as_mu_grows() -> None:
    learner = quadratic(6, 1)
    ones = torch.ones(6, dtype=torch.float64)
    optimum = float(ones @ learner.hessian @ learner.centre) / float(ones @ learner.hessian @ ones)
    schedule = Schedule(steps=800, mu0=0.1, growth=1.02, tolerance=0, method="quadratic_penalty")
    w, _ = run(learner, Equal(), schedule)
    torch.testing.assert_close(w, optimum * ones, rtol=0.02, atol=0.005)


def test_learning_beats_direct_compression_and_nears_the_best_support() -> None:
    """Sparse least squares: LC against every support by brute force."""
    direct, learned, best = 0.0, 0.0, 0.0
    for seed in range(10):
        learner = quadratic(6, seed)
        optima = []
        for kept in itertools.combinations(range(6), 2):
            rows = torch.tensor(kept)
            w = torch.zeros(6, dtype=torch.float64)
            w[rows] = torch.linalg.solve(learner.hessian[rows][:, rows], (learner.hessian @ learner.centre)[rows])
            optima.append(learner.loss(w))
        best += min(optima)
        direct += learner.loss(sm.Prune(count=2).project(learner.centre).dense())
        w, _ = run(learner, sm.Prune(count=2), Schedule(steps=60, mu0=0.05, growth=1.15))
        learned += learner.loss(w)
    assert best <= learned < 0.5 * direct
    assert learned < 2.0 * best


def small_task(seed: int = 0) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(256, 8, generator=generator)
    labels = (inputs[:, 0] + inputs[:, 1] * inputs[:, 2] > 0).long()
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model, (inputs, labels)


PLAN = sm.Plan({"*.weight": "Quantize(2) + Prune(keep=0.1, dtype='float16')"}, ignore=["*.bias", "1.weight"])


def learn(**options) -> sm.Result:
    model, data = small_task()
    defaults = {
        "train": sm.SGD(data, batch_size=32, finetune_lr=0.05),
        "evaluate": lambda m: float(nn.functional.cross_entropy(m(data[0]), data[1])),
        "inputs": [data[0]],
        "schedule": Schedule(steps=5, mu0=1e-2, growth=1.5, finetune=3),
    }
    return sm.compress(model, options.pop("plan", PLAN), **{**defaults, **options})


def test_the_best_iterate_is_kept_and_the_model_is_not_touched() -> None:
    model, data = small_task()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    result = learn()
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    assert result.error == min(row.error for row in result.history)
    loaded = result.apply_(model).eval()
    with torch.no_grad():
        error = float(nn.functional.cross_entropy(loaded(data[0]), data[1]))
    assert error == pytest.approx(result.error, abs=1e-7)
    assert [row.phase for row in result.history] == ["direct"] + ["lc"] * 5 + ["finetune"] * 3


def test_an_importance_is_a_mu_of_the_weight() -> None:
    """A half everywhere is half the mu, to the bit; a weight of its own mu moves no other in its C step."""
    options = {"schedule": Schedule(steps=4, mu0=0.02, growth=2.0), "train": sm.SGD(small_task()[1], lr=0.01)}
    half = learn(**options, importance={"0.weight": 0.5, "4.weight": 0.5})
    plain = learn(**{**options, "schedule": Schedule(steps=4, mu0=0.01, growth=2.0)})
    assert [row.gap for row in half.history] == [row.gap for row in plain.history]
    assert all(torch.equal(half.forms[n].dense(), form.dense()) for n, form in plain.forms.items())

    seen = []

    def train(model: nn.Module, penalty: Penalty, step: Step) -> None:
        (model[0].weight.sum() + model[4].weight.sum()).backward()
        model.zero_grad()
        penalty().backward()
        seen.append((step.mu, step.max_lr, model[0].weight.grad.clone(), model[4].weight.grad.clone()))
        with torch.no_grad():
            model[0].weight.add_(0.1)
            model[4].weight.add_(0.1)

    learn(train=train, schedule=Schedule(steps=1, mu0=0.02), importance={"4.weight": 8.0})
    learn(train=train, schedule=Schedule(steps=1, mu0=0.02))
    (mu, max_lr, *weighed), (_, _, *alike) = seen
    assert max_lr == pytest.approx(1 / (8 * mu))
    assert torch.equal(weighed[0], alike[0]) and torch.allclose(weighed[1], 8 * alike[1])


def test_finetuning_moves_values_and_no_position_or_code() -> None:
    result = learn(schedule=Schedule(steps=0, finetune=4))
    direct = sm.compress(small_task()[0], PLAN)
    assert result.verdict is Verdict.FINETUNED
    for name in ("0.weight", "4.weight"):
        tuned, start = result.forms[name].tensors(), direct.forms[name].tensors()
        assert torch.equal(tuned["0.codes"], start["0.codes"])
        assert torch.equal(tuned["1.indices"], start["1.indices"])
        assert tuned["1.values"].dtype == torch.float16
        assert not torch.equal(tuned["0.values"], start["0.values"])
        assert not torch.equal(tuned["1.values"], start["1.values"])
    assert result.error < direct_error()


def direct_error() -> float:
    model, data = small_task()
    evaluate = lambda m: float(nn.functional.cross_entropy(m(data[0]), data[1]))  # noqa: E731
    return sm.compress(model, PLAN, evaluate=evaluate, inputs=[data[0]]).error


def test_a_shared_codebook_stays_shared_through_finetuning() -> None:
    plan = sm.Plan({"*.weight": "Quantize(4, per='task')"}, ignore=["*.bias", "1.weight"])
    result = learn(plan=plan)
    assert result.forms["0.weight"].values is result.forms["4.weight"].values


@pytest.mark.parametrize(
    "rule", ["Prune('auto', dtype='float16')", "LowRank('auto', dtype='float16') + Prune('auto', dtype='float16')"]
)
def test_every_iterate_of_a_run_under_a_budget_fits(tmp_path, rule: str) -> None:
    plan = sm.Plan({"*.weight": rule}, ignore=["*.bias", "1.weight"])
    options = {"plan": plan, "schedule": Schedule(steps=6, mu0=1e-2, growth=1.5, finetune=4)}
    limit = 600
    result = learn(budget=limit, **options)
    sizes = [row.size_bytes for row in result.history]
    assert max(sizes) <= limit and min(sizes) > 0.9 * limit
    assert result.save(tmp_path / "x.sums") <= limit
    assert result.error < learn(budget=450, **options).error


def test_finetuned_values_fit_a_budget_with_the_statistics_that_go_with_them() -> None:
    """A `train` that leaves statistics which cost nothing makes no room: the file has those that are recomputed."""
    _, data = small_task()

    def train(model: nn.Module, penalty: Penalty, step: Step) -> float:
        loss = sm.SGD(data, batch_size=32, finetune_lr=0.05)(model, penalty, step)
        model[1].reset_running_stats()
        return loss

    limit = 600
    plan = sm.Plan({"*.weight": "Prune('auto', dtype='float16')"}, ignore=["*.bias", "1.weight"])
    result = learn(plan=plan, train=train, budget=limit, schedule=Schedule(steps=0, finetune=4))
    assert [row.size_bytes <= limit for row in result.history if row.phase == "finetune"] == [True] * 4


@pytest.mark.parametrize("steps", [1, 2, 3, 9, 30])
def test_the_budget_falls_to_itself(steps: int) -> None:
    schedule = Schedule(steps=steps, budget_start=4.0)
    factors = [schedule.budget_factor(k) for k in range(steps)]
    assert factors == sorted(factors, reverse=True) and factors[0] == (4.0 if steps > 1 else 1.0)
    assert all(f == 1 for f in factors[-(steps // 3 or 1) :])
    assert all(Schedule(steps=steps).budget_factor(k) == 1 for k in range(steps))


def test_the_budget_falls_by_the_cubic_of_gradual_pruning() -> None:
    schedule = Schedule(steps=13, budget_start=5.0)  # reached at step 8
    assert [schedule.budget_factor(k) for k in (0, 4, 6, 8, 12)] == pytest.approx([5, 1.5, 1 + 4 / 64, 1, 1])


def test_a_budget_that_tightens() -> None:
    """Every iterate is as large as its own budget, and only those within the last one are candidates."""
    budget, schedule = 500, Schedule(steps=9, mu0=1e-2, growth=1.3, finetune=2, budget_start=1.6)
    plan = sm.Plan({"*.weight": "Prune('auto', dtype='float16')"}, ignore=PLAN.ignore)
    result = learn(plan=plan, budget=budget, schedule=schedule)
    sizes = {phase: [row.size_bytes for row in result.history if row.phase == phase] for phase in ("direct", "lc")}
    assert 0.85 * budget < sizes["direct"][0] <= budget
    for k, size in enumerate(sizes["lc"]):
        most = budget * schedule.budget_factor(k)
        assert 0.8 * most < size <= most, k
    assert result.size_bytes <= budget


def test_the_error_of_a_result_is_that_of_its_file() -> None:
    """Not that of a larger iterate on the way to the budget."""
    model, (inputs, labels) = small_task()
    plan = sm.Plan({"*.weight": "Prune('auto', dtype='float16')"}, ignore=PLAN.ignore)
    result = learn(plan=plan, budget=420, schedule=Schedule(steps=9, mu0=1e-2, growth=1.3, budget_start=1.6))
    with torch.no_grad():
        error = float(nn.functional.cross_entropy(result.apply_(model).eval()(inputs), labels))
    assert result.error == pytest.approx(error, abs=1e-7)
    assert min(row.error for row in result.history) < error - 1e-3
    assert [row.size_bytes for row in result.history if row.best][-1] == result.size_bytes


def test_a_budget_that_tightens_needs_a_budget() -> None:
    with pytest.raises(ArgumentError, match="budget_start"):
        learn(schedule=Schedule(steps=3, budget_start=2))
    with pytest.raises(ArgumentError, match="budget_start"):
        sm.PostTraining(schedule=Schedule(budget_start=2))


@pytest.mark.parametrize(
    "rule",
    ["ScaledBinary()", "Quantize(3, zero=True)", "Binary() + Prune(keep=0.2)", "Quantize(3, zero=True, per='task')"],
)
def test_finetuning_keeps_to_the_constraint(rule: str) -> None:
    plan = sm.Plan({"*.weight": rule}, ignore=["*.bias", "1.weight"])
    result = learn(plan=plan, schedule=Schedule(steps=0, finetune=3))
    weights = {name: form.dense() for name, form in result.forms.items() if result.rules[name] != "kept"}
    assert plan.rules[0].compression.is_feasible({name: result.forms[name] for name in weights}, weights)


@pytest.mark.parametrize("rule", ["PrunePenalty(2e-3)", "SoftThreshold(2e-3)", "LowRank('auto', alpha=1e-3)"])
def test_a_penalty_is_balanced_against_mu_from_the_first_step_on(rule: str) -> None:
    """Less is taken away as mu grows; directly there is no mu to balance it against."""
    plan = sm.Plan({"*.weight": rule}, ignore=["*.bias", "1.weight"])
    sizes = [row.size_bytes for row in learn(plan=plan, schedule=Schedule(steps=6, mu0=1e-3, growth=4.0)).history]
    assert sizes[0] < sizes[-1]
    with pytest.raises(sm.SummandsError, match="the LC loop gives it"):
        sm.compress(small_task()[0], plan)


class Interrupted(Exception):
    pass


FREE = sm.Plan({"*.weight": "LowRank('auto', dtype='float16') + Prune('auto', dtype='float16')"}, ignore=PLAN.ignore)
BUDGETED = {"plan": FREE, "budget": 600}
"""Under this one fine-tuning outgrows the budget and is brought back."""


TIGHTENING = {**BUDGETED, "schedule": Schedule(steps=5, mu0=1e-2, growth=1.5, finetune=3, budget_start=2.0)}


_STRAIGHT = Schedule(steps=5, mu0=1e-2, growth=1.5, finetune=3, straight_through=True)
STRAIGHT = {"schedule": _STRAIGHT}
GRIDS = {**STRAIGHT, "budget": 480, "plan": sm.Plan({"*.weight": "Grid('auto')"}, ignore=PLAN.ignore)}


@pytest.mark.parametrize("rows", range(1, 9))
@pytest.mark.parametrize(
    "options",
    [{}, BUDGETED, TIGHTENING, STRAIGHT, GRIDS],
    ids=["fixed", "budget", "tightening", "straight through", "grids straight through"],
)
def test_an_interrupted_run_resumes_to_the_same_bytes(tmp_path, rows: int, options) -> None:
    whole = learn(seed=3, **options)
    seen = []

    def report(row) -> None:
        seen.append(row)
        if len(seen) == rows:
            raise Interrupted

    path = tmp_path / "run.checkpoint"
    with pytest.raises(Interrupted):
        learn(seed=3, checkpoint=path, report=report, **options)
    resumed = learn(seed=3, checkpoint=path, resume=True, **options)
    assert resumed.save(tmp_path / "b.sums") == whole.save(tmp_path / "a.sums")
    assert (tmp_path / "a.sums").read_bytes() == (tmp_path / "b.sums").read_bytes()
    assert [row.error for row in resumed.history] == [row.error for row in whole.history]


def test_another_seed_gives_other_bytes(tmp_path) -> None:
    """The comparison of bytes above can fail."""
    learn(seed=3).save(tmp_path / "a.sums")
    learn(seed=4).save(tmp_path / "b.sums")
    assert (tmp_path / "a.sums").read_bytes() != (tmp_path / "b.sums").read_bytes()


def test_users_state_is_saved_and_restored(tmp_path) -> None:
    kept = {"momentum": {0: torch.ones(3)}, "epoch": 2, "names": ("a", None)}
    learn(checkpoint=tmp_path / "c", state=lambda: kept)
    got = []
    learn(checkpoint=tmp_path / "c", resume=True, load_state=got.append)
    assert torch.equal(got[0]["momentum"][0], torch.ones(3))
    assert (got[0]["epoch"], got[0]["names"]) == (2, ("a", None))


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path) -> None:
    learn(checkpoint=tmp_path / "c")
    with pytest.raises(MismatchError, match="another seed"):
        learn(checkpoint=tmp_path / "c", resume=True, seed=9)


def test_global_random_numbers_are_untouched() -> None:
    model, data = small_task()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    sm.compress(model, PLAN, train=sm.SGD(data), inputs=[data[0]], schedule=Schedule(steps=2, finetune=1))
    assert torch.equal(torch.rand(3), expected)


def test_a_diverging_run_keeps_its_best_iterate() -> None:
    result = learn(train=sm.SGD(small_task()[1], lr=1e30, decay=1.0), schedule=Schedule(steps=4, mu0=1e-12))
    assert result.verdict is Verdict.DIVERGED
    assert all(bool(torch.isfinite(t).all()) for t in result.tensors().values())


def test_broken_functions_get_clear_errors() -> None:
    with pytest.raises(TrainingError, match="adds penalty"):
        learn(train=lambda model, penalty, step: 0.0)
    with pytest.raises(TrainingError, match="a number or None"):
        learn(train=lambda model, penalty, step: (penalty(), "low")[1])
    with pytest.raises(TrainingError, match="evaluate"):
        learn(evaluate=lambda model: float("nan"))
    with pytest.raises(ArgumentError, match="BatchNorm"):
        learn(inputs=())
    with pytest.raises(ArgumentError, match="again and again"):
        learn(inputs=iter([1]))
    with pytest.raises(ArgumentError, match="train"):
        learn(train=None)
