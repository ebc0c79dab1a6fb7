"""Whether the service works, as it goes over the wire."""

from __future__ import annotations

from typing import Literal

from service.api.schemas.base import Schema
from service.gallery.index_updates import RecordState


class AliveOut(Schema):
    """The process works: every stage of it gets on with what it has to do."""

    status: Literal["alive"]


class RecordOut(Schema):
    """How what is searched stands to the record.

    `state` is `in_step`; `catching_up` where another process has changed what is not shown yet;
    `reading_again` where everything is read anew; `unreachable` where the record does not answer:
    searches are answered from memory, and whatever needs the record is 503. `lag` counts changes
    that are known and not shown, `lag_seconds` tells since when.
    """

    state: Literal["in_step", "catching_up", "reading_again", "unreachable"]
    lag: int
    lag_seconds: float

    @classmethod
    def of(cls, state: RecordState) -> RecordOut:
        """From what the galleries answer."""
        return cls(state=state.state, lag=state.lag, lag_seconds=round(state.lag_seconds, 3))


class ReadyOut(Schema):
    """The model answered a probe and every gallery is loaded, or known to need a reindex."""

    status: Literal["ready"]
    galleries: dict[str, Literal["ready", "needs_reindex"]]
    record: RecordOut
