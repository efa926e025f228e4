"""A pretended device: counts what travels between it and the host, on a machine that has only a host."""

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

_HOME = {Tensor.cpu, Tensor.tolist}  # Tensor.numpy is only ever called on what is in host memory
_READ = {Tensor.item, Tensor.__bool__, Tensor.__float__, Tensor.__int__, Tensor.__index__}


class Transfers(TorchFunctionMode):
    """Inside, the given tensors live on the device, and so does all that is computed from them.

    `down` counts the tensors that go to the host and `up` those that go to the device; `reads` the single numbers
    that the host looks at. Computing with tensors of both sides is an error, as it is on a real device.
    """

    def __init__(self, *resident: Tensor) -> None:
        super().__init__()
        self.down = self.up = self.reads = 0
        self._resident = list(resident)  # held, so that no id is used twice

    def __str__(self) -> str:
        return f"{self.down} down, {self.up} up, {self.reads} reads"

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        here = [self._is_resident(tensor) for tensor in tensors]
        if function in _HOME and all(here) and here:
            self.down += 1
            result = function(*args, **kwargs)
            return result.clone() if isinstance(result, Tensor) else result
        if function in _READ:
            self.reads += any(here)
            return function(*args, **kwargs)
        if function is Tensor.to and _names_a_device(args[1:], kwargs) and not here[0]:
            self.up += 1
            return self._settle(function(*args, **kwargs).clone())
        if any(here) and any(not there and tensor.ndim for there, tensor in zip(here, tensors, strict=True)):
            raise RuntimeError(f"{function.__name__} mixes tensors of the device and of the host")
        result = function(*args, **kwargs)
        if any(here) or (isinstance(result, Tensor) and not tensors and "device" in kwargs):
            for leaf in tree_leaves(result):
                if isinstance(leaf, Tensor):
                    self._settle(leaf)
        return result

    def _is_resident(self, tensor: Tensor) -> bool:
        return any(tensor is known for known in self._resident)

    def _settle(self, tensor: Tensor) -> Tensor:
        if not self._is_resident(tensor):
            self._resident.append(tensor)
        return tensor


def _names_a_device(args, kwargs) -> bool:
    return "device" in kwargs or any(isinstance(arg, (torch.device, str)) for arg in args)
