"""The commands that look into files: what they hold, how near the limit, whether sound; what weights must cost."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from . import container
from .cli_options import Json
from .coding.limits import LEAST_LIMITED, limits_of
from .errors import MismatchError, must
from .forms import Form, relative_error
from .rates import laplace_fits, rate_table
from .records import DeclaredRecord, LimitRecord
from .report.plots import picture_kind, plot_rates
from .report.tables import declared_table, fit_table, limits_table, rates_table
from .shards import Shards

MaxBytes = Annotated[
    int | None, typer.Option(help="Refuse a file that declares more decoded bytes than this, before decoding.")
]
SumsFile = Annotated[Path, typer.Argument(help="A .sums file.", metavar="FILE.sums")]


def inspect(
    file: SumsFile,
    against: Annotated[
        Path | None,
        typer.Option(help="The dense checkpoint: decode, and show bits beside their limits."),
    ] = None,
    max_bytes: MaxBytes = None,
    as_json: Json = False,
) -> None:
    """Show what a file holds, from its header alone: nothing is decoded. With --against, how near it is to the limit.

    The limits are bits an entry that independent entries of these values need at this error: the rate-distortion
    function of their histogram, Shannon's lower bound to it, and that of a Laplace source of their variance.
    """
    header = container.read_header(file)
    rows = [_declared(name, header) for name in header.names]
    totals = {
        "file_bytes": header.file_bytes,
        "header_bytes": header.size_bytes,
        "metadata_bytes": header.metadata_bytes,
        "decoded_bytes": header.memory_bytes(),
        "dense_bytes": sum(row.dense_bytes for row in rows),
        "sections": sum(1 for _ in header.sections),
        "layers": len(header.layers),
        "version": header.version,
    }
    limits = [] if against is None else _limits(file, Shards(against), max_bytes)
    if as_json:
        found = {**totals, "weights": [asdict(row) for row in rows]}
        typer.echo(json.dumps(found if against is None else {**found, "limits": [asdict(r) for r in limits]}, indent=2))
    else:
        typer.echo(declared_table(rows) if against is None else limits_table(limits))
        typer.echo("\n" + "  ".join(f"{name}={value:,}" for name, value in totals.items()))


def _limits(file: Path, dense: Shards, max_bytes: int | None) -> list[LimitRecord]:
    """A record for every weight that is not exact; bits measured by encoding it again."""
    forms = container.read(file, max_bytes=max_bytes).forms
    _check_like(file, forms, dense)
    bits = container.measure(forms).part_bits
    found = []
    for name, form in forms.items():
        weight = dense.tensor(name)
        if form.size < LEAST_LIMITED or (error := relative_error(weight, form)) in (0, math.inf):
            continue
        limits = limits_of(weight, error * float(weight.double().square().mean()))
        kind = " + ".join(type(part).__name__ for part in form.parts())
        spent = sum(bits[name]) / form.size
        found.append(LimitRecord(name, tuple(form.shape), kind, spent, error, *limits))
    return found


def _check_like(file: Path, forms: Mapping[str, Form], dense: Shards) -> None:
    """MismatchError unless a file holds the tensors of a checkpoint, in their shapes."""
    if dense.declared.keys() != forms.keys():
        differ = sorted(dense.declared.keys() ^ forms.keys())
        got = f"a difference in {differ[:5]}"
        raise MismatchError(must(f"the tensors of {dense.source}", "those of the file", got))
    for name, form in forms.items():
        if form.shape != dense.declared[name].shape:
            expected = f"{tuple(dense.declared[name].shape)}"
            raise MismatchError(must(f"the shape of {name!r} in {file}", expected, tuple(form.shape)))


def _declared(name: str, header: container.Header) -> DeclaredRecord:
    first = header.layouts[name][0]  # row blocks and refinement layers of one weight are of one kind
    shape = tuple(header.shape(name))
    kind = " + ".join(term.kind for term in first.terms) or first.kind
    dtype = str(first.dtype).removeprefix("torch.")
    return DeclaredRecord(name, shape, dtype, kind, math.prod(shape) * first.dtype.itemsize)


def verify(
    file: SumsFile,
    against: Annotated[Path | None, typer.Option(help="A dense .safetensors to compare with.")] = None,
    max_bytes: MaxBytes = None,
    as_json: Json = False,
) -> None:
    """Decode everything and check every checksum; with --against, compare with a dense checkpoint."""
    forms = container.read(file, max_bytes=max_bytes).forms
    answer: dict[str, Any] = {"file": str(file), "tensors": len(forms), "ok": True}
    if against is not None:
        dense = Shards(against)
        _check_like(file, forms, dense)
        answer["relative_errors"] = {name: relative_error(dense.tensor(name), form) for name, form in forms.items()}
        answer["exact"] = sum(error == 0 for error in answer["relative_errors"].values())
    if as_json:
        typer.echo(json.dumps(answer, indent=2))
        return
    for name, error in answer.get("relative_errors", {}).items():
        typer.echo(f"{name}  {'exact' if error == 0 else f'relative error {error:.6g}'}")
    typer.echo(f"{file}: {len(forms)} tensors, every checksum and every declaration holds")


def rates(
    network: Annotated[Path, typer.Argument(help="A dense .safetensors.", metavar="NETWORK.safetensors")],
    distortion: Annotated[list[float], typer.Option(help="L1 error relative to the L1 norm; repeatable.")] = [0.9, 0.5],  # noqa: B006
    picture: Annotated[Path | None, typer.Option(help="Also draw the rates, as .png or .svg.")] = None,
    as_json: Json = False,
) -> None:
    """Show what the weights must cost and do cost: Laplace fits, D(R), successive pruning, embedded quantiser."""
    if picture is not None:
        picture_kind(picture)  # before any work
    named = Shards(network).tensors()
    weights = {n: w for n, w in named.items() if w.ndim >= 2 and w.is_floating_point() and w.any()}
    fits, rows = laplace_fits(weights), rate_table(weights, distortion)
    if picture is not None:
        plot_rates(rows, picture)
    if as_json:
        typer.echo(json.dumps({"fits": [asdict(f) for f in fits], "rates": [asdict(r) for r in rows]}, indent=2))
    else:
        typer.echo(f"{fit_table(fits)}\n\n{rates_table(rows)}")
