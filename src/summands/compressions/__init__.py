"""How a weight becomes a form: pure projections, and their sums.

This is the package list. A compression that stands here can be written in a plan (text.py).
"""

from .additive import Additive
from .compression import Compression, Terms, squared_error
from .keep import Keep
from .low_rank import LowRank
from .prune import Prune
from .quantize import Quantize

__all__ = ["COMPRESSIONS", "Additive", "Compression", "Keep", "LowRank", "Prune", "Quantize", "Terms", "squared_error"]

COMPRESSIONS: tuple[type[Compression], ...] = (Keep, LowRank, Prune, Quantize)
"""Every compression that a plan may name."""
