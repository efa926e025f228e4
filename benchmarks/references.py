"""Reference networks that take an hour to train, so that every benchmark on every machine measures the same ones.

`python -m benchmarks.references`, which `make bench-...` runs first, puts those of `references/` into the cache unless
there is one of the same recipe already. Each is what `summands.zoo.train.reference` wrote when it trained it; delete
both copies to train it again. Their `seconds` are those of a shared machine, pauses included.
"""

from __future__ import annotations

from pathlib import Path

from summands.zoo.cache import cache_dir, store

TRAINED = Path(__file__).parent / "references"


def install() -> list[Path]:
    """The files that were put into the cache."""
    targets = {path: cache_dir() / "references" / path.name for path in sorted(TRAINED.glob("*.safetensors"))}
    missing = {source: target for source, target in targets.items() if not target.is_file()}
    for source, target in missing.items():
        store(target, source.read_bytes())
    return list(missing.values())


if __name__ == "__main__":
    for path in install():
        print(f"reference network {path.stem}")
