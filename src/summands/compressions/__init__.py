"""How a weight becomes a form: pure projections, and their sums.

This is the package list. A compression that stands here can be written in a plan (text.py).
"""

from .additive import Additive
from .auto import Auto
from .compression import Compression, Terms, squared_error
from .embedded import Embedded
from .fixed_codebook import Binary, FixedCodebook, PowersOfTwo, Ternary
from .grid import Grid
from .keep import Keep
from .low_rank import LowRank
from .prune import Prune, PrunePenalty
from .prune_by import PruneBy
from .prune_nm import PruneNM
from .quantize import Quantize
from .scaled_codebook import ScaledBinary, ScaledCodebook, ScaledTernary
from .scaled_grid import ScaledGrid
from .shrink import L1Ball, SoftThreshold
from .successive import Successive
from .transform import Transform
from .tucker import Tucker

__all__ = [
    "COMPRESSIONS",
    "Additive",
    "Auto",
    "Binary",
    "Compression",
    "Embedded",
    "FixedCodebook",
    "Grid",
    "Keep",
    "L1Ball",
    "LowRank",
    "PowersOfTwo",
    "Prune",
    "PruneBy",
    "PruneNM",
    "PrunePenalty",
    "Quantize",
    "ScaledBinary",
    "ScaledCodebook",
    "ScaledGrid",
    "ScaledTernary",
    "SoftThreshold",
    "Successive",
    "Terms",
    "Ternary",
    "Transform",
    "Tucker",
    "squared_error",
]

COMPRESSIONS: tuple[type[Compression], ...] = (
    Auto,
    Binary,
    Embedded,
    FixedCodebook,
    Grid,
    Keep,
    L1Ball,
    LowRank,
    PowersOfTwo,
    Prune,
    PruneBy,
    PruneNM,
    PrunePenalty,
    Quantize,
    ScaledBinary,
    ScaledCodebook,
    ScaledGrid,
    ScaledTernary,
    SoftThreshold,
    Successive,
    Ternary,
    Transform,
    Tucker,
)
"""Every compression that a plan may name."""
