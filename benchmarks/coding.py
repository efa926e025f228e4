"""Is our coder smaller and faster than NNCodec's on the same integers? And than general and static coders?

Networks are rounded to grids of 0.1 to 6 standard deviations of each weight; both coders get the same integers. Speed
is measured on Laplace integers of four rates, in CPU time of one thread, the best of some runs, both in the same call.

NNCodec needs an environment of its own (it wants numpy < 2 and a compiler):

    python3.11 -m venv /tmp/nnc && /tmp/nnc/bin/pip install torch==2.13.0 nncodec
    python -m benchmarks.coding --nncodec /tmp/nnc/bin/python        # or NNCODEC_PYTHON

Networks are references of `summands.zoo` and checkpoints given as --checkpoint NAME=FILE (.safetensors or .pth).
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table
from safetensors.torch import load_file

from benchmarks.record import write_result
from summands.coding import decode_section, encode_section, layout_of
from summands.coding.limits import entropy
from summands.forms import Grid
from summands.report.tables import render

STEPS = (0.1, 0.25, 0.8, 1.6, 2.5, 4.0, 6.0)
RATES = (0.1, 0.6, 2.5, 5.0)
POOLED = 65536  # smaller tensors share a section, as in a file
REFERENCES = ("lenet300-mnist", "lenet5-mnist")
Levels = dict[str, np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nncodec", default=os.environ.get("NNCODEC_PYTHON"), help="interpreter that has nncodec")
    parser.add_argument("--checkpoint", action="append", default=[], metavar="NAME=FILE")
    parser.add_argument("--references", nargs="*", default=REFERENCES)
    parser.add_argument("--entries", type=int, default=1_000_000, help="of the Laplace integers")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    sizes = [
        _size_row(name, weights, step, arguments.nncodec)
        for name, weights in _networks(arguments.references, arguments.checkpoint)
        for step in STEPS
    ]
    speeds = [_speed_row(rate, arguments.entries, arguments.repeats, arguments.nncodec) for rate in RATES]
    print(_size_table(sizes))
    print(_summary(sizes))
    print(_speed_table(speeds))
    print(f"wrote {write_result('coding', {'sizes': sizes, 'speeds': speeds})}")


def _networks(references: list[str], checkpoints: list[str]):
    for name in references:
        from summands.zoo.train import reference

        yield name, reference(name).model.state_dict()
    for text in checkpoints:
        name, _, path = text.partition("=")
        load = load_file if path.endswith(".safetensors") else lambda p: torch.load(p, map_location="cpu")
        yield name, load(path)


def _rounded(weights: dict[str, torch.Tensor], step: float) -> Levels:
    """Every matrix or kernel of at least 100 entries on a grid of `step` of its standard deviation."""
    chosen = {n: w.float().numpy() for n, w in weights.items() if w.is_floating_point() and w.ndim > 1}
    return {
        n: np.ascontiguousarray(np.round(w / (w.std() * step)).astype(np.int32))
        for n, w in chosen.items()
        if w.size >= 100
    }


def _forms(levels: Levels) -> list[list[Grid]]:
    """The forms by section. The step is shared, so that only the integers are coded."""
    forms = [
        Grid(shape=torch.Size(x.shape), dtype=torch.float32, levels=torch.from_numpy(x), step=_STEP)
        for x in levels.values()
    ]
    pooled = [form for form in forms if form.size < POOLED]
    return ([pooled] if pooled else []) + [[form] for form in forms if form.size >= POOLED]


_STEP = torch.tensor(1.0)


def _encode(sections: list[list[Grid]]) -> list[bytes]:
    return [encode_section(forms, [_STEP]).payload for forms in sections]


def _nncodec(levels: Levels, python: str | None, repeats: int) -> dict[str, float] | None:
    """Bytes and seconds over all tensors; None without an interpreter."""
    if python is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "levels.npz")
        np.savez(path, **{str(i): x for i, x in enumerate(levels.values())})
        worker = Path(__file__).with_name("nncodec_worker.py")
        command = [python, str(worker), str(path), str(repeats)]
        rows = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout).values()
    return {key: sum(row[key] for row in rows) for key in ("bytes", "encode", "encode_untuned", "decode")}


def _size_row(name: str, weights: dict[str, torch.Tensor], step: float, python: str | None) -> dict[str, Any]:
    levels = _rounded(weights, step)
    count = sum(x.size for x in levels.values())
    ours = sum(map(len, _encode(_forms(levels))))
    theirs = _nncodec(levels, python, 1)
    row = {
        "network": name,
        "step": step,
        "entries": count,
        "bits_per_weight": 8 * ours / count,
        "bytes": ours,
        "nncodec_bytes": theirs and theirs["bytes"],
        "entropy_bytes": sum(entropy(x) * x.size for x in levels.values()) / 8,
        "huffman_bytes": sum(_huffman_bits(x) for x in levels.values()) / 8,
        "sparse_huffman_bytes": sum(_sparse_huffman_bits(x) for x in levels.values()) / 8,
        "constriction_bytes": sum(map(_constriction_bytes, levels.values())),
        **_general(levels),
    }
    print(f"{name}, step {step}: {ours:,} bytes, {row['bits_per_weight']:.3f} bits/weight", flush=True)
    return row


def _huffman_bits(levels: np.ndarray) -> float:
    """Huffman-coded entries and a table of 32-bit values with 8-bit lengths (HAC)."""
    _, counts = np.unique(levels, return_counts=True)
    heap = [int(n) for n in counts]
    heapq.heapify(heap)
    bits = heap[0] if len(heap) == 1 else 0
    while len(heap) > 1:
        merged = heapq.heappop(heap) + heapq.heappop(heap)
        bits += merged
        heapq.heappush(heap, merged)
    return bits + 40 * counts.size


def _sparse_huffman_bits(levels: np.ndarray) -> float:
    """Compressed sparse columns with the nonzeros Huffman-coded (sHAC)."""
    matrix = levels.reshape(levels.shape[0], -1)
    kept = matrix[matrix != 0]
    index_bits = math.ceil(math.log2(max(matrix.shape[0], 2)))
    pointers = (matrix.shape[1] + 1) * math.ceil(math.log2(kept.size + 2))
    return (_huffman_bits(kept) if kept.size else 0) + kept.size * index_bits + pointers


def _constriction_bytes(levels: np.ndarray) -> int:
    """A static range coder with the tensor's own histogram; 4 bytes a table entry."""
    import constriction

    values, places, counts = np.unique(levels, return_inverse=True, return_counts=True)
    if values.size < 2:
        return 8
    model = constriction.stream.model.Categorical(counts / counts.sum(), perfect=False)
    encoder = constriction.stream.queue.RangeEncoder()
    encoder.encode(places.reshape(-1).astype(np.int32), model)
    return 4 * len(encoder.get_compressed()) + 4 * values.size


