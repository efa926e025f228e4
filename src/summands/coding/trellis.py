"""Dependent quantisation: levels on a path through a trellis of eight nodes, and where such a path stands.

Two quantisers with twice the step share the work: the first has the even multiples of the step, the second the odd
ones and zero. Which one an entry uses is known from all entries before it: node n uses the second where n is odd, and
the parity of the entry's place in its quantiser decides on the next node. The encoder looks for the best path, so that
entries together are packed more densely than in a cubic lattice: about 0.1 bits an entry at the same error
(Marcellin and Fischer 1990; Fischer and Wang 1992; the nodes are those of ISO/IEC 15938-17).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from ..forms.trellis import NODES as NODES

PATH = np.array([0, 2, 7, 5, 1, 3, 6, 4, 2, 0, 5, 7, 3, 1, 4, 6], dtype=np.int8)
"""The node after node n and an entry of parity p stands at 2 n + p."""
NO_PATH = np.zeros(0, dtype=np.int8)
RESTARTS = -1
"""In place of the first node: node 0, and again at the beginning of every row of the scan."""


def node_after(levels: np.ndarray, node: int) -> int:
    """Where a path that starts at `node` stands after these levels; ValueError when they do not follow it."""
    found = int(_walk(levels.reshape(-1), node))
    if found < 0:
        raise ValueError("levels that leave the path of a trellis")
    return found


@njit(cache=True, nogil=True)
def _walk(levels, node):
    node = np.int64(node)
    for level in levels:
        size = abs(np.int64(level))
        odd = node & 1
        if size and (size & 1) != odd:
            return np.int64(-1)
        node = np.int64(PATH[2 * node + (((size + odd) >> 1) & 1)])
    return node
