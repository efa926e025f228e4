"""Plain-text tables from records."""

from __future__ import annotations

import io
from collections.abc import Collection, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..records import (
    DeclaredRecord,
    FitRecord,
    LayerRecord,
    LimitRecord,
    RateRecord,
    RunRecord,
    SearchRecord,
    StepRecord,
    Verdict,
    WeightRecord,
)


def render(table: Table, width: int = 140) -> str:
    """The table as plain text."""
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def result_table(
    rows: Sequence[WeightRecord],
    size_bytes: int,
    reference_bytes: int,
    verdict: Verdict,
    kept: StepRecord | None = None,
) -> str:
    """A row a tensor, then the file: its bytes, its ratio, the error of the iterate that it is, and the verdict."""
    table = Table("weight", "shape", "compression", "parts, bits/weight", box=None, pad_edge=False)
    for heading in ("bits/weight", "rel. change"):
        table.add_column(heading, justify="right")
    for row in rows:
        parts = ", ".join(f"{kind} {bits / row.size if row.size else 0:.3f}" for kind, bits in row.parts)
        error = "" if row.relative_error is None else f"{row.relative_error:.4f}"
        _add(table, row.name, _shape(row.shape), row.rule, parts, f"{row.bits_per_weight:.3f}", error)
    error = "" if kept is None or kept.error is None else f"  error={kept.error:.6g} ({kept.phase} {kept.index})"
    return f"{render(table)}\n\n{size_line(size_bytes, reference_bytes)}{error}\n{verdict.value}"


def declared_table(rows: Sequence[DeclaredRecord]) -> str:
    """A row a tensor of a file's header."""
    table = Table("weight", "shape", "dtype", "form", box=None, pad_edge=False)
    table.add_column("dense bytes", justify="right")
    for row in rows:
        _add(table, row.name, _shape(row.shape), row.dtype, row.kind, f"{row.dense_bytes:,}")
    return render(table)


def limits_table(rows: Sequence[LimitRecord]) -> str:
    """A row a tensor: measured bits a weight beside the least that independent entries need at this error."""
    table = Table("weight", "shape", "form", box=None, pad_edge=False)
    for heading in ("rel. change", "bits/weight", "limit R(D)", "Shannon", "Laplace"):
        table.add_column(heading, justify="right")
    for row in rows:
        rates = (row.bits_per_weight, row.rate_distortion, row.shannon, row.laplace)
        change = f"{row.relative_error:.5f}"
        _add(table, row.name, _shape(row.shape), row.kind, change, *(f"{rate:.3f}" for rate in rates))
    return render(table)


def fit_table(rows: Sequence[FitRecord]) -> str:
    """A row a weight: how Laplacian it is."""
    table = Table("weight", box=None, pad_edge=False)
    for heading in ("entries", "mean magnitude", "kurtosis (Laplace 6)", "distance to the fit"):
        table.add_column(heading, justify="right")
    for row in rows:
        _add(table, row.name, f"{row.size:,}", f"{row.mean:.4g}", f"{row.kurtosis:.2f}", f"{row.distance:.3f}")
    return render(table)


def rates_table(rows: Sequence[RateRecord]) -> str:
    """A row a weight and distortion: bits a weight, in theory and as coded."""
    table = Table("weight", box=None, pad_edge=False)
    for heading in ("L1 error", "Laplace R(D)", "histogram R(D)", "embedded", "SuRP, paper", "SuRP, authors"):
        table.add_column(heading, justify="right")
    last = ""
    for row in rows:
        rates = (row.laplace, row.histogram, row.embedded, row.paper, row.authors)
        name, last = ("" if row.name == last else row.name), row.name
        _add(table, name, f"{row.distortion:g}", *(f"{rate:.4g}" for rate in rates))
    return render(table)


def trials_table(rows: Sequence[tuple[str, str, str, int]]) -> str:
    """The runs that a search will make: (id, combination, budget, most bytes) each."""
    table = Table("combination", "budget", box=None, pad_edge=False)
    table.add_column("most bytes", justify="right")
    table.add_column("folder")
    for name, combination, budget, limit in rows:
        _add(table, combination, budget, f"{limit:,}", name)
    return f"{render(table)}\n\n{len(rows)} runs"


def runs_table(search: SearchRecord, runs: Sequence[RunRecord], best: Collection[str]) -> str:
    """A row a run; `*` marks those in `best`, the front. What failed or was stopped says why."""
    table = Table("", "combination", "budget", box=None, pad_edge=False)
    for heading in ("error", "file bytes", "ratio", "seconds"):
        table.add_column(heading, justify="right")
    table.add_column("outcome")
    for run in runs:
        size = run.size_bytes
        _add(
            table,
            "*" if run.id in best else "",
            run.combination,
            run.budget,
            "" if run.error is None else f"{run.error:.4g}",
            "" if size is None else f"{size:,}",
            "" if size is None else f"{search.reference_bytes / size:.1f}x",
            f"{run.seconds:.0f}",
            outcome(run),
        )
    error = "" if search.reference_error is None else f", error {search.reference_error:.4g}"
    return f"{render(table, 200)}\n\nreference: {search.reference_bytes:,} bytes{error}; * on the front"


def outcome(run: RunRecord) -> str:
    """How a run ended, in a few words."""
    if run.status == "finished":
        return run.message.lower().replace("_", " ")
    return f"{run.status}: {run.message}" if run.message else "not finished"


def size_line(size_bytes: int, reference_bytes: int) -> str:
    """`file_bytes=42,160  ratio=25.3x  (of 1,066,440 bytes)`"""
    return f"file_bytes={size_bytes:,}  ratio={reference_bytes / size_bytes:.1f}x  (of {reference_bytes:,} bytes)"


def step_line(row: StepRecord) -> str:
    """One step of the loop on one line."""
    loss = "" if row.loss is None else f"  loss {row.loss:.4f}"
    error = "" if row.error is None else f"  error {row.error:.4f}"
    mu = f"  mu {row.mu:.2e}" if row.mu else ""
    return f"{row.phase:>8} {row.index:3d}{mu}{loss}  gap {row.gap:.4f}{error}  bytes {row.size_bytes:,}"


def layer_line(row: LayerRecord) -> str:
    """One weight of post-training on one line."""
    error = "" if row.relative_error is None else f"  output error {row.relative_error:.5f}"
    note = f"  ({row.note})" if row.note else ""
    return f"{printable(row.name)}  {row.bits_per_weight:.2f} bits/weight{error}  distance {row.distance:.2e}{note}"


def _add(table: Table, *cells: str) -> None:
    """A row of cells as they are, since names may look like markup; what a terminal would obey is shown escaped."""
    table.add_row(*(Text(printable(cell)) for cell in cells))


def printable(text: str) -> str:
    r"""The text with control characters written as escapes.

    >>> printable("a\x1b[31m")
    'a\\x1b[31m'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _shape(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape)) or "scalar"
