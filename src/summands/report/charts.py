"""The pictures of a report, from records."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Mapping, Sequence

from ..records import RunRecord, SearchRecord, StepRecord, WeightRecord
from .axes import COLOURS, Scale, drawing, frame, in_bytes, line, mark
from .markup import Markup, joined, tag

Points = Sequence[tuple[float, float]]


def plane(search: SearchRecord, runs: Sequence[RunRecord], best: Collection[str], *, named: bool = False) -> Markup:
    """Error against file bytes: a curve for each combination, the front as stairs, the reference as a line.

    Args:
        named: write the combinations' names into the picture, for one that stands alone without a `legend`.
    """
    # What is lost altogether has no place in the plane; the table has it.
    shown = [run for run in runs if run.error is not None and math.isfinite(run.error) and run.size_bytes]
    errors = [run.error or 0.0 for run in shown]
    reference = search.reference_error
    levels = [e for e in [*errors, *([] if reference is None else [reference])] if math.isfinite(e)]
    log = min(levels, default=0.0) > 0 and max(levels) > 8 * min(levels)
    x = Scale.of([run.size_bytes or 1.0 for run in shown], 62, 880, log=True)
    y = Scale.of(levels, 400, 40, log=log)
    parts = [frame(x, y, in_bytes, lambda v: f"{v:.4g}", "validation error", "bytes of the file")]
    if reference is not None:
        parts.append(line([(x.start, y(reference)), (x.stop, y(reference))], "reference"))
    stairs: list[tuple[float, float]] = []
    for run in sorted((r for r in shown if r.id in best), key=lambda r: r.size_bytes or 0):
        place = (x(run.size_bytes or 1), y(run.error or 0.0))
        stairs += [(place[0], stairs[-1][1] if stairs else y.stop), place]
    parts.append(line([*stairs, (x.stop, stairs[-1][1])] if stairs else [], "front"))
    names = list(dict.fromkeys(run.combination for run in runs))
    for colour, name in enumerate(names):
        own = sorted((r for r in shown if r.combination == name), key=lambda r: r.size_bytes or 0)
        places = [(x(r.size_bytes or 1), y(r.error or 0.0)) for r in own]
        parts.append(line(places, "curve single" if _is_single(name, own) else "curve", colour))
        for run, place in zip(own, places, strict=True):
            parts.append(mark(*place, colour, run_title(run), hollow=run.status != "finished"))
    if reference is not None:
        text = f"reference {reference:.4g}"
        parts.append(tag("text", text, x=x.start + 4, y=y(reference) - 5, class_="tick halo"))
    if named:
        parts.append(_names(names, x.stop, y.stop - 12))
    return drawing(900, 440, "validation error against bytes of the file", *parts)


def _is_single(name: str, runs: Sequence[RunRecord]) -> bool:
    """True for one part alone, by its name or, where the user gave it one, by what its files hold."""
    return "+" not in name and name != "Auto" and all(len(row.parts) == 1 for run in runs for row in run.weights)


def _names(names: Sequence[str], right: float, y: float) -> Markup:
    """The combinations' marks and names in one line that ends at `right`."""
    parts = []
    for colour, name in reversed(list(enumerate(names))):
        right -= 7 * len(name)
        parts.append(tag("text", name, x=right, y=y + 4))
        parts.append(mark(right - 11, y, colour, name))
        right -= 32
    return joined(parts)


def legend(names: Sequence[str]) -> Markup:
    """A mark and a name for each combination, in the colours of `plane`."""
    entries = [
        tag("span", tag("svg", mark(7, 7, i, name), viewBox="0 0 14 14", class_="key"), name, class_="entry")
        for i, name in enumerate(names)
    ]
    return tag("p", *entries, class_="legend")


