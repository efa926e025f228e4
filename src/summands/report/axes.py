"""Scales, ticks and frames for drawings by hand in SVG. Lengths are in units of the drawing's view box."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .markup import Markup, joined, tag

STYLE = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
COLOURS = 10
"""How many colours the page's style sheet has, `--c0` and on; a mark's shape changes with every one."""


@dataclass(frozen=True)
class Scale:
    """Numbers from `low` to `high` onto lengths from `start` to `stop`; with `log`, by their logarithms."""

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    @classmethod
    def of(
        cls,
        values: Iterable[float],
        start: float,
        stop: float,
        *,
        log: bool = False,
        zero: bool = False,
        pad: float = 0.06,
    ) -> Scale:
        """A scale with a little room around all finite values; with `log` around those above 0; `zero` includes 0."""
        finite = [v for v in values if math.isfinite(v) and (v > 0 or not log)] or [1.0]
        low, high = min(finite), max(finite)
        if log:
            room = max((high / low) ** pad, 1.02)
            return cls(low / room, high * room, start, stop, True)
        low = min(low, 0.0) if zero else low
        room = (high - low) * pad or abs(high) * pad or 1.0
        return cls(low if zero and low == 0 else low - room, high + room, start, stop)

    def __call__(self, value: float) -> float:
        value = min(max(value, self.low), self.high)
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.stop - self.start), 2)

    def ticks(self, count: int = 6) -> list[float]:
        """Round numbers within the scale, about `count` of them."""
        if self.log:
            for steps in ((1, 2, 5), (1, 3), (1,), (1, 1.5, 2, 3, 4, 5, 7)):
                decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
                found = [s * 10.0**d for d in decades for s in steps if self.low <= s * 10.0**d <= self.high]
                if 3 <= len(found) <= count + 3:
                    return found
            if len(decades) > count:
                return [10.0**d for d in decades[:: -(-len(decades) // count)] if self.low <= 10.0**d <= self.high]
            return Scale(self.low, self.high, 0, 1).ticks(count)
        rough = (self.high - self.low) / count
        step = 10.0 ** math.floor(math.log10(rough))
        step *= next(f for f in (1, 2, 5, 10) if f * step >= rough)
        first = math.ceil(self.low / step)
        return [i * step for i in range(first, math.floor(self.high / step) + 1)]


def frame(x: Scale, y: Scale, x_text: Callable[[float], str], y_text: Callable[[float], str], title: str, unit: str,
          x_ticks: Sequence[float] | None = None) -> Markup:  # fmt: skip
    """Grid lines with their numbers, the title above the upper left corner, and what the horizontal axis means."""
    parts = []
    for value in y.ticks(5):
        parts.append(_line(x.start, y(value), x.stop, y(value), "grid"))
        parts.append(tag("text", y_text(value), x=x.start - 6, y=y(value) + 4, class_="tick", text_anchor="end"))
    for value in x.ticks(7) if x_ticks is None else x_ticks:
        parts.append(_line(x(value), y.start, x(value), y.start + 4, "axis"))
        parts.append(tag("text", x_text(value), x=x(value), y=y.start + 17, class_="tick", text_anchor="middle"))
    parts.append(_line(x.start, y.start, x.stop, y.start, "axis"))
    parts.append(tag("text", title, x=x.start, y=y.stop - 8, class_="title"))
    parts.append(tag("text", unit, x=x.stop, y=y.start + 34, class_="unit", text_anchor="end"))
    return joined(parts)


def line(points: Sequence[tuple[float, float]], class_: str, colour: int | None = None) -> Markup:
    """A line through points of the drawing; nothing for fewer than two."""
    if len(points) < 2:
        return Markup()
    path = "M" + "L".join(f"{x:g} {y:g}" for x, y in points)
    return tag("path", d=path, class_=class_, style=_stroke(colour))


def mark(x: float, y: float, colour: int, title: str, *, hollow: bool = False, size: float = 4.5) -> Markup:
    """A point with a text that shows when the pointer rests on it. Neighbouring colours have different shapes."""
    style = f"stroke:var(--c{colour % COLOURS});fill:{'var(--paper)' if hollow else f'var(--c{colour % COLOURS})'}"
    shape = colour % 4
    if shape == 0:
        return tag("circle", tag("title", title), cx=x, cy=y, r=size, class_="mark", style=style)
    corners = {
        1: ((-1, -1), (1, -1), (1, 1), (-1, 1)),
        2: ((0, -1.35), (1.35, 0), (0, 1.35), (-1.35, 0)),
        3: ((0, -1.3), (1.25, 0.95), (-1.25, 0.95)),
    }[shape]
    points = " ".join(f"{x + size * 0.92 * dx:.1f},{y + size * 0.92 * dy:.1f}" for dx, dy in corners)
    return tag("polygon", tag("title", title), points=points, class_="mark", style=style)


def drawing(width: float, height: float, label: str, *content: str) -> Markup:
    """An SVG picture that scales with the page; `label` is read out where it cannot be seen."""
    return tag("svg", *content, viewBox=f"0 0 {width:g} {height:g}", role="img", aria_label=label, class_="drawing")


def standalone(picture: Markup) -> Markup:
    """A `drawing` as a file of its own, with the page's styles."""
    style = tag("style", Markup(STYLE + ".drawing { background: var(--paper); font: 13px system-ui, sans-serif; }"))
    opened = picture.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    head, _, rest = opened.partition(">")
    return joined([Markup(head + ">"), style, Markup(rest)])


def in_bytes(value: float) -> str:
    """`850 B`, `12 kB`, `1.5 MB`."""
    for factor, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value:.3g} B"


def _line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def _stroke(colour: int | None) -> str | None:
    return None if colour is None else f"stroke:var(--c{colour % COLOURS})"
