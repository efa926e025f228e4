"""Task files: learning, calibration, pruning in levels, and a run that is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from summands import container, load
from tests.cli.given import TASK, assert_refused

CALIBRATED = """
import torch, summands as sm
def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(12, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
calibration = list(torch.randn(64, 12, generator=torch.Generator().manual_seed(1)).split(16))
plan = sm.Plan({"*.weight": "Quantize(4)"}, ignore=["*.bias"])
posttraining = sm.PostTraining(schedule=sm.Schedule(steps=5, mu0=0.01, growth=4.0))
"""


def test_a_task_file_is_compressed_by_learning_and_evaluated(tmp_path: Path, run) -> None:
    task, out_file = tmp_path / "task.py", tmp_path / "t.sums"
    task.write_text(TASK.replace("EPOCHS", "2"))
    code, out, err = run("compress", task, "-o", out_file, "--json", "--steps", 3)
    answer = json.loads(out)
    assert code == 0 and [row["phase"] for row in answer["history"]] == ["direct"] + ["lc"] * 3 + ["finetune"]
    assert err.count("\n") == 5 and "bytes" in err  # a plain line a step, since this is no terminal
    code, out, _ = run("evaluate", out_file, task, "--json")
    assert json.loads(out)["error"] == pytest.approx(answer["error"], abs=1e-6)
    task.write_text(TASK.replace("EPOCHS", "2").replace("16", "17"))
    assert_refused(run("evaluate", out_file, task), "0.weight")


def test_a_budget_that_tightens(tmp_path: Path, run) -> None:
    task, out_file = tmp_path / "task.py", tmp_path / "t.sums"
    task.write_text(TASK.replace("EPOCHS", "1").replace("Quantize(2) + Prune(keep=0.1)", "Grid('auto')"))
    options = ("--budget", "350", "--budget-start", 1.4, "--steps", 4, "--json")
    code, out, _ = run("compress", task, "-o", out_file, *options)
    sizes = [row["size_bytes"] for row in json.loads(out)["history"] if row["phase"] == "lc"]
    assert code == 0 and sizes[0] > 400 and max(sizes[-2:]) <= 350 and out_file.stat().st_size <= 350
    assert_refused(run("compress", task, "-o", out_file, "--budget-start", 2), "budget_start", "budget")


def test_an_importance_of_a_task_file_is_taken(tmp_path: Path, run) -> None:
    task, out_file = tmp_path / "task.py", tmp_path / "t.sums"
    text = TASK.replace("EPOCHS", "1")
    task.write_text(text + "importance = {'0.weight': 4.0}\n")
    code, _, _ = run("compress", task, "-o", out_file, "--steps", 1, "--metadata")
    assert code == 0 and container.read(out_file).metadata["importance"] == {"0.weight": 4.0}
    task.write_text(text + "importance = 'relatively'\n")
    assert_refused(run("compress", task, "-o", out_file, "--steps", 1), "'relative'")
    calibrated = text.replace("train = ", "_ = ") + "calibration, importance = [inputs_], 'relative'\n"
    task.write_text(calibrated)
    assert_refused(run("compress", task, "-o", out_file), "importance", "calibration")


def test_a_task_file_is_made_as_small_as_its_error_allows(tmp_path: Path, run) -> None:
    task, out_file = tmp_path / "task.py", tmp_path / "t.sums"
    text = TASK.replace("EPOCHS", "1").replace("Quantize(2) + Prune(keep=0.1)", "Auto()").replace("train = ", "_ = ")
    task.write_text(text)
    code, out, _ = run("compress", task, "--budget", "0.02 drop", "-o", out_file, "--json")
    answer = json.loads(out)
    assert code == 0 and answer["file_bytes"] == out_file.stat().st_size < 1000
    code, out, _ = run("evaluate", out_file, task, "--json")
    measured = json.loads(out)
    assert measured["error"] <= measured["reference_error"] + 0.02 + 1e-6


def test_a_task_file_is_pruned_in_levels(tmp_path: Path, run) -> None:
    task, folder = tmp_path / "task.py", tmp_path / "pruned"
    task.write_text(TASK.replace("EPOCHS", "2"))
    assert_refused(run("prune", task), "plan_at(sparsity)")
    rule = 'sm.Plan({"*.weight": sm.PruneBy("lamp", keep=1 - sparsity)}, ignore=["*.bias"])'
    task.write_text(TASK.replace("EPOCHS", "2") + f"\ndef plan_at(sparsity): return {rule}\n")
    assert_refused(run("prune", task, "-o", task), "cannot make the folder")
    assert_refused(run("prune", task, "-o", folder, "--levels", "0.5; 0.8"), "--levels")
    code, out, err = run("prune", task, "-o", folder, "--levels", "0.5, 0.875", "--steps", 2, "--json")
    rows = json.loads(out)
    assert code == 0 and [row["level"] for row in rows] == [0.5, 0.875] and err.count("\n") == 6
    assert sorted(path.name for path in folder.iterdir()) == ["50.sums", "87.5.sums"]
    for row in rows:
        tensors = load(folder / f"{100 * row['level']:g}.sums")
        kept = sum(int(tensors[name].count_nonzero()) for name in ("0.weight", "3.weight"))
        assert kept == round((1 - row["level"]) * 192)
        code, out, _ = run("evaluate", row["output"], task, "--json")
        assert json.loads(out)["error"] == pytest.approx(row["error"], abs=1e-6)
    code, out, _ = run("prune", task, "-o", folder, "--levels", "0.5", "-q")
    assert code == 0 and "50.sums  error=" in out and "ratio=" in out


def test_a_task_file_with_calibration_and_no_training_is_post_trained(tmp_path: Path, run) -> None:
    task = tmp_path / "calibrated.py"
    task.write_text(CALIBRATED)
    code, out, err = run("compress", task, "-o", tmp_path / "m.sums")
    assert code == 0 and (tmp_path / "m.sums").is_file()
    assert "Compressed for the inputs that calibration showed" in out
    lines = [line for line in err.splitlines() if "output error" in line]
    assert [line.split()[0] for line in lines] == ["0.weight", "2.weight"]
    task.write_text(CALIBRATED.replace("torch.randn(64, 12", "torch.randn(64, 13"))
    assert_refused(run("compress", task, "-o", tmp_path / "n.sums"), "does not run on calibration batch 0")


def test_a_checkpoint_with_a_task_file_is_post_trained_from_its_shards(tmp_path: Path, run) -> None:
    whole, empty, shards = tmp_path / "whole.py", tmp_path / "empty.py", tmp_path / "w.safetensors"
    source = CALIBRATED.replace("steps=5, mu0=0.01, growth=4.0)", "steps=5, mu0=0.01, growth=4.0), memory_bytes=1")
    whole.write_text(source)
    empty.write_text(f'{source}\nbuild = model\ndef model():\n    with torch.device("meta"):\n        return build()\n')
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = torch.nn.Sequential(torch.nn.Linear(12, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
    save_file(network.state_dict(), shards)
    code, out, err = run("compress", shards, "--task", empty, "-o", tmp_path / "a.sums")
    assert code == 0 and "Compressed for the inputs that calibration showed" in out
    assert [line.split()[0] for line in err.splitlines() if "output error" in line] == ["0.weight", "2.weight"]
    assert run("compress", whole, "-o", tmp_path / "b.sums", "-q")[0] == 0
    assert (tmp_path / "a.sums").read_bytes() == (tmp_path / "b.sums").read_bytes()
    assert run("compress", shards, "--task", empty, "--dry-run")[0] == 0
    assert_refused(run("compress", shards, "--task", empty, "--budget", "8x"), "without a budget", "--budget 8x")
    assert_refused(run("compress", whole, "--task", empty), "must be a checkpoint", "whole.py")
    assert_refused(run("compress", shards, "--task", whole), "on the meta device")


def test_a_killed_run_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    """kill -9 three times at different moments; the file is that of a run left alone."""
    task = tmp_path / "task.py"
    task.write_text(TASK.replace("EPOCHS", "8"))
    command = [sys.executable, "-m", "summands", "compress", str(task), "--seed", "5"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, "-o", str(tmp_path / "whole.sums"), "-q"], check=True, env=environment)
    killed = [*command, "-o", str(tmp_path / "killed.sums"), "--resume"]
    checkpoint = tmp_path / "killed.sums.checkpoint"
    kills = 0
    for _ in range(3):
        seen = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        with subprocess.Popen(killed, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
            while process.poll() is None and (not checkpoint.exists() or checkpoint.stat().st_mtime_ns == seen):
                time.sleep(0.005)
            kills += process.poll() is None
            process.send_signal(signal.SIGKILL)
    assert kills >= 2
    subprocess.run([*killed, "-q"], check=True, env=environment)
    assert (tmp_path / "killed.sums").read_bytes() == (tmp_path / "whole.sums").read_bytes()


def test_the_steps_of_an_interrupted_run_are_not_overwritten(tmp_path: Path, run) -> None:
    task, checkpoint = tmp_path / "task.py", tmp_path / "t.sums.checkpoint"
    task.write_text(TASK.replace("EPOCHS", "1"))
    checkpoint.write_bytes(b"an hour of training")
    assert_refused(run("compress", task, "-o", tmp_path / "t.sums"), "t.sums.checkpoint", "--resume")
    assert checkpoint.read_bytes() == b"an hour of training"


def test_codes_move_on_request(tmp_path: Path, run) -> None:
    task = tmp_path / "task.py"
    task.write_text(TASK.replace("EPOCHS", "1"))
    codes = []
    for option in ((), ("--straight-through",)):
        out_file = tmp_path / f"{len(codes)}.sums"
        assert run("compress", task, "-o", out_file, "-q", "--steps", 1, "--finetune", 40, *option)[0] == 0
        codes.append(container.read(out_file.read_bytes()).forms)
    assert not all(form.same(codes[1][name]) for name, form in codes[0].items())


def test_an_interrupted_run_says_how_to_go_on(tmp_path: Path, run) -> None:
    task = tmp_path / "task.py"
    stops = "\n_sgd = train\ndef train(model, penalty, step):\n    if step.index == 2: raise KeyboardInterrupt\n"
    task.write_text(TASK.replace("EPOCHS", "1") + stops + "    return _sgd(model, penalty, step)\n")
    code, _, err = run("compress", task, "-o", tmp_path / "t.sums", "-q")
    assert code != 0 and "--resume goes on" in err
    assert (tmp_path / "t.sums.checkpoint").exists() and not (tmp_path / "t.sums").exists()
