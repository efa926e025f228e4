"""What real weights cost in theory and as coded: Laplace fits, D(R), SuRP in both modes, the embedded quantiser; sizes.

    make bench-ratedistortion ARGS="lenet300 lenet5"     # some networks; the others' figures stay

Fits: kurtosis and the largest difference to the fitted distribution, of every weight matrix and kernel. Rates: bits a
weight at an L1 error relative to the L1 norm; of a net at the mean of its weights' errors, each scheme at its own best
allocation (SuRP: one threshold for all). All rates are those of payloads, without the header. Bounds are for
independent entries of these weights. Every layer's rates are in the result file; the table has each net's.

Sizes: the net pruned by SuRP one-shot, stored as 32-bit values and gaps of the best width, against its coded file with
header. The same nonzeros exactly, coded as float32, stand beside.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import Tensor, nn

from benchmarks.record import RESULTS, read_result, write_result
from summands import Successive
from summands.container import to_bytes
from summands.forms import Sparse
from summands.rates import DISTORTIONS, laplace_fits, rate_table
from summands.records import RateRecord
from summands.report.plots import plot_rates
from summands.report.tables import render
from summands.zoo.train import reference

REFERENCES = {
    "lenet300": "lenet300-mnist",
    "lenet5": "lenet5-mnist",
    "resnet20": "resnet20-fashion-mnist",
    "vgg": "vgg-fashion-mnist",
}
NETWORKS = (*REFERENCES, "efficientnet-lite0")
LARGE = (0.99, 0.95, 0.9, 0.8, 0.5)
"""Distortions of networks of more than a million weights."""
SPARSITIES = (0.9, 0.95, 0.98, 0.99)
PICTURES = Path(__file__).parent.parent / "docs" / "figures"


def weights_of(name: str) -> dict[str, Tensor]:
    """Every weight matrix and kernel."""
    model: nn.Module
    if name in REFERENCES:
        model = reference(REFERENCES[name]).model
    else:
        from benchmarks.pretrained import network

        model = network(name).model
    named = {key: p.detach() for key, p in model.named_parameters()}
    return {key: weight for key, weight in named.items() if weight.ndim >= 2}


def measured(name: str) -> dict[str, Any]:
    weights = weights_of(name)
    small = sum(weight.numel() for weight in weights.values()) <= 1_000_000
    rates = rate_table(weights, DISTORTIONS if small else LARGE)
    return {
        "fits": [asdict(row) for row in laplace_fits(weights)],
        "rates": [asdict(row) for row in rates],
        "sizes": [size(weights, sparsity, mode) for mode in ("paper", "authors") for sparsity in SPARSITIES],
    }


def size(weights: dict[str, Tensor], sparsity: float, mode: Any) -> dict[str, Any]:
    forms = Successive(sparsity, mode=mode, per="task").project_task(weights)
    exact, rebuilt = (torch.cat([t.reshape(-1) for t in tensors]) for tensors in _pairs(weights, forms))
    kept = rebuilt.nonzero().reshape(-1)
    pruned = Sparse(shape=exact.shape, dtype=exact.dtype, indices=kept, values=exact[kept])
    plain, coded = pruned.paper_bits(set()) / 8, len(to_bytes(forms))
    return {
        "mode": mode,
        "sparsity": sparsity,
        "nonzero": kept.numel(),
        "gaps_and_float32_bytes": plain,
        "coded_float32_bytes": len(to_bytes({"w": pruned})),
        "coded_bytes": coded,
        "smaller": plain / coded,
    }


def _pairs(weights: dict[str, Tensor], forms: Any) -> tuple[list[Tensor], list[Tensor]]:
    return list(weights.values()), [forms[name].dense() for name in weights]


def table(figures: dict[str, dict[str, Any]]) -> str:
    """Fits and rates of every net, then the sizes."""
    fits = Table("net", box=None)
    for heading in ("weights", "kurtosis, least to most (Laplace 6)", "distance to the fit", "of the largest weight"):
        fits.add_column(heading, justify="right")
    rates = Table("net", box=None)
    for heading in ("L1 error", "Laplace R(D)", "histogram R(D)", "embedded", "SuRP, paper", "SuRP, authors"):
        rates.add_column(heading, justify="right")
    sizes = Table("net", "mode", box=None)
    for heading in ("sparsity", "nonzero", "32-bit values and gaps", "coded as float32", "coded SuRP", "times smaller"):
        sizes.add_column(heading, justify="right")
    for name, own in figures.items():
        kurtoses, distances = ([row[key] for row in own["fits"]] for key in ("kurtosis", "distance"))
        largest = max(own["fits"], key=lambda row: row["size"])
        fits.add_row(
            name,
            f"{sum(row['size'] for row in own['fits']):,}",
            f"{min(kurtoses):.1f} to {max(kurtoses):.1f}",
            f"{min(distances):.3f} to {max(distances):.3f}",
            f"{largest['name']}: {largest['kurtosis']:.1f}, {largest['distance']:.3f}",
        )
        shown = [row for row in own["rates"] if row["name"] in ("all", largest["name"])]
        for row in shown:
            values = (row[key] for key in ("laplace", "histogram", "embedded", "paper", "authors"))
            rates.add_row(f"{name} {row['name']}", f"{row['distortion']:g}", *(f"{value:.4f}" for value in values))
        for row in own["sizes"]:
            figures_of = (row["nonzero"], row["gaps_and_float32_bytes"], row["coded_float32_bytes"], row["coded_bytes"])
            sizes.add_row(
                name,
                row["mode"],
                f"{row['sparsity']:g}",
                *(f"{value:,.0f}" for value in figures_of),
                f"{row['smaller']:.2f}",
            )
    return "\n\n".join(render(each) for each in (fits, rates, sizes))


def summary(figures: dict[str, dict[str, Any]]) -> str:
    """For docs/pruning.md: the largest weight of every net, and the sizes of the pruned nets."""
    rates = (
        "| net: largest weight | kurtosis | distance | D | Laplace | histogram | embedded | SuRP paper | authors |\n"
    )
    rates += "|---" * 9 + "|\n"
    sizes = "| net | sparsity | 32-bit values and gaps, bytes | SuRP's file, bytes | times smaller, paper | authors |\n"
    sizes += "|---" * 6 + "|\n"
    for name, own in figures.items():
        largest = max(own["fits"], key=lambda row: row["size"])
        for row in own["rates"]:
            if row["name"] == largest["name"] and row["distortion"] in (0.95, 0.8, 0.5):
                bits = (f"{row[key]:.3f}" for key in ("laplace", "histogram", "embedded", "paper", "authors"))
                fit = f"{largest['kurtosis']:.1f} | {largest['distance']:.3f}"
                rates += f"| {name}: {largest['name']} | {fit} | {row['distortion']:g} | {' | '.join(bits)} |\n"
        half = len(own["sizes"]) // 2
        for paper, authors in zip(own["sizes"][:half], own["sizes"][half:], strict=True):
            both = f"{paper['gaps_and_float32_bytes']:,.0f} | {paper['coded_bytes']:,} | {paper['smaller']:.2f}"
            sizes += f"| {name} | {paper['sparsity']:g} | {both} | {authors['smaller']:.2f} |\n"
    return f"{rates}\n{sizes}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", default=NETWORKS, help=f"of {', '.join(NETWORKS)}; by default all")
    torch.set_num_threads(1)
    for name in parser.parse_args().networks:
        before = read_result("ratedistortion")["figures"] if (RESULTS / "ratedistortion.json").exists() else {}
        found = {**before, name: measured(name)}
        command = f"python -m benchmarks.ratedistortion {' '.join(key for key in NETWORKS if key in found)}"
        write_result("ratedistortion", {key: found[key] for key in NETWORKS if key in found}, command=command, seed=0)
        PICTURES.mkdir(exist_ok=True)
        plot_rates([RateRecord(**row) for row in found[name]["rates"]], PICTURES / f"rates-{name}.png")
    print(table(read_result("ratedistortion")["figures"]))


if __name__ == "__main__":
    main()
