"""What models and functions of users do that a run must stand, or refuse by name."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import summands as sm
from summands.errors import BudgetError, CalibrationError, MismatchError, TrainingError
from summands.lc import Penalty, Step
from summands.records import Verdict

TWO_VALUES = sm.Plan({"*": "Quantize(2)"})


def network(norm: bool = False, width: int = 24, depth: int = 4, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(width, width), nn.BatchNorm1d(width) if norm else nn.Identity(), nn.Tanh()]
    return nn.Sequential(*layers, nn.Dropout(0.5), nn.Linear(width, 4))


X = torch.randn(64, 24, generator=torch.Generator().manual_seed(0))
Y = torch.randint(4, (64,), generator=torch.Generator().manual_seed(1))
WEIGHTS = sm.Plan({"*.weight": 'Prune("auto")'}, ignore=["*.bias"])
NORMED = sm.Plan({"*.weight": 'Prune("auto", dtype="float16")'}, ignore=["*.bias", "BatchNorm1d"])


def wrong(model: nn.Module) -> float:
    return 100 * float((model(X).argmax(1) != Y).float().mean())


@pytest.mark.parametrize("budget", [5000, 5500])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("trained", [False, True])
def test_what_is_kept_within_a_budget_is_what_was_judged(budget, seed, trained):
    """The statistics that go with the compressed weights take other bytes than those of before."""
    model = network(norm=True, depth=6, seed=seed)
    options = {"train": sm.SGD((X, Y)), "schedule": sm.Schedule(steps=3)} if trained else {}
    result = sm.compress(model, NORMED, budget=budget, evaluate=wrong, inputs=[X], seed=seed, **options)
    assert all(row.size_bytes <= budget for row in result.history)
    assert result.history[0].best and result.error is not None
    assert wrong(result.apply_(network(norm=True, depth=6)).eval()) == pytest.approx(result.error)


@pytest.mark.parametrize("budget", [4000, 5000, 6000])
def test_post_training_fills_a_budget_with_statistics_that_are_rounded(budget):
    model = network(norm=True, depth=6)
    sm.SGD((X, Y))(model, Penalty([], [], 0.0), Step(0, 1, 0.0, 0, 50))
    options = sm.PostTraining(drift=budget != 6000)
    result = sm.compress(model.eval(), NORMED, budget=budget, calibration=[X], posttraining=options)
    assert 0.99 * budget <= result.size_bytes <= budget


def test_weights_that_move_to_where_the_plan_fits_no_more():
    """Two values and their signs code in few bits while most are alike; trained to be even, they take one each."""
    model = nn.Sequential(nn.Linear(40, 40, bias=False))
    with torch.no_grad():
        model[0].weight.fill_(1.0)[:, :2] = -1.0

    def train(own, penalty, step):
        with torch.no_grad():
            own[0].weight.copy_(torch.randn(40, 40, generator=torch.Generator().manual_seed(step.index)))
        penalty()

    plan = sm.Plan({"*": 'Quantize(2) + Prune("auto")'})
    result = sm.compress(model, plan, budget=150, train=train, schedule=sm.Schedule(steps=3, finetune=0))
    assert result.size_bytes <= 150 and len(result.history) == 4


def test_evaluate_may_leave_the_model_in_training():
    def careless(model):
        error = wrong(model)
        model.train()
        return error

    options = sm.PostTraining(tune=3)
    plan = sm.Plan({"*.weight": "Quantize(4)"}, ignore=["*.bias"])
    results = [
        sm.compress(network(norm=True).eval(), plan, calibration=[X], posttraining=options, evaluate=each)
        for each in (wrong, careless)
    ]
    assert [row.loss for row in results[0].history] == [row.loss for row in results[1].history]


def test_evaluate_may_not_convert_the_model():
    def double(model):
        model.double()
        return 1.0

    with pytest.raises(TrainingError, match="became other tensors"):
        sm.compress(network(), WEIGHTS, budget="4x", evaluate=double, train=sm.SGD((X, Y)))


def test_a_bias_without_a_number_is_divergence():
    def train(model, penalty, step):
        penalty()
        with torch.no_grad():
            model[0].bias[0] = math.nan

    result = sm.compress(network(), WEIGHTS, budget="4x", train=train)
    assert result.verdict is Verdict.DIVERGED
    assert all(bool(t.isfinite().all()) for t in result.tensors().values())


class Masked(nn.Module):
    """A frozen floor of -inf, a frozen position, and a buffer that every forward exchanges."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(24, 4)
        self.floor = nn.Parameter(torch.full((4,), -math.inf), requires_grad=False)
        self.place = nn.Parameter(torch.linspace(0, 1, 4), requires_grad=False)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen = self.seen + 1
        return torch.maximum(self.fc(x), self.floor) + self.place


