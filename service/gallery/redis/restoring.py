"""Replacing a gallery: its crops are prepared beside the old ones and switched to by one script."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

from service.failpoints import Failpoint, passed
from service.gallery.records import ArchivedCrop
from service.gallery.redis.chores import do_chores
from service.gallery.redis.database import Database
from service.gallery.redis.values import now_microseconds, sent_crop
from service.problems import RecordUnavailable, ServiceProblem
from service.record.redis_errors import RETRY_AFTER_S

# For how long an unfinished generation is kept between two parts of it.
KEPT_MS = 600_000
CROPS_PER_PART = 200
BYTES_PER_PART = 16 * 1024**2


def replace(
    database: Database, gallery_id: int, embedding_fingerprint: str, crops: Iterable[ArchivedCrop]
) -> int:
    """Puts crops in the place of a gallery's own; see `CropRecords.replace`."""
    begun = database.write("begin_generation", gallery_id, KEPT_MS)
    generation, side = begun["generation"], begun["side"]
    try:
        for part in _parts(crops):
            answer = database.write(
                "fill_generation",
                gallery_id,
                generation,
                side,
                KEPT_MS,
                len(part),
                *(piece for crop in part for piece in crop),
            )
            _still_kept(answer)
        passed(Failpoint.RESTORE__GENERATION_FILLED)
        version = _switch(database, gallery_id, embedding_fingerprint, begun)
    except BaseException:
        # Where Redis itself is gone, the next process to open it tidies up.
        with contextlib.suppress(ServiceProblem):
            database.write("give_up", f"{gallery_id}:{generation}:generation")
            do_chores(database)
        raise
    with contextlib.suppress(ServiceProblem):
        do_chores(database)
    return version


def _switch(
    database: Database, gallery_id: int, embedding_fingerprint: str, begun: dict[str, Any]
) -> int:
    while True:
        answer = database.write(
            "switch_generation",
            gallery_id,
            begun["generation"],
            begun["side"],
            begun["sequence"],
            embedding_fingerprint,
            now_microseconds(),
            CROPS_PER_PART,
        )
        _still_kept(answer)
        if "more" not in answer:
            return int(answer["version"])


def _still_kept(answer: dict[str, Any]) -> None:
    if "refused" in answer:
        raise RecordUnavailable(
            "what was to replace a gallery was given up, as the next part of it did not come in "
            "time; nothing was changed, begin again",
            RETRY_AFTER_S,
        )


def _parts(crops: Iterable[ArchivedCrop]) -> Iterator[list[tuple[bytes, bytes, bytes]]]:
    part: list[tuple[bytes, bytes, bytes]] = []
    held = 0
    for crop in crops:
        part.append(sent_crop(crop.as_new()))
        held += sum(len(piece) for piece in part[-1])
        if len(part) == CROPS_PER_PART or held >= BYTES_PER_PART:
            yield part
            part, held = [], 0
    if part:
        yield part
