"""Golden files: written once for each format version, and read to the same weights forever.

    python -m tests.golden.make

writes those of the present version and coder. While the version is not released this may replace them; afterwards
changed bytes need a new version, and the files of the old one stay (test_golden.py).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save

from summands.coding.trellis import PATH
from summands.container import to_bytes
from summands.container.header import VERSION
from summands.forms import Codebook, Dense, Embedded, Form, Grid, LowRank, Sparse, Successive, Sum, Trellis
from summands.views import KERNEL, OUT

FOLDER = Path(__file__).parent
RELEASED = 0
"""The last format version whose bytes are frozen. Raise it with the release that first writes the version."""

METADATA = {"plan": {"*": "golden"}, "seed": 0, "error": 0.125}


def _numbers(count: int, seed: int) -> torch.Tensor:
    """Integers in [0, 2^16) from a linear congruence: the same on every machine and in every torch."""
    state, drawn = seed + 1, []
    for _ in range(count):
        state = (state * 1103515245 + 12345) % 2**31
        drawn.append(state >> 15)
    return torch.tensor(drawn, dtype=torch.int64)


def _floats(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Multiples of 1/256 around zero, the small ones more likely; exact in float32 and float16."""
    count = torch.Size(shape).numel()
    drawn = (_numbers(count, seed) % 512 - 256) * (_numbers(count, seed + 1) % 4)
    return (drawn.float() / 256).reshape(shape)


def _sparse(shape: tuple[int, ...], seed: int, keep: int) -> Sparse:
    size = torch.Size(shape)
    indices = torch.unique(_numbers(keep, seed) % size.numel())
    values = _floats((indices.numel(),), seed).half()
    return Sparse(shape=size, dtype=torch.float32, indices=indices, values=values)


def _codebook(shape: tuple[int, ...], seed: int, values: torch.Tensor, axis: int | None = None) -> Codebook:
    codes = (_numbers(torch.Size(shape).numel(), seed) ** 2 % values.shape[-1]).to(torch.uint8).reshape(shape)
    return Codebook(shape=torch.Size(shape), dtype=torch.float32, values=values, codes=codes, axis=axis)


def _grid(shape: tuple[int, ...], seed: int) -> Grid:
    levels = (_floats(shape, seed) * 8).round().to(torch.int32)
    return Grid(shape=torch.Size(shape), dtype=torch.float32, levels=levels, step=torch.tensor(0.0625))


def _successive(*sizes: int) -> list[Successive]:
    """Weights in one sequence of picks, entries of odd number negative, each tenth event a refresh."""
    entries = _numbers(240, 12) % sum(sizes)
    events = ((entries + 1) * (1 - 2 * (entries % 2))).to(torch.int32)
    events[9::10] = 0
    common = {"dtype": torch.float32, "events": events, "total": sum(sizes), "alpha": 2 << 16, "seed": 5}
    return [
        Successive(shape=torch.Size([n]), scale=torch.tensor(0.5 + i), offset=sum(sizes[:i]), **common)
        for i, n in enumerate(sizes)
    ]


def _embedded(shape: tuple[int, ...], seed: int) -> Embedded:
    levels = (_floats(shape, seed) * 8).trunc().to(torch.int32)
    points = torch.tensor([128, 120, 100, 80, 60], dtype=torch.uint8)
    return Embedded(
        shape=torch.Size(shape), dtype=torch.float32, levels=levels, step=torch.tensor(0.125), points=points
    )


def _trellis(shape: tuple[int, ...], seed: int, node: int = 0) -> Trellis:
    """A path of which every place in a quantiser is drawn."""
    levels, start = [], node
    for place in (_floats(shape, seed) * 8).round().to(torch.int64).reshape(-1).tolist():
        odd = node % 2
        levels.append(2 * place - odd * ((place > 0) - (place < 0)))
        node = int(PATH[2 * node + abs(place) % 2])
    found = torch.tensor(levels, dtype=torch.int32).reshape(shape)
    return Trellis(shape=found.shape, dtype=torch.float32, levels=found, step=torch.tensor(0.03125), node=start)


