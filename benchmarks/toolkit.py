"""Our C steps beside those of the published LC toolkit (UCMerced-ML/LC-model-compression), on its own LeNet-300-100.

    python -m benchmarks.toolkit CHECKOUT

CHECKOUT is a copy of that repository; nothing of it is contained here. Its modules run as they are, except that NumPy
gets back the alias `np.int`, which it needs. Errors are squared, over all three layers together unless the row says
otherwise; times are CPU seconds on one thread, the best of three of ours once warm, one call of the toolkit's.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table
from threadpoolctl import threadpool_limits
from torch import Tensor

from benchmarks.csteps import timed
from benchmarks.record import write_result
from benchmarks.showcase import read_reference
from summands.compressions import (
    Binary,
    Compression,
    L1Ball,
    LowRank,
    Prune,
    PrunePenalty,
    Quantize,
    ScaledBinary,
    ScaledTernary,
    SoftThreshold,
)
from summands.report.tables import render

MU = 1.0


def main() -> None:
    checkout = Path(sys.argv[1])
    torch.set_num_threads(1)
    layers = read_layers(checkout / "examples" / "lenet300" / "lenet300_classic.pklz")
    weight = torch.cat([layer.reshape(-1) for layer in layers])
    widest = max(layers, key=Tensor.numel)
    last = min(layers, key=Tensor.numel).reshape(-1)
    vars(np).setdefault("int", int)
    sys.path.insert(0, str(checkout))
    quantization, pruning, low_rank = (
        importlib.import_module(f"lc.compression_types.{name}") for name in ("quantization", "pruning", "low_rank")
    )
    count = weight.numel() // 20
    radius = 0.2 * float(weight.abs().sum())
    rows: list[tuple[str, Tensor, Compression, Callable[[], Any]]] = [
        ("codebook, K=2", weight, Quantize(2), lambda: quantization.AdaptiveQuantization(2)),
        ("codebook, K=4", weight, Quantize(4), lambda: quantization.AdaptiveQuantization(4)),
        ("codebook, K=16", weight, Quantize(16), lambda: quantization.AdaptiveQuantization(16)),
        ("optimal codebook, K=4, last layer", last, Quantize(4), lambda: quantization.OptimalAdaptiveQuantization(4)),
        ("binary", weight, Binary(), quantization.BinaryQuantization),
        ("scaled binary", weight, ScaledBinary(), quantization.ScaledBinaryQuantization),
        ("scaled ternary", weight, ScaledTernary(), quantization.ScaledTernaryQuantization),
        ("L0 constraint, 5 %", weight, Prune(count=count), lambda: pruning.ConstraintL0Pruning(count)),
        ("L0 constraint, none", weight, Prune(count=0), lambda: pruning.ConstraintL0Pruning(0)),
        ("L0 penalty", weight, PrunePenalty(2e-3), lambda: pruning.PenaltyL0Pruning(2e-3)),
        ("L1 constraint", weight, L1Ball(radius), lambda: pruning.ConstraintL1Pruning(radius)),
        ("L1 penalty", weight, SoftThreshold(0.02), lambda: pruning.PenaltyL1Pruning(0.02)),
        ("rank 10, first layer", widest, LowRank(10), lambda: low_rank.LowRank(10)),
        ("full rank, first layer", widest, LowRank(min(widest.shape)), lambda: low_rank.LowRank(min(widest.shape))),
    ]  # fmt: skip
    figures = []
    with threadpool_limits(1):
        for name, target, ours, theirs in rows:
            row = compare(target, ours, theirs)
            figures.append({"c_step": name, **row})
            print(f"{name:34} ours {_shown(row, 'ours')}   toolkit {_shown(row, 'toolkit')}")
    path = write_result(
        "toolkit",
        figures,
        command="python -m benchmarks.toolkit CHECKOUT",
        toolkit="UCMerced-ML/LC-model-compression",
        l1_radius=radius,
    )
    print(f"radius of the L1 ball {radius:.3f}; written: {path.name}")


def compare(weight: Tensor, ours: Compression, theirs: Callable[[], Any]) -> dict[str, Any]:
    ours.project(weight, mu=MU)
    seconds, form = timed(lambda: ours.project(weight, mu=MU), repeat=3)
    result: dict[str, Any] = {"ours": described(weight, form.dense()), "ours_seconds": seconds}
    solver = theirs()
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            solver.mu = MU
            result["toolkit_seconds"], found = timed(lambda: solver.compress(weight.numpy()))
        result["toolkit"] = described(weight, torch.as_tensor(np.asarray(found, np.float32)).reshape(weight.shape))
    except Exception as error:  # what the toolkit does here is what is measured
        result["toolkit"] = f"fails: {type(error).__name__}: {error}"[:120]
    return result


def table(figures: list[dict[str, Any]]) -> str:
    """A row a C step: squared error and L1 norm of what each returns, and seconds."""
    out = Table("C step", "ours: error", "seconds", "toolkit: error", "seconds", "|x|_1 ours", "toolkit", box=None)
    for row in figures:
        ours, theirs = row["ours"], row["toolkit"]
        mine = (f"{ours['squared_error']:.6g}", f"{row['ours_seconds']:.4f}")
        if isinstance(theirs, str):
            out.add_row(row["c_step"], *mine, theirs.split(":")[0], "", f"{ours['l1_norm']:.1f}", "")
            continue
        other = (f"{theirs['squared_error']:.6g}", f"{row['toolkit_seconds']:.4f}")
        out.add_row(row["c_step"], *mine, *other, f"{ours['l1_norm']:.1f}", f"{theirs['l1_norm']:.1f}")
    return render(out)


def _shown(row: dict[str, Any], who: str) -> str:
    if isinstance(row[who], str):
        return row[who]
    shown = row[who]
    return f"{shown['squared_error']:13.6f} in {row[who + '_seconds']:8.4f} s, |x|_1 {shown['l1_norm']:9.3f}"


def described(weight: Tensor, dense: Tensor) -> dict[str, float]:
    return {
        "squared_error": float(((weight.double() - dense.double()) ** 2).sum()),
        "nonzero": int(dense.count_nonzero()),
        "l1_norm": float(dense.double().abs().sum()),
    }


def read_layers(path: Path) -> list[Tensor]:
    """The three weight matrices."""
    return [value.detach() for value in read_reference(path).parameters() if value.ndim == 2]


if __name__ == "__main__":
    main()
