"""The user's measure of a model."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from ..errors import SummandsError, TrainingError, must

Evaluate = Callable[[nn.Module], float]
"""The error, or any number to be small, of a model, measured on validation data."""


def error_of(evaluate: Evaluate, model: nn.Module, phase: str, kept: str = "") -> float:
    """What `evaluate` says of the model, which is put into `eval()`; infinity for NaN once training has begun.

    Raises:
        TrainingError: it raised, which the message says, with `kept` for what is not lost; or it returned no number.
    """
    model.eval()
    try:
        with torch.no_grad():
            error = evaluate(model)
    except SummandsError:
        raise
    except Exception as fault:
        where = (
            "on the network that came in" if phase == "reference" else f"on the compressed network (phase {phase!r})"
        )
        raise TrainingError(f"evaluate(model) raised {type(fault).__name__} {where}: {fault}{kept}") from fault
    try:
        number = float(error)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isnan(number):
        return number
    if phase in ("reference", "direct"):
        raise TrainingError(must("the result of evaluate(model)", "a number", error))
    return math.inf
