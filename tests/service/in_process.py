"""A service in the process of the tests: its application without a server, sockets and limits of
connections."""

import pytest
from starlette.testclient import TestClient

from service.http.app import create_app
from service.settings import read_settings
from tests.failpoints import ENVIRONMENT
from tests.service.conftest import ServiceCalls, service_variables

# The watchdog would end the process of the tests; their time limit ends a test that stands still.
STALL_SECONDS = 3600


class ServiceInProcess(ServiceCalls):
    """The application with its background work, on an event loop in a thread of its own.

    It cannot be killed, has no failpoints, and writes its log to that of the tests.
    """

    def __init__(self, **settings):
        """Open the service.

        Args:
            settings: those of the service, by their names.
        """
        variables = service_variables(**{"stall_seconds": STALL_SECONDS, **settings})
        if ENVIRONMENT in variables:
            pytest.fail("a failpoint acts on a whole process: start one")
        with pytest.MonkeyPatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            opened = read_settings()
        self.http = TestClient(
            create_app(opened.of_one_process),
            base_url="http://127.0.0.1:8000",
            client=("127.0.0.1", 50_000),
            follow_redirects=False,
            raise_server_exceptions=False,
        )
        self.http.__enter__()
        self._is_open = True

    def stop(self):
        """Close the service as a stop of its process does, and return the exit status of that."""
        if self._is_open:
            self._is_open = False
            self.http.__exit__(None, None, None)
        return 0

    kill = stop
