"""What every result file holds beside its figures, so that they can be measured again."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from summands.zoo.cache import cache_dir, store

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("summands", "torch", "numpy", "numba", "safetensors", "scikit-learn", "scipy")


def write_result(name: str, figures: Any, **facts: Any) -> Path:
    """Writes `results/NAME.json`: command, versions and hardware class, `facts` (seeds ...) and the figures."""
    record = {
        "command": f"python -m benchmarks.{name} {' '.join(sys.argv[1:])}".strip(),
        "versions": {package: v for package in PACKAGES if (v := _version(package))},
        "python": platform.python_version(),
        "hardware": f"{platform.machine()}, {os.cpu_count()} cores, no GPU",
        **facts,
        "figures": figures,
    }
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record, indent=2) + "\n")
    return path


def read_result(name: str) -> dict[str, Any]:
    """The content of `results/NAME.json`."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def piece(benchmark: str, name: str, make: Callable[[], Any]) -> Any:
    """What `make` returns, made once: a benchmark that is ended goes on after its last finished piece."""
    path = place(benchmark, name)
    if not path.exists():
        store(path, json.dumps(make()).encode())
    return json.loads(path.read_text())


def place(benchmark: str, name: str) -> Path:
    """Where the piece of this name is kept."""
    plain = "".join(c if c.isalnum() or c in "._" else "-" for c in name)
    return cache_dir() / "benchmarks" / benchmark / f"{plain}.json"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
