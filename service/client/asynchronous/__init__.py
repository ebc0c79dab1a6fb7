"""The client for programs that run an event loop; the same calls as `Client`, awaited."""

from service.client.asynchronous.client import AsyncClient

__all__ = ["AsyncClient"]
