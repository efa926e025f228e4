"""Views invert themselves; their FLOPs are those of the layers that they stand for."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from summands.errors import ArgumentError
from summands.views import IN, KERNEL, NAMED_VIEWS, OUT, SPATIAL, Reshape, dense_flops, parse_view

shapes = st.lists(st.integers(0, 4), min_size=1, max_size=5).map(tuple)


@given(shapes, st.sampled_from([*NAMED_VIEWS, "reshape(1)", "reshape(2)", "reshape(6)"]))
def test_every_view_inverts_itself(shape, text):
    view, tensor = parse_view(text), torch.arange(math.prod(shape)).reshape(shape)
    try:
        rows, columns = view.matrix_shape(shape)
    except ArgumentError:
        return
    matrix = view.to_matrix(tensor)
    assert matrix.shape == (rows, columns)
    assert torch.equal(view.to_tensor(matrix, shape), tensor)
    assert str(parse_view(str(view))) == text


def test_flops_of_the_papers():
    n, m, d1, d2, height, width, out_height, out_width = 20, 5, 3, 7, 16, 17, 14, 11
    shape, sizes = (n, m, d1, d2), ((height, width), (out_height, out_width))
    out = out_height * out_width
    assert OUT.rank_flops(shape, *sizes) == (m * d1 * d2 + n) * out
    assert KERNEL.rank_flops(shape, *sizes) == m * d2 * height * out_width + n * d1 * out
    assert SPATIAL.rank_flops(shape, *sizes) == (m * d1 * d2 + n * m) * out
    assert IN.rank_flops(shape, *sizes) == m * height * width + n * d1 * d2 * out
    assert dense_flops(shape, sizes[1]) == n * m * d1 * d2 * out


def test_reshapes_generalise_the_named_views():
    shape, sizes = (6, 4, 3, 3), ((8, 8), (6, 6))
    assert Reshape(6).rank_flops(shape, *sizes) == OUT.rank_flops(shape, *sizes)
    assert Reshape(24).rank_flops(shape, *sizes) == SPATIAL.rank_flops(shape, *sizes)
    assert Reshape(2).rank_flops(shape, *sizes) == (3 * 4 * 9 + 6) * 36
    assert Reshape(9).rank_flops(shape, *sizes) is None


def test_flops_of_a_linear_layer_and_of_groups():
    assert OUT.rank_flops((30, 20)) == IN.rank_flops((30, 20)) == 50
    assert Reshape(60).rank_flops((30, 20)) == 20 + 60
    assert OUT.rank_flops((8,)) is None and dense_flops((8,)) == 0
    assert OUT.rank_flops((8, 2, 3), (10,), (8,), groups=4) == (8 * 3 + 8) * 8


@pytest.mark.parametrize("text", ["up", "reshape(0)", "reshape(-1)", "reshape(2.0)", "Reshape(2)"])
def test_refuses_texts(text):
    with pytest.raises(ArgumentError, match="must be"):
        parse_view(text)


@pytest.mark.parametrize(("view", "shape"), [(OUT, ()), (KERNEL, (3, 3)), (SPATIAL, (4, 4)), (Reshape(4), (3, 3))])
def test_refuses_shapes(view, shape):
    with pytest.raises(ArgumentError, match="needs a tensor"):
        view.to_matrix(torch.ones(shape))
