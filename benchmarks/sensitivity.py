"""Issue: does it help to spend bytes where the loss minds? LeNet-300-100 on MNIST, compressed directly.

The same plan and budget with squared errors as they are, weighted entry by entry by the Fisher diagonal (mean squared
gradients of the loss over 2,000 training images, one by one), and weighted weight by weight by the measured rise of the
training loss under noise. No training. Loss and error are those of the whole test set, measured once for each file.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import os
from functools import cache, partial
from typing import Any

import torch
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

import summands as sm
from benchmarks.record import piece, write_result
from summands.report.tables import render
from summands.sensitivity import fisher_importance, measured_importance
from summands.zoo.data import load
from summands.zoo.train import mean_loss, reference

NETWORK = "lenet300-mnist"
RULES = {"Q": 'Quantize("auto")', "P": 'Prune("auto", dtype="float16")'}
BITS = {"Q": (0.5, 0.75, 1.0), "P": (0.5, 1.0, 2.0)}
WAYS = ("none", "Fisher, by entry", "measured, by weight")
SAMPLES = 2000


@cache
def importances() -> dict[str, Any]:
    """The importances by the way that they are found."""
    data, trained = load("mnist"), reference(NETWORK)
    images, labels = data.train.images[:SAMPLES], data.train.labels[:SAMPLES]
    names = [name for name, _ in trained.model.named_parameters() if name.endswith("weight")]
    one_by_one = list(zip(images.split(1), labels.split(1), strict=True))
    fisher = fisher_importance(trained.model, lambda net, batch: F.cross_entropy(net(batch[0]), batch[1]), one_by_one)
    measured = measured_importance(trained.model, lambda net: mean_loss(net, images, labels), names)
    return dict(zip(WAYS, (None, {name: fisher[name] for name in names}, measured), strict=True))


def row_of(rule: str, bits: float, way: str) -> dict[str, Any]:
    """One file, measured on the test set."""
    data, trained = load("mnist"), reference(NETWORK)
    rules = sm.Plan({"*.weight": RULES[rule]}, ignore=["*.bias"])
    result = sm.compress(trained.model, rules, budget=f"{bits} bits", importance=importances()[way])
    compressed = result.apply_(copy.deepcopy(trained.model))
    return {
        "network": NETWORK,
        "rule": rule,
        "bits_per_weight": bits,
        "importance": way,
        "file_bytes": result.size_bytes,
        **judged(compressed, data.test.images, data.test.labels),
        "reference_test_error": trained.test_error,
        "relative_errors": dict(result.relative_errors),
    }


def judged(model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, float]:
    """Mean loss and error in percent, in one pass."""
    with torch.inference_mode():
        logits = torch.cat([model.eval()(batch) for batch in images.split(1000)])
    mistakes = (logits.argmax(1) != labels).double().mean()
    return {"test_loss": float(F.cross_entropy(logits, labels)), "test_error": 100 * float(mistakes)}


def table(rows: list[dict[str, Any]]) -> str:
    """One line a size, the importances side by side."""
    ways = list(dict.fromkeys(row["importance"] for row in rows))
    out = Table(
        "network",
        "part",
        "bits/weight",
        "file bytes",
        *(f"{way}: loss, error" for way in ways),
        box=None,
        pad_edge=False,
    )
    for key in dict.fromkeys((row["network"], row["rule"], row["bits_per_weight"]) for row in rows):
        own = [row for row in rows if (row["network"], row["rule"], row["bits_per_weight"]) == key]
        sizes = f"{min(row['file_bytes'] for row in own):,} to {max(row['file_bytes'] for row in own):,}"
        cells = [
            f"{row['test_loss']:.3f}, {row['test_error']:.2f} %"
            for way in ways
            for row in own
            if row["importance"] == way
        ]
        out.add_row(key[0], key[1], str(key[2]), sizes, *cells)
    return render(out)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    torch.set_flush_denormal(True)
    rows = []
    for rule, way in itertools.product(RULES, WAYS):
        for bits in BITS[rule]:
            name = f"{NETWORK} {rule} {bits} {way}"
            rows.append(piece("sensitivity", name, partial(row_of, rule, bits, way)))
            print(*list(rows[-1].values())[:7], flush=True)
    print("\n" + table(rows))
    print(f"\nwrote {write_result('sensitivity', rows, seeds=[0])}")


if __name__ == "__main__":
    main()
