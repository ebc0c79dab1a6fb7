"""Drawn people as a data set of the commands."""

import pytest

from tests.training.runs import write_manifest


@pytest.fixture(scope="session")
def people(drawn_crops, tmp_path_factory):
    """Return the spec of a manifest of the drawn crops."""
    return write_manifest(tmp_path_factory.mktemp("people") / "people.csv", drawn_crops)
