"""A user's task file: a Python file that says what the network is and how it is trained and judged.

def model(): ...                      the trained network (required); beside a checkpoint, on the meta device
def train(model, penalty, step): ...  one L step: train for step.epochs, add penalty() to the loss
def evaluate(model): ...              its error on validation data, to be small
calibration = [...]                   batches of the model's input without labels, for compression without training
posttraining = sm.PostTraining(...)   how they are used
inputs = [...]                        batches of the model's input, for BatchNorm statistics
plan = sm.Plan({...})                 unless --plan is given
importance = "relative"               or by weight: how much its errors count, see `compress`
schedule = sm.Schedule(...)           unless options are given
def plan_at(sparsity): ...            the plan for a share of zeros, for `summands prune`
pruning = sm.Pruning(...)             its levels, unless options are given
def state(): ...    def load_state(value): ...    what `train` keeps between steps, if anything
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from .errors import ArgumentError, FileError, MismatchError, must
from .lc import PostTraining, Pruning, Schedule
from .plan import Plan
from .sensitivity import Importance


@dataclass(frozen=True)
class TaskFile:
    """The names that a task file defined; None or () for those that it did not."""

    model: Callable[[], nn.Module]
    train: Callable[..., float | None] | None = None
    evaluate: Callable[[nn.Module], float] | None = None
    calibration: Iterable[Any] | None = None
    posttraining: PostTraining | None = None
    inputs: Iterable[Any] = ()
    plan: Plan | None = None
    importance: Importance | None = None
    schedule: Schedule | None = None
    plan_at: Callable[[float], Plan] | None = None
    pruning: Pruning | None = None
    state: Callable[[], Any] | None = None
    load_state: Callable[[Any], None] | None = None

    def network(self) -> nn.Module:
        """What `model()` returns; ArgumentError unless it is a module."""
        network = self.model()
        if not isinstance(network, nn.Module):
            raise ArgumentError(must("the result of model()", "a torch.nn.Module", type(network).__name__))
        return network


def load_task(path: Path) -> TaskFile:
    """Runs a task file and takes the names it defines.

    Raises:
        FileError: there is no such file. ArgumentError: it lacks `model` or defines a name as something else.
        Whatever the file itself raises passes through.
    """
    if not path.is_file():
        raise FileError(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise FileError(f"{path} cannot be read as Python")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.resolve().parent))
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    names = TaskFile.__dataclass_fields__
    found = {name: getattr(module, name) for name in names if hasattr(module, name)}
    if "model" not in found:
        raise ArgumentError(must(f"{path.name}", "a file that defines model()", "no such name"))
    for name in ("model", "train", "evaluate", "plan_at", "state", "load_state"):
        if name in found and not callable(found[name]):
            raise ArgumentError(must(f"{name} in {path.name}", "a function", found[name]))
    for name in ("inputs", "calibration"):
        if callable(found.get(name)):
            found[name] = found[name]()
    kinds = (("plan", Plan), ("schedule", Schedule), ("pruning", Pruning), ("posttraining", PostTraining))
    for name, kind in kinds:
        if name in found and not isinstance(found[name], kind):
            raise MismatchError(must(f"{name} in {path.name}", f"a summands.{kind.__name__}", found[name]))
    return TaskFile(**found)
