"""What each weight is multiplied with, seen at the products themselves (docs/decisions/0008-calibration.md).

Modules are not asked: whatever a layer does to its input first (padding of any mode, a reshape, a forward of its own),
`linear`, `conv` and `embedding` receive what the weight meets. So a weight that several modules share, or that is
called several times, is seen at each product; and one that no such product uses is known by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ..errors import CalibrationError, SummandsError, must
from ..network import feed

BLOCK = 1 << 22
"""Entries of an unfolded input that exist at once: 16 MB in float32."""

Inputs = Iterable[Any]
"""Batches, each a tensor, a tuple of positional arguments or a mapping of keyword arguments of the model."""


@dataclass(frozen=True, eq=False)
class Product:
    """One product of a weight, seen as groups x m x n, with an input.

    Attributes:
        kind: "linear", "conv" or "embedding", in which the inputs are numbers of the weight's rows.
        bias: what is added to the m outputs, if anything.
        options: stride, padding, dilation and groups of a convolution.
        output: what came of it.
    """

    kind: str
    inputs: Tensor
    weight: Tensor
    bias: Tensor | None
    options: Mapping[str, Any]
    output: Tensor

    @property
    def columns(self) -> int:
        """n, the inputs of one output."""
        return self.weight[0].numel()

    @property
    def groups(self) -> int:
        return int(self.options.get("groups", 1))

    def patches(self) -> Iterator[Tensor]:
        """The inputs that the weight's columns meet, as groups x n x places, in blocks of about BLOCK entries."""
        inputs = self.inputs.detach()
        if self.kind == "linear":
            for block in inputs.reshape(-1, self.columns).split(max(BLOCK // self.columns, 1)):
                yield block.mT[None]
            return
        spatial = self.weight.ndim - 2
        if inputs.ndim == spatial + 1:
            inputs = inputs[None]
        windows = F.pad(inputs, self._padding())
        for axis in range(spatial):
            size, step, spread = self.weight.shape[2 + axis], self._at("stride", axis, 1), self._at("dilation", axis, 1)
            windows = windows.unfold(2 + axis, spread * (size - 1) + 1, step)[..., ::spread]
        places, kernel = windows.shape[2 : 2 + spatial], windows.shape[2 + spatial :]
        for block in windows.split(max(BLOCK // (places.numel() * self.columns * self.groups), 1)):
            # images, groups, channels, places, kernel -> groups, channels, kernel, images, places
            apart = block.unflatten(1, (self.groups, -1))
            order = (1, 2, *range(3 + spatial, 3 + 2 * spatial), 0, *range(3, 3 + spatial))
            yield apart.permute(order).reshape(self.groups, block.shape[1] // self.groups * kernel.numel(), -1)

    def _at(self, option: str, axis: int, default: int) -> int:
        value = self.options.get(option, default)
        return int(value if isinstance(value, int) else value[axis if len(value) > 1 else 0])

    def _padding(self) -> list[int]:
        """As `F.pad` wants it, the last axis first."""
        pads: list[int] = []
        for axis in reversed(range(self.weight.ndim - 2)):
            if self.options.get("padding") == "same":
                total = self._at("dilation", axis, 1) * (self.weight.shape[2 + axis] - 1)
                pads += [total // 2, total - total // 2]
            elif self.options.get("padding") == "valid":
                pads += [0, 0]
            else:
                pads += [self._at("padding", axis, 0)] * 2
        return pads


See = Callable[[str, Product], None]
"""Called with a weight's name and one of its products."""

_CONV = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_PRODUCTS: dict[Any, tuple[str, tuple[str, ...]]] = {
    F.linear: ("linear", ("input", "weight", "bias")),
    F.embedding: ("embedding", ("input", "weight")),
    torch.conv1d: ("conv", _CONV),
    torch.conv2d: ("conv", _CONV),
    torch.conv3d: ("conv", _CONV),
}
_COMPOUND = {F.multi_head_attention_forward}
"""Python functions that multiply inside: they are entered."""


class Observer(TorchFunctionMode):
    """Calls `see(name, product)` for every product of one of the weights, for as long as the context lasts."""

    def __init__(self, weights: Mapping[str, Tensor], see: See) -> None:
        super().__init__()
        self._names = {id(weight): name for name, weight in weights.items()}
        self._see = see
        self._fast: list[bool] = []

    def __enter__(self) -> Observer:
        # The fused transformer layers of evaluation mode multiply out of sight.
        self._fast.append(torch.backends.mha.get_fastpath_enabled())
        torch.backends.mha.set_fastpath_enabled(False)
        super().__enter__()
        return self

    def __exit__(self, *fault: Any) -> None:
        super().__exit__(*fault)
        torch.backends.mha.set_fastpath_enabled(self._fast.pop())

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if func in _COMPOUND:
            with self, _not_handed_over():
                return func(*args, **kwargs)
        output = func(*args, **kwargs)
        if func in _PRODUCTS:
            kind, names = _PRODUCTS[func]
            given = {**dict(zip(names, args, strict=False)), **kwargs}
            name = self._names.get(id(given["weight"]))
            if name is not None:
                options = {key: given[key] for key in _CONV[3:] if key in given} if kind == "conv" else {}
                self._see(name, Product(kind, given["input"], given["weight"], given.get("bias"), options, output))
        return output


@contextmanager
def _not_handed_over() -> Iterator[None]:
    """Compound functions run their own body: they would hand themselves over to the mode again, without end."""
    names = vars(F)
    kept = names["has_torch_function"]
    names["has_torch_function"] = lambda _: False
    try:
        yield
    finally:
        names["has_torch_function"] = kept


def answer(output: Any) -> Tensor:
    """What is compared of a model's output: itself, or the first floating tensor of a tuple or mapping."""
    for part in _parts(output):
        if isinstance(part, Tensor) and part.is_floating_point():
            return part
    allowed = "a floating tensor, or a tuple or mapping with one"
    raise CalibrationError(must("the model's output for a calibration batch", allowed, type(output).__name__))


def _parts(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        return value.values()
    return value if isinstance(value, (tuple, list)) else (value,)


def check_calibration(model: nn.Module, calibration: Inputs) -> int:
    """The number of batches, after one look at each and a run of the first.

    Raises:
        CalibrationError: no batch, one with NaN or infinity, one that the model cannot run, or an iterator, which
            would be empty the second time.
    """
    if not isinstance(calibration, Iterable):
        raise CalibrationError(must("calibration", "an iterable of batches", type(calibration).__name__))
    if isinstance(calibration, Tensor):  # whose entries along the first axis would be taken for batches
        shape = tuple(calibration.shape)
        raise CalibrationError(must("calibration", "a list of batches", f"a tensor of {shape}", "pass [tensor]"))
    if isinstance(calibration, Iterator):
        allowed, got = "a list or a DataLoader, to be run through again and again", type(calibration).__name__
        raise CalibrationError(must("calibration", allowed, got))
    count = 0
    for batch in calibration:
        for part in _parts(batch):
            if isinstance(part, Tensor) and part.is_floating_point() and not bool(torch.isfinite(part).all()):
                raise CalibrationError(must(f"calibration batch {count}", "finite", "NaN or infinite entries"))
        if count == 0:
            with on_batch(count), torch.no_grad():
                output = feed(model, batch)
            if not bool(torch.isfinite(answer(output)).all()):
                allowed, got = "finite", "NaN or infinite entries"
                raise CalibrationError(must("the model's output for calibration batch 0", allowed, got))
        count += 1
    if not count:
        raise CalibrationError(must("calibration", "at least one batch of the model's input", "no batch"))
    return count


@contextmanager
def on_batch(number: int) -> Iterator[None]:
    """Whatever the user's forward raises inside as a CalibrationError that names the batch."""
    try:
        yield
    except (SummandsError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if "alloc" in str(error):  # as torch says that memory of the processor is out
            raise
        raise CalibrationError(
            f"the model does not run on calibration batch {number}: {type(error).__name__}: {error}; a batch must be a "
            "tensor, a tuple of positional arguments or a mapping of keyword arguments"
        ) from error
