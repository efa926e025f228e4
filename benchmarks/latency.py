"""Issue: are the multiply-adds that low rank saves time that is saved? One thread, dense and factored in one run.

Every layer with more than ten inputs and outputs gets the rank, in the view "out", whose factors take a share of its
multiply-adds; weights are initial, as accuracy is not the question here. Then `result.to_modules`. Passes of the dense
and the factored network alternate; the ratio is that of their medians.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from typing import Any

import torch
from rich.table import Table
from torch import nn

import summands as sm
from benchmarks.record import write_result
from summands.forms import Dense
from summands.report.tables import render
from summands.runs import recorded_runs
from summands.views import OUT
from summands.zoo.networks import build

NETWORKS = {"lenet300": (1, 28, 28), "lenet5": (1, 28, 28), "resnet20": (1, 28, 28), "vgg": (1, 28, 28)}
SHARES = (0.5, 0.25)
BATCHES = (1, 16)


def measured(network: str, seconds: float) -> list[dict[str, Any]]:
    """One row a share and batch size."""
    shape = NETWORKS[network]
    model = build(network, shape).eval()
    inputs = [torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))]
    runs = recorded_runs(model, inputs)
    weights = dict(model.named_parameters())
    each = {
        n: run.flops(Dense(shape=weights[n].shape, dtype=weights[n].dtype, values=weights[n]))
        for n, run in runs.items()
    }
    dense = sum(each.values())
    large = [name for name in each if min(weights[name].shape[:2]) > 10]
    rows = []
    for share in SHARES:
        rules = {}
        for name in large:
            run = runs[name]
            one = OUT.rank_flops(weights[name].shape, run.in_size, run.out_size, run.groups) or each[name]
            rules[name] = sm.LowRank(max(1, int(share * each[name] / one)))
        result = sm.compress(model, sm.Plan(rules, ignore=[n for n in weights if n not in large]))
        factored = result.to_modules(model, inputs)
        spent = sum(run.flops(result.forms[name]) for name, run in runs.items())
        for batch in BATCHES:
            x = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(1))
            plain, fast = alternated(model, factored, x, seconds)
            rows.append(
                {
                    "network": network,
                    "flops_ratio": spent / dense,
                    "batch": batch,
                    "dense_ms": 1e3 * plain,
                    "latency_ratio": fast / plain,
                    "layers_in_factors": sum(type(a) is not type(b) for a, b in layers(model, factored)),
                    "layers": len(runs),
                    "largest_difference": difference(result.apply_(build(network, shape)).eval(), factored, x),
                }
            )
            print(*rows[-1].values(), flush=True)
    return rows


def alternated(a: nn.Module, b: nn.Module, x: torch.Tensor, seconds: float) -> tuple[float, float]:
    """The median seconds of a pass of each, taken in turn."""
    times: tuple[list[float], list[float]] = ([], [])
    with torch.inference_mode():
        for model in (a, b) * 3:
            model(x)
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or len(times[0]) < 5:
            for model, own in zip((a, b), times, strict=True):
                began = time.perf_counter()
                model(x)
                own.append(time.perf_counter() - began)
    return statistics.median(times[0]), statistics.median(times[1])


def layers(model: nn.Module, factored: nn.Module) -> list[tuple[nn.Module, nn.Module]]:
    """The layers of both under the same names."""
    found = dict(factored.named_modules())
    return [(m, found[n]) for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]


def difference(dense: nn.Module, factored: nn.Module, x: torch.Tensor) -> float:
    """The largest difference of an output, as a share of the largest output."""
    with torch.inference_mode():
        expected = dense(x)
        return float((factored(x) - expected).abs().max() / expected.abs().max())


def table(rows: list[dict[str, Any]]) -> str:
    """FLOPs beside time, both as ratio to dense."""
    out = Table("network", "in factors", "FLOPs / dense", "batch", "time / dense", "dense ms", box=None, pad_edge=False)
    for row in rows:
        out.add_row(
            row["network"],
            f"{row['layers_in_factors']} of {row['layers']}",
            f"{row['flops_ratio']:.2f}",
            str(row["batch"]),
            f"{row['latency_ratio']:.2f}",
            f"{row['dense_ms']:.2f}",
        )
    return render(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.5, help="of each comparison")
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    torch.set_flush_denormal(True)
    rows = [row for network in NETWORKS for row in measured(network, arguments.seconds)]
    print("\n" + table(rows))
    print(f"\nwrote {write_result('latency', rows)}")


if __name__ == "__main__":
    main()
