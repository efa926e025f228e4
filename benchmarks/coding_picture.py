"""Draws the curves of results/coding.json: `python -m benchmarks.coding_picture` writes docs/coding.svg."""

from __future__ import annotations

import math
from typing import Any

import matplotlib

from benchmarks.coding import curve, loss_levels
from benchmarks.hull import lower_hull
from benchmarks.page import ROOT
from benchmarks.record import read_result

COLOURS = {"ours": "#e07a5f", "nncodec": "#2a6f97"}


def draw(curves: list[dict[str, Any]], path: str) -> None:
    """A panel a network: loss over bytes, every setting as a dot and each codec's lower hull as a line."""
    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "summands"
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(row["network"] for row in curves))
    across = min(4, len(names))
    down = math.ceil(len(names) / across)
    figure, panels = plt.subplots(
        down, across, figsize=(3.6 * across, 3.2 * down), constrained_layout=True, squeeze=False
    )
    for axes in panels.flat[len(names) :]:
        axes.remove()
    for axes, name in zip(panels.flat, names, strict=False):
        rows = [row for row in curves if row["network"] == name]
        levels = [loss for _, loss in loss_levels(next(row for row in rows if row["codec"] == "original"))]
        for codec, colour in COLOURS.items():
            points = curve(rows, codec)
            hull = lower_hull(points)
            axes.plot([size for _, size in points], [loss for loss, _ in points], ".", color=colour, alpha=0.5)
            axes.plot([size for _, size in hull], [loss for loss, _ in hull], color=colour, label=codec)
        for loss in levels:
            axes.axhline(loss, color="#cccccc", lw=0.8, zorder=0)
        low, high = min(levels), max(levels)
        axes.set(title=name, xlabel="bytes of the file", xscale="log", ylim=(low - (high - low) / 4, 2 * high - low))
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    figure.supylabel("points of error above the original's; 1 - agreement; 1 - cosine")
    panels[0][0].legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    draw(read_result("coding")["figures"]["curves"], str(ROOT / "docs" / "coding.svg"))
