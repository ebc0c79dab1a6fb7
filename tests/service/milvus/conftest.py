"""Servers that the tests of a file share."""

import pytest

from service.milvus import indexer
from tests.service.milvus.fake_server import FakeServer
from tests.service.milvus.lab import lab
from tests.service.milvus.servers import milvus_server

KINDS = ["lite", pytest.param("real", marks=pytest.mark.slow)]


@pytest.fixture(scope="module", params=["fake", *KINDS])
def milvus(request):
    """Return a dictionary or milvus-lite in fast tests, the real Milvus in slow ones."""
    if request.param == "fake":
        yield FakeServer()
        return
    with milvus_server(request.param) as server:
        yield server


@pytest.fixture(autouse=True)
def _short_intervals(monkeypatch):
    monkeypatch.setattr(indexer, "CHECK_SECONDS", 0.2)
    monkeypatch.setattr(indexer, "DROP_AFTER_SECONDS", 1.0)


@pytest.fixture
def one(tmp_path, milvus):
    with lab(tmp_path, milvus) as own:
        yield own
