"""Tensors to symbols: which kernel codes which tensor, and with which of the encoder's choices."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .contexts import code_bytes, code_gaps
from .kinds import Field, Positions
from .layout import Layout
from .range_coder import DECODE, Coder, new_model


class Section:
    """A coder with the contexts that its tensors share."""

    def __init__(self, mode: int, data: bytes = b"") -> None:
        self.coder = Coder(mode, data)
        self.models: dict[str, np.ndarray] = {}

    def model(self, name: str, contexts: int) -> np.ndarray:
        """The contexts of this name, shared by all tensors that ask for it."""
        if name not in self.models:
            self.models[name] = new_model(contexts)
        return self.models[name]

    def code(self, tensor: Tensor, field: Field, layout: Layout) -> None:
        """Codes a tensor, or fills it with what is decoded."""
        if isinstance(field.symbols, Positions):
            array = np.ascontiguousarray(tensor.numpy())
            self.coder.reserve(16 * array.size)
            coder = self.coder
            model = self.model("gaps", 64 * 66)
            if not code_gaps(coder.mode, coder.state, coder.data, model, array, field.symbols.size, 255, 1023):
                raise ValueError("a position lies beyond the weight")
            return
        raw = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
        self.coder.reserve(2 * raw.size)
        itemsize = tensor.dtype.itemsize
        model = self.model(f"bytes {itemsize} {type(field.symbols).__name__}", 256 * itemsize)
        code_bytes(self.coder.mode, self.coder.state, self.coder.data, model, raw, itemsize, 60, 1023)


__all__ = ["DECODE", "Section"]
