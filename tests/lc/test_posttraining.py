"""Post-training of small networks: better than without data, drift, biases, budgets, tuning, and what is named."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import summands as sm
from summands.errors import ArgumentError, BudgetError, CalibrationError
from summands.lc.fits import evened
from summands.records import LayerRecord
from summands.zoo.data import load
from summands.zoo.train import Recipe, train

BIASES = {"*.bias": 'Keep("float16")'}


@cache
def digits() -> tuple[nn.Module, Tensor, Tensor]:
    """A small net trained on digits, inputs to calibrate on, and others to judge by."""
    recipe = Recipe("lenet300", "digits", epochs=8, lr=0.05, batch=64)
    data = load("digits")
    return train(recipe, data).model, data.train.images[:256], data.test.images


def distance(model: nn.Module, result: sm.Result) -> float:
    """KL of the compressed network's answers on inputs that calibration did not see."""
    other = result.apply_(copy.deepcopy(model)).eval()
    images = digits()[2]
    with torch.no_grad():
        wanted, found = (m(images).log_softmax(1) for m in (model.eval(), other))
    return float(F.kl_div(found, wanted, log_target=True, reduction="batchmean"))


@pytest.mark.parametrize(
    "text",
    ["Quantize(4)", "Quantize(2) + Prune(keep=0.05)", pytest.param("Grid('auto')", marks=pytest.mark.thorough)],
)
def test_calibration_is_better_than_none_at_equal_bytes(text: str) -> None:
    model, inputs, _ = digits()
    plan, budget = sm.Plan({"*.weight": text, **BIASES}), None
    if "auto" in text:
        budget = 15_000
    direct = sm.compress(model, plan, budget=budget)
    options = sm.PostTraining(distance="softmax", schedule=sm.Schedule(steps=15, mu0=1e-2, growth=1.6))
    result = sm.compress(model, plan, calibration=list(inputs.split(64)), posttraining=options, budget=budget)
    assert result.size_bytes <= 1.03 * direct.size_bytes
    assert distance(model, result) < 0.8 * distance(model, direct)
    assert result.verdict is (sm.Verdict.CALIBRATED if budget is None else result.verdict)
    assert [layer.name for layer in result.layers if layer.relative_error is not None] == [
        name for name in result.forms if name.endswith("weight")
    ]