def path(history: Sequence[StepRecord]) -> Markup:
    """Loss, gap, error and bytes along the steps, one picture each; fine-tuning shaded, a square for the file's."""
    steps = [row for row in history if row.phase != "reference"]
    figures: list[tuple[str, Callable[[StepRecord], float | None], Callable[[float], str]]] = [
        ("training loss", lambda row: row.loss, lambda v: f"{v:.3g}"),
        ("gap ||w - Delta|| / ||w||", lambda row: None if row.phase == "finetune" else row.gap, lambda v: f"{v:.3g}"),
        ("validation error", lambda row: row.error, lambda v: f"{v:.4g}"),
        ("bytes of the file", lambda row: row.size_bytes, in_bytes),
    ]
    drawn = [_along(steps, title, value, text) for title, value, text in figures]
    return tag("div", *drawn, class_="small-multiples")


def _along(
    steps: Sequence[StepRecord], title: str, value: Callable[[StepRecord], float | None], text: Callable[[float], str]
) -> Markup:
    points = [(i, v) for i, row in enumerate(steps) if (v := value(row)) is not None and math.isfinite(v)]
    if len(points) < 2:
        return Markup()
    x = Scale(0, max(len(steps) - 1, 1), 58, 400)
    y = Scale.of([v for _, v in points], 170, 34, zero=title != "bytes of the file")
    tuned = [i for i, row in enumerate(steps) if row.phase == "finetune"]
    parts = []
    if tuned:
        left = x(max(tuned[0] - 0.5, 0))
        area = {"x": left, "y": y.stop, "width": x.stop - left, "height": y.start - y.stop}
        parts.append(tag("rect", tag("title", "fine-tuning"), class_="tuned", **area))
    whole = sorted({round(i) for i in x.ticks(6)} & set(range(len(steps))))
    parts.append(frame(x, y, lambda v: f"{v:.0f}", text, title, "step (0: direct)", whole))
    places = [(x(i), y(v)) for i, v in points]
    parts.append(line(places, "curve", 0))
    kept = max((i for i, row in enumerate(steps) if row.best), default=None)
    for (i, v), place in zip(points, places, strict=True):
        said = f"{steps[i].phase} {steps[i].index}: {text(v)}"
        parts.append(mark(*place, 1, f"{said}, kept", size=5) if i == kept else mark(*place, 0, said, size=2.5))
    return drawing(410, 212, f"{title} along the steps", *parts)


def bytes_by_part(rows: Sequence[WeightRecord]) -> Markup:
    """A bar for each tensor, its coded bytes by part; the small ones, below 1/500 of all, in one bar together."""
    totals = {row.name: sum(bits for _, bits in row.parts) / 8 for row in rows}
    whole = sum(totals.values()) or 1.0
    large = [row for row in rows if totals[row.name] >= whole / 500]
    bars = [(row.name, [(kind, bits / 8) for kind, bits in row.parts]) for row in large]
    small = [row for row in rows if totals[row.name] < whole / 500]
    if small:
        kinds: dict[str, float] = {}
        for row in small:
            for kind, bits in row.parts:
                kinds[kind] = kinds.get(kind, 0.0) + bits / 8
        bars.append((f"{len(small)} small tensor{'s' * (len(small) > 1)}", list(kinds.items())))
    names = list(dict.fromkeys(kind for _, parts in bars for kind, _ in parts))
    x = Scale(0, max((sum(b for _, b in parts) for _, parts in bars), default=1.0) or 1.0, 0, 100)
    table = []
    for name, parts in bars:
        total = sum(b for _, b in parts)
        pieces = [
            tag(
                "span",
                class_="bar",
                title=f"{name}, {kind}: {b:,.0f} bytes",
                style=f"width:{x(b):.2f}%;{_fill(names, kind)}",
            )
            for kind, b in parts
            if b > 0
        ]
        cells = (
            tag("td", *pieces, class_="bars"),
            tag("td", f"{total:,.0f}"),
            tag("td", f"{100 * total / whole:.1f} %"),
        )
        table.append(tag("tr", tag("th", name, scope="row"), *cells))
    head = tag("thead", tag("tr", *(tag("th", text) for text in ("tensor", "", "bytes", "share"))))
    keys = [tag("span", tag("i", style=_fill(names, kind), class_="swatch"), kind, class_="entry") for kind in names]
    return joined([tag("p", *keys, class_="legend"), _scrolling(tag("table", head, tag("tbody", *table)), "by-part")])


def _fill(names: Sequence[str], name: str) -> str:
    return f"background:var(--c{names.index(name) % COLOURS})"


