from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from summands.errors import ArgumentError
from summands.fold import fold_batch_norms


def normalised(seed: int = 0) -> nn.Sequential:
    """Layers with and without bias, and normalisations that have learnt something, negative scales included."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 6, 3, groups=6),
        nn.BatchNorm2d(6, eps=1e-3),
        nn.Flatten(),
        nn.Linear(6, 4),
        nn.BatchNorm1d(4),
    )
    for norm in model:
        if isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d)):
            for tensor in (norm.weight.data, norm.bias.data, norm.running_mean):
                tensor.normal_()
            norm.running_var.uniform_(0.1, 10)
    return model.eval()


IMAGES = torch.randn(16, 3, 5, 5, generator=torch.Generator().manual_seed(1))


def test_the_copy_computes_the_same_and_only_its_biases_are_left() -> None:
    model = normalised()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    folded = fold_batch_norms(model, IMAGES[:2])
    torch.testing.assert_close(folded(IMAGES), model(IMAGES), rtol=1e-4, atol=1e-4)
    for norm in (folded[1], folded[4], folded[7]):
        for tensor in (norm.weight, norm.running_mean, norm.running_var):
            assert tensor.unique().numel() == 1
        assert norm.bias.unique().numel() > 1
    assert not torch.equal(folded[0].weight, model[0].weight)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_network_of_the_zoo_keeps_its_outputs() -> None:
    from summands.zoo.networks import build

    model = build("resnet20", (1, 28, 28), 10, 0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.uniform_(0.5, 2)
            module.running_mean.normal_()
    model.eval()
    images = torch.randn(2, 1, 28, 28)
    folded = fold_batch_norms(model, images)
    torch.testing.assert_close(folded(images), model(images), rtol=1e-3, atol=1e-3)
    assert all(float(m.running_mean.abs().max()) == 0 for m in folded.modules() if isinstance(m, nn.BatchNorm2d))


class Shared(nn.Module):
    """What is normalised is also added."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)
        nn.init.constant_(self.norm.weight, 3.0)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.layer(x)
        return hidden + self.norm(hidden)


def test_a_layer_whose_output_goes_elsewhere_too_is_refused() -> None:
    with pytest.raises(ArgumentError, match="goes nowhere else"):
        fold_batch_norms(Shared(), torch.ones(2, 4))


def test_a_layer_that_runs_twice_is_left_alone() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)
            self.norm.weight.data.fill_(3.0)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.layer(self.layer(x)))

    model = Twice()
    assert torch.equal(fold_batch_norms(model, torch.ones(2, 4)).layer.weight, model.layer.weight)


def _trained(model: nn.Sequential) -> nn.Sequential:
    for norm in model.modules():
        if isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d)):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
    return model.eval()


def test_what_is_changed_in_place_is_no_longer_the_layers_output() -> None:
    torch.manual_seed(0)
    model = _trained(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(inplace=True), nn.BatchNorm2d(8)))
    folded, x = fold_batch_norms(model, torch.rand(2, 3, 5, 5)), torch.rand(2, 3, 5, 5)
    torch.testing.assert_close(folded(x), model(x))
    assert torch.equal(folded[0].weight, model[0].weight)


def test_computed_and_tied_weights_and_other_axes_are_left_alone() -> None:
    torch.manual_seed(0)
    computed = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 3)), nn.BatchNorm2d(8))
    tied = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 8), nn.BatchNorm1d(8))
    tied[2].weight = tied[0].weight
    across = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(5))
    for model, shape in ((computed, (2, 3, 5, 5)), (tied, (4, 8)), (across, (4, 5, 8))):
        x = torch.rand(shape)
        folded = fold_batch_norms(_trained(model), x)
        torch.testing.assert_close(folded(x), model(x))


def test_a_model_that_returns_no_tensor_is_refused() -> None:
    class Named(nn.Linear):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"y": super().forward(x)}

    with pytest.raises(ArgumentError, match="a model that returns a tensor, got 'dict'"):
        fold_batch_norms(Named(3, 2), torch.rand(1, 3))
