"""summands: every weight of a trained network becomes a learned sum of compressed parts, in one small file."""

from .compressions import Keep

__version__ = "0.1.0.dev0"

__all__ = ["Keep"]
