"""A checkpoint on disk, tensor by tensor: one .safetensors file, or shards with their index, or a folder of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .atomic import whole_file
from .errors import FileError, must

_DTYPES = {
    **{"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16},
    **{"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8},
    **{"U16": torch.uint16, "U32": torch.uint32, "U64": torch.uint64, "BOOL": torch.bool, "C64": torch.complex64},
    **{"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2},
}
_PICKLED = "; a checkpoint of torch.save becomes one by safetensors.torch.save_file(torch.load(path), ...)"
_REMEDIES = {
    **dict.fromkeys((".pt", ".pth", ".bin", ".ckpt"), _PICKLED),
    ".sums": "; `summands decompress` makes one of a compressed file",
}
INDEX = ".safetensors.index.json"


class Shards:
    """The tensors of a checkpoint, none of which is read before `tensor` asks for it.

    Args:
        source: a .safetensors file; an index (model.safetensors.index.json) of shards beside it; or a folder with an
            index, or else with .safetensors files.

    Raises:
        FileError: it is none of these, a shard is missing or damaged or lacks a tensor that the index puts there, or
            two shards without an index have a tensor of one name.
    """

    def __init__(self, source: str | Path) -> None:
        self.source = Path(source)
        self.declared: dict[str, Tensor] = {}
        """Every tensor by name on the meta device: shape and dtype without values."""
        self._shards: dict[str, Path] = {}
        for shard, listed in _shards(self.source).items():
            with _opened(shard) as file:
                held = list(file.keys())
                if lacking := sorted((listed or set()).difference(held)):
                    raise FileError(f"{shard} has no tensor {lacking[0]!r}, which the index expects there")
                for name in held if listed is None else [name for name in held if name in listed]:
                    if name in self._shards:
                        raise FileError(f"{shard} and {self._shards[name]} both have a tensor {name!r}")
                    self.declared[name] = _declared(file, name, shard)
                    self._shards[name] = shard

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that hold the tensors."""
        return tuple(dict.fromkeys(self._shards.values()))

    @property
    def size_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(t.numel() * t.element_size() for t in self.declared.values())

    def tensor(self, name: str) -> Tensor:
        """One tensor. Its shard is opened for it alone, so that no page of another one stays in memory."""
        with _opened(self._shards[name]) as file:
            return file.get_tensor(name)

    def tensors(self) -> dict[str, Tensor]:
        """All of them."""
        return {name: self.tensor(name) for name in self.declared}


def write_safetensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Whole or not at all."""
    try:
        with whole_file(path) as temporary:
            save_file({name: t.contiguous() for name, t in tensors.items()}, temporary)
    except SafetensorError as error:
        raise FileError(f"cannot write {path}: {error}") from error


class _opened:
    """safe_open whose faults are FileErrors."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self):
        if not self.path.is_file():
            raise FileError(f"there is no file {self.path}")
        try:
            self._file = safe_open(self.path, "pt")
            return self._file.__enter__()
        except (SafetensorError, OSError) as error:
            remedy = _REMEDIES.get(self.path.suffix, "")
            raise FileError(f"{self.path} is not a safetensors file: {error}{remedy}") from error

    def __exit__(self, kind, error, trace) -> None:
        self._file.__exit__(kind, error, trace)
        if isinstance(error, (SafetensorError, OSError)):
            raise FileError(f"{self.path} is not a safetensors file: {error}") from error


def _declared(file: safe_open, name: str, shard: Path) -> Tensor:
    declared = file.get_slice(name)
    dtype = _DTYPES.get(declared.get_dtype())
    if dtype is None:
        raise FileError(must(f"the dtype of {name!r} in {shard}", f"one of {', '.join(_DTYPES)}", declared.get_dtype()))
    return torch.empty(declared.get_shape(), dtype=dtype, device="meta")


def _shards(source: Path) -> dict[Path, set[str] | None]:
    """The files that hold the tensors, in order, and which of theirs count; None where all do."""
    if source.is_dir():
        indices, files = sorted(source.glob(f"*{INDEX}")), sorted(source.glob("*.safetensors"))
        if len(indices) > 1 or not (indices or files):
            got = f"{len(indices)} indices and {len(files)} files"
            raise FileError(must(f"the folder {source}", "one with a safetensors index or files", got))
        return _indexed(indices[0]) if indices else dict.fromkeys(files)
    return _indexed(source) if source.name.endswith(INDEX) else {source: None}


def _indexed(index: Path) -> dict[Path, set[str] | None]:
    """The shards that an index names, all in its own folder, and the tensors that it says are there."""
    try:
        found = {name: str(shard) for name, shard in json.loads(index.read_text("utf-8"))["weight_map"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FileError(f"{index} is not the index of a safetensors checkpoint: {error!r}") from error
    names = sorted(set(found.values()))
    if strange := [name for name in names if Path(name).name != name]:
        raise FileError(must(f"a shard in {index}", "a file in its own folder", strange[0]))
    return {index.parent / shard: {name for name, there in found.items() if there == shard} for shard in names}
