"""Requests that happened, in SQLite: for a day, so that a repeated one changes nothing."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from service.gallery.records import Enrolment, LandedCrop, RequestKey
from service.gallery.stored_values import as_text, now
from service.problems import RequestConflict

KEPT_FOR = timedelta(days=1)


def find_request(
    connection: sqlite3.Connection, gallery_id: int, request: RequestKey
) -> Enrolment | None:
    """What a request did that happened already; None where it is new.

    Identities and cameras are not kept here, where forgetting would not find them: the same
    request says them again.

    Raises:
        RequestConflict: for a key that stood for another request.
    """
    row = connection.execute(
        "SELECT digest, requests.version, landed, problems, embedding_fingerprint "
        "FROM requests JOIN galleries USING (gallery_id) WHERE gallery_id = ? AND key = ?",
        (gallery_id, request.key),
    ).fetchone()
    if row is None:
        return None
    digest, version, landed, problems, fingerprint = row
    if digest != request.digest:
        raise RequestConflict(request.key)
    crops = tuple(
        # A program before this one kept no warnings.
        LandedCrop(crop_id, None, None, duplicate, tuple(*warnings))
        for crop_id, duplicate, *warnings in json.loads(landed)
    )
    return Enrolment(version, fingerprint, crops, (), replayed=True, problems=problems)


def keep_request(
    connection: sqlite3.Connection,
    gallery_id: int,
    request: RequestKey,
    version: int,
    landed: Sequence[LandedCrop],
) -> None:
    """Keeps what a request did, and drops what is older than a day."""
    oldest = as_text(datetime.now(UTC) - KEPT_FOR)
    connection.execute("DELETE FROM requests WHERE happened_at < ?", (oldest,))
    crops = [[crop.crop_id, crop.duplicate, crop.warnings] for crop in landed]
    connection.execute(
        "INSERT INTO requests VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            gallery_id,
            request.key,
            request.digest,
            version,
            json.dumps(crops),
            request.problems,
            now(),
        ),
    )
