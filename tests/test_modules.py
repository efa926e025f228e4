"""Executable forms against the dense layer, over many layers."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import summands as sm
from summands.compressions import LowRank, Prune, Quantize, Tucker
from summands.errors import MismatchError
from summands.forms import LowRank as LowRankForm
from summands.modules import Parallel, as_module

# Even kernels with padding="same" make torch warn, dense or in factors.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same'")
CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def outputs(form, layer, x):
    """What the module made of the form gives, and what the layer with the dense weight gives."""
    before = copy.deepcopy(layer.state_dict())
    module = as_module(form, layer)
    dense = copy.deepcopy(layer)
    dense.weight = nn.Parameter(form.dense())
    assert all(torch.equal(layer.state_dict()[name], value) for name, value in before.items())
    return module, module(x), dense(x)


def agrees(form, layer, x):
    module, got, expected = outputs(form, layer, x)
    assert got.shape == expected.shape
    assert torch.allclose(got, expected, atol=1e-9)
    return module


@st.composite
def convolutions(draw):
    dims = draw(st.integers(1, 3))
    groups = draw(st.integers(1, 3))
    kernel = [draw(st.integers(1, 3)) for _ in range(dims)]
    dilation = [draw(st.integers(1, 2)) for _ in range(dims)]
    padding = draw(st.sampled_from(["same", "valid", "numbers"]))
    stride = [1 if padding == "same" else draw(st.integers(1, 2)) for _ in range(dims)]
    layer = CONVOLUTIONS[dims](
        groups * draw(st.sampled_from([2, 4])),
        groups * draw(st.sampled_from([2, 4])),
        kernel,
        stride=stride,
        padding=[draw(st.integers(0, 2)) for _ in range(dims)] if padding == "numbers" else padding,
        dilation=dilation,
        groups=groups,
        bias=draw(st.booleans()),
        padding_mode=draw(st.sampled_from(["zeros", "replicate", "circular", "reflect"])),
        dtype=torch.float64,
    )
    return layer


def fill(layer, seed=0):
    noise = torch.Generator().manual_seed(seed)
    for parameter in layer.parameters():
        parameter.data = torch.randn(parameter.shape, generator=noise, dtype=parameter.dtype)
    return layer


def data(layer, size=6, batch=2):
    noise = torch.Generator().manual_seed(1)
    shape = (batch, layer.in_channels, *[size + i for i in range(len(layer.kernel_size))])
    return torch.randn(shape, generator=noise, dtype=torch.float64)


@given(convolutions(), st.data())
def test_convolutions(layer, drawn):
    fill(layer)
    shape = layer.weight.shape
    views = ["out", "in", "spatial"] + (["kernel"] if len(shape) == 4 else [])
    views += [f"reshape({rows})" for rows in range(1, shape[0] * shape[1] + 1) if shape.numel() % rows == 0]
    form = LowRank(drawn.draw(st.integers(1, 3)), view=drawn.draw(st.sampled_from(views))).project(layer.weight)
    module = agrees(form, layer, data(layer))
    agrees(form, layer, data(layer)[0])
    if isinstance(form, LowRankForm):
        runs_in_factors = form.view.rank_flops(shape, groups=layer.groups) is not None
        assert isinstance(module, nn.Sequential) == runs_in_factors


VIEWS = ["out", "in", "kernel", "spatial", "reshape(2)", "reshape(4)", "reshape(16)", "reshape(24)"]


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("view", VIEWS)
def test_flops_are_those_counted(view, groups):
    layer = fill(nn.Conv2d(6 * groups, 8, (3, 2), stride=(2, 1), padding=1, groups=groups, dtype=torch.float64))
    x = data(layer, size=9, batch=1)
    form = LowRank(1, view=view).project(layer.weight)
    module, sizes = as_module(form, layer), (x.shape[2:], layer(x).shape[2:])
    with FlopCounterMode(display=False) as counter:
        module(x)
    per_rank = form.view.rank_flops(layer.weight.shape, *sizes, groups=groups)
    dense = layer.weight.numel() * sizes[1].numel()
    assert counter.get_total_flops() == 2 * (dense if per_rank is None else per_rank)
    tucker = Tucker(2, 3).project(layer.weight)
    module = as_module(tucker, layer)
    with FlopCounterMode(display=False) as counter:
        module(x)
    assert min(counter.get_total_flops(), 2 * dense) == 2 * tucker.flops(*sizes, groups=groups)


@given(convolutions(), st.integers(1, 3), st.integers(1, 3))
def test_tucker(layer, p, q):
    fill(layer)
    agrees(Tucker(p, q).project(layer.weight), layer, data(layer))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("view", ["out", "in", *[f"reshape({r})" for r in (1, 2, 3, 4, 6, 8, 12, 16, 24, 48, 96)]])
def test_linear(view, bias):
    layer = fill(nn.Linear(12, 8, bias=bias, dtype=torch.float64))
    x = torch.randn(3, 5, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    module = agrees(LowRank(1, view=view).project(layer.weight), layer, x)
    runs = view not in ("reshape(1)", "reshape(3)", "reshape(6)", "reshape(12)", "reshape(96)")
    assert isinstance(module, nn.Sequential) or not runs
    assert not module(x[0, 0]).isnan().any()


def test_sums_are_parallel_branches():
    layer = fill(nn.Conv2d(6, 8, 3, padding=1, dtype=torch.float64))
    both = LowRank(2) + LowRank(1, view="kernel")
    module = agrees(both.project(layer.weight), layer, data(layer))
    assert isinstance(module, Parallel) and len(module) == 2
    mixed = LowRank(2) + Prune(count=9) + Quantize(2)
    module = agrees(mixed.project(layer.weight), layer, data(layer))
    assert isinstance(module, Parallel) and len(module) == 2
    assert sum(p.numel() for n, p in module.named_parameters() if n.endswith("bias")) == 8
    module = agrees((Quantize(2) + Prune(count=9)).project(layer.weight), layer, data(layer))
    assert type(module) is nn.Conv2d
    module = agrees((LowRank(2) + Prune(count=0)).project(layer.weight), layer, data(layer))
    assert type(module) is nn.Sequential


def test_other_forms_and_layers_run_dense():
    layer = fill(nn.Conv2d(4, 4, 3, dtype=torch.float64))
    for compression in (Quantize(2), Prune(count=5), LowRank(99)):
        assert type(agrees(compression.project(layer.weight), layer, data(layer))) is nn.Conv2d
    turned = fill(nn.ConvTranspose2d(4, 4, 3, dtype=torch.float64))
    assert type(agrees(LowRank(1).project(turned.weight), turned, data(turned))) is nn.ConvTranspose2d
    table = fill(nn.Embedding(10, 4, dtype=torch.float64))
    assert type(agrees(LowRank(1).project(table.weight), table, torch.tensor([1, 7]))) is nn.Embedding


def test_parameters_are_its_own_and_nothing_random_is_drawn():
    layer = nn.Linear(6, 5).eval()
    form = LowRank(2, dtype="float16").project(layer.weight)
    state = torch.get_rng_state()
    module = as_module(form, layer)
    assert torch.equal(state, torch.get_rng_state()) and not module.training
    assert {p.dtype for p in module.parameters()} == {torch.float32}
    before = form.dense()
    for parameter in module.parameters():
        parameter.data.zero_()
    assert torch.equal(form.dense(), before) and layer.bias.abs().sum() > 0


def test_a_mismatch_is_an_error():
    form = LowRank(1).project(torch.ones(3, 3))
    with pytest.raises(MismatchError, match="shape"):
        as_module(form, nn.Linear(3, 4))
    with pytest.raises(MismatchError, match="weight"):
        as_module(form, nn.ReLU())


def network():
    """Convolutions, BatchNorm, a layer at work in two places, a weight that two modules own."""
    torch.manual_seed(0)
    twice = nn.Linear(40, 40)
    tied = nn.Embedding(40, 40)
    head = nn.Linear(40, 40, bias=False)
    head.weight = tied.weight
    return nn.ModuleDict(
        {
            "conv": nn.Sequential(nn.Conv2d(3, 24, 5, stride=2, padding="valid"), nn.BatchNorm2d(24), nn.ReLU()),
            "down": nn.Conv2d(24, 40, 3, padding=1, groups=2),
            "first": twice,
            "second": twice,
            "tied": tied,
            "head": head,
            "small": nn.Linear(40, 2),
        }
    )


class Whole(nn.Module):
    def __init__(self):
        super().__init__()
        self.parts = network()

    def forward(self, x):
        p = self.parts
        maps = p["down"](p["conv"](x)).relu().mean((-1, -2))
        mixed = p["head"](p["second"](p["first"](maps).relu()).relu()) + p["tied"](torch.arange(len(x)))
        return p["small"](mixed)


RULES = {
    "*.conv.0.weight": "LowRank(3, view='kernel')",
    "*.down.weight": "LowRank(2, view='out') + LowRank(1, view='spatial')",
    "*.first.weight": "LowRank(3) + LowRank(2, view='reshape(20)')",
    "*.tied.weight": "LowRank(2)",
    "*.small.weight": "LowRank(1)",
}


@pytest.mark.parametrize("sized", [False, True])
def test_a_whole_network_in_factors_computes_what_its_dense_weights_do(sized):
    model = Whole().train()
    x = torch.randn(3, 3, 20, 20)
    model(x)  # moves BatchNorm's statistics
    before = copy.deepcopy(model.state_dict())
    result = sm.compress(model, sm.Plan(RULES, ignore=["*.bias", "*.conv.1.*"]))
    factored = result.to_modules(model.eval(), [x] if sized else ())
    dense = result.apply_(copy.deepcopy(model))
    assert torch.allclose(factored(x), dense(x), atol=1e-5)
    assert all(torch.equal(t, model.state_dict()[name]) for name, t in before.items())
    parts = factored.parts
    assert type(parts["conv"][0]) is nn.Sequential and isinstance(parts["down"], Parallel)
    assert parts["first"] is parts["second"] and isinstance(parts["first"], Parallel)
    assert parts["head"].weight is parts["tied"].weight
    assert type(parts["small"]) is nn.Sequential  # one rank of 2 x 40 takes 42 multiply-adds of 80
    assert torch.equal(parts["conv"][1].running_mean, model.parts["conv"][1].running_mean)
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        factored(x[:1])
    with FlopCounterMode(display=False) as whole, torch.no_grad():
        dense(x[:1])
    assert counted.get_total_flops() < 0.5 * whole.get_total_flops()


def test_a_layer_whose_factors_do_not_pay_stays_dense():
    model = nn.Sequential(nn.Linear(10, 10), nn.Linear(10, 10))
    plan = sm.Plan({"0.weight": "LowRank(5)", "1.weight": "LowRank(4)"}, ignore=["*.bias"])
    factored = sm.compress(model, plan).to_modules(model)
    assert [type(layer) for layer in factored] == [nn.Linear, nn.Sequential]


def test_a_model_that_is_one_layer_is_replaced_itself():
    layer = nn.Linear(20, 30)
    result = sm.compress(layer, sm.Plan({"weight": "LowRank(2)"}, ignore=["bias"]))
    x = torch.randn(4, 20)
    assert torch.allclose(result.to_modules(layer)(x), result.apply_(layer)(x), atol=1e-6)


@pytest.mark.parametrize("layer", [nn.Linear(30, 20), nn.Conv2d(6, 8, 3, stride=2, padding=1)], ids=str)
def test_a_weight_of_rank_zero_costs_next_to_nothing(layer):
    form = LowRank(0).project(layer.weight)
    x = torch.randn(2, 30) if layer.weight.ndim == 2 else torch.randn(2, 6, 9, 9)
    module, got, expected = outputs(form, layer, x)
    assert torch.equal(got, expected)
    with FlopCounterMode(display=False) as counted:
        module(x)
    with FlopCounterMode(display=False) as whole:
        layer(x)
    assert counted.get_total_flops() < 0.2 * whole.get_total_flops()


@pytest.mark.parametrize("hook", ["register_forward_hook", "register_forward_pre_hook"])
def test_a_layer_with_hooks_stays_as_it_is(hook: str) -> None:
    model = nn.Sequential(nn.Linear(40, 30))
    getattr(model[0], hook)(lambda *given: 2 * given[-1] if torch.is_tensor(given[-1]) else (2 * given[-1][0],))
    result = sm.compress(model, sm.Plan({"*.weight": "LowRank(2)"}, ignore=["*.bias"]))
    x = torch.randn(3, 40)
    torch.testing.assert_close(result.to_modules(model)(x), result.apply_(copy.deepcopy(model))(x))


@pytest.mark.parametrize("frozen", ["weight", "bias"])
def test_what_is_frozen_stays_frozen(frozen: str) -> None:
    model = nn.Sequential(nn.Linear(40, 30))
    getattr(model[0], frozen).requires_grad_(False)
    result = sm.compress(model, sm.Plan({"*.weight": "LowRank(2)"}, ignore=["*.bias"]))
    parameters = dict(result.to_modules(model).named_parameters())
    assert len(parameters) == 3
    for name, parameter in parameters.items():
        assert parameter.requires_grad == (name.endswith("bias") != (frozen == "bias"))


def test_a_bias_of_two_layers_stays_one() -> None:
    model = nn.Sequential(nn.Linear(30, 30), nn.Linear(30, 30))
    model[1].bias = model[0].bias
    result = sm.compress(model, sm.Plan({"*.weight": "LowRank(2)"}, ignore=["*.bias"]))
    made = result.to_modules(model)
    assert made[0].bias is made[1].bias
