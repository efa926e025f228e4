"""Gradient steps on the distance between the compressed network's output and the original's: no labels needed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..forms import Form
from ..network import feed, load_into, snapshot
from .calibrate import Calibration, Distance, count_answers
from .finetune import Trainable
from .observe import answer


@dataclass(frozen=True)
class Tuned:
    """The forms with other continuous values, and the mean distance on the calibration inputs before and after."""

    forms: dict[str, Form]
    before: float
    after: float


def distilled(
    model: nn.Module,
    forms: Mapping[str, Form],
    restored: Callable[[dict[str, Form]], dict[str, Form]],
    data: Calibration,
    distance: Distance,
    epochs: int,
    lr: float,
) -> Tuned:
    """Trains the continuous parts of `forms`, and every other float parameter of the model, by Adam.

    The learning rate falls to zero as a cosine. The model is left with the new values.

    Args:
        restored: puts what moved off its compression's constraint back onto it.
    """
    before = mean_distance(model, data, distance)
    trainable = Trainable(forms)
    steps = epochs * sum(1 for _ in data.batches)
    with trainable.installed(model), torch.enable_grad():
        optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=lr)
        done = 0
        for _ in range(epochs):
            for batch in data.batches:
                optimizer.param_groups[0]["lr"] = lr * 0.5 * (1 + math.cos(math.pi * done / steps))
                with torch.no_grad():
                    wanted = answer(feed(data.original, batch))
                optimizer.zero_grad(set_to_none=True)
                distance_of(answer(feed(model, batch)), wanted, distance).backward()
                optimizer.step()
                done += 1
    tuned = restored(trainable.current())
    load_into(model, {**snapshot(model, {}), **tuned})
    return Tuned(tuned, before, mean_distance(model, data, distance))


def mean_distance(model: nn.Module, data: Calibration, distance: Distance) -> float:
    """The mean over the calibration batches."""
    total, count = 0.0, 0
    with torch.no_grad():
        for batch in data.batches:
            total += float(distance_of(answer(feed(model, batch)), answer(feed(data.original, batch)), distance))
            count += 1
    return total / count


def distance_of(output: Tensor, wanted: Tensor, distance: Distance) -> Tensor:
    """The mean over `count_answers`: half the squared difference of a sample, or KL(wanted || output) in nats."""
    if distance == "values":
        return (output - wanted).square().sum() / (2 * count_answers(output, distance))
    rows = wanted.log_softmax(-1)
    return F.kl_div(output.log_softmax(-1), rows, log_target=True, reduction="sum") / count_answers(output, distance)
