"""The assets, for tests of whole pictures; nothing of them is part of this project."""

import os
from pathlib import Path

import pytest

ASSETS = os.environ.get("REID_TEST_ASSETS", "")


@pytest.fixture(scope="session")
def assets():
    """The clones that `$REID_TEST_ASSETS` names."""
    from training.rendered.assets import Assets

    if not ASSETS:
        pytest.skip("REID_TEST_ASSETS names no folder with clones of MakeHuman's assets")
    return Assets(Path(ASSETS))
