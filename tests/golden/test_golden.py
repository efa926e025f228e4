"""Golden files decode to golden weights forever, and the same forms still give the same bytes.

Format 1 is not frozen until its release (make.RELEASED): until then `python -m tests.golden.make` follows the coder.
"""

import pytest
import torch
from safetensors.torch import load_file

from summands.container import read, read_header
from summands.container.header import VERSION
from summands.errors import SummandsError
from tests.golden import make

FILES = sorted(make.FOLDER.glob("v*.sums"))
REMEDY = (
    "a frozen version: give the format a new VERSION, keep these files, and write new ones"
    if VERSION <= make.RELEASED
    else "not released yet: run `python -m tests.golden.make` if the change is meant"
)


def check_weights(data: bytes, expected: dict[str, torch.Tensor]) -> None:
    """The file decodes to exactly these dense weights."""
    forms = read(data).forms
    assert forms.keys() == expected.keys()
    for name, weight in expected.items():
        found = forms[name].dense()
        assert (found.dtype, found.shape) == (weight.dtype, weight.shape), name
        assert torch.equal(found.reshape(-1).view(torch.uint8), weight.reshape(-1).view(torch.uint8)), name


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_golden_files_decode_to_golden_weights(path):
    check_weights(path.read_bytes(), load_file(path.with_suffix(".safetensors")))


@pytest.mark.parametrize("name", ["small", "kinds", "layers", "trellis"])
def test_the_same_forms_give_the_golden_bytes(name):
    """Changed bytes need a new version, once this one is released."""
    file = f"v{VERSION}-{name}.sums"
    assert make.golden()[file] == (make.FOLDER / file).read_bytes(), f"{file} has other bytes now; {REMEDY}"


def test_every_version_has_golden_files():
    versions = {read_header(path).version for path in FILES}
    assert versions == set(range(1, VERSION + 1))
    assert make.RELEASED <= VERSION


def test_check_weights_fails_on_wrong_answers():
    path = FILES[0]
    expected = load_file(path.with_suffix(".safetensors"))
    name = next(name for name, weight in expected.items() if weight.numel() and weight.is_floating_point())
    nudged = expected[name].clone()
    nudged.view(-1)[0] = torch.nextafter(nudged.view(-1)[0].float(), torch.tensor(9.0)).to(nudged.dtype)
    for change in ({name: nudged}, {"more": nudged}, {name: expected[name].double()}):
        with pytest.raises(AssertionError):
            check_weights(path.read_bytes(), {**expected, **change})


def test_a_released_version_is_not_written_again(monkeypatch):
    monkeypatch.setattr(make, "RELEASED", VERSION)
    with pytest.raises(SystemExit, match="frozen"):
        make.main()


def test_golden_files_are_small():
    assert all(path.stat().st_size < 10_000 for path in make.FOLDER.glob("v*"))
    with pytest.raises(SummandsError):
        read(FILES[0].with_suffix(".safetensors"))
