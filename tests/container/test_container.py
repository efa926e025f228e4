"""What is written comes back to the last bit, in few bytes, whole or in part."""

import io
import threading
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from summands.coding import contexts, decode_section, picks
from summands.container import Writer, measure, read, read_header, reader, to_bytes, write, writer
from summands.container.blocks import row_blocks, stack_blocks
from summands.errors import ArgumentError
from summands.forms import Dense
from tests.container.samples import (
    check_same,
    codebook,
    dense,
    every_kind,
    grid,
    lenet5,
    networks,
    sparse,
    total,
    weights,
)

METADATA = {"plan": {"*": "Quantize(2)"}, "seed": 0, "error": 0.0171, "name": "été"}


class Recorder(io.BytesIO):
    """A file that remembers which bytes were read."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.runs: list[tuple[int, int]] = []

    def read(self, count: int | None = -1) -> bytes:
        start = self.tell()
        data = super().read(count)
        self.runs.append((start, start + len(data)))
        return data


@pytest.fixture
def small_sections(monkeypatch):
    """Sections of 20 entries, so that small weights are cut into row blocks."""
    monkeypatch.setattr(writer, "SECTION_ENTRIES", 20)


def test_every_kind_comes_back():
    contents = read(to_bytes(every_kind(), metadata=METADATA))
    check_same(contents.forms, every_kind())
    assert contents.metadata == METADATA


@given(networks())
def test_any_network_comes_back(forms):
    check_same(read(to_bytes(forms)).forms, forms)


def test_every_kind_comes_back_from_row_blocks(small_sections):
    data = to_bytes(every_kind())
    check_same(read(data).forms, every_kind())
    header = read_header(data)
    assert len(header.layouts["codebook.rows"]) > 1
    assert {name: header.shape(name) for name in header.names} == {n: f.shape for n, f in every_kind().items()}


@given(weights(), st.integers(1, 40))
def test_row_blocks_stack_to_the_same_form(form, entries):
    blocks = row_blocks(form, entries)
    assert sum(block.shape[0] for block in blocks) == form.shape[0] if form.shape else len(blocks) == 1
    stacked = stack_blocks(blocks)
    stacked.validate()
    assert stacked.same(form)


def test_row_blocks_that_do_not_fit_are_refused():
    a, b = row_blocks(codebook((4, 3)), 6)
    for wrong in (
        replace(b, values=b.values.clone()),
        replace(b, dtype=torch.float64),
        dense((2, 3)),
        replace(b, axis=0),
    ):
        with pytest.raises(ValueError, match="row blocks"):
            stack_blocks([a, wrong])
    with pytest.raises(ValueError, match="differ"):
        stack_blocks([dense((2,), stored=torch.float16), dense((2,))])


def test_check_same_fails_on_wrong_answers():
    """The helper of these tests sees a wrong bit, name, order, dtype, and sharing lost or gained."""
    right = every_kind()
    changed = right["dense"].values.clone()
    changed[0, 0] += 1e-6
    wrong = [
        {**right, "dense": replace(right["dense"], values=changed)},
        {**right, "not.finite": replace(right["not.finite"], values=torch.tensor([float("nan"), 0.0]))},
        {**right, "scalar": dense((), dtype=torch.float64, stored=torch.float32)},
        {**right, "shared.a": replace(right["shared.a"], values=right["shared.a"].values.clone())},
        {**right, "codebook": codebook((6, 5), values=right["shared.a"].values)},
        {name: right[name] for name in reversed(right)},
        {name: right[name] for name in list(right)[1:]},
    ]
    for forms in wrong:
        with pytest.raises(AssertionError):
            check_same(forms, right)
    check_same(dict(right), right)


def test_lenet5_overhead_is_at_most_160_bytes(tmp_path):
    written = write(tmp_path / "lenet5.sums", lenet5())
    assert written.header_bytes + written.shared_bytes <= 160
    sections = list(read_header(tmp_path / "lenet5.sums").sections)
    assert written.size_bytes == written.header_bytes + sum(section.size_bytes for section in sections)


def efficientnet_lite0() -> dict[str, torch.Size]:
    """Names and shapes of EfficientNet-Lite0 as its package has them: 4.65 million entries in 200 tensors."""
    shapes: dict[str, tuple[int, ...]] = {}

    def convolution(name: str, norm: str, shape: tuple[int, ...]) -> None:
        shapes[f"{name}.weight"] = shape
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{norm}.{part}"] = shape[:1]

    convolution("_conv_stem", "_bn0", (32, 3, 3, 3))
    stages = [(1, 3, 32, 16, 1), (6, 3, 16, 24, 2), (6, 5, 24, 40, 2), (6, 3, 40, 80, 3)]
    stages += [(6, 5, 80, 112, 3), (6, 5, 112, 192, 4), (6, 3, 192, 320, 1)]
    block = 0
    for expand, kernel, into, out, repeats in stages:
        for i in range(repeats):
            width, middle = (into if i == 0 else out), (into if i == 0 else out) * expand
            if expand > 1:
                convolution(f"_blocks.{block}._expand_conv", f"_blocks.{block}._bn0", (middle, width, 1, 1))
            depth = (middle, 1, kernel, kernel)
            convolution(f"_blocks.{block}._depthwise_conv", f"_blocks.{block}._bn1", depth)
            convolution(f"_blocks.{block}._project_conv", f"_blocks.{block}._bn2", (out, middle, 1, 1))
            block += 1
    convolution("_conv_head", "_bn1", (1280, 320, 1, 1))
    shapes |= {"_fc.weight": (1000, 1280), "_fc.bias": (1000,)}
    return {name: torch.Size(shape) for name, shape in shapes.items()}


def test_efficientnet_lite0_overhead_is_at_most_3_permille():
    """At 3 bits an entry; all that is neither payload nor metadata, and the coder's own ends with it."""
    shapes = efficientnet_lite0()
    assert 4.6e6 < sum(shape.numel() for shape in shapes.values()) < 4.8e6
    written = measure({name: grid(shape, i, spread=2.0) for i, (name, shape) in enumerate(shapes.items())})
    assert written.header_bytes + written.shared_bytes <= 0.003 * written.size_bytes


