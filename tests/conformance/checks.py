"""What every compression promises. Each check raises AssertionError; test_checks.py shows that each can fail."""

import random

import numpy as np
import pytest
import torch
from devices import Transfers

from summands.coding import encode_section, estimated_bits
from summands.compressions import squared_error
from summands.compressions.text import parse
from summands.container import read, to_bytes
from summands.errors import SummandsError


def project(case, weight, **known):
    return case.compression.project(weight, mu=case.mu, price=case.price, **known)


def objective(case, weight, form, importance=None):
    return case.compression.objective(weight, form, mu=case.mu, price=case.price, importance=importance)


def energy(weight, importance=None):
    square = weight.double() ** 2
    return float((square if importance is None else square * importance.double()).sum())


def random_states():
    """Of every global generator that a library might draw from."""
    numpy_state = np.random.get_state()[1]  # noqa: NPY002
    return torch.get_rng_state().numpy().tobytes(), numpy_state.tobytes(), random.getstate()


def is_a_form_of(case, weight):
    """A valid, feasible form of the weight's shape, dtype and device; the weight and all random states untouched."""
    before, seeds = weight.clone(), random_states()
    form = project(case, weight)
    form.validate()
    dense = form.dense()
    assert (form.shape, form.dtype, form.device) == (weight.shape, weight.dtype, weight.device)
    assert (dense.shape, dense.dtype, dense.device) == (weight.shape, weight.dtype, weight.device)
    assert torch.isfinite(dense).all()
    assert case.compression.is_feasible({"w": form}, {"w": weight})
    assert torch.equal(before, weight)
    assert seeds == random_states()
    return form


def shares_no_memory(case, weight):
    """Training a form in place leaves the weight as it was."""
    before = weight.clone()
    for tensor in project(case, weight).tensors().values():
        tensor.zero_()
    assert torch.equal(before, weight)


def is_deterministic(case, weight):
    assert project(case, weight).same(project(case, weight))


def is_optimal(case, weight, importance=None):
    """As good as brute force, up to the rounding of float64."""
    known = {} if importance is None else {"importance": importance}
    reached = objective(case, weight, project(case, weight, **known), importance)
    vector, weighting = weight.numpy(), (torch.ones_like(weight) if importance is None else importance).numpy()
    axis = {"row": 0, "channel": 1}.get(case.compression.parts()[0].per)
    if axis is None:
        pieces = [(vector.reshape(-1), weighting.reshape(-1))]
    else:
        pieces = list(zip(np.moveaxis(vector, axis, 0), np.moveaxis(weighting, axis, 0), strict=True))
    least = sum(case.oracle(v.reshape(-1).astype(float), h.reshape(-1).astype(float)) for v, h in pieces)
    slack = 1e-9 * least + 1e-11 * energy(weight, importance)
    assert reached <= least + slack, f"objective {reached}, brute force {least}"
    assert reached >= least - slack, f"objective {reached} below brute force {least}: the oracle is wrong"


def is_optimal_over_the_task(case, weight):
    """For per="task": the two halves of a vector as two weights are as good as the vector."""
    half = weight.numel() // 2
    flat = weight.reshape(-1)
    weights = {"a": flat[:half].clone(), "b": flat[half:].reshape(1, -1).clone()}
    forms = case.compression.project_task(weights, mu=case.mu, price=case.price)
    assert case.compression.is_feasible(forms, weights)
    reached = sum(squared_error(weights[name], forms[name]) for name in weights)
    least = case.oracle(flat.numpy(), np.ones(flat.numel()))
    assert reached <= least * (1 + 1e-9) + 1e-11 * energy(weight), f"error {reached}, brute force {least}"


def returns_its_own_kind(case, weight, form=None):
    """Projecting what it made changes nothing; a sum needs its own form as a warm start to see it."""
    form = project(case, weight) if form is None else form
    own = form.dense()
    previous = form if len(form.parts()) > 1 else None
    again = project(case, own, previous=previous)
    rounding = {torch.float64: 1e-14}.get(_coarsest(form), torch.finfo(_coarsest(form)).eps)
    assert squared_error(own, again) <= max(squared_error(own, form), (4 * rounding) ** 2 * energy(own))


def keeps_a_better_previous(case, weight, other, previous=None):
    """Warm-started anywhere feasible, it never ends above the start."""
    previous = project(case, other) if previous is None else previous
    assert case.compression.is_feasible({"w": previous}, {"w": weight})
    before = objective(case, weight, previous)
    after = objective(case, weight, project(case, weight, previous=previous))
    rounding = torch.finfo(_coarsest(previous)).eps
    assert after <= before * (1 + 1e-9) + rounding**2 * max(energy(weight), energy(other)), f"{before} -> {after}"


def beats_its_parts(case, weight, form=None):
    """A sum is never worse than the best of its parts alone."""
    total = objective(case, weight, project(case, weight) if form is None else form)
    for part in case.compression.parts():
        form = part.project(weight, mu=case.mu, price=case.price)
        alone = part.objective(weight, form, mu=case.mu, price=case.price)
        assert total <= alone * (1 + 1e-9) + torch.finfo(_coarsest(form)).eps ** 2 * energy(weight), str(part)


def refuses(case, weight, message):
    with pytest.raises(SummandsError, match=message):
        project(case, weight)


def survives_the_file(case, weight):
    """What a file gives back is the form to the last bit, and its size was estimated within 1 % and 16 bytes."""
    form = project(case, weight)
    assert read(to_bytes({"w": form})).forms["w"].same(form)
    coded, estimated = 8 * len(encode_section([form]).payload), estimated_bits(form)
    assert abs(coded - estimated) <= 0.01 * coded + 128, f"{coded} bits, {estimated} estimated"


def reads_its_own_text(case):
    assert parse(str(case.compression)) == case.compression


def moves_little(case, weight):
    """A host solver takes the weight to host memory once and its result back once; others send at most a table."""
    with Transfers(weight) as transfers:
        project(case, weight)
    assert transfers.down <= int(case.compression.on_host) and transfers.up <= 1, str(transfers)


def _coarsest(form):
    """The coarsest dtype that the weight or a stored tensor has."""
    dtypes = [form.dtype, *(t.dtype for t in form.tensors().values() if t.is_floating_point())]
    return max(dtypes, key=lambda dtype: torch.finfo(dtype).eps)
