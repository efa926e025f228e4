from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import jobs, record

JOBS = ["a 1", "b: x + y 3 %", "c 2"]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Runs the command line of three jobs; returns what it printed and the jobs made."""
    monkeypatch.setattr(jobs.torch, "set_num_threads", lambda count: None)  # that of the tests stays
    monkeypatch.setenv("SUMMANDS_CACHE", str(tmp_path / "cache"))
    for module in (jobs, record):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    made: list[str] = []

    def run(job: str) -> dict[str, object]:
        made.append(job)
        return {"seed": len(job), "letter": job[0]}

    def called(*arguments: str) -> tuple[str, list[str]]:
        made.clear()
        monkeypatch.setattr(sys, "argv", ["x", *arguments])
        jobs.run_jobs("tried", "Doc.", JOBS, run, lambda rows: " ".join(str(row["letter"]) for row in rows))
        return capsys.readouterr().out, list(made)

    return called


def figures(folder: Path) -> list[dict[str, object]]:
    return json.loads((folder / "tried.json").read_text())["figures"]


def test_a_job_is_made_once_and_gathered_in_order(call, tmp_path: Path) -> None:
    assert call("c 2")[1] == ["c 2"] and not (tmp_path / "tried.json").exists()
    assert call()[1] == ["a 1", "b: x + y 3 %"]
    assert [row["job"] for row in figures(tmp_path)] == JOBS
    assert call()[1] == []
    assert call("--list")[0].split("\n")[:2] == ["* a 1", "* b: x + y 3 %"]


def test_what_another_machine_made_of_a_job_stays_until_it_is_made_here(call, tmp_path: Path) -> None:
    rows = [{"job": "a 1", "letter": "A", "seed": 0}, {"job": "gone", "letter": "G", "seed": 0}]
    (tmp_path / "tried.json").write_text(json.dumps({"figures": rows}))
    call("b: x + y 3 %")
    assert "A b" in call("--gather")[0]
    assert [row["letter"] for row in figures(tmp_path)] == ["A", "b"]
    call("a 1")
    assert "a b" in call("--gather")[0]


def test_an_unknown_job_is_refused(call, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        call("d 4")
    assert "no such job: 'd 4'; --list shows all" in capsys.readouterr().err
