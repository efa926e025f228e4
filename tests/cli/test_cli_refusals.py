"""Every mistake is answered by one line that says what is wrong, and nothing is lost."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from summands import load
from summands.errors import FileError
from tests.cli.given import assert_refused, tensors


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


def test_no_source_is_written_over(folder: Path, sums: Path, run) -> None:
    """Whatever the output is made from stays, also under another name of the same file."""
    link = folder / "link.safetensors"
    link.symlink_to(folder / "net.safetensors")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    source, plan = folder / "net.safetensors", folder / "plan.yaml"
    for output in (source, plan, link):
        assert_refused(run("compress", source, "--plan", plan, "-o", output), "another name")
    assert_refused(run("decompress", sums, "-o", sums), "another name")
    assert_refused(run("plot", sums, "-o", sums), "another name")
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


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


def test_a_bad_task_file_is_refused(tmp_path: Path, run) -> None:
    task = tmp_path / "task.py"
    assert_refused(run("compress", task), "task.py")
    task.write_text("x = 1\n")
    assert_refused(run("compress", task), "model()")
    task.write_text("def model(): return 3\n")
    assert_refused(run("compress", task), "Module", "int")
    save_file({"w": torch.ones(3, 3)}, tmp_path / "w.safetensors")
    assert_refused(run("compress", tmp_path / "w.safetensors", "--steps", 3), "--steps", "train")
    assert_refused(run("compress", tmp_path / "w.safetensors", "--budget-start", 3), "--budget-start", "train")
