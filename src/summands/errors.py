"""Every error that summands raises on purpose.

SummandsError
├── ArgumentError        an argument of a public object is outside its allowed set (also a ValueError)
│   ├── PlanError        a plan does not fit its model, or its text cannot be parsed
│   ├── WeightError      a weight cannot be compressed: NaN, infinity, a dtype without a meaning here
│   ├── BudgetError      a budget that nothing can meet, or that leaves nothing to choose
│   └── CalibrationError calibration inputs that cannot be used: none, not finite, or not the model's input
├── FileError            a file cannot be read or written
│   ├── CorruptFileError     its bytes are not what its checksums or declarations promise
│   ├── UnsupportedFileError it needs a version or feature that this reader does not have
│   └── LimitError           it declares more than the caller's `max_bytes`
├── MismatchError        a file, checkpoint or task does not fit the model it is used with
└── TrainingError        the L step failed: the loss diverged or the user's function broke its contract

A message says which argument of which object, what is allowed, what came, and what to do. The inner
layer states the fault; an outer layer adds where it happened with `in_context`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class SummandsError(Exception):
    """Root of the tree: `except SummandsError` catches everything the library raises on purpose."""


class ArgumentError(SummandsError, ValueError):
    """An argument is outside its allowed set."""


class PlanError(ArgumentError):
    """A plan does not fit its model, or its text cannot be parsed."""


class WeightError(ArgumentError):
    """A weight cannot be compressed."""


class BudgetError(ArgumentError):
    """A budget cannot be met, or leaves nothing to choose."""


class CalibrationError(ArgumentError):
    """Calibration inputs cannot be used."""


class FileError(SummandsError):
    """A file cannot be read or written."""


class CorruptFileError(FileError):
    """The bytes of a file contradict its declarations or checksums."""


class UnsupportedFileError(FileError):
    """A file needs a format version or a feature that this reader does not know."""


class LimitError(FileError):
    """A file declares more decoded bytes than the caller allows."""


class MismatchError(SummandsError):
    """A file, checkpoint or task does not fit the model it is used with."""


class TrainingError(SummandsError):
    """The L step failed."""


def must(subject: str, allowed: str, got: object, remedy: str = "") -> str:
    """The one shape of a message about an argument.

    >>> must("Prune(keep=...)", "in [0, 1]", 1.5)
    'Prune(keep=...) must be in [0, 1], got 1.5'
    """
    tail = f"; {remedy}" if remedy else ""
    return f"{subject} must be {allowed}, got {got!r}{tail}"


def near(name: str, names: Iterable[str]) -> str:
    """A remedy that lists the names closest to a mistyped one; all of them when there are few and none is close.

    >>> near("Quantise", ["Prune", "Quantize"])
    "did you mean 'Quantize'?"
    >>> near("xyz", ["Prune", "Quantize"])
    "known: 'Prune', 'Quantize'"
    """
    names = list(names)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    if close:
        return f"did you mean {' or '.join(map(repr, close))}?"
    shown = ", ".join(map(repr, names[:20]))
    return f"known: {shown}" + (f" and {len(names) - 20} more" if len(names) > 20 else "")


@contextmanager
def in_context(where: str) -> Iterator[None]:
    """Adds `(where)` to any SummandsError that passes, keeping its type."""
    try:
        yield
    except SummandsError as error:
        raise type(error)(f"{error} ({where})") from error
