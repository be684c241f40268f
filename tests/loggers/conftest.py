from pathlib import Path

import pytest

from tests.helpers import record


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ingredients of which a greedy soup keeps some, leaves one out, and rejects others early."""
    directory = tmp_path_factory.mktemp("soups")
    record(directory, [0.02, 0.1, 0.3, 0.6, 1.2, 0.2])
    return directory
