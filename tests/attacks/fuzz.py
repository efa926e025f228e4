"""A fuzz entry for atheris (libFuzzer), whose only finds are exceptions that no reader of a hostile file may see.

pip install atheris
python -m tests.attacks.fuzz CORPUS_FOLDER -runs=10000000 -max_len=1024
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path


def kernels() -> list[str]:
    """The modules that Numba compiles, which libFuzzer cannot follow."""
    spec = importlib.util.find_spec("summands")
    source = Path(spec.origin).parents[1]
    paths = (path for path in (source / "summands").rglob("*.py") if "njit" in path.read_text())
    return [".".join(path.relative_to(source).with_suffix("").parts) for path in paths]


def main() -> None:
    import atheris

    with atheris.instrument_imports(["summands"], kernels()):
        from tests.attacks import target
    corpus = Path(sys.argv[1])
    corpus.mkdir(parents=True, exist_ok=True)
    for n, seed in enumerate(target.seeds()):
        (corpus / f"seed{n}").write_bytes(seed)
    atheris.Setup(sys.argv, target.one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
