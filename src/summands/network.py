"""A whole compressed network: a form for every tensor of a model's state, leftovers included."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from .domain import identity
from .errors import ArgumentError, MismatchError, TrainingError, must
from .forms import Dense, Form

Model = TypeVar("Model", bound=nn.Module)

Network = dict[str, Form]
"""Form by name, in the order of the model's state; a tied tensor stands under its first name alone."""


def state_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Every tensor of the model's state by name, a tied one under its first name alone."""
    first: dict[object, str] = {}
    tensors = _state(model)
    return {name: t.detach() for name, t in tensors.items() if first.setdefault(identity(t), name) == name}


def copied(model: Model) -> Model:
    """A copy of the model in which tensors that are tied by their memory alone (`a.data = b.data`) are one object."""
    own = copy.deepcopy(model)
    first: dict[object, str] = {}
    copies = _state(own)
    for name, t in _state(model).items():
        tied = first.setdefault(identity(t), name)
        if copies[name] is not copies[tied]:
            owner, _, attribute = name.rpartition(".")
            module = own.get_submodule(owner)
            kind = module._parameters if attribute in module._parameters else module._buffers
            kind[attribute] = copies[tied]  # type: ignore[assignment]
    return own


def _state(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of the model's state. ArgumentError where others are packed in what is none."""
    state = model.state_dict(keep_vars=True)
    for name, value in state.items():
        parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, (tuple, list)) else ()
        if any(isinstance(part, Tensor) for part in parts):
            remedy = "compress the network before it is quantised or packed"
            raise ArgumentError(must(f"the model's state {name!r}", "a tensor", type(value).__name__, remedy))
    return {name: t for name, t in state.items() if isinstance(t, Tensor)}


def snapshot(model: nn.Module, forms: Mapping[str, Form]) -> Network:
    """The network as it stands: the given forms, and all that is left of the model as copies."""
    return {
        name: forms[name] if name in forms else Dense(shape=t.shape, dtype=t.dtype, values=t.clone())
        for name, t in state_tensors(model).items()
    }


def load_into(model: nn.Module, network: Mapping[str, Form]) -> None:
    """Writes every dense weight into the model; MismatchError, and no change, unless all names and shapes fit.

    A tied tensor may stand in the network under any one of its names, as some checkpoints have it.
    """
    state = _under_names_of(model, network)
    missing, unexpected = state.keys() - network.keys(), network.keys() - state.keys()
    if missing or unexpected:
        raise MismatchError(
            "the model and the file must have the same tensors; "
            f"missing in the file: {few(missing)}; not in the model: {few(unexpected)} (tied weights stand under one "
            "name alone: they must be tied in both, or in neither)"
        )
    if without := {name for name, t in state.items() if t.device.type == "meta" and t.numel()}:
        raise MismatchError(
            f"the model has no memory for {few(without)}, on the meta device; call to_empty(device=...)"
        )
    for name, t in state.items():
        if t.shape != network[name].shape:
            raise MismatchError(
                must(f"the shape of {name!r} in the file", f"the model's {tuple(t.shape)}", tuple(network[name].shape))
            )
    with torch.no_grad():
        for name, t in state.items():
            t.copy_(network[name].dense())


def _under_names_of(model: nn.Module, network: Mapping[str, Form]) -> dict[str, Tensor]:
    """`state_tensors`, a tied one under the first of its names that the network has, if it has one."""
    names: dict[object, list[str]] = {}
    tensors = _state(model)
    for name, t in tensors.items():
        names.setdefault(identity(t), []).append(name)
    known = [next((name for name in own if name in network), own[0]) for own in names.values()]
    return {name: tensors[name].detach() for name in known}


def check_batches(inputs: Iterable[Any]) -> None:
    """ArgumentError for what is no iterable, or one tensor, whose entries would be taken for batches."""
    if isinstance(inputs, Tensor):
        raise ArgumentError(must("inputs", "a list of batches", f"a tensor of {tuple(inputs.shape)}", "pass [tensor]"))
    if not isinstance(inputs, Iterable):
        raise ArgumentError(must("inputs", "a list of batches or a DataLoader", inputs))


@contextmanager
def applied(model: nn.Module, forms: Mapping[str, Form]) -> Iterator[None]:
    """The model with compressed weights for as long as the context lasts; then everything, buffers too, as it was."""
    state = state_tensors(model)
    buffers = {name: buffer for name, buffer in model.named_buffers() if name in state}
    kept = {name: t.clone() for name, t in state.items() if name in forms or name in buffers}
    with torch.no_grad():
        for name, form in forms.items():
            state[name].copy_(form.dense())
    try:
        yield
    finally:
        for name, buffer in buffers.items():  # which a forward may have exchanged
            owner, _, attribute = name.rpartition(".")
            model.get_submodule(owner)._buffers[attribute] = buffer
        now = state_tensors(model)
        moved = {name for name in kept if name not in now or not _is_like(now[name], kept[name])}
        with torch.no_grad():
            for name in kept.keys() - moved:
                now[name].copy_(kept[name])
    if moved:
        raise TrainingError(
            f"{few(moved)} became other tensors while the compressed weights were in the model; let `evaluate` convert "
            "a copy of the model, not the model itself"
        )


def _is_like(one: Tensor, other: Tensor) -> bool:
    return (one.shape, one.dtype, one.device) == (other.shape, other.dtype, other.device)


def feed(model: nn.Module, batch: Any) -> Any:
    """The model's output for one batch: its only argument, a tuple of positional ones, or a mapping of named ones."""
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(*batch) if isinstance(batch, (tuple, list)) else model(batch)


def few(names: set[str]) -> str:
    """Some of the names, and how many more there are."""
    shown = sorted(names)[:5]
    return ", ".join(map(repr, shown)) + (f" and {len(names) - 5} more" if len(names) > 5 else "") if names else "none"