def _general(levels: Levels) -> dict[str, int | None]:
    """zstd at 19 and brotli at its best, on the narrowest integers; None where a package is missing."""
    data = b"".join(
        x.astype(np.int8 if np.abs(x).max(initial=0) < 128 else np.int16).tobytes() for x in levels.values()
    )
    found: dict[str, int | None] = {"zstd_bytes": None, "brotli_bytes": None}
    try:
        import zstandard

        found["zstd_bytes"] = len(zstandard.ZstdCompressor(level=19).compress(data))
    except ImportError:
        print("zstandard is not installed: no figure")
    try:
        import brotli

        found["brotli_bytes"] = len(brotli.compress(data))
    except ImportError:
        print("brotli is not installed: no figure")
    return found


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


def _speed_row(rate: float, count: int, repeats: int, python: str | None) -> dict[str, Any]:
    levels = {"laplace": _laplace(rate, count)}
    (forms,) = _forms(levels)
    payload = encode_section(forms, [_STEP]).payload
    layouts = [layout_of(form, [_STEP]) for form in forms]

    def decode() -> None:
        decode_section(payload, layouts, [_STEP])

    def decode_twice(pairs: int) -> None:
        threads = [threading.Thread(target=decode) for _ in range(pairs)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    decode()
    encode_seconds = _best(lambda: encode_section(forms, [_STEP]), repeats)
    decode_seconds = _best(decode, repeats)
    one, two = (_best(lambda n=n: decode_twice(n), repeats, time.perf_counter) for n in (1, 2))
    row = {
        "bits_per_weight": 8 * len(payload) / count,
        "encode_mweights_per_second": count / encode_seconds / 1e6,
        "decode_mweights_per_second": count / decode_seconds / 1e6,
        "two_threads": 2 * one / two,
    }
    if theirs := _nncodec(levels, python, repeats):
        row |= {
            "nncodec_encode_mweights_per_second": count / theirs["encode"] / 1e6,
            "nncodec_decode_mweights_per_second": count / theirs["decode"] / 1e6,
            "encode_ratio": theirs["encode"] / encode_seconds,
            "encode_ratio_untuned": theirs["encode_untuned"] / encode_seconds,
            "decode_ratio": theirs["decode"] / decode_seconds,
        }
    return row


OTHERS = ("nncodec", "entropy", "constriction", "huffman", "sparse_huffman", "zstd", "brotli")


def _size_table(rows: list[dict[str, Any]]) -> str:
    out = Table("network", "step", "bits/weight", "bytes", title="our bytes, and ours / theirs", box=None)
    for other in OTHERS:
        out.add_column(other.replace("_", " "), justify="right")
    for row in rows:
        shares = [row[f"{other}_bytes"] for other in OTHERS]
        texts = ["-" if share is None else f"{row['bytes'] / share:.4f}" for share in shares]
        out.add_row(row["network"], f"{row['step']}", f"{row['bits_per_weight']:.3f}", f"{row['bytes']:,}", *texts)
    return render(out)


def _summary(rows: list[dict[str, Any]]) -> str:
    ratios = [(row["bits_per_weight"], row["bytes"] / row["nncodec_bytes"]) for row in rows if row["nncodec_bytes"]]
    low = [math.log(ratio) for bits, ratio in ratios if bits < 1]
    if not low:
        return "no NNCodec: give --nncodec"
    mean = math.exp(sum(low) / len(low))
    return f"to NNCodec: at most {max(r for _, r in ratios):.4f}, geometric mean below 1 bit/weight {mean:.4f}"


def _speed_table(rows: list[dict[str, Any]]) -> str:
    keys = ("encode_mweights_per_second", "decode_mweights_per_second", "encode_ratio", "encode_ratio_untuned")
    keys = (*keys, "decode_ratio", "two_threads")
    out = Table("bits/weight", title="Laplace integers, one thread; ratios to NNCodec", box=None)
    for key in keys:
        out.add_column(key.replace("_mweights_per_second", " Mweights/s").replace("_", " "), justify="right")
    for row in rows:
        out.add_row(f"{row['bits_per_weight']:.2f}", *(f"{row[key]:.2f}" if key in row else "-" for key in keys))
    return render(out)


if __name__ == "__main__":
    main()
