"""What a compression returns: the network as forms, how it came about, and the file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from . import container
from .forms import Dense, Form, paper_bits
from .modules import with_modules
from .network import copied, load_into
from .records import LayerRecord, StepRecord, Verdict, WeightRecord
from .report.tables import result_table
from .runs import Run, recorded_runs


@dataclass(frozen=True)
class Result:
    """A compressed network.

    Attributes:
        forms: a form for every tensor of the network, leftovers and buffers included, in the network's order.
        rules: for every tensor the text of its compression, or "kept".
        history: one record a step.
        verdict: how it ended, with a sentence of remedy.
        reference_bytes: bytes of the tensors that came in, in their own dtypes.
        relative_errors: ||w - Delta||^2 / ||w||^2 for every compressed weight.
        metadata: plan, schedule, seed and versions; written on request.
        layers: after post-training, a record of every compressed weight, with a note where something was in the way.
    """

    forms: Mapping[str, Form]
    rules: Mapping[str, str]
    history: tuple[StepRecord, ...]
    verdict: Verdict
    reference_bytes: int
    relative_errors: Mapping[str, float]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    layers: tuple[LayerRecord, ...] = ()

    def save(self, path: str | Path, *, metadata: bool = False, layers: int = 1) -> int:
        """Writes the file, whole or not at all; returns its length in bytes.

        Args:
            metadata: also write plan, schedule, seed and versions (some hundred bytes).
            layers: with more than one, a prefix of the file is a coarser network (`load_prefix`); costs some bytes.
        """
        kept = self.metadata if metadata else None
        return container.write(Path(path), self.forms, metadata=kept, layers=layers).size_bytes

    @cached_property
    def written(self) -> container.Written:
        """What the file would be, measured by encoding it."""
        return container.measure(self.forms)

    @property
    def size_bytes(self) -> int:
        """Length of the file without metadata, measured by encoding."""
        return self.written.size_bytes

    @property
    def ratio(self) -> float:
        """`reference_bytes` / `size_bytes`."""
        return self.reference_bytes / self.size_bytes

    @property
    def paper_ratio(self) -> float:
        """32-bit bytes of the network over its bytes by the accounting of the LC papers (no entropy coding)."""
        bits = paper_bits(self.forms.values())
        return 32 * sum(form.size for form in self.forms.values()) / bits if bits else math.inf

    @property
    def error(self) -> float | None:
        """What `evaluate` returned for this network; None without it, and where no iterate fitted the budget."""
        return None if self.kept is None else self.kept.error

    @property
    def kept(self) -> StepRecord | None:
        """The row of the history that this network is; None where no iterate fitted the budget."""
        return next((row for row in reversed(self.history) if row.best), None)

    def tensors(self) -> dict[str, Tensor]:
        """Every dense tensor by name."""
        return {name: form.dense() for name, form in self.forms.items()}

    def apply_(self, model: nn.Module) -> nn.Module:
        """Writes the compressed weights into a model of the same shapes and returns it."""
        load_into(model, self.forms)
        return model

    def to_modules(self, model: nn.Module, inputs: Iterable[Any] = ()) -> nn.Module:
        """A copy of `model` that computes with the compressed weights, its low-rank layers in factors where that pays.

        It pays where the factors take fewer multiply-adds than the dense layer; all else runs dense. The outputs are
        those of the dense weights within float tolerance. Tied weights stay tied, buffers and leftovers are the
        result's.

        Args:
            model: of the network's architecture; not changed. A module that reads the weight of a layer below it, and
                not its output, finds none where the layer runs in factors: such models need their dense weights
                (`apply_`).
            inputs: batches of the model's input, of which the first is run, to count multiply-adds at the true sizes of
                the feature maps; without any a convolution's output is taken to be as large as its input.

        >>> import torch, summands as sm
        >>> model = torch.nn.Sequential(torch.nn.Linear(40, 30), torch.nn.ReLU(), torch.nn.Linear(30, 4))
        >>> result = sm.compress(model, sm.Plan({"*.weight": "LowRank(2)"}, ignore=["*.bias"]))
        >>> factored, x = result.to_modules(model), torch.ones(1, 40)
        >>> [type(layer).__name__ for layer in factored], bool(torch.allclose(factored(x), result.apply_(model)(x)))
        (['Sequential', 'ReLU', 'Sequential'], True)
        """
        own = self.apply_(copied(model))
        runs = recorded_runs(own, inputs) if inputs != () else {}

        def pays(name: str, form: Form, weight: Tensor) -> bool:
            run = runs.get(name)
            if run is None:
                one = (1,) * (weight.ndim - 2)
                run = Run(one, one)
            return run.flops(form) < run.flops(Dense(shape=weight.shape, dtype=weight.dtype, values=weight))

        return with_modules(own, self.forms, pays)

    def rows(self) -> list[WeightRecord]:
        """One plain record a tensor, as the tables and plots read them."""
        return [
            WeightRecord(
                name=name,
                shape=tuple(form.shape),
                rule=self.rules[name],
                parts=tuple(
                    (type(part).__name__.lower(), bits)
                    for part, bits in zip(form.parts(), self.written.part_bits[name], strict=True)
                ),
                relative_error=self.relative_errors.get(name),
                facts=tuple(part.facts() for part in form.parts()),
            )
            for name, form in self.forms.items()
        ]

    def __str__(self) -> str:
        notes = [f"{layer.name}: {layer.note}" for layer in self.layers if layer.note]
        table = result_table(self.rows(), self.size_bytes, self.reference_bytes, self.verdict, self.kept)
        return "\n".join([table, *notes])
