"""How much the loss minds an error in each weight: importances for `compress`.

Around a minimum the loss rises by 1/2 (w - x)' H (w - x). The diagonal of the Fisher matrix, the mean of squared
gradients of single samples, stands for that of H entry by entry; a measured rise stands for it weight by weight. Where
BatchNorm follows, the scale of a weight is nothing to the loss, and errors relative to it are what is alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .errors import ArgumentError, must
from .network import copied, state_tensors

Importance = Mapping[str, Tensor | float] | Literal["relative"]
"""How much the squared errors of each weight matter: a number, or one for each entry; see `compress`."""
Loss = Callable[[nn.Module, Any], Tensor]
"""(model, batch) -> the mean loss over the batch, differentiable."""


def fisher_importance(
    model: nn.Module, loss: Loss, batches: Iterable[Any], *, floor: float = 0.01
) -> dict[str, Tensor]:
    """For every parameter the mean squared gradient of the loss, entry by entry, scaled to a mean of 1 over all.

    `compress` takes those of the weights that its plan compresses; leave out the others.

    Squares of the mean gradient of a *batch* are averaged, which is proportional to the Fisher diagonal where
    gradients of samples are independent around zero, as at the end of training: make batches small, or of one sample.

    Args:
        loss: of the model, which is in evaluation mode, on one of the batches.
        floor: the least importance, as a share of the mean; a sample of data never shows that an entry does not matter.

    Cost: one pass forward and backward a batch.

    >>> layer, x = nn.Linear(2, 1, bias=False), torch.tensor([[1.0, 3.0]])
    >>> fisher_importance(layer, lambda model, batch: model(batch).sum(), [x])["weight"]
    tensor([[0.2000, 1.8000]])
    """
    own = copied(model).eval()
    parameters = {name: p for name, p in own.named_parameters() if p.requires_grad}
    total = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in parameters.items()}
    count = 0
    for batch in batches:
        own.zero_grad(set_to_none=True)
        loss(own, batch).backward()
        for name, p in parameters.items():
            if p.grad is not None:
                total[name] += p.grad.to(torch.float64) ** 2
        count += 1
    if not count:
        raise ArgumentError(must("batches", "at least one batch", "none"))
    size = sum(t.numel() for t in total.values())
    mean = sum(float(t.sum()) for t in total.values()) / size or 1.0
    return {name: (t / mean).clamp(min=floor).to(_wide(parameters[name].dtype)) for name, t in total.items()}


def measured_importance(
    model: nn.Module,
    evaluate: Callable[[nn.Module], float],
    weights: Iterable[str],
    *,
    noise: float = 0.1,
    seed: int = 0,
) -> dict[str, float]:
    """For each weight the rise of `evaluate` per squared error, when noise is added to this weight alone; mean 1.

    Args:
        evaluate: a loss rather than a count of mistakes, which moves in steps.
        noise: its norm, as a share of the weight's.

    A rise that is not positive counts as a hundredth of the mean. Cost: one evaluation a weight, and one more.

    >>> model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
    >>> for layer, value in zip(model, (1.0, 5.0)):
    ...     layer.weight.data.fill_(value)
    tensor([[1.]])
    tensor([[5.]])
    >>> far = lambda m: float((m(torch.ones(1, 1)) - 5.0).detach() ** 2)
    >>> {name: round(h, 2) for name, h in measured_importance(model, far, ["0.weight", "1.weight"]).items()}
    {'0.weight': 1.92, '1.weight': 0.08}
    """
    own = copied(model).eval()
    tensors, generator = state_tensors(own), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        before = float(evaluate(own))
        rises = {}
        for name in weights:
            if name not in tensors:
                raise ArgumentError(must("weights", "names of the model's tensors", name))
            t = tensors[name]
            if not t.numel():
                continue
            kept, drawn = t.clone(), torch.randn(t.shape, generator=generator, dtype=torch.float64, device="cpu")
            size = float(kept.double().norm()) * noise
            t += (drawn * (size / float(drawn.norm()))).to(t)
            after = float(evaluate(own))
            if math.isnan(after - before):
                raise ArgumentError(must("evaluate", "a loss that is a number", after if math.isnan(after) else before))
            rises[name] = max(after - before, 0.0) / size**2 if size else 0.0
            t.copy_(kept)
    mean = sum(rises.values()) / max(len(rises), 1) or 1.0
    return {name: max(rise / mean, 0.01) for name, rise in rises.items()}


def by_weight(given: Importance, weights: Mapping[str, Tensor], *, numbers: bool) -> dict[str, Tensor]:
    """The importance that `compress` was given, checked: of a weight, or of each of its entries.

    Args:
        given: "relative", or by weight; weights left out count 1 and stay left out.
        weights: all that are compressed.
        numbers: one for each weight, above 0, as training needs them.

    Raises:
        ArgumentError: another name, shape or value.
    """
    if isinstance(given, str):
        if given != "relative":
            raise ArgumentError(must("importance", "'relative', or by weight", given))
        return _relative(weights)
    if unknown := given.keys() - weights.keys():
        raise ArgumentError(must("importance", "given for compressed weights alone", sorted(unknown)))
    made = {name: torch.as_tensor(h).to(weights[name].device, _wide(weights[name].dtype)) for name, h in given.items()}
    for name, h in made.items():
        what, shape = f"importance[{name!r}]", tuple(weights[name].shape)
        if h.ndim and numbers:
            remedy = "its mean, say: a weight has one mu"
            raise ArgumentError(must(what, "a number with `train`", f"one of shape {tuple(h.shape)}", remedy))
        if h.ndim and h.shape != shape:
            raise ArgumentError(must(what, f"a number, or of the weight's shape {shape}", tuple(h.shape)))
        if not bool((torch.isfinite(h) & ((h > 0) if numbers else (h >= 0))).all()):
            allowed = "finite and above 0 with `train`" if numbers else "finite and not negative"
            raise ArgumentError(must(what, allowed, "other entries" if h.ndim else float(h)))
    return made


def _wide(dtype: torch.dtype) -> torch.dtype:
    """In which an importance is neither 0 nor infinite, as it may be in half precision."""
    return torch.promote_types(dtype, torch.float32)


def _relative(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The mean squared norm of the weights over each one's own; a weight of zeros is left out."""
    squares = {name: float(w.to(torch.float64).square().sum()) for name, w in weights.items()}
    mean = sum(squares.values()) / max(len(squares), 1)
    return {
        name: torch.tensor(mean / square, dtype=torch.float64, device=weights[name].device)
        for name, square in squares.items()
        if square > 0
    }
