"""The commands on checkpoints and files, as a user meets them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from summands import cli
from tests.cli.given import assert_refused, tensors


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


def test_a_budget_without_a_plan_is_filled(folder: Path, run) -> None:
    weight = torch.randn(100, 100, generator=torch.Generator().manual_seed(0))
    save_file({"weight": weight, "bias": torch.ones(100)}, folder / "one.safetensors")
    code, _, err = run("compress", folder / "one.safetensors", "--budget", "4 kB", "-o", folder / "x.sums")
    assert code == 0 and 'Grid(step="auto", trellis=True)' in err
    assert 3900 < (folder / "x.sums").stat().st_size <= 4000


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
    assert_refused(run("rates", folder / "absent.safetensors", "--picture", tmp_path / "r.docx"), "ending")
    assert_refused(run("rates", folder / "absent.safetensors", "--picture", tmp_path / "none" / "r.svg"), "folder")


def test_every_command_explains_itself(run) -> None:
    commands = [command.name or command.callback.__name__ for command in cli.app.registered_commands]
    assert {"compress", "inspect", "evaluate", "decompress", "verify", "demo"} <= set(commands)
    for name in commands:
        code, out, _ = run(name, "--help")
        assert code == 0 and len(out) > 300, name
