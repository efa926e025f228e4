"""`summands search` and `summands plot` as a user meets them, without the runs themselves (tests/test_runner.py)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import summands as sm
from summands import cli

DIRECT = """
import torch
from torch import nn
def model():
    torch.manual_seed(0)
    return nn.Linear(40, 30)
def evaluate(model):
    return 1.0
"""


@pytest.fixture
def task(tmp_path: Path) -> Path:
    path = tmp_path / "task.py"
    path.write_text(DIRECT)
    return path


def test_a_dry_run_prints_the_runs_and_makes_none(task: Path, tmp_path: Path, run) -> None:
    folder = tmp_path / "runs"
    code, out, _ = run("search", task, "-b", "4x", "-b", "700 B", "-c", "q+p", "-c", "Auto", "-o", folder, "--dry-run")
    assert code == 0 and not folder.exists()
    rows = [line.split("  ")[0].strip() for line in out.splitlines()[1:5]]
    assert rows == ["Q + P", "Auto", "Q + P", "Auto"] and "4 runs" in out and "700" in out and "1,230" in out
    code, out, _ = run("search", task, "--dry-run", "--json")
    trials = json.loads(out)
    assert code == 0 and {t["budget"] for t in trials} == {"8x", "16x"}
    assert "Prune" in trials[1]["plan"]["weights"]["weight"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-c", "R"], "a combination must be one of"),
        (["-c", "mine=Prnue(1)"], "did you mean 'Prune'"),
        (["-b", "-4x"], "Budget(ratio=...) must be a number above 0"),
        (["-b", "4 miles"], "the unit of a budget"),
        (["-b", "0.01 drop"], "budget"),
        (["--steps", "3"], "a task file with train(...) for --steps"),
        (["--share", "0"], "Patience(share=...)"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_left_behind(task: Path, tmp_path: Path, run, arguments, says) -> None:
    code, out, err = run("search", task, "-o", tmp_path / "runs", *arguments)
    assert code == 2 and not out and says in err and len(err.strip().splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_a_file_is_drawn(tmp_path: Path, run) -> None:
    plan = sm.Plan({"weight": "Quantize(2) + Prune(keep=0.05)"}, ignore=["bias"])
    sm.compress(nn.Linear(40, 30), plan).save(tmp_path / "net.sums")
    code, out, _ = run("plot", tmp_path / "net.sums", "-o", tmp_path / "net.html")
    text = (tmp_path / "net.html").read_text()
    size = (tmp_path / "net.sums").stat().st_size
    assert code == 0 and "1 run" in out and f"net, {size:,} bytes, {4 * 1230 / size:.1f}x" in text
    assert "60 kept (5 %)" in text and "2 values" in text and "Error against size" not in text
    assert "<th>distortion" not in text  # which the file alone does not know


def test_a_result_in_json_is_drawn_with_its_history(tmp_path: Path, run) -> None:
    inputs, targets = torch.randn(20, 40), torch.arange(20) % 30
    result = sm.compress(
        nn.Linear(40, 30),
        sm.Plan({"weight": "Quantize(2)"}, ignore=["bias"]),
        train=sm.SGD((inputs, targets)),
        evaluate=lambda model: float(model(inputs).square().mean()),
        schedule=sm.Schedule(steps=3),
    )
    path = tmp_path / "net.json"
    path.write_text(json.dumps(cli.summary(result)))
    code, _, _ = run("plot", path, "-o", tmp_path / "net.html")
    text = (tmp_path / "net.html").read_text()
    assert code == 0 and "Along the way" in text and text.count('class="drawing"') == 4
    path.write_text('{"history": []}')
    code, _, err = run("plot", path, "-o", tmp_path / "net.html")
    assert code == 2 and "is not what `summands compress --json` prints" in err


def test_what_cannot_be_drawn_is_said(tmp_path: Path, run) -> None:
    for path in (tmp_path, tmp_path / "none.sums", tmp_path / "none.json"):
        code, _, err = run("plot", path, "-o", tmp_path / "x.html")
        assert code == 2 and str(path) in err and not (tmp_path / "x.html").exists()
    sm.compress(nn.Linear(4, 3), sm.Plan({"*": "Keep()"})).save(tmp_path / "net.sums")
    code, _, err = run("plot", tmp_path / "net.sums", "-o", tmp_path / "no" / "x.html")
    assert code == 2 and "cannot write" in err


def test_the_command_line_needs_no_module_of_one_system_alone() -> None:
    """As on Windows, which has none of these."""
    missing = "import sys; sys.modules.update(dict.fromkeys(['fcntl', 'resource', 'pwd', 'grp', 'termios']))"
    done = subprocess.run([sys.executable, "-c", f"{missing}; import summands.cli"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
