"""The command line as a user meets it: every command, every mistake, and a run that is killed."""

from __future__ import annotations

import json
import math
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from summands import cli, container, load

PLAN = """
weights:
  "*conv*.weight": Quantize(4) + Prune(keep=0.1)
  "fc.weight": LowRank(2)
  "*emb*": Quantize(16)
  "*.bias": Keep("float16")
ignore: ["half", "bn.weight", "none.*"]
"""


@pytest.fixture
def run(monkeypatch, capsys):
    """Calls the program; returns (exit code, standard output, standard error)."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["summands", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
            raise SystemExit(0)
        out = capsys.readouterr()
        return int(stop.value.code or 0), out.out, out.err

    return call


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    return {
        "conv1.weight": random(8, 3, 3, 3),
        "conv1.bias": random(8),
        "bn.weight": random(8),
        "bn.running_mean": random(8),
        "bn.num_batches_tracked": torch.tensor(2**40 + 3),
        "fc.weight": random(10, 20),
        "emb.weight": random(50, 6),
        "half": random(5, 5).bfloat16(),
        "ids": torch.tensor([[-(2**62), 7]]),
        "scale": torch.tensor(0.5),
        "none.weight": torch.zeros(0, 4),
        "flags": torch.tensor([True, False]),
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_file(tensors(), tmp_path / "net.safetensors")
    (tmp_path / "plan.yaml").write_text(PLAN.replace(', "none.*"', ""))
    return tmp_path


@pytest.fixture
def sums(folder: Path, run) -> Path:
    code, _, err = run(
        "compress", folder / "net.safetensors", "--plan", folder / "plan.yaml", "-o", folder / "net.sums"
    )
    assert code == 0, err
    return folder / "net.sums"


def test_every_tensor_comes_back_and_what_was_not_compressed_exactly(folder: Path, sums: Path, run) -> None:
    code, out, _ = run("decompress", sums, "-o", folder / "dense.safetensors")
    assert code == 0 and "12 tensors" in out
    back, came = load_file(folder / "dense.safetensors"), tensors()
    assert back.keys() == came.keys()
    for name, tensor in came.items():
        assert (back[name].shape, back[name].dtype) == (tensor.shape, tensor.dtype), name
    for name in ("bn.weight", "bn.running_mean", "bn.num_batches_tracked", "half", "ids", "scale", "none.weight"):
        assert torch.equal(back[name], came[name]), name
    assert not torch.equal(back["conv1.weight"], came["conv1.weight"])


def test_compress_prints_a_table_and_measured_bytes(folder: Path, run) -> None:
    out_file = folder / "net.sums"
    code, out, _ = run("compress", folder / "net.safetensors", "--plan", folder / "plan.yaml", "-o", out_file)
    assert code == 0
    assert f"file_bytes={out_file.stat().st_size:,}" in out
    code, out, _ = run(
        "compress", folder / "net.safetensors", "--plan", folder / "plan.yaml", "-o", out_file, "--json", "--metadata"
    )
    answer = json.loads(out)
    assert answer["file_bytes"] == out_file.stat().st_size > answer["size_bytes"]
    assert {row["name"]: row["rule"] for row in answer["weights"]}["bn.running_mean"] == "kept"


def test_inspect_reads_the_header_alone(sums: Path, run) -> None:
    code, out, _ = run("inspect", sums, "--json")
    answer = json.loads(out)
    assert code == 0 and answer["file_bytes"] == sums.stat().st_size
    row = next(row for row in answer["weights"] if row["name"] == "conv1.weight")
    assert (row["shape"], row["kind"], row["dense_bytes"]) == ([8, 3, 3, 3], "Codebook + Sparse", 864)
    # Damage beyond the header is not seen here: nothing else was read. `verify` sees it.
    data = bytearray(sums.read_bytes())
    data[-1] ^= 1
    sums.write_bytes(data)
    assert run("inspect", sums)[0] == 0
    assert run("verify", sums)[0] == 2


def test_inspect_shows_bits_beside_their_limits(tmp_path: Path, run) -> None:
    generator = torch.Generator().manual_seed(0)
    weights = {"gauss": torch.randn(100, 200, generator=generator), "small": torch.randn(10, generator=generator)}
    weights["exact"] = torch.randn(300, generator=generator)
    save_file(weights, tmp_path / "net.safetensors")
    (tmp_path / "plan.json").write_text(
        '{"weights": {"gauss": "Grid(bits_per_weight=2)", "small": "Quantize(2)"}, "ignore": ["exact"]}'
    )
    run("compress", tmp_path / "net.safetensors", "--plan", tmp_path / "plan.json", "-o", tmp_path / "net.sums")
    arguments = ("inspect", tmp_path / "net.sums", "--against", tmp_path / "net.safetensors")
    code, out, _ = run(*arguments, "--json")
    (row,) = json.loads(out)["limits"]  # of the tensor that is large enough and not exact
    assert code == 0 and row["name"] == "gauss" and 1.9 < row["bits_per_weight"] < 2.02
    # A Gaussian needs log2(1 / D) / 2 bits; a scalar quantiser about a quarter of a bit more, a Laplace source less.
    gaussian = -0.5 * math.log2(row["relative_error"])
    assert row["rate_distortion"] == pytest.approx(gaussian, abs=0.03)
    assert row["shannon"] == pytest.approx(gaussian, abs=0.03) and row["laplace"] < gaussian
    assert 0.1 < row["bits_per_weight"] - row["rate_distortion"] < 0.3
    code, out, _ = run(*arguments)
    assert "limit R(D)" in out and f"{row['rate_distortion']:.3f}" in out and "exact" not in out


def test_verify_against_a_checkpoint(folder: Path, sums: Path, run) -> None:
    code, out, _ = run("verify", sums, "--against", folder / "net.safetensors", "--json")
    errors = json.loads(out)["relative_errors"]
    assert code == 0 and errors["ids"] == 0 and 0 < errors["conv1.weight"] < 1
    other = {**tensors(), "fc.weight": torch.zeros(10, 21)}
    save_file(other, folder / "other.safetensors")
    code, _, err = run("verify", sums, "--against", folder / "other.safetensors")
    assert code == 2 and "fc.weight" in err


def test_a_dry_run_shows_the_matches_and_writes_nothing(folder: Path, run) -> None:
    code, out, _ = run(
        "compress", folder / "net.safetensors", "--plan", folder / "plan.yaml", "--dry-run", "-o", folder / "x.sums"
    )
    assert code == 0 and "LowRank(2)" in out and not (folder / "x.sums").exists()


def test_without_a_plan_the_default_is_shown(folder: Path, run) -> None:
    code, _, err = run("compress", folder / "net.safetensors", "-o", folder / "x.sums")
    assert code == 0 and "No plan was given" in err and (folder / "x.sums").exists()


def assert_refused(answer: tuple[int, str, str], *words: str) -> None:
    """Exit code 2 and one line on standard error that says what is wrong."""
    code, out, err = answer
    assert code == 2
    assert out == ""
    assert err.startswith("error: ") and err.count("\n") == 1, err
    for word in words:
        assert word in err


def test_the_helper_sees_a_wrong_answer() -> None:
    for answer in ((0, "", "error: x\n"), (2, "", "error: x\ny\n"), (2, "table", "error: x\n"), (2, "", "oops\n")):
        with pytest.raises(AssertionError):
            assert_refused(answer)
    with pytest.raises(AssertionError):
        assert_refused((2, "", "error: keep\n"), "count")


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("Prune(keep=1.5)", ["keep", "[0, 1]", "1.5"]),
        ("Quantize(0)", ["Quantize", "0"]),
        ("Quantise(2)", ["Quantize"]),
        ("Quantize(2", ["Quantize(2"]),
        ("LowRank(2, view='sideways')", ["view", "sideways"]),
    ],
)
def test_a_bad_rule_is_refused(folder: Path, run, rule: str, words: list[str]) -> None:
    (folder / "bad.yaml").write_text(f'weights: {{"*": "{rule}"}}\n')
    target = folder / "bad.sums"
    assert_refused(run("compress", folder / "net.safetensors", "--plan", folder / "bad.yaml", "-o", target), *words)
    assert not target.exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('weights: {"cnv1*": "Quantize(2)"}', ["cnv1*", "conv1"]),
        ('wieghts: {"*": "Quantize(2)"}', ["wieghts", "weights"]),
        ('weights: {"conv1.weight": "Quantize(2)"}', ["fc.weight"]),
        ("weights: [", ["YAML"]),
    ],
)
def test_a_bad_plan_is_refused(folder: Path, run, text: str, words: list[str]) -> None:
    (folder / "bad.yaml").write_text(text)
    assert_refused(run("compress", folder / "net.safetensors", "--plan", folder / "bad.yaml"), *words)


def test_bad_files_are_refused(folder: Path, sums: Path, run) -> None:
    assert_refused(run("compress", folder / "absent.safetensors"), "absent")
    assert_refused(run("compress", folder / "plan.yaml"), "safetensors")
    assert_refused(run("inspect", folder / "absent.sums"), "absent")
    assert_refused(run("verify", folder / "net.safetensors"))
    (folder / "short.sums").write_bytes(sums.read_bytes()[:-3])
    for command in ("verify", "decompress"):
        assert_refused(run(command, folder / "short.sums", *(["-o", folder / "y"] if command == "decompress" else [])))
    assert not (folder / "y").exists()
    assert_refused(run("verify", sums, "--max-bytes", 100), "100")


def test_every_flipped_byte_is_refused(sums: Path, run) -> None:
    """One bit of every byte of the file, through the reader that all commands use."""
    from summands import load
    from summands.errors import FileError

    data = sums.read_bytes()
    broken = sums.with_name("broken.sums")
    for place in range(len(data)):
        flipped = bytearray(data)
        flipped[place] ^= 1 << place % 8
        broken.write_bytes(flipped)
        with pytest.raises(FileError):
            load(broken)
    assert_refused(run("verify", broken))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_refused(folder: Path, run, value: float) -> None:
    bad = tensors()
    bad["fc.weight"][3, 4] = value
    save_file(bad, folder / "bad.safetensors")
    answer = run("compress", folder / "bad.safetensors", "--plan", folder / "plan.yaml", "-o", folder / "bad.sums")
    assert_refused(answer, "fc.weight", "NaN")
    assert not (folder / "bad.sums").exists()


def test_an_output_that_cannot_be_written_is_refused_and_nothing_is_lost(folder: Path, sums: Path, run) -> None:
    arguments = ["compress", folder / "net.safetensors", "--plan", folder / "plan.yaml", "-o"]
    assert_refused(run(*arguments, folder / "no" / "where.sums"), "no folder")
    assert_refused(run(*arguments, folder), "folder")
    assert_refused(run(*arguments, "/proc/net.sums"), "/proc/net.sums")
    before, listing = sums.read_bytes(), sorted(folder.iterdir())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))  # the disk is full after 64 bytes
    try:
        answers = [run(*arguments, sums), run("decompress", sums, "-o", folder / "y.safetensors")]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    for answer in answers:
        assert_refused(answer, "File too large")
    assert sums.read_bytes() == before and sorted(folder.iterdir()) == listing


TASK = """
import torch
from torch import nn
import summands as sm

