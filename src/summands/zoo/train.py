"""Training of the reference networks: fixed seeds, a checkpoint after every epoch, and each network trained once."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ArgumentError, FileError, TrainingError, must, near
from .cache import cache_dir, store
from .data import Data, Split, load
from .networks import build

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class Recipe:
    """How a reference network is trained: SGD with Nesterov momentum, cross-entropy, batches drawn without replacement.

    Args:
        network, data: names in `networks.NETWORKS` and `data.DATA_SETS`.
        lr: the highest learning rate.
        warmup: share of the steps in which it rises linearly from zero; from there it falls to zero as a cosine.
        shift: augmentation, pixels by which an image may move in each direction.
        flip: augmentation, mirror half of the images.
        seed: of the initial weights, the batches and the augmentation.
    """

    network: str
    data: str
    epochs: int
    lr: float
    weight_decay: float = 0.0
    warmup: float = 0.0
    shift: int = 0
    flip: bool = False
    batch: int = 128
    momentum: float = 0.9
    seed: int = 0

    def key(self) -> str:
        """A file name that tells this recipe from every other."""
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()
        return f"{self.network}-{self.data}-seed{self.seed}-{digest[:12]}"


RECIPES = {
    "lenet300-digits": Recipe("lenet300", "digits", epochs=60, lr=0.05, batch=64),
    "lenet300-mnist": Recipe("lenet300", "mnist", epochs=15, lr=0.05),
    "lenet300-tanh-mnist": Recipe("lenet300-tanh", "mnist", epochs=15, lr=0.05),
    "lenet300-fashion-mnist": Recipe("lenet300", "fashion-mnist", epochs=15, lr=0.05),
    "lenet5-mnist": Recipe("lenet5", "mnist", epochs=10, lr=0.02, weight_decay=5e-4),
    "lenet5-fashion-mnist": Recipe("lenet5", "fashion-mnist", epochs=10, lr=0.02, weight_decay=5e-4),
    "resnet20-fashion-mnist": Recipe(
        "resnet20", "fashion-mnist", epochs=15, lr=0.2, weight_decay=5e-4, warmup=0.3, shift=2, flip=True
    ),
    "vgg-fashion-mnist": Recipe(
        "vgg", "fashion-mnist", epochs=15, lr=0.1, weight_decay=5e-4, warmup=0.3, shift=2, flip=True
    ),
    "alexnet-fashion-mnist": Recipe(
        "alexnet", "fashion-mnist", epochs=15, lr=0.05, weight_decay=5e-4, warmup=0.1, shift=2, flip=True
    ),
    "resnet20-cifar-10": Recipe(
        "resnet20", "cifar-10", epochs=200, lr=0.1, weight_decay=5e-4, warmup=0.02, shift=4, flip=True
    ),
}
"""The references of the benchmarks, seed 0. The CIFAR-10 one needs the official address of its data."""


@dataclass(frozen=True, eq=False)
class Reference:
    """A trained network in evaluation mode and its errors in percent; `seconds` is what its training took."""

    model: nn.Module
    recipe: Recipe
    validation_error: float
    test_error: float
    seconds: float


OnEpoch = Callable[[int, float], None]
"""(epochs done, mean training loss of the last)."""


def reference(name: str, seed: int = 0, *, on_epoch: OnEpoch | None = None) -> Reference:
    """The trained network of RECIPES[name] for this seed: from `cache_dir()`, or trained now, once.

    Training keeps a checkpoint of every epoch and goes on from there when it was ended. On one thread the result
    depends on the recipe alone.
    """
    if name not in RECIPES:
        raise ArgumentError(must("reference", f"one of {', '.join(map(repr, RECIPES))}", name, near(name, RECIPES)))
    return train(replace(RECIPES[name], seed=seed), on_epoch=on_epoch)


def train(recipe: Recipe, data: Data | None = None, *, on_epoch: OnEpoch | None = None) -> Reference:
    """`reference` for a recipe of your own. Pass `data` if you hold it already.

    Raises:
        TrainingError: the loss is no longer finite.
    """
    path = cache_dir() / "references" / f"{recipe.key()}.safetensors"
    if not path.is_file():
        data = load(recipe.data) if data is None else data
        shape = data.train.images.shape[1:]
        model = build(recipe.network, shape, data.classes, recipe.seed)
        seconds = _fit_with_checkpoints(model, data.train, recipe, path.with_suffix(".partial"), on_epoch)
        errors = [error(model, part.images, part.labels) for part in (data.validation, data.test)]
        facts: dict[str, Any] = {
            "recipe": asdict(recipe),
            "image": list(shape),
            "classes": data.classes,
            "seconds": seconds,
        }
        facts |= {"validation_error": errors[0], "test_error": errors[1], "torch": str(torch.__version__)}
        _write(path, model.state_dict(), facts)
        path.with_suffix(".partial").unlink(missing_ok=True)
    tensors, facts = _read(path)
    model = build(recipe.network, facts["image"], facts["classes"])
    model.load_state_dict(tensors)
    return Reference(model.eval(), recipe, facts["validation_error"], facts["test_error"], facts["seconds"])


def error(model: nn.Module, images: Tensor, labels: Tensor, *, batch: int = 1000) -> float:
    """The share of images, in percent, whose highest output is not their label. The model's mode is kept."""
    return 100 * _mean_over(model, images, labels, batch, lambda out, true: (out.argmax(1) != true).sum())


