"""A file appears whole or not at all, and what was there before survives every failure."""

import contextlib
import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from summands import atomic
from summands.container import Writer, header, read, write, writer
from summands.errors import ArgumentError, FileError
from summands.forms import Trellis
from tests.container.samples import check_same, dense, every_kind

resource = pytest.importorskip("resource")


@contextlib.contextmanager
def file_size_limit(limit: int):
    """The kernel refuses to let a file of this process grow beyond `limit` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def check_untouched(folder: Path, path: Path) -> None:
    """The old file, and nothing else."""
    assert [p.name for p in folder.iterdir()] == [path.name]
    assert path.read_bytes() == b"old"


@pytest.fixture
def old(tmp_path):
    path = tmp_path / "model.sums"
    path.write_bytes(b"old")
    return path


def test_check_untouched_fails_on_wrong_answers(old):
    check_untouched(old.parent, old)
    (old.parent / "more").touch()
    with pytest.raises(AssertionError):
        check_untouched(old.parent, old)
    (old.parent / "more").unlink()
    old.write_bytes(b"new")
    with pytest.raises(AssertionError):
        check_untouched(old.parent, old)


def test_an_old_file_is_replaced(old):
    write(old, every_kind())
    check_same(read(old).forms, every_kind())


@pytest.mark.parametrize("in_memory", [10, 1 << 24], ids=["spool on disk", "spool in memory"])
def test_a_full_disk_leaves_the_old_file(old, in_memory, monkeypatch):
    monkeypatch.setattr(writer, "_IN_MEMORY", in_memory)
    with file_size_limit(1000), pytest.raises(FileError, match=r"cannot write .*: File too large"):
        write(old, {"w": dense((1000,))})
    check_untouched(old.parent, old)


def test_no_space_is_named(old, monkeypatch):
    def full(path, mode):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(atomic, "_to_disk", full)
    with pytest.raises(FileError, match="No space left on device"):
        write(old, every_kind())
    check_untouched(old.parent, old)


@pytest.mark.parametrize("error", [RuntimeError("stop"), KeyboardInterrupt()])
def test_an_exception_in_between_leaves_the_old_file(old, error):
    with pytest.raises(type(error)), Writer(old) as file:
        file.add("w", dense((3,)))
        raise error
    check_untouched(old.parent, old)


def test_an_interrupt_while_writing_leaves_the_old_file(old, monkeypatch):
    def interrupted(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(old, every_kind())
    check_untouched(old.parent, old)


def test_a_form_that_cannot_be_written_leaves_the_old_file(old):
    with pytest.raises(ArgumentError):
        write(old, {"w": dense((3,)), "x" * 5000: dense((3,))})
    check_untouched(old.parent, old)


def test_a_weight_that_is_refused_leaves_the_writer_as_it_was(tmp_path):
    path, first = tmp_path / "model.sums", dense((3,))
    with Writer(path) as file:
        file.add("a", first)
        with pytest.raises(ArgumentError, match="stands in the file already"):
            file.add("b", first)
        with pytest.raises(ArgumentError, match="new to the file"):
            file.add("a", dense((4,)))
        file.add("b", dense((3,), 1))
    check_same(read(path).forms, {"a": first, "b": dense((3,), 1)})


def test_no_file_is_written_that_no_reader_takes(tmp_path, monkeypatch):
    path = tmp_path / "model.sums"
    for limit, message in (("MAX_FORMS", "the forms of a file"), ("MAX_HEADER", "the names of a file's weights")):
        with monkeypatch.context() as patch:
            patch.setattr(header, limit, 3)
            with pytest.raises(ArgumentError, match=message):
                write(path, {f"w{i}": dense((3,)) for i in range(4)})
    assert not path.exists()


def test_levels_that_cannot_be_coded_name_their_weight(tmp_path):
    wrong = Trellis(shape=torch.Size([3]), dtype=torch.float32, levels=torch.tensor([1, 1, 1]), step=torch.ones(()))
    with pytest.raises(ArgumentError, match=r"cannot be written.*'fc'"):
        write(tmp_path / "model.sums", {"fc": wrong})
    with pytest.raises(ArgumentError, match=r"node in \[0, 8\)"):
        write(tmp_path / "model.sums", {"fc": replace(wrong, node=8)})


def test_a_link_stays_one(tmp_path):
    target, link = tmp_path / "model-1.sums", tmp_path / "latest.sums"
    write(target, {})
    link.symlink_to(target)
    write(link, every_kind())
    assert link.is_symlink()
    check_same(read(target).forms, every_kind())


def test_a_link_to_itself_becomes_the_file(tmp_path):
    link = tmp_path / "model.sums"
    link.symlink_to(link)
    write(link, every_kind())
    check_same(read(link).forms, every_kind())


def test_a_long_name(tmp_path):
    write(tmp_path / ("\N{GRINNING FACE}" * 60), {})


def test_places_where_no_file_can_be(tmp_path):
    with pytest.raises(FileError, match="no folder"):
        write(tmp_path / "missing" / "model.sums", {})
    with pytest.raises(FileError, match="not a regular file"):
        write(tmp_path, {})
    with pytest.raises(FileError, match="not a regular file"):
        write("/dev/null", {})
    with pytest.raises(FileError, match="too long"):
        write(tmp_path / ("x" * 300), {})


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_no_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(FileError, match="Permission denied"):
        write(tmp_path / "model.sums", {})


def test_the_mode_of_a_new_file_follows_the_umask(tmp_path):
    mask = os.umask(0o027)
    try:
        write(tmp_path / "model.sums", {})
    finally:
        os.umask(mask)
    assert (tmp_path / "model.sums").stat().st_mode & 0o777 == 0o640


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(FileError, match="No such file"):
        read(tmp_path / "missing.sums")
    with pytest.raises(FileError, match="directory"):
        read(tmp_path)
    (tmp_path / "a.sums").write_bytes(b"PK\x03\x04 not ours")
    with pytest.raises(FileError, match=r"not a summands file.*a\.sums"):
        read(tmp_path / "a.sums")