def _with_steps(form: Trellis, axis: int) -> Trellis:
    return replace(form, step=2.0 ** -torch.arange(1.0, form.shape[axis] + 1), axis=axis)


def _down(rows: int, columns: int, seed: int) -> Trellis:
    paths = [_trellis((rows,), seed + j) for j in range(columns)]
    levels = torch.stack([path.levels for path in paths], 1)
    return replace(paths[0], shape=levels.shape, levels=levels, down=True)


def _dense(values: torch.Tensor, dtype: torch.dtype = torch.float32) -> Dense:
    return Dense(shape=values.shape, dtype=dtype, values=values)


def _sum(*terms: Form) -> Sum:
    return Sum(shape=terms[0].shape, dtype=torch.float32, terms=terms)


def small() -> dict[str, Form]:
    """A file so small that every byte can be corrupted in every way."""
    shared = torch.tensor([-0.5, 0.75])
    return {
        "conv.weight": _sum(_codebook((3, 2, 2, 2), 1, shared), _sparse((3, 2, 2, 2), 2, 4)),
        "conv.bias": _dense(_floats((3,), 3).half()),
        "fc.weight": _codebook((4, 3), 4, shared),
        "steps": _dense(torch.tensor(7, dtype=torch.int64), torch.int64),
    }


def every_kind() -> dict[str, Form]:
    """Every form, with and without an axis, in a few entries each."""
    left, right = _floats((6, 2), 10), _floats((2, 9), 11)
    picks = _successive(30, 20)
    return {
        "dense": _dense(_floats((4, 3), 1)),
        "dense.bfloat16": _dense(_floats((5,), 2).bfloat16()),
        "empty": _dense(torch.zeros(0, 3)),
        "codebook": _codebook((12, 10), 3, torch.tensor([-1.0, -0.25, 0.5, 2.0])),
        "codebook.rows": _codebook((3, 8), 4, _floats((3, 4), 5).half(), axis=0),
        "grid": _grid((20, 16), 6),
        "sparse": _sparse((30, 20), 7, 60),
        "low.rank": LowRank(shape=torch.Size([6, 9]), dtype=torch.float32, left=left, right=right, view=OUT),
        "low.rank.kernel": LowRank(
            shape=torch.Size([3, 3, 2, 3]), dtype=torch.float32, left=left, right=right, view=KERNEL
        ),
        "sum": _sum(_grid((16, 12), 8), _sparse((16, 12), 9, 30)),
        "successive": _successive(70)[0],
        "successive.first": picks[0],
        "successive.second": picks[1],
        "embedded": _embedded((12, 8), 13),
    }


def trellis() -> dict[str, Form]:
    """Levels on paths: of a tensor, of a block of one, and with corrections."""
    return {
        "path": _trellis((20, 16), 6),
        "block": _trellis((9,), 7, node=5),
        "rows": _with_steps(_trellis((6, 10), 14), axis=0),
        "down": _with_steps(_down(6, 10, 20), axis=1),
        "sum": _sum(_trellis((16, 12), 8), _sparse((16, 12), 9, 30)),
    }


def golden() -> dict[str, bytes]:
    """The golden files of the present version, by name."""
    return {
        f"v{VERSION}-small.sums": to_bytes(small()),
        f"v{VERSION}-kinds.sums": to_bytes(every_kind(), metadata=METADATA),
        f"v{VERSION}-layers.sums": to_bytes(every_kind(), layers=3),
        f"v{VERSION}-trellis.sums": to_bytes(trellis()),
    }


def weights() -> dict[str, bytes]:
    """The dense weights that the golden files decode to, in safetensors."""
    found = {}
    kinds = {"small": small(), "kinds": every_kind(), "layers": every_kind(), "trellis": trellis()}
    for name, forms in kinds.items():
        dense = {weight: form.dense().contiguous() for weight, form in forms.items()}
        found[f"v{VERSION}-{name}.safetensors"] = save(dense)
    return found


def main() -> None:
    if VERSION <= RELEASED:
        raise SystemExit(f"format version {VERSION} is released: its bytes are frozen, changed ones need a new version")
    for name, data in {**golden(), **weights()}.items():
        (FOLDER / name).write_bytes(data)


if __name__ == "__main__":
    main()