def mean_loss(model: nn.Module, images: Tensor, labels: Tensor, *, batch: int = 1000) -> float:
    """The mean cross-entropy, in nats. The model's mode is kept."""
    return _mean_over(
        model, images, labels, batch, lambda out, true: F.cross_entropy(out.double(), true, reduction="sum")
    )


def channels_last(model: Model) -> Model:
    """The model, its convolutions in the memory format in which they train fastest on a CPU."""
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def fit(
    model: nn.Module,
    split: Split,
    recipe: Recipe,
    *,
    momenta: Sequence[Tensor] = (),
    start: int = 0,
    after_epoch: Callable[[int, float, list[Tensor]], None] | None = None,
) -> None:
    """Trains `model` in place from epoch `start` of the recipe on, with flushed denormals.

    Args:
        momenta: one for each parameter, when going on from a checkpoint.
        after_epoch: called with (epochs done, mean loss of the epoch, momenta).
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.SGD(
        parameters, lr=recipe.lr, momentum=recipe.momentum, nesterov=True, weight_decay=recipe.weight_decay
    )
    for parameter, momentum in zip(parameters, momenta, strict=bool(momenta)):
        optimiser.state[parameter]["momentum_buffer"] = momentum
    channels_last(model)
    batches = Batches(split, recipe)
    with flushed_denormals():
        for epoch in range(start, recipe.epochs):
            model.train()
            total = torch.zeros((), dtype=torch.float64)
            for i, (images, labels) in enumerate(batches.epoch(epoch)):
                progress = (epoch * len(batches) + i) / (recipe.epochs * len(batches))
                for group in optimiser.param_groups:
                    group["lr"] = learning_rate(recipe, progress)
                loss = F.cross_entropy(model(images), labels)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                total += loss.detach()
            mean = float(total) / len(batches)
            if not math.isfinite(mean):
                raise TrainingError(f"the loss of {recipe.key()} is {mean} in epoch {epoch + 1}; lower lr={recipe.lr}")
            if after_epoch is not None:
                after_epoch(epoch + 1, mean, [optimiser.state[p]["momentum_buffer"] for p in parameters])


def learning_rate(recipe: Recipe, progress: float) -> float:
    """The learning rate after a share `progress` in [0, 1) of all steps.

    >>> recipe = Recipe("lenet5", "mnist", epochs=1, lr=0.1, warmup=0.2)
    >>> [round(learning_rate(recipe, progress), 3) for progress in (0, 0.1, 0.2, 0.6, 1)]
    [0.0, 0.05, 0.1, 0.05, 0.0]
    """
    if progress < recipe.warmup:
        return recipe.lr * progress / recipe.warmup
    return recipe.lr * (1 + math.cos(math.pi * (progress - recipe.warmup) / (1 - recipe.warmup))) / 2


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Numbers below 1e-38 count as zero inside: momenta of weights that shrink would slow the CPU down tenfold."""
    before = bool(torch.tensor(1e-40).mul(1) == 0)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


