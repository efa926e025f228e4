"""The weights that the suite projects: a fixed grid, the awkward ones, and Hypothesis strategies."""

import itertools
import math

import numpy as np
import torch
from hypothesis import strategies as st

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
SHAPES = {0: ((), (1,), (5,)), 1: ((1,), (5,), (2, 3)), 2: ((1, 1), (2, 3)), 4: ((2, 1, 2, 1), (1, 2, 1, 3))}


def grid(shape):
    """All weights of this shape with entries in {-1, 0, 1/2} if they are few, else a fixed choice of them."""
    size = math.prod(shape)
    all_of_them = list(itertools.product((-1.0, 0.0, 0.5), repeat=size))
    chosen = all_of_them if len(all_of_them) <= 81 else all_of_them[:: len(all_of_them) // 40]
    return [torch.tensor(entries, dtype=torch.float64).reshape(shape) for entries in chosen]


def awkward(ndim, dtype):
    """Constant, zeros, one element, ties, subnormals, the largest numbers, mixed scales, not contiguous."""
    tiny, most = torch.finfo(dtype).smallest_normal / 4, torch.finfo(dtype).max
    shape = SHAPES[ndim][-1]
    size = math.prod(shape)
    made = {
        "constant": torch.full(shape, 0.3, dtype=dtype),
        "zeros": torch.zeros(shape, dtype=dtype),
        "one": torch.full([1] * max(ndim, 1), -0.7, dtype=dtype),
        "ties": torch.tensor([(-1.0) ** i for i in range(size)], dtype=dtype).reshape(shape),
        "subnormals": (torch.arange(size) * tiny).to(dtype).reshape(shape),
        "scales": torch.tensor([10.0 ** -(i % 4) for i in range(size)], dtype=dtype).reshape(shape),
    }
    if dtype != torch.float64:
        made["largest"] = torch.tensor([most, -most] * size, dtype=dtype)[:size].reshape(shape) / 4
    if ndim:
        made["strided"] = torch.arange(2.0 * size).to(dtype).reshape(*shape[:-1], -1)[..., ::2]
    return made


def numbers(dtype):
    """Round numbers, which tie, and any numbers of the dtype up to 1e4."""
    width = {torch.float64: 64, torch.float32: 32}.get(dtype, 16)
    anything = st.floats(-1e4, 1e4, width=width)
    return st.sampled_from([0.0, -0.0, 0.5, -0.5, 1.0, -1.0, 2.0, 3.0]) | anything


@st.composite
def weights(draw, ndim, dtypes=(torch.float64,)):
    shape, dtype = draw(st.sampled_from(SHAPES[ndim])), draw(st.sampled_from(dtypes))
    entries = draw(st.lists(numbers(dtype), min_size=math.prod(shape), max_size=math.prod(shape)))
    return torch.tensor(entries, dtype=torch.float64).to(dtype).reshape(shape)


@st.composite
def importances(draw, weight):
    entries = st.sampled_from([0.0, 0.5, 1.0, 3.0]) | st.floats(1e-3, 10)
    drawn = draw(st.lists(entries, min_size=weight.numel(), max_size=weight.numel()))
    return torch.from_numpy(np.array(drawn)).reshape(weight.shape).to(weight.dtype)
