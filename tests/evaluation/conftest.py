"""OpenCompass's environment, for the tests that need it."""

from pathlib import Path

import pytest

from ilm_ray.base.errors import UserError
from ilm_ray.evaluation.environment import interpreter


@pytest.fixture(scope="session")
def python() -> Path:
    """Its interpreter; a test that asks for it is skipped where the environment is absent, and says how to make it."""
    try:
        return interpreter(None)
    except UserError as error:
        pytest.skip(str(error))
