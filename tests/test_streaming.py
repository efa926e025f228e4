"""A checkpoint of any size, in one file or many, is compressed one weight at a time."""

from __future__ import annotations

import json
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import summands as sm
from summands.errors import FileError
from summands.shards import Shards
from summands.streaming import plan_of

PLAN = sm.Plan(
    {
        "conv*": "Quantize(4) + Prune(keep=0.1)",
        "fc*.weight": "Quantize(2, per='task')",
        "emb": "Grid(bits_per_weight=2)",
        "*.bias": "Keep('float16')",
    },
    ignore=["norm"],
)


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"conv.weight": (8, 3, 3, 3), "conv.bias": (8,), "fc1.weight": (20, 30), "norm": (20,)}
    shapes |= {"fc2.weight": (10, 20), "fc2.bias": (10,), "emb": (60, 12)}
    found = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return {**found, "ids": torch.arange(5), "half": torch.ones((), dtype=torch.bfloat16)}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save_file(tensors(), tmp_path / "net.safetensors")
    return tmp_path / "net.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The same tensors in three shards, with their index."""
    folder = tmp_path / "sharded"
    folder.mkdir()
    shards: list[dict[str, torch.Tensor]] = [{}, {}, {}]
    for i, (name, tensor) in enumerate(tensors().items()):
        shards[i % 3][name] = tensor
    places = {}
    for i, shard in enumerate(shards):
        save_file(shard, folder / f"model-{i}.safetensors")
        places |= dict.fromkeys(shard, f"model-{i}.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder


def test_the_file_is_that_of_the_whole_network(file, tmp_path):
    whole = sm.compress(Shards(file).tensors(), PLAN)
    whole.save(tmp_path / "whole.sums")
    report = sm.compress_file(file, tmp_path / "net.sums", PLAN)
    assert (tmp_path / "net.sums").read_bytes() == (tmp_path / "whole.sums").read_bytes()
    assert report.size_bytes == whole.size_bytes and report.ratio == whole.ratio
    assert report.paper_ratio == pytest.approx(whole.paper_ratio)
    assert report.rows() == whole.rows()
    assert str(report) == str(whole)


def test_metadata_are_written_on_request(file, tmp_path):
    report = sm.compress_file(file, tmp_path / "net.sums", PLAN, metadata=True)
    assert (tmp_path / "net.sums").stat().st_size > report.size_bytes


def test_shards_are_one_network(folder, tmp_path):
    for source in (folder, folder / "model.safetensors.index.json"):
        sm.compress_file(source, tmp_path / "net.sums", PLAN)
        found = sm.load(tmp_path / "net.sums")
        assert found.keys() == tensors().keys()
        assert torch.equal(found["norm"], tensors()["norm"]) and torch.equal(found["ids"], tensors()["ids"])
    (folder / "model.safetensors.index.json").unlink()
    assert Shards(folder).declared.keys() == tensors().keys()


def test_without_a_plan_the_default_is_that_of_the_values(file):
    from summands.plan import default_plan

    assert plan_of(Shards(file)) == default_plan(Shards(file).tensors())


def test_one_weight_is_in_memory_at_a_time(file, tmp_path, monkeypatch):
    """Whatever was read is gone before the next weight is read; only a task that is fitted together comes together."""
    alive: dict[str, weakref.ref[torch.Tensor]] = {}
    most: list[set[str]] = []
    read = Shards.tensor

    def watched(self, name):
        tensor = read(self, name)
        alive[name] = weakref.ref(tensor)
        most.append({n for n, t in alive.items() if t() is not None})
        return tensor

    # Kept tensors wait for their section to fill: none does here.
    monkeypatch.setattr("summands.container.writer.SECTION_ENTRIES", 1)
    monkeypatch.setattr(Shards, "tensor", watched)
    sm.compress_file(file, tmp_path / "net.sums", PLAN)
    assert set(alive) == set(tensors())
    together = {"fc1.weight", "fc2.weight"}
    kept = {"norm", "ids", "half"}  # a kept tensor is its own form, and the last one waits for the next
    for names in most:
        assert len(names - kept) <= 1 or names - kept == together
        assert len(names & kept) <= 2


def test_the_helper_of_this_test_would_see_all_of_them(file, monkeypatch):
    tensor = Shards(file).tensors()
    assert len([t for t in map(weakref.ref, tensor.values()) if t() is not None]) == len(tensors())


MEASURED = """
import resource, sys
import summands as sm
plan = sm.Plan({"*": "Quantize(4)"})
base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
sm.compress_file(sys.argv[1], sys.argv[2], plan)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base)
"""


@pytest.mark.thorough
def test_the_memory_is_that_of_the_largest_tensor(tmp_path):
    """A checkpoint of 240 MB in 20 tensors: beyond the library itself far less than the checkpoint."""
    folder = tmp_path / "large"
    folder.mkdir()
    for shard in range(2):
        some = {f"{shard}.{i}": torch.randn(1500, 2000) for i in range(10)}
        save_file(some, folder / f"{shard}.safetensors")
    ran = [sys.executable, "-c", MEASURED, str(folder), str(tmp_path / "large.sums")]
    peak = 1024 * int(subprocess.run(ran, check=True, capture_output=True, text=True).stdout)
    assert peak < 10 * 12e6, f"{peak / 1e6:.0f} MB for tensors of 12 MB"


def test_an_error_leaves_no_file(file, tmp_path):
    broken = {**tensors(), "emb": torch.full((4, 4), torch.nan)}
    save_file(broken, file)
    with pytest.raises(sm.SummandsError, match="emb"):
        sm.compress_file(file, tmp_path / "net.sums", PLAN)
    assert not (tmp_path / "net.sums").exists()


def test_sources_that_are_refused(file, folder, tmp_path):
    index = folder / "model.safetensors.index.json"

    def refused(source: Path, words: str) -> None:
        with pytest.raises(FileError, match=words):
            Shards(source)

    refused(tmp_path / "missing.safetensors", "there is no file")
    refused(index.parent.parent / "sharded" / "none.safetensors.index.json", "not the index")
    for text in ("{}", "[]", "{", '{"weight_map": 3}'):
        index.write_text(text)
        refused(folder, "not the index")
    for name in ("../net.safetensors", "/etc/passwd", "a/b"):
        index.write_text(json.dumps({"weight_map": {"w": name}}))
        refused(folder, "in its own folder")
    index.write_text(json.dumps({"weight_map": {"w": "gone.safetensors"}}))
    refused(folder, "there is no file")
    index.unlink()
    save_file({"norm": torch.ones(3)}, folder / "more.safetensors")
    refused(folder, "both have a tensor 'norm'")
    (folder / "more.safetensors").write_bytes(b"\0" * 20)
    refused(folder, "not a safetensors file")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "must be one with")


def test_an_index_says_which_tensors_count(folder):
    index = folder / "model.safetensors.index.json"
    told = json.loads(index.read_text())["weight_map"]
    name, shard = next(iter(told.items()))
    index.write_text(json.dumps({"weight_map": {n: s for n, s in told.items() if n != name}}))
    assert name not in Shards(folder).declared  # still in its shard, and left there
    other = next(s for s in told.values() if s != shard)
    save_file({name: torch.full((2,), 7.0), **load_file(folder / other)}, folder / other)
    index.write_text(json.dumps({"weight_map": told}))
    assert torch.equal(Shards(folder).tensor(name), tensors()[name])  # not the stale copy
    index.write_text(json.dumps({"weight_map": {**told, "lost": shard}}))
    with pytest.raises(FileError, match="has no tensor 'lost', which the index expects there"):
        Shards(folder)


@pytest.mark.parametrize(("suffix", "remedy"), [(".pt", "safetensors.torch.save_file"), (".sums", "decompress")])
def test_other_files_are_told_how_to_become_one(tmp_path, suffix, remedy):
    path = tmp_path / f"net{suffix}"
    torch.save({"w": torch.ones(3)}, path)
    with pytest.raises(FileError, match=remedy):
        Shards(path)
