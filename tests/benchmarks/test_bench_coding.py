"""What one network's measurement leaves of the others'."""

import numpy as np
import pytest
from scipy.stats import laplace

from benchmarks.coding import _summary, _with_others
from benchmarks.coding_integers import likeliest_scale


def test_networks_that_were_not_measured_keep_their_rows_in_the_order_of_names():
    before = [{"network": "minilm", "bytes": 1}, {"network": "lenet5-mnist", "bytes": 2}]
    found = _with_others([{"network": "lenet5-mnist", "bytes": 3}, {"network": "lenet5-mnist", "bytes": 4}], before)
    assert [(row["network"], row["bytes"]) for row in found] == [
        ("lenet5-mnist", 3),
        ("lenet5-mnist", 4),
        ("minilm", 1),
    ]


def test_the_likeliest_scale_beats_every_other() -> None:
    """The bits that a quantised Laplace distribution of a scale spends on these integers, by brute force."""
    integers = np.round(np.random.default_rng(0).laplace(scale=0.4, size=4000)).astype(int)
    values, counts = np.unique(integers, return_counts=True)

    def bits(b: float) -> float:
        edges = laplace(scale=b).cdf(np.stack([values - 0.5, values + 0.5]))
        return -float(counts @ np.log2(edges[1] - edges[0]))

    scale = likeliest_scale(values, counts)
    assert bits(scale) <= min(map(bits, np.geomspace(0.1, 3, 400))) + 1e-6
    assert scale == pytest.approx(0.4, rel=0.1)


def test_a_table_of_networks_that_a_peer_did_not_measure() -> None:
    row = {"network": "net", "bits_per_weight": 1.0, "bytes": 10, "nncodec_bytes": None}
    assert "too few" in _summary({"nncodec": "measured", "sizes": [row], "curves": []})
