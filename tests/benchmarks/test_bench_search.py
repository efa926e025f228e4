"""What the benchmark of the search concludes from its rows."""

from __future__ import annotations

from benchmarks.search import table, verdict


def row(combination: str, budget: str, error: float, size: int = 1000, status: str = "finished") -> dict:
    return {
        "combination": combination,
        "budget": budget,
        "status": status,
        "validation_error": error,
        "test_error": error + 0.5,
        "file_bytes": size,
        "on_front": combination == "P",
    }


def network(*rows: dict) -> dict:
    facts = {"reference_validation_error": 0.9, "reference_test_error": 1.0, "reference_bytes": 32_000}
    return {"network": "net", "runs": list(rows), **facts}


def test_the_table_sets_the_best_sum_beside_the_best_single_part() -> None:
    rows = [row("Q", "8x", 2.0), row("P", "8x", 1.5), row("Q + P", "8x", 1.25), row("L + P", "8x", 1.75)]
    rows += [row("Auto", "8x", 0.1), row("Q", "16x", 9.0, status="failed"), row("Q + P", "16x", 3.0)]
    lines = {line.split("  ")[0].strip(): line.split("  ")[-1].strip() for line in table([network(*rows)]).splitlines()}
    text = table([network(*rows)])
    assert "*1.50 / 2.00" in text and "1.25 / 1.75" in text
    assert lines["Q + P"] == "3.00 / 3.50" and lines["Q"] == "-"
    [best_sum] = [line for line in text.splitlines() if line.startswith("best sum")]
    [single] = [line for line in text.splitlines() if line.startswith("best single")]
    [difference] = [line for line in text.splitlines() if line.startswith("sum - single")]
    assert best_sum.split()[2:] == ["Q", "+", "P", "Q", "+", "P"] and single.split()[2:] == ["P", "-"]
    assert difference.split()[3:] == ["-0.25", "-"]


def test_a_single_part_wins_only_beyond_chance() -> None:
    assert verdict(network(row("P", "8x", 1.0), row("Q + P", "8x", 1.2))) == []
    assert verdict(network(row("P", "8x", 1.0), row("Q + P", "8x", 2.0))) == ["8x: P 1.00 < Q + P 2.00"]
    assert verdict(network(row("P", "8x", 1.0), row("Q + P", "16x", 2.0))) == []
    assert verdict(network(row("Auto", "8x", 0.0), row("Q + P", "8x", 9.0))) == []
