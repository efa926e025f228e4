"""The commands that look for a combination and draw what was found: `summands search`, `summands plot`."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from . import container
from .atomic import check_place, whole_file
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
from .errors import FileError
from .forms import Form
from .journal import read_runs
from .lc import Schedule
from .records import RunRecord, SearchRecord, StepRecord, Verdict, WeightRecord
from .report.html import page
from .report.progress import SearchProgress
from .report.tables import runs_table, trials_table
from .selection.search import Patience, chosen_combinations, default_budgets, front, trials
from .taskfile import load_task

TaskFileArgument = Annotated[Path, typer.Argument(help="A task file .py: model(), evaluate(model), train(...).")]


def search(
    task: TaskFileArgument,
    budget: Annotated[
        list[str] | None,
        typer.Option("--budget", "-b", help="Most bytes of a file: '20x', '40 kB', '1.5 bits'. Give it several times."),
    ] = None,
    combination: Annotated[
        list[str] | None,
        typer.Option("--combination", "-c", help="'Q+P', or your own: 'NAME=Quantize(2) + Prune(\"auto\")'."),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the runs.")] = Path("runs"),
    jobs: Annotated[int | None, typer.Option(min=1, help="Runs at a time, a thread each. [default: cores]")] = None,
    steps: Steps = None,
    mu0: Mu0 = None,
    growth: Growth = None,
    epochs: Epochs = None,
    finetune: Finetune = None,
    straight_through: StraightThrough = None,
    budget_start: BudgetStart = None,
    seed: Annotated[int, typer.Option(help="All randomness of every run derives from it.")] = 0,
    share: Annotated[float, typer.Option(help="Share of its steps that every run may take.")] = 0.5,
    margin: Annotated[float, typer.Option(help="How much worse than a smaller file a run may be.")] = 0.25,
    stop: Annotated[bool, typer.Option("--stop/--no-stop", help="Whether to stop runs that were overtaken.")] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the table of runs, and stop.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
    as_json: Json = False,
) -> None:
    """Find the combination that suits a network: `summands search task.py -b 20x -b 40x -o runs`

    Q is a learned codebook, P pruning, L low rank, and `+` their sum. Every combination is tried at every budget, which
    sets the number of values, of kept weights and of ranks in every layer by one price. Each run is a
    **Learning-Compression** of its own (without `train` in the task file: a direct compression) in its own process.

    Killed or interrupted, the same command **goes on**: finished runs stand in `runs/records.jsonl`, others go on from
    their last step. A run that fails is recorded, does not touch the others, and is tried again by the next call.

    A run is **stopped early** when, after `--share` of its steps, it no longer improves and a finished file that is not
    larger has an error lower by more than `--margin`; the table says so, and `--no-stop` lets it go on.

    The table marks the **front** with `*`: the files that no other beats in bytes and in error at once. Errors are
    those of your `evaluate`, so give it validation data. `summands plot runs` draws it all; docs/searching.md explains
    the pictures.
    """
    user = load_task(task)
    network = user.network()
    schedule = given(
        steps=steps,
        mu0=mu0,
        growth=growth,
        epochs=epochs,
        finetune=finetune,
        straight_through=straight_through,
        budget_start=budget_start,
    )
    check_trains(user, task.name, schedule)
    from .runner import describe, options_of, run_search  # needs POSIX: file locks

    patience = Patience(share, margin) if stop else None
    options = options_of(user, replace(user.schedule or Schedule(), **schedule), seed)
    ignore = user.plan.ignore if user.plan else ()
    budgets = budget or default_budgets(network)
    wanted = trials(network, budgets, chosen_combinations(combination or ()), ignore=ignore, options=options)
    if dry_run:
        rows = [(t.id, t.combination, t.budget, t.limit) for t in wanted]
        typer.echo(json.dumps([asdict(t) for t in wanted], indent=2) if as_json else trials_table(rows))
        return
    with SearchProgress(len(wanted), quiet) as progress:
        runs = run_search(
            task,
            lambda: describe(user, task, network),
            wanted,
            output,
            jobs=jobs or os.cpu_count() or 1,
            patience=patience,
            progress=progress,
        )
    found, all_runs = read_runs(output)
    text = page(found, all_runs, {run.id for run in front(all_runs)})
    with whole_file(output / "report.html") as temporary:
        temporary.write_text(text, encoding="utf-8")
    best = {run.id for run in front(runs)}
    if as_json:
        typer.echo(json.dumps({"runs": [_plain(run, best) for run in runs]}, indent=2))
    else:
        typer.echo(runs_table(found, runs, best))
        typer.echo(f"\nwrote {output / 'records.jsonl'} and {output / 'report.html'}")


def plot(
    source: Annotated[
        Path, typer.Argument(help="A folder of `summands search`; a .sums file; or what `compress --json` printed.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The page to write.")] = Path("report.html"),
) -> None:
    """Draw a report: one HTML page that needs nothing else, no network and no script.

    Of a **search**: error against size with its front, and a table of the runs. Of every finished run: loss, gap, error
    and bytes along its way; the bytes of every layer by part; ranks, kept weights and codebooks; and the bits that each
    layer takes beside the least that its distortion allows (its rate-distortion limit).

    Of a **.sums file** all that the file itself tells: bytes and structure. Of a result in JSON also its history.
    """
    check_place(output, source)
    if source.is_dir():
        search, runs = read_runs(source)
    elif source.suffix == ".json":
        search, runs = _from_json(source)
    else:
        search, runs = _from_file(source)
    text = page(search, runs, {run.id for run in front(runs)})
    with whole_file(output) as temporary:
        temporary.write_text(text, encoding="utf-8")
    typer.echo(f"wrote {output}: {len(runs)} {'run' if len(runs) == 1 else 'runs'}")


def _from_file(path: Path) -> tuple[SearchRecord, list[RunRecord]]:
    forms = container.read(path).forms
    written = container.measure(forms)
    weights = tuple(_weight(name, form, written.part_bits[name]) for name, form in forms.items())
    size = path.stat().st_size
    run = RunRecord(path.name, path.stem, "", size, "finished", "", None, size, weights=weights)
    return SearchRecord(path.stem, "", sum(form.dense_bytes for form in forms.values()), None, {}), [run]


def _weight(name: str, form: Form, bits: tuple[float, ...]) -> WeightRecord:
    kinds = [type(part).__name__.lower() for part in form.parts()]
    facts = tuple(part.facts() for part in form.parts())
    return WeightRecord(name, tuple(form.shape), "", tuple(zip(kinds, bits, strict=True)), None, facts)


def _from_json(path: Path) -> tuple[SearchRecord, list[RunRecord]]:
    try:
        answer: dict[str, Any] = json.loads(path.read_text())
        history = tuple(StepRecord(**row) for row in answer["history"])
        weights = tuple(WeightRecord.from_row(row) for row in answer["weights"])
        size, reference = int(answer["size_bytes"]), int(answer["reference_bytes"])
        verdict, error = Verdict[answer["verdict"]].name, answer["error"]
    except OSError as failure:
        raise FileError(f"cannot read {path}: {failure.strerror}") from failure
    except (ValueError, KeyError, TypeError) as failure:
        raise FileError(f"{path} is not what `summands compress --json` prints: {failure!r}") from failure
    seconds = sum(row.learn_seconds + row.compress_seconds + row.measure_seconds for row in history)
    run = RunRecord(path.name, path.stem, "", size, "finished", verdict, error, size, seconds, 0, weights, history)
    return SearchRecord(path.stem, "", reference, None, {}), [run]


def _plain(run: RunRecord, best: set[str]) -> dict[str, Any]:
    hidden = ("weights", "history")
    return {**{k: v for k, v in asdict(run).items() if k not in hidden}, "on_front": run.id in best}
