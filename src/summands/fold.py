"""The scales of BatchNorm moved into the weights before it: the same function, in weights that are worth alike."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn

from .errors import ArgumentError, must
from .network import Model, copied

_FOLDED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_Norm = nn.modules.batchnorm._BatchNorm
_TOLERANCE = 1e-3


def fold_batch_norms(model: Model, example: Tensor) -> Model:
    """A copy that computes the same in evaluation mode and whose BatchNorms only add a bias.

    A normalisation gamma (x - m) / sqrt(v + eps) + beta multiplies each channel of the layer before it by
    c = gamma / sqrt(v + eps). That layer's rows differ in scale as 1/c does, so equal errors of its weights are not of
    equal harm; nor are the four vectors of the normalisation needed. Here W becomes sqrt(1 + eps) c W, and the
    normalisation keeps the bias beta - c m, with scale 1, mean 0 and variance 1: constants, which take no bytes. Names
    and shapes stay.

    The copy is to be compressed and evaluated; trained, its normalisations would start from scale 1.

    Args:
        example: one batch of the model's input, which shows what each normalisation follows, and that all is the same.

    Raises:
        ArgumentError: the copy does not compute the same, because a layer's output goes elsewhere too.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU()).eval()
    >>> fold_batch_norms(model, torch.rand(1, 3, 5, 5))[1].weight.unique()
    tensor([1.], grad_fn=<Unique2Backward0>)
    """
    own = copied(model).eval()
    with torch.no_grad():
        before = own(example)
        if not isinstance(before, Tensor):
            raise ArgumentError(must("fold_batch_norms(model)", "a model that returns a tensor", type(before).__name__))
        for layer, norm in _pairs(own, example):
            _fold(layer, norm)
        after = own(example)
    if not torch.allclose(before, after, rtol=_TOLERANCE, atol=_TOLERANCE * float(before.abs().max())):
        raise ArgumentError(
            must(
                "fold_batch_norms(model)", "a model in which what is normalised goes nowhere else", type(model).__name__
            )
        )
    for module, like in zip(own.modules(), model.modules(), strict=True):
        module.training = like.training
    return own


def _pairs(model: nn.Module, example: Any) -> list[tuple[nn.Module, Any]]:
    """Each BatchNorm with the layer that made its input; only those that run once."""
    owners = Counter(id(p) for m in model.modules() for p in m._parameters.values() if p is not None)
    made: list[tuple[Tensor, int, nn.Module]] = []
    found: list[tuple[nn.Module, Any]] = []

    def after_layer(layer: nn.Module, inputs: Any, output: Tensor) -> None:
        made.append((output, output._version, layer))

    def before_norm(norm: nn.Module, inputs: Any) -> None:
        # What was changed in place since is no longer the layer's output.
        same = (
            (output, layer) for output, version, layer in made if output is inputs[0] and output._version == version
        )
        found.extend((layer, norm) for output, layer in same if _is_foldable(layer, output))

    def _is_foldable(layer: nn.Module, output: Tensor) -> bool:
        """Its weight is a parameter of its own and its outputs are the axis that is normalised."""
        own = [p for p in layer._parameters.values() if p is not None]
        is_plain = "weight" in layer._parameters and all(owners[id(p)] == 1 for p in own)
        return is_plain and (output.ndim == 2 or not isinstance(layer, nn.Linear))

    hooks = [m.register_forward_hook(after_layer) for m in model.modules() if isinstance(m, _FOLDED)]
    hooks += [m.register_forward_pre_hook(before_norm) for m in model.modules() if isinstance(m, _Norm)]
    try:
        model(example)
    finally:
        for hook in hooks:
            hook.remove()
    layers = [layer for _, _, layer in made]
    norms = [norm for _, norm in found]
    return [
        (layer, norm)
        for layer, norm in found
        if layers.count(layer) == norms.count(norm) == 1 and norm.affine and norm.running_var is not None
    ]


def _fold(layer: Any, norm: Any) -> None:
    scale = norm.weight.double() * (norm.running_var.double() + norm.eps).rsqrt()
    norm.bias.copy_(norm.bias.double() - scale * norm.running_mean.double())
    scale = scale * math.sqrt(1 + norm.eps)  # which a variance of 1 takes away again
    layer.weight.copy_(layer.weight.double() * scale.reshape([-1] + [1] * (layer.weight.ndim - 1)))
    if layer.bias is not None:
        layer.bias.copy_(layer.bias.double() * scale)
    norm.weight.fill_(1)
    norm.running_mean.zero_()
    norm.running_var.fill_(1)
