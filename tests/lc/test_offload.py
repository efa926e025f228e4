"""Matrices that are there while an operation needs them: whatever torch dispatches, forward and backward."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from summands.errors import CalibrationError
from summands.lc import Offload


class Net(nn.Module):
    """Layers that fuse, that are no products, that share and that are looked at through views."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(30, 16)
        self.places = nn.Parameter(torch.randn(7, 16))
        self.conv = nn.Conv1d(16, 16, 3, padding=1, groups=2)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.lstm = nn.LSTM(16, 16, batch_first=True)
        self.encoder = nn.TransformerEncoderLayer(16, 2, 20, batch_first=True)
        self.norm = nn.BatchNorm1d(16)
        self.head = nn.Linear(16, 30)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens) + self.places
        x = self.norm(self.conv(x.mT)).mT
        x = x + self.attention(x, x, x)[0]
        x = self.encoder(self.lstm(x)[0])
        return self.head(x) + self.embedding.weight.mT[3, :30] * self.places.flatten()[5]


def networks() -> tuple[Net, Net, Offload, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        whole = Net().eval()
    with torch.device("meta"):
        model = Net().eval()
    offload = Offload()
    offload.take(model, whole.state_dict().__getitem__)
    return whole, model, offload, torch.arange(28).reshape(4, 7)


def held_bytes(model: nn.Module) -> int:
    return sum(p.untyped_storage().nbytes() for p in model.parameters() if p.ndim > 1)


def test_the_outputs_and_gradients_are_those_of_the_whole_network() -> None:
    whole, model, offload, tokens = networks()
    with torch.no_grad(), offload:
        fused = model(tokens)
    with torch.no_grad():
        assert torch.equal(fused, whole(tokens))
    output = whole(tokens)
    wanted = torch.autograd.grad(output, list(whole.parameters()), torch.ones_like(output))
    with offload:
        found = torch.autograd.grad(model(tokens), list(model.parameters()), torch.ones_like(output))
    assert len(found) == len(wanted) > 20
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_a_tie_stays_a_tie_and_nothing_is_left_behind() -> None:
    _, model, offload, tokens = networks()
    assert model.head.weight is model.embedding.weight
    with torch.no_grad(), offload:
        model(tokens)
        assert held_bytes(model) > 0
    assert held_bytes(model) == 0
    assert all(p.untyped_storage().nbytes() > 0 for p in model.parameters() if p.ndim < 2)


@pytest.mark.parametrize("backward", [False, True])
def test_no_more_is_held_than_the_largest_matrix(backward: bool) -> None:
    with torch.device("meta"):
        model = nn.Sequential(*(nn.Linear(20, 20) for _ in range(12)), nn.Linear(20, 50))
    values = {n: torch.randn(p.shape) for n, p in model.named_parameters()}
    offload, most = Offload(), 0

    def read(name: str) -> Tensor:
        nonlocal most
        most = max(most, held_bytes(model) if values[name].ndim > 1 else 0)  # this one has its room already
        return values[name]

    offload.take(model, read)
    with offload:
        output = model(torch.randn(3, 20))
        if backward:
            output.sum().backward(inputs=[model[0].weight])
    assert most == 4 * 50 * 20


def test_a_forward_that_writes_into_a_matrix_is_refused() -> None:
    class Running(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(3, 3))

        def forward(self, x: Tensor) -> Tensor:
            self.seen.add_(x)
            return self.seen + x

    with torch.device("meta"):
        model = Running()
    offload = Offload()
    offload.take(model, lambda name: torch.zeros(3, 3))
    with offload, pytest.raises(CalibrationError, match=r"'seen' must be kept as it is .* got 'a change by aten.add_"):
        model(torch.ones(3, 3))
