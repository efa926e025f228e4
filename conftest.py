"""One thread a process. Two profiles for Hypothesis: 100 cases by default, 1,000 in `make test-thorough`, where slow
tests run as well.
"""

import os

import pytest
from hypothesis import HealthCheck, settings

# As `make test` sets it; before torch is imported. Two processes of two threads each wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
settings.register_profile("default", max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("thorough", max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--thorough", action="store_true", help="also run the tests marked `thorough`")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--thorough"):
        kept = [item for item in items if "thorough" not in item.keywords]
        config.hook.pytest_deselected(items=[item for item in items if "thorough" in item.keywords])
        items[:] = kept
