"""Pruning in levels: masks that stay, exact sparsity, selection, and runs that are resumed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import summands as sm
from summands.errors import ArgumentError, MismatchError, PlanError, TrainingError
from summands.lc import TrainingLearner
from summands.lc.finetune import Trainable
from summands.records import Verdict
from summands.zoo.data import load
from summands.zoo.train import error

LEVELS = (0.5, 0.8, 0.9)
MASKED = ("0.weight", "4.weight")


def small_task() -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(256, 8, generator=generator)
    labels = (inputs[:, 0] + inputs[:, 1] * inputs[:, 2] > 0).long()
    model = nn.Sequential(nn.Linear(8, 30), nn.BatchNorm1d(30), nn.ReLU(), nn.Dropout(0.1), nn.Linear(30, 2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model, (inputs, labels)


def plan(sparsity: float, rule: str = "lamp") -> sm.Plan:
    kept = sm.PruneBy(rule, keep=1 - sparsity, dtype="float16")
    return sm.Plan({"*.bias": "Keep('float16')", "1": "Keep()", "*": kept})


def loss_on(data: tuple[Tensor, Tensor]):
    return lambda model: float(nn.functional.cross_entropy(model(data[0]), data[1]).detach())


def pruned(**options) -> list[sm.Result]:
    model, data = small_task()
    defaults = {
        "plan": plan,
        "pruning": sm.Pruning(LEVELS, steps=2),
        "train": sm.SGD(data, batch_size=32, weight_decay=1e-2, finetune_lr=0.05),
        "evaluate": loss_on(data),
        "inputs": [data[0]],
    }
    return sm.prune(model, **{**defaults, **options})


def kept(result: sm.Result) -> Tensor:
    return torch.cat([result.forms[name].dense().reshape(-1) != 0 for name in MASKED])


@pytest.mark.parametrize("rule", ["lamp", "erk", "surp-paper", "surp-authors"])
def test_every_level_has_exactly_its_sparsity_and_a_mask_within_the_last(rule) -> None:
    results = pruned(plan=lambda sparsity: plan(sparsity, rule))
    before = torch.ones(300, dtype=torch.bool)
    for level, result in zip(LEVELS, results, strict=True):
        mask = kept(result)
        assert int(mask.sum()) == round((1 - level) * 300)
        assert not bool((mask & ~before).any())
        before = mask
    assert results[0].size_bytes > results[1].size_bytes > results[2].size_bytes


def test_retraining_moves_what_is_left_and_nothing_else() -> None:
    """Momentum, weight decay and the gradients of the pruned weights all leave the mask alone."""
    model, data = small_task()
    direct = sm.compress(model, plan(LEVELS[0]), inputs=[data[0]])
    seen = []

    def train(model, penalty, step):
        assert float(penalty()) == 0.0 and step.mu == 0.0
        loss = sm.SGD(data, batch_size=32, weight_decay=0.1, finetune_lr=0.1)(model, penalty, step)
        seen.append(torch.cat([model[0].weight.detach().reshape(-1), model[4].weight.detach().reshape(-1)]))
        return loss

    result = pruned(train=train)[0]
    assert all(torch.equal(weights != 0, kept(direct)) for weights in seen[:2])
    assert torch.equal(kept(result), kept(direct))
    for name in MASKED:
        assert not torch.equal(result.forms[name].dense(), direct.forms[name].dense())
    assert result.error < result.history[0].error
    assert result.verdict is Verdict.FINETUNED


def test_what_validation_rejects_is_neither_kept_nor_goes_on() -> None:
    """Training that ruins the network: every level is the reference, pruned again and again."""

    def ruin(model, penalty, step):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(100.0)

    data = small_task()[1]
    results = pruned(train=ruin)
    model = small_task()[0]
    for level, result in zip(LEVELS, results, strict=True):
        direct = sm.compress(model, plan(level), inputs=[data[0]], evaluate=loss_on(data))
        assert all(result.forms[name].same(direct.forms[name]) for name in MASKED)
        assert result.error == direct.error < min(row.error for row in result.history if row.phase == "finetune")
        model = direct.apply_(model)


@pytest.mark.parametrize("loss", [None, float("nan")])
def test_retraining_that_diverges_is_told_and_not_kept(loss) -> None:
    """Also where the training function returns no loss and nothing is evaluated."""

    def explode(model, penalty, step):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(torch.nan) if loss is None else parameter.add_(0.1)
        return loss

    results = pruned(train=explode, evaluate=None)
    assert [result.verdict for result in results] == [Verdict.DIVERGED] * 3
    data = small_task()[1]
    direct = sm.compress(small_task()[0], plan(LEVELS[0]), inputs=[data[0]])
    assert all(results[0].forms[name].same(direct.forms[name]) for name in MASKED)
    assert all(bool(torch.isfinite(t).all()) for result in results for t in result.tensors().values())


def test_a_level_starts_where_the_last_one_ended() -> None:
    results = pruned(pruning=sm.Pruning((0.5, 0.5 + 1e-9), steps=2))
    assert all(torch.equal(results[0].forms[n].dense() != 0, results[1].forms[n].dense() != 0) for n in MASKED)
    assert results[1].history[0].error == pytest.approx(results[0].error, abs=1e-6)


def test_steps_and_final_finetuning() -> None:
    results = pruned(pruning=sm.Pruning(LEVELS, epochs=2, steps=1, finetune=2))
    assert [len(result.history) for result in results] == [2, 2, 4]
    alone = pruned(pruning=sm.Pruning(LEVELS, steps=0))
    assert [[row.phase for row in result.history] for result in alone] == [["direct"]] * 3


class Interrupted(Exception):
    pass


@pytest.fixture(scope="module")
def whole() -> list[sm.Result]:
    return pruned(seed=3)


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 6, 9])
def test_an_interrupted_run_resumes_to_the_same_bytes(tmp_path, whole, rows: int) -> None:
    seen = []

    def report(row) -> None:
        seen.append(row)
        if len(seen) == rows:
            raise Interrupted

    with pytest.raises(Interrupted):
        pruned(seed=3, checkpoint=tmp_path / "run", report=report)
    trained = []
    data = small_task()[1]

    def train(model, penalty, step):
        trained.append(step.seed)
        return sm.SGD(data, batch_size=32, weight_decay=1e-2, finetune_lr=0.05)(model, penalty, step)

    resumed = pruned(seed=3, checkpoint=tmp_path / "run", resume=True, train=train)
    done = sum(row.phase == "finetune" for row in seen[:-1])
    assert len(trained) == len(set(trained)) == 6 - done
    for i, (a, b) in enumerate(zip(whole, resumed, strict=True)):
        a.save(tmp_path / f"a{i}", metadata=True)
        b.save(tmp_path / f"b{i}", metadata=True)
        assert (tmp_path / f"a{i}").read_bytes() == (tmp_path / f"b{i}").read_bytes()
        assert [row.error for row in a.history] == [row.error for row in b.history]


def test_another_seed_gives_other_values(whole) -> None:
    """The comparison of bytes above can fail."""
    a, b = whole[-1], pruned(seed=4)[-1]
    assert not all(a.forms[name].same(b.forms[name]) for name in MASKED)


def test_a_run_that_is_not_resumed_leaves_no_level_of_an_earlier_one(tmp_path) -> None:
    pruned(checkpoint=tmp_path)
    with pytest.raises(Interrupted):
        pruned(checkpoint=tmp_path, report=lambda row: (_ for _ in ()).throw(Interrupted))
    assert not (tmp_path / "level-01.checkpoint").exists()


def test_a_longer_run_takes_up_the_levels_of_a_shorter_one(tmp_path) -> None:
    short = pruned(checkpoint=tmp_path, pruning=sm.Pruning(LEVELS[:2], steps=2))
    rows = []
    longer = pruned(checkpoint=tmp_path, resume=True, report=rows.append)
    assert [row.phase for row in rows] == ["direct", "finetune", "finetune"]
    assert [a.size_bytes for a in short] == [b.size_bytes for b in longer[:2]]
    with pytest.raises(MismatchError, match="levels"):
        pruned(checkpoint=tmp_path, resume=True, pruning=sm.Pruning((0.4, 0.8), steps=2), plan=lambda _: plan(0.5))
    with pytest.raises(MismatchError, match="seed"):
        pruned(checkpoint=tmp_path, resume=True, seed=1)


@pytest.mark.parametrize("mode", ["paper", "authors"])
def test_successive_pruning_is_a_c_step_of_the_loop(mode) -> None:
    """On digits: LC wins back what a network rebuilt from few picks loses, and every iterate is such a network."""
    data = load("digits")
    torch_seed = torch.random.get_rng_state()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    torch.random.set_rng_state(torch_seed)
    train = sm.SGD((data.train.images, data.train.labels), batch_size=32)
    TrainingLearner(model, train).step({}, sm.Step(0, 1, 0.0, 0, 20))
    evaluate = lambda m: error(m, data.validation.images, data.validation.labels)  # noqa: E731
    surp = sm.Plan({"*.weight": sm.Successive(0.9, mode=mode, per="task")}, ignore=["*.bias"])
    schedule = sm.Schedule(steps=8, mu0=0.03, growth=1.5)
    learned = sm.compress(model, surp, train=train, evaluate=evaluate, schedule=schedule)
    assert learned.error < 0.5 * learned.history[0].error
    forms = [learned.forms[name] for name in ("1.weight", "3.weight")]
    assert sum(int(form.dense().count_nonzero()) for form in forms) == round(0.1 * 2368)


def test_mistakes_are_told_before_training() -> None:
    def never(model, penalty, step):
        raise AssertionError("trained")

    with pytest.raises(ArgumentError, match="a function from the share of zeros"):
        pruned(plan=plan(0.5), train=never)
    with pytest.raises(PlanError, match="no weight"):
        pruned(plan=lambda s: plan(s) if s < 0.9 else sm.Plan({"conv*": "Keep()"}), train=never)
    with pytest.raises(ArgumentError, match="BatchNorm"):
        pruned(inputs=(), train=never)
    with pytest.raises(ArgumentError, match="train"):
        pruned(train=None)
    with pytest.raises(TrainingError, match="evaluate"):
        pruned(evaluate=lambda model: float("nan"), train=never)


@pytest.mark.parametrize(
    "options", [{"levels": ()}, {"levels": (0.9, 0.8)}, {"levels": (0.5, 1.5)}, {"levels": (0.5, 0.5)}, {"epochs": 0}]
)
def test_a_bad_schedule_is_refused(options) -> None:
    with pytest.raises(ArgumentError, match=next(iter(options))):
        sm.Pruning(**{"levels": LEVELS, **options})


def test_shares_of_what_is_left() -> None:
    levels = sm.Pruning.of_what_is_left(0.2, 10).levels
    assert levels[:3] == pytest.approx((0.2, 0.36, 0.488)) and levels[-1] == pytest.approx(1 - 0.8**10)
    with pytest.raises(ArgumentError, match="share"):
        sm.Pruning.of_what_is_left(1.0)


@pytest.mark.parametrize("channels", [1, 3])
def test_training_keeps_the_memory_format_of_a_weight(channels: int) -> None:
    model = nn.Sequential(nn.Conv2d(channels, 4, 3)).to(memory_format=torch.channels_last)
    strides = model[0].weight.stride()
    forms = sm.compress(model, sm.Plan({"*": "Prune(keep=0.5)"})).forms
    with Trainable(forms).installed(model):
        assert model[0].weight.stride() == strides
    assert model[0].weight.stride() == strides
