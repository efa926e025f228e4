"""Post-training of a checkpoint from its shards: the bytes of the run in memory, without the network in memory."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import summands as sm
from summands.errors import ArgumentError, BudgetError, CalibrationError, FileError, MismatchError
from summands.lc import Offload
from summands.offloaded import Offloaded
from summands.shards import Shards

FEW = sm.Schedule(steps=8, mu0=1e-2, growth=2.4)


class Net(nn.Module):
    """Every kind of layer: embedded, convolved, normalised twice, attending, tied; and an idle one."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(40, 12)
        self.places = nn.Parameter(0.1 * torch.randn(7, 12))
        self.conv = nn.Conv1d(12, 16, 3, padding=1, groups=2)
        self.batch = nn.BatchNorm1d(16)
        self.layer = nn.LayerNorm(16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.up = nn.Linear(16, 24)
        self.down = nn.Linear(24, 16)
        self.idle = nn.Linear(4, 4, bias=False)
        self.narrow = nn.Linear(16, 12)
        self.decoder = nn.Linear(12, 40)
        self.decoder.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens) + self.places
        x = self.layer(self.batch(self.conv(x.mT)).mT)
        x = x + self.attention(x, x, x)[0]
        return self.decoder(self.narrow(x + self.down(self.up(x).relu())))


PLAN = sm.Plan(
    {
        "attention.*weight": "Quantize(4, per='task')",
        "conv.weight": "Quantize(4) + Prune(keep=0.1)",
        "*.weight": "Quantize(4)",
        "places": "Grid(bits_per_weight=3)",
        "up.bias": "Keep('float16')",
    },
    ignore=["batch*", "layer*", "conv.bias", "attention*bias", "down.bias", "narrow.bias", "decoder.bias"],
)
BATCHES = [torch.randint(40, (8, 7), generator=torch.Generator().manual_seed(i)) for i in range(3)]


def whole() -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Net().eval()
    with torch.no_grad():
        model.batch.running_mean += 0.1
    return model


def meta(kind: Any = Net) -> Any:
    with torch.device("meta"):
        return kind()


def save(tensors: dict[str, Tensor], folder: Path, shards: int = 3) -> Path:
    folder.mkdir(exist_ok=True)
    for i in range(shards):
        save_file(dict(list(tensors.items())[i::shards]), folder / f"{i}.safetensors")
    return folder


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Without the second name of the tied weight, as checkpoints come."""
    tensors = whole().state_dict()
    del tensors["decoder.weight"]
    return save(tensors, tmp_path / "shards")


@pytest.mark.parametrize(
    "options",
    [
        sm.PostTraining(schedule=FEW, memory_bytes=20_000),
        sm.PostTraining(schedule=FEW, distance="softmax"),
        sm.PostTraining(schedule=FEW, distance=None, memory_bytes=20_000),
        sm.PostTraining(schedule=FEW, drift=False, memory_bytes=20_000),
    ],
    ids=["runs", "softmax", "own", "still"],
)
def test_the_file_is_that_of_the_network_in_memory(shards: Path, options: sm.PostTraining, tmp_path: Path) -> None:
    model = meta()
    arguments: dict[str, Any] = {"calibration": BATCHES, "posttraining": options}
    report = sm.compress_file(shards, tmp_path / "shards.sums", PLAN, model=model, **arguments)
    if options.memory_bytes is None:
        arguments["posttraining"] = sm.PostTraining(**{**vars(options), "memory_bytes": 1 << 30})
    result = sm.compress(whole(), PLAN, **arguments)
    result.save(tmp_path / "memory.sums")
    assert (tmp_path / "shards.sums").read_bytes() == (tmp_path / "memory.sums").read_bytes()
    assert report.rows() == result.rows() and report.layers == result.layers and str(report) == str(result)
    assert report.verdict is sm.Verdict.UNREACHED and "idle.weight: met no" in str(report)
    assert all(t.is_meta for t in model.state_dict().values())
    assert {path.name for path in tmp_path.iterdir()} == {"shards", "shards.sums", "memory.sums"}
    assert sm.load(tmp_path / "shards.sums", into=Net()).decoder.bias is not None


def test_a_prefix_that_is_not_compressed_is_noticed(shards: Path, tmp_path: Path, monkeypatch) -> None:
    """What the test above would say of later layers that see the original ones before them."""
    options = sm.PostTraining(schedule=FEW, memory_bytes=20_000)
    found = []
    for output in ("right.sums", "wrong.sums"):
        sm.compress_file(shards, tmp_path / output, PLAN, model=meta(), calibration=BATCHES, posttraining=options)
        found.append(sm.load(tmp_path / output))
        monkeypatch.setattr(Offloaded, "_current_tensor", Offloaded.tensor)
    right, wrong = found
    for name in ("down.weight", "down.bias", "batch.running_mean"):
        assert not torch.equal(right[name], whole().state_dict()[name])
        assert not torch.equal(right[name], wrong[name])


class Live(TorchDispatchMode):
    """The bytes of matrices that exist when an operation runs: in the networks, or read and not yet given up."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.most = 0
        self._networks: list[nn.Module] = []
        self._read: list[weakref.ref[Tensor]] = []
        take, read = Offload.take, Shards.tensor

        def watched_take(offload: Offload, model: nn.Module, values: Any) -> None:
            take(offload, model, values)
            self._networks.append(model)

        def watched_read(shards: Shards, name: str) -> Tensor:
            tensor = read(shards, name)
            self._read.append(weakref.ref(tensor))
            return tensor

        monkeypatch.setattr(Offload, "take", watched_take)
        monkeypatch.setattr(Shards, "tensor", watched_read)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        in_networks = [p for network in self._networks for p in network.parameters() if p.ndim > 1]
        self._read = [ref for ref in self._read if ref() is not None]
        alive = [t for ref in self._read if (t := ref()) is not None and t.ndim > 1]
        self.most = max(self.most, sum(t.untyped_storage().nbytes() for t in [*in_networks, *alive]))
        return func(*args, **(kwargs or {}))


