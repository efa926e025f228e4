"""Everything that the loop carries from step to step, and that a checkpoint holds."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from torch import Tensor

from ..forms import Form
from ..network import Network
from ..records import StepRecord


@dataclass
class State:
    """Where a run stands.

    Attributes:
        forms: of the weights of all tasks, as the last C step left them.
        multipliers: lambda, by weight.
        best: the best network so far, and `best_error` its error.
        phase, index: "lc" or "finetune", and the number of the next step in it.
        price: at which the last budget was met.
        trainable: when fine-tuning, the tensors that train, at full precision.
    """

    forms: dict[str, Form]
    multipliers: dict[str, Tensor]
    best: Network
    best_error: float = math.inf
    phase: str = "lc"
    index: int = 0
    price: float | None = None
    trainable: list[Tensor] | None = None
    history: list[StepRecord] = field(default_factory=list)
