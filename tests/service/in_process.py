"""The application of the service without a server, sockets and limits of connections."""

import pytest
from starlette.testclient import TestClient

from service.app import create_app
from service.settings import read_settings


def application_client(variables):
    """Return a client of an application with these settings; it runs as long as it is entered.

    The application and its background work have an event loop in a thread of their own.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        settings = read_settings()
    return TestClient(
        create_app(settings.of_one_process),
        base_url="http://127.0.0.1:8000",
        client=("127.0.0.1", 50_000),
        follow_redirects=False,
        raise_server_exceptions=False,
    )
