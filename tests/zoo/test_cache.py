from pathlib import Path

import pytest

from summands.errors import FileError
from summands.zoo import cache as module
from summands.zoo.cache import cache_dir, store


def test_the_environment_decides_where_the_cache_is(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    monkeypatch.setenv("LOCALAPPDATA", "/y")
    monkeypatch.setenv("SUMMANDS_CACHE", "/mine")
    assert cache_dir() == Path("/mine")
    monkeypatch.delenv("SUMMANDS_CACHE")
    for platform, folder in {"linux": "/x/summands", "win32": "/y/summands/cache"}.items():
        monkeypatch.setattr(module.sys, "platform", platform)
        assert cache_dir() == Path(folder)
    monkeypatch.setattr(module.sys, "platform", "darwin")
    assert cache_dir() == Path.home() / "Library/Caches/summands"


def test_a_stored_file_is_whole_and_leaves_nothing_beside_it(tmp_path):
    for content in (b"one", b"two"):
        store(tmp_path / "a" / "b", content)
        assert (tmp_path / "a" / "b").read_bytes() == content
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["b"]


def test_a_place_that_cannot_be_written_is_an_error_with_a_remedy(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FileError, match=r"cannot write .*; set SUMMANDS_CACHE"):
        store(tmp_path / "file" / "b", b"")
    (tmp_path / "folder" / "x").mkdir(parents=True)
    with pytest.raises(FileError, match="cannot write"):
        store(tmp_path / "folder", b"")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]
