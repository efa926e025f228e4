"""A checkpoint from file to file, directly or for calibration inputs: few weights in memory at a time."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from . import container
from .coding import shared_tensors
from .errors import ArgumentError, FileError, must
from .forms import Dense, Form, paper_bits, relative_error
from .lc import PostTraining, verdict_of
from .lc.passes import c_step
from .offloaded import Offloaded
from .plan import LEAST_MATRIX, Plan, Task, default_plan
from .recipe import versions
from .records import LayerRecord, StepRecord, Verdict, WeightRecord
from .report.tables import result_table
from .shards import Shards


@dataclass(frozen=True)
class Streamed:
    """What `compress_file` wrote: what a `Result` says of itself, without the forms.

    Attributes:
        weights: one record a tensor.
        size_bytes: of the file, without its metadata.
        reference_bytes: of the tensors that came in, in their own dtypes.
        paper_bytes: by the accounting of the LC papers.
        layers: after calibration, a record of every compressed weight, with a note where something was in the way.
    """

    weights: tuple[WeightRecord, ...]
    size_bytes: int
    reference_bytes: int
    paper_bytes: float
    verdict: Verdict = Verdict.DIRECT
    error: float | None = None
    history: tuple[StepRecord, ...] = ()
    layers: tuple[LayerRecord, ...] = ()

    @property
    def ratio(self) -> float:
        """`reference_bytes` / `size_bytes`."""
        return self.reference_bytes / self.size_bytes

    @property
    def paper_ratio(self) -> float:
        """32-bit bytes of the network over `paper_bytes`."""
        return 4 * sum(row.size for row in self.weights) / self.paper_bytes if self.paper_bytes else math.inf

    def rows(self) -> list[WeightRecord]:
        """One plain record a tensor, as the tables read them."""
        return list(self.weights)

    def __str__(self) -> str:
        notes = [f"{layer.name}: {layer.note}" for layer in self.layers if layer.note]
        return "\n".join([result_table(self.rows(), self.size_bytes, self.reference_bytes, self.verdict), *notes])


def compress_file(
    source: str | Path,
    output: str | Path,
    plan: Plan | None = None,
    *,
    model: nn.Module | None = None,
    calibration: Iterable[Any] | None = None,
    posttraining: PostTraining | None = None,
    seed: int = 0,
    report: Callable[[LayerRecord], None] = lambda row: None,
    metadata: bool = False,
) -> Streamed:
    """Compresses a checkpoint into a file, directly weight by weight, or layer by layer for some of its inputs.

    The memory of direct compression is that of the largest weight and what its compression works with, however many
    there are. Only a task that is fitted together (`per="task"`) is read together. A budget needs the whole network
    several times over: `compress` takes one.

    With `calibration` the network runs from the checkpoint, and later layers see the compressed ones before them. In
    memory are the largest matrix, or all that one operation works with; the vectors of the original and of the
    compressed network; one batch's activations; the moments of a run of layers; and what the compression of one weight
    works with. The result is that of `compress` with the same `posttraining.memory_bytes`, to the bit. The network as
    it will be decoded lies in a temporary folder beside `output` meanwhile. docs/posttraining.md says what it reads.

    Args:
        source: a .safetensors file, an index of shards, or a folder of them (shards.py).
        output: where to write; replaced whole, or not at all.
        plan: which weights get what, without "auto" where `calibration` is given; without one `default_plan`.
        model: with `calibration` the network, built under `with torch.device("meta"):`; not changed.
        calibration: batches of the model's input, as for `compress`.
        posttraining: how they are used; `memory_bytes` is 1 GiB unless it says otherwise.
        seed: all randomness derives from it.
        report: called with a record of every layer.
        metadata: also write plan and versions.

    Raises:
        FileError, PlanError, WeightError, CalibrationError: as `compress`; then nothing is written.
        MismatchError: the model does not have the tensors of the checkpoint. BudgetError: the plan leaves something
            "auto" with `calibration`.

    >>> import torch, summands as sm
    >>> from safetensors.torch import save_file
    >>> folder = Path(tempfile.mkdtemp())
    >>> save_file(torch.nn.Linear(20, 10).state_dict(), folder / "model.safetensors")
    >>> with torch.device("meta"):
    ...     model = torch.nn.Linear(20, 10)
    >>> plan, batches = sm.Plan({"weight": "Quantize(2)"}, ignore=["bias"]), [torch.randn(64, 20)]
    >>> sm.compress_file(folder, folder / "model.sums", plan, model=model, calibration=batches).verdict.name
    'CALIBRATED'
    """
    shards = Shards(source)
    if calibration is None:
        for name, given in (("model", model), ("posttraining", posttraining)):
            if given is not None:
                raise ArgumentError(must("calibration", f"given when `{name}` is", None, "pass batches of inputs"))
        plan = plan or plan_of(shards)
        direct = _Direct(shards, plan.match(shards.declared).tasks)
        return _written(direct, shards, output, plan, {} if metadata else None)
    if model is None:
        remedy = 'pass the network, built under `with torch.device("meta"):`'
        raise ArgumentError(must("model", "given when `calibration` is", None, remedy))
    options = posttraining or PostTraining()
    with _folder_beside(Path(output)) as folder:
        network = Offloaded(shards, model, folder)
        plan = plan or plan_of(shards, model)
        tasks = plan.match(model).tasks
        layers = network.compress(tasks, calibration, options, seed, report)
        facts = {"posttraining": options.to_dict(), "seed": seed} if metadata else None
        return _written(_Calibrated(network, tasks, tuple(layers)), shards, output, plan, facts)


def plan_of(shards: Shards, model: nn.Module | None = None, *, free: bool = False) -> Plan:
    """`default_plan` of a checkpoint: reads the vectors and small tensors, whose values it asks for.

    With a model, of its parameters alone, each under one of its names.
    """
    declared: Mapping[str, Tensor] = shards.declared
    if model is not None:
        known = {id(p): n for n, p in model.named_parameters(remove_duplicate=False) if n in declared}
        declared = {name: declared[name] for name in known.values()}
    matrices = {name for name, t in declared.items() if t.ndim >= 2 and t.numel() >= LEAST_MATRIX}
    known_values = {name: t if name in matrices else shards.tensor(name) for name, t in declared.items()}
    return default_plan(known_values, free=free)


@dataclass(frozen=True)
class _Projected:
    form: Form
    relative_error: float | None = None


class _Direct:
    """The forms of a checkpoint's tensors, each made when it is asked for."""

    verdict = Verdict.DIRECT
    layers: tuple[LayerRecord, ...] = ()

    def __init__(self, shards: Shards, tasks: Iterable[Task]) -> None:
        self._shards = shards
        self.names = tuple(shards.declared)
        self.tasks = {name: task for task in tasks for name in task.weights}

    def projected(self, name: str) -> dict[str, _Projected]:
        """The form of a tensor, and those of all that its compression fits with it."""
        task = self.tasks.get(name)
        if task is None:
            return {name: _dense(self._shards.tensor(name))}
        alone = replace(task, weights=next(piece for piece in task.pieces() if name in piece))
        weights = {each: self._shards.tensor(each) for each in alone.weights}
        forms = c_step([alone], weights)
        return {each: _Projected(form, relative_error(weights[each], form)) for each, form in forms.items()}


