"""Arguments that would have no effect, or make no sense together, are refused by name."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import summands as sm
from summands.errors import ArgumentError

MODEL = nn.Linear(4, 2)
PLAN = sm.Plan({"*": "Quantize(2)"})
X, Y = torch.ones(6, 4), torch.zeros(6, dtype=torch.int64)
RESUMED = {"resume": True, "state": dict, "load_state": print}


@pytest.mark.parametrize("name", ["schedule", "posttraining", "inputs", "checkpoint", "resume", "state", "load_state"])
def test_what_tensors_have_no_use_for_is_refused(name, tmp_path):
    given = {"schedule": sm.Schedule(), "posttraining": sm.PostTraining(), "inputs": [X], "checkpoint": tmp_path / "c"}
    given |= RESUMED
    with pytest.raises(ArgumentError, match=f"`{name}`"):
        sm.compress({"w": torch.randn(4, 4)}, PLAN, **{name: given[name]})


def test_post_training_has_no_use_for_inputs():
    with pytest.raises(ArgumentError, match="inputs must be left out"):
        sm.compress(MODEL, PLAN, calibration=[X], inputs=[X])


@pytest.mark.parametrize("name", RESUMED)
def test_what_needs_a_checkpoint_is_refused_without(name):
    with pytest.raises(ArgumentError, match="checkpoint must be given"):
        sm.compress(MODEL, PLAN, train=sm.SGD((X, Y)), **{name: RESUMED[name]})


def test_inputs_that_are_no_batches_are_refused():
    for wrong_inputs in (5, None):
        with pytest.raises(ArgumentError, match="inputs must be"):
            sm.compress(MODEL, PLAN, train=sm.SGD((X, Y)), inputs=wrong_inputs)