generator = torch.Generator().manual_seed(0)
inputs_ = torch.randn(512, 10, generator=generator)
labels = (inputs_[:, 0] * inputs_[:, 1] > 0).long()
plan = sm.Plan({"*.weight": "Quantize(2) + Prune(keep=0.1)"}, ignore=["*.bias"])
schedule = sm.Schedule(steps=6, mu0=1e-2, growth=1.5, epochs=EPOCHS, finetune=2)

def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 2))

train = sm.SGD((inputs_, labels), batch_size=64)

def evaluate(model):
    return float(nn.functional.cross_entropy(model(inputs_), labels))
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


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        ("60 parsecs", ["unit", "kB", "parsecs"]),
        ("-3 kB", ["above 0", "-3000"]),
        ("10 B", ["10 bytes", "smallest"]),
        ("1 MFLOPs", ["module", "budget"]),
        ("0.1 drop", ["module", "budget"]),
    ],
)
def test_a_budget_that_cannot_be_is_refused(folder: Path, run, budget: str, words: list[str]) -> None:
    target, plan = folder / "none.sums", folder / "auto.yaml"
    plan.write_text('weights: {"*conv*.weight": [Quantize("auto"), Prune("auto")], "*": "Keep()"}\n')
    source = folder / "net.safetensors"
    assert_refused(run("compress", source, "--plan", plan, "--budget", budget, "-o", target), *words)
    assert not target.exists()


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


