"""Writes docs/results.md and the table of the README from the result files: `python -m benchmarks.page`."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

from benchmarks.record import RESULTS, read_result

ROOT = Path(__file__).parent.parent
PAGES = {
    "README.md": {"lenet": "table"},
    "docs/pruning.md": {"pruning": "summary", "ratedistortion": "summary"},
    "docs/sources.md": {"additive": "table", "showcase": "table", "records": "table", "equal_error": "table"},
}
"""Of each page its blocks, `<!-- NAME -->` to `<!-- /NAME -->`: a benchmark, and the function that writes them."""


def results_page() -> str:
    """The page: for every result file the question that its benchmark asks, its table, and how to repeat it."""
    parts = ["# Results\n\nGenerated from `benchmarks/results/*.json` by `python -m benchmarks.page`; do not edit.\n"]
    for path in sorted(RESULTS.glob("*.json")):
        module, record = importlib.import_module(f"benchmarks.{path.stem}"), read_result(path.stem)
        versions = ", ".join(f"{package} {version}" for package, version in record["versions"].items())
        parts.append(
            f"## {path.stem}\n\n{(module.__doc__ or '').strip()}\n\n```\n{module.table(record['figures'])}\n```\n\n"
            f"`{record['command']}` on {record['hardware']}; Python {record['python']}, {versions}.\n"
        )
    return "\n".join(parts)


def filled(page: str) -> str:
    """The page with its blocks as the result files have them; empty where there is none."""
    text = (ROOT / page).read_text()
    for name, function in PAGES[page].items():
        block = ""
        if (RESULTS / f"{name}.json").is_file():
            block = getattr(importlib.import_module(f"benchmarks.{name}"), function)(read_result(name)["figures"])
            block = f"```\n{block.rstrip()}\n```\n" if function == "table" else f"{block}\n"
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if found := pattern.search(text):
            text = f"{text[: found.start()]}{found[1]}{block}{found[2]}{text[found.end() :]}"
    return text


def main() -> None:
    (ROOT / "docs" / "results.md").write_text(results_page())
    for page in PAGES:
        (ROOT / page).write_text(filled(page))


if __name__ == "__main__":
    main()
