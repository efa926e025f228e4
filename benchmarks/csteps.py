"""The C steps against the clock and against what else solves them: `python -m benchmarks.csteps` (make bench-csteps).

Times are of the process (CPU seconds), on one thread; what is compared runs side by side in this one process.
"""

from __future__ import annotations

import argparse
import resource
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from threadpoolctl import threadpool_limits
from torch import Tensor

from benchmarks.record import write_result
from summands.compressions import LowRank, Prune, Quantize
from summands.report.tables import render

SEED = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the sizes, to see that it runs")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    _compile()
    figures: dict[str, Any] = {}
    with threadpool_limits(1):
        figures["codebook_against_kmeans"] = [against_kmeans(10**5 if quick else 10**6, k) for k in (2, 4, 16)]
        figures["large_codebook"] = large_codebook(2 * 10**6 if quick else 2 * 10**7)
        figures["large_pruning"] = large_pruning(2 * 10**6 if quick else 2 * 10**7)
        figures["rank_selection"] = rank_selection(512 if quick else 4096)
        figures["warm_sum"] = warm_sum(10**5 if quick else 10**6)
    if not quick:
        print("written:", write_result("csteps", figures, seed=SEED, threads=1).relative_to(Path.cwd()))


def table(figures: dict[str, Any]) -> str:
    """A row a C step, its CPU seconds, and what it is measured against."""
    out = Table("C step", "seconds", "against", box=None)
    for row in figures["codebook_against_kmeans"]:
        excess = row["kmeans_distortion"] / row["distortion"] - 1
        against = f"KMeans(n_init=10): {row['times_faster']:.0f} times as long, distortion {excess:+.1e}"
        out.add_row(f"codebook K={row['k']}, {row['size']:,} weights", f"{row['seconds']:.3f}", against)
    large, pruning = figures["large_codebook"], figures["large_pruning"]
    memory = f"{large['extra_bytes'] / 1e6:.0f} MB beside {large['weight_bytes'] / 1e6:.0f} MB of weights"
    out.add_row(f"codebook K=16, {large['size']:,} weights", f"{large['seconds']:.2f}", memory)
    out.add_row(f"pruning, {pruning['size']:,} weights", f"{pruning['seconds']:.2f}", "")
    ranks, warm = figures["rank_selection"], figures["warm_sum"]
    times = f"{ranks['times_of_one_eigendecomposition']:.2f} times one float64 eigendecomposition, off the optimum by "
    times += f"{ranks['excess_over_optimum']:.0e}"
    out.add_row(f"rank selection, {ranks['size']} x {ranks['size']}", f"{ranks['seconds']:.1f}", times)
    against = f"from nothing {warm['cold_seconds']:.2f}"
    out.add_row(f"Q + P, {warm['size']:,} weights, warm", f"{warm['warm_seconds']:.2f}", against)
    return render(out)


def against_kmeans(size: int, k: int) -> dict[str, Any]:
    """The optimal codebook and scikit-learn's k-means, ten starts, on the same Laplace weights."""
    from sklearn.cluster import KMeans

    weight = laplace(size)
    seconds, form = timed(lambda: Quantize(k).project(weight), repeat=3)
    ours = float(((weight.double() - form.dense().double()) ** 2).mean())
    model = KMeans(k, n_init=10, random_state=SEED)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs_seconds, _ = timed(lambda: model.fit(weight.double().reshape(-1, 1).numpy()))
    theirs = model.inertia_ / size
    print(f"codebook, {size:,} weights, K={k}: distortion {ours:.9f} in {seconds:.3f} s")
    print(
        f"    KMeans(n_init=10): {theirs / ours - 1:+.2e} of distortion, {theirs_seconds / seconds:.0f} times as long"
    )
    return {
        "size": size,
        "k": k,
        "distortion": ours,
        "seconds": seconds,
        "kmeans_distortion": theirs,
        "kmeans_seconds": theirs_seconds,
        "times_faster": theirs_seconds / seconds,
        "never_higher": ours <= theirs * (1 + 1e-9),
    }


