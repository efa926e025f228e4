from dataclasses import replace

import pytest
import torch
from torch import nn

from summands.errors import ArgumentError, FileError, TrainingError
from summands.zoo.data import DATA_SETS, Data, Split
from summands.zoo.networks import NETWORKS, build
from summands.zoo.train import (
    RECIPES,
    Batches,
    Recipe,
    error,
    fit,
    flushed_denormals,
    learning_rate,
    mean_loss,
    reference,
    train,
)


def synthetic(count=320, size=12, seed=0):
    """Images of one bright quarter: its place is the class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (count,), generator=generator)
    images = torch.randn(count, 1, size, size, generator=generator)
    half = size // 2
    for i, label in enumerate(labels.tolist()):
        images[i, 0, label // 2 * half :, label % 2 * half :][:half, :half] += 2
    return Split(images, labels)


def made_up(count, size):
    return Data("made up", 4, synthetic(count, size), synthetic(100, size, 1), synthetic(100, size, 2), "nowhere")


DATA, SMALL = made_up(320, 12), made_up(96, 8)
RECIPE = Recipe("lenet300", "mnist", epochs=3, lr=0.05, batch=32)
CONV = replace(RECIPE, network="resnet20", epochs=2, shift=1, flip=True, warmup=0.3, weight_decay=1e-4)


class Interrupted(Exception):
    pass


@pytest.mark.parametrize(("recipe", "data"), [(RECIPE, DATA), (CONV, SMALL)], ids=["dense", "conv"])
def test_training_resumes_to_the_same_bits(recipe, data, cache, tmp_path, monkeypatch):
    seen = []
    whole = train(recipe, data, on_epoch=lambda done, loss: seen.append((done, loss)))

    def interrupt(done, loss):
        raise Interrupted

    monkeypatch.setenv("SUMMANDS_CACHE", str(tmp_path / "other"))
    rest = []
    with pytest.raises(Interrupted):
        train(recipe, data, on_epoch=interrupt)
    resumed = train(recipe, data, on_epoch=lambda done, loss: rest.append((done, loss)))
    assert rest == seen[1:]
    a, b = whole.model.state_dict(), resumed.model.state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert (whole.test_error, whole.validation_error) == (resumed.test_error, resumed.validation_error)
    assert [p.suffix for p in (tmp_path / "other" / "references").iterdir()] == [".safetensors"]


def test_a_reference_learns_and_is_trained_once(cache):
    first = train(RECIPE, DATA)
    assert first.test_error == error(first.model, DATA.test.images, DATA.test.labels) <= 3
    assert first.validation_error <= 3
    assert first.seconds > 0
    assert not first.model.training

    def never(done, loss):
        pytest.fail("trained again")

    again = train(RECIPE, on_epoch=never)
    assert again.test_error == first.test_error
    assert all(torch.equal(p, q) for p, q in zip(first.model.parameters(), again.model.parameters(), strict=True))
    other = train(replace(RECIPE, seed=1), DATA)
    assert not torch.equal(other.model.fc1.weight, first.model.fc1.weight)


def test_training_leaves_the_global_seed_alone(cache):
    before = torch.get_rng_state()
    train(replace(CONV, epochs=1), SMALL)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_broken_file_in_the_cache_is_named(cache):
    path = cache / "references" / f"{RECIPE.key()}.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"nothing")
    with pytest.raises(FileError, match=r"is no reference network: .*; delete it to train again"):
        train(RECIPE, DATA)


def test_a_loss_that_explodes_is_an_error(cache):
    with pytest.raises(TrainingError, match=r"in epoch 1; lower lr=1e\+30"):
        train(replace(RECIPE, lr=1e30), DATA)


def test_an_unknown_reference_lists_the_near_ones():
    with pytest.raises(ArgumentError, match="got 'lenet5-mnits'; did you mean 'lenet5-mnist'"):
        reference("lenet5-mnits")


def test_the_digits_reference_is_good(cache):
    assert reference("lenet300-digits").test_error <= 3.5


def test_recipes_name_what_exists_and_have_different_keys():
    assert all(recipe.network in NETWORKS and recipe.data in DATA_SETS for recipe in RECIPES.values())
    assert all(name == f"{recipe.network}-{recipe.data}" for name, recipe in RECIPES.items())
    keys = [recipe.key() for recipe in RECIPES.values()]
    keys += [replace(RECIPE, **{field: value}).key() for field, value in (("lr", 0.1), ("shift", 1), ("seed", 1))]
    assert len(set(keys)) == len(RECIPES) + 3


def test_batches_are_shifted_and_mirrored_windows_of_their_images():
    images = torch.arange(1.0, 1 + 40 * 2 * 4 * 5).view(40, 2, 4, 5)
    recipe = replace(RECIPE, batch=8, shift=2, flip=True)
    batches = Batches(Split(images, torch.arange(40)), recipe)
    assert len(batches) == 5
    padded = nn.functional.pad(images, (2, 2, 2, 2))
    seen = set()
    for epoch in range(12):
        order = []
        for batch, labels in batches.epoch(epoch):
            assert batch.is_contiguous(memory_format=torch.channels_last)
            for image, label in zip(batch, labels.tolist(), strict=True):
                order.append(label)
                windows = {
                    (top, left, mirrored): (w.flip(2) if mirrored else w)
                    for top in range(5)
                    for left in range(5)
                    for mirrored in (False, True)
                    for w in [padded[label, :, top : top + 4, left : left + 5]]
                }
                found = [place for place, window in windows.items() if torch.equal(window, image)]
                assert found
                seen.update(found)
        assert sorted(order) == list(range(40))
        assert order != list(range(40))
    assert len(seen) == 50


def test_every_epoch_depends_on_the_seed_and_its_number_alone():
    split = synthetic(64)

    def labels(recipe, epoch):
        return torch.cat([y for _, y in Batches(split, recipe).epoch(epoch)]).tolist()

    for recipe in (RECIPE, CONV):
        assert labels(recipe, 1) == labels(recipe, 1)
        assert labels(recipe, 1) != labels(recipe, 2)
        assert labels(recipe, 1) != labels(replace(recipe, seed=1), 1)


def test_the_learning_rate_rises_linearly_and_falls_as_a_cosine():
    one_cycle = replace(RECIPE, lr=1.0, warmup=0.25)
    rates = [learning_rate(one_cycle, i / 100) for i in range(100)]
    assert rates[0] == 0 and max(rates) == rates[25] == 1 and rates[-1] < 1e-3
    assert rates[:26] == sorted(rates[:26]) and rates[25:] == sorted(rates[25:], reverse=True)
    assert learning_rate(RECIPE, 0) == RECIPE.lr


class Fixed(nn.Module):
    def forward(self, images):
        return images.flatten(1)


def test_error_and_loss_are_means_over_all_images_and_keep_the_mode():
    outputs = torch.eye(4)[[0, 1, 2, 3, 0]].view(5, 4, 1, 1) * 3
    labels = torch.tensor([0, 1, 2, 0, 1])
    for mode in (True, False):
        model = Fixed().train(mode)
        assert error(model, outputs, labels, batch=2) == pytest.approx(40)
        expected = nn.functional.cross_entropy(outputs.flatten(1), labels)
        assert mean_loss(model, outputs, labels, batch=2) == pytest.approx(float(expected))
        assert model.training is mode
    frozen = nn.Sequential(Fixed(), Fixed().eval())
    error(frozen, outputs, labels)
    assert frozen.training and frozen[0].training and not frozen[1].training


def test_denormals_are_flushed_inside_and_as_before_outside():
    def tiny():
        return float(torch.full((8,), 1e-40).mul(1)[0])

    assert tiny() > 0
    with flushed_denormals():
        assert tiny() == 0
        with flushed_denormals():
            assert tiny() == 0
        assert tiny() == 0
    assert tiny() > 0
    with pytest.raises(Interrupted), flushed_denormals():
        raise Interrupted
    assert tiny() > 0


def test_fit_trains_in_place_without_files(tmp_path, monkeypatch):
    monkeypatch.setenv("SUMMANDS_CACHE", str(tmp_path))
    model = build("lenet300", (1, 12, 12), 4)
    before = mean_loss(model, DATA.test.images, DATA.test.labels)
    fit(model, DATA.train, RECIPE)
    assert mean_loss(model, DATA.test.images, DATA.test.labels) < before / 2
    assert not list(tmp_path.iterdir())
