"""The loop: L step, C step, multipliers; and the learners."""

from .calibrate import Calibration
from .checkpoint import Checkpoint
from .drop import smallest_within
from .fits import LayerFits
from .in_runs import InRuns
from .judge import Evaluate, error_of
from .learner import Learner, Step
from .loop import Loop
from .moments import Moments
from .offload import Offload
from .options import PostTraining
from .passes import has_batch_norm, recompute_batch_norm
from .posttraining import PostTrainer, verdict_of
from .pruning import Pruning, run_levels
from .quadratic import QUADRATIC, Fitted, QuadraticLearner, fit, fit_layer, fit_task
from .schedule import Schedule
from .statistics import halve_statistics
from .training import SGD, Penalty, Train, TrainingLearner

__all__ = [
    "QUADRATIC",
    "SGD",
    "Calibration",
    "Checkpoint",
    "Evaluate",
    "Fitted",
    "InRuns",
    "LayerFits",
    "Learner",
    "Loop",
    "Moments",
    "Offload",
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
    "halve_statistics",
    "has_batch_norm",
    "recompute_batch_norm",
    "run_levels",
    "smallest_within",
    "verdict_of",
]