class Batches:
    """Shuffled and augmented batches of one split; each epoch depends on the seed and its number alone."""

    def __init__(self, split: Split, recipe: Recipe) -> None:
        self._split, self._recipe = split, recipe
        # Channels last, so that cutting windows out of padded images gives the layout that convolutions like.
        shift = recipe.shift
        self._padded = F.pad(split.images, (shift,) * 4).permute(0, 2, 3, 1).contiguous() if self._augments else None

    def __len__(self) -> int:
        return len(self._split) // self._recipe.batch

    def epoch(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(self._recipe.seed * 100_003 + number)
        if self._padded is None:
            yield from self._split.batches(self._recipe.batch, generator)
            return
        order = torch.randperm(len(self._split), generator=generator)
        for i in range(len(self)):
            chosen = order[i * self._recipe.batch : (i + 1) * self._recipe.batch]
            yield self._augmented(self._padded, chosen, generator), self._split.labels[chosen]

    @property
    def _augments(self) -> bool:
        return bool(self._recipe.shift or self._recipe.flip)

    def _augmented(self, padded: Tensor, chosen: Tensor, generator: torch.Generator) -> Tensor:
        count, (height, width) = len(chosen), self._split.images.shape[2:]
        top, left = torch.randint(2 * self._recipe.shift + 1, (2, count, 1), generator=generator)
        columns = torch.arange(width).expand(count, width)
        if self._recipe.flip:
            mirrored = torch.rand(count, 1, generator=generator) < 0.5
            columns = torch.where(mirrored, width - 1 - columns, columns)
        rows = torch.arange(height) + top
        windows = padded[chosen.view(-1, 1, 1), rows.unsqueeze(2), (columns + left).unsqueeze(1)]
        return windows.permute(0, 3, 1, 2)


def _mean_over(
    model: nn.Module, images: Tensor, labels: Tensor, batch: int, total: Callable[[Tensor, Tensor], Tensor]
) -> float:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.inference_mode():
            pairs = zip(images.split(batch), labels.split(batch), strict=True)
            return sum(float(total(model(x), y)) for x, y in pairs) / len(labels)
    finally:
        for module, mode in modes.items():
            module.training = mode


def _fit_with_checkpoints(
    model: nn.Module, split: Split, recipe: Recipe, path: Path, on_epoch: OnEpoch | None
) -> float:
    """Trains, going on from the checkpoint at `path` if there is one; the seconds that it took in all."""
    start, spent, momenta = 0, 0.0, []
    if path.is_file():
        tensors, facts = _read(path)
        start, spent = facts["epochs"], facts["seconds"]
        model.load_state_dict({name: tensors[f"model.{name}"] for name in model.state_dict()})
        momenta = [tensors[f"momentum.{i}"] for i in range(len(list(model.parameters())))]
    begun = time.monotonic()

    def keep(epochs: int, loss: float, momenta: list[Tensor]) -> None:
        tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
        tensors |= {f"momentum.{i}": momentum for i, momentum in enumerate(momenta)}
        _write(path, tensors, {"epochs": epochs, "seconds": spent + time.monotonic() - begun})
        if on_epoch is not None:
            on_epoch(epochs, loss)

    fit(model, split, recipe, momenta=momenta, start=start, after_epoch=keep)
    return spent + time.monotonic() - begun


def _write(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    plain = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    store(path, save(plain, {"facts": json.dumps(facts)}))


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, "pt") as file:
            facts = json.loads(file.metadata()["facts"])
            return {name: file.get_tensor(name).clone() for name in file.keys()}, facts  # noqa: SIM118 - not a mapping
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as fault:
        raise FileError(f"{str(path)!r} is no reference network: {fault}; delete it to train again") from fault
