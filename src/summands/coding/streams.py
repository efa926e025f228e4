"""Tensors to symbols: which kernel codes which tensor. Encoding, decoding and measuring take the same way."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..errors import must
from ..forms.form import raw_bytes
from . import contexts as kernels
from .choices import (
    CHOICE_BITS,
    CHOICE_CONTEXTS,
    Choice,
    Trials,
    best_choice,
    code_choices,
    columns_of,
    order_of,
    orders,
    sample,
    scanned,
)
from .kinds import Codes, Digits, Field, Levels, PathLevels, Picks, Positions
from .picks import PICK_CONTEXTS, code_picks
from .range_coder import DECODE, MEASURE, Coder
from .runners import (
    Models,
    Run,
    code_runner,
    float_runner,
    path_runner,
    run_digits,
    run_flags,
    run_gaps,
    run_levels,
)
from .trellis import RESTARTS

_SMALL = 16  # tensors of fewer entries take the default choices
_LARGEST = 1 << 30  # levels from here on are coded as bytes
_FLOATS = {torch.float32: (8, 23), torch.float16: (5, 10), torch.bfloat16: (8, 7), torch.float64: (11, 52)}
_INTEGERS = (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64)
_SCALES: Trials = (
    ("mix", (0, 1, 2, 3)),
    ("scan", (0, 1, 2, 3)),
    ("mix", (4, 5, 6)),
    ("detail", (0, 1)),
    ("coarse", (0, 1, 2)),
    ("rate", (0, 1, 2, 3)),
    ("drift", (1, 2, 3)),
)
_DIGIT_TRIALS: Trials = tuple(trial for trial in _SCALES if trial[0] != "detail")
_LEVEL_TRIALS: Trials = (*_SCALES, ("signs", (0, 1)))
_PATH_TRIALS: Trials = tuple((name, values) for name, values in _LEVEL_TRIALS if name != "scan")
_CODE_TRIALS: Trials = (("kernel", (0, 1)), *_SCALES, ("signs", (0, 1)), ("kernel", (0, 1)))
_FLOAT_TRIALS: Trials = (
    ("kernel", (0, 1)),
    ("detail", (0, 1, 2, 3)),
    ("mix", (0, 1, 3)),
    ("scan", (0, 1)),
    ("rate", (0, 1, 3)),
)
_ONE_BIT = np.ones(1, dtype=np.int64)
_RARE = 0.05  # below this share of nonzeros, blocks of zeros come first


@dataclass(frozen=True)
class _Stream:
    """How the entries of one tensor are coded.

    Attributes:
        name: streams of one name share their contexts and, if they like, their choice.
        run: the kernel.
        trials: the choices worth trying.
        worst_bytes: what one entry may take at most when encoding.
    """

    name: str
    run: Run
    trials: Trials
    worst_bytes: int


class Section:
    """A coder with the contexts that its tensors share."""

    def __init__(self, mode: int, data: bytes = b"") -> None:
        self.coder = Coder(mode, data)
        self.models = Models()
        self.choices: dict[str, Choice] = {}

    def code(self, tensor: Tensor, field: Field, side: Tensor | None = None) -> None:
        """Codes a tensor, or fills it with what is decoded.

        `side` is what the decoder knows by now: for each entry of the weight a number below SIDES; of digits the levels
        so far; of picks the events before.
        """
        symbols = field.symbols
        if tensor.numel() == 0:
            return
        if isinstance(symbols, Picks):
            self._picks(tensor, symbols, side)
        elif isinstance(symbols, Positions):
            self._positions(tensor, symbols, side)
        elif isinstance(symbols, Codes):
            self._codes(tensor, symbols.count)
        elif isinstance(symbols, Digits) and side is not None:
            self._digits(tensor, side)
        elif isinstance(symbols, PathLevels):
            self._path_levels(tensor, symbols)
        elif isinstance(symbols, Levels) or tensor.dtype in _INTEGERS:
            self._integers(tensor)
        elif tensor.dtype in _FLOATS:
            self._floats(tensor, side)
        else:
            self._bytes(tensor)

    def _picks(self, tensor: Tensor, symbols: Picks, before: Tensor | None) -> None:
        coder, known = self.coder, 0 if before is None else before.numel()
        events = (tensor if before is None else torch.cat([before, tensor])).contiguous().numpy()
        coder.reserve(48 * tensor.numel())
        model = self.models("picks", PICK_CONTEXTS)
        if not code_picks(coder.mode, coder.state, coder.data, model, events, known, symbols.total, symbols.seed):
            raise ValueError("a pick that successive pruning cannot make")
        if coder.mode == DECODE:
            tensor.copy_(torch.from_numpy(events[known:]))

    def _digits(self, tensor: Tensor, known: Tensor) -> None:
        array = np.ascontiguousarray(tensor.numpy())
        self._code(_Stream("digits", run_digits, _DIGIT_TRIALS, 8), array, known.numpy())
        if self.coder.mode == DECODE:
            tensor.copy_(torch.from_numpy(array).reshape(tensor.shape))

    def _positions(self, tensor: Tensor, symbols: Positions, side: Tensor | None) -> None:
        indices, coder = tensor.numpy(), self.coder
        few = symbols.size > 4096 * indices.size + 65536
        stream = _Stream("flags", run_flags, _SCALES, 3)
        flags = np.zeros(0 if few else symbols.size, dtype=np.int8)
        sides = None if side is None or few else side.numpy()
        choice = Choice()
        gaps = few
        if coder.mode != DECODE and not few:
            flags[indices] = 1
            choice = self._choose(stream, flags.reshape(symbols.shape), sides)
            if symbols.size > 64 * indices.size:
                gaps = self._gap_bits(tensor, symbols.size) < self._bits(
                    stream, flags.reshape(symbols.shape), sides, choice
                )
        if not few:
            gaps = bool(coder.number(1, int(gaps)))
        if gaps:
            run_gaps(coder, self.models, indices, symbols.size)
            return
        self._code_with(stream, flags.reshape(symbols.shape), sides, choice)
        if coder.mode == DECODE:
            found = np.flatnonzero(flags)
            if found.size != indices.size:
                raise ValueError(must("the number of positions", f"{indices.size} as declared", found.size))
            indices[:] = found

    def _codes(self, tensor: Tensor, count: int) -> None:
        if count == 1:
            tensor.zero_()
            return
        if count == 2:
            stream = _Stream("codes 2", run_flags, _SCALES, 3)
        else:
            bits = (count - 1).bit_length()
            stream = _Stream(f"codes {bits}", code_runner(bits, count), _CODE_TRIALS, 80)
        array = np.ascontiguousarray(tensor.to(torch.int32).numpy())
        self._code(stream, array, None)
        if self.coder.mode == DECODE:
            if array.min() < 0 or array.max() >= count:
                raise ValueError(must("a code", f"in [0, {count})", int(array.max())))
            tensor.copy_(torch.from_numpy(array).reshape(tensor.shape))

    def _integers(self, tensor: Tensor) -> None:
        low, high = (0, 0) if self.coder.mode == DECODE else (int(tensor.min()), int(tensor.max()))
        if self.coder.number(1, int(max(-low, high) >= _LARGEST)):
            self._bytes(tensor)
            return
        array = np.ascontiguousarray(tensor.to(torch.int32).numpy())
        self._code(_Stream("levels", run_levels, _LEVEL_TRIALS, 96), array, None)
        if self.coder.mode == DECODE:
            _put_levels(tensor, array)

    def _path_levels(self, tensor: Tensor, symbols: PathLevels) -> None:
        """The path has the order of its entries, so there is but one scan: the first, or that down the first axis."""
        array = np.ascontiguousarray(tensor.to(torch.int32).numpy())
        if symbols.down:
            array = np.ascontiguousarray(array.transpose(order_of(array.ndim, 1))).reshape(-1, array.shape[0])
        choice = Choice()
        if self.coder.mode != DECODE:
            if int(tensor.abs().max()) >= _LARGEST:
                raise ValueError(must("levels on a path", f"below {_LARGEST}", int(tensor.abs().max())))
            # What a sample of places in the quantisers likes, the whole does.
            choice = self._choose(_Stream("path", run_levels, _PATH_TRIALS, 0), halved(array), None)
        start = RESTARTS if symbols.down else symbols.node
        self._code_with(_Stream("path", path_runner(start), _PATH_TRIALS, 96), array, None, choice)
        if self.coder.mode == DECODE:
            _put_levels(tensor, array.T if symbols.down else array)

    def _floats(self, tensor: Tensor, side: Tensor | None) -> None:
        exponent, mantissa = _FLOATS[tensor.dtype]
        itemsize = tensor.dtype.itemsize
        integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}[itemsize]
        array = tensor.contiguous().view(integers).numpy().view(f"uint{8 * itemsize}")
        tail = 0
        if tensor.numel() >= _SMALL:
            tail = self.coder.number(6, _trailing_zeros(array, mantissa))
            if tail > mantissa:
                raise ValueError(must("the number of zero bits", f"at most {mantissa}", tail))
        sides = None if side is None else side.numpy()
        stream = _Stream(f"floats {tensor.dtype}", float_runner(exponent, mantissa, tail), _FLOAT_TRIALS, 64)
        self._code(stream, array, sides)

    def _bytes(self, tensor: Tensor) -> None:
        itemsize, coder = tensor.dtype.itemsize, self.coder
        raw = raw_bytes(tensor).numpy()
        coder.reserve(24 * raw.size)
        model = self.models(f"bytes {itemsize}", 256 * itemsize)
        kernels.code_bytes(coder.mode, coder.state, coder.data, model, raw, itemsize, 60, 1023)

    def _code(self, stream: _Stream, array: np.ndarray, sides: np.ndarray | None) -> None:
        choice = Choice() if self.coder.mode == DECODE else self._choose(stream, array, sides)
        self._code_with(stream, array, sides, choice)

    def _code_with(self, stream: _Stream, array: np.ndarray, sides: np.ndarray | None, choice: Choice) -> None:
        """Codes the choice, then the entries in its scan order."""
        coder = self.coder
        if array.size >= _SMALL:
            choice = _code_choice(coder, self.models, stream.name, choice, self.choices.get(stream.name, Choice()))
            self.choices[stream.name] = choice
        coder.reserve(stream.worst_bytes * array.size + 64)
        if coder.mode == DECODE:
            moved = array.transpose(order_of(array.ndim, choice.scan))
            # The kernel fills the array itself if that is the scan's order.
            run = moved if moved.flags.c_contiguous else np.empty(moved.shape, moved.dtype)
            entries, columns = run.reshape(-1), columns_of(array.shape, choice.scan)
        else:
            entries, columns = scanned(array, choice.scan)
        stream.run(coder, self.models, entries, columns, _scanned_sides(sides, choice.scan), choice)
        if coder.mode == DECODE and run is not moved:
            moved[...] = run

    def _choose(self, stream: _Stream, array: np.ndarray, sides: np.ndarray | None) -> Choice:
        if array.size < _SMALL:
            return Choice()
        rare = stream.trials not in (_FLOAT_TRIALS, _DIGIT_TRIALS) and int(np.count_nonzero(array)) < _RARE * array.size
        part = sample(array, rare=rare)
        part_sides = None if sides is None else sample(sides, rare=rare)
        scans = len(orders(array.ndim))
        trials = [(name, tuple(v for v in values if name != "scan" or v < scans)) for name, values in stream.trials]
        start = self.choices.get(stream.name, Choice())
        start = replace(start, scan=start.scan if start.scan < scans else 0)
        if stream.trials not in (_FLOAT_TRIALS, _DIGIT_TRIALS):
            start = replace(start, detail=int(rare))
        return best_choice(start, trials, lambda choice: self._bits(stream, part, part_sides, choice))

    def _bits(self, stream: _Stream, array: np.ndarray, sides: np.ndarray | None, choice: Choice) -> float:
        coder, models = Coder(MEASURE), self.models.copy()
        _code_choice(coder, models, stream.name, choice, self.choices.get(stream.name, Choice()))
        entries, columns = scanned(array, choice.scan)
        stream.run(coder, models, entries, columns, _scanned_sides(sides, choice.scan), choice)
        return coder.bits

    def _gap_bits(self, tensor: Tensor, size: int) -> float:
        coder = Coder(MEASURE)
        run_gaps(coder, self.models.copy(), tensor.numpy(), size)
        return coder.bits


def learnt_levels(levels: np.ndarray, *, on_path: bool) -> tuple[Choice, np.ndarray]:
    """The choice for such levels in memory order, and the model that has learnt from them as the coder does.

    With `on_path` the levels stand for places in the quantisers of a trellis, and so does the model.
    """
    section = Section(MEASURE)
    trials = _PATH_TRIALS if on_path else _LEVEL_TRIALS
    stream = _Stream("levels", run_levels, trials, 0)
    choice = replace(section._choose(stream, levels, None), detail=0)
    entries, columns = scanned(levels, choice.scan)
    models = Models()
    run_levels(section.coder, models, entries, columns, np.zeros(0, dtype=np.uint8), choice)
    model = models(f"levels {choice.mix}", kernels.LEVEL_CONTEXTS)
    return choice, model


def halved(levels: np.ndarray) -> np.ndarray:
    """Levels on a path as about their places in the quantisers: half of them, away from zero."""
    return np.sign(levels) * ((np.abs(levels) + 1) >> 1)


def _put_levels(tensor: Tensor, array: np.ndarray) -> None:
    limits = torch.iinfo(tensor.dtype)
    if int(array.min()) < limits.min or int(array.max()) > limits.max:
        raise ValueError(must(f"a level of {tensor.dtype}", f"in [{limits.min}, {limits.max}]", int(array.max())))
    if not np.may_share_memory(tensor.numpy(), array):
        tensor.copy_(torch.from_numpy(array).reshape(tensor.shape))


def _code_choice(coder: Coder, models: Models, name: str, choice: Choice, last: Choice) -> Choice:
    """One bit when the choice is the last one of this name, all its fields otherwise."""
    model = models(f"choice of {name}", CHOICE_CONTEXTS)
    coder.reserve(64)

    def code(first: int, bits: np.ndarray, values: np.ndarray) -> list[int]:
        code_choices(coder.mode, coder.state, coder.data, model, first, bits, values)
        return list(map(int, values))

    (changed,) = code(len(CHOICE_BITS), _ONE_BIT, np.array([choice != last], dtype=np.int64))
    return Choice(*code(0, CHOICE_BITS, choice.numbers())) if changed else last


def _scanned_sides(sides: np.ndarray | None, scan: int) -> np.ndarray:
    return np.zeros(0, dtype=np.uint8) if sides is None else scanned(sides, scan)[0]


def _trailing_zeros(array: np.ndarray, mantissa: int) -> int:
    union = int(np.bitwise_or.reduce(array, axis=None))
    return next((bit for bit in range(mantissa) if union >> bit & 1), mantissa)
