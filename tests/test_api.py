"""The library's door: what `compress`, `save`, `load` and `load_prefix` promise."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import summands as sm
from summands.errors import ArgumentError, CalibrationError, LimitError, MismatchError, PlanError, WeightError


class Tied(nn.Module):
    """A decoder that shares its weight with the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(30, 8)
        self.norm = nn.BatchNorm1d(8)
        self.decoder = nn.Linear(8, 30)
        self.decoder.weight = self.embedding.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.norm(self.embedding(tokens)))


PLAN = sm.Plan({"embedding": "Quantize(8) + Prune(keep=0.05)"}, ignore=["norm", "*.bias"])


def test_the_file_holds_the_result_to_the_last_bit_and_a_tied_weight_once(tmp_path) -> None:
    model = Tied()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    result = sm.compress(model, PLAN)
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    assert "decoder.weight" not in result.forms
    assert result.save(tmp_path / "m.sums") == result.size_bytes == (tmp_path / "m.sums").stat().st_size
    loaded = sm.load(tmp_path / "m.sums", into=Tied())
    assert loaded.decoder.weight is loaded.embedding.weight
    for name, tensor in result.tensors().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert torch.equal(loaded.state_dict()["norm.running_var"], before["norm.running_var"])


def test_a_result_explains_itself() -> None:
    result = sm.compress(Tied(), PLAN)
    text = str(result)
    for word in ("embedding.weight", "codebook", "sparse", f"file_bytes={result.size_bytes:,}", "kept"):
        assert word in text
    rows = {row.name: row for row in result.rows()}
    bits = sum(bits for row in rows.values() for _, bits in row.parts)
    assert 0.6 * result.size_bytes < bits / 8 < result.size_bytes
    assert 0 < rows["embedding.weight"].relative_error < 1 and rows["norm.weight"].relative_error is None


def test_a_file_does_not_fit_another_model(tmp_path) -> None:
    sm.compress(Tied(), PLAN).save(tmp_path / "m.sums")
    other = nn.Linear(8, 30)
    kept = other.weight.clone()
    with pytest.raises(MismatchError, match="norm"):
        sm.load(tmp_path / "m.sums", into=other)
    assert torch.equal(other.weight, kept)
    wide = Tied()
    wide.norm = nn.BatchNorm1d(9)
    with pytest.raises(MismatchError, match=r"norm.*\(9,\)"):
        sm.load(tmp_path / "m.sums", into=wide)
    with pytest.raises(LimitError):
        sm.load(tmp_path / "m.sums", max_bytes=10)


def test_a_prefix_is_a_coarser_network(tmp_path) -> None:
    model = nn.Linear(60, 40)
    result = sm.compress(model, sm.Plan({"weight": "Quantize(2) + Prune(keep=0.3)"}, ignore=["bias"]))
    size = result.save(tmp_path / "m.sums", layers=4)
    whole = sm.load(tmp_path / "m.sums")["weight"]
    assert torch.equal(whole, result.tensors()["weight"])
    errors = []
    for share in (0.6, 0.8, 1.0):
        (tmp_path / "part.sums").write_bytes((tmp_path / "m.sums").read_bytes()[: int(share * size)])
        part = sm.load_prefix(tmp_path / "part.sums")["weight"]
        errors.append(float((part - whole).square().sum()))
    assert errors == sorted(errors, reverse=True) and errors[0] > 0 and errors[-1] == 0


def test_mistakes_name_the_argument() -> None:
    with pytest.raises(PlanError, match=r"matches no weight; did you mean .embedding"):
        sm.compress(Tied(), sm.Plan({"embeding": "Quantize(2)", "*": "Keep()"}))
    with pytest.raises(ArgumentError, match="module"):
        sm.compress({"w": torch.ones(2, 2)}, sm.Plan({"w": "Keep()"}), evaluate=lambda model: 0.0)
    with pytest.raises(WeightError, match=r"NaN.*'weight'"):
        broken = nn.Linear(2, 2)
        nn.init.constant_(broken.weight, float("nan"))
        sm.compress(broken, sm.Plan({"weight": "Quantize(2)"}, ignore=["bias"]))
    plan = sm.Plan({"*": "Keep()"})
    with pytest.raises(ArgumentError, match=r"inputs must be a list of batches, .*\(8, 2\).*pass \[tensor\]"):
        sm.compress(nn.Linear(2, 2), plan, inputs=torch.ones(8, 2))
    with pytest.raises(CalibrationError, match=r"calibration must be a list of batches, .*\(8, 2\)"):
        sm.compress(nn.Linear(2, 2), plan, calibration=torch.ones(8, 2))


def test_the_same_inputs_give_the_same_bytes(tmp_path) -> None:
    torch.manual_seed(0)
    model = Tied()
    for name in ("a", "b"):
        sm.compress(model, PLAN).save(tmp_path / name, metadata=True)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
