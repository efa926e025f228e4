"""Forms as layers that run without the dense weight: factors as two small layers, sums as parallel branches."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from .errors import MismatchError
from .forms import Form, LowRank, Sparse, Sum, Tucker
from .views import IN, KERNEL, OUT, SPATIAL, Reshape

_CONVOLUTIONS: tuple[type[nn.Module], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def as_module(form: Form, like: nn.Module) -> nn.Module:
    """A module with the output of `like` when its weight is `form.dense()`, within float tolerance.

    Low rank and Tucker run in factors: linear + linear, convolution + convolution, a reshape as a product on runs of
    channels; terms of a sum as parallel branches, those that cannot run in factors together in one dense layer. Stride,
    padding (with its mode), dilation, groups and bias are split among the layers. Any other form or layer runs dense.

    Args:
        form: of the shape of `like.weight`.
        like: nn.Linear, nn.Conv1d to nn.Conv3d; or any module with a `weight`, then dense. It is not changed.

    Returns:
        A module of the weight's dtype and device with parameters of its own, in the training mode of `like`. Groups
        repeat factors that the form has once.

    Raises:
        MismatchError: the layer has no weight of the form's shape.

    >>> from summands.compressions import LowRank
    >>> layer = nn.Linear(30, 20)
    >>> as_module(LowRank(2).project(layer.weight), layer)
    Sequential(
      (0): Linear(in_features=30, out_features=2, bias=False)
      (1): Linear(in_features=2, out_features=20, bias=True)
    )
    """
    weight = getattr(like, "weight", None)
    if not isinstance(weight, Tensor) or weight.shape != form.shape:
        found = tuple(weight.shape) if isinstance(weight, Tensor) else None
        raise MismatchError(f"a form of shape {tuple(form.shape)} for {type(like).__name__} with a weight of {found}")
    form = form.map(lambda tensor: tensor.detach().to(weight.device))
    bias = getattr(like, "bias", None)
    branches: list[nn.Module] = []
    dense: list[Form] = []
    for term in _running(form):
        build = _factored(term, like)
        if build is None:
            dense.append(term)
        else:
            branches.append(build(None if branches else bias))
    if dense:
        whole = dense[0] if len(dense) == 1 else Sum(shape=form.shape, dtype=form.dtype, terms=tuple(dense))
        branches.append(_dense(like, whole.dense(), keep_bias=not branches))
    module = branches[0] if len(branches) == 1 else Parallel(branches)
    return module.train(like.training)


Pays = Callable[[str, Form, Tensor], bool]
"""(name, form, dense weight) of a layer that can run in factors -> whether it should."""


def with_modules(model: nn.Module, forms: Mapping[str, Form], pays: Pays) -> nn.Module:
    """The model, with every linear layer and convolution replaced by `as_module` of its weight's form where that pays.

    The model is changed. A layer that stands under several names is replaced by one module under all of them; one whose
    weight or bias another module owns too stays dense, as do one with hooks, which may want its weight, any other type
    of layer, and those that `pays` refuses.

    Args:
        model: holds the dense weights of the forms already.
        forms: by name, a tied weight under any of its names.
    """
    owners: dict[int, set[int]] = {}
    for module in model.modules():
        for parameter in module._parameters.values():
            owners.setdefault(id(parameter), set()).add(id(module))
    made: dict[int, nn.Module] = {}
    for name, layer in model.named_modules():
        weight = layer._parameters.get("weight")
        full = f"{name}.weight" if name else "weight"
        form = forms.get(full)
        if type(layer) not in (nn.Linear, *_CONVOLUTIONS) or weight is None or form is None:
            continue
        has_hooks = any(getattr(layer, kept) for kept in _HOOKS)
        owned = all(len(owners[id(p)]) == 1 for p in layer._parameters.values() if p is not None)
        if owned and not has_hooks and runs_in_factors(form, layer) and pays(full, form, weight):
            made[id(layer)] = module = as_module(form, layer)
            for own, parameter in module.named_parameters():
                like = layer.bias if own.split(".")[-1] == "bias" else weight
                parameter.requires_grad_(like.requires_grad)
    if id(model) in made:
        return made[id(model)]
    for module in list(model.modules()):
        for key, child in module._modules.items():
            if child is not None and id(child) in made:
                module._modules[key] = made[id(child)]
    return model


def runs_in_factors(form: Form, like: nn.Module) -> bool:
    """True when `as_module` would run every term of the form in factors, those that are zero left out."""
    return all(_factored(term, like) is not None for term in _running(form))


class Parallel(nn.ModuleList):
    """The sum of what its branches make of the same input."""

    def forward(self, x: Tensor) -> Tensor:
        total = self[0](x)
        for branch in list(self)[1:]:
            total = total + branch(x)
        return total


class Runs(nn.Module):
    """One linear map on each of several equal runs of the last axis."""

    def __init__(self, count: int, weight: Tensor) -> None:
        super().__init__()
        self.count, self.weight = count, nn.Parameter(weight.contiguous())

    def forward(self, x: Tensor) -> Tensor:
        return (x.unflatten(-1, (self.count, -1)) @ self.weight.T).flatten(-2)


class Interleave(nn.Module):
    """Channels in `outer` x `a` x `b` order put in `outer` x `b` x `a` order; `axis` is that of the channels."""

    def __init__(self, axis: int, outer: int, a: int, b: int) -> None:
        super().__init__()
        self.axis, self.sizes = axis, (outer, a, b)

    def forward(self, x: Tensor) -> Tensor:
        last = self.axis  # negative, so that batches of any kind may stand before it
        split = x.unflatten(last, self.sizes)
        return split.transpose(last - 1, last).flatten(last - 2, last)


def _running(form: Form) -> list[Form]:
    """The terms that are not zero; if all are, one that is: of low rank, then of one rank of zeros."""
    terms = [term for term in form.parts() if not _is_zero(term)]
    if terms:
        return terms
    for term in form.parts():
        if isinstance(term, LowRank):
            rows, columns = len(term.left), term.right.shape[1]
            return [replace(term, left=term.left.new_zeros(rows, 1), right=term.right.new_zeros(1, columns))]
    return [form.parts()[0]]


def _is_zero(form: Form) -> bool:
    return (isinstance(form, LowRank) and not form.rank) or (isinstance(form, Sparse) and not form.indices.numel())


Build = Callable[[Tensor | None], nn.Module]
"""A bias, or none -> the layers that run a term."""


def _factored(form: Form, like: nn.Module) -> Build | None:
    """How to run a form in factors in the place of this layer; None where it must run dense."""
    if type(like) is nn.Linear and isinstance(form, LowRank) and form.rank:
        return _linear(form)
    if type(like) in _CONVOLUTIONS and isinstance(form, LowRank) and form.rank:
        return _convolution(form, like)
    if type(like) in _CONVOLUTIONS and isinstance(form, Tucker) and min(form.ranks):
        groups = int(like.groups)  # type: ignore[arg-type]
        out, core, into = (t.to(form.dtype) for t in (form.out, form.core, form.into))
        return lambda bias: nn.Sequential(
            _pointwise(like, _repeat(into, groups), groups),
            _conv(like, _repeat(core, groups), groups),
            _pointwise(like, out, groups, bias),
        )
    return None


def _linear(form: LowRank) -> Build | None:
    (n, m), view, r = form.shape, form.view, form.rank
    left, right = form.left.to(form.dtype), form.right.to(form.dtype)
    if view == IN:
        return lambda bias: nn.Sequential(_fully(left.T), _fully(right.T, bias))
    rows = n if view == OUT else view.rows if isinstance(view, Reshape) else 0
    if rows and rows % n == 0 and m % (rows // n) == 0:
        count = rows // n
        first = _fully(right) if count == 1 else Runs(count, right)
        return lambda bias: nn.Sequential(first, _fully(left.reshape(n, count * r), bias))
    if rows and n % rows == 0:
        count = n // rows
        filters = right.reshape(r, count, m).transpose(0, 1).reshape(count * r, m)

        def build(bias: Tensor | None) -> nn.Module:
            stack = nn.Sequential(_fully(filters), Runs(count, left), Interleave(-1, 1, count, rows))
            return stack if bias is None else stack.append(_Bias(bias, 0))

        return build
    return None


def _convolution(form: LowRank, like: nn.Module) -> Build | None:
    n, m, *kernel = form.shape
    view, r, groups = form.view, form.rank, int(like.groups)  # type: ignore[arg-type]
    left, right = form.left.to(form.dtype), form.right.to(form.dtype)
    if view == IN:
        patterns = right.reshape(r, n, *kernel).transpose(0, 1)
        return lambda bias: nn.Sequential(
            _pointwise(like, _repeat(left.T, groups), groups), _conv(like, patterns, groups, bias)
        )
    if view == KERNEL:
        across = _repeat(right.reshape(r, m, 1, kernel[1]), groups)
        down = left.reshape(n, kernel[0], r, 1).transpose(1, 2)
        return lambda bias: nn.Sequential(
            _conv(like, across, groups, axes=(False, True)), _conv(like, down, groups, bias, axes=(True, False))
        )
    rows = {OUT: n, SPATIAL: n * m}.get(view) or (view.rows if isinstance(view, Reshape) else 0)  # type: ignore[call-overload]
    if rows and rows % n == 0 and m % (rows // n) == 0:
        runs = rows // n
        patterns = _repeat(right.reshape(r, m // runs, *kernel), groups * runs)
        return lambda bias: nn.Sequential(
            _conv(like, patterns, groups * runs), _pointwise(like, left.reshape(n, runs * r), groups, bias)
        )
    if rows and n % rows == 0 and rows % groups == 0:
        count = n // rows
        filters = right.reshape(r, count, m, *kernel).transpose(0, 1).reshape(count * r, m, *kernel)
        # For each group and each place in a run of outputs, the rows of that group.
        mixed = left.reshape(groups, 1, rows // groups, r).expand(-1, count, -1, -1).reshape(n, r)

        def build(bias: Tensor | None) -> nn.Module:
            stack = nn.Sequential(
                _conv(like, _repeat(filters, groups), groups),
                _pointwise(like, mixed, groups * count),
                Interleave(-len(kernel) - 1, groups, count, rows // groups),
            )
            return stack if bias is None else stack.append(_Bias(bias, len(kernel)))

        return build
    return None


class _Bias(nn.Module):
    """A bias for each channel, which stands before `trailing` further axes."""

    def __init__(self, bias: Tensor, trailing: int) -> None:
        super().__init__()
        self.bias, self.trailing = nn.Parameter(bias.detach().clone()), trailing

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias.reshape(-1, *[1] * self.trailing)


def _fully(weight: Tensor, bias: Tensor | None = None) -> nn.Module:
    return _filled(nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta"), weight, bias)


def _pointwise(like: nn.Module, weight: Tensor, groups: int, bias: Tensor | None = None) -> nn.Module:
    """A convolution with kernels of size 1, from a matrix."""
    ones = [1] * len(like.kernel_size)  # type: ignore[arg-type]
    return _conv(like, weight.reshape(*weight.shape, *ones), groups, bias, axes=[False] * len(ones))


def _conv(
    like: nn.Module, weight: Tensor, groups: int, bias: Tensor | None = None, axes: Sequence[bool] | None = None
) -> nn.Module:
    """A convolution like another; along the axes that are False without its stride, padding and dilation."""
    active = [True] * (weight.ndim - 2) if axes is None else axes

    def along(values: object, otherwise: int) -> tuple[int, ...]:
        return tuple(v if on else otherwise for v, on in zip(values, active, strict=True))  # type: ignore[call-overload]

    padding = like.padding if isinstance(like.padding, str) else along(like.padding, 0)
    layer = type(like)(
        weight.shape[1] * groups,
        weight.shape[0],
        tuple(weight.shape[2:]),
        stride=along(like.stride, 1),
        padding=padding,
        dilation=along(like.dilation, 1),
        groups=groups,
        bias=bias is not None,
        padding_mode=like.padding_mode,
        device="meta",
    )
    return _filled(layer, weight, bias)


def _dense(like: nn.Module, weight: Tensor, keep_bias: bool) -> nn.Module:
    module = copy.deepcopy(like)
    module.weight = nn.Parameter(weight.to(module.weight.dtype), requires_grad=module.weight.requires_grad)  # type: ignore[arg-type]
    if not keep_bias and getattr(module, "bias", None) is not None:
        module.bias = None  # type: ignore[assignment]
    return module


def _filled(layer: nn.Module, weight: Tensor, bias: Tensor | None) -> nn.Module:
    # Built on "meta" and filled here, so that no initial values are drawn from the global generator.
    layer.weight = nn.Parameter(weight.clone(memory_format=torch.contiguous_format))
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone())
    return layer


def _repeat(weight: Tensor, times: int) -> Tensor:
    return weight.repeat(times, *[1] * (weight.ndim - 1))
