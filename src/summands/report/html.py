"""One page that holds a whole report: styles and pictures inside, no script, nothing fetched."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ..records import RunRecord, SearchRecord
from .axes import STYLE
from .charts import bytes_by_part, legend, path, plane, run_title, structure
from .markup import Markup, joined, tag
from .tables import outcome


def page(search: SearchRecord, runs: Sequence[RunRecord], best: Collection[str]) -> str:
    """The report as HTML.

    Args:
        best: the ids of the runs on the front; they come first, and the first of them is open.
    """
    names = list(dict.fromkeys(run.combination for run in runs))
    parts = [tag("h1", search.name), _facts(search, runs)]
    if len(runs) > 1 and any(run.error is not None for run in runs):
        parts += [
            tag("h2", "Error against size"),
            tag("figure", plane(search, runs, best), legend(names), tag("figcaption", _HOW_TO_READ_THE_PLANE)),
        ]
    if len(runs) > 1:
        parts += [tag("h2", "Runs"), _table(search, runs, best, names)]
    detailed = [run for run in runs if run.weights or run.history]
    detailed.sort(key=lambda run: run.id not in best)
    if detailed:
        parts.append(tag("h2", "Each run" if len(runs) > 1 else "The network"))
        parts += [_detail(search, run, best, is_open=i == 0) for i, run in enumerate(detailed)]
    head = [
        Markup('<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'),
        Markup('<link rel="icon" href="data:,">'),
        tag("title", f"summands: {search.name}"),
        tag("style", Markup(STYLE)),
    ]
    body = tag("html", tag("head", *head), tag("body", tag("main", *parts)), lang="en")
    return f"<!doctype html>\n{body}\n"


_HOW_TO_READ_THE_PLANE = (
    "Left and down is better. A curve joins the budgets of one combination: dashed for one part alone, solid for a "
    "sum. The stairs are the front: no file below them was found. Hollow marks are runs that were stopped or are not "
    "finished, at their best so far."
)
_HOW_TO_READ_THE_LIMITS = (
    "Distortion is ||w - Delta||² / ||w||² against the network that came in. The limit is the least number of bits at "
    "which independent entries of the weight's own distribution can be stored with that distortion: its "
    "rate-distortion function. Bars are measured bits, up to 4 a weight; ticks are the limit. Learning moves weights "
    "to where they cost the loss little, not to where they are near, so a learned file may well stand off."
)


def _facts(search: SearchRecord, runs: Sequence[RunRecord]) -> Markup:
    facts = [f"{search.reference_bytes:,} bytes as it came"]
    if search.reference_error is not None:
        facts.append(f"validation error {search.reference_error:.4g}")
    if len(runs) > 1:
        counts = {status: sum(run.status == status for run in runs) for status in ("finished", "stopped", "failed")}
        told = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
        facts.append(f"{len(runs)} runs: {told}")
    return tag("p", " · ".join(facts), class_="facts")


def _table(search: SearchRecord, runs: Sequence[RunRecord], best: Collection[str], names: Sequence[str]) -> Markup:
    rows = []
    for run in runs:
        size = run.size_bytes
        name: Markup | str = run.combination
        if run.weights or run.history:
            name = tag("a", run.combination, href=f"#{run.id}")
        swatch = tag("i", class_="swatch", style=f"background:var(--c{names.index(run.combination) % 10})")
        cells = [
            tag("td", "★" if run.id in best else "", title="on the front" if run.id in best else None),
            tag("th", swatch, name, scope="row"),
            tag("td", run.budget),
            tag("td", "" if run.error is None else f"{run.error:.4g}", class_="number"),
            tag("td", "" if size is None else f"{size:,}", class_="number"),
            tag("td", "" if not size else f"{search.reference_bytes / size:.1f}x", class_="number"),
            tag("td", f"{run.seconds:.0f}", class_="number"),
            tag("td", outcome(run), class_="outcome"),
        ]
        rows.append(tag("tr", *cells, class_="best" if run.id in best else None))
    heads = ("", "combination", "budget", "error", "bytes", "ratio", "seconds", "outcome")
    head = tag("thead", tag("tr", *(tag("th", text) for text in heads)))
    return tag("div", tag("table", head, tag("tbody", *rows)), class_="scroll runs", tabindex=0)


def _detail(search: SearchRecord, run: RunRecord, best: Collection[str], *, is_open: bool) -> Markup:
    ratio = f", {search.reference_bytes / run.size_bytes:.1f}x" if run.size_bytes else ""
    parts = [tag("summary", "★ " if run.id in best else "", run_title(run) + ratio)]
    if run.message and run.status != "finished":
        parts.append(tag("p", outcome(run), class_="outcome"))
    if sum(row.phase != "reference" for row in run.history) > 1:
        parts += [tag("h3", "Along the way"), path(run.history)]
    if run.weights:
        parts += [tag("h3", "Where the bytes are"), bytes_by_part(run.weights)]
        parts += [tag("h3", "What each weight has become"), structure(run.weights, search.limits)]
        if search.limits:
            parts.append(tag("p", _HOW_TO_READ_THE_LIMITS, class_="note"))
    # `open` is an attribute without a value.
    details = tag("details", joined(parts), id=run.id)
    return Markup(details.replace("<details ", "<details open ", 1)) if is_open else details
