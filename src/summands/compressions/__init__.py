"""How a weight becomes a form: pure projections, and their sums.

This is the package list. A compression that stands here can be written in a plan (text.py).
"""

from .additive import Additive
from .compression import Compression, Terms, squared_error
from .keep import Keep
from .low_rank import LowRank
from .prune import Prune, PrunePenalty
from .prune_nm import PruneNM
from .quantize import Quantize
from .shrink import L1Ball, SoftThreshold
from .transform import Transform
from .tucker import Tucker

__all__ = [
    "COMPRESSIONS",
    "Additive",
    "Compression",
    "Keep",
    "L1Ball",
    "LowRank",
    "Prune",
    "PruneNM",
    "PrunePenalty",
    "Quantize",
    "SoftThreshold",
    "Terms",
    "Transform",
    "Tucker",
    "squared_error",
]

COMPRESSIONS: tuple[type[Compression], ...] = (
    Keep,
    L1Ball,
    LowRank,
    Prune,
    PruneNM,
    PrunePenalty,
    Quantize,
    SoftThreshold,
    Transform,
    Tucker,
)
"""Every compression that a plan may name."""
