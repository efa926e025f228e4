"""A checkpoint compressed for calibration inputs: the network runs from its shards, what is compressed from files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from . import container
from .errors import ArgumentError, BudgetError, MismatchError, must
from .forms import Form, relative_error
from .lc import Calibration, InRuns, LayerFits, Offload, PostTraining, halve_statistics
from .network import copied, few
from .plan import Task
from .records import LayerRecord
from .selection import is_free
from .shards import Shards, write_safetensors

MOMENTS_BYTES = 1 << 30
"""What the moments of a run of layers may take where `memory_bytes` does not say."""


class Offloaded:
    """A network in a checkpoint and, as far as it is compressed, in a folder.

    Args:
        shards: the checkpoint.
        model: the network, built on the meta device; not changed.
        folder: for the forms, and for the values that the compressed prefix runs on.

    Attributes:
        declared: every tensor of the network on the meta device, a tied one under its first name.
        relative_errors: of what is compressed so far.

    Raises:
        ArgumentError: the model is not on the meta device. MismatchError: it does not have the checkpoint's tensors.
    """

    def __init__(self, shards: Shards, model: nn.Module, folder: Path) -> None:
        self.relative_errors: dict[str, float] = {}
        self._shards = shards
        self._folder = folder
        self._places = _places(shards, model)
        self.declared = {name: shards.declared[place] for name, place in self._places.items()}
        self._forms: dict[str, Path] = {}
        self._values: dict[str, Shards] = {}
        self._offload = Offload()
        self._original, self._current = (copied(model).eval() for _ in range(2))
        self._offload.take(self._original.requires_grad_(True), self.tensor)
        self._offload.take(self._current, self._current_tensor)

    def tensor(self, name: str) -> Tensor:
        """One tensor as it came."""
        return self._shards.tensor(self._places[name])

    def compress(
        self,
        tasks: Iterable[Task],
        calibration: Iterable[Any],
        options: PostTraining,
        seed: int,
        report: Callable[[LayerRecord], None],
    ) -> list[LayerRecord]:
        """Compresses run after run of layers, and returns a record of every weight."""
        tasks = tuple(tasks)
        _check(tasks, options)
        halve_statistics(self._current)
        data = Calibration(self._original, calibration, at_hand=self._offload)
        data.check()
        fits = LayerFits.measured(data, tasks, self.tensor, options, seed)
        matrices = [name for name in fits.sizes if self.declared[name].ndim > 1]
        return InRuns(
            fits=fits,
            data=data,
            current=self._current,
            put=self._put,
            memory_bytes=options.memory_bytes or MOMENTS_BYTES,
            report=report,
        ).run(matrices)

    def forms(self, name: str) -> Mapping[str, Form]:
        """The form of a compressed weight, and those of all that it was fitted with."""
        return container.read(self._forms[name]).forms

    def kept(self, name: str) -> Tensor:
        """A tensor that no rule matches, as what is compressed left it."""
        return self._current.state_dict()[name] if self.declared[name].ndim < 2 else self.tensor(name)

    def _put(self, forms: Mapping[str, Form]) -> None:
        place = self._folder / f"{len(self._forms)}.sums"
        container.write(place, forms)
        self._forms |= dict.fromkeys(forms, place)
        self.relative_errors |= {name: relative_error(self.tensor(name), form) for name, form in forms.items()}
        state = self._current.state_dict()
        for name in [name for name, form in forms.items() if len(form.shape) < 2]:
            state[name].copy_(forms[name].dense())
        if matrices := {name: form.dense() for name, form in forms.items() if len(form.shape) > 1}:
            values = place.with_suffix(".safetensors")
            write_safetensors(matrices, values)
            self._values |= dict.fromkeys(matrices, Shards(values))

    def _current_tensor(self, name: str) -> Tensor:
        return self._values[name].tensor(name) if name in self._values else self.tensor(name)


def _places(shards: Shards, model: nn.Module) -> dict[str, str]:
    """Of every tensor of the model, by its first name, the name that it has in the checkpoint."""
    if not isinstance(model, nn.Module):
        raise ArgumentError(must("model", "a module on the meta device", type(model).__name__))
    state = model.state_dict(keep_vars=True)
    for name, tensor in state.items():
        if not tensor.is_meta:
            remedy = 'build it under `with torch.device("meta"):`, for its values are those of the checkpoint'
            raise ArgumentError(must("model", "on the meta device", f"{name!r} on {tensor.device}", remedy))
    for name, buffer in model.named_buffers():
        if buffer.is_meta and name not in state:
            allowed, remedy = "given its values: no checkpoint has them", "assign it once the model is built"
            raise ArgumentError(must(f"the buffer {name!r}", allowed, "a tensor on the meta device", remedy))
    aliases: dict[int, list[str]] = {}
    for name, tensor in state.items():
        aliases.setdefault(id(tensor), []).append(name)
    found = {names[0]: next((n for n in names if n in shards.declared), None) for names in aliases.values()}
    missing, unexpected = {name for name in found if found[name] is None}, shards.declared.keys() - state.keys()
    if missing or unexpected:
        raise MismatchError(
            "the model and the checkpoint must have the same tensors; "
            f"missing in the checkpoint: {few(missing)}; not in the model: {few(unexpected)}"
        )
    places = {name: place for name, place in found.items() if place is not None}
    for name, place in places.items():
        own, theirs = state[name], shards.declared[place]
        if (own.shape, own.dtype) != (theirs.shape, theirs.dtype):
            wanted, got = (f"{tuple(t.shape)} of {t.dtype}" for t in (theirs, own))
            remedy = f"model.to({theirs.dtype})" if own.shape == theirs.shape else ""
            raise MismatchError(must(f"the model's {name!r}", f"the checkpoint's {wanted}", got, remedy))
    return places


def _check(tasks: Iterable[Task], options: PostTraining) -> None:
    if is_free(tuple(tasks)):
        remedy = "fix it, or give the network in memory and a budget to `compress`"
        raise BudgetError(must("the plan of a network in shards", 'without "auto"', "something to choose", remedy))
    if options.tune:
        allowed = "0 for a network in shards, whose gradient steps would need all of it"
        raise ArgumentError(must("PostTraining(tune=...)", allowed, options.tune))
    if options.by_column:
        allowed = "False for a network in shards: it holds the gradients' moments of all layers"
        raise ArgumentError(must("PostTraining(by_column=...)", allowed, True))
