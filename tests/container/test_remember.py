"""Networks that have most of their forms in common are measured as always, and encoded in part."""

from unittest.mock import patch

import pytest
import torch

from summands.compressions import Grid, Quantize
from summands.container import measure, remember, remembered, writer


@pytest.fixture(autouse=True)
def small_sections(monkeypatch):
    monkeypatch.setattr(writer, "SECTION_ENTRIES", 1000)


def networks():
    generator = torch.Generator().manual_seed(0)
    weights = {f"w{i}": torch.randn(size, 30, generator=generator) for i, size in enumerate((90, 10, 20, 30, 5))}
    base = {name: Grid(0.5).project(weight) for name, weight in weights.items()}
    together = Quantize(4, per="task").project_task({name: weights[name] for name in ("w1", "w3")})
    others = [{name: Grid(0.3).project(weight)} for name, weight in weights.items()]
    return [base, *({**base, **other} for other in (*others, together))]


def test_what_is_remembered_is_what_would_be_encoded():
    each = networks()
    plain = [measure(forms) for forms in each]
    with remembered():
        assert [measure(forms) for forms in each] == plain
        assert [measure(forms) for forms in reversed(each)] == plain[::-1]
    assert [measure(forms) for forms in each] == plain


def test_a_section_of_the_same_forms_is_encoded_once():
    first, *others = networks()
    with patch.object(remember, "encode_section", wraps=remember.encode_section) as encode:
        measure(first)
        once = encode.call_count
        measure(first)
        assert encode.call_count == 2 * once > 8
        with remembered():
            measure(first)
            assert encode.call_count == 3 * once
            measure(first)
            assert encode.call_count == 3 * once
            measure(others[3])
            assert encode.call_count <= 3 * once + 2
        measure(first)
        assert encode.call_count >= 4 * once
