"""What a budget means."""

from __future__ import annotations

import pytest

from summands.errors import BudgetError
from summands.selection import Budget


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        (60000, Budget(bytes=60000)),
        ("60000", Budget(bytes=60000)),
        ("60 kB", Budget(bytes=60000)),
        ("1.5KiB", Budget(bytes=1536)),
        ("2e-3 GB", Budget(bytes=2_000_000)),
        ("20x", Budget(ratio=20)),
        ("2.5 bits/weight", Budget(bits_per_weight=2.5)),
        ("10 MFLOPs", Budget(flops=10_000_000)),
        ("2.5e3 FLOPs", Budget(flops=2500)),
        ("0.005 drop", Budget(max_drop=0.005)),
        ("0 drop", Budget(max_drop=0.0)),
        (Budget(ratio=3.0), Budget(ratio=3.0)),
    ],
)
def test_texts(text, budget) -> None:
    assert Budget.of(text) == budget


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("60 kb", "unit"),
        ("60 parsecs", "unit"),
        ("-3 kB", "above 0"),
        ("-1 MFLOPs", "above 0"),
        ("-0.1 drop", "at least 0"),
        ("3 flops", "unit"),
        ("0x", "above 0"),
        ("", "budget"),
        ("1.2.3 kB", "budget"),
        (True, "budget"),
        (None, "budget"),
        (2.5, "budget"),
        (-1, "above 0"),
    ],
)
def test_bad_budgets_are_refused(text, words: str) -> None:
    with pytest.raises(BudgetError, match=words):
        Budget.of(text)


def test_exactly_one_of_the_kinds() -> None:
    with pytest.raises(BudgetError, match="exactly one"):
        Budget()
    with pytest.raises(BudgetError, match="exactly one"):
        Budget(bytes=1, ratio=2)
    with pytest.raises(BudgetError, match="above 0"):
        Budget(ratio=float("inf"))


def test_limits() -> None:
    assert Budget(bytes=7).limit(100, 10) == 7
    assert Budget(ratio=8).limit(100, 10) == 12
    assert Budget(bits_per_weight=2.5).limit(100, 10) == 3
