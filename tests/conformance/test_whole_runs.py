"""Every compression through a whole run: LC, within a budget where it leaves something open, tuned, saved, loaded."""

import pytest
import torch
from cases import CASES
from torch import nn

import summands as sm

INPUTS = torch.randn(96, 2, 6, 6, generator=torch.Generator().manual_seed(0))
LABELS = (INPUTS.mean((1, 2, 3)) > 0).long()
SCHEDULE = sm.Schedule(steps=2, mu0=1e-2, growth=3.0, finetune=2, tolerance=0.0)


def network() -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    model = nn.Sequential(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(96, 4))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


@pytest.mark.parametrize("straight_through", [False, True])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_it_is_learned_tuned_saved_and_loaded(case, straight_through: bool, tmp_path) -> None:
    left = ["*.bias", "1.*", *(["4.weight"] if case.ndim > 2 else [])]
    budget = None if not case.compression.is_free() or case.price is None else 2300 if case.ndim > 2 else 1100
    result = sm.compress(
        network(),
        sm.Plan({"*.weight": case.compression}, ignore=left),
        budget=budget,
        train=sm.SGD((INPUTS, LABELS), batch_size=32, lr=0.05, finetune_lr=0.05),
        evaluate=lambda model: float(nn.functional.cross_entropy(model(INPUTS), LABELS)),
        inputs=[INPUTS],
        schedule=sm.Schedule(
            steps=2, mu0=1e-2, growth=3.0, finetune=2, straight_through=straight_through, tolerance=0.0
        ),
    )
    assert [row.phase for row in result.history] == ["direct", "lc", "lc", "finetune", "finetune"]
    assert result.error == min(row.error for row in result.history)
    if budget is not None:
        assert max(row.size_bytes for row in result.history) <= budget
    size = result.save(tmp_path / "x.sums")
    assert size == result.size_bytes == (tmp_path / "x.sums").stat().st_size
    loaded, applied = sm.load(tmp_path / "x.sums", into=network()), result.apply_(network())
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), applied.parameters(), strict=True))
    forms = {name: form for name, form in result.forms.items() if result.rules[name] != "kept"}
    assert case.compression.is_feasible(forms, {name: form.dense() for name, form in forms.items()})
