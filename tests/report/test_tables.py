"""The table of runs and the progress of a search, as text."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import summands as sm
from summands.records import LayerRecord, RunRecord, SearchRecord, StepRecord, Verdict
from summands.report.progress import SearchProgress, StepProgress
from summands.report.tables import layer_line, result_table, runs_table, trials_table

SEARCH = SearchRecord("net", "", 8000, 0.9, {})
STEPS = tuple(StepRecord("lc", i, 1.0, None, 0.1, 2.0, 400, 1.0, 1.0, 1.0) for i in range(3))
FINISHED = RunRecord("a", "Q + P", "20x", 400, "finished", "STEPS_USED", 1.25, 398, 12.4)
STOPPED = RunRecord("b", "[bold]P[/bold]", "20x", 400, "stopped", "after 4 of 7 steps", 2.5, 400, 3.0)
FAILED = RunRecord("c", "L", "20x", 400, "failed", "ValueError: in [0, 1]")
RUNNING = RunRecord("d", "L", "40x", 200, "started", total=6, history=STEPS)


def test_a_row_a_run_with_the_front_marked() -> None:
    lines = runs_table(SEARCH, [FINISHED, STOPPED, FAILED, RUNNING], {"a"}).splitlines()
    assert lines[1].split() == ["*", "Q", "+", "P", "20x", "1.25", "398", "20.1x", "12", "steps", "used"]
    assert lines[2].startswith("   [bold]P[/bold]") and lines[2].endswith("stopped: after 4 of 7 steps")
    assert lines[3].endswith("failed: ValueError: in [0, 1]") and lines[4].endswith("not finished")
    assert lines[-1] == "reference: 8,000 bytes, error 0.9; * on the front"


def test_a_row_a_trial() -> None:
    row = trials_table([("folder-1", "[b]Q", "20x", 12_345)]).splitlines()[1]
    assert row.split() == ["[b]Q", "20x", "12,345", "folder-1"]


def test_progress_tells_each_end_once_and_what_is_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    with SearchProgress(4) as progress:
        progress([FAILED])
        now[0] = 90.0
        progress([FAILED, FINISHED, RUNNING])  # one and a half runs in 90 s, and as many are left
        progress([FAILED, FINISHED, RUNNING])
        progress([FAILED, FINISHED, STOPPED])
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "1 of 4 runs were made before"
    assert lines[1] == "  2/4  Q + P at 20x  error 1.25  bytes 398  steps used  (about 2 min left)"
    assert lines[2].startswith("  3/4  [bold]P[/bold] at 20x") and len(lines) == 3


def test_quiet_progress_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with SearchProgress(4, quiet=True) as progress:
        progress([FINISHED])
    assert capsys.readouterr() == ("", "")


def test_names_are_shown_as_they_are(tmp_path) -> None:
    names = ["blk[main].weight", "blk[aux].weight", "a[/x].weight", "red\x1b[31m"]
    result = sm.compress({name: torch.randn(4, 4) for name in names}, sm.Plan({"*": "Prune(keep=0.5)"}))
    shown = [line.split()[0] for line in str(result).splitlines()[1:5]]
    assert sorted(shown) == sorted([*names[:3], "red\\x1b[31m"])
    layer = LayerRecord("a[/x].weight", 0.5, 0.1, 2.0, 10, 0)
    for line in (layer_line(layer), layer_line(replace(layer, name="red\x1b[31m"))):
        assert "\x1b" not in line
    StepProgress(1)(layer)


def test_a_weight_of_negative_zeros_has_not_changed() -> None:
    tensors = {"w": torch.tensor([[-0.0, -0.0]]), "v": torch.randn(4, 4)}
    assert sm.compress(tensors, sm.Plan({"*": "Prune(keep=0.5)"})).relative_errors["w"] == 0


def test_nothing_by_the_papers_accounting() -> None:
    result = sm.compress(torch.nn.Linear(4, 4, bias=False), sm.Plan({"*": "LowRank(0)"}))
    assert result.paper_ratio == float("inf")


def test_the_file_is_said_to_be_the_iterate_that_it_is() -> None:
    history = [StepRecord("lc", i, 1.0, None, 0.1, 2.0 + i, 90, 1.0, 1.0, 1.0, best=i < 2) for i in range(4)]
    line = result_table((), 90, 900, Verdict.STEPS_USED, history[1]).splitlines()[-2]
    assert line == "file_bytes=90  ratio=10.0x  (of 900 bytes)  error=3 (lc 1)"
