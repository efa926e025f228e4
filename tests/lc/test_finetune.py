"""Fine-tuning moves a value that many entries share about as far as it would have moved the entries."""

import pytest
import torch

from summands.forms import Form
from summands.lc.finetune import Trainable
from tests.container import samples


@pytest.mark.parametrize("form", [
    samples.codebook((6, 5)), samples.codebook((4, 3), axis=1), samples.grid((8, 6)), samples.grid((8, 6), axis=0),
    samples.trellis((8, 6)), samples.trellis((8, 6), axis=0), samples.trellis((8, 6), axis=1, down=True),
    samples.embedded((8, 6)), samples.sparse((9, 9), stored=torch.float32),
], ids=lambda form: f"{type(form).__name__}-{getattr(form, 'axis', '')}")  # fmt: skip
def test_scales_are_the_norms_of_the_derivative(form: Form) -> None:
    scales = Trainable({"w": form}).scales
    for name, tensor in form.continuous_tensors().items():
        function = lambda t, name=name: form.replace_tensors({name: t}).dense()  # noqa: E731
        derivative = torch.autograd.functional.jacobian(function, tensor.float())
        norms = derivative.square().sum(tuple(range(len(form.shape)))).sqrt().clamp_min(1.0)
        torch.testing.assert_close(scales[id(tensor)], norms)