def structure(rows: Sequence[WeightRecord], limits: Mapping[str, Points]) -> Markup:
    """What each compressed weight has become: ranks, kept weights, codebooks; its bits beside the least possible.

    Without the weights that came in, as for a file alone, there is no distortion to show and no limit.
    """
    known, body = any(row.relative_error is not None for row in rows), []
    for row in rows:
        if row.rule == "kept" or all(kind == "dense" for kind, _ in row.parts):
            continue
        least = None if row.relative_error is None else limit_at(limits.get(row.name, ()), row.relative_error)
        facts = [*row.facts, *({} for _ in row.parts[len(row.facts) :])]
        parts = [_part(kind, bits, row, own) for (kind, bits), own in zip(row.parts, facts, strict=True)]
        cells = [
            tag("td", " x ".join(map(str, row.shape))),
            tag("td", *parts, class_="parts"),
            tag("td", f"{row.bits_per_weight:.3f}"),
        ]
        if known:
            cells += [
                tag("td", "" if row.relative_error is None else f"{row.relative_error:.3f}"),
                tag("td", "" if least is None else f"{least:.3f}"),
                tag("td", _distance(row.bits_per_weight, least)),
            ]
        body.append(tag("tr", tag("th", row.name, scope="row"), *cells))
    heads = ("weight", "shape", "parts", "bits a weight", *(("distortion", "limit", "") if known else ()))
    head = tag("thead", tag("tr", *(tag("th", text) for text in heads)))
    return _scrolling(tag("table", head, tag("tbody", *body)), "structure")


def _part(kind: str, bits: float, row: WeightRecord, facts: Mapping[str, int | str]) -> Markup:
    """`sparse: 2,345 kept (1.2 %)`, and a bar for the share of what there could be."""
    text, share = [kind], None
    if "rank" in facts:
        text.append(f"rank {facts['rank']}" + (f", {facts['view']}" if "view" in facts else ""))
    if "kept" in facts and row.size:
        share = int(facts["kept"]) / row.size
        text.append(f"{int(facts['kept']):,} kept ({100 * share:.2g} %)")
    text += [f"{facts[name]} {name}" for name in ("values", "levels") if name in facts]
    gauge = tag("i", tag("b", style=f"width:{100 * share:.1f}%"), class_="gauge") if share is not None else Markup()
    return tag("span", " · ".join(text), gauge, title=f"{bits / 8:,.0f} bytes", class_="part")


def _distance(bits: float, least: float | None) -> Markup:
    """Measured bits as a bar, the limit as a tick in it, on a scale up to 4 bits."""
    if least is None:
        return Markup()
    y = Scale(0, 4, 0, 120)
    parts = [
        tag("rect", x=0, y=4, width=y(bits), height=8, class_="measured"),
        tag("line", x1=y(least), x2=y(least), y1=0, y2=16, class_="limit"),
    ]
    label = f"{bits:.3f} bits measured, {least:.3f} is the limit"
    return tag(
        "svg", tag("title", label), *parts, viewBox="0 0 120 16", role="img", aria_label=label, class_="distance"
    )


def limit_at(points: Points, distortion: float) -> float | None:
    """R(D) between points of falling D, in log D; None beyond the last."""
    if distortion >= 1:
        return 0.0 if points else None
    for (d0, r0), (d1, r1) in itertools.pairwise(points):
        if d1 <= distortion <= d0:
            return r0 + (r1 - r0) * math.log(d0 / distortion) / math.log(d0 / d1)
    return None


def run_title(run: RunRecord) -> str:
    """One line on a run: `Q + P at 20x: error 1.2, 85,000 bytes`."""
    size = "" if run.size_bytes is None else f", {run.size_bytes:,} bytes"
    error = "" if run.error is None else f": error {run.error:.4g}"
    budget = run.budget and f" at {run.budget}"
    return f"{run.combination}{budget}{error}{size}" + (f" ({run.status})" if run.status != "finished" else "")


def _scrolling(content: Markup, class_: str) -> Markup:
    return tag("div", content, class_=f"scroll {class_}", tabindex=0)
