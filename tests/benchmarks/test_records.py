"""What the benchmark of the byte records shows of its rows."""

from __future__ import annotations

from benchmarks.records import table


def row(seed: int, validation: float, test: float, size: int) -> dict:
    seconds = {"learn_seconds": 90.0, "compress_seconds": 9.0, "measure_seconds": 1.0}
    facts = {"network": "lenet5", "budget": "2.8kB", "reference_test_error": 0.75, "epochs": 30}
    figures = {"validation_error": validation, "test_error": test, "file_bytes": size, "nonzero": {"a": 1500, "b": 2}}
    return {"seed": seed, **facts, **figures, **seconds}


def test_the_best_file_is_chosen_by_validation_and_not_by_test_error() -> None:
    text = table([row(0, 1.0, 1.2, 2790), row(1, 1.1, 0.9, 2780)])
    assert "2,790 B, 1.20 %" in text and "1.05 +- 0.21 %" in text and "2,785" in text
    assert "1,502" in text and "9 %" in text
