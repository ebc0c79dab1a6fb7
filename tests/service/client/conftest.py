"""A real service on a port of its own, as the client's user has it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

import gmn
from service.client import Client
from service.client.local import local_service

NUMBERS = count()


@pytest.fixture(scope="session")
def service_url(tmp_path_factory: pytest.TempPathFactory, tiny_artefact: Path) -> Iterator[str]:
    """Where a service with the tiny artefact answers."""
    folder = tmp_path_factory.mktemp("service")
    options = ["--artefact", str(tiny_artefact), "--data-dir", str(folder / "data"), "--port", "0"]
    command = [sys.executable, gmn.__file__, "serve", *options]
    with local_service(command, folder / "service.log") as url:
        yield url


@pytest.fixture
def gallery(service_url: str) -> str:
    """An empty gallery of the test's own."""
    name = f"test-{next(NUMBERS)}"
    with Client(service_url) as client:
        client.create_gallery(name)
    return name


@pytest.fixture
def client(service_url: str, gallery: str) -> Iterator[Client]:
    """A client whose calls mean the test's own gallery."""
    with Client(service_url, gallery=gallery) as talking:
        yield talking
