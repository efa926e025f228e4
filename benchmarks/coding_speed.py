"""Laplace integers at four rates: weights a second of our coder and NNCodec's, on one thread, in the same run.

Speed is of process time, the best of some runs. A second thread decodes sections at the same time, for a tenth of a
second or more; how much that gains is of wall time, and needs a second idle core.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import nncodec
from benchmarks.coding_integers import UNIT, sections
from summands.coding import decode_section, encode_section, layout_of
from summands.coding.limits import entropy

RATES = (0.1, 0.6, 2.5, 5.0)


def speed_row(rate: float, count: int, repeats: int) -> dict[str, Any]:
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
