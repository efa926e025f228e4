"""Files that appear whole or not at all: compressed and dense weights, checkpoints, reports, what the cache keeps."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import FileError


@contextmanager
def file_errors(path: Path) -> Iterator[None]:
    """The system's errors inside as FileErrors that name the file."""
    try:
        yield
    except OSError as error:
        raise FileError(f"cannot write {path}: {error.strerror or error}") from error


def check_place(path: Path, *sources: Path | None) -> None:
    """FileError unless a file may be put there: no folder is made, only a regular file replaced, none of `sources`."""
    folder = Path(os.path.realpath(path)).parent
    if not folder.is_dir():
        raise FileError(f"cannot write {path}: there is no folder {folder}")
    if path.exists() and not path.is_file():
        what = "a folder" if path.is_dir() else "there already"
        raise FileError(f"cannot write {path}: it is {what} and not a regular file")
    if any(source is not None and source.exists() and path.exists() and path.samefile(source) for source in sources):
        raise FileError(f"cannot write {path}: it is what the output is made from; give --output another name")
    if not os.access(folder, os.W_OK):
        raise FileError(f"cannot write {path}: no permission in {folder}")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; its file is then put to the disk and takes the place of `path`.

    An error inside, and a process ended at any moment, leaves what was at `path`.

    Raises:
        FileError: the system could not write it.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.txt"
    >>> with whole_file(path) as temporary:
    ...     size = temporary.write_text("all of it")
    >>> path.read_text(), [file.name for file in path.parent.iterdir()]
    ('all of it', ['a.txt'])
    """
    place = Path(os.path.realpath(path))  # a link stays one, and what it points to is replaced
    temporary = place.parent / f".{place.name[:32]}.{secrets.token_hex(8)}"
    with file_errors(path):
        try:
            yield temporary
            _to_disk(temporary, os.O_RDWR)
            temporary.replace(place)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        if os.name == "posix":  # the new name is on the disk when its folder is
            _to_disk(place.parent, os.O_RDONLY)


def _to_disk(path: Path, mode: int) -> None:
    handle = os.open(path, mode)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
