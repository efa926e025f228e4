"""Is our coder smaller than NNCodec's, than general coders and static ones? And our files, without data?

- The same integers to every coder (`coding_integers`): LeNets, ResNet-20, EfficientNet-Lite0 and MiniLM, rounded.
- Whole files of whole networks (`coding_curves`), each codec with its own quantiser, at equal error: log bytes on the
  lower hull of all settings of a codec. For the references of the zoo it is the error on all 15,000 images that were
  not trained on, at the reference's plus 0.1, 0.3 and 1 point, in the mean over three networks where there are so
  many: of one alone, the luck of a hull decides. For the others it is top-1 agreement .83, .95 and .98, or cosine .94
  and .99.

How fast both are is `coding_speed`.

NNCodec is set up by `python -m benchmarks.nncodec`; without it this still runs, and says what is missing. Sizes and
measures are kept in the cache, by weights, settings and code, so a run that was ended goes on where it was. Of networks
that are not named the result keeps its rows.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Sequence
from typing import Any

import torch
from rich.table import Table

from benchmarks import coding_curves, coding_integers, nncodec
from benchmarks.hull import bytes_at
from benchmarks.pretrained import NAMES, network
from benchmarks.record import RESULTS, read_result, write_result
from summands.report.tables import render

POINTS = (0.1, 0.3, 1.0)
LEVELS = {"agreement": (0.83, 0.95, 0.98), "cosine": (0.94, 0.99)}
LABELS = {"constriction": "static", "constriction_laplace": "Laplace", "huffman": "HAC", "sparse_huffman": "sHAC"}
"""Of columns: constriction's coder with a histogram and with a Laplace distribution; Huffman codes by their papers."""
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="*", default=NAMES, help="whose integers are coded")
    parser.add_argument("--curves", nargs="*", default=NAMES, help="whose whole files are compared")
    parser.add_argument("--measure-only", action="store_true", help="fill the cache; write no result")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sizes: list[Row] = []
    curves: list[Row] = []
    for name in arguments.networks:
        sizes += coding_integers.rows(name, network(name).tensors)
        print(f"{name}: integers coded", flush=True)
    for name in arguments.curves:
        curves += coding_curves.rows(name)
        print(f"{name}: files compared", flush=True)
    if arguments.measure_only:
        return
    old = read_result("coding")["figures"] if (RESULTS / "coding.json").is_file() else {"sizes": [], "curves": []}
    every = {"sizes": _with_others(sizes, old["sizes"]), "curves": _with_others(curves, old["curves"])}
    measured = any(row["nncodec_bytes"] for row in every["sizes"])
    figures = {"nncodec": "measured" if measured else nncodec.reason(), **every}
    print(table(figures))
    # The command that makes all of it, as rows of networks that this run does not name are of earlier ones.
    print(f"wrote {write_result('coding', figures, command='python -m benchmarks.coding')}")


def _with_others(rows: list[Row], before: list[Row]) -> list[Row]:
    """These, and of networks that they do not name those of before."""
    named = {row["network"] for row in rows}
    kept = [row for row in before if row["network"] not in named]
    return sorted([*kept, *rows], key=lambda row: NAMES.index(row["network"]))


def table(figures: Row) -> str:
    """What each part says of our coder, then its rows."""
    parts = [_summary(figures), _size_table(figures["sizes"]), _curve_table(comparisons(figures["curves"]))]
    return "\n\n".join(parts)


def comparisons(curves: Sequence[Row], validation_images: int = 5_000) -> list[Row]:
    """For every network and level: bytes of both codecs on their lower hulls.

    Args:
        validation_images: how many the error of a reference counts beside its 10,000 test images; 0 for those alone.
    """
    found = []
    for name in dict.fromkeys(row["network"] for row in curves):
        rows = [row for row in curves if row["network"] == name]
        original = next(row for row in rows if row["codec"] == "original")
        for level, loss in loss_levels(original):
            sizes = {codec: bytes_at(curve(rows, codec, validation_images), loss) for codec in ("ours", "nncodec")}
            found.append({"network": name, "level": level, "original": original["bytes"], **sizes})
    return found


