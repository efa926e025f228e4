"""Where downloads and trained reference networks are kept, so that nothing is fetched or trained twice."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from ..errors import FileError


def cache_dir() -> Path:
    """`$SUMMANDS_CACHE`, or the folder `summands` in the platform's cache of this user. Not created here."""
    if chosen := os.environ.get("SUMMANDS_CACHE"):
        return Path(chosen).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "summands"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "summands" / "cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "summands"


def store(path: Path, content: bytes) -> None:
    """Writes beside `path`, then renames: a reader sees the whole file or none. FileError if that fails."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise FileError(
            f"cannot write {str(path)!r}: {error.strerror}; set SUMMANDS_CACHE to a folder of yours"
        ) from error