def test_sizes_add_up_to_the_file(tmp_path):
    forms = every_kind()
    path = tmp_path / "model.sums"
    written = write(path, forms, metadata=METADATA)
    parts = written.header_bytes + written.metadata_bytes + written.shared_bytes + written.payload_bytes
    assert written.size_bytes == parts == path.stat().st_size
    assert {name: len(bits) for name, bits in written.part_bits.items()} == {
        n: len(f.parts()) for n, f in forms.items()
    }
    bits = sum(sum(part) for part in written.part_bits.values())
    assert bits / 8 == pytest.approx(written.payload_bytes, rel=0.01, abs=16 * len(list(read_header(path).sections)))
    without = len(to_bytes(forms))
    assert written.size_bytes - without == pytest.approx(written.metadata_bytes, abs=8)


def test_the_same_forms_give_the_same_bytes(tmp_path):
    data = to_bytes(every_kind(), metadata=METADATA)
    assert data == to_bytes(every_kind(), metadata=METADATA)
    write(tmp_path / "a.sums", every_kind(), metadata=METADATA)
    assert (tmp_path / "a.sums").read_bytes() == data
    assert measure(every_kind()).size_bytes == len(to_bytes(every_kind()))
    check_same(read(tmp_path / "a.sums").forms, every_kind())
    check_same(read(str(tmp_path / "a.sums")).forms, every_kind())


def test_the_streaming_writer_writes_the_same_bytes(tmp_path, small_sections, monkeypatch):
    monkeypatch.setattr(writer, "_IN_MEMORY", 10)  # The sections wait on the disk.
    forms = every_kind()
    shared = [forms["shared.a"].values, forms["grid.step"].step, *forms["tied.a"].tensors().values()]
    shared.append(forms["picks.a"].events)
    with Writer(tmp_path / "model.sums", shared=shared, metadata=METADATA) as file:
        for name, form in forms.items():
            file.add(name, form)
    check_same(read(tmp_path / "model.sums").forms, forms)
    assert file.written.size_bytes == (tmp_path / "model.sums").stat().st_size
    assert [path.name for path in tmp_path.iterdir()] == ["model.sums"]


def test_a_shared_tensor_must_be_declared_to_the_streaming_writer(tmp_path):
    values = torch.tensor([1.0, 2.0])
    with pytest.raises(ArgumentError, match="declare it"), Writer(tmp_path / "model.sums") as file:
        file.add("a", codebook((2,), values=values))
        file.add("b", codebook((3,), values=values))
    assert not list(tmp_path.iterdir())
    with pytest.raises(ArgumentError, match="without an error"):
        _ = file.written


def test_a_temporary_tensor_may_reuse_a_place_in_memory(tmp_path):
    with Writer(tmp_path / "model.sums") as file:
        for i in range(50):
            file.add(f"{i}", dense((2,), i))
    assert len(read(tmp_path / "model.sums").forms) == 50


def test_random_access_reads_only_the_sections_it_needs(small_sections):
    forms = {f"w{i}": dense((15,), i) for i in range(10)}
    forms["w5"] = total(codebook((15,), 5), sparse((15,), 5))
    data = to_bytes(forms, metadata=METADATA)
    header = read_header(data)
    file = Recorder(data)
    contents = read(file, names=["w7", "w5"])
    check_same(contents.forms, {"w5": forms["w5"], "w7": forms["w7"]})
    assert contents.metadata == METADATA
    sections = list(header.sections)
    wanted = [(s.offset, s.offset + s.size_bytes) for s in (sections[5], sections[7])]
    assert [run for run in file.runs if run[0] >= sections[0].offset] == wanted
    assert header.memory_bytes([sections[5]]) < header.memory_bytes()


def test_one_weight_of_a_pool_and_one_of_several_blocks(small_sections):
    data = to_bytes(every_kind())
    for name, form in every_kind().items():
        (found,) = read(data, names=[name]).forms.values()
        assert found.same(form)


