"""What a weight becomes: frozen values, each with `dense()`."""

from .codebook import Codebook
from .dense import Dense
from .embedded import Embedded
from .events import Events
from .form import ElementwiseForm, Form, paper_bits, relative_error
from .grid import Grid
from .low_rank import LowRank
from .sparse import Sparse
from .successive import Successive
from .sum import Sum
from .transform import Transform
from .trellis import Trellis
from .tucker import Tucker

__all__ = [
    "Codebook",
    "Dense",
    "ElementwiseForm",
    "Embedded",
    "Events",
    "Form",
    "Grid",
    "LowRank",
    "Sparse",
    "Successive",
    "Sum",
    "Transform",
    "Trellis",
    "Tucker",
    "paper_bits",
    "relative_error",
]
