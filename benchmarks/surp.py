"""Successive pruning: what Laplacian weights cost, against the theory, and how fast the picks are.

Rates: 270,000 weights drawn from a Laplace density with lam = 1, both rules, the mean of four seeds. D is the mean
absolute error in units of 1/lam; "ideal" is the entropy of the indices given |S| plus a bit for every kept weight,
"coded" the whole payload with scale, signs and refreshes. The rivals at the same D: the cheapest of several dead-zone
quantisers, an embedded one, and the largest weights kept as bfloat16, both coded by the same coder.

"Shared": three weights of a third of that size and of different scales under one threshold (`per="task"`), whose picks
a file holds once. "Layers": whole files, in one layer and in eight, from each of which a prefix decodes.

Speed: process CPU time of one thread, projection and coding; the direct implementation looks at all n weights for every
pick, and must give the same picks.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from typing import Any, Literal

import numpy as np
import torch
from numba import njit
from rich.table import Table
from torch import Tensor

from benchmarks.record import write_result
from summands.coding import decode_section, encode_section, layout_of
from summands.coding.limits import laplace_rate_l1
from summands.coding.sequence import new_sequence, position_at
from summands.compressions import Embedded, Grid, Prune, Successive
from summands.compressions.successive_picks import index_bits, pick_all
from summands.container import measure, read_header, to_bytes
from summands.forms import Form
from summands.forms import Grid as GridForm
from summands.forms import Successive as SuccessiveForm
from summands.forms.successive import RULES, first_threshold, next_threshold, refreshed
from summands.report.tables import render

Mode = Literal["paper", "authors"]
MODES: tuple[Mode, ...] = ("paper", "authors")
SIZE = 270_000
DISTORTIONS = (0.99, 0.95, 0.90, 0.80, 0.50)
SEEDS = (0, 1, 2, 3)
DEAD_ZONES = (0.6, 0.7, 0.8, 0.9, 0.95, 1.0)


@njit
def pick_directly(residual, rule, alpha, seed, most_kept):
    """The rule as it is written down, O(n) a pick."""
    total = np.int64(residual.size)
    events, count, kept = np.empty(64 * total, dtype=np.int32), 0, 0
    picked = np.zeros(total, dtype=np.bool_)
    sequence, place = new_sequence(seed, total), np.int64(0)
    rest, refreshes, threshold = total << 32, 0, first_threshold(alpha, total)
    while kept < most_kept:
        members = 0
        for i in range(total):
            members += residual[i] > threshold
        if members == 0:
            refreshes += 1
            threshold, alpha = refreshed(rule, threshold, alpha, rest, total, refreshes)
            events[count] = 0
            count += 1
            continue
        m = position_at(place, sequence)
        while residual[m] <= threshold:
            place += 1
            m = position_at(place, sequence)
        place += 1
        kept += not picked[m]
        picked[m] = True
        events[count] = m + 1
        count += 1
        residual[m] -= threshold
        rest -= threshold
        threshold = next_threshold(rule, threshold, alpha, rest, total)
    return events[:count]


def laplace(size: int, seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).laplace(size=size)).float()


def units_of(weight: torch.Tensor, form: SuccessiveForm) -> tuple[np.ndarray, np.ndarray]:
    """The magnitudes in units, and the positions by decreasing magnitude, as the compression has them."""
    unit = float(form.scale) * 2.0**-32
    units = np.floor(weight.double().abs().numpy() / unit).astype(np.int64)
    return units, np.argsort(-units, kind="stable").astype(np.int32)


def projected(compression: Successive, weight: Tensor) -> SuccessiveForm:
    form = compression.project(weight)
    assert isinstance(form, SuccessiveForm)
    return form


def rates(mode: Mode, distortion: float) -> dict[str, Any]:
    runs = []
    for seed in SEEDS:
        weight = laplace(SIZE, seed)
        goal = distortion / float(weight.abs().double().mean())
        alpha = 10.0 if mode == "authors" else None
        form = projected(Successive(distortion=goal, mode=mode, alpha=alpha, seed=seed), weight)
        units, order = units_of(weight, form)
        rest = int(goal * 2**32 * SIZE)
        events, sizes = pick_all(units, order, RULES.index(mode), form.alpha, seed, SIZE, rest, math.inf)
        ideal = sum(index_bits(int(s), SIZE) for s in sizes[events > 0]) + form.kept
        payload = encode_section([form]).payload
        if not decode_section(payload, [layout_of(form)])[0].same(form):
            raise RuntimeError("the decoder gives another form")
        runs.append((ideal / SIZE, 8 * len(payload) / SIZE, form.kept / SIZE, form.picks, len(events) - form.picks))
    ideal, coded, kept, picks, refreshes = (statistics.mean(column) for column in zip(*runs, strict=True))
    return {
        "mode": mode,
        "distortion": distortion,
        "shannon_bits_per_weight": laplace_rate_l1(distortion, 1.0),
        "ideal_bits_per_weight": ideal,
        "coded_bits_per_weight": coded,
        "coded_over_ideal": coded / ideal,
        "nonzero": kept,
        "picks": picks,
        "refreshes": refreshes,
    }


def shared(mode: Mode, distortion: float) -> dict[str, Any]:
    """Three weights in one sequence of picks, one seed."""
    parts = [laplace(SIZE // 3, 10 + i) for i in range(3)]
    weights = {str(i): scale * part for i, (scale, part) in enumerate(zip((1.0, 0.02, 50.0), parts, strict=True))}
    alpha = 10.0 if mode == "authors" else None
    made = Successive(distortion=distortion, mode=mode, alpha=alpha, per="task").project_task(weights)
    forms = {name: form for name, form in made.items() if isinstance(form, SuccessiveForm)}
    first = forms["0"]
    units = np.concatenate([units_of(weight, forms[name])[0] for name, weight in weights.items()])
    order = np.argsort(-units, kind="stable").astype(np.int32)
    rest = int(distortion * 2**32 * units.size)
    events, sizes = pick_all(units, order, RULES.index(mode), first.alpha, 0, units.size, rest, math.inf)
    kept = sum(form.kept for form in forms.values())
    ideal = sum(index_bits(int(s), units.size) for s in sizes[events > 0]) + kept
    written = measure(forms)
    coded = 8 * (written.shared_bytes + written.payload_bytes)
    return {
        "mode": mode,
        "distortion": distortion,
        "ideal_bits_per_weight": ideal / units.size,
        "coded_bits_per_weight": coded / units.size,
        "coded_over_ideal": coded / ideal,
    }


def in_layers(distortion: float) -> dict[str, Any]:
    """Bytes of a file in one layer and in eight."""
    weight = laplace(SIZE, 0)
    goal = distortion / float(weight.abs().double().mean())
    row: dict[str, Any] = {"distortion": distortion}
    for name, compression in (("successive", Successive(distortion=goal)), ("embedded", Embedded(distortion=goal))):
        forms = {"w": compression.project(weight)}
        whole = to_bytes(forms, layers=8)
        row |= {
            f"{name}_bytes": len(to_bytes(forms)),
            f"{name}_bytes_in_layers": len(whole),
            f"{name}_layers": len(read_header(whole).layers),
        }
    return row


def rivals(distortion: float) -> dict[str, Any]:
    """Bits a weight and share of nonzeros at this D, one seed."""
    weight = laplace(SIZE, 0)

    def fits(form: Form) -> bool:
        return float((weight - form.dense()).abs().double().mean()) <= distortion

    def bits(form: Form) -> float:
        return 8 * len(encode_section([form]).payload) / SIZE

    grids = []
    for zone in DEAD_ZONES:
        low, high = 0.05, 16.0
        for _ in range(16):
            middle = math.sqrt(low * high)
            low, high = (middle, high) if fits(Grid(middle, dead_zone=zone).project(weight)) else (low, middle)
        grids.append(Grid(low, dead_zone=zone).project(weight))
    grid = min(grids, key=bits)
    least, most = 0, SIZE
    while least < most:
        count = (least + most) // 2
        least, most = (
            (least, count) if fits(Prune(count=count, dtype="bfloat16").project(weight)) else (count + 1, most)
        )
    pruned = Prune(count=least, dtype="bfloat16").project(weight)
    embedded = Embedded(distortion=distortion / float(weight.abs().double().mean())).project(weight)
    assert isinstance(embedded, GridForm) and isinstance(grid, GridForm)
    return {
        "distortion": distortion,
        "shannon_bits_per_weight": laplace_rate_l1(distortion, 1.0),
        "embedded_bits_per_weight": bits(embedded),
        "embedded_nonzero": float((embedded.levels != 0).double().mean()),
        "grid_bits_per_weight": bits(grid),
        "grid_nonzero": float((grid.levels != 0).double().mean()),
        "prune_bits_per_weight": bits(pruned),
        "prune_nonzero": least / SIZE,
    }


def speed(size: int, mode: Mode) -> dict[str, Any]:
    """CPU seconds to 99 % sparsity."""
    weight, compression = laplace(size, 0), Successive(sparsity=0.99, mode=mode)
    start = time.process_time()
    form = projected(compression, weight)
    picked = time.process_time()
    payload = encode_section([form]).payload
    encoded = time.process_time()
    decode_section(payload, [layout_of(form)])[0].dense()
    decoded = time.process_time()
    return {
        "weights": size,
        "mode": mode,
        "picks": form.picks,
        "project_seconds": picked - start,
        "encode_seconds": encoded - picked,
        "decode_seconds": decoded - encoded,
    }


def speed_up(mode: Mode) -> dict[str, Any]:
    """CPU seconds of the picks alone, both ways, without the sort and with it."""
    weight = laplace(SIZE, 0)
    form = projected(Successive(sparsity=0.99, mode=mode), weight)
    rule, most = RULES.index(mode), form.kept
    start = time.process_time()
    units, order = units_of(weight, form)
    sorted_at = time.process_time()
    events, _ = pick_all(units.copy(), order, rule, form.alpha, 0, most, -1, math.inf)
    picked = time.process_time()
    direct = pick_directly(units.copy(), rule, form.alpha, 0, most)
    done = time.process_time()
    if not np.array_equal(events, direct):
        raise RuntimeError("the direct implementation picks differently")
    ours = picked - sorted_at
    return {
        "weights": SIZE,
        "mode": mode,
        "picks_seconds": ours,
        "sort_seconds": sorted_at - start,
        "direct_seconds": done - picked,
        "speed_up": (done - picked) / (picked - start),
        "speed_up_without_sort": (done - picked) / ours,
    }


def table(figures: dict[str, list[dict[str, Any]]]) -> str:
    """A table for each kind of figure."""
    tables = []
    for name, rows in figures.items():
        out = Table(*(heading.replace("_", " ") for heading in rows[0]), title=name, box=None)
        for row in rows:
            out.add_row(*(f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()))
        tables.append(render(out))
    return "\n\n".join(tables)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="leave out the 15 million weights")
    arguments = parser.parse_args()
    for mode in MODES:  # compile
        speed(1000, mode)
    pick_directly(np.array([2**32, 2**33]), 1, 1 << 16, 0, 1)
    sizes = (SIZE,) if arguments.quick else (SIZE, 15_000_000)
    figures = {
        "rates": [rates(mode, d) for mode in MODES for d in DISTORTIONS],
        "shared": [shared(mode, d) for mode in MODES for d in DISTORTIONS],
        "layers": [in_layers(d) for d in DISTORTIONS],
        "rivals": [rivals(d) for d in DISTORTIONS],
        "speed": [speed(size, mode) for size in sizes for mode in MODES],
        "speed_up": [speed_up(mode) for mode in MODES],
    }
    print(table(figures))
    write_result("surp", figures, seeds=SEEDS)


if __name__ == "__main__":
    main()
