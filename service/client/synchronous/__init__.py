"""The client for programs and scripts that wait."""

from service.client.synchronous.client import Client
from service.client.transport import DEFAULT_GALLERY, DEFAULT_URL

__all__ = ["DEFAULT_GALLERY", "DEFAULT_URL", "Client"]
