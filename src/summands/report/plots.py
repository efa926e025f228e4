"""Pictures from records. Needs the extra `plot` (matplotlib)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..atomic import check_place, whole_file
from ..errors import ArgumentError, must
from ..records import RateRecord, StepRecord, WeightRecord

_INK = "#1b2a41"
_COLOURS = ("#2a6f97", "#e07a5f", "#81b29a", "#f2cc8f", "#9d6b9e", "#5f6b6d")


def plot_run(history: Sequence[StepRecord], rows: Sequence[WeightRecord], reference: float, path: Path) -> None:
    """Error and gap along the run, and the coded bytes of every tensor by part, as a PNG or SVG.

    Args:
        reference: the error of the network that came in, drawn as a line.
    """
    plt = _pyplot()
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.2), constrained_layout=True)
    _draw_path(left, [row for row in history if row.error is not None], reference)
    _draw_bytes(right, rows)
    _save(figure, path, dpi=120)


def plot_rates(rows: Sequence[RateRecord], path: Path, *, names: Sequence[str] = ()) -> None:
    """Error against bits a weight, a panel for each of `names` (by default the largest weights and all together)."""
    by_name = {row.name: row for row in rows}
    largest = sorted(by_name, key=lambda name: -by_name[name].size)[:4]
    shown = list(names) or [name for name in by_name if name in largest]
    plt = _pyplot()
    from matplotlib.ticker import LogLocator

    width = 4.2 * len(shown)
    figure, panels = plt.subplots(1, len(shown), figsize=(width, 3.8), constrained_layout=True, squeeze=False)
    for axes, name in zip(panels[0], shown, strict=True):
        own = [row for row in rows if row.name == name]
        for field, label, line, marker, colour in _RATES:
            points = [(getattr(row, field), row.distortion) for row in own if getattr(row, field) > 0]
            axes.plot(*zip(*points, strict=True), line, marker=marker, ms=4, lw=1.2, color=colour, label=label)
        axes.set(
            xscale="log", xlabel="bits a weight", ylabel="L1 error / L1 norm", title=f"{_plain(name)} ({own[0].size:,})"
        )
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("")
        axes.set_ylim(0, 1)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    panels[0][0].legend(frameon=False)
    _save(figure, path, dpi=80)


def _plain(name: str) -> str:
    """For matplotlib, which takes what stands between two dollars for mathematics."""
    return name.replace("$", r"\$")


_RATES = (
    ("laplace", "R(D) of the Laplace fit", "--", "", _INK),
    ("histogram", "R(D) of the histogram", "-", "", _INK),
    ("embedded", "embedded quantiser", "-", "o", _COLOURS[0]),
    ("paper", "SuRP, paper", "-", "s", _COLOURS[1]),
    ("authors", "SuRP, authors", "-", "^", _COLOURS[4]),
)
"""Field, label, line, marker and colour of a rate."""


def _draw_path(axes: Any, history: Sequence[StepRecord], reference: float) -> None:
    places = range(len(history))
    axes.plot(places, [row.error for row in history], "o-", ms=3, color=_COLOURS[1], label="compressed network")
    axes.axhline(reference, color=_INK, lw=1, ls="--", label="reference")
    for i, row in enumerate(history):
        if row.phase == "finetune" and history[i - 1].phase != "finetune":
            axes.axvspan(i - 0.5, len(history) - 0.5, color=_COLOURS[2], alpha=0.25, lw=0, label="fine-tuning")
    axes.set(xlabel="step (0: direct compression)", ylabel="validation error", title="Learning while compressing")
    axes.set_ylim(bottom=0)
    gap = axes.twinx()
    gap.plot(places, [row.gap for row in history], color=_COLOURS[0], lw=1, label="gap")
    gap.set_ylabel("gap ||w - Delta|| / ||w||", color=_COLOURS[0])
    gap.set_ylim(bottom=0)
    axes.legend(frameon=False, loc="upper right")
    axes.spines["top"].set_visible(False)
    gap.spines["top"].set_visible(False)


def _draw_bytes(axes: Any, rows: Sequence[WeightRecord]) -> None:
    largest = sorted(rows, key=lambda row: -sum(bits for _, bits in row.parts))[:20]
    shown = [row for row in rows if row in largest][::-1]
    kinds = list(dict.fromkeys(kind for row in shown for kind, _ in row.parts))
    for i, kind in enumerate(kinds):
        own = [sum(bits for k, bits in row.parts if k == kind) / 8 for row in shown]
        before = [sum(bits for k, bits in row.parts if k in kinds[:i]) / 8 for row in shown]
        axes.barh([_plain(row.name) for row in shown], own, left=before, color=_COLOURS[i % len(_COLOURS)], label=kind)
    axes.set(xlabel="coded bytes", title="Where the bytes are")
    axes.legend(frameon=False, loc="lower right")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _save(figure: Any, path: Path, dpi: int) -> None:
    """What is at `path` is replaced by the whole picture, or stays."""
    _pyplot().close(figure)  # which can still be drawn
    kind = picture_kind(path)
    with whole_file(path) as temporary:
        figure.savefig(temporary, format=kind, dpi=dpi, metadata={"Software": None} if kind == "png" else None)


def picture_kind(path: Path) -> str:
    """The kind of picture that a name asks for; ArgumentError or FileError where no picture can be put there."""
    _pyplot()
    from matplotlib.backend_bases import FigureCanvasBase

    formats = FigureCanvasBase.get_supported_filetypes()
    kind = path.suffix.removeprefix(".").lower()
    if kind not in formats:
        raise ArgumentError(must("the ending of a picture's name", f"one of {', '.join(sorted(formats))}", str(path)))
    check_place(path)
    return kind


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError:
        raise ArgumentError("pictures need matplotlib; install it by `pip install 'summands[plot]'`") from None
    matplotlib.use("Agg")
    import matplotlib.pyplot

    return matplotlib.pyplot
