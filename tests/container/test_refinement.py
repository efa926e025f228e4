"""Refinement layers: every prefix is a valid network, better than the one before, and the whole is exact."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from summands.container import read, read_header, read_prefix, to_bytes
from summands.container.layers import assemble, count_pieces, take_apart
from summands.errors import ArgumentError, CorruptFileError
from summands.forms import Form, Sparse, Sum
from tests.container.samples import check_same, codebook, dense, every_kind, grid, low_rank, networks, sparse, total


def network() -> dict[str, Form]:
    return {
        "grid": grid((40, 30), spread=50),
        "sum": total(low_rank((30, 20), rank=9), grid((30, 20), spread=20), sparse((30, 20), keep=0.3)),
        "codebook": total(codebook((25, 40), count=2), sparse((25, 40), keep=0.2), dtype=torch.float16),
        "rank": low_rank((40, 30), rank=12),
        "bias": dense((30,)),
    }


def errors(forms: dict[str, Form], exact: dict[str, Form]) -> dict[str, float]:
    """The squared error of each weight relative to its norm."""
    found = {}
    for name, form in exact.items():
        weight = form.dense().double()
        found[name] = float((weight - forms[name].dense().double()).square().sum() / weight.square().sum())
    return found


def check_monotone(runs: list[dict[str, float]]) -> None:
    """No weight gets worse, and some weight gets better, from each layer to the next; the last is exact."""
    for before, after in pairwise(runs):
        assert all(after[name] <= before[name] for name in before)
        assert any(after[name] < before[name] for name in before)
    assert all(error == 0 for error in runs[-1].values())


@pytest.mark.parametrize("layers", [2, 3, 8, 40])
def test_each_layer_is_better_than_the_one_before(layers):
    forms = network()
    data = to_bytes(forms, layers=layers)
    header = read_header(data)
    assert header.is_progressive and 2 <= len(header.layers) <= layers
    assert header.layer_ends[-1] == len(data)
    check_monotone([errors(read_prefix(data[:end]).forms, forms) for end in header.layer_ends])
    check_same(read(data).forms, forms)


def test_check_monotone_fails_on_wrong_answers():
    check_monotone([{"a": 3.0, "b": 1.0}, {"a": 2.0, "b": 1.0}, {"a": 0.0, "b": 0.0}])
    for wrong in (
        [{"a": 1.0}, {"a": 2.0}, {"a": 0.0}],
        [{"a": 1.0, "b": 1.0}, {"a": 0.5, "b": 2.0}, {"a": 0.0, "b": 0.0}],
        [{"a": 1.0}, {"a": 1.0}, {"a": 0.0}],
        [{"a": 1.0}, {"a": 0.5}],
    ):
        with pytest.raises(AssertionError):
            check_monotone(wrong)


def test_the_first_layer_is_much_smaller():
    ends = read_header(to_bytes(network(), layers=6)).layer_ends
    assert ends[0] < 0.5 * ends[-1]


def test_a_prefix_reads_the_whole_layers_in_it():
    forms = network()
    data = to_bytes(forms, layers=4, metadata={"seed": 1})
    ends = read_header(data).layer_ends
    for size in (ends[0], ends[0] + 1, ends[1] - 1, ends[1], len(data) - 1, len(data)):
        contents = read_prefix(data[:size])
        assert contents.layers == sum(end <= size for end in ends)
        assert contents.metadata == {"seed": 1}
    one, cut = read_prefix(data, layers=1), read_prefix(data[: ends[0]])
    check_same(one.forms, cut.forms)


def test_prefixes_that_cannot_be_read():
    data = to_bytes(network(), layers=4)
    ends = read_header(data).layer_ends
    with pytest.raises(CorruptFileError, match="layer 1 ends"):
        read_prefix(data[: ends[0] - 1])
    with pytest.raises(CorruptFileError, match="layer 3 ends"):
        read_prefix(data[: ends[1]], layers=3)
    with pytest.raises(CorruptFileError, match="declares"):
        read_prefix(data + b"x")
    with pytest.raises(CorruptFileError, match="declares"):
        read(data[: ends[1]])
    with pytest.raises(CorruptFileError, match="truncated"):
        read_prefix(data[:20])
    for layers in (0, 5):
        with pytest.raises(ArgumentError, match="layers"):
            read_prefix(data, layers=layers)
        with pytest.raises(ArgumentError, match="layers"):
            to_bytes(network(), layers=-layers)


def test_a_file_without_refinement_is_one_layer():
    data = to_bytes(network())
    assert not read_header(data).is_progressive
    contents = read_prefix(data)
    check_same(contents.forms, network())
    assert contents.layers == 1


def test_every_kind_in_layers_comes_back():
    for layers in (2, 5):
        check_same(read(to_bytes(every_kind(), layers=layers)).forms, every_kind())


@given(networks(), st.integers(2, 6))
def test_any_network_in_layers_comes_back(forms, layers):
    data = to_bytes(forms, layers=layers)
    check_same(read(data).forms, forms)
    coarse = read_prefix(data, layers=1).forms
    assert {name: form.dense().shape for name, form in coarse.items()} == {name: f.shape for name, f in forms.items()}
    for form in coarse.values():
        form.validate()


def test_levels_of_the_widest_dtype_come_apart_and_together():
    form = grid((100,), levels=torch.int64)
    form.levels[:4] = torch.tensor([2**62, -(2**62), 2**63 - 3, -(2**63) + 3])
    pieces = take_apart(form, ())
    assert assemble(pieces, count_pieces(p.term for p in pieces)).same(form)


def test_one_weight_at_random_from_a_file_in_layers():
    forms = network()
    contents = read(to_bytes(forms, layers=5), names=["sum"])
    assert list(contents.forms) == ["sum"] and contents.forms["sum"].same(forms["sum"])


def test_terms_come_in_the_order_of_the_sum():
    coarse = read_prefix(to_bytes(network(), layers=2), layers=1).forms["codebook"]
    assert not isinstance(coarse, (Sum, Sparse)) and coarse.dtype == torch.float16
