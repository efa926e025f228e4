"""The tensors of a network as a plan sees them: each once, by all its names, and whether a rule may match it."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from .errors import ArgumentError, PlanError, must, near

COMPRESSIBLE = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
"""The dtypes that a rule may match; a tensor of any other is kept exactly."""
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
"""Last parts of the names that mark a buffer of BatchNorm in a checkpoint, where nothing else tells."""

Tensors = nn.Module | Mapping[str, Tensor]
"""What a plan is matched with: a model, or a checkpoint {name: tensor}."""


@dataclass(frozen=True)
class Entry:
    """A tensor of the network: its first name and the others, and why no rule may match it."""

    name: str
    aliases: tuple[str, ...]
    tensor: Tensor
    kept: str | None
    classes: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.aliases)

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Whatever a glob or expression may match: the names, and those of the modules that own them."""
        owners = (name.rpartition(".")[0] for name in self.names)
        return (*self.names, *(owner for owner in owners if owner))


class Domain:
    """The tensors of a module or checkpoint, each once, in order."""

    def __init__(self, tensors: Tensors) -> None:
        self._is_model = isinstance(tensors, nn.Module)
        named, buffers = _named(tensors)
        groups: dict[object, list[str]] = {}
        for name, tensor in named.items():
            groups.setdefault(identity(tensor), []).append(name)
        self.entries = [
            Entry(
                name=names[0],
                aliases=tuple(names[1:]),
                tensor=named[names[0]],
                kept=_why_kept(named[names[0]], names[0] in buffers),
                classes=_owner_classes(tensors, names),
            )
            for names in groups.values()
        ]
        self._by_name = {name: entry for entry in self.entries for name in entry.names}

    def find(self, pattern: str) -> list[Entry]:
        """What a pattern matches, in the network's order."""
        if pattern in self._by_name:
            return [self._by_name[pattern]]
        matches = _matcher(pattern)
        return [e for e in self.entries if pattern in e.classes or any(matches(label) for label in e.labels)]

    def remedy(self, pattern: str) -> str:
        """What to suggest for a pattern that matches nothing."""
        known = {label: None for e in self.entries for label in (*e.labels, *e.classes)}
        hint = near(pattern.removeprefix("re:"), known)
        return hint if self._is_model else f"{hint} (module class names need the model, not its checkpoint)"


def _named(tensors: Tensors) -> tuple[dict[str, Tensor], set[str]]:
    """Every tensor that a checkpoint of the network holds, and which of them are buffers."""
    if isinstance(tensors, nn.Module):
        persistent = tensors.state_dict(keep_vars=True)
        buffers = {n: b for n, b in tensors.named_buffers(remove_duplicate=False) if n in persistent}
        named = {**dict(tensors.named_parameters(remove_duplicate=False)), **buffers}
        order = dict.fromkeys([name for name in persistent if name in named] + list(named))
        return {name: named[name] for name in order}, set(buffers)
    if not isinstance(tensors, Mapping):
        raise ArgumentError(must("what a plan is matched with", "a module or {name: tensor}", type(tensors).__name__))
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise ArgumentError(must(f"checkpoint entry {name!r}", "a tensor", type(tensor).__name__, "leave it out"))
    return dict(tensors), {name for name in tensors if name.rpartition(".")[2] in STATISTICS}


def identity(tensor: Tensor) -> object:
    """Equal for two tensors exactly when they are tied: the same memory, seen the same way."""
    is_lazy = isinstance(tensor, (nn.UninitializedParameter, nn.UninitializedBuffer))
    if is_lazy or tensor.device.type == "meta" or tensor.layout != torch.strided or not tensor.data_ptr():
        return id(tensor)
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device


def _why_kept(tensor: Tensor, is_buffer: bool) -> str | None:
    if is_buffer:
        return "buffer"
    if tensor.dtype not in COMPRESSIBLE:
        return str(tensor.dtype).removeprefix("torch.")
    if tensor.numel() == 0:
        return "empty"
    return "0-d" if tensor.ndim == 0 else None


def _owner_classes(tensors: Tensors, names: Iterable[str]) -> tuple[str, ...]:
    if not isinstance(tensors, nn.Module):
        return ()
    owners = (tensors.get_submodule(name.rpartition(".")[0]) for name in names)
    return tuple(type(owner).__name__ for owner in owners)


def check_pattern(pattern: object) -> None:
    """PlanError unless it is a text that can stand as a pattern."""
    if not isinstance(pattern, str) or not pattern:
        raise PlanError(must("a pattern", "a text that is not empty", pattern, "quote it"))
    _matcher(pattern)


def _matcher(pattern: str) -> Callable[[str], object]:
    if not pattern.startswith("re:"):
        return lambda name: fnmatch.fnmatchcase(name, pattern)
    try:
        return re.compile(pattern.removeprefix("re:")).fullmatch
    except (re.error, RecursionError, OverflowError) as error:
        raise PlanError(f"pattern {pattern!r} must be a regular expression after 're:': {error}") from error
