from __future__ import annotations

import math

import pytest

from benchmarks.coding import comparisons, curve
from benchmarks.hull import bytes_at, lower_hull


def test_the_hull_leaves_out_what_a_mixture_of_others_beats() -> None:
    points = [(0.0, 1000), (1.0, 400), (2.0, 10), (2.0, 50), (3.0, 20), (4.0, 5)]
    assert lower_hull(points) == [(0.0, 1000), (2.0, 10), (4.0, 5)]
    assert lower_hull([]) == []


def test_bytes_are_interpolated_by_their_logarithm() -> None:
    points = [(0.0, 1000), (2.0, 10)]
    assert bytes_at(points, 1.0) == pytest.approx(100)
    assert bytes_at(points, 5.0) == 10
    assert bytes_at(points, -0.1) is None
    # One more setting, which is worse than both, changes nothing.
    assert bytes_at([*points, (1.0, 500)], 1.0) == pytest.approx(100)


def rows(codec: str, *triples: tuple[float, float, int], seed: int = 0) -> list[dict[str, object]]:
    names = ("validation_error", "test_error", "bytes")
    facts = {"network": "net", "codec": codec, "seed": seed}
    return [{**facts, "setting": i, **dict(zip(names, triple, strict=True))} for i, triple in enumerate(triples)]


def test_the_loss_is_the_error_on_all_images_that_were_not_trained_on() -> None:
    assert curve([*rows("original", (0.0, 0.0, 9)), *rows("ours", (2.0, 1.0, 100))], "ours") == [
        (pytest.approx(4 / 3), 100)
    ]
    agreeing = [{"agreement": value, "bytes": 7, "seed": 0, "setting": 0} for value in (1.0, 0.9)]
    agreeing[0]["codec"], agreeing[1]["codec"] = "original", "ours"
    assert curve(agreeing, "ours") == [(pytest.approx(0.1), 7)]


def test_settings_are_averaged_over_seeds_against_the_original_of_each() -> None:
    first = [*rows("original", (1.0, 1.0, 9)), *rows("ours", (2.0, 2.0, 100), (3.0, 3.0, 10))]
    second = [*rows("original", (2.0, 2.0, 9), seed=1), *rows("ours", (2.5, 2.5, 200), (6.0, 6.0, 30), seed=1)]
    assert curve(first + second, "ours") == [(pytest.approx(0.75), 150), (pytest.approx(3.0), 20)]


def test_levels_are_those_of_the_original_plus_points() -> None:
    original = rows("original", (1.0, 1.0, 4000))
    found = comparisons([*original, *rows("ours", (1.0, 1.0, 400), (2.0, 2.0, 4)), *rows("nncodec", (1.05, 1.05, 100))])
    assert [row["level"] for row in found] == ["error + 0.1 points", "error + 0.3 points", "error + 1.0 points"]
    assert found[0]["ours"] == pytest.approx(400 * 10**-0.2)
    assert math.isclose(found[2]["ours"], 4) and found[2]["nncodec"] == 100
