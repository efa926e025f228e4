"""The loop: L step, C step, multipliers; and the learners."""

from .checkpoint import Checkpoint
from .drop import smallest_within
from .judge import Evaluate, error_of
from .learner import Learner, Step
from .loop import Loop
from .moments import Moments
from .options import PostTraining
from .passes import has_batch_norm, recompute_batch_norm
from .posttraining import PostTrainer
from .pruning import Pruning, run_levels
from .quadratic import QUADRATIC, Fitted, QuadraticLearner, fit, fit_layer, fit_task
from .schedule import Schedule
from .training import SGD, Penalty, Train, TrainingLearner

__all__ = [
    "QUADRATIC",
    "SGD",
    "Checkpoint",
    "Evaluate",
    "Fitted",
    "Learner",
    "Loop",
    "Moments",
    "Penalty",
    "PostTrainer",
    "PostTraining",
    "Pruning",
    "QuadraticLearner",
    "Schedule",
    "Step",
    "Train",
    "TrainingLearner",
    "error_of",
    "fit",
    "fit_layer",
    "fit_task",
    "has_batch_norm",
    "recompute_batch_norm",
    "run_levels",
    "smallest_within",
]
