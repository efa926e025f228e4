"""What calibration sees of each product, against explicit unfolding and against matrices by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from summands.compressions.stored import leading
from summands.errors import CalibrationError
from summands.lc.calibrate import Calibration
from summands.lc.observe import Observer, Product, check_calibration
from summands.lc.precision import Precision
from summands.lc.statistics import StatisticsShift


def tallied(model: nn.Module, *batches: Any) -> dict[str, Any]:
    names = [name for name, p in model.named_parameters() if p.ndim > 1]
    return Calibration(model, batches).tally(names)


CONVOLUTIONS = {
    "plain": (nn.Conv2d(3, 4, 3), (2, 3, 7, 6)),
    "strided, dilated, padded": (nn.Conv2d(3, 4, (3, 2), stride=(2, 1), dilation=(1, 2), padding=(2, 1)), (2, 3, 7, 8)),
    "groups": (nn.Conv2d(4, 6, 3, groups=2, padding=1), (2, 4, 5, 5)),
    "depthwise": (nn.Conv2d(4, 4, 3, groups=4, stride=2), (2, 4, 6, 5)),
    "circular": (nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), (2, 2, 5, 5)),
    "same": (nn.Conv2d(2, 3, (3, 2), padding="same"), (2, 2, 5, 5)),
    "one dimension": (nn.Conv1d(3, 2, 4, stride=3, padding=2, groups=1), (2, 3, 11)),
    "three dimensions": (nn.Conv3d(2, 2, 2), (2, 2, 3, 4, 3)),
    "no batch": (nn.Conv2d(3, 4, 3), (3, 7, 6)),
    "linear": (nn.Linear(5, 3), (2, 4, 5)),
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_the_patches_times_the_weight_are_the_output(name: str) -> None:
    layer, shape = CONVOLUTIONS[name]
    seen: list[Product] = []
    with Observer({"w": layer.weight}, lambda _, product: seen.append(product)):
        output = layer(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    [product] = seen
    patches = torch.cat(list(product.patches()), dim=2)
    made = layer.weight.reshape(product.groups, -1, product.columns) @ patches
    made = made.reshape(layer.weight.shape[0], -1) + layer.bias[:, None]
    if name == "linear":
        expected = output.reshape(-1, 3).T
    else:
        spatial = layer.weight.ndim - 2
        batched = output if output.ndim == spatial + 2 else output[None]
        expected = batched.transpose(0, 1).reshape(layer.weight.shape[0], -1)
    assert torch.allclose(made, expected, atol=1e-5)


def test_the_moments_are_those_of_unfolding() -> None:
    layer = nn.Conv2d(4, 6, 3, groups=2, stride=2, padding=1, dilation=2)
    x = torch.randn(3, 4, 9, 8, generator=torch.Generator().manual_seed(1))
    tally = tallied(layer, x[:1], x[1:])["weight"]
    patches = F.unfold(x, 3, dilation=2, padding=1, stride=2).transpose(0, 1).reshape(2, 18, -1)
    moments = tally.moments()
    assert moments.count == patches.shape[2]
    assert torch.allclose(moments.gram, patches @ patches.mT / patches.shape[2], atol=1e-5)
    assert torch.allclose(tally.means()[1], patches.mean(2), atol=1e-5)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = nn.Conv2d(2, 3, 3), torch.randn(5, 2, 6, 6, generator=torch.Generator().manual_seed(2))
    whole = tallied(layer, x)["weight"].moments().gram
    monkeypatch.setattr("summands.lc.observe.BLOCK", 1)
    assert torch.allclose(tallied(layer, x)["weight"].moments().gram, whole, atol=1e-5)


def test_an_embedding_counts_its_tokens_and_never_forgets_one() -> None:
    moments = tallied(nn.Embedding(4, 3), torch.tensor([[0, 2], [2, 2]]))["weight"].moments()
    assert moments.gram.tolist() == pytest.approx([2 / 8, 1 / 8, 4 / 8, 1 / 8])
    assert moments.count == 4


class Twice(nn.Module):
    """One weight in two places, one of them called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.idle = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(self.first(x)))


