"""Imports go down only (DESIGN.md, The house): whoever only loads a file needs no optimiser."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import summands

ROOT = Path(summands.__file__).parent

_LOADING = {"errors", "views", "forms", "coding"}
_COMPRESSING = _LOADING | {"compressions", "domain", "plan"}
_RUNNING = _COMPRESSING | {"container", "network", "records", "selection", "report", "result", "runs"}
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "atomic": {"errors"},
    "records": set(),
    "views": {"errors"},
    "forms": {"errors", "views"},
    "coding": {"errors", "views", "forms"},
    "container": _LOADING | {"atomic"},
    "network": {"errors", "forms", "domain"},
    "runs": {"errors", "forms", "network"},
    "fold": {"errors", "network"},
    "sensitivity": {"errors", "forms", "network"},
    "modules": {"errors", "views", "forms"},
    "compressions": _LOADING,
    "domain": {"errors"},
    "plan": _LOADING | {"compressions", "domain"},
    "selection": _COMPRESSING | {"container", "network", "records", "runs"},
    "rates": _COMPRESSING | {"container", "records"},
    "report": {"atomic", "errors", "records"},
    "result": _LOADING | {"container", "network", "records", "report", "modules", "runs"},
    "lc": _RUNNING | {"atomic"},
    "zoo": {"errors", "atomic"},
    "loading": _LOADING | {"container", "network"},
    "recipe": _COMPRESSING | {"selection", "lc", "sensitivity"},
    "arguments": _RUNNING | {"lc"},
    "api": _RUNNING | {"lc", "sensitivity", "recipe", "arguments"},
    "shards": {"errors", "atomic"},
    "offloaded": _RUNNING | {"lc", "shards"},
    "streaming": _RUNNING | {"lc", "api", "recipe", "shards", "offloaded"},
    "cli_files": _RUNNING | {"atomic", "rates", "shards", "cli_options"},
    "taskfile": _RUNNING | {"lc", "sensitivity"},
    "cli_options": {"errors", "taskfile"},
    "journal": {"errors", "records"},
    "runner": _RUNNING | {"lc", "api", "recipe", "taskfile", "journal"},
    "cli_search": _RUNNING | {"atomic", "lc", "taskfile", "journal", "runner", "cli_options"},
    "demo": _RUNNING | {"lc", "api", "loading", "zoo"},
    "__main__": {"cli"},
    "cli": _RUNNING
    | {
        "atomic",
        "lc",
        "api",
        "cli_files",
        "cli_options",
        "cli_search",
        "rates",
        "shards",
        "streaming",
        "loading",
        "taskfile",
        "demo",
        "zoo",
    },
}


def rooms_imported(path: Path, root: Path = ROOT) -> set[str]:
    """The rooms (modules or packages right under the root) that a file imports from."""
    package = path.relative_to(root).parts[:-1]
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            names = [*base, *(node.module or "").split(".")] if node.module else list(base)
            rooms |= {names[0]} if names else {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("summands"):
            rooms.add(node.module.split(".")[1] if "." in node.module else "summands")
    return rooms - {"__version__"}


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_imports_only_from_the_rooms_below(path: Path) -> None:
    room = room_of(path)
    if room == "__init__":
        return
    assert room in ALLOWED, f"a new room {room!r}: give it a place in this table"
    above = rooms_imported(path) - ALLOWED[room] - {room}
    assert not above, f"{path.relative_to(ROOT)} imports from {sorted(above)}"


def test_the_finder_sees_every_way_of_importing(tmp_path: Path) -> None:
    folder = tmp_path / "forms"
    folder.mkdir()
    file = folder / "x.py"
    file.write_text("from ..lc.loop import Loop\nfrom .. import api\nfrom .y import z\nfrom summands.plan import P\n")
    assert rooms_imported(file, tmp_path) == {"lc", "api", "forms", "plan"}


@pytest.mark.parametrize("room", ["lc", "selection"])
def test_the_loop_and_the_selection_name_no_concrete_form_or_compression(room: str) -> None:
    from summands import forms
    from summands.compressions import COMPRESSIONS

    abstract = {"Form", "ElementwiseForm", "Dense"}  # Dense: a leftover is no compression
    concrete = {c.__name__ for c in COMPRESSIONS} | {n for n in forms.__all__ if n[0].isupper()} - abstract
    for path in (ROOT / room).rglob("*.py"):
        names = {node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)}
        assert not names & concrete, path.name