class _Calibrated:
    """The forms of a network that is compressed already."""

    def __init__(self, network: Offloaded, tasks: Iterable[Task], layers: tuple[LayerRecord, ...]) -> None:
        self._network = network
        self.names = tuple(network.declared)
        self.tasks = {name: task for task in tasks for name in task.weights}
        self.layers = layers
        self.verdict = verdict_of(layers)

    def projected(self, name: str) -> dict[str, _Projected]:
        """As `_Direct.projected`."""
        if name not in self.tasks:
            return {name: _dense(self._network.kept(name))}
        forms, errors = self._network.forms(name), self._network.relative_errors
        return {each: _Projected(form, errors[each]) for each, form in forms.items()}


def _dense(tensor: Tensor) -> _Projected:
    return _Projected(Dense(shape=tensor.shape, dtype=tensor.dtype, values=tensor))


def _written(
    made: _Direct | _Calibrated, shards: Shards, output: str | Path, plan: Plan, facts: Mapping[str, Any] | None
) -> Streamed:
    """Writes form after form, with `facts`, the plan, the verdict and versions for metadata unless they are None."""
    if facts is not None:
        facts = {"plan": plan.to_dict(), **facts, "verdict": made.verdict.name, "versions": versions()}
    records: list[WeightRecord] = []
    paper_bytes = 0.0
    ahead: dict[str, _Projected] = {}
    with container.Writer(output, metadata=facts) as writer:
        for name in made.names:
            if name not in ahead:
                ahead |= (found := made.projected(name))
                forms = [each.form for each in found.values()]
                paper_bytes += paper_bits(forms) / 8
                writer.share(shared_tensors(forms))
                del found, forms
            one = ahead.pop(name)
            writer.add(name, one.form)
            kinds = tuple((type(part).__name__.lower(), 0.0) for part in one.form.parts())
            rule = str(made.tasks[name].compression) if name in made.tasks else "kept"
            told = tuple(part.facts() for part in one.form.parts())
            records.append(WeightRecord(name, tuple(one.form.shape), rule, kinds, one.relative_error, told))
            del one  # before the next weight is read
    written = writer.written
    return Streamed(
        weights=tuple(_with_bits(record, written.part_bits[record.name]) for record in records),
        size_bytes=written.size_bytes - written.metadata_bytes,
        reference_bytes=shards.size_bytes,
        paper_bytes=paper_bytes,
        verdict=made.verdict,
        layers=made.layers,
    )


def _with_bits(record: WeightRecord, bits: Sequence[float]) -> WeightRecord:
    parts = tuple((kind, spent) for (kind, _), spent in zip(record.parts, bits, strict=True))
    return replace(record, parts=parts)


@contextmanager
def _folder_beside(output: Path) -> Iterator[Path]:
    """A folder for the time being, where the output will have room too."""
    if output.is_dir():
        raise FileError(f"{output} cannot be written: it is a folder")
    try:
        folder = tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent)
    except OSError as error:
        raise FileError(f"{output} cannot be written: {error.strerror or error}") from error
    with folder as place:
        yield Path(place)
