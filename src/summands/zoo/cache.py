"""Where downloads and trained reference networks are kept, so that nothing is fetched or trained twice."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ..atomic import file_errors, whole_file
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
    """Writes it whole or not at all, with the folders on the way. FileError if that fails."""
    try:
        with file_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as temporary:
            temporary.write_bytes(content)
    except FileError as error:
        raise FileError(f"{error}; set SUMMANDS_CACHE to a folder of yours") from error