def test_a_weight_used_three_times_sees_all_three_inputs_and_an_idle_one_nothing() -> None:
    model, x = Twice(), torch.randn(4, 3, generator=torch.Generator().manual_seed(3))
    data = Calibration(model, [x])
    tallies = data.tally(["first.weight", "idle.weight"])
    once = model.first(x)
    inputs = torch.cat([x, once, model.first(once)]).detach()
    assert torch.allclose(tallies["first.weight"].moments().gram[0], inputs.T @ inputs / 12, atol=1e-5)
    assert tallies.keys() == {"first.weight"}
    assert data.calls == {"first.weight": 3}


def test_attention_is_entered_also_where_evaluation_would_be_fused() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    tallies = tallied(layer, torch.randn(2, 5, 8))
    assert tallies.keys() == {n for n, p in layer.named_parameters() if p.ndim > 1}


def test_drift_is_the_least_squares_solution() -> None:
    generator = torch.Generator().manual_seed(4)
    original = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    current = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    current.load_state_dict(original.state_dict())
    with torch.no_grad():
        current[0].weight += 0.3 * torch.randn(5, 6, generator=generator)
    x = torch.randn(200, 6, generator=generator)
    data = Calibration(original, [x[:120], x[120:]])
    data.tally(["0.weight", "2.weight"])
    tally = data.tally_drift(["2.weight"], current, StatisticsShift(original, current))["2.weight"]
    moments, weight = tally.moments(), original[2].weight.detach()
    metric = moments.metric(0.0)
    target = metric.weight(moments.target(weight, metric), weight.shape)
    mine, theirs = current[:2](x).detach().double(), original[:2](x).detach().double()
    solved = torch.linalg.lstsq(mine, theirs @ weight.double().T).solution.T
    assert torch.allclose(target, solved, atol=1e-3)
    assert not torch.allclose(target, weight.double(), atol=1e-2)


def test_statistics_move_by_what_compression_moved() -> None:
    generator = torch.Generator().manual_seed(6)
    original = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2)).eval()
    with torch.no_grad():
        original[1].running_mean += 0.5
        original[3].running_var *= 4
    current = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2)).eval()
    current.load_state_dict(original.state_dict())
    with torch.no_grad():  # changes that statistics can undo altogether
        current[0].weight *= 1.5
        current[0].bias += 0.25
        current[2].weight *= 0.7
    x = torch.randn(16, 2, 4, 4, generator=generator)
    before = (current(x) - original(x)).abs().max()
    Calibration(original, [x]).shift(current, [Precision(), Precision()])
    after = (current(x) - original(x)).abs().max()
    assert after < 0.02 * before


def test_values_with_the_leading_bits_of_float16() -> None:
    values = torch.tensor([1.0, 1 / 3, -1e-7, 3e30, 0.0])
    assert torch.allclose(leading(values, 11), values, rtol=2.0**-11)
    assert leading(values, 11)[1] == torch.tensor(1 / 3).to(torch.float16).float()


MODEL = nn.Linear(3, 2)
nn.init.constant_(MODEL.weight, 10.0)


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "at least one batch"),
        ([torch.ones(2, 4)], "does not run on calibration batch 0"),
        ([torch.ones(2, 3), torch.tensor([[1.0, float("nan"), 0.0]])], "batch 1 must be finite"),
        (iter([torch.ones(2, 3)]), "again and again"),
        (7, "an iterable of batches"),
        ([{"inputs": torch.ones(2, 3)}], "keyword arguments"),
        ([torch.full((2, 3), 3e38)], "output for calibration batch 0 must be finite"),
    ],
)
def test_unusable_calibration_is_refused(batches: Any, message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        check_calibration(MODEL, batches)


@pytest.mark.parametrize("batch", [torch.ones(2, 3), (torch.ones(2, 3),), {"input": torch.ones(2, 3)}])
def test_a_batch_may_be_a_tensor_a_tuple_or_keywords(batch: Any) -> None:
    assert check_calibration(MODEL, [batch]) == 1
