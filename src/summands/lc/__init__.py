"""The loop: L step, C step, multipliers; and the learners."""

from .checkpoint import Checkpoint
from .learner import Learner, Step
from .loop import Loop
from .passes import has_batch_norm, recompute_batch_norm
from .schedule import Schedule
from .training import SGD, Penalty, Train, TrainingLearner

__all__ = [
    "SGD",
    "Checkpoint",
    "Learner",
    "Loop",
    "Penalty",
    "Schedule",
    "Step",
    "Train",
    "TrainingLearner",
    "has_batch_norm",
    "recompute_batch_norm",
]
