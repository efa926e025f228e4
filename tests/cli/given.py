"""What the commands are given: a checkpoint, its plan, a task file; and what an error of theirs looks like."""

from __future__ import annotations

import torch

PLAN = """
weights:
  "*conv*.weight": Quantize(4) + Prune(keep=0.1)
  "fc.weight": LowRank(2)
  "*emb*": Quantize(16)
  "*.bias": Keep("float16")
ignore: ["half", "bn.weight", "none.*"]
"""

TASK = """
import torch
from torch import nn
import summands as sm

generator = torch.Generator().manual_seed(0)
inputs_ = torch.randn(512, 10, generator=generator)
labels = (inputs_[:, 0] * inputs_[:, 1] > 0).long()
plan = sm.Plan({"*.weight": "Quantize(2) + Prune(keep=0.1)"}, ignore=["*.bias"])
schedule = sm.Schedule(steps=6, mu0=1e-2, growth=1.5, epochs=EPOCHS, finetune=2)

def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 2))

train = sm.SGD((inputs_, labels), batch_size=64)

def evaluate(model):
    return float(nn.functional.cross_entropy(model(inputs_), labels))
"""


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    return {
        "conv1.weight": random(8, 3, 3, 3),
        "conv1.bias": random(8),
        "bn.weight": random(8),
        "bn.running_mean": random(8),
        "bn.num_batches_tracked": torch.tensor(2**40 + 3),
        "fc.weight": random(10, 20),
        "emb.weight": random(50, 6),
        "half": random(5, 5).bfloat16(),
        "ids": torch.tensor([[-(2**62), 7]]),
        "scale": torch.tensor(0.5),
        "none.weight": torch.zeros(0, 4),
        "flags": torch.tensor([True, False]),
    }


def assert_refused(answer: tuple[int, str, str], *words: str) -> None:
    """Exit code 2 and one line on standard error that says what is wrong."""
    code, out, err = answer
    assert code == 2
    assert out == ""
    assert err.startswith("error: ") and err.count("\n") == 1, err
    for word in words:
        assert word in err
