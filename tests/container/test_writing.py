"""A file appears whole or not at all, and what was there before survives every failure."""

import contextlib
import errno
import os
from pathlib import Path

import pytest

from summands import atomic
from summands.container import Writer, read, write, writer
from summands.errors import ArgumentError, FileError
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
