"""A record in a folder of the test, and an empty gallery in it."""

import pytest

from tests.service.gallery.new_crops import new_gallery, open_record


@pytest.fixture
def record(tmp_path):
    with open_record(tmp_path) as opened:
        yield opened


@pytest.fixture
def gallery(record):
    return new_gallery(record)
