"""The command line: the same functions as api.py, for files.

Standard output carries results alone (tables, or JSON with --json); progress and errors go to standard error.
A mistake of the user's is one line and exit code 2, and no output is left half-written.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from . import __version__
from .api import compress as compress_model
from .api import prune as prune_model
from .atomic import check_place
from .cli_files import MaxBytes, SumsFile, inspect, rates, verify
from .cli_options import (
    BudgetStart,
    Epochs,
    Finetune,
    Growth,
    Json,
    Mu0,
    Steps,
    StraightThrough,
    check_trains,
    given,
)
from .cli_search import plot, search
from .errors import ArgumentError, FileError, SummandsError, must
from .lc import Pruning, Schedule
from .lc.judge import error_of
from .loading import load
from .plan import Plan, default_plan
from .report.progress import StepProgress
from .report.tables import size_line
from .result import Result
from .shards import Shards, write_safetensors
from .streaming import Streamed, compress_file, plan_of
from .taskfile import TaskFile, load_task

app = typer.Typer(
    name="summands",
    help="Compress a trained network: every weight a sum of compressed parts, the whole in one small file.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

Output = Annotated[Path, typer.Option("--output", "-o", help="Where to write. Replaced whole, or not at all.")]


def main() -> None:
    """The program `summands`."""
    try:
        app()
    except SummandsError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
    except OSError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(f"summands {__version__}")
        raise typer.Exit


@app.command()
def compress(
    source: Annotated[Path, typer.Argument(help="A .safetensors checkpoint, its index or folder; or a task file .py.")],
    output: Output = Path("model.sums"),
    plan: Annotated[Path | None, typer.Option(help="YAML or JSON plan; without one, a default that is shown.")] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            help="Most bytes of the file: '60 kB', '20x', '2.5 bits'; or '10 MFLOPs' or '0.005 drop' of a task. "
            'Decides every "auto".'
        ),
    ] = None,
    steps: Steps = None,
    mu0: Mu0 = None,
    growth: Growth = None,
    epochs: Epochs = None,
    finetune: Finetune = None,
    straight_through: StraightThrough = None,
    budget_start: BudgetStart = None,
    seed: Annotated[int, typer.Option(help="All randomness derives from it.")] = 0,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Rewritten after every step. [default: OUTPUT.checkpoint, removed at the end]")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint if there is one.")] = False,
    metadata: Annotated[bool, typer.Option("--metadata", help="Write plan, schedule and versions too.")] = False,
    task_file: Annotated[
        Path | None,
        typer.Option(
            "--task", help="A task file .py with model() on the meta device and calibration, for a checkpoint."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what the plan matches, and stop.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
    as_json: Json = False,
) -> None:
    """Compress a network.

    A checkpoint is compressed **directly**: `summands compress model.safetensors --plan plan.yaml -o model.sums`,
    weight by weight; with a budget all of it is in memory.

    A task file is compressed by **Learning-Compression**. It defines `model()`, `train(model, penalty, step)` (your own
    loop, with `penalty()` added to the loss) and `evaluate(model)` (the error on validation data); and, if it likes,
    `inputs`, `plan`, `schedule`, `state()` and `load_state(value)`. See examples/task.py.

    A task file with `calibration` (batches of inputs) and without `train` is compressed by **post-training**: every
    layer for the inputs it meets. See docs/posttraining.md. For a checkpoint larger than memory let `model()` build the
    network under `with torch.device("meta"):` and give both: `summands compress shards/ --task task.py -o model.sums`.

    A plan: `weights: {"conv*": "Quantize(2) + Prune(keep=0.01)", "fc*": "LowRank(10)"}`  `ignore: ["*.bias"]`
    """
    is_task = source.suffix == ".py"
    task = load_task(source) if is_task else None
    beside = None if task_file is None else load_task(task_file)
    given_checkpoint = checkpoint or Path(f"{output}.checkpoint")
    if task is not None and task.train is not None and not resume and given_checkpoint.exists() and not dry_run:
        remedy = "add --resume to go on with it, or delete it"
        raise ArgumentError(
            must("the checkpoint", "a new file", f"{given_checkpoint}, of a run that has not ended", remedy)
        )
    if beside and (task or budget):
        got = str(source) if task else f"--budget {budget}"
        remedy = "a budget needs the whole network in memory: a task file alone, whose model() loads it"
        raise ArgumentError(must("the source for --task", "a checkpoint, without a budget", got, remedy))
    options = given(
        steps=steps,
        mu0=mu0,
        growth=growth,
        epochs=epochs,
        finetune=finetune,
        straight_through=straight_through,
        budget_start=budget_start,
    )
    check_trains(task, str(source), [*options, *["resume"] * resume, *given(checkpoint=checkpoint)])
    shards = Shards(source) if task is None else None
    network = beside.network() if beside else None
    tensors: torch.nn.Module | Mapping[str, Tensor] = task.network() if task else {}
    if shards is not None:
        tensors = shards.declared if network is None else network  # no values; they are read later
    told = task or beside
    own_plan = told.plan if told else None
    chosen = Plan.from_file(plan) if plan else own_plan
    if chosen is None:
        free = budget is not None
        chosen = plan_of(shards, network, free=free) if shards else default_plan(tensors, free=free)
    matched = chosen.match(tensors)
    if not plan and not own_plan:
        typer.echo("No plan was given; this is the default for this network:", err=True)
        typer.echo(chosen.to_yaml(), err=True)
    if dry_run:
        typer.echo(json.dumps(chosen.to_dict(), indent=2) if as_json else str(matched))
        return
    check_place(output, source, plan, task_file, *(shards.files if shards else ()))
    if shards and budget is None:
        streamed = _stream(source, output, chosen, beside, network, seed, metadata, quiet)
        _say(streamed, output, metadata, as_json)
        return
    tensors = shards.tensors() if shards else tensors  # a budget looks at all of them again and again
    own_checkpoint = Path(f"{output}.checkpoint")
    if task is not None and task.train is None and task.calibration is not None:
        result = _calibrate(task, chosen, budget, seed, quiet)
    elif task is None or task.train is None:
        known: dict[str, Any] = {n: getattr(task, n) for n in ("evaluate", "inputs", "importance")} if task else {}
        result = compress_model(tensors, chosen, budget=budget, **known)
    else:
        schedule = replace(task.schedule or Schedule(), **options)
        try:
            result = _learn(task, chosen, budget, schedule, seed, given_checkpoint, resume, quiet)
        except KeyboardInterrupt:
            if given_checkpoint.exists():
                typer.echo(f"interrupted; all whole steps are in {given_checkpoint}, --resume goes on", err=True)
            raise
    result.save(output, metadata=metadata)
    for path in [own_checkpoint, *own_checkpoint.parent.glob(f"{own_checkpoint.name}.[0-9]*")]:
        path.unlink(missing_ok=True)  # the file is written: only a checkpoint asked for is kept
    _say(result, output, metadata, as_json)


def _say(result: Result | Streamed, output: Path, metadata: bool, as_json: bool) -> None:
    size = output.stat().st_size
    if as_json:
        typer.echo(json.dumps({"output": str(output), "file_bytes": size, **summary(result)}, indent=2))
    else:
        typer.echo(str(result))
        typer.echo(f"wrote {output}: {size:,} bytes" + (" with metadata" if metadata else ""))


def _stream(
    source: Path,
    output: Path,
    plan: Plan,
    task: TaskFile | None,
    network: torch.nn.Module | None,
    seed: int,
    metadata: bool,
    quiet: bool,
) -> Streamed:
    if task is None or network is None:
        return compress_file(source, output, plan, metadata=metadata)
    with StepProgress(sum(len(rule.weights) for rule in plan.match(network).tasks), quiet) as progress:
        return compress_file(
            source,
            output,
            plan,
            model=network,
            calibration=task.calibration,
            posttraining=task.posttraining,
            seed=seed,
            report=progress,
            metadata=metadata,
        )


def _learn(
    task: TaskFile,
    plan: Plan,
    budget: str | None,
    schedule: Schedule,
    seed: int,
    checkpoint: Path,
    resume: bool,
    quiet: bool,
) -> Result:
    total = schedule.steps + -(-schedule.finetune // schedule.epochs)
    with StepProgress(total, quiet) as progress:
        return compress_model(
            task.network(),
            plan,
            budget=budget,
            train=task.train,
            evaluate=task.evaluate,
            inputs=task.inputs,
            importance=task.importance,
            schedule=schedule,
            seed=seed,
            checkpoint=checkpoint,
            resume=resume,
            state=task.state,
            load_state=task.load_state,
            report=progress,
        )


def _calibrate(task: TaskFile, plan: Plan, budget: str | None, seed: int, quiet: bool) -> Result:
    network = task.network()
    with StepProgress(sum(len(rule.weights) for rule in plan.match(network).tasks), quiet) as progress:
        return compress_model(
            network,
            plan,
            budget=budget,
            calibration=task.calibration,
            posttraining=task.posttraining,
            importance=task.importance,  # refused there
            evaluate=task.evaluate,
            seed=seed,
            report=progress,
        )


@app.command()
def prune(
    source: Annotated[Path, typer.Argument(help="A task file .py with train(...) and plan_at(sparsity).")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for a file of each level.")] = Path("pruned"),
    levels: Annotated[str | None, typer.Option(help="Shares of zeros, increasing: '0.8, 0.9, 0.95'.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs in each L step.")] = None,
    steps: Annotated[int | None, typer.Option(help="L steps at each level.")] = None,
    finetune: Annotated[int | None, typer.Option(help="Further L steps at the last level.")] = None,
    seed: Annotated[int, typer.Option(help="All randomness derives from it.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from OUTPUT/checkpoint if there is one.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
    as_json: Json = False,
) -> None:
    """Prune a network in levels, retraining what is left after each: `pruned/80.sums` for the share 0.8, and so on.

    The task file is that of `compress`; `plan_at(sparsity)` returns the plan for a share of zeros, such as
    `sm.Plan({"*": sm.PruneBy("lamp", keep=1 - sparsity)})`, and `pruning = sm.Pruning(...)` the levels. Without either
    levels, 20 % of what is left goes ten times.
    """
    task = load_task(source)
    if task.train is None or task.plan_at is None:
        raise ArgumentError(must(source.name, "a task file with train(...) and plan_at(sparsity)", "one without"))
    options = given(levels=_shares(levels), epochs=epochs, steps=steps, finetune=finetune)
    pruning = replace(task.pruning or Pruning.of_what_is_left(), **options)
    try:
        output.mkdir(exist_ok=True)
    except OSError as fault:
        raise FileError(f"cannot make the folder {output}: {fault.strerror}") from fault
    kept = output / "checkpoint"
    with StepProgress(pruning.steps * len(pruning.levels) + pruning.finetune, quiet) as progress:
        results = prune_model(
            task.network(),
            task.plan_at,
            pruning,
            train=task.train,
            evaluate=task.evaluate,
            inputs=task.inputs,
            seed=seed,
            checkpoint=kept,
            resume=resume,
            state=task.state,
            load_state=task.load_state,
            report=progress,
        )
    rows = []
    for level, result in zip(pruning.levels, results, strict=True):
        path = output / f"{100 * level:.12g}.sums"
        rows.append({"level": level, "output": str(path), "file_bytes": result.save(path), **summary(result)})
        if not as_json:
            error = "" if result.error is None else f"  error={result.error:.6g}"
            typer.echo(f"{path}{error}  {size_line(result.size_bytes, result.reference_bytes)}")
    for path in [*kept.glob("level-*.checkpoint"), *kept.glob(".level-*.checkpoint.*")]:
        path.unlink()
    with suppress(OSError):  # someone else's file is in it
        kept.rmdir()
    if as_json:
        typer.echo(json.dumps(rows, indent=2))


def _shares(text: str | None) -> tuple[float, ...] | None:
    try:
        return None if text is None else tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ArgumentError(must("--levels", "numbers with commas between them", text)) from None


@app.command()
def evaluate(
    file: SumsFile,
    task: Annotated[Path, typer.Argument(help="A task file .py with model() and evaluate(model).")],
    max_bytes: MaxBytes = None,
    as_json: Json = False,
) -> None:
    """Load a file into the task's model and print its error, beside that of the model as it comes."""
    user = load_task(task)
    if user.evaluate is None:
        raise ArgumentError(must(f"{task.name}", "a task file that defines evaluate(model)", "no such name"))
    model = user.network().eval()
    reference = error_of(user.evaluate, model, "reference")
    error = error_of(user.evaluate, load(file, into=model, max_bytes=max_bytes), "direct")
    if as_json:
        typer.echo(json.dumps({"file": str(file), "error": error, "reference_error": reference}, indent=2))
    else:
        typer.echo(f"error={error:.6g}  reference_error={reference:.6g}")


