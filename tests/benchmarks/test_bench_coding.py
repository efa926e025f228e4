"""What one network's measurement leaves of the others'."""

from benchmarks.coding import _with_others


def test_networks_that_were_not_measured_keep_their_rows_in_the_order_of_names():
    before = [{"network": "minilm", "bytes": 1}, {"network": "lenet5-mnist", "bytes": 2}]
    found = _with_others([{"network": "lenet5-mnist", "bytes": 3}, {"network": "lenet5-mnist", "bytes": 4}], before)
    assert [(row["network"], row["bytes"]) for row in found] == [
        ("lenet5-mnist", 3),
        ("lenet5-mnist", 4),
        ("minilm", 1),
    ]
