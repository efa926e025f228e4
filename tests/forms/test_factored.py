"""The forms Tucker and Transform against their definitions, and through the coder."""

import math

import pytest
import torch

from summands.coding import decode_section, encode_section, layout_of
from summands.forms import Transform, Tucker
from summands.forms.transform import basis_functions, check_basis
from summands.views import OUT, SPATIAL

NOISE = torch.Generator().manual_seed(0)


def tucker(shape=(4, 3, 2, 2), ranks=(2, 2), dtype=torch.float32, stored=torch.float32):
    def random(*size):
        return torch.randn(size, generator=NOISE).to(stored)

    p, q = ranks
    return Tucker(shape=torch.Size(shape), dtype=dtype, out=random(shape[0], p), core=random(p, q, *shape[2:]),
                  into=random(q, shape[1]))  # fmt: skip


def transform(indices, shape=(4, 3, 2, 2), terms=3, basis="dct", view=OUT):
    values = torch.randn(len(indices), generator=NOISE)
    return Transform(shape=torch.Size(shape), dtype=torch.float32, indices=torch.tensor(indices, dtype=torch.int64),
                     values=values, terms=terms, basis=basis, view=view)  # fmt: skip


@pytest.mark.parametrize("shape", [(4, 3, 5), (4, 3, 2, 2), (3, 2, 2, 3, 2)])
def test_tucker_is_its_sum(shape):
    form = tucker(shape)
    form.validate()
    double = [t.double() for t in (form.out, form.core, form.into)]
    expected = torch.einsum("np,pq...,qm->nm...", *double)
    assert torch.allclose(form.dense().double(), expected, atol=1e-5)


@pytest.mark.parametrize("basis", ["dct", "chebyshev"])
@pytest.mark.parametrize(("columns", "terms"), [(1, 1), (5, 5), (9, 3), (100, 20), (7, 0), (0, 0)])
def test_bases_are_orthonormal(basis, columns, terms):
    phi = basis_functions(basis, columns, terms)
    assert phi.shape == (columns, terms)
    assert torch.allclose(phi.T @ phi, torch.eye(terms, dtype=torch.float64), atol=1e-10)


def test_bases_are_what_their_names_say():
    points = torch.arange(6, dtype=torch.float64) + 0.5
    assert torch.allclose(basis_functions("dct", 6, 3)[:, 2], math.sqrt(2 / 6) * torch.cos(math.pi * 2 * points / 6))
    # Every polynomial of degree below 4 is a combination of the first 4.
    phi, cubic = basis_functions("chebyshev", 9, 4), torch.arange(9.0, dtype=torch.float64) ** 3
    assert torch.allclose(phi @ (phi.T @ cubic), cubic)


def test_transform_is_its_expansion():
    form = transform([0, 2, 5, 11])
    form.validate()
    coefficients = torch.zeros(12, dtype=torch.float64)
    coefficients[form.indices] = form.values.double()
    expected = (coefficients.reshape(4, 3) @ basis_functions("dct", 12, 3).T).reshape(4, 3, 2, 2)
    assert torch.allclose(form.dense().double(), expected, atol=1e-6)
    assert transform(list(range(12))).paper_bits(set()) == 12 * 32
    assert form.paper_bits(set()) > 4 * 32


FORMS = [tucker(), tucker((4, 3, 5), (0, 2)), tucker(stored=torch.float16), tucker((0, 3, 2, 2), (0, 1)),
         transform([]), transform([0, 3, 11]), transform(list(range(24)), terms=2, view=SPATIAL),
         transform([1], basis="chebyshev")]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_survives_the_coder(form):
    (back,) = decode_section(encode_section([form]).payload, [layout_of(form)])
    assert back.same(form) and torch.equal(back.dense(), form.dense())


def test_values_are_differentiable():
    for form in FORMS[:1] + FORMS[5:6]:
        moving = {name: t.clone().requires_grad_() for name, t in form.continuous_tensors().items()}
        form.replace_tensors(moving).dense().sum().backward()
        assert all(t.grad is not None for t in moving.values())


@pytest.mark.parametrize("arguments", [("haar", 4, 2), ("dct", 4, 5), ("dct", 9000, 2), ("chebyshev", 50, 33),
                                       ("dct", 4, -1)])  # fmt: skip
def test_refuses_bases(arguments):
    with pytest.raises(ValueError, match="must"):
        check_basis(*arguments)


def test_validate_refuses():
    broken = tucker().replace_tensors({"out": torch.ones(4, 3)})
    with pytest.raises(ValueError, match="factors"):
        broken.validate()
    with pytest.raises(ValueError, match="3-d"):
        tucker((4, 3), (1, 1)).validate()
    with pytest.raises(ValueError, match="position"):
        transform([12]).validate()