CALIBRATED = """
import torch, summands as sm
def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(12, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
calibration = list(torch.randn(64, 12, generator=torch.Generator().manual_seed(1)).split(16))
plan = sm.Plan({"*.weight": "Quantize(4)"}, ignore=["*.bias"])
posttraining = sm.PostTraining(schedule=sm.Schedule(steps=5, mu0=0.01, growth=4.0))
"""


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


def test_a_bad_task_file_is_refused(tmp_path: Path, run) -> None:
    task = tmp_path / "task.py"
    assert_refused(run("compress", task), "task.py")
    task.write_text("x = 1\n")
    assert_refused(run("compress", task), "model()")
    task.write_text("def model(): return 3\n")
    assert_refused(run("compress", task), "Module", "int")
    save_file({"w": torch.ones(3, 3)}, tmp_path / "w.safetensors")
    assert_refused(run("compress", tmp_path / "w.safetensors", "--steps", 3), "--steps", "train")


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


def test_rates_of_a_checkpoint(folder: Path, run, tmp_path: Path) -> None:
    names, path, picture = (
        ("conv1.weight", "bn.weight", "fc.weight", "ids"),
        folder / "w.safetensors",
        tmp_path / "r.svg",
    )
    save_file({name: tensors()[name] for name in names}, path)
    code, out, _ = run("rates", path, "--distortion", 0.8, "--picture", picture, "--json")
    answer = json.loads(out)
    assert code == 0 and [fit["name"] for fit in answer["fits"]] == ["conv1.weight", "fc.weight"]
    assert [row["name"] for row in answer["rates"]] == ["conv1.weight", "fc.weight", "all"]
    assert all(row["laplace"] < row["embedded"] for row in answer["rates"])
    assert picture.read_text().startswith("<?xml")
    code, out, _ = run("rates", path, "--distortion", 0.8)
    assert code == 0 and "fc.weight" in out and "SuRP" in out
    assert_refused(run("rates", folder / "plan.yaml"))


def test_every_command_explains_itself(run) -> None:
    commands = [command.name or command.callback.__name__ for command in cli.app.registered_commands]
    assert {"compress", "inspect", "evaluate", "decompress", "verify", "demo"} <= set(commands)
    for name in commands:
        code, out, _ = run(name, "--help")
        assert code == 0 and len(out) > 300, name
