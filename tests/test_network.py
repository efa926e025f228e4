"""A model's tensors: which are one, how it is copied, what can be written and loaded."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import summands as sm
from summands.errors import ArgumentError, MismatchError
from summands.network import copied, state_tensors


class Tied(nn.Module):
    """An embedding and the output layer, one weight: as one parameter, or as two of one memory."""

    def __init__(self, by_memory: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.into, self.out = nn.Embedding(40, 16), nn.Linear(16, 40, bias=False)
        if by_memory:
            self.out.weight.data = self.into.weight.data
        else:
            self.out.weight = self.into.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.out(self.into(ids))


def train_ids(model, penalty, step):
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for ids in IDS:
        optimizer.zero_grad()
        (nn.functional.cross_entropy(model(ids).flatten(0, 1), ids.flatten().flip(0)) + penalty()).backward()
        optimizer.step()


TWO_VALUES = sm.Plan({"*": "Quantize(2)"})
IDS = [torch.randint(40, (8, 5), generator=torch.Generator().manual_seed(i)) for i in range(3)]
WAYS = {
    "directly": {},
    "calibrated": {"calibration": IDS, "posttraining": sm.PostTraining(tune=2)},
    "trained": {"train": train_ids, "schedule": sm.Schedule(steps=2, finetune=2)},
}


@pytest.mark.parametrize("by_memory", [False, True])
@pytest.mark.parametrize("how", WAYS)
def test_tied_weights_are_one_however_they_are_tied(by_memory, how, tmp_path):
    options = WAYS[how]
    result = sm.compress(Tied(by_memory), TWO_VALUES, **options)
    assert list(result.forms) == ["into.weight"]
    result.save(tmp_path / "model.sums")
    loaded = sm.load(tmp_path / "model.sums", into=Tied(by_memory))
    for model in (loaded, result.apply_(Tied(by_memory))):
        assert model.out.weight.unique().numel() == 2
        assert torch.equal(model.out.weight, model.into.weight)


@pytest.mark.parametrize("how", WAYS)
def test_how_weights_are_tied_changes_nothing(how):
    one, other = (sm.compress(Tied(by_memory), TWO_VALUES, **WAYS[how]) for by_memory in (False, True))
    assert one.forms["into.weight"].same(other.forms["into.weight"])
    assert [row.loss for row in one.history] == [row.loss for row in other.history]


def test_tied_tensors_of_a_checkpoint_are_one():
    result = sm.compress(Tied(by_memory=False).state_dict(), TWO_VALUES)
    assert list(result.forms) == ["into.weight"]
    assert result.size_bytes < 200


def test_a_copy_is_tied_as_the_model_is():
    model = Tied(by_memory=True)
    own = copied(model)
    own.into.weight.data.zero_()
    assert not own.out.weight.any() and model.out.weight.any()
    assert list(state_tensors(own)) == ["into.weight"]


def test_parameters_without_a_shape_yet_can_be_copied():
    own = copied(nn.Sequential(nn.LazyLinear(3)))
    assert own(torch.ones(2, 5)).shape == (2, 3)


def test_a_result_of_tensors_is_none_of_theirs():
    tensors = {"w": torch.randn(8, 8), "b": torch.zeros(8)}
    result = sm.compress(tensors, sm.Plan({"w": "Keep()"}, ignore=["b"]))
    for tensor in tensors.values():
        tensor.add_(1)
    assert not result.tensors()["b"].any() and not torch.equal(result.tensors()["w"], tensors["w"])


def test_weights_that_are_packed_in_what_is_no_tensor_are_refused():
    class Packed(nn.Linear):
        def get_extra_state(self):
            return (torch.zeros(3), torch.zeros(3))

    with pytest.raises(ArgumentError, match=r"_extra_state.*before it is quantised"):
        sm.compress(nn.Sequential(Packed(4, 4)), TWO_VALUES)


def test_a_model_without_memory_is_refused(tmp_path):
    result = sm.compress(nn.Linear(4, 4), TWO_VALUES)
    result.save(tmp_path / "model.sums")
    with pytest.raises(MismatchError, match="to_empty"):
        sm.load(tmp_path / "model.sums", into=nn.Linear(4, 4).to("meta"))


def test_a_tied_weight_may_stand_under_its_other_name(tmp_path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Embedding(6, 4), nn.Linear(4, 6, bias=False)
            self.b.weight = self.a.weight

    weight = torch.randn(6, 4)
    for name in ("a.weight", "b.weight"):
        sm.compress({name: weight}, sm.Plan({"*": "Keep('float32')"})).save(tmp_path / "x.sums")
        model = sm.load(tmp_path / "x.sums", into=Tied())
        assert model.a.weight is model.b.weight and torch.equal(model.a.weight, weight)
    sm.compress({"a.weight": weight, "b.weight": weight + 1}, sm.Plan({"*": "Keep('float32')"})).save(
        tmp_path / "x.sums"
    )
    with pytest.raises(sm.SummandsError, match=r"not in the model: 'b\.weight'"):
        sm.load(tmp_path / "x.sums", into=Tied())
