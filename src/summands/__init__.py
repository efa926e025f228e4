"""summands: every weight of a trained network becomes a learned sum of compressed parts, in one small file."""

from .api import compress, prune
from .compressions import *  # noqa: F403 - the package list is the one list of compressions
from .compressions import __all__ as _compressions
from .errors import SummandsError
from .fold import fold_batch_norms
from .lc import SGD, PostTraining, Pruning, Schedule, Step
from .loading import load, load_prefix
from .plan import Plan
from .records import Verdict
from .result import Result
from .selection import Budget
from .streaming import compress_file

__version__ = "0.1.0.dev0"

__all__ = ["SGD", "Budget", "Plan", "PostTraining", "Pruning", "Result", "Schedule", "Step", "SummandsError", "Verdict"]
__all__ += ["compress", "compress_file", "fold_batch_norms", "load", "load_prefix", "prune", *_compressions]
