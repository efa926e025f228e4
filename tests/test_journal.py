"""The journal of a search survives whatever happens to those who write it."""

from __future__ import annotations

import json
import multiprocessing
from dataclasses import asdict
from pathlib import Path

import pytest

from summands.errors import CorruptFileError, FileError
from summands.journal import Journal, read_runs
from summands.records import SearchRecord, StepRecord, WeightRecord

FACTS = {"combination": "Q + P", "budget": "20x", "limit": 100, "total": 3, "resumed": False}
SEARCH = SearchRecord("net", "0123", 2000, 1.5, {"w": ((1.0, 0.0), (0.5, 0.4))})


def step(index: int, error: float | None, size: int, phase: str = "lc", *, best: bool = True) -> StepRecord:
    return StepRecord(phase, index, 0.1, 0.2, 0.3, error, size, 1.0, 0.5, 0.25, best)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    journal = Journal(tmp_path)
    journal.append("search", **asdict(SEARCH))
    journal.append("started", run="a", **FACTS)
    return journal


def test_what_is_written_is_read(journal: Journal) -> None:
    weight = WeightRecord("w", (2, 3), "Q", (("codebook", 8.0), ("sparse", 4.0)), 0.25, ({"values": 2}, {"kept": 1}))
    journal.append("step", run="a", **step(0, 9.0, 90).row())
    journal.append("finished", run="a", message="STEPS_USED", size_bytes=90, weights=[asdict(weight)])
    search, (run,) = journal.read()
    assert search == SEARCH
    assert (run.status, run.message, run.error, run.size_bytes) == ("finished", "STEPS_USED", 9.0, 90)
    assert run.weights == (weight,) and run.history == (step(0, 9.0, 90),) and run.seconds == 1.75


def test_torn_lines_are_passed_over_wherever_they_stand(journal: Journal) -> None:
    whole = journal.path.read_bytes()
    for cut in range(len(whole.splitlines(keepends=True)[0]), len(whole)):
        journal.path.write_bytes(whole[:cut])
        search, runs = journal.read()
        assert search == SEARCH and len(runs) == (cut == len(whole) - 1)  # all but the newline is a whole line
        journal.append("started", run="b", **FACTS)
        assert [run.id for run in journal.read()[1]] == ["a"] * (cut == len(whole) - 1) + ["b"]


def test_a_step_taken_twice_counts_once_and_the_last_time(journal: Journal) -> None:
    for error in (9.0, 8.0, 7.0):
        journal.append("step", run="a", **step(0, error, 90).row())
    (run,) = journal.read()[1]
    assert [row.error for row in run.history] == [7.0] and run.error == 7.0


def test_the_error_is_that_of_the_iterate_that_the_run_keeps(journal: Journal) -> None:
    rows = [step(0, 5.0, 99), step(1, 1.0, 101, best=False), step(0, 4.0, 97, "finetune"), step(1, 6.0, 1, best=False)]
    for row in rows:
        journal.append("step", run="a", **row.row())
    (run,) = journal.read()[1]
    assert (run.error, run.size_bytes) == (4.0, 97)


def test_a_run_started_anew_forgets_its_steps_and_one_resumed_keeps_them(journal: Journal) -> None:
    journal.append("step", run="a", **step(0, 5.0, 99).row())
    journal.append("failed", run="a", message="ValueError: no")
    assert journal.read()[1][0].status == "failed"
    journal.append("started", run="a", **{**FACTS, "resumed": True})
    assert (journal.read()[1][0].status, len(journal.read()[1][0].history)) == ("started", 1)
    journal.append("started", run="a", **FACTS)
    assert journal.read()[1][0].history == () and journal.read()[1][0].error is None


@pytest.mark.parametrize(
    "line",
    ["[1]", '{"event": "step"}', '{"event": "dance", "run": "a"}', '{"run": "a"}', '{"event": "step", "run": "b"}'],
)
def test_a_whole_line_that_is_no_event_is_an_error_that_names_it(journal: Journal, line: str) -> None:
    with journal.path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(CorruptFileError, match="line 3 of"):
        journal.read()


def test_a_folder_without_records_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"records\.jsonl"):
        read_runs(tmp_path)


def _append_many(folder: Path, name: str) -> None:
    for i in range(50):
        Journal(folder).append("step", run=name, **step(i, 1.0, 90).row())


def test_several_processes_append_at_once(journal: Journal) -> None:
    journal.append("started", run="b", **FACTS)
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_append_many, args=(journal.folder, name)) for name in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [len(run.history) for run in journal.read()[1]] == [50, 50]
    assert all(json.loads(line) for line in journal.path.read_text().splitlines())