def curve(rows: Sequence[Row], codec: str, validation_images: int = 5_000) -> list[tuple[float, float]]:
    """(loss, bytes) of every setting of one codec on one network, in the mean over its seeds.

    The loss is what the error rises by, in percentage points; or what agreement or cosine lacks to 1.
    """
    before = {row["seed"]: _loss(row, validation_images) for row in rows if row["codec"] == "original"}
    settings: dict[str, list[Row]] = {}
    for row in rows:
        if row["codec"] == codec:
            settings.setdefault(str(row["setting"]), []).append(row)
    return [
        (
            statistics.mean(_loss(row, validation_images) - before[row["seed"]] for row in own),
            statistics.mean(row["bytes"] for row in own),
        )
        for own in settings.values()
    ]


def _loss(row: Row, validation_images: int) -> float:
    """In percent or, for agreement and cosine, the distance from 1."""
    if "test_error" in row:
        wrong = validation_images * row["validation_error"] + 10_000 * row["test_error"]
        return wrong / (validation_images + 10_000)
    return 1 - (row["agreement"] if "agreement" in row else row["cosine"])


def loss_levels(original: Row) -> list[tuple[str, float]]:
    if "test_error" in original:
        return [(f"error + {points} points", points) for points in POINTS]
    (measure,) = LEVELS.keys() & original.keys()
    return [(f"{measure} {level}", 1 - level) for level in LEVELS[measure]]


def _summary(figures: Row) -> str:
    if figures["nncodec"] != "measured":
        return f"NNCodec: {figures['nncodec']}"
    measured = [row for row in figures["sizes"] if row["nncodec_bytes"]]
    same = [(row["bits_per_weight"], row["bytes"] / row["nncodec_bytes"]) for row in measured]
    low = [ratio for bits, ratio in same if bits < 1]
    whole, tested = (
        [
            row["ours"] / row["nncodec"]
            for row in comparisons(figures["curves"], images)
            if row["ours"] and row["nncodec"]
        ]
        for images in (5_000, 0)
    )
    if not same or not whole:
        return "NNCodec: measured on too few of these networks for a comparison"
    most = max(ratio for _, ratio in same)
    return (
        "Our bytes / NNCodec's\n"
        f"  same integers: at most {most:.4f}; geometric mean below 1 bit a weight {_mean(low):.4f}\n"
        f"  whole files at equal loss: geometric mean {_mean(whole):.3f}, at most {max(whole):.3f}, of {len(whole)}\n"
        f"  the same by the errors of test images alone: geometric mean {_mean(tested):.3f}, at most {max(tested):.3f}"
    )


def _mean(ratios: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, ratios)) / len(ratios)) if ratios else math.nan


def _size_table(rows: Sequence[Row]) -> str:
    out = Table("network", "step", "bits/weight", "bytes", title="same integers: our bytes / theirs", box=None)
    for other in coding_integers.OTHERS:
        out.add_column(LABELS.get(other, other), justify="right")
    for row in rows:
        shares = [row.get(f"{other}_bytes") for other in coding_integers.OTHERS]
        texts = ["-" if share is None else f"{row['bytes'] / share:.4f}" for share in shares]
        out.add_row(row["network"], f"{row['step']}", f"{row['bits_per_weight']:.3f}", f"{row['bytes']:,}", *texts)
    return render(out)


def _curve_table(rows: Sequence[Row]) -> str:
    out = Table("network", "at", title="whole files, without data: bytes at equal loss", box=None)
    for column in ("ours", "NNCodec", "ours / NNCodec", "original / ours"):
        out.add_column(column, justify="right")
    for row in rows:
        ours, theirs = row["ours"], row["nncodec"]
        sizes = ["-" if size is None else f"{size:,.0f}" for size in (ours, theirs)]
        ratio = f"{ours / theirs:.3f}" if ours and theirs else "-"
        out.add_row(row["network"], row["level"], *sizes, ratio, f"{row['original'] / ours:.1f}x" if ours else "-")
    return render(out)


if __name__ == "__main__":
    main()
