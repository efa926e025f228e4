"""Benchmarks find their photos in packages; here in files made on the spot."""

import io

import numpy as np
import pytest
import torch

Image = pytest.importorskip("PIL.Image")
from benchmarks.photos import _SHORTEST, _pictures, crops, mixed  # noqa: E402


def webp(size, colour, mode="RGB"):
    out = io.BytesIO()
    Image.new(mode, size, colour).save(out, "WEBP", lossless=True)
    return out.getvalue()


def test_pictures_are_found_in_a_file_that_holds_them_as_they_are():
    long = _SHORTEST + 50
    content = b"".join(
        [
            b"RIFF of something else",
            webp((long, _SHORTEST), (200, 10, 30)),
            b"RIFF",
            webp((long, _SHORTEST - 1), (1, 2, 3)),  # too small
            webp((long, long), (1, 2, 3, 128), "RGBA"),  # not opaque
            b"\0" * 9,
            webp((_SHORTEST, long), (0, 0, 255)),
        ]
    )
    found = list(_pictures(content))
    assert [each.shape for each in found] == [(_SHORTEST, long, 3), (long, _SHORTEST, 3)]
    assert [each[0, 0].tolist() for each in found] == [[200, 10, 30], [0, 0, 255]]
    assert list(_pictures(b"")) == []


def test_crops_are_scaled_as_the_network_was_trained_and_are_the_same_every_time():
    photos = [np.full((300, 250, 3), value, np.uint8) for value in (0, 255)]
    first = crops(photos, 3, seed=4)
    assert first.shape == (6, 3, 224, 224)
    for part, value in ((first[:3], -127 / 128), (first[3:], 1.0)):
        torch.testing.assert_close(part, torch.full_like(part, value))
    assert torch.equal(first, crops(photos, 3, seed=4))


def test_mixed_crops_are_as_many_as_asked_for():
    generator = np.random.default_rng(0)
    photos = [generator.integers(0, 256, (260, 300, 3), dtype=np.uint8) for _ in range(3)]
    found = mixed(7, photos, seed=1)
    assert found.shape == (7, 3, 224, 224)
    assert found.abs().max() <= 1 + 1e-6
    assert torch.equal(found, mixed(7, photos, seed=1))
    assert not torch.equal(found, mixed(7, photos, seed=2))
