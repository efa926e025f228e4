"""Whole networks by whole files, without data: our grids against NNCodec's, over the range of sizes that is of use.

One parameter makes the curve of each codec: NNCodec's is the quantisation parameter, with and without `opt_qp`; ours is
the step, on a trellis. Weights w_l have steps in proportion to ||w_l||^a: with a = 0 the squared error counts alike
everywhere, with a = 1 the relative one would, as opt_qp gives large weights coarser steps. Levels are the nearest ones:
a price on bits saves squared error, but in trials on LeNet-300-100 it cost more accuracy than a coarser step. That and
the two values of a were chosen on that network and MNIST alone. BatchNorm is folded. A bias is one more weight, of an
input that is 1: it has its weights' step, and they outnumber it. Other vectors are stored as bfloat16, or as float16
where the step is fine enough for the difference to show; NNCodec's at its default for them.
Every network gets all settings of both codecs, as many of one as of the other.

A file is charged in full and judged by the network that it decodes to. What was judged once is kept in the cache, by
the hash of the weights, so that a run can be ended and taken up again.
"""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import nncodec
from benchmarks.memory import Memory, code_digest, digest, key_of
from benchmarks.pretrained import Network, network
from summands import container
from summands.compressions import Grid, Keep
from summands.fold import fold_batch_norms
from summands.forms import Dense, Form
from summands.network import state_tensors
from summands.zoo.train import flushed_denormals

QPS = tuple(range(-12, -36, -2))
LARGE_QPS = tuple(range(-18, -54, -4))
BALANCES = (0.25, 0.75)
STEPS = tuple(2.0 ** ((3 - i) / 2) for i in range(12))
LARGE_STEPS = tuple(2.0 ** (-1.6 - 0.9 * i) for i in range(9))
LARGE = 2_000_000
"""Networks with more parameters are measured with the shorter lists, over the range that their levels ask for."""

SEEDS = dict.fromkeys(("lenet300-mnist", "lenet300-fashion-mnist", "lenet5-mnist"), (0, 1, 2))
"""Of the other networks, which take longer to train, there is one."""

RECIPE, MEASURES = 2, 2
"""Of `compressed` and of what networks are judged by: raised when these change, so that no kept figure of an earlier
one is taken."""

Row = dict[str, Any]


def rows(name: str, codecs: Sequence[str] = ("nncodec", "ours")) -> Iterator[Row]:
    """Every setting of these codecs on a network of `pretrained.NAMES`, of every seed; NNCodec's only where it is
    installed.
    """
    for seed in SEEDS.get(name, (0,)):
        each = network(name, seed)
        judge = Judge(each)
        facts = {"network": name, "seed": seed}
        yield {**facts, "codec": "original", "bytes": _bytes(each.tensors), **judge(each.tensors)}
        if "nncodec" in codecs and nncodec.reason() is None:
            yield from ({**facts, **row} for row in _theirs(each, judge))
        if "ours" in codecs:
            yield from ({**facts, **row} for row in _ours(each, judge))


def _theirs(each: Network, judge: Judge) -> Iterator[Row]:
    tensors = {name: t for name, t in each.tensors.items() if t.is_floating_point()}
    arrays = {name: t.float().numpy() for name, t in tensors.items()}
    qps = LARGE_QPS if _count(tensors) > LARGE else QPS
    settings = [nncodec.Setting(qp, opt_qp) for qp in qps for opt_qp in (False, True)]
    keys = {setting: key_of(each.name, judge.original, nncodec.PACKAGES, asdict(setting)) for setting in settings}
    new = [setting for setting in settings if keys[setting] not in judge.memory]
    for setting, size, decoded in nncodec.files(arrays, new) if new else ():
        found = {name: torch.from_numpy(decoded[name]) for name in tensors}
        judge.memory[keys[setting]] = {"bytes": size, **judge(each.tensors | found)}
    for setting in settings:
        yield {"codec": "nncodec", "setting": asdict(setting), **judge.memory[keys[setting]]}