def test_an_unknown_name_is_an_error_with_near_names():
    with pytest.raises(ArgumentError, match=r"did you mean 'fc1\.weight'"):
        read(to_bytes(lenet5(0.001)), names=["fc1.weigth"])


def test_the_header_is_read_alone():
    forms = lenet5(0.001)
    data = to_bytes(forms, metadata=METADATA)
    file = Recorder(data)
    header = read_header(file)
    assert max(end for _, end in file.runs) <= max(header.size_bytes, 31)
    assert header.names == tuple(forms)
    assert header.file_bytes == len(data)
    assert header.metadata_bytes > 0
    assert header.layouts["conv1.weight"][0].terms[1].kind == "Sparse"
    assert [header.shape(name) for name in header.names] == [form.shape for form in forms.values()]
    assert header.memory_bytes() >= sum(form.dense_bytes for form in forms.values())


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_do_not_change_the_result(threads, small_sections):
    check_same(read(to_bytes(every_kind()), threads=threads).forms, every_kind())


def test_sections_are_decoded_at_the_same_time(small_sections, monkeypatch):
    """Two threads meet in the decoder, which they could not in turn; and its kernels let others run meanwhile."""
    meeting = threading.Barrier(2, timeout=20)

    def decode(*arguments):
        meeting.wait()
        return decode_section(*arguments)

    monkeypatch.setattr(reader, "decode_section", decode)
    forms = {"large": dense((4, 10))}  # two blocks
    check_same(read(to_bytes(forms), threads=2).forms, forms)
    kernels = [contexts.code_levels, contexts.code_tree, contexts.code_floats, contexts.code_bytes, contexts.code_gaps]
    assert all(kernel.targetoptions["nogil"] for kernel in [*kernels, picks.code_picks])


def test_a_failing_section_stops_all_threads(small_sections):
    from summands.errors import CorruptFileError

    data = bytearray(to_bytes({f"w{i}": dense((20,), i) for i in range(30)}))
    data[-5] ^= 1
    with pytest.raises(CorruptFileError, match="weight 'w29'"):
        read(bytes(data), threads=3)


def test_no_weights_and_no_metadata():
    contents = read(to_bytes({}))
    assert contents.forms == {} and contents.metadata == {} and contents.layers == 1
    assert len(to_bytes({})) < 24


def test_a_block_shares_no_section_with_the_small_weights_around_it(small_sections):
    """Two blocks of half a section each would fit beside a small weight, but the header could not say so."""
    forms = {"small": dense((3,)), "large": dense((11, 2)), "after": dense((3,))}
    data = to_bytes(forms)
    check_same(read(data).forms, forms)
    assert [len(section.members) for section in read_header(data).sections] == [1, 1, 1, 1]


def test_a_large_form_in_blocks_shares_its_codebook_once(small_sections):
    form = codebook((40, 10), values=torch.arange(256.0))
    header = read_header(to_bytes({"a": form, "b": grid((40, 10))}))
    assert len(header.shared.members) == 2
    assert len(header.layouts["a"]) == 20


def test_a_tensor_shared_whole_is_not_cut_into_blocks(small_sections):
    values = torch.randn(10, 10)
    one = Dense(shape=values.shape, dtype=values.dtype, values=values)
    forms = {"embedding": one, "head": replace(one, dtype=torch.float16)}
    data = to_bytes(forms)
    check_same(read(data).forms, forms)
    assert len(data) < 100 * 4 * 1.5


@pytest.mark.parametrize(
    ("name", "form", "message"),
    [
        ("a" * 5000, dense((2,)), "name"),
        ("\ud800", dense((2,)), "UTF-8"),
        (3, dense((2,)), "name"),
        ("w", replace(dense((2,)), shape=torch.Size([3])), "values have shape"),
        ("w", replace(codebook((3,)), codes=torch.tensor([0, 1, 9])), "outside"),
    ],
)
def test_what_cannot_be_written(name, form, message, tmp_path):
    with pytest.raises(ArgumentError, match=message):
        write(tmp_path / "model.sums", {name: form})
    assert not list(tmp_path.iterdir())


def test_the_same_name_twice(tmp_path):
    with pytest.raises(ArgumentError, match="new to the file"), Writer(tmp_path / "model.sums") as file:
        file.add("w", dense((2,)))
        file.add("w", dense((2,)))


@pytest.mark.parametrize("metadata", [{"a": {1, 2}}, {"a": float("nan")}, {"a": "\ud800"}, {"a": "x" * (17 << 20)}])
def test_metadata_that_cannot_be_written(metadata):
    with pytest.raises(ArgumentError, match=r"metadata|UTF-8"):
        to_bytes({}, metadata=metadata)


@pytest.mark.parametrize("arguments", [{"threads": 0}, {"threads": -1}])
def test_arguments_of_read(arguments):
    with pytest.raises(ArgumentError):
        read(to_bytes({}), **arguments)
