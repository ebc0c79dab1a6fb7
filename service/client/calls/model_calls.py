"""Calls on the service itself: what it serves, and whether it does."""

from __future__ import annotations

from service.client.answers import ModelDescription
from service.client.calls.call import Call, path_to


def describe() -> Call[ModelDescription]:
    """The served artefact's description."""
    return Call("GET", path_to("model"), ModelDescription)


def ready() -> Call[bytes]:
    """Whether the service takes requests."""
    return Call("GET", "/readyz", bytes)