def _ours(each: Network, judge: Judge) -> Iterator[Row]:
    code = code_digest("coding", "forms", "container", "compressions/grid.py", "compressions/keep.py")
    steps = LARGE_STEPS if _count(each.tensors) > LARGE else STEPS
    model = fold_batch_norms(each.model, each.calibration_batches(2)[0])
    tensors, biases = state_tensors(model), biases_of(model)
    for balance in BALANCES:
        for step in steps:
            setting = {"balance": balance, "step": step}
            key = key_of(each.name, judge.original, code, setting, RECIPE)
            found = judge.memory.once(key, partial(_our_file, tensors, biases, judge, **setting))
            yield {"codec": "ours", "setting": setting, **found}


def _our_file(
    tensors: Mapping[str, Tensor], biases: Mapping[str, str], judge: Judge, balance: float, step: float
) -> Row:
    forms = compressed(tensors, biases, step, balance)
    size = len(container.to_bytes(forms))
    return {"bytes": size, **judge({name: form.dense() for name, form in forms.items()})}


def biases_of(model: nn.Module) -> dict[str, str]:
    """What is added to a layer's outputs, by itself or by the folded BatchNorm after it, with the layer's weight."""
    found, last = {}, ""
    for name, module in model.named_modules():
        weight, bias = (getattr(module, key, None) for key in ("weight", "bias"))
        if isinstance(weight, Tensor) and weight.ndim > 1:
            last = f"{name}.weight"
        if weight is not None and bias is not None and last and (weight.ndim > 1 or isinstance(module, nn.BatchNorm2d)):
            found[f"{name}.bias"] = last
    return found


def compressed(
    tensors: Mapping[str, Tensor], biases: Mapping[str, str], step: float, balance: float
) -> dict[str, Form]:
    """Every tensor's form: matrices and kernels on trellises with steps of their own, biases on grids of the same
    steps, other vectors in 16 bits.

    Args:
        biases: by name, with the names of the weights whose outputs they are added to.
        step: in root mean squares of all weights; the places of one quantiser are two of it apart.
        balance: the exponent a.
    """
    weights = {name: t for name, t in tensors.items() if t.is_floating_point() and t.ndim > 1}
    powers = {name: float(t.double().square().sum()) for name, t in weights.items()}
    mean = sum(powers.values()) / len(weights)
    unit = math.sqrt(sum(powers.values()) / _count(weights))
    steps = {n: step * unit * (power / mean) ** (balance / 2) for n, power in powers.items() if power}
    forms: dict[str, Form] = {}
    for name, tensor in tensors.items():
        if name in steps:
            forms[name] = Grid(steps[name], trellis=True).project(tensor)
        elif biases.get(name) in steps:
            forms[name] = Grid(steps[biases[name]]).project(tensor)
        elif tensor.is_floating_point():
            forms[name] = Keep(_vectors(step)).project(tensor)
        else:
            forms[name] = Dense(shape=tensor.shape, dtype=tensor.dtype, values=tensor)
    return forms


def _vectors(step: float) -> str:
    return "bfloat16" if step >= 1 / 16 else "float16"


class Judge:
    """Measures of a network with other weights in it; what was measured once is remembered."""

    def __init__(self, each: Network) -> None:
        self.memory = Memory("coding-curves")
        self._network, self._model = each, copy.deepcopy(each.model)
        self.original = key_of(digest(each.tensors), MEASURES)

    def __call__(self, tensors: Mapping[str, Tensor]) -> dict[str, float]:
        key = key_of(self._network.name, self.original, digest(tensors))
        if key not in self.memory:
            with torch.no_grad(), flushed_denormals():
                for name, tensor in state_tensors(self._model).items():
                    tensor.copy_(tensors[name])
                self.memory[key] = self._network.evaluate(self._model)
        return self.memory[key]


def _count(tensors: Mapping[str, Tensor]) -> int:
    return sum(t.numel() for t in tensors.values())


def _bytes(tensors: Mapping[str, Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors.values())


if __name__ == "__main__":
    for row in rows(sys.argv[1], sys.argv[2:] or ("nncodec", "ours")):
        print(row, flush=True)
