"""A tensor's entries through their kernel, one call each: what is coded, decoded or measured, and in which contexts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..errors import must
from . import contexts as kernels
from .choices import Choice
from .digits import DIGIT_CONTEXTS, code_digits
from .range_coder import DECODE, Coder, new_model
from .trellis import NO_PATH, PATH


class Models:
    """Contexts by name. A copy hands out copies: what is tried on it leaves no trace."""

    def __init__(self, known: dict[str, np.ndarray] | None = None) -> None:
        self._known = {} if known is None else known
        self._copies = known is not None

    def __call__(self, name: str, contexts: int) -> np.ndarray:
        if name not in self._known:
            if self._copies:
                return new_model(contexts)
            self._known[name] = new_model(contexts)
        return self._known[name].copy() if self._copies else self._known[name]

    def copy(self) -> Models:
        return Models(self._known)


Run = Callable[[Coder, Models, np.ndarray, int, np.ndarray, Choice], None]
"""One kernel's call: (coder, models, entries in scan order, columns, their side information, choice)."""


def run_flags(
    coder: Coder, models: Models, x: np.ndarray, columns: int, side: np.ndarray, choice: Choice, binary: bool = True
) -> None:
    model = models(f"{'flags' if binary else 'levels'} {choice.mix}", kernels.LEVEL_CONTEXTS)
    numbers = choice.for_kernel()
    kernels.code_levels(coder.mode, coder.state, coder.data, model, x, columns, side, binary, NO_PATH, 0, numbers)


def run_levels(coder: Coder, models: Models, x: np.ndarray, columns: int, side: np.ndarray, choice: Choice) -> None:
    run_flags(coder, models, x, columns, side, choice, binary=False)


def run_digits(coder: Coder, models: Models, x: np.ndarray, columns: int, side: np.ndarray, choice: Choice) -> None:
    model = models(f"digits {choice.mix}", DIGIT_CONTEXTS)
    code_digits(coder.mode, coder.state, coder.data, model, x, columns, side, choice.for_kernel())


def path_runner(node: int) -> Run:
    def run(coder: Coder, models: Models, x: np.ndarray, columns: int, side: np.ndarray, choice: Choice) -> None:
        if choice.scan:
            raise ValueError(must("the scan of levels on a path", "0", choice.scan))
        model, numbers = models(f"path {choice.mix}", kernels.PATH_CONTEXTS), choice.for_kernel()
        state, data = coder.state, coder.data
        if not kernels.code_levels(coder.mode, state, data, model, x, columns, side, False, PATH, node, numbers):
            raise ValueError("levels that leave the path of a trellis")

    return run


def code_runner(bits: int, count: int) -> Run:
    """Codes as a tree of decisions; or as levels around the most frequent one."""

    def run(coder: Coder, models: Models, x: np.ndarray, columns: int, side: np.ndarray, choice: Choice) -> None:
        if choice.kernel == 0:
            model = models(f"tree {bits} {choice.mix}", kernels.CLASSES << min(bits, 8))
            state, numbers = coder.state, choice.for_kernel()
            kernels.code_tree(coder.mode, state, coder.data, model, x, columns, bits, count - 1, numbers)
            return
        decoding = coder.mode == DECODE
        centre = 0 if decoding else int(np.bincount(x[: 1 << 16]).argmax())
        centre = coder.number(bits, centre)
        levels = x if decoding else x - np.int32(centre)
        model = models(f"codes {bits} {choice.mix}", kernels.LEVEL_CONTEXTS)
        numbers = choice.for_kernel()
        state, data = coder.state, coder.data
        kernels.code_levels(coder.mode, state, data, model, levels, columns, side, False, NO_PATH, 0, numbers)
        if decoding:
            x += np.int32(centre)

    return run


def float_runner(exponent: int, mantissa: int, tail: int) -> Run:
    """Floating values in their parts; or, as kernel 1, bits as they are."""

    def run(coder: Coder, models: Models, x: np.ndarray, columns: int, side: np.ndarray, choice: Choice) -> None:
        raw = choice.kernel == 1
        split = (0, exponent + mantissa, 0) if raw else (exponent, mantissa, tail)
        model = models(f"floats {split[:2]} {choice.mix > 0}", kernels.float_contexts(split[0]))
        state, numbers = coder.state, choice.for_kernel()
        if raw:
            numbers[:] = (0, 0, 0, 0, 3, 255, 1023, 0, 0)
        kernels.code_floats(coder.mode, state, coder.data, model, x, columns, side, *split, numbers)

    return run


def run_gaps(coder: Coder, models: Models, indices: np.ndarray, size: int) -> None:
    coder.reserve(200 * indices.size + 64)
    model = models("gaps", kernels.GAP_CONTEXTS)
    if not kernels.code_gaps(coder.mode, coder.state, coder.data, model, indices, size, 255, 1023):
        raise ValueError("a position lies beyond the weight")
