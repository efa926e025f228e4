"""The README: its examples run, and its figures are those of the result files."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_the_examples_of_the_readme_run(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    failures, count = doctest.testfile(str(ROOT / "README.md"), module_relative=False)
    assert count >= 6 and not failures


def test_tables_are_those_of_the_result_files() -> None:
    from benchmarks.page import PAGES, filled, results_page

    assert (ROOT / "docs" / "results.md").read_text() == results_page(), "run `python -m benchmarks.page`"
    for page, blocks in PAGES.items():
        text = (ROOT / page).read_text()
        assert text == filled(page), f"{page}: run `python -m benchmarks.page`"
        assert all(f"<!-- {name} -->" in text for name in blocks)


PAGES = sorted(p.relative_to(ROOT) for p in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_link_leads_somewhere(page: Path) -> None:
    path = ROOT / page
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text()):
        assert (path.parent / target).exists(), target


def test_every_compression_and_every_form_of_the_file_is_documented() -> None:
    from summands.coding.kinds import KINDS
    from summands.compressions import COMPRESSIONS

    page = (ROOT / "docs" / "compressions.md").read_text()
    assert not [c.__name__ for c in COMPRESSIONS if f"`{c.__name__}(" not in page]
    table = (ROOT / "docs" / "format.md").read_text()
    assert not [kind.tag for kind in KINDS if f"\n| {kind.tag} |" not in table]