def test_frozen_infinities_and_buffers_that_forward_exchanges():
    plan = sm.Plan({"fc.weight": "Quantize(2)"}, ignore=["*.bias", "floor", "place"])
    options = sm.PostTraining(tune=3, lr=0.1)
    for more in (
        {},
        {"train": sm.SGD((X, Y)), "schedule": sm.Schedule(steps=2)},
        {"calibration": [X], "posttraining": options},
    ):
        model = Masked()
        result = sm.compress(model, plan, evaluate=wrong, **more)
        assert result.verdict is not Verdict.DIVERGED
        assert torch.equal(result.tensors()["place"], model.place) and float(model.seen) == 0


class Fused(nn.Linear):
    """Its own `train(mode)` folds something into the weight for inference, and out of it again."""

    fused = False
    trained_while_fused = 0

    def train(self, mode: bool = True):
        self.fused = not mode
        return super().train(mode)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        Fused.trained_while_fused += self.training and self.fused
        return super().forward(x)


def test_modes_are_set_through_the_modules_themselves():
    plan = sm.Plan({"*.weight": "Quantize(2)"}, ignore=["*.bias"])
    model = nn.Sequential(Fused(24, 4))
    sm.compress(model, plan, train=sm.SGD((X, Y)), schedule=sm.Schedule(steps=2), evaluate=wrong)
    assert Fused.trained_while_fused == 0


def test_statistics_are_computed_no_more_often_than_looked_at():
    passes = 0

    class Counted(list):
        def __iter__(self):
            nonlocal passes
            passes += 1
            return super().__iter__()

    inputs = Counted([X])
    sm.compress(network(norm=True), NORMED, budget=4000, inputs=inputs, train=sm.SGD((X, Y)), schedule=sm.Schedule(4))
    assert passes <= 2 + 2 * 5  # twice before, then once a step, or twice where the first did not fit


def test_an_infinite_error_is_not_followed_by_one_without_a_number():
    errors = iter([math.inf, math.nan, math.nan])
    schedule = sm.Schedule(steps=2)
    result = sm.compress(
        network(), WEIGHTS, budget="4x", train=sm.SGD((X, Y)), evaluate=lambda m: next(errors), schedule=schedule
    )
    assert [row.best for row in result.history] == [True, False, False]


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    def run(model, resume=False):
        return sm.compress(
            model,
            sm.Plan({"*.weight": "Quantize(2)"}, ignore=["*.bias"]),
            train=sm.SGD((X, Y)),
            schedule=sm.Schedule(steps=1),
            checkpoint=tmp_path / "run.checkpoint",
            resume=resume,
        )

    run(network())
    other = network()
    with torch.no_grad():
        other[0].weight.mul_(3)
    for model in (other, nn.Sequential(nn.Linear(24, 4)), network(width=24).append(nn.Linear(4, 4))):
        with pytest.raises(MismatchError, match="another network"):
            run(model, resume=True)
    run(network(), resume=True)


def test_a_later_batch_of_another_shape_is_named():
    for memory in (None, 10**9):
        options = sm.PostTraining(memory_bytes=memory)
        with pytest.raises(CalibrationError, match="batch 1: RuntimeError"):
            sm.compress(network(), TWO_VALUES, calibration=[X, X[:, :5]], posttraining=options)


def test_frozen_parameters_are_tuned_all_the_same():
    """Most pretrained networks come for inference."""
    plan = sm.Plan({"*.weight": "Quantize(4)"}, ignore=["*.bias"])
    results = [
        sm.compress(model, plan, calibration=[X], posttraining=sm.PostTraining(tune=2))
        for model in (network(), network().requires_grad_(False))
    ]
    assert results[0].history[-1].loss == results[1].history[-1].loss


def test_a_loader_that_shuffles_gives_the_same_statistics_when_resumed(tmp_path):
    loader = torch.utils.data.DataLoader(X, batch_size=20, shuffle=True)
    path, calls = tmp_path / "run.checkpoint", 0

    def stop(row):
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt

    def run(**more):
        schedule = sm.Schedule(steps=4)
        return sm.compress(network(norm=True), NORMED, budget="4x", train=sm.SGD((X, Y)), inputs=loader,
                           schedule=schedule, **more)  # fmt: skip

    whole = run()
    with pytest.raises(KeyboardInterrupt):
        run(checkpoint=path, report=stop)
    torch.manual_seed(9)
    resumed = run(checkpoint=path, resume=True)
    assert all(form.same(whole.forms[name]) for name, form in resumed.forms.items())


def test_half_precision_does_not_overflow_the_penalty():
    weight = torch.full((300,), 30.0, dtype=torch.float16)
    assert float(Penalty([weight], [torch.zeros_like(weight)], 1e-4)()) == pytest.approx(13.5, rel=1e-3)
    assert float(Penalty([weight], [torch.zeros_like(weight)], 9e-8)()) == pytest.approx(0.01215, rel=1e-3)


def test_training_inside_no_grad():
    with torch.no_grad():
        result = sm.compress(network(), WEIGHTS, budget="4x", train=sm.SGD((X, Y)), schedule=sm.Schedule(steps=1))
        tuned = sm.PostTraining(tune=1)
        sm.compress(network(), WEIGHTS, budget="4x", calibration=[X], posttraining=tuned)
    assert len(result.history) == 2


