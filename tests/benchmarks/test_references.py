from dataclasses import replace

import pytest

from benchmarks import references
from summands.zoo import train


@pytest.mark.parametrize("path", sorted(references.TRAINED.glob("*.safetensors")), ids=lambda path: path.stem)
def test_a_committed_reference_is_what_its_recipe_asks_for(path, tmp_path, monkeypatch):
    monkeypatch.setenv("SUMMANDS_CACHE", str(tmp_path))
    assert tmp_path / "references" / path.name in references.install()
    assert not references.install()  # what is in the cache stays
    name = next(name for name, recipe in train.RECIPES.items() if recipe.key() == path.stem)
    monkeypatch.setattr(train, "load", lambda name: pytest.fail("a reference in the cache is not trained"))
    found = train.reference(name)
    assert found.recipe == replace(train.RECIPES[name], seed=0)
    assert 0 < found.test_error < 10 and not found.model.training
