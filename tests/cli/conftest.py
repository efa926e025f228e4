"""The program, called as a user calls it, and a checkpoint of all kinds of tensors."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from safetensors.torch import save_file

from summands import cli
from tests.cli.given import PLAN, tensors


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