class Routed(nn.Module):
    """Each input through one of two layers, by its own sign."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.one, self.other = nn.Linear(8, 8), nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        goes = x.sum(1) > 0
        y = x.new_zeros(len(x), 4)
        y[goes], y[~goes] = self.one(x[goes]), self.other(x[~goes])
        return y


def test_a_network_that_routes_its_inputs_needs_no_drift():
    plan = sm.Plan({"*.weight": "Quantize(2)"}, ignore=["*.bias"])
    batches = list(X[:, :8].split(16))
    with pytest.raises(CalibrationError, match=r"drift=False"):
        sm.compress(Routed(), plan, calibration=batches)
    result = sm.compress(Routed(), plan, calibration=batches, posttraining=sm.PostTraining(drift=False))
    assert result.verdict is Verdict.CALIBRATED


class Later(nn.Module):
    """A layer that only some batches reach."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor, *, both: bool) -> torch.Tensor:
        return self.b(self.a(x)) if both else self.a(x)


def test_a_layer_that_comes_in_with_a_later_batch():
    batches = [{"x": X[:32, :8], "both": False}, {"x": X[32:, :8], "both": True}]
    options = [sm.PostTraining(drift=False, memory_bytes=memory) for memory in (None, 10**9)]
    plan = sm.Plan({"*.weight": "Quantize(2)"}, ignore=["*.bias"])
    counts = [
        {row.name: (row.inputs, row.note) for row in result.layers}
        for result in (sm.compress(Later(), plan, calibration=batches, posttraining=each) for each in options)
    ]
    assert counts[0] == counts[1] and counts[0]["b.weight"] == (32, "")


def test_a_joint_candidate_takes_all_weights_of_a_task_or_none():
    plan = sm.Plan({"*.weight": sm.Auto([sm.Quantize("auto", per="task"), sm.Keep()])}, ignore=["*.bias"])
    result = sm.compress(network(), plan, budget="8x", calibration=[X])
    books = {id(form.tensors()["values"]) for name, form in result.forms.items() if name.endswith("weight")}
    assert len(books) == 1


def test_a_verdict_that_says_more_than_a_budget_stands():
    def train(model, penalty, step):
        penalty()
        return math.nan

    plan = sm.Plan({"0.weight": 'Prune("auto")', "*.weight": "Quantize(2)"}, ignore=["*.bias"])
    result = sm.compress(network(), plan, budget=10**6, train=train)
    assert result.verdict is Verdict.DIVERGED


@pytest.mark.parametrize("budget", ["0.001 bits", "100000x", "1e400 kB"])
def test_a_budget_that_nothing_fits(budget):
    with pytest.raises(BudgetError):
        sm.compress(network(), WEIGHTS, budget=budget)


def test_the_unit_of_a_distance_is_one():
    """A network of sequences: its calibrated distance is near that of tuning, which moves nothing at such a rate."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 6))
    batches = [torch.randn(16, 20, 8, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    options = sm.PostTraining(distance="softmax", drift=False, tune=1, lr=1e-9)
    plan = sm.Plan({"*.weight": "Quantize(8)"}, ignore=["*.bias"])
    history = sm.compress(model, plan, calibration=batches, posttraining=options).history
    assert history[0].loss == pytest.approx(history[1].loss, rel=0.5)


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.logits, self.rebuilt = nn.Linear(24, 16), nn.Linear(16, 4), nn.Linear(16, 24)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        h = self.body(x).relu()
        return {"logits": self.logits(h), "rebuilt": self.rebuilt(h)}


def test_an_output_that_is_not_compared_is_not_lost() -> None:
    """Calibration compares the first; what leads to another counts as weights do in the mean, and says so."""
    plan = sm.Plan({"*.weight": "Grid('auto')"}, ignore=["*.bias"])
    result = sm.compress(TwoHeads(), plan, budget="6x", calibration=list(X.split(16)))
    assert result.relative_errors["rebuilt.weight"] < 0.2
    notes = {layer.name: layer.note for layer in result.layers}
    assert "does not feel it" in notes["rebuilt.weight"] and not notes["logits.weight"]


def test_a_loader_that_shuffles_repeats_and_leaves_random_numbers_alone(tmp_path) -> None:
    loader = torch.utils.data.DataLoader(X, batch_size=16, shuffle=True)
    model, plan = network(norm=True), sm.Plan({"*.weight": "Grid('auto')"}, ignore=["*.bias", "BatchNorm1d"])
    before = torch.get_rng_state()
    files = []
    for name in ("a", "b"):
        sm.compress(model, plan, budget="6x", calibration=loader, seed=3).save(tmp_path / name)
        files.append((tmp_path / name).read_bytes())
    sm.compress(model, sm.Plan({"*.weight": "Prune(keep=0.5)"}, ignore=plan.ignore), inputs=loader)
    assert files[0] == files[1]
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("plan", [{"*": "Quantize(2)"}, "Quantize(2)", None])
def test_a_plan_of_another_type(plan) -> None:
    with pytest.raises(sm.SummandsError, match="plan must be a Plan, got"):
        sm.compress(network(), plan)
