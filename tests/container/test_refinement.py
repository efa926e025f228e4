"""Refinement layers: every prefix is a valid network, better than the one before, and the whole is exact."""

import io
import time
from dataclasses import replace
from itertools import pairwise
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from summands.compressions import Embedded, Grid, Successive
from summands.container import read, read_header, read_prefix, to_bytes
from summands.container.layers import MOST, assemble, count_pieces, take_apart
from summands.errors import ArgumentError, CorruptFileError
from summands.forms import Form, Sparse, Sum
from tests.container.samples import (
    check_same,
    codebook,
    dense,
    embedded,
    every_kind,
    grid,
    low_rank,
    networks,
    sparse,
    total,
)


def network() -> dict[str, Form]:
    return {
        "grid": grid((40, 30), spread=50),
        "sum": total(low_rank((30, 20), rank=9), grid((30, 20), spread=20), sparse((30, 20), keep=0.3)),
        "codebook": total(codebook((25, 40), count=2), sparse((25, 40), keep=0.2), dtype=torch.float16),
        "rank": low_rank((40, 30), rank=12),
        "planes": embedded((40, 30), planes=6),
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


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_layers_of_a_remote_file_need_no_byte_beyond_them(layers):
    """Over a reader of byte ranges the first layers cost what they hold; a hole of zeros stands for the rest."""
    forms = network()
    data = to_bytes(forms, layers=4)
    end = read_header(data).layer_ends[layers - 1]
    remote = Ranges(data)
    check_same(read_prefix(remote, layers=layers).forms, read_prefix(data[:end]).forms)
    assert max(stop for _, stop in remote.runs) == end


class Ranges(io.BytesIO):
    """A file that remembers which ranges were asked for."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.runs: list[tuple[int, int]] = []

    def read(self, count: int | None = -1) -> bytes:
        start = self.tell()
        data = super().read(count)
        self.runs.append((start, start + len(data)))
        return data


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


def laplace(size: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).laplace(size=size)).float()


def prefixes(forms: dict[str, Form], layers: int) -> list[dict[str, Form]]:
    """What each number of layers gives, whether the rest of the file is there or not."""
    data = to_bytes(forms, layers=layers)
    found = []
    for n, end in enumerate(read_header(data).layer_ends, start=1):
        found.append(read_prefix(data, layers=n).forms)
        cut = read_prefix(data[:end])
        if cut.layers == n:  # a layer may take no bytes
            check_same(cut.forms, found[-1])
    check_same(read(data).forms, forms)
    return found


@pytest.mark.parametrize("mode", ["paper", "authors"])
@pytest.mark.parametrize("layers", [2, 7])
def test_successive_weights_are_cut_at_a_pick(mode, layers):
    weight = laplace(4000)
    form = Successive(distortion=0.8, mode=mode).project(weight)
    came = prefixes({"w": form}, layers)
    assert len(came) == layers
    counts = [prefix["w"].events.numel() for prefix in came]
    assert counts == sorted(set(counts)) and counts[-1] == form.events.numel()
    for count, prefix in zip(counts, came, strict=True):
        assert prefix["w"].same(form.prefix(count))
        assert torch.equal(prefix["w"].dense(), form.prefix(count).dense())
    alone = len(to_bytes({"w": form}))
    assert len(to_bytes({"w": form}, layers=layers)) < alone * 1.02 + 20 * layers


def test_a_shared_sequence_is_cut_at_a_pick():
    weights = {"a": laplace(3000).reshape(30, 100), "b": 50 * laplace(2000, 1), "c": laplace(10, 2)}
    forms = Successive(sparsity=0.8, per="task").project_task(weights)
    forms["d"] = dense((5,))
    forms["e"] = Sum(
        shape=forms["b"].shape, dtype=torch.float32, terms=(grid(forms["b"].shape, spread=0.5), forms["b"])
    )
    came = prefixes(forms, 6)
    counts = [prefix["a"].events.numel() for prefix in came]
    assert len(set(counts)) > 4 and counts == sorted(counts) and counts[-1] == forms["a"].events.numel()
    for count, prefix in zip(counts, came, strict=True):
        assert prefix["a"].events is prefix["b"].events
        for name in "abc":
            assert prefix[name].same(forms[name].prefix(count))
    contents = read(to_bytes(forms, layers=6), names=["b"])
    assert list(contents.forms) == ["b"] and contents.forms["b"].same(forms["b"])


def test_a_shared_sequence_takes_what_it_is_worth():
    """One sequence of picks of three weights costs what that of their join costs."""
    weights = [laplace(40_000, seed) for seed in range(3)]
    for distortion in (0.95, 0.8):
        compression = Successive(distortion=distortion, per="task")
        forms = compression.project_task({str(i): w for i, w in enumerate(weights)})
        alone = replace(forms["0"], shape=torch.Size([forms["0"].total]))
        assert len(to_bytes(forms)) < len(to_bytes({"w": alone})) + 60


@pytest.mark.parametrize("layers", [2, 4, 9])
def test_an_embedded_quantiser_is_cut_at_a_plane(layers):
    weight = laplace(6000).reshape(60, 100)
    form = Embedded(0.05).project(weight)
    came = prefixes({"w": form, "other": embedded((70,), 3)}, layers)
    planes = [prefix["w"].planes for prefix in came]
    assert planes == sorted(set(planes)) and planes[-1] == form.planes > 6
    for count, prefix in zip(planes, came, strict=True):
        assert prefix["w"].same(form.coarser(form.planes - count))
        assert prefix["w"].same(Embedded(0.05 * 2 ** (form.planes - count)).project(weight))
    assert len(to_bytes({"w": form}, layers=layers)) < len(to_bytes({"w": form})) * 1.02 + 20 * layers


def test_no_more_than_32_pieces_are_continued():
    form = Successive(distortion=0.3).project(laplace(4000))
    data = to_bytes({"w": form}, layers=60)
    assert len(read_header(data).layouts["w"]) == MOST
    check_same(read(data).forms, {"w": form})


@st.composite
def small_successive(draw):
    sizes = draw(st.lists(st.integers(1, 30), min_size=1, max_size=3))
    seed = draw(st.integers(0, 2**16))
    weights = {str(i): laplace(size, seed + i).reshape(-1, 1) for i, size in enumerate(sizes)}
    goal = draw(st.sampled_from([{"sparsity": 0.3}, {"distortion": 0.4}, {"bits_per_weight": 3.0}]))
    mode, per = draw(st.sampled_from(["paper", "authors"])), draw(st.sampled_from(["weight", "task"]))
    return Successive(**goal, mode=mode, per=per, seed=seed).project_task(weights), draw(st.integers(2, 5))


@given(small_successive())
def test_every_prefix_of_a_file_is_what_the_encoder_had(case):
    forms, layers = case
    with patch("summands.container.layers.SHORTEST", 1):
        for prefix in prefixes(forms, layers):
            for name, form in forms.items():
                exact = form.prefix(prefix[name].events.numel())
                assert prefix[name].same(exact) and torch.equal(prefix[name].dense(), exact.dense())


@pytest.mark.parametrize("seed", range(5))
def test_layers_of_half_precision_that_overflow_on_the_way(seed):
    """A prefix may be infinite where the whole is not: its pieces keep their order all the same."""
    random = torch.Generator().manual_seed(seed)
    forms = {}
    for i in range(12):
        weight = torch.randn(128, generator=random).half()
        if i % 4 == 2:
            weight[:2] = torch.tensor([65504, -65400])
        forms[f"w{i}"] = Grid(0.1).project(weight)
    assert all(bool(form.dense().isfinite().all()) for form in forms.values())
    check_same(read(to_bytes(forms, layers=8)).forms, forms)


def test_a_step_in_half_precision_is_wider_in_a_prefix():
    weight = torch.linspace(-1.4e5, 1.4e5, 4096)
    data = to_bytes({"w": Embedded(100.0, dtype="float16").project(weight)}, layers=8)
    for layers in range(1, len(read_header(data).layers) + 1):
        found = read_prefix(data, layers=layers).forms["w"].dense()
        assert bool(found.isfinite().all())
        assert float((found - weight).abs().max()) <= 1.4e5


def test_reading_many_small_weights_in_layers_takes_time_in_proportion():
    """Each was once looked up among all others: 131,072 took more than half an hour."""
    seconds = []
    for count in (2_000, 16_000):
        forms = {f"w{i}": dense((1,), i) for i in range(count)} | {"grid": grid((4096,), spread=100)}
        data = to_bytes(forms, layers=3)
        began = time.process_time()
        read(data)
        seconds.append(time.process_time() - began)
    assert seconds[1] < 16 * seconds[0]
