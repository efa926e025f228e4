"""Forms to write: a LeNet-5, one weight of every kind, and any weight that Hypothesis can think of."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from summands.coding.trellis import PATH
from summands.forms import Codebook, Dense, Embedded, Form, Grid, LowRank, Sparse, Successive, Sum, Trellis
from summands.views import IN, KERNEL, OUT, SPATIAL, Reshape, View

VALUE_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def codebook(
    shape, seed=0, *, count=4, dtype=torch.float32, values=None, axis=None, stored=torch.float32, codes=torch.uint8
):
    random = torch.Generator().manual_seed(seed)
    shape = torch.Size(shape)
    groups = () if axis is None else (shape[axis],)
    if values is None:
        values = torch.randn((*groups, count), generator=random).to(stored)
    drawn = torch.randint(0, values.shape[-1], shape, generator=random).to(codes)
    return Codebook(shape=shape, dtype=dtype, values=values, codes=drawn, axis=axis)


def grid(shape, seed=0, *, spread=3.0, dtype=torch.float32, step=None, axis=None, levels=torch.int32):
    random = torch.Generator().manual_seed(seed)
    shape = torch.Size(shape)
    if step is None:
        step = torch.rand(() if axis is None else (shape[axis],), generator=random) + 0.01
    drawn = (torch.randn(shape, generator=random) * spread).round().to(levels)
    return Grid(shape=shape, dtype=dtype, levels=drawn, step=step, axis=axis)


def trellis(shape, seed=0, *, spread=3.0, dtype=torch.float32, node=0, levels=torch.int32, axis=None, down=False):
    random = torch.Generator().manual_seed(seed)
    shape = torch.Size(shape)
    places = (torch.randn(shape, generator=random) * spread).round().long()
    if shape.numel():
        paths = places.reshape(shape[0], -1).T if down else places.reshape(1, -1)
        drawn = torch.tensor([_path(run, node) for run in paths.tolist()])
        places = drawn.T if down else drawn
    found = places.reshape(shape).to(levels)
    step = torch.rand(() if axis is None else (shape[axis],), generator=random) + 0.01
    return Trellis(shape=shape, dtype=dtype, levels=found, step=step, node=node, axis=axis, down=down)


def _path(places, at):
    drawn = []
    for place in places:
        drawn.append(2 * place - at % 2 * ((place > 0) - (place < 0)))
        at = int(PATH[2 * at + abs(place) % 2])
    return drawn


def sparse(shape, seed=0, *, keep=0.1, dtype=torch.float32, stored=torch.float16):
    random = torch.Generator().manual_seed(seed)
    shape = torch.Size(shape)
    indices = torch.randperm(shape.numel(), generator=random)[: round(shape.numel() * keep)].sort().values
    values = torch.randn(indices.numel(), generator=random).to(stored)
    return Sparse(shape=shape, dtype=dtype, indices=indices, values=values)


def low_rank(shape, seed=0, *, rank=2, view: View = OUT, dtype=torch.float32, stored=torch.float32):
    random = torch.Generator().manual_seed(seed)
    rows, columns = view.matrix_shape(shape)
    scale = 2.0 ** -torch.arange(rank)  # The leading ranks matter most, as in an SVD.
    left = torch.randn(rows, rank, generator=random) * scale
    right = torch.randn(rank, columns, generator=random)
    return LowRank(shape=torch.Size(shape), dtype=dtype, left=left.to(stored), right=right.to(stored), view=view)


def successive(*shapes, seed=0, count=300, dtype=torch.float32) -> list[Successive]:
    """Weights in one sequence of picks; every entry has its own sign, and every tenth event is a refresh."""
    random = torch.Generator().manual_seed(seed)
    sizes = [torch.Size(shape).numel() for shape in shapes]
    total = sum(sizes)
    entries = torch.randint(0, total, (count,), generator=random) if total else torch.zeros(0, dtype=torch.int64)
    events = ((entries + 1) * (1 - 2 * (entries % 2))).to(torch.int32)
    events[::10] = 0
    return [
        Successive(
            shape=torch.Size(shape),
            dtype=dtype,
            scale=torch.rand((), generator=random) + 0.1,
            events=events,
            total=total,
            offset=sum(sizes[:i]),
            rule=("paper", "authors")[seed % 2],
            alpha=3 << 16,
            seed=seed,
        )
        for i, shape in enumerate(shapes)
    ]


def embedded(shape, seed=0, *, planes=5, dtype=torch.float32):
    random = torch.Generator().manual_seed(seed)
    shape = torch.Size(shape)
    levels = (torch.randn(shape, generator=random) * 2.0 ** (planes - 3)).clamp(-(2**planes) + 1, 2**planes - 1)
    points = torch.randint(1, 256, (planes,), generator=random).to(torch.uint8)
    step = torch.rand((), generator=random) + 0.01
    return Embedded(shape=shape, dtype=dtype, levels=levels.trunc().to(torch.int32), step=step, points=points)


def dense(shape, seed=0, *, dtype=torch.float32, stored=None):
    random = torch.Generator().manual_seed(seed)
    values = (torch.randn(torch.Size(shape), generator=random) * 3).to(stored or dtype)
    return Dense(shape=torch.Size(shape), dtype=dtype, values=values)


def total(*terms: Form, dtype=torch.float32) -> Sum:
    return Sum(shape=terms[0].shape, dtype=dtype, terms=terms)


def lenet5(keep: float = 0.01) -> dict[str, Form]:
    """The network of the LC papers (Caffe's LeNet-5), each weight a 1-bit codebook plus a few float16 entries."""
    shapes = {"conv1": (20, 1, 5, 5), "conv2": (50, 20, 5, 5), "fc1": (500, 800), "fc2": (10, 500)}
    forms: dict[str, Form] = {}
    for i, (name, shape) in enumerate(shapes.items()):
        forms[f"{name}.weight"] = total(codebook(shape, i, count=2), sparse(shape, i, keep=keep))
        forms[f"{name}.bias"] = dense(shape[:1], i, stored=torch.float16)
    return forms


def every_kind() -> dict[str, Form]:
    """Small weights: every form, view, axis and odd shape, and tensors that several of them hold."""
    values, step = torch.tensor([-0.5, 0.25, 2.0]), torch.tensor(0.125, dtype=torch.float16)
    tied = codebook((6, 4), 9)
    picks = successive((9, 8), (0, 3), (50,), seed=1)
    return {
        "dense": dense((3, 4)),
        "dense.half": dense((5,), stored=torch.bfloat16),
        "dense.double": dense((2, 3), dtype=torch.float64),
        "scalar": dense(()),
        "empty": dense((0, 3)),
        "empty.sparse": sparse((4, 0)),
        "counter": Dense(shape=torch.Size([]), dtype=torch.int64, values=torch.tensor(-(2**62))),
        "mask": Dense(shape=torch.Size([3]), dtype=torch.bool, values=torch.tensor([True, False, True])),
        "not.finite": Dense(shape=torch.Size([2]), dtype=torch.float32, values=torch.tensor([float("nan"), -0.0])),
        "codebook": codebook((6, 5)),
        "codebook.one": codebook((6, 5), count=1),
        "codebook.large": codebook((20, 30), count=300, codes=torch.int16),
        "codebook.rows": codebook((4, 3, 2, 2), axis=0),
        "codebook.columns": codebook((4, 3), axis=1, stored=torch.float16),
        "shared.a": codebook((5, 7), 1, values=values),
        "shared.b": codebook((8,), 2, values=values),
        "tied.a": tied,
        "tied.b": tied,
        "grid": grid((30, 20), spread=100),
        "grid.rows": grid((12, 9), axis=0),
        "grid.step": grid((5, 5), step=step),
        "grid.step.too": grid((70,), 3, step=step, levels=torch.int64, spread=1e6),
        "trellis": trellis((30, 20), spread=100),
        "trellis.block": trellis((5, 2), spread=0.5, node=3, levels=torch.int64),
        "trellis.rows": trellis((7, 9), 1, axis=0),
        "trellis.down": trellis((12, 5), 2, spread=9, axis=1, down=True),
        "trellis.down.kernel": trellis((6, 4, 3, 3), 3, down=True, levels=torch.int16),
        "trellis.down.rare": trellis((40, 60), 4, spread=0.2, down=True),
        "trellis.down.row": trellis((1, 60), 5, down=True),
        "sparse": sparse((9, 9)),
        "sparse.none": sparse((9, 9), keep=0),
        "sparse.all": sparse((4, 4), keep=1, stored=torch.float32),
        "sparse.many": sparse((40, 40), keep=0.2),
        "low.rank": low_rank((20, 30), rank=7),
        "low.rank.zero": low_rank((6, 4), rank=0),
        "low.rank.kernel": low_rank((6, 4, 3, 3), view=KERNEL, stored=torch.float16),
        "low.rank.spatial": low_rank((6, 4, 3, 3), view=SPATIAL),
        "low.rank.in": low_rank((6, 4), view=IN),
        "low.rank.reshape": low_rank((6, 4), view=Reshape(8), dtype=torch.bfloat16),
        "embedded": embedded((14, 9)),
        "embedded.half": embedded((3, 4), 1, planes=1, dtype=torch.float16),
        "successive": successive((20, 9))[0],
        "successive.none": successive((20, 9), count=0)[0],
        "picks.a": picks[0],
        "picks.none": picks[1],
        "sum.picks": total(grid((50,)), picks[2]),
        "sum": total(codebook((40, 30), 4, count=2), sparse((40, 30), 4)),
        "sum.three": total(low_rank((6, 4), rank=1), grid((6, 4)), sparse((6, 4)), dtype=torch.float16),
        "sum.path": total(trellis((20, 6)), sparse((20, 6)), dtype=torch.float16),
        "sum.double": total(dense((3,), dtype=torch.float64), sparse((3,), dtype=torch.float64), dtype=torch.float64),
        "été.重み": dense((2,)),
        "": dense((1,)),
    }


def check_same(found: dict[str, Form], expected: dict[str, Form]) -> None:
    """The same weights in the same order, to the last bit, and the same tensors shared between them."""
    assert list(found) == list(expected)
    for name in expected:
        assert found[name].same(expected[name]), name
    assert _sharing(found) == _sharing(expected)


def _sharing(forms: dict[str, Form]) -> list[int]:
    """For each tensor in order, the place where the same object came first."""
    first: dict[int, int] = {}
    tensors = [tensor for form in forms.values() for tensor in form.tensors().values()]
    return [first.setdefault(id(tensor), i) for i, tensor in enumerate(tensors)]


@st.composite
def weights(draw: st.DrawFn) -> Form:
    """Any form of a small weight."""
    shape = tuple(draw(st.lists(st.integers(0, 6), max_size=4)))
    dtype = draw(st.sampled_from((*VALUE_DTYPES, torch.float64)))
    if draw(st.booleans()):
        return draw(_terms(shape, dtype))
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return total(*draw(st.lists(_terms(shape, wide), min_size=2, max_size=3)), dtype=dtype)


@st.composite
def _terms(draw: st.DrawFn, shape: tuple[int, ...], dtype: torch.dtype) -> Form:
    seed = draw(st.integers(0, 1000))
    axis = draw(st.none() | st.integers(0, len(shape) - 1)) if shape else None
    stored = draw(st.sampled_from(VALUE_DTYPES))
    makers = [
        lambda: dense(shape, seed, dtype=dtype, stored=stored),
        lambda: codebook(shape, seed, count=1 + seed % 9, dtype=dtype, axis=axis, stored=stored),
        lambda: grid(shape, seed, spread=10.0 ** (seed % 4), dtype=dtype, axis=axis),
        lambda: trellis(shape, seed, spread=10.0 ** (seed % 4), dtype=dtype, node=seed % 8, axis=axis),
        lambda: sparse(shape, seed, keep=seed / 1000, dtype=dtype, stored=stored),
        lambda: embedded(shape, seed, planes=1 + seed % 7, dtype=dtype),
        lambda: successive(shape, seed=seed, count=seed, dtype=dtype)[0],
    ]
    if len(shape) >= 2:
        makers.append(lambda: trellis(shape, seed, spread=10.0 ** (seed % 4), dtype=dtype, axis=axis, down=True))
    if shape and len(shape) <= 4:
        makers.append(lambda: low_rank(shape, seed, rank=seed % 6, dtype=dtype, stored=stored))
    return draw(st.sampled_from(makers))()


def networks(max_size: int = 6) -> st.SearchStrategy[dict[str, Form]]:
    """Any few named weights."""
    return st.dictionaries(st.text(max_size=8), weights(), max_size=max_size)
