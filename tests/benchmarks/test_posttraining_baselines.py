"""Others' ways of rounding a whole network keep to their budget, and GPTQ's errors are the less felt ones."""

import copy

import torch
from torch import nn

from benchmarks.posttraining_baselines import WAYS, compressed
from summands.container import measure
from summands.network import load_into


def test_every_way_fills_its_budget_and_second_moments_help() -> None:
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(72, 96), nn.ReLU(), nn.Linear(96, 64))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 8)
    inputs = torch.randn(512, 72, generator=generator) @ torch.randn(72, 72, generator=generator)
    errors = {}
    for way in WAYS:
        network = compressed(model, way, 8_000, list(inputs.split(128)))
        assert 7_900 < measure(network).size_bytes <= 8_000
        other = copy.deepcopy(model)
        load_into(other, network)
        with torch.no_grad():
            errors[way] = float((other(inputs) - model(inputs)).square().mean())
    assert errors["GPTQ"] < 0.8 * errors["RTN"]
