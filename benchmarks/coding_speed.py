"""How fast is our coder? Weights a second of ours and NNCodec's, on one thread in the same run, and on two.

Laplace integers at four rates. Speed is of process time, the best of some runs. For "two threads" each of one or two
threads decodes the section for a tenth of a second or more, in turn; the ratio of the best wall times needs a second
idle core. NNCodec is set up by `python -m benchmarks.nncodec`.
"""

from __future__ import annotations

import argparse
import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from rich.table import Table

from benchmarks import nncodec
from benchmarks.coding_integers import UNIT, sections
from benchmarks.record import write_result
from summands.coding import decode_section, encode_section, layout_of
from summands.coding.limits import entropy
from summands.report.tables import render

Row = dict[str, Any]
RATES = (0.1, 0.6, 2.5, 5.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=31)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    figures = [speed_row(rate, arguments.entries, arguments.repeats) for rate in RATES]
    print(table(figures))
    print(f"wrote {write_result('coding_speed', figures)}")


def table(rows: Sequence[Row]) -> str:
    """A row a rate."""
    keys = [f"{way}_mweights_per_second" for way in ("encode", "decode")]
    keys += ["encode_ratio", "encode_ratio_untuned", "decode_ratio", "two_threads"]
    out = Table("bits/weight", title="Laplace integers, one thread; ratios to NNCodec", box=None)
    for key in keys:
        out.add_column(key.replace("_mweights_per_second", " Mweights/s").replace("_", " "), justify="right")
    for row in rows:
        out.add_row(f"{row['bits_per_weight']:.2f}", *(f"{row[key]:.2f}" if key in row else "-" for key in keys))
    return render(out)


def speed_row(rate: float, count: int, repeats: int) -> Row:
    """Of about `rate` bits a weight."""
    levels = {"laplace": _laplace(rate, count)}
    (forms,) = sections(levels)
    payload = encode_section(forms, [UNIT]).payload
    layouts = [layout_of(form, [UNIT]) for form in forms]

    def decode() -> None:
        decode_section(payload, layouts, [UNIT])

    def often(times: int) -> None:
        for _ in range(times):
            decode()

    def on_threads(number: int, times: int) -> None:
        threads = [threading.Thread(target=often, args=(times,)) for _ in range(number)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    decode()
    encode_seconds = _best(lambda: encode_section(forms, [UNIT]), repeats)
    decode_seconds = _best(decode, repeats)
    times = math.ceil(0.1 / decode_seconds)
    one, two = math.inf, math.inf
    for _ in range(repeats):  # in turn, so that a neighbour's noise meets both
        one = min(one, _best(lambda: on_threads(1, times), 1, time.perf_counter))
        two = min(two, _best(lambda: on_threads(2, times), 1, time.perf_counter))
    row = {
        "bits_per_weight": 8 * len(payload) / count,
        "encode_mweights_per_second": count / encode_seconds / 1e6,
        "decode_mweights_per_second": count / decode_seconds / 1e6,
        "two_threads": 2 * one / two,
    }
    if nncodec.reason() is not None:
        return row
    theirs = nncodec.integers(levels, repeats)
    return row | {
        "nncodec_encode_mweights_per_second": count / theirs["encode"] / 1e6,
        "nncodec_decode_mweights_per_second": count / theirs["decode"] / 1e6,
        "encode_ratio": theirs["encode"] / encode_seconds,
        "encode_ratio_untuned": theirs["encode_untuned"] / encode_seconds,
        "decode_ratio": theirs["decode"] / decode_seconds,
    }


def _laplace(rate: float, count: int) -> np.ndarray:
    """Laplace values rounded to the grid on which their entropy is `rate` bits."""
    columns = 1000
    values = np.random.default_rng(0).laplace(size=(count // columns, columns))
    low, high = math.log(0.01), math.log(30)
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if entropy(np.round(values / math.exp(middle))) > rate else (low, middle)
    return np.round(values / math.exp(low)).astype(np.int32)


def _best(run: Callable[[], Any], repeats: int, clock: Callable[[], float] = time.process_time) -> float:
    best = math.inf
    for _ in range(repeats):
        began = clock()
        run()
        best = min(best, clock() - began)
    return best


if __name__ == "__main__":
    main()
