"""Servers that the tests of a file share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from service.milvus import indexer
from tests.service.milvus.servers import Lite, Real, milvus_server
from tests.service.redis_server import RedisServer

if TYPE_CHECKING:
    from tests.service.milvus.lab import Lab

KINDS = ["lite", pytest.param("real", marks=pytest.mark.slow)]


@pytest.fixture(scope="module", params=KINDS)
def milvus(request: pytest.FixtureRequest) -> Iterator[Lite | Real]:
    """milvus-lite in fast tests, the real Milvus in slow ones."""
    with milvus_server(request.param) as server:
        yield server


@pytest.fixture(autouse=True)
def _short_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexer, "LEASE_SECONDS", 1.0)
    monkeypatch.setattr(indexer, "RENEW_SECONDS", 0.2)
    monkeypatch.setattr(indexer, "DROP_AFTER_SECONDS", 1.0)


@pytest.fixture
def one(redis_record: RedisServer, milvus: Lite | Real) -> Iterator[Lab]:
    """An emptied record, and its indexer."""
    from tests.service.milvus.lab import lab

    redis_record.ask("FLUSHALL")
    with lab(redis_record.url, milvus.url) as own:
        yield own
