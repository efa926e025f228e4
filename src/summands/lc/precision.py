"""How exactly values are kept that have moved freely: rounded to the step that the price of a bit asks for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from ..compressions.stored import STEP_BITS, coarse
from ..forms import Form
from .passes import batch_norm_layers

MOST_BITS = 11
"""Leading bits of a mantissa: those of a float16."""
_LEAST_BITS = 3

ErrorOf = Callable[[str, Tensor], float]
"""(name of a weight, change) -> what the output feels of it."""


def worth_step(count: float, price: float) -> float:
    """sqrt(6 price / (count ln 2)): the step for a value whose squared error counts so much.

    The least of count s^2 / 12 + price log2(1 / s), the mean squared error of rounding and the bits.
    """
    return math.sqrt(6 * price / (count * math.log(2))) if count > 0 else math.inf


def worth_bits(count: float, price: float) -> int:
    """The leading bits of a value whose squared relative error counts so much, at most MOST_BITS."""
    # A mantissa lies in [1/2, 1): the step of its last bit of k is a share 2^(1/2 - k), about.
    bits = round(0.5 - math.log2(min(worth_step(count, price), 1.0)))
    return min(max(bits, _LEAST_BITS), MOST_BITS)


# Running statistics


@dataclass(frozen=True)
class Precision:
    """How exactly the statistics of a normalisation are kept.

    Attributes:
        bits: the leading ones of a variance; a mean has no more than MOST_BITS.
        step: of a mean, in standard deviations.
    """

    bits: int = MOST_BITS
    step: float = 0.0


def precisions(model: nn.Module, sensitivities: Mapping[str, Tensor], price: float) -> list[Precision]:
    """What the statistics of each normalisation deserve where a bit has this price, as weights do.

    With s = sqrt(v + eps), it makes gamma (x - m) / s + beta. An error d s of m moves that as one of gamma d in beta
    does, and a share r of v as one of gamma r / 2 in gamma: so the sensitivities of beta and gamma tell of m and v.

    Args:
        sensitivities: of parameters by name, for each entry, in rows that are summed. Where they know nothing of a
            normalisation, it keeps all that a float16 would.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = []
    for layer in batch_norm_layers(model):
        of_scale, of_shift = (sensitivities.get(names.get(id(p), "")) for p in (layer.weight, layer.bias))
        if of_scale is None or of_shift is None:
            found.append(Precision())
            continue
        squares = layer.weight.detach().double().cpu().square()
        scale, shift = (float((squares * felt.sum(0)).mean()) / 2 for felt in (of_scale, of_shift))
        found.append(Precision(worth_bits(scale / 4, price), min(worth_step(shift, price), 2.0**-_LEAST_BITS)))
    return found


# Scales of slices


def coarsened(forms: Mapping[str, Form], price: float, error_of: ErrorOf) -> dict[str, Form]:
    """The forms with the scale of each row or channel rounded so."""
    found = dict(forms)
    for name, k, scales, bits in _scaled(forms, price, error_of):
        part = forms[name].parts()[k]
        moved = part.replace_tensors({str(part.scaling): coarse(scales, bits)})
        found[name] = found[name].replace_part(k, moved)
    return found


def finer_bytes(forms: Mapping[str, Form], price: float, error_of: ErrorOf) -> int:
    """What the scales will take more when training has moved them and they are `coarsened`, about."""
    grown = sum((bits - STEP_BITS) * scales.numel() for _, _, scales, bits in _scaled(forms, price, error_of))
    return -(-grown // 8)


def _scaled(forms: Mapping[str, Form], price: float, error_of: ErrorOf) -> Iterator[tuple[str, int, Tensor, int]]:
    """Of every part with a scale for each slice: its weight, its place there, the scales, the bits they deserve."""
    for name, form in forms.items():
        for k, part in enumerate(form.parts()):
            scales = part.tensors()[part.scaling] if part.scaling else None
            if scales is not None and scales.ndim and scales.numel():
                # A share r of a slice's scale changes the slice by r times itself.
                count = error_of(name, part.dense()) / scales.numel()
                yield name, k, scales, max(worth_bits(count, price), STEP_BITS)