class Deep(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(*(layer for _ in range(6) for layer in (nn.Linear(32, 32), nn.ReLU())))


@pytest.mark.parametrize("distance", [None, "values"])
def test_no_more_is_materialised_than_one_operation_needs(tmp_path: Path, monkeypatch, distance: Any) -> None:
    """Six matrices in each of two networks, of which one is filled and one compared with it is read; twice, at most."""
    folder = save(Deep().state_dict(), tmp_path / "deep")
    arguments: dict[str, Any] = {
        "model": meta(Deep),
        "calibration": [torch.randn(40, 32)],
        "posttraining": sm.PostTraining(schedule=FEW, distance=distance, memory_bytes=1 << 16),
    }
    plan, one = sm.Plan({"*.weight": "Quantize(4)"}, ignore=["*.bias"]), 4 * 32 * 32
    with Live(monkeypatch) as live:
        sm.compress_file(folder, tmp_path / "deep.sums", plan, **arguments)
    assert one <= live.most <= 2 * one
    monkeypatch.setattr(Offload, "_hold", lambda _, needed: [matrix.fill() for matrix in needed.values()])
    with Live(monkeypatch) as leaking:
        sm.compress_file(folder, tmp_path / "deep.sums", plan, **arguments)
    assert leaking.most >= 12 * one


def test_without_a_plan_the_default_is_that_of_the_parameters(shards: Path, tmp_path: Path) -> None:
    report = sm.compress_file(shards, tmp_path / "net.sums", model=meta(), calibration=BATCHES)
    assert {row.rule for row in report.rows()} == {"kept", 'Keep(dtype="float16")'}


def test_both_names_of_a_tied_weight_may_be_there(shards: Path, tmp_path: Path) -> None:
    tensors = {name: t.clone() for name, t in whole().state_dict().items()}
    both = save(tensors, tmp_path / "both", 1)
    options = sm.PostTraining(schedule=FEW)
    for source, output in ((shards, "a.sums"), (both, "b.sums")):
        sm.compress_file(source, tmp_path / output, PLAN, model=meta(), calibration=BATCHES, posttraining=options)
    assert (tmp_path / "a.sums").read_bytes() == (tmp_path / "b.sums").read_bytes()


class Positioned(nn.Linear):
    """Keeps a buffer that no checkpoint holds."""

    def __init__(self) -> None:
        super().__init__(6, 4)
        self.register_buffer("angles", torch.arange(4.0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.angles


def test_a_buffer_without_a_place_in_the_checkpoint_needs_its_values(tmp_path: Path) -> None:
    folder = save(nn.Linear(6, 4).state_dict(), tmp_path / "shards", 1)
    plan, batches = sm.Plan({"weight": "Quantize(2)"}, ["bias"]), [torch.randn(9, 6)]
    model = meta(Positioned)
    with pytest.raises(ArgumentError, match="the buffer 'angles' must be given its values"):
        sm.compress_file(folder, tmp_path / "net.sums", plan, model=model, calibration=batches)
    model.angles = torch.arange(4.0)
    sm.compress_file(folder, tmp_path / "net.sums", plan, model=model, calibration=batches)


def changed(**new: Tensor) -> dict[str, Tensor]:
    tensors = {**whole().state_dict(), **{name.replace("__", "."): t for name, t in new.items()}}
    del tensors["decoder.weight"]
    return tensors


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (changed(up__extra=torch.ones(2)), r"missing in the checkpoint: none; not in the model: 'up.extra'"),
        (changed(up__weight=torch.ones(2, 3)), r"'up.weight' must be the checkpoint's \(2, 3\) of torch.float32"),
        (changed(up__weight=torch.ones(24, 16).half()), r"float16, got .*; model.to\(torch.float16\)"),
        ({n: t for n, t in changed().items() if n != "embedding.weight"}, "missing in the checkpoint: 'embedding"),
    ],
    ids=["unexpected", "shape", "dtype", "missing"],
)
def test_a_model_that_does_not_fit_its_checkpoint_is_refused(tensors: Any, message: str, tmp_path: Path) -> None:
    folder = save(tensors, tmp_path / "shards")
    with pytest.raises(MismatchError, match=message):
        sm.compress_file(folder, tmp_path / "net.sums", PLAN, model=meta(), calibration=BATCHES)
    assert not (tmp_path / "net.sums").exists()


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (CalibrationError, "at least one batch", {"calibration": []}),
        (CalibrationError, "does not run on calibration batch 0", {"calibration": [torch.ones(2, 7)]}),
        (CalibrationError, "run through again", {"calibration": iter(BATCHES)}),
        (CalibrationError, r"a list of batches, got 'a tensor of .*pass \[tensor\]", {"calibration": BATCHES[0]}),
        (ArgumentError, r"model must be on the meta device, got .* on cpu.*torch.device\(\"meta\"\)", {"model": Net()}),
        (ArgumentError, "model must be a module on the meta device, got 'dict'", {"model": {}}),
        (ArgumentError, "model must be given when `calibration` is", {"model": None}),
        (ArgumentError, "calibration must be given when `model` is", {"calibration": None}),
        (ArgumentError, "calibration must be given", {"calibration": None, "model": None, "posttraining": FEW}),
        (ArgumentError, "tune=...", {"posttraining": sm.PostTraining(tune=2)}),
        (ArgumentError, "by_column=.*shards", {"posttraining": sm.PostTraining(by_column=True)}),
        (
            ArgumentError,
            "memory_bytes must be enough",
            {"posttraining": sm.PostTraining(memory_bytes=1, distance=None)},
        ),
        (
            BudgetError,
            'without "auto".*in memory',
            {"plan": sm.Plan({"*weight": "Grid('auto')"}, ["*bias", "places"])},
        ),
        (FileError, "cannot be written", {"output": Path("nowhere") / "net.sums"}),
        (FileError, "it is a folder", {"output": Path()}),
    ],
)
def test_what_is_refused(error: type, message: str, arguments: Any, shards: Path, tmp_path: Path) -> None:
    given = {"plan": PLAN, "output": Path("net.sums"), "model": meta(), "calibration": BATCHES} | arguments
    output = tmp_path / given.pop("output")
    with pytest.raises(error, match=message):
        sm.compress_file(shards, output, **given)
    assert [path.name for path in tmp_path.iterdir()] == ["shards"]
