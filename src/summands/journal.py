"""The journal of a search: JSON lines, only ever appended to, so that a process killed at any moment loses one line.

{"event": "search", ...}                       what the runs share (SearchRecord)
{"event": "started" | "step" | "finished" | "stopped" | "failed", "run": id, ...}
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from .errors import CorruptFileError, FileError, must
from .records import RunRecord, SearchRecord, StepRecord, WeightRecord


@dataclass(frozen=True)
class Journal:
    """The file `records.jsonl` of a folder. Several processes may append to it at once."""

    folder: Path

    @property
    def path(self) -> Path:
        return self.folder / "records.jsonl"

    def append(self, event: str, **values: Any) -> None:
        """One line, on the disk when this returns. A torn line before it, of a process that was killed, is ended."""
        line = json.dumps({"event": event, **values}).encode()
        with FileLock(self.folder / "records.lock"), self.path.open("a+b") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(end - 1, 0))
            torn = end > 0 and file.read(1) != b"\n"
            file.write(b"\n" * torn + line + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def read(self) -> tuple[SearchRecord | None, list[RunRecord]]:
        """What the runs share, and the runs in the order in which they started.

        Torn lines are passed over. A step written twice, as a run that was killed repeats its last, counts once.

        Raises:
            CorruptFileError: a line is whole and yet no event of a search.
        """
        search: SearchRecord | None = None
        runs: dict[str, RunRecord] = {}
        for number, event in self._events():
            try:
                if event["event"] == "search":
                    search = SearchRecord.from_row(event)
                else:
                    runs[event["run"]] = _after(runs.get(event["run"]), event)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise CorruptFileError(f"line {number} of {self.path} is no event of a search: {error!r}") from error
        return search, list(runs.values())

    def _events(self) -> Iterator[tuple[int, dict[str, Any]]]:
        if not self.path.exists():
            return
        for number, line in enumerate(self.path.read_bytes().split(b"\n"), 1):
            try:
                event = json.loads(line)
            except ValueError:
                continue  # empty, or torn
            if not isinstance(event, dict):
                raise CorruptFileError(f"line {number} of {self.path} is no event of a search")
            yield number, event


def read_runs(folder: Path) -> tuple[SearchRecord, list[RunRecord]]:
    """The records of a folder that `summands search` wrote; FileError if there are none."""
    search, runs = Journal(folder).read()
    if search is None:
        raise FileError(must(f"{folder}", "a folder of `summands search`, with a records.jsonl", "none"))
    return search, runs


def _after(run: RunRecord | None, event: dict[str, Any]) -> RunRecord:
    """The run after one more event."""
    kind = event["event"]
    if kind == "started":
        kept = run.history if run is not None and event["resumed"] else ()
        facts = {name: event[name] for name in ("combination", "budget", "limit", "total")}
        return _measured(RunRecord(id=event["run"], status="started", history=kept, **facts))
    if run is None:
        raise ValueError(f"{kind!r} of a run that has not started")
    if kind == "step":
        step = StepRecord(**{name: event[name] for name in StepRecord.__dataclass_fields__ if name in event})
        others = [row for row in run.history if (row.phase, row.index) != (step.phase, step.index)]
        return _measured(replace(run, history=(*others, step)))
    if kind not in ("finished", "stopped", "failed"):
        raise ValueError(f"unknown event {kind!r}")
    run = replace(run, status=kind, message=event["message"])
    if kind != "finished":
        return run
    weights = tuple(WeightRecord.from_row(row) for row in event["weights"])
    return replace(run, size_bytes=event["size_bytes"], weights=weights)


def _measured(run: RunRecord) -> RunRecord:
    """Error, bytes and seconds by the steps so far: the best iterate is the last that was kept as the best."""
    best = next((row for row in reversed(run.history) if row.best), None)
    seconds = sum(row.learn_seconds + row.compress_seconds + row.measure_seconds for row in run.history)
    if best is None:
        return replace(run, seconds=seconds)
    return replace(run, seconds=seconds, error=best.error, size_bytes=best.size_bytes)
