"""Answers of every part of a record as JSON, as far as programs of two formats give them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from pydantic_core import to_jsonable_python

# Fields that only one of the formats has.
OF_ONE_FORMAT = {
    *("changes_from", "generations", "outside", "changes", "lease_ms", "lease_until_ms"),
    *("bytes", "sha256"),
}


def answers(record: Any, gallery: int, everything: Any) -> dict[str, Any]:
    """Ask a record with the gallery `lobby`, whose number this is.

    Args:
        everything: a filter that every crop passes.
    """
    crops = record.crops.page(gallery, everything).crops
    ids = [crop.crop_id for crop in crops]
    found = {
        "asked at": datetime.now(UTC),
        "galleries": record.galleries.all(),
        "secret": record.galleries.group_secret(),
        "crops": crops,
        "hashes": [crop.sha256 for crop in crops],
        "vectors": [crop.vector.tolist() for crop in record.crops.vectors(gallery)],
        "pictures": [record.crops.picture(gallery, crop_id) for crop_id in ids],
        "names": record.people.names(gallery),
        "people": record.people.page(gallery, "", 99),
        "last seen": record.people.page(gallery, "", 99, sort="last_seen"),
        "groups": record.groups.get(gallery)[0],
        "merges": record.identities.merges(gallery),
        "searches": record.kept.page(gallery, None, 99),
        "cases": record.cases.page(gallery, None, 99),
        "published": record.calibrations.published(gallery),
        "staged": [crop.crop_id for crop in record.staged.missing(gallery, 0, 99)],
        "keys": record.keys.all(),
        "used": record.keys.last_used(),
        "asked for": record.keys.asked_for,
        "runtime": record.runtimes.get("a" * 64),
        "jobs": record.jobs.page(None, 99),
        "open jobs": record.jobs.open(),
        "problems": record.jobs.problems("ended", -1, 99),
        "strays": record.stray_files.all(datetime(2100, 1, 1, tzinfo=UTC), 99),
        "snapshots": record.snapshots.all(gallery),
        "kept pictures": [
            record.kept.picture(gallery, search.query_id)
            for search in record.kept.page(gallery, None, 99)
        ],
        "scores": [
            (record.calibrations.counted(gallery, subject), scores)
            for subject in ("mnet", "cosine")
            for scores in (record.calibrations.searches(gallery, subject),)
        ],
    }
    return _without(to_jsonable_python(found, bytes_mode="base64"))


def _without(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without(part) for key, part in value.items() if key not in OF_ONE_FORMAT}
    if isinstance(value, list):
        return [_without(part) for part in value]
    return value