def large_codebook(size: int) -> dict[str, Any]:
    weight = laplace(size)
    with PeakMemory() as peak:
        seconds, _ = timed(lambda: Quantize(16).project(weight))
    print(f"codebook, {size:,} weights, K=16: {seconds:.1f} s, {peak.extra_bytes / 1e6:.0f} MB of memory")
    return {"size": size, "k": 16, "seconds": seconds, "extra_bytes": peak.extra_bytes, "weight_bytes": weight.nbytes}


def large_pruning(size: int) -> dict[str, Any]:
    weight = laplace(size)
    seconds, _ = timed(lambda: Prune(keep=0.05).project(weight), repeat=3)
    print(f"pruning, {size:,} weights to 5 %: {seconds:.2f} s")
    return {"size": size, "keep": 0.05, "seconds": seconds}


def rank_selection(size: int) -> dict[str, Any]:
    """Rank selection of a square matrix against one float64 symmetric eigendecomposition of its size."""
    generator = torch.Generator().manual_seed(SEED)
    left, right = (torch.randn(size, size // 16, generator=generator) for _ in range(2))
    matrix = left @ right.T / size**0.5 + torch.randn(size, size, generator=generator) * 0.1
    alpha = 0.032
    compression = LowRank("auto", alpha=alpha)
    gram = matrix.double().T @ matrix.double()
    eigen_seconds, (spectrum, _) = timed(lambda: torch.linalg.eigh(gram))
    seconds, form = timed(lambda: compression.project(matrix, mu=1.0))
    left_out = torch.cat([spectrum.clamp_min(0).cumsum(0).flip(0), torch.zeros(1, dtype=torch.float64)])
    optimum = float((left_out + 2 * alpha * 2 * size * torch.arange(size + 1)).min())
    excess = compression.objective(matrix, form, mu=1.0) / optimum - 1
    rank = form.tensors()["left"].shape[1]
    times = seconds / eigen_seconds
    print(f"rank selection, {size} x {size}: rank {rank} in {seconds:.1f} s, objective {excess:+.1e} off the optimum")
    print(f"    one float64 eigendecomposition: {eigen_seconds:.1f} s; {times:.2f} times that")
    return {
        "size": size,
        "rank": rank,
        "seconds": seconds,
        "eigen_seconds": eigen_seconds,
        "times_of_one_eigendecomposition": times,
        "excess_over_optimum": excess,
    }


def warm_sum(size: int) -> dict[str, Any]:
    """One C step of a codebook of two values and 1 % free entries, after a small move of the weights."""
    weight = laplace(size)
    compression = Quantize(2) + Prune(keep=0.01, dtype="float16")
    cold, form = timed(lambda: compression.project(weight))
    moved = weight + 0.01 * laplace(size, SEED + 1)
    warm, again = timed(lambda: compression.project(moved, previous=form), repeat=3)
    before, after = compression.objective(moved, form), compression.objective(moved, again)
    print(f"Q + P, {size:,} weights: cold {cold:.2f} s, warm {warm:.2f} s, objective {before:.1f} -> {after:.1f}")
    return {"size": size, "cold_seconds": cold, "warm_seconds": warm, "objective": [before, after]}


def laplace(size: int, seed: int = SEED) -> Tensor:
    uniform = torch.rand(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 0.5
    return (-uniform.sign() * (1 - 2 * uniform.abs()).clamp_min(1e-300).log()).float()


def timed(function: Callable[[], Any], repeat: int = 1) -> tuple[float, Any]:
    """The least CPU seconds of some runs, and the last result."""
    least = float("inf")
    for _ in range(repeat):
        start = time.process_time()
        result = function()
        least = min(least, time.process_time() - start)
    return least, result


class PeakMemory:
    """Bytes of resident memory beyond what there was at the start, looked at every millisecond."""

    def __enter__(self) -> PeakMemory:
        self._page, self._done = resource.getpagesize(), threading.Event()
        self._before = self._most = self._resident()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    @property
    def extra_bytes(self) -> int:
        return self._most - self._before

    def _watch(self) -> None:
        while not self._done.wait(0.001):
            self._most = max(self._most, self._resident())

    def _resident(self) -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * self._page


def _compile() -> None:
    small = laplace(5000)
    (Quantize(2) + Prune(keep=0.01)).project(small)
    Quantize(16).project(small)


if __name__ == "__main__":
    main()
