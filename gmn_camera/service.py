"""The service that gets the crops."""

from __future__ import annotations

from typing import NamedTuple

from gmn_client import Client
from gmn_client.client import Retries

TIMEOUT_SECONDS = 30.0


class Service(NamedTuple):
    """Where the service is.

    Attributes:
        url: its address.
        api_key: a key with the scope `sight`, and with `enroll` to store crops.
    """

    url: str
    api_key: str | None

    def connect(self) -> Client:
        """Return a client that makes one attempt: requests are repeated by the sender."""
        retries = Retries(attempts=1)
        return Client(self.url, self.api_key, timeout=TIMEOUT_SECONDS, retries=retries)
