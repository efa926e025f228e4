"""Writes docs/results.md and the table of the README from the result files: `python -m benchmarks.page`."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

from benchmarks.record import RESULTS, read_result

ROOT = Path(__file__).parent.parent
_BLOCK = re.compile(r"(<!-- lenet -->\n```\n).*?(```\n<!-- /lenet -->)", re.DOTALL)
_RATES = re.compile(r"(<!-- rates -->\n).*?(<!-- /rates -->)", re.DOTALL)
_PRUNING = re.compile(r"(<!-- pruning -->\n).*?(<!-- /pruning -->)", re.DOTALL)


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


def readme() -> str:
    """The README with its table as the result file has it."""
    from benchmarks.lenet import table

    rows = table(read_result("lenet")["figures"])
    return _BLOCK.sub(lambda block: f"{block[1]}{rows}\n{block[2]}", (ROOT / "README.md").read_text())


def pruning_page() -> str:
    """The page on pruning with its figures on real networks as the result files have them."""
    page = (ROOT / "docs" / "pruning.md").read_text()
    for name, block in (("pruning", _PRUNING), ("ratedistortion", _RATES)):
        if (RESULTS / f"{name}.json").is_file():
            text = importlib.import_module(f"benchmarks.{name}").summary(read_result(name)["figures"]) + "\n"
        else:
            text = ""
        page = block.sub(lambda found, text=text: f"{found[1]}{text}{found[2]}", page)
    return page


def main() -> None:
    (ROOT / "docs" / "pruning.md").write_text(pruning_page())
    (ROOT / "docs" / "results.md").write_text(results_page())
    (ROOT / "README.md").write_text(readme())


if __name__ == "__main__":
    main()
