"""The papers' networks, written so that their weights have the names and shapes that the papers use."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ArgumentError, must, near

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": torch.relu, "tanh": torch.tanh}


class LeNet300(nn.Module):
    """LeNet-300-100: 266,610 parameters on 784 inputs. `activation` is "relu" or "tanh"."""

    def __init__(self, inputs: int = 784, classes: int = 10, activation: str = "relu") -> None:
        super().__init__()
        if activation not in _ACTIVATIONS:
            raise ArgumentError(must("LeNet300(activation=...)", "'relu' or 'tanh'", activation))
        self.fc1 = nn.Linear(inputs, 300)
        self.fc2 = nn.Linear(300, 100)
        self.fc3 = nn.Linear(100, classes)
        self._activation = _ACTIVATIONS[activation]

    def forward(self, images: Tensor) -> Tensor:
        hidden = self._activation(self.fc1(images.flatten(1)))
        return self.fc3(self._activation(self.fc2(hidden)))


class LeNet5(nn.Module):
    """LeNet-5 as in Caffe, 20-50-500-10: 431,080 parameters; images of 28 x 28."""

    def __init__(self, channels: int = 1, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(800, 500)
        self.fc2 = nn.Linear(500, classes)

    def forward(self, images: Tensor) -> Tensor:
        maps = F.max_pool2d(torch.relu(self.conv1(images)), 2)
        maps = F.max_pool2d(torch.relu(self.conv2(maps)), 2)
        return self.fc2(torch.relu(self.fc1(maps.flatten(1))))


class _Block(nn.Module):
    """Two 3 x 3 convolutions and a shortcut without parameters: every other pixel, new channels zero (option A)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self._stride, self._new = stride, outputs - inputs

    def forward(self, maps: Tensor) -> Tensor:
        short = maps[:, :, :: self._stride, :: self._stride]
        if self._new:
            short = F.pad(short, (0, 0, 0, 0, self._new // 2, self._new - self._new // 2))
        maps = torch.relu(self.bn1(self.conv1(maps)))
        return torch.relu(self.bn2(self.conv2(maps)) + short)


class ResNet(nn.Module):
    """The CIFAR ResNet of He et al. (1512.03385, section 4.2) with 6 n + 2 layers and option A shortcuts.

    Images of any size. ResNet-20 (n = 3) has 269,722 parameters on three channels, 269,434 on one.
    """

    def __init__(self, n: int = 3, channels: int = 3, classes: int = 10, width: int = 16) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = self._stage(n, width, width, 1)
        self.layer2 = self._stage(n, width, 2 * width, 2)
        self.layer3 = self._stage(n, 2 * width, 4 * width, 2)
        self.fc = nn.Linear(4 * width, classes)

    @staticmethod
    def _stage(n: int, inputs: int, outputs: int, stride: int) -> nn.Sequential:
        return nn.Sequential(_Block(inputs, outputs, stride), *(_Block(outputs, outputs, 1) for _ in range(n - 1)))

    def forward(self, images: Tensor) -> Tensor:
        maps = torch.relu(self.bn1(self.conv1(images)))
        maps = self.layer3(self.layer2(self.layer1(maps)))
        return self.fc(maps.mean((2, 3)))


_VGG16 = ((1, 1), (2, 2), (4, 4, 4), (8, 8, 8), (8, 8, 8))


class VGG(nn.Module):
    """VGG-16 with BatchNorm and one hidden dense layer, `width` maps in its first layer (64 in the paper, 1409.1556).

    Images from 17 x 17 to 32 x 32. Width 15 has 0.82 million parameters on one channel, width 64 has 15 million.
    """

    def __init__(self, width: int = 15, channels: int = 1, classes: int = 10) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        for factors in _VGG16:
            layers: list[nn.Module] = []
            for factor in factors:
                layers += [nn.Conv2d(channels, factor * width, 3, padding=1, bias=False)]
                layers += [nn.BatchNorm2d(factor * width), nn.ReLU()]
                channels = factor * width
            # ceil_mode carries 28 x 28 through five halvings to 1 x 1.
            self.stages.append(nn.Sequential(*layers, nn.MaxPool2d(2, ceil_mode=True)))
        self.fc1 = nn.Linear(channels, channels)
        self.fc2 = nn.Linear(channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        for stage in self.stages:
            images = stage(images)
        return self.fc2(torch.relu(self.fc1(images.flatten(1))))


class AlexNet(nn.Module):
    """AlexNet's five convolutions and three dense layers, for small images, every width divided by `divide`.

    Images of 28 x 28 or 32 x 32, without local response normalisation and dropout. Divided by 8 it has 0.47 million
    parameters on one channel of 28 x 28.
    """

    def __init__(self, divide: int = 8, channels: int = 1, classes: int = 10, size: int = 28) -> None:
        super().__init__()
        a, b, c, d, e, hidden = (n // divide for n in (96, 256, 384, 384, 256, 4096))
        self.conv1 = nn.Conv2d(channels, a, 5, padding=2)
        self.conv2 = nn.Conv2d(a, b, 5, padding=2)
        self.conv3 = nn.Conv2d(b, c, 3, padding=1)
        self.conv4 = nn.Conv2d(c, d, 3, padding=1)
        self.conv5 = nn.Conv2d(d, e, 3, padding=1)
        self.fc1 = nn.Linear(e * (size // 8) ** 2, hidden)
        self.fc2 = nn.Linear(hidden, hidden)
        self.fc3 = nn.Linear(hidden, classes)

    def forward(self, images: Tensor) -> Tensor:
        maps = F.max_pool2d(torch.relu(self.conv1(images)), 2)
        maps = F.max_pool2d(torch.relu(self.conv2(maps)), 2)
        maps = torch.relu(self.conv4(torch.relu(self.conv3(maps))))
        maps = F.max_pool2d(torch.relu(self.conv5(maps)), 2)
        return self.fc3(torch.relu(self.fc2(torch.relu(self.fc1(maps.flatten(1))))))


_Maker = Callable[[Sequence[int], int], nn.Module]
"""(shape of one image, classes) -> the network."""


def _lenet300(activation: str) -> _Maker:
    return lambda image, classes: LeNet300(torch.Size(image).numel(), classes, activation)


_MAKERS: dict[str, _Maker] = {
    "lenet300": _lenet300("relu"),
    "lenet300-tanh": _lenet300("tanh"),
    "lenet5": lambda image, classes: LeNet5(image[0], classes),
    "resnet20": lambda image, classes: ResNet(3, image[0], classes),
    "vgg": lambda image, classes: VGG(15, image[0], classes),
    "alexnet": lambda image, classes: AlexNet(8, image[0], classes, image[1]),
}

NETWORKS = tuple(_MAKERS)
"""Every name that `build` knows."""


def build(name: str, image: Sequence[int] = (1, 28, 28), classes: int = 10, seed: int = 0) -> nn.Module:
    """A network by its name in NETWORKS with PyTorch's initial weights, which depend on `seed` alone.

    The global seed is left untouched.

    Args:
        image: channels, height and width of one image.

    >>> sum(p.numel() for p in build("lenet5").parameters())
    431080
    """
    if name not in _MAKERS:
        raise ArgumentError(must("network", f"one of {', '.join(map(repr, NETWORKS))}", name, near(name, NETWORKS)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _MAKERS[name](image, classes)
