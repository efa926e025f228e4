"""One file that holds a run: written whole after every step, or not at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ..atomic import whole_file
from ..container import read, to_bytes
from ..errors import CorruptFileError, MismatchError
from ..forms.form import raw_bytes
from ..network import state_tensors
from ..records import StepRecord
from .state import State

_VERSION = 3


@dataclass(frozen=True)
class Checkpoint:
    """Saves the state of a run to `path` and loads it; no pickle.

    Args:
        recipe: everything that decides the result (plan, schedule, seed, ...), in JSON; a checkpoint of another
            recipe is refused.
        origin: the tensors of the network that the run begins with; a checkpoint that began with others is refused.
        state, load_state: the user's own state: nested dictionaries and lists of tensors and plain values.
    """

    path: Path
    recipe: Mapping[str, Any]
    origin: Mapping[str, Tensor]
    state: Callable[[], Any] | None = None
    load_state: Callable[[Any], None] | None = None

    def save(self, model: nn.Module, state: State) -> None:
        """A process that is ended at any moment leaves a whole checkpoint."""
        tensors = {f"model.{name}": t for name, t in state_tensors(model).items()}
        tensors |= {f"multiplier.{name}": t for name, t in state.multipliers.items()}
        tensors |= {f"trainable.{i:04d}": t for i, t in enumerate(state.trainable or [])}
        tensors |= {"forms": _bytes(to_bytes(state.forms)), "best": _bytes(to_bytes(state.best))}
        plain = {
            "version": _VERSION,
            "recipe": self.recipe,
            "origin": self._digest,
            "phase": state.phase,
            "index": state.index,
            "price": state.price,
            "best_error": state.best_error,
            "history": [row.row() for row in state.history],
            "user": _flatten(self.state() if self.state else None, tensors),
        }
        tensors = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
        data = save(tensors, metadata={"summands": json.dumps(plain)})
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(self.path) as temporary:
            temporary.write_bytes(data)

    def load(self, model: nn.Module) -> State | None:
        """The saved state, its weights put into the model; None when there is no checkpoint yet."""
        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, "pt") as file:
                plain = json.loads(file.metadata()["summands"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise CorruptFileError(f"{self.path} is not a checkpoint of summands: {error}") from error
        self._check(plain)
        own = state_tensors(model)
        with torch.no_grad():
            for name, t in own.items():
                t.copy_(tensors[f"model.{name}"])
        device = next(iter(own.values())).device
        if self.load_state is not None and plain["user"] is not None:
            self.load_state(_unflatten(plain["user"], tensors))
        trainable = [tensors[name].to(device) for name in sorted(tensors) if name.startswith("trainable.")]
        return State(
            forms=_forms(tensors["forms"], device),
            multipliers={
                name.removeprefix("multiplier."): t.to(device)
                for name, t in tensors.items()
                if name.startswith("multiplier.")
            },
            best=_forms(tensors["best"], device),
            best_error=plain["best_error"],
            phase=plain["phase"],
            index=plain["index"],
            price=plain["price"],
            trainable=trainable or None,
            history=[StepRecord(**row) for row in plain["history"]],
        )

    def _check(self, plain: Mapping[str, Any]) -> None:
        if plain["version"] != _VERSION:
            raise MismatchError(f"{self.path} is a checkpoint of version {plain['version']}, not {_VERSION}")
        # Through JSON, so that tuples and lists compare alike.
        recipe = json.loads(json.dumps(self.recipe))
        changed = sorted(k for k in recipe.keys() | plain["recipe"].keys() if recipe.get(k) != plain["recipe"].get(k))
        if changed:
            raise MismatchError(
                f"{self.path} was made with another {', '.join(changed)}; use the same, or start without resume"
            )
        if plain["origin"] != self._digest:
            raise MismatchError(f"{self.path} began with another network; use the same, or start without resume")

    @cached_property
    def _digest(self) -> str:
        """Of names, shapes and every bit."""
        digest = hashlib.sha256()
        for name, t in self.origin.items():
            digest.update(f"{name} {t.dtype} {tuple(t.shape)};".encode())
            digest.update(raw_bytes(t.detach().cpu()).numpy().data)
        return digest.hexdigest()


def _bytes(data: bytes) -> Tensor:
    return torch.from_numpy(np.frombuffer(data, dtype=np.uint8).copy())


def _forms(data: Tensor, device: torch.device) -> dict[str, Any]:
    moved: dict[int, Tensor] = {}

    def move(tensor: Tensor) -> Tensor:
        return moved.setdefault(id(tensor), tensor.to(device))

    forms = read(data.numpy().tobytes()).forms
    return {name: form.map(move) for name, form in forms.items()}


def _flatten(value: Any, tensors: dict[str, Tensor]) -> Any:
    """The value as JSON, each tensor moved to `tensors` and named in its place."""
    if isinstance(value, Tensor):
        key = f"user.{sum(name.startswith('user.') for name in tensors)}"
        tensors[key] = value.clone()
        return {"tensor": key}
    if isinstance(value, Mapping):
        return {"pairs": [[_flatten(k, tensors), _flatten(v, tensors)] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        return {"tuple" if isinstance(value, tuple) else "list": [_flatten(v, tensors) for v in value]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise MismatchError(
        f"state() must return dictionaries, lists, tensors and plain values, got a {type(value).__name__}"
    )


def _unflatten(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "pairs":
        return {_unflatten(k, tensors): _unflatten(v, tensors) for k, v in content}
    items = [_unflatten(v, tensors) for v in content]
    return tuple(items) if kind == "tuple" else items
