"""Forms of every kind, small and random, for Hypothesis."""

import math

import numpy as np
import torch
from hypothesis import strategies as st

from summands.forms import Codebook, Dense, Form, Grid, LowRank, Sparse, Sum
from summands.forms.sum import wide_dtype
from summands.views import IN, KERNEL, OUT, SPATIAL, Reshape

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
OTHERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool, torch.complex64)
INTEGERS = (torch.uint8, torch.int16, torch.int32, torch.int64)

shapes = st.lists(st.integers(0, 9), max_size=4).map(tuple)
generators = st.integers(0, 2**32 - 1).map(np.random.default_rng)


def random_bits(rng: np.random.Generator, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Any bit patterns: NaN payloads, infinities, subnormals, minus zero."""
    if 0 in shape:
        return torch.empty(shape, dtype=dtype)
    raw = rng.integers(0, 256, math.prod(shape) * dtype.itemsize, dtype=np.uint8)
    if dtype == torch.bool:
        raw &= 1
    return torch.from_numpy(raw).view(dtype).reshape(shape)


def values(rng: np.random.Generator, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Ordinary weights, or any bits."""
    if not dtype.is_floating_point or rng.random() < 0.3:
        return random_bits(rng, shape, dtype)
    return torch.from_numpy(np.asarray(rng.laplace(size=shape) * 0.1)).to(dtype)


def leaf(rng: np.random.Generator, kind: int, shape: tuple[int, ...], dtype: torch.dtype) -> Form:
    """A form of one of the five kinds; where the shape does not suit the kind, a dense one."""
    size, stored = math.prod(shape), FLOATS[rng.integers(3)]
    axis = int(rng.integers(len(shape))) if shape and rng.random() < 0.5 else None
    groups = () if axis is None else (shape[axis],)
    same = {"shape": torch.Size(shape), "dtype": dtype}
    if kind == 1:
        count = int(rng.choice([1, 2, 3, 4, 16, 100, 300]))
        code_dtype = INTEGERS[rng.integers(1 if count > 256 else 0, len(INTEGERS))]
        skewed = np.minimum(rng.geometric(0.4, size=shape) - 1, count - 1)
        codes = torch.from_numpy(np.asarray(skewed)).to(code_dtype)
        return Codebook(values=values(rng, (*groups, count), stored), codes=codes, axis=axis, **same)
    if kind == 2:
        levels = np.round(rng.laplace(size=shape) * rng.choice([0.1, 3.0, 1e4]))
        level_dtype = (torch.int32, torch.int64)[rng.integers(2)]
        if rng.random() < 0.1:
            levels = levels * 1e6
        levels = torch.from_numpy(np.asarray(np.clip(levels, -(2**31), 2**31 - 1))).to(level_dtype)
        return Grid(levels=levels, step=values(rng, groups, stored), axis=axis, **same)
    if kind == 3:
        kept = np.sort(rng.permutation(size)[: int(rng.integers(size + 1))])
        indices = torch.from_numpy(kept.astype(np.int64))
        return Sparse(indices=indices, values=values(rng, (len(kept),), stored), **same)
    if kind == 4 and shape and size:
        candidates = [OUT, Reshape(shape[0])]
        candidates += [IN] if len(shape) >= 2 else []
        candidates += [KERNEL, SPATIAL] if len(shape) == 4 else []
        view = candidates[rng.integers(len(candidates))]
        (rows, columns), rank = view.matrix_shape(shape), int(rng.integers(4))
        left, right = values(rng, (rows, rank), stored), values(rng, (rank, columns), stored)
        return LowRank(left=left, right=right, view=view, **same)
    return Dense(values=values(rng, shape, dtype), **same)


@st.composite
def leaves(draw: st.DrawFn) -> Form:
    rng, shape, kind = draw(generators), draw(shapes), draw(st.integers(0, 4))
    dtype = draw(st.sampled_from(FLOATS + (OTHERS if kind == 0 else ())))
    return leaf(rng, kind, shape, dtype)


@st.composite
def sums(draw: st.DrawFn) -> Form:
    rng, shape, dtype = draw(generators), draw(shapes), draw(st.sampled_from(FLOATS))
    kinds = draw(st.lists(st.integers(0, 4), min_size=2, max_size=3))
    terms = tuple(leaf(rng, kind, shape, wide_dtype(dtype)) for kind in kinds)
    return Sum(shape=torch.Size(shape), dtype=dtype, terms=terms)


forms = leaves() | sums()
