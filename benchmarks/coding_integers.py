"""The same integers to every coder: ours, NNCodec's, general ones, static ones, and the entropy that bounds the last.

Matrices and kernels are rounded to grids of 0.1 to 6 standard deviations of each weight. Dependent quantisation is off
on both sides, since it would change the integers.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from benchmarks import nncodec
from benchmarks.memory import Memory, code_digest, digest, key_of
from summands.coding import encode_section
from summands.coding.limits import entropy
from summands.forms import Grid

STEPS = (0.1, 0.25, 0.8, 1.6, 2.5, 4.0, 6.0)
LARGE_STEPS = (0.25, 0.8, 1.6, 4.0)
"""For networks of more than two million entries."""
POOLED = 65536
"""Smaller tensors share a section, as in a file."""
OTHERS = ("nncodec", "entropy", "constriction", "constriction_laplace", "huffman", "sparse_huffman", "zstd", "brotli")
Levels = dict[str, np.ndarray]
Row = dict[str, Any]


def rows(name: str, weights: Mapping[str, Tensor]) -> Iterator[Row]:
    """A row for every step."""
    memory = Memory("coding-integers")
    chosen = {n: w for n, w in weights.items() if w.is_floating_point() and w.ndim > 1 and w.numel() >= 100}
    count = sum(w.numel() for w in chosen.values())
    peer = nncodec.PACKAGES if nncodec.reason() is None else None
    code = code_digest("coding", "forms/grid.py")
    for step in STEPS if count <= 2_000_000 else LARGE_STEPS:
        facts = (name, digest(chosen), step)
        levels = {n: rounded(w, step) for n, w in chosen.items()}
        size = memory.once(key_of(*facts, code), partial(_size, levels))
        others = memory.once(key_of(*facts, peer), partial(_others, levels))
        others |= memory.once(key_of(*facts, "static models"), partial(static, levels))
        bits = 8 * size / count
        yield {"network": name, "step": step, "entries": count, "bits_per_weight": bits, "bytes": size, **others}


def _size(levels: Levels) -> int:
    return sum(len(encode_section(forms, [UNIT]).payload) for forms in sections(levels))


def _others(levels: Levels) -> Row:
    return {
        "nncodec_bytes": nncodec.integers(levels, 1)["bytes"] if nncodec.reason() is None else None,
        "entropy_bytes": sum(entropy(x) * x.size for x in levels.values()) / 8,
        "huffman_bytes": sum(map(_huffman_bits, levels.values())) / 8,
        "sparse_huffman_bytes": sum(map(_sparse_huffman_bits, levels.values())) / 8,
        **_general(levels),
    }


def rounded(weight: Tensor, step: float) -> np.ndarray:
    """Integers on a grid of `step` of the weight's standard deviation."""
    array = weight.float().numpy()
    return np.ascontiguousarray(np.round(array / (array.std() * step)).astype(np.int32))


UNIT = torch.tensor(1.0)


def sections(levels: Levels) -> list[list[Grid]]:
    """The forms by section. The step is shared, so that only the integers are coded."""
    forms = [
        Grid(shape=torch.Size(x.shape), dtype=torch.float32, levels=torch.from_numpy(x), step=UNIT)
        for x in levels.values()
    ]
    pooled = [form for form in forms if form.size < POOLED]
    return ([pooled] if pooled else []) + [[form] for form in forms if form.size >= POOLED]


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


def static(levels: Levels) -> dict[str, int]:
    """constriction's range coder with static models for each tensor.

    A histogram costs 4 bytes for each value that occurs; a Laplace distribution, of the likeliest scale, 8 in all.
    """
    import constriction

    sizes = {"constriction_bytes": 0, "constriction_laplace_bytes": 0}
    for x in levels.values():
        values, places, counts = np.unique(x, return_inverse=True, return_counts=True)
        if values.size < 2:
            sizes = {key: size + 8 for key, size in sizes.items()}
            continue
        low, high = int(values[0]), int(values[-1])
        scale = likeliest_scale(values, counts)
        models = {
            "constriction_bytes": (
                constriction.stream.model.Categorical(counts / counts.sum(), perfect=False),
                places,
                4 * values.size,
            ),
            "constriction_laplace_bytes": (constriction.stream.model.QuantizedLaplace(low, high, 0.0, scale), x, 8),
        }
        for key, (model, symbols, table) in models.items():
            encoder = constriction.stream.queue.RangeEncoder()
            encoder.encode(symbols.reshape(-1).astype(np.int32), model)
            sizes[key] += 4 * len(encoder.get_compressed()) + table
    return sizes


def likeliest_scale(values: np.ndarray, counts: np.ndarray) -> float:
    """b of the Laplace distribution whose rounded values fit these integers best, by maximum likelihood."""
    magnitudes = np.abs(values).astype(np.float64)

    def bits(log_scale: float) -> float:
        b = math.exp(log_scale)
        near, far = np.maximum(magnitudes - 0.5, 0) / b, (magnitudes + 0.5) / b
        shares = np.where(magnitudes == 0, -np.expm1(-0.5 / b), (np.exp(-near) - np.exp(-far)) / 2)
        return -float(counts @ np.log2(np.maximum(shares, 1e-300)))

    return math.exp(minimize_scalar(bits, bounds=(math.log(0.02), math.log(1e5)), method="bounded").x)


def _general(levels: Levels) -> dict[str, int]:
    """zstd at 19 and brotli at its best, on the narrowest integers; a minute for ten million entries."""
    import brotli
    import zstandard

    data = b"".join(
        x.astype(np.int8 if np.abs(x).max(initial=0) < 128 else np.int16).tobytes() for x in levels.values()
    )
    compressed = zstandard.ZstdCompressor(level=19).compress(data)
    return {"zstd_bytes": len(compressed), "brotli_bytes": len(brotli.compress(data))}
