"""What "auto" pays for is near what the coder spends."""

import pytest
import torch

from summands.coding import estimated_bits
from summands.compressions import LowRank, Prune, Transform, Tucker


@pytest.mark.parametrize("dtype", [None, "float16", "bfloat16"])
def test_estimates_are_within_a_fifth_of_the_coder(dtype):
    weight = torch.randn(120, 20, 3, 3, generator=torch.Generator().manual_seed(0))
    pairs = [
        (Prune("auto", dtype=dtype), Prune(0.05, dtype=dtype)),
        (Prune("auto", dtype=dtype), Prune(0.3, dtype=dtype)),
        (Transform(keep="auto", dtype=dtype), Transform(keep=0.2, dtype=dtype)),
        (LowRank("auto", dtype=dtype), LowRank(20, dtype=dtype)),
        (Tucker("auto", dtype=dtype), Tucker(30, 15, dtype=dtype)),
    ]
    for auto, fixed in pairs:
        form = fixed.project(weight)
        assert auto.cost(form, price=1.0) == pytest.approx(estimated_bits(form), rel=0.2), str(fixed)
