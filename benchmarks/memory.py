"""Figures that were measured once, kept in the cache, so that a long run can be ended and taken up again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import summands
from summands.zoo.cache import cache_dir


class Memory(dict[str, Any]):
    """A dictionary in a file of JSON lines of the cache, one more with every new entry."""

    def __init__(self, name: str) -> None:
        self._path = cache_dir() / "benchmarks" / f"{name}.jsonl"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.touch()
        super().__init__(pair for line in self._path.read_text().splitlines() for pair in json.loads(line).items())

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        with self._path.open("a") as file:
            file.write(json.dumps({key: value}) + "\n")

    def once(self, key: str, measure: Callable[[], Any]) -> Any:
        """The value at `key`, measured now if it never was."""
        if key not in self:
            self[key] = measure()
        return self[key]


def key_of(*facts: Any) -> str:
    """A key of what a figure depends on."""
    return json.dumps(facts)


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Tells one set of named tensors from every other."""
    sha = hashlib.sha256()
    for name, tensor in tensors.items():
        sha.update(name.encode() + tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()[:24]


@cache
def code_digest(*places: str) -> str:
    """Tells the present code of these files and folders of the package from every other."""
    root = Path(summands.__file__).parent
    files = sorted(
        file for place in places for file in ([root / place] if place[-3:] == ".py" else (root / place).glob("*.py"))
    )
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:24]
