"""`load` and `load_prefix`: a file's weights, as tensors or in a model. It takes nothing that compresses."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import overload

from torch import Tensor, nn

from . import container
from .forms import Form
from .network import Model, load_into


@overload
def load(path: str | Path, *, into: None = None, max_bytes: int | None = None) -> dict[str, Tensor]: ...


@overload
def load(path: str | Path, *, into: Model, max_bytes: int | None = None) -> Model: ...


def load(
    path: str | Path, *, into: nn.Module | None = None, max_bytes: int | None = None
) -> nn.Module | dict[str, Tensor]:
    """The dense weights of a file, by name; or the model `into` with these weights in it.

    Args:
        into: a model of the same tensors and shapes; its weights are replaced.
        max_bytes: refuse a file that declares more decoded bytes than this.

    Raises:
        FileError: the file cannot be read, is damaged, or declares too much. MismatchError: it does not fit `into`.
    """
    return _put(container.read(path, max_bytes=max_bytes).forms, into)


def load_prefix(
    path: str | Path, *, layers: int | None = None, into: Model | None = None, max_bytes: int | None = None
) -> Model | dict[str, Tensor]:
    """The coarser network in the first part of a file that was saved with `layers`; the rest may be missing.

    Args:
        path: a file, or as much of it as has arrived.
        layers: how many layers to take; by default all that are whole.
        into, max_bytes: as for `load`.
    """
    return _put(container.read_prefix(path, layers=layers, max_bytes=max_bytes).forms, into)


def _put(forms: Mapping[str, Form], into: Model | None) -> Model | dict[str, Tensor]:
    if into is None:
        return {name: form.dense() for name, form in forms.items()}
    load_into(into, forms)
    return into