@app.command()
def decompress(
    file: SumsFile, output: Output = Path("dense.safetensors"), max_bytes: MaxBytes = None, as_json: Json = False
) -> None:
    """Write the dense weights as .safetensors."""
    check_place(output, file)
    tensors = load(file, max_bytes=max_bytes)
    write_safetensors(tensors, output)
    size = output.stat().st_size
    if as_json:
        typer.echo(json.dumps({"output": str(output), "tensors": len(tensors), "bytes": size}, indent=2))
    else:
        typer.echo(f"wrote {output}: {len(tensors)} tensors, {size:,} bytes")


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the file and the picture.")] = Path("demo"),
    data: Annotated[str, typer.Option(help="mnist, fashion-mnist or digits; digits if it cannot be had.")] = "mnist",
    seed: Annotated[int, typer.Option(help="All randomness derives from it.")] = 0,
    as_json: Json = False,
) -> None:
    """Train LeNet-300-100 on real images and compress it 27 times: 1 bit a weight plus 1 % floats."""
    from .demo import run_demo  # needs the extras `plot` and `data`

    outcome = run_demo(output, data, seed, say=lambda line: typer.echo(line, err=True))
    typer.echo(json.dumps(outcome.to_dict(), indent=2) if as_json else str(outcome))


app.command()(inspect)
app.command()(rates)
app.command()(verify)
app.command()(search)
app.command()(plot)


def summary(result: Result | Streamed) -> dict[str, Any]:
    """The result as plain values."""
    return {
        "size_bytes": result.size_bytes,
        "reference_bytes": result.reference_bytes,
        "ratio": result.ratio,
        "paper_ratio": result.paper_ratio,
        "error": result.error,
        "verdict": result.verdict.name,
        "remedy": result.verdict.value,
        "weights": [asdict(row) for row in result.rows()],
        "history": [row.row() for row in result.history],
    }