class Net(nn.Module):
    """Every kind of layer that calibration sees: grouped, dilated, strided, depthwise, normalised, and an idle one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 8, 3, padding=1, padding_mode="reflect", bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 8, 3, groups=2, dilation=2, padding=2)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8, stride=2)
        self.head = nn.Linear(8, 5)
        self.idle = nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        x = self.depthwise(self.grouped(x).relu()).relu()
        return self.head(x.mean((2, 3)))


def net() -> tuple[Net, Tensor, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Net().eval()
    with torch.no_grad():
        model.norm.running_mean += 0.1
    generator = torch.Generator().manual_seed(1)
    mixing = torch.randn(2, 2, generator=generator)
    x = torch.einsum("ij,bjhw->bihw", mixing, torch.randn(96, 2, 9, 9, generator=generator))
    return model, x[:64], x[64:]


PLAN = sm.Plan({"*.weight": "Quantize(4)"}, ignore=["*.bias", "norm.*"])


def squared(model: nn.Module, result: sm.Result, inputs: Tensor) -> float:
    other = result.apply_(copy.deepcopy(model)).eval()
    with torch.no_grad():
        return float((model(inputs) - other(inputs)).square().sum() / 2 / len(inputs))


FEW = sm.Schedule(steps=15, mu0=1e-2, growth=1.6)


def test_every_kind_of_layer_is_calibrated_and_the_idle_one_is_named() -> None:
    model, inputs, others = net()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    result = sm.compress(model, PLAN, calibration=[inputs], posttraining=sm.PostTraining(schedule=FEW))
    assert squared(model, result, others) < 0.8 * squared(model, sm.compress(model, PLAN), others)
    assert result.verdict is sm.Verdict.UNREACHED
    notes = {layer.name: layer.note for layer in result.layers if layer.note}
    assert notes == {"idle.weight": "met no calibration input that is seen: projected plainly"}
    assert "idle.weight: met no calibration input" in str(result)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def test_the_quadratics_predict_the_output() -> None:
    model, inputs, _ = net()
    plan = sm.Plan({"*.weight": "Quantize(32)"}, ignore=["*.bias", "norm.*"])
    options = sm.PostTraining(schedule=FEW, damping=1e-4, drift=False)
    result = sm.compress(model, plan, calibration=[inputs], posttraining=options)
    predicted = sum(layer.distance for layer in result.layers if layer.relative_error is not None)
    assert 0.3 < squared(model, result, inputs) / predicted < 3


def test_following_drift_lowers_the_output_error() -> None:
    model, inputs, others = digits()
    plan = sm.Plan({"*.weight": "Quantize(2)"}, ignore=["*.bias"])
    results = [
        sm.compress(model, plan, calibration=[inputs], posttraining=sm.PostTraining(schedule=FEW, drift=drift))
        for drift in (False, True)
    ]
    without, with_ = (squared(model, result, others) for result in results)
    assert with_ < 0.9 * without


def test_rows_are_told_apart_as_far_as_both_halves_of_the_inputs_agree() -> None:
    generator = torch.Generator().manual_seed(0)
    one, other = torch.randn(2, 64, generator=generator, dtype=torch.float64).exp()
    agreed = evened(torch.stack([one, 1.1 * one]))
    assert agreed is not None
    assert torch.allclose(agreed, 0.05 + 0.95 * one / one.mean())
    assert evened(torch.stack([one, torch.zeros(64)])) is None
    unrelated = evened(torch.stack([one, other]))
    assert unrelated is None or float(unrelated.std()) < 0.3 * float((one / one.mean()).std())


def test_a_row_that_the_output_does_not_feel_takes_few_bits() -> None:
    generator = torch.Generator().manual_seed(1)
    model = nn.Sequential(nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 4))
    with torch.no_grad():
        model[2].weight[:, :8] *= 0.02
    inputs = torch.randn(256, 24, generator=generator)
    plan = sm.Plan({"0.weight": "ScaledGrid('auto', per='row')"}, ignore=["*.bias", "2.weight"])
    options = sm.PostTraining(by_row=True)
    result = sm.compress(model, plan, calibration=list(inputs.split(32)), budget="1 kB", posttraining=options)
    steps = result.forms["0.weight"].tensors()["step"]
    assert float(steps[:8].min()) > 2 * float(steps[8:].max())


def test_a_budget_that_leaves_more_than_the_weights_can_use() -> None:
    """At 8,000 bits an entry the price at which the search starts is still one."""
    model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
    plan = sm.Plan({"0.weight": "Grid('auto')"}, ignore=["*.bias", "2.weight"])
    result = sm.compress(model, plan, calibration=[torch.randn(64, 8)], budget="32 kB")
    assert result.size_bytes <= 32_000
    assert result.layers[0].relative_error is not None and result.layers[0].relative_error < 1e-4


def test_a_budget_that_cannot_be_met_is_named_as_it_was_given() -> None:
    model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
    plan = sm.Plan({"0.weight": "Grid('auto')"}, ignore=["*.bias", "2.weight"])
    with pytest.raises(BudgetError, match="the budget is 90 bytes, but the smallest that the plan allows has"):
        sm.compress(model, plan, calibration=[torch.randn(64, 8)], budget=90)


@pytest.mark.parametrize("budget", [8_000, 10_000])
def test_the_budget_is_filled(budget: int) -> None:
    """What is left open for biases, and by a price that is not sought to the last digit, is not more than this."""
    model, inputs, _ = digits()
    plan = sm.Plan({"*": "Grid('auto')"})
    options = sm.PostTraining(distance="softmax")
    result = sm.compress(model, plan, calibration=list(inputs.split(64)), posttraining=options, budget=budget)
    assert 0.9945 * budget < result.size_bytes <= budget


@pytest.mark.parametrize("memory_bytes", [None, 1])
def test_biases_restore_the_mean_outputs(memory_bytes: int | None) -> None:
    model, inputs, _ = net()
    plan = sm.Plan({"*.weight": "Quantize(3)"}, ignore=["*.bias", "norm.*"])
    plain = sm.compress(model, plan)
    options = sm.PostTraining(memory_bytes=memory_bytes)
    result = sm.compress(model, plan, calibration=list(inputs.split(16)), posttraining=options)

    def outputs(model: nn.Module) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for name, layer in model.eval().named_modules():
            if isinstance(layer, nn.Linear | nn.Conv2d) and layer.bias is not None:
                layer.register_forward_hook(lambda _, __, output, name=name: found.update({name: output.detach()}))
        model(inputs)
        return found

    wanted, corrected, uncorrected = (
        outputs(net) for net in (copy.deepcopy(model), *(r.apply_(copy.deepcopy(model)) for r in (result, plain)))
    )
    assert wanted
    for name, exact in wanted.items():
        dims = [0, *range(2, exact.ndim)]
        before, after = ((found[name] - exact).mean(dims).abs().max() for found in (uncorrected, corrected))
        assert after < 1e-3 * exact.std() < 0.1 * before


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    model, inputs, _ = net()
    plan = sm.Plan({"*.weight": "Grid('auto')"}, ignore=["*.bias", "norm.*"])
    for name in ("a", "b"):
        sm.compress(model, plan, calibration=[inputs], budget=900).save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert 0.95 * 900 <= (tmp_path / "a").stat().st_size <= 900


def test_tuning_lowers_the_distance_and_keeps_the_budget() -> None:
    model, inputs, _ = net()
    plan = sm.Plan({"*.weight": "Grid('auto')"}, ignore=["*.bias", "norm.*"])
    plain, tuned = (
        sm.compress(model, plan, calibration=list(inputs.split(16)), budget=580, posttraining=options)
        for options in (sm.PostTraining(), sm.PostTraining(tune=20, lr=3e-3))
    )
    assert [row.phase for row in tuned.history] == ["calibrated", "tuned"]
    assert squared(model, tuned, inputs) < squared(model, plain, inputs)
    assert max(plain.size_bytes, tuned.size_bytes) <= 580


@pytest.mark.parametrize("budget", [600, 800])
def test_tuned_values_that_cost_more_are_brought_back_within_the_budget(budget: int) -> None:
    model, inputs, _ = net()
    rule = "LowRank('auto', dtype='float16') + Prune('auto', dtype='float16')"
    plan = sm.Plan({"*.weight": rule}, ignore=["*.bias", "norm.*"])
    options = sm.PostTraining(tune=30, lr=3e-2)
    result = sm.compress(model, plan, calibration=list(inputs.split(16)), budget=budget, posttraining=options)
    assert max(row.size_bytes for row in result.history) <= budget


@pytest.mark.parametrize(
    "rule",
    ["Quantize('auto', zero=True)", ["Quantize('auto', zero=True)", "Prune('auto')"], "ScaledTernary()"],
    ids=str,
)
def test_tuning_keeps_to_the_constraint(rule) -> None:
    """Also where the price chose a number of values, or which of several compressions."""
    model, inputs, _ = net()
    plan = sm.Plan({"*.weight": rule}, ignore=["*.bias", "norm.*"])
    budget = None if rule == "ScaledTernary()" else 700
    options = sm.PostTraining(tune=5, lr=3e-2)
    result = sm.compress(model, plan, calibration=list(inputs.split(16)), budget=budget, posttraining=options)
    assert [row.phase for row in result.history] == ["calibrated", "tuned"]
    forms = {name: form for name, form in result.forms.items() if result.rules[name] != "kept"}
    assert plan.rules[0].compression.is_feasible(forms, {name: form.dense() for name, form in forms.items()})


def test_one_codebook_over_a_task_is_calibrated_together() -> None:
    model, inputs, _ = net()
    plan = sm.Plan({"grouped.weight": "Prune(keep=0.2)", "*.weight": 'Quantize(4, per="task")'}, ["*.bias", "norm.*"])
    result = sm.compress(model, plan, calibration=[inputs], posttraining=sm.PostTraining(schedule=FEW))
    # The idle layer met nothing, so its whole task is projected plainly, and named.
    assert {layer.name for layer in result.layers if layer.note} == {"idle.weight"}
    assert result.forms["stem.weight"].values is result.forms["head.weight"].values  # type: ignore[attr-defined]


@pytest.mark.thorough
def test_a_choice_among_candidates_is_made_by_the_price() -> None:
    model, inputs, _ = digits()
    plan = sm.Plan({"*.weight": sm.Auto([sm.Quantize(2), sm.Quantize(8), "LowRank('auto')"]), **BIASES})
    options = sm.PostTraining(schedule=FEW, distance="softmax")
    result = sm.compress(model, plan, calibration=[inputs], posttraining=options, budget=14_000)
    assert 0.8 * 14_000 < result.size_bytes <= 14_000
    assert distance(model, result) < distance(model, sm.compress(model, plan, budget=14_000))


def test_little_memory_takes_the_layers_in_runs() -> None:
    model, inputs, others = net()
    batches = list(inputs.split(32))
    results = [
        sm.compress(model, PLAN, calibration=batches, posttraining=sm.PostTraining(schedule=FEW, memory_bytes=most))
        for most in (None, 9_000, 1)
    ]
    errors = [squared(model, result, others) for result in results]
    assert max(errors) < 0.8 * squared(model, sm.compress(model, PLAN), others)
    assert all(result.verdict is sm.Verdict.UNREACHED for result in results)
    names = [sorted(layer.name for layer in result.layers) for result in results]
    assert names[0] == names[1] == names[2]
    together = sm.Plan({"*.weight": 'Quantize(4, per="task")'}, ["*.bias", "norm.*"])
    free = sm.Plan({"*.weight": "Grid('auto')"}, ["*.bias", "norm.*"])
    for plan, budget, message in ((free, 800, "left out where"), (together, None, "enough for all layers")):
        with pytest.raises(ArgumentError, match=message):
            options = sm.PostTraining(memory_bytes=1)
            sm.compress(model, plan, calibration=batches, posttraining=options, budget=budget)


def test_layers_may_answer_for_their_own_outputs_alone() -> None:
    model, inputs, _ = digits()
    plan = sm.Plan({"*.weight": "Quantize(4)"}, ignore=["*.bias"])
    results = []
    for distance in ("values", None):
        options = sm.PostTraining(schedule=FEW, distance=distance, drift=False)
        results.append(sm.compress(model, plan, calibration=[inputs], posttraining=options))
    felt, own = results
    for name, form in own.forms.items():
        assert torch.allclose(form.dense(), felt.forms[name].dense(), atol=1e-5), name
    outputs = F.linear(inputs.flatten(1), own.forms["fc1.weight"].dense() - model.get_parameter("fc1.weight").detach())
    by_hand = float(outputs.square().sum() / 2 / len(inputs))
    first = next(row for row in own.layers if row.name == "fc1.weight")
    assert first.distance == pytest.approx(by_hand, rel=0.2)  # damped, and shrunk where halves disagree
    with pytest.raises(ArgumentError, match="left out where `distance` is None"):
        sm.compress(model, plan=sm.Plan({"*.weight": "Grid('auto')"}, ["*.bias"]), calibration=[inputs],
                    posttraining=sm.PostTraining(distance=None), budget="8x")  # fmt: skip


def test_layers_are_reported_as_they_come() -> None:
    model, inputs, _ = digits()
    rows: list[Any] = []
    options = sm.PostTraining(schedule=FEW, stages=3)
    sm.compress(
        model,
        sm.Plan({"*.weight": "Quantize(4)"}, ["*.bias"]),
        calibration=[inputs],
        posttraining=options,
        report=rows.append,
        evaluate=lambda m: 0.25,
    )
    layers = [row.name for row in rows if isinstance(row, LayerRecord)]
    assert len(layers) == 3 and len(set(layers)) == 3
    assert rows[-1].phase == "calibrated" and rows[-1].error == 0.25


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"calibration": [torch.ones(1, 3)], "train": lambda *_: None}, "left out when `calibration` is given"),
        ({"posttraining": sm.PostTraining()}, "given when `posttraining` is"),
    ],
)
def test_arguments_that_exclude_each_other(arguments: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        sm.compress(nn.Linear(3, 2), sm.Plan({"*": "Quantize(2)"}), **arguments)


@pytest.mark.parametrize(
    "wrong",
    [
        {"distance": "cosine"},
        {"damping": -1},
        {"stages": 0},
        {"tune": -1},
        {"lr": float("nan")},
        {"distance": None, "tune": 1},
    ],
)
def test_options_are_checked(wrong: Any) -> None:
    name = next(iter(wrong))
    with pytest.raises(ArgumentError, match=rf"PostTraining\({name}=...\)"):
        sm.PostTraining(**wrong)


def test_a_network_without_gradients_is_refused_and_a_frozen_one_is_not() -> None:
    class Blind(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                return super().forward(x)

    x, plan = (
        torch.randn(20, 3, generator=torch.Generator().manual_seed(0)),
        sm.Plan({"weight": "Quantize(2)"}, ["bias"]),
    )
    options = sm.PostTraining(schedule=FEW)
    with pytest.raises(CalibrationError, match="differentiable in the weights"):
        sm.compress(Blind(3, 2), plan, calibration=[x], posttraining=options)
    frozen = nn.Linear(3, 2).requires_grad_(False)
    [layer, *_] = sm.compress(frozen, plan, calibration=[x], posttraining=options).layers
    assert layer.note == "" and not frozen.weight.requires_grad


def test_inputs_that_overflow_inside_name_the_layer() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with torch.no_grad():
        model[0].weight.fill_(1e30)
        model[1].weight.fill_(0.0)
    with pytest.raises(CalibrationError, match=r"output|layer .1.weight."):
        sm.compress(model, sm.Plan({"*.weight": "Quantize(2)"}, ["*.bias"]), calibration=[torch.full((2, 2), 1e8)])
