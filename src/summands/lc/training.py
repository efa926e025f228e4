"""The learner for LC proper: the user's own training loop, or the ready-made `SGD`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ArgumentError, TrainingError, must
from .learner import Learner, Step

_LAST = 0.05
"""The learning rate of the last step over that of the first, unless it is given."""
Train = Callable[[nn.Module, "Penalty", Step], float | None]
"""`train(model, penalty, step)`: trains for `step.epochs`, adding `penalty()` to its loss; may return the loss."""


class Penalty:
    """mu/2 sum c ||w - target||^2 as a differentiable scalar: add it to the loss of every batch.

    Args:
        importance: c, one number a weight; 1 for all if left out.
    """

    def __init__(
        self, weights: Sequence[Tensor], targets: Sequence[Tensor], mu: float, importance: Sequence[float] = ()
    ) -> None:
        self._weights, self._targets = list(weights), list(targets)
        self._mus = [mu * c for c in importance] or [mu] * len(self._weights)
        self.calls = 0

    def __call__(self) -> Tensor:
        self.calls += 1
        return _Penalty.apply(self._mus, self._targets, *self._weights)


class _Penalty(torch.autograd.Function):
    """One fused pass over all weights; autograd's own graph would keep three more copies of each."""

    @staticmethod
    def forward(ctx: Any, mus: list[float], targets: list[Tensor], *weights: Tensor) -> Tensor:
        if not weights:
            return torch.zeros(())
        gaps = torch._foreach_sub(list(weights), targets)
        ctx.mus, ctx.gaps = mus, gaps
        # Of half precision neither the square of a norm nor mu need be within reach.
        norms = torch.stack(
            [
                norm.to(gaps[0].device).to(torch.promote_types(norm.dtype, torch.float32))
                for norm in torch._foreach_norm(gaps)
            ]
        )
        return (norms**2 @ norms.new_tensor(mus)) / 2

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if not hasattr(ctx, "gaps"):
            return (None, None)
        return (None, None, *torch._foreach_mul(ctx.gaps, [mu * float(grads[0]) for mu in ctx.mus]))


class TrainingLearner(Learner):
    """Adapts a `train(model, penalty, step)` function.

    torch's random numbers are seeded from `step.seed` for the length of the step and given back afterwards, so that
    dropout and a shuffling DataLoader repeat when a run is resumed.

    Args:
        importance: by weight, how much its penalty counts; 1 for those left out.
    """

    def __init__(self, model: nn.Module, train: Train, importance: Mapping[str, Tensor] | None = None) -> None:
        self.model, self._train, self._importance = model, train, importance or {}

    def weights(self) -> Mapping[str, Tensor]:
        return dict(self.model.named_parameters())

    def step(self, targets: Mapping[str, Tensor], step: Step) -> float | None:
        weights = self.weights()
        importance = [float(self._importance.get(name, 1.0)) for name in targets]
        penalty = Penalty([weights[name] for name in targets], list(targets.values()), step.mu, importance)
        self.model.train()
        with seeded(step.seed, next(iter(weights.values())).device), torch.enable_grad():
            loss = self._train(self.model, penalty, step)
        if step.mu and not penalty.calls:
            raise TrainingError(
                must("train(model, penalty, step)", "a function that adds penalty() to its loss", "no call of it")
            )
        if loss is None:
            return None
        try:
            return float(loss)
        except (TypeError, ValueError):
            raise TrainingError(must("the result of train(...)", "a number or None", loss)) from None


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """torch's global random numbers, seeded inside and as they were outside."""
    cuda = range(torch.cuda.device_count()) if device.type == "cuda" or torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=list(cuda)):
        torch.manual_seed(seed)
        yield


@dataclass
class SGD:
    """A ready-made `train`: SGD with Nesterov momentum, the learning rate clipped to 1/mu.

    Args:
        data: a pair (inputs, targets) of tensors, shuffled here; or an iterable of such batches, such as a DataLoader.
        lr: learning rate of the first step; `decay` multiplies it from step to step. None: so that the last step has a
            twentieth of the first, however many there are. The penalty moves weights well at a high rate, the loss ends
            low at a low one.
        weight_decay: such as that of the network's own training. It belongs to the loss that LC minimises: weights that
            do little end at zero, where they cost nothing.
        loss: loss(model(inputs), targets).
        finetune_lr: learning rate of fine-tuning (steps with mu = 0), falling to 0 by one cosine over all such steps.

    It keeps no state from step to step: a fresh momentum each time.
    """

    data: tuple[Tensor, Tensor] | Iterable[tuple[Tensor, Tensor]]
    _: KW_ONLY
    lr: float = 0.1
    decay: float | None = None
    momentum: float = 0.9
    weight_decay: float = 0.0
    batch_size: int = 128
    finetune_lr: float = 0.02
    loss: Callable[[Tensor, Tensor], Tensor] = nn.functional.cross_entropy

    def __post_init__(self) -> None:
        for name in ("lr", "decay", "finetune_lr", "batch_size"):
            value = getattr(self, name)
            if not (name == "decay" and value is None) and not value > 0:
                raise ArgumentError(must(f"SGD({name}=...)", "above 0", value))

    def __call__(self, model: nn.Module, penalty: Penalty, step: Step) -> float:
        decay = _LAST ** (1 / max(step.total - 1, 1)) if self.decay is None else self.decay
        lr = min(self.lr * decay**step.index if step.mu else self.finetune_lr, step.max_lr)
        optimizer = torch.optim.SGD(
            [p for p in model.parameters() if p.requires_grad],
            lr=lr,
            momentum=self.momentum,
            nesterov=self.momentum > 0,
            weight_decay=self.weight_decay,
            foreach=True,
        )
        total, count = torch.zeros(()), 0
        length = self._length()
        for i, (inputs, targets) in enumerate(itertools.islice(self._batches(step), length * step.epochs)):
            if not step.mu:
                done = (step.index + i / (length * step.epochs)) / step.total
                optimizer.param_groups[0]["lr"] = lr * 0.5 * (1 + math.cos(math.pi * done))
            optimizer.zero_grad(set_to_none=True)
            loss = self.loss(model(inputs), targets)
            (loss + penalty()).backward()
            optimizer.step()
            total, count = total.to(loss.device) + loss.detach() * len(inputs), count + len(inputs)
        return float(total) / max(count, 1)

    def _length(self) -> int:
        if isinstance(self.data, tuple):
            return -(-len(self.data[0]) // self.batch_size)
        if not isinstance(self.data, Sized):
            raise ArgumentError(must("SGD(data)", "a pair of tensors or an iterable with a length", self.data))
        return len(self.data)

    def _batches(self, step: Step) -> Iterator[tuple[Tensor, Tensor]]:
        if not isinstance(self.data, tuple):
            for _ in range(step.epochs):
                yield from self.data
            return
        inputs, targets = self.data
        generator = torch.Generator().manual_seed(step.seed)
        for _ in range(step.epochs):
            order = torch.randperm(len(inputs), generator=generator, device="cpu").to(inputs.device)
            for rows in order.split(self.batch_size):
                yield inputs.index_select(0, rows), targets.index_select(0, rows)
