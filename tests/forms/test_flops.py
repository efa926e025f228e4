"""Multiply-adds of each kind of form: those of the layers it stands for, and never more than dense."""

import torch

from summands.compressions import Keep, LowRank, Prune, Quantize, Tucker
from summands.views import dense_flops

KERNEL = torch.randn(8, 6, 3, 3, generator=torch.Generator().manual_seed(0))
SIZES = {"in_size": (10, 10), "out_size": (8, 8)}
DENSE = 8 * 6 * 9 * 64


def test_each_kind():
    assert Keep().project(KERNEL).flops(**SIZES) == Quantize(2).project(KERNEL).flops(**SIZES) == DENSE
    assert Prune(count=10).project(KERNEL).flops(**SIZES) == 640
    assert LowRank(2).project(KERNEL).flops(**SIZES) == 2 * (54 + 8) * 64
    assert LowRank(7).project(KERNEL).flops(**SIZES) == min(7 * (54 + 8) * 64, DENSE)
    assert LowRank(1, view="reshape(27)").project(KERNEL).flops(**SIZES) == DENSE
    assert Tucker(2, 3).project(KERNEL).flops(**SIZES) == 6 * 3 * 100 + 2 * 3 * 9 * 64 + 8 * 2 * 64


def test_sums_add_up_to_dense_at_most():
    assert (LowRank(2) + Prune(count=10)).project(KERNEL).flops(**SIZES) == 2 * (54 + 8) * 64 + 640
    assert (Quantize(2) + Prune(count=10)).project(KERNEL).flops(**SIZES) == DENSE


def test_linear_layers_and_vectors():
    weight = torch.randn(5, 7)
    assert LowRank(1).project(weight).flops() == 12 and Prune(count=3).project(weight).flops() == 3
    assert Prune(count=3).project(weight[0]).flops() == Keep().project(weight[0]).flops() == 0
    assert dense_flops((5, 7)) == 35
