"""Networks larger than memory: a matrix is there while an operation needs it.

Storages are emptied and filled, the tensors stay the same objects. So whatever knows a weight by its identity (the
observer of products, a tie, autograd) knows it still; and an operation is any that torch dispatches, of fused layers
and backward passes too, where hooks on modules would have to know which module computes with which weight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn, strided
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..errors import CalibrationError, must


@dataclass(frozen=True, eq=False)
class _Matrix:
    name: str
    tensor: Tensor
    read: Callable[[str], Tensor]

    @property
    def size_bytes(self) -> int:
        return self.tensor.numel() * self.tensor.element_size()

    @property
    def is_empty(self) -> bool:
        return self.tensor.untyped_storage().nbytes() == 0

    def fill(self) -> None:
        if self.is_empty:
            self.tensor.untyped_storage().resize_(self.size_bytes)
            self.tensor.copy_(self.read(self.name))

    def empty(self) -> None:
        self.tensor.untyped_storage().resize_(0)


class Offload(TorchDispatchMode):
    """While the context lasts, every operation finds the values of the matrices that it works with.

    Those used last stay until others need the room, which is that of the largest matrix, or of all that one operation
    works with. Outside of the context no matrix of the networks has values. Vectors are read once and stay.

    >>> import torch
    >>> with torch.device("meta"):
    ...     model = nn.Linear(2, 1)
    >>> offload = Offload()
    >>> offload.take(model, {"weight": torch.ones(1, 2), "bias": torch.ones(1)}.__getitem__)
    >>> with offload:
    ...     model(torch.ones(2)).item()
    3.0
    """

    def __init__(self) -> None:
        super().__init__()
        self._matrices: dict[int, _Matrix] = {}
        self._held: dict[int, _Matrix] = {}  # the one used last comes last
        self._room = 0

    def take(self, model: nn.Module, read: Callable[[str], Tensor]) -> None:
        """Moves a module, in place, from the meta device to where its values can be read by their names."""
        made: dict[int, Tensor] = {}
        for name, tensor in model.state_dict(keep_vars=True).items():
            if tensor.is_meta and id(tensor) not in made:
                made[id(tensor)] = self._placed(name, tensor, read)
        for module in model.modules():
            for key, tensor in [*module._parameters.items(), *module._buffers.items()]:
                if tensor is not None and id(tensor) in made:
                    setattr(module, key, made[id(tensor)])

    def _placed(self, name: str, tensor: Tensor, read: Callable[[str], Tensor]) -> Tensor:
        values = tensor.new_empty(tensor.shape, device="cpu")
        if values.ndim < 2:
            values.copy_(read(name))
        else:
            matrix = _Matrix(name, values, read)
            matrix.empty()
            self._matrices[_storage(values)] = matrix
            self._room = max(self._room, matrix.size_bytes)
        if not isinstance(tensor, nn.Parameter):
            return values
        return nn.Parameter(values, requires_grad=tensor.requires_grad)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        met = self._met((args, kwargs))
        if met:
            self._hold(met)
            self._check_kept(func, args, kwargs)
        return func(*args, **kwargs)

    def __exit__(self, *fault: Any) -> None:
        super().__exit__(*fault)
        for matrix in self._held.values():
            matrix.empty()
        self._held = {}

    def _met(self, values: Any) -> dict[int, _Matrix]:
        tensors = (t for t in tree_leaves(values) if isinstance(t, Tensor) and t.layout == strided)
        return {key: self._matrices[key] for t in tensors if (key := _storage(t)) in self._matrices}

    def _hold(self, needed: dict[int, _Matrix]) -> None:
        self._held = {k: m for k, m in self._held.items() if k not in needed} | needed
        excess = _bytes(self._held.values()) - max(self._room, _bytes(needed.values()))
        for key, matrix in list(self._held.items()):
            if excess <= 0:
                break
            matrix.empty()
            del self._held[key]
            excess -= matrix.size_bytes
        for matrix in needed.values():
            matrix.fill()

    def _check_kept(self, func: Any, args: Any, kwargs: dict[str, Any]) -> None:
        """CalibrationError where an operation writes into a matrix: it would be lost."""
        given = {**dict(zip((a.name for a in func._schema.arguments), args, strict=False)), **kwargs}
        into = [given.get(a.name) for a in func._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
        for matrix in self._met(into).values():
            allowed = "kept as it is by the model's forward, where it is read from a checkpoint"
            raise CalibrationError(must(f"{matrix.name!r}", allowed, f"a change by {func}"))


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _bytes(matrices: Iterable[_Matrix]) -> int:
    return sum(matrix.size_bytes for matrix in matrices)
