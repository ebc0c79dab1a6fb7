"""Whether the service works, as it goes over the wire."""

from __future__ import annotations

from typing import Literal

from service.api.schemas.base import Schema


class AliveOut(Schema):
    """The process works: its device thread shows signs of life."""

    status: Literal["alive"]


class ReadyOut(Schema):
    """The model answered a probe and every gallery is loaded, or known to need a reindex."""

    status: Literal["ready"]
    galleries: dict[str, Literal["ready", "needs_reindex"]]
