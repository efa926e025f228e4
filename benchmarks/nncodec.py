"""NNCodec, the standard's codec for networks, in an environment of its own: it wants NumPy < 2 and a compiler.

    python -m benchmarks.nncodec        # sets it up from its packages in the cache folder, in some minutes

Without it, or when NNCODEC_PYTHON names no interpreter that has it, the benchmarks leave its figures out and say so.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np

from summands.zoo.cache import cache_dir

PACKAGES = ("torch==2.13.0", "nncodec==2.1.3")
WORKER = Path(__file__).with_name("nncodec_worker.py")


@dataclass(frozen=True)
class Setting:
    """One run of its encoder; everything else is at its default, such as dependent quantisation, which is on.

    Attributes:
        qp: the quantisation parameter of weights: four units halve the step. Others keep their own default.
        opt_qp: let it choose one for each tensor around this one.
    """

    qp: int
    opt_qp: bool = False


def interpreter() -> str | None:
    """The Python that has NNCodec, or None."""
    chosen = os.environ.get("NNCODEC_PYTHON") or str(_home() / "bin" / "python")
    return chosen if Path(chosen).is_file() else None


@cache
def reason() -> str | None:
    """Why there is no NNCodec here; None when it works."""
    python = interpreter()
    if python is None:
        return "not installed: python -m benchmarks.nncodec"
    done = subprocess.run([python, "-I", str(WORKER), "check"], capture_output=True, text=True)
    return None if done.returncode == 0 else (done.stderr.strip().splitlines() or ["its worker fails"])[-1]


def files(
    tensors: Mapping[str, np.ndarray], settings: Sequence[Setting]
) -> Iterator[tuple[Setting, int, dict[str, np.ndarray]]]:
    """For every setting, as it is ready: the length of its file and the float32 tensors that it decodes to."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "tensors.npz")
        np.savez(source, **tensors)  # type: ignore[arg-type]
        asked = json.dumps([asdict(setting) for setting in settings])
        command = [_needed(), "-I", str(WORKER), "files", str(source), asked]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            assert process.stdout is not None
            try:
                for setting in settings:
                    line = process.stdout.readline()
                    if not line:
                        raise RuntimeError(f"NNCodec ended with code {process.wait()} at {setting}")
                    answer = json.loads(line)
                    with np.load(answer["decoded"]) as decoded:
                        found = dict(decoded)
                    Path(answer["decoded"]).unlink()
                    yield setting, answer["bytes"], found
            finally:
                process.kill()  # if the caller takes no more


def integers(levels: Mapping[str, np.ndarray], repeats: int) -> dict[str, float]:
    """Its coder alone on given integers, dependent quantisation off: bytes and least process seconds, in sum."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "levels.npz")
        np.savez(path, **{str(i): x for i, x in enumerate(levels.values())})  # type: ignore[arg-type]
        command = [_needed(), "-I", str(WORKER), "integers", str(path), str(repeats)]
        rows = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout).values()
    return {key: sum(row[key] for row in rows) for key in ("bytes", "encode", "encode_untuned", "decode")}


def main() -> None:
    home = _home()
    venv.create(home, with_pip=True, clear=True)
    pip = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    try:
        subprocess.run([*pip, *PACKAGES], check=True)
    except subprocess.CalledProcessError as error:
        sys.exit(f"pip could not install {' '.join(PACKAGES)}: code {error.returncode}")
    if why := reason():
        sys.exit(f"installed, but it does not run: {why}")
    print(f"ready: {home}")


def _home() -> Path:
    return cache_dir() / "peers" / "nncodec"


def _needed() -> str:
    python = interpreter()
    if python is None:
        raise RuntimeError(f"NNCodec is {reason()}")
    return python


if __name__ == "__main__":
    main()
