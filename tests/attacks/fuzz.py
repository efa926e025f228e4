"""A fuzz entry for atheris (libFuzzer), whose only finds are exceptions that no reader of a hostile file may see.

    pip install atheris
    python -m tests.attacks.fuzz section CORPUS_FOLDER -runs=3000000 -max_len=96
    python -m tests.attacks.fuzz header CORPUS_FOLDER -runs=6800000 -max_len=256
    python -m tests.attacks.fuzz whole CORPUS_FOLDER -runs=400000 -max_len=512

Only the readers are followed: the container, and of the coder what is not compiled.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

FOLLOWED = ("summands.coding", "summands.container")


def kernels() -> list[str]:
    """The modules that Numba compiles, which libFuzzer cannot follow."""
    spec = importlib.util.find_spec("summands")
    source = Path(spec.origin).parents[1]
    paths = (path for path in (source / "summands").rglob("*.py") if "njit" in path.read_text())
    return [".".join(path.relative_to(source).with_suffix("").parts) for path in paths]


def main() -> None:
    import atheris

    with atheris.instrument_imports(list(FOLLOWED), kernels()):
        from tests.attacks import target
    name = sys.argv.pop(1)
    corpus = Path(sys.argv[1])
    corpus.mkdir(parents=True, exist_ok=True)
    for n, seed in enumerate(target.seeds(name)):
        (corpus / f"seed{n}").write_bytes(seed)
    atheris.Setup(sys.argv, target.TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
