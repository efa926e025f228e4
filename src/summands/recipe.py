"""How a file was made, in a few words that its metadata and a checkpoint hold."""

from __future__ import annotations

import platform
from typing import Any

import torch

from .lc import Schedule
from .plan import Plan
from .selection import Limit
from .sensitivity import Importance


def recipe_of(
    plan: Plan,
    limit: Limit | None,
    schedule: Schedule | None,
    seed: int,
    drop: float | None = None,
    importance: Importance | None = None,
) -> dict[str, Any]:
    """Of a run: what a checkpoint must agree with to be resumed, and a file keeps."""
    recipe: dict[str, Any] = {"plan": plan.to_dict()}
    if importance is not None:
        recipe["importance"] = named(importance)
    if limit is not None:
        recipe[f"budget_{limit.unit.lower()}"] = limit.most
    if drop is not None:
        recipe["budget_drop"] = drop
    return recipe if schedule is None else {**recipe, "schedule": vars(schedule), "seed": seed}


def named(importance: Importance) -> str | dict[str, float | str]:
    """An importance as plain values."""
    if isinstance(importance, str):
        return importance
    return {name: "by entry" if torch.as_tensor(h).ndim else float(h) for name, h in importance.items()}


def versions() -> dict[str, str]:
    """Of what a file was made with."""
    from . import __version__

    return {"summands": __version__, "torch": torch.__version__, "python": platform.python_version()}
