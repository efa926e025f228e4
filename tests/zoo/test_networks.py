import pytest
import torch

from summands.errors import ArgumentError
from summands.zoo.networks import NETWORKS, VGG, AlexNet, LeNet5, LeNet300, ResNet, build

PARAMETERS = {
    "lenet300": 266_610,
    "lenet300-tanh": 266_610,
    "lenet5": 431_080,
    "resnet20": 269_434,
    "vgg": 825_820,
    "alexnet": 474_210,
}


@pytest.mark.parametrize("name", NETWORKS)
def test_sizes_outputs_and_gradients(name):
    network = build(name)
    assert sum(p.numel() for p in network.parameters()) == PARAMETERS[name]
    out = network(torch.randn(4, 1, 28, 28, generator=torch.Generator().manual_seed(0)))
    assert out.shape == (4, 10)
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


@pytest.mark.parametrize("name", ["resnet20", "vgg", "alexnet"])
def test_colour_images_of_32_pixels(name):
    assert build(name, (3, 32, 32))(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_the_papers_sizes():
    def count(network):
        return sum(p.numel() for p in network.parameters())

    assert count(ResNet(3, 3)) == 269_722  # 0.27 million in table 6 of 1512.03385
    assert count(ResNet(9, 3)) == 853_018  # 0.85 million
    assert count(LeNet300(64)) == 64 * 300 + 300 + 30_100 + 1_010
    assert count(VGG(64, 3)) == 14_986_698
    assert [m.weight.shape[0] for m in AlexNet(1).children()] == [96, 256, 384, 384, 256, 4096, 4096, 10]


def test_a_shortcut_of_option_a_copies_every_other_pixel_and_adds_zero_channels():
    block = ResNet(1, 1).eval().layer2[0]
    torch.nn.init.zeros_(block.bn2.weight)
    maps = torch.rand(1, 16, 8, 8)
    out = block(maps)
    assert torch.equal(out[:, 8:24], maps[:, :, ::2, ::2])
    assert not out[:, :8].any() and not out[:, 24:].any()


def test_the_activation_is_what_was_asked_for():
    image = torch.randn(1, 784)
    relu, tanh = LeNet300(), LeNet300(activation="tanh")
    tanh.load_state_dict(relu.state_dict())
    hidden = [f(relu.fc2(f(relu.fc1(image)))) for f in (torch.relu, torch.tanh)]
    assert torch.equal(relu(image), relu.fc3(hidden[0]))
    assert torch.equal(tanh(image), relu.fc3(hidden[1]))
    with pytest.raises(ArgumentError, match="must be 'relu' or 'tanh', got 'sigmoid'"):
        LeNet300(activation="sigmoid")


def test_weights_depend_on_the_seed_alone_and_the_global_seed_stays():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = build("lenet5", seed=3).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    again, other = build("lenet5", seed=3).state_dict(), build("lenet5", seed=4).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


def test_an_unknown_network_lists_the_near_ones():
    with pytest.raises(ArgumentError, match=r"got 'lenet-5'; did you mean 'lenet5'"):
        build("lenet-5")


def test_lenet5_takes_images_of_28_pixels():
    assert LeNet5(3)(torch.zeros(1, 3, 28, 28)).shape == (1, 10)
