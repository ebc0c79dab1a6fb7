"""An artefact for tests in which the network does not matter."""

import pytest

from tests.conftest import save_tiny_artefact
from tests.training.runs import FAST_BACKBONE


@pytest.fixture(scope="session")
def fast_artefact(tmp_path_factory, drawn_crops):
    """Write `tiny_artefact` with four convolutions, whose graph is made in a tenth of the time."""
    path = tmp_path_factory.mktemp("fast") / "fast.safetensors"
    save_tiny_artefact(path, drawn_crops, FAST_BACKBONE.partition("=")[2])
    return path
