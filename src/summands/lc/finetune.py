"""Training compressed weights: their continuous parts, and their discrete parts too by a straight-through gradient.

Each weight of the model becomes a function of its form's continuous tensors (codebook values, factors, kept values),
so that the user's own training loop, run as it is, moves those and nothing else. With `straight_through` every codebook
and grid in it gets a dense latent tensor, of which the weight holds the nearest values; the gradient passes to it as if
nothing had been rounded (Bengio et al. 2013, 1308.3432; BinaryConnect, Courbariaux et al. 2015, 1511.00363).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..compressions.stored import rounded
from ..forms import Form


class _FromForm(nn.Module):
    """The dense weight as a function of its form's scaled continuous tensors, then of the latents of its parts.

    It is in the memory format of `like`.
    """

    def __init__(
        self, form: Form, scales: Mapping[str, Tensor], parts: Sequence[int], dead_zone: float, like: Tensor
    ) -> None:
        super().__init__()
        self.form, self.names, self.parts, self.dead_zone = form, list(scales), parts, dead_zone
        self.scales = list(scales.values())
        # By the strides: with one channel, `is_contiguous` holds of both formats, and the next layer follows this one.
        self._format = torch.channels_last if _is_channels_last(like) else torch.contiguous_format

    def forward(self, *scaled: Tensor) -> Tensor:
        latents = scaled[len(self.names) :]
        tensors = {name: t / scale for name, t, scale in zip(self.names, scaled, self.scales, strict=False)}
        form: Form = self.form.replace_tensors(tensors)
        for part, latent in zip(self.parts, latents, strict=True):
            form = form.replace_part(part, form.parts()[part].reassigned(latent.detach(), self.dead_zone))
        dense = form.dense()
        for latent in latents:
            dense = dense + (latent - latent.detach()).to(dense.dtype)  # nothing, with the gradient of the weight
        return dense.clone(memory_format=self._format)


class Trainable:
    """What training may move in several forms, as parameters, shared where the forms share.

    A codebook value is the gradient's sum over every weight that uses it: thousands of times a weight's own. So each
    continuous tensor t is trained as t * sqrt(n), n the squared norm of d dense / d t, entry by entry; one learning
    rate then moves a codebook value about as far as it moved the weights.

    Args:
        straight_through: also a latent of every part whose entries choose among values, at first that part's entries.

    Attributes:
        dead_zone: how many steps from 0 a latent of a grid still counts as 0: raise it, and the forms take fewer bytes.
    """

    dead_zone = 0.5

    def __init__(self, forms: Mapping[str, Form], straight_through: bool = False) -> None:
        self.forms = dict(forms)
        self._stored = {id(t): t for form in forms.values() for t in form.continuous_tensors().values()}
        sensitivities = self._sensitivities()
        self.scales = {key: n.clamp_min(1.0).sqrt() for key, n in sensitivities.items()}
        self.parameters = {key: nn.Parameter(_wide(t) * self.scales[key]) for key, t in self._stored.items()}
        self.latents = {
            name: {k: nn.Parameter(_wide(part.dense())) for k, part in enumerate(form.parts()) if part.is_assigned}
            for name, form in forms.items()
            if straight_through
        }

    @property
    def has_dead_zone(self) -> bool:
        return any(self.forms[name].parts()[k].has_dead_zone for name, parts in self.latents.items() for k in parts)

    def current(self) -> dict[str, Form]:
        """The forms with the parameters' present values, rounded to the dtypes in which they are stored."""
        values = {
            key: rounded(self.parameters[key].detach() / self.scales[key], None, stored.dtype)
            for key, stored in self._stored.items()
        }
        found: dict[str, Form] = {}
        for name, form in self.forms.items():
            form = form.replace_tensors({n: values[id(t)] for n, t in form.continuous_tensors().items()})
            for part, latent in self.latents.get(name, {}).items():
                form = form.replace_part(part, form.parts()[part].reassigned(latent.detach(), self.dead_zone))
            found[name] = form
        return found

    def values(self) -> list[Tensor]:
        """The parameters at full precision, for a checkpoint."""
        return [parameter.detach().clone() for parameter in self._all()] + [torch.tensor(self.dead_zone)]

    def restore(self, values: Sequence[Tensor]) -> None:
        """Undoes `values`, for forms that were read back from the same checkpoint."""
        *tensors, dead_zone = values
        for parameter, value in zip(self._all(), tensors, strict=True):
            parameter.data.copy_(value)
        self.dead_zone = float(dead_zone)

    def _all(self) -> list[nn.Parameter]:
        return [*self.parameters.values(), *(latent for parts in self.latents.values() for latent in parts.values())]

    @contextmanager
    def installed(self, model: nn.Module) -> Iterator[None]:
        """The model's weights computed from the parameters, for as long as the context lasts."""
        places = [place for place in _places(model) if place[0] in self.forms]
        kept = {name: getattr(module, attribute) for name, module, attribute in places}
        # A tied weight stands in several modules, each of which gets the same parameters.
        for name, module, attribute in places:
            form = self.forms[name]
            keys = {field: id(t) for field, t in form.continuous_tensors().items()}
            latents = self.latents.get(name, {})
            scales = {field: self.scales[key] for field, key in keys.items()}
            function = _FromForm(form, scales, list(latents), self.dead_zone, kept[name])
            del module._parameters[attribute]
            module.register_parameter(attribute, nn.Parameter(form.dense().detach()))
            own = [self.parameters[key] for key in keys.values()]
            self._parametrize(module, attribute, function, [*own, *latents.values()])
        try:
            yield
        finally:
            for name, module, attribute in places:
                with torch.enable_grad():  # without, torch leaves a buffer
                    parametrize.remove_parametrizations(module, attribute, leave_parametrized=True)
                del module._parameters[attribute]
                module.register_parameter(attribute, kept[name])

    @staticmethod
    def _parametrize(module: nn.Module, attribute: str, function: _FromForm, parameters: list[nn.Parameter]) -> None:
        function.right_inverse = lambda _: tuple(p.detach() for p in parameters)  # type: ignore[assignment]
        parametrize.register_parametrization(module, attribute, function, unsafe=True)
        originals = module.parametrizations[attribute]  # type: ignore[index]
        for i, parameter in enumerate(parameters):
            setattr(originals, f"original{i}", parameter)

    def _sensitivities(self) -> dict[int, Tensor]:
        """Squared norms of the columns of d dense / d t, for tensors of linear forms; ones for all others.

        There every entry of the dense weight is linear in one entry of t, dense = J t with J'J diagonal, and the
        gradient of ||dense||^2 / 2 is J'J t.
        """
        totals = {key: torch.ones_like(t, dtype=torch.float32) for key, t in self._stored.items()}
        seen: set[int] = set()
        for form in self.forms.values():
            for part in form.parts():
                if not part.is_linear:
                    continue
                tensors = part.continuous_tensors()
                probes = {n: torch.ones_like(t, dtype=torch.float32).requires_grad_() for n, t in tensors.items()}
                if not all(t.numel() for t in tensors.values()):
                    continue
                with torch.enable_grad():
                    half_square = (part.replace_tensors(probes).dense().float() ** 2).sum() / 2
                    grads = torch.autograd.grad(half_square, list(probes.values()))
                for name, grad in zip(probes, grads, strict=True):
                    key = id(tensors[name])
                    totals[key] = totals[key] + grad if key in seen else grad
                    seen.add(key)
        return totals


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _places(model: nn.Module) -> list[tuple[str, nn.Module, str]]:
    """(name of the weight, module that holds it, attribute), a tied weight under its first name at each place."""
    first: dict[int, str] = {}
    places = []
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owner, _, attribute = name.rpartition(".")
        places.append((first.setdefault(id(parameter), name), model.get_submodule(owner), attribute))
    return places


def _is_channels_last(weight: Tensor) -> bool:
    if weight.ndim != 4:
        return False
    return weight.stride() == torch.empty(weight.shape, device="meta", memory_format=torch.channels_last).stride()
