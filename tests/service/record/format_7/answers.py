"""Answers of every part of a record as JSON, as far as programs of two formats give them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from pydantic_core import to_jsonable_python

from service.record.schema import CASE_SEARCHES, REVIEWS, SEARCHES
from service.record.transaction import as_values
from tests.service.record.new_searches import kept_ids

# Fields that only one of the formats has.
OF_ONE_FORMAT = {
    *("changes_from", "generations", "outside", "changes", "lease_ms", "lease_until_ms"),
    *("bytes", "sha256", "dimension", "first_seen", "kept_searches"),
    "image_url",
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
        "names": sorted(person["identity"] for person in _people(record, gallery, "name")),
        "people": _people(record, gallery, "name"),
        "last seen": _people(record, gallery, "last_seen"),
        "groups": record.groups.get(gallery).job_id,
        "merges": record.people.merges(gallery),
        "searches": _searches(record, gallery),
        "cases": _cases(record, gallery),
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
            record.kept.picture(gallery, query_id) for query_id in kept_ids(record, gallery)
        ],
        "scores": [
            (record.calibrations.counted(gallery, subject), scores)
            for subject in ("mnet", "cosine")
            for scores in (record.calibrations.searches(gallery, subject),)
        ],
    }
    return _without(to_jsonable_python(found, bytes_mode="base64"))


def _people(record: Any, gallery: int, sort: str) -> list[Any]:
    people = record.people.page(gallery, None, 99, sort=sort).results
    described = (record.people.get(gallery, person.identity) for person in people)
    return [person.model_dump(exclude={"cases"}) for person in described]


def _searches(record: Any, gallery: int) -> list[dict[str, Any]]:
    searches = []
    with record.database.read() as reader:
        for query_id in kept_ids(record, gallery):
            of_search = ("WHERE query_id = ?", (query_id,))
            search = as_values(reader.row(SEARCHES, *of_search))
            search |= {name: json.loads(search[name]) for name in ("request", "answer", "results")}
            cases = reader.rows(CASE_SEARCHES, *of_search)
            reviews = [as_values(review) for review in reader.rows(REVIEWS, *of_search)]
            kept = ("decision", "key_id", "reviewed_at")
            search["reviews"] = {
                review["crop_id"]: {name: review[name] for name in kept} for review in reviews
            }
            search["cases"] = [case["case_id"] for case in cases]
            del search["gallery_id"], search["intact"]
            searches.append(search)
    return searches


def _cases(record: Any, gallery: int) -> list[dict[str, Any]]:
    cases = []
    for case in record.cases.page(gallery, None, 99).results:
        queries = {query.query_id: (query.added_at, query.note) for query in case.queries}
        cases.append({**case.model_dump(exclude={"count"}), "queries": queries})
    return cases


def _without(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without(part) for key, part in value.items() if key not in OF_ONE_FORMAT}
    if isinstance(value, list):
        return [_without(part) for part in value]
    return value
