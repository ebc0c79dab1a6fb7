"""No row of the record keeps the place, the time or the track of a crop that is deleted."""

from dataclasses import replace
from datetime import timedelta

import pytest

from service.record.schema import TABLES, as_micros
from service.record.transaction import Reader
from service.record.values import ListFilter
from tests.service.gallery.new_crops import NOON, desk_of, enroll, forget, new_crop
from tests.service.record.new_searches import WEEK, new_search

PLACE = "Marktplatz"
TRACK = "Spur eins"
MOMENT = NOON + timedelta(hours=3)
TRACES = (PLACE, TRACK, f"{MOMENT:%Y-%m-%dT%H:%M}", str(as_micros(MOMENT)))


def visit_of(crop_id, camera, track, moment):
    return {
        "camera": camera,
        "first_seen": moment.isoformat(),
        "last_seen": moment.isoformat(),
        "tracks": [track],
        "crop_ids": [crop_id],
    }


def keep(record, gallery, query_id, shown, uncertain):
    """Keep a search for visits that is about one crop, and has another as an uncertain visit."""
    visits = {
        "results": [visit_of(shown, "east", "1", NOON)],
        "uncertain": [visit_of(uncertain, PLACE, TRACK, MOMENT)],
    }
    search = replace(new_search(shown, query_id=query_id), visits=visits)
    kept, _ = desk_of(record).kept.keep(gallery, [search], most=10)
    assert kept == {query_id}


def traces_in(record):
    """Return the tables whose rows have a trace of the crop, with the trace."""
    found = []
    for table in TABLES:
        for row in Reader(record.database).tuples(f"SELECT * FROM {table}"):
            told = " ".join(
                value.decode("latin-1") if isinstance(value, bytes) else str(value) for value in row
            )
            found += [(table, trace) for trace in TRACES if trace in told]
    return found


WAYS = {
    "forgotten": lambda record, gallery, _: forget(record, gallery, "b"),
    "deleted": lambda record, gallery, crop_id: record.crops.remove(gallery, [crop_id]),
    "deleted with others": lambda record, gallery, _: record.crops.remove_matching(
        gallery, ListFilter(cameras=frozenset([PLACE]))
    ),
}


@pytest.mark.promise("2")
@pytest.mark.parametrize("way", WAYS)
def test_a_deleted_crop_leaves_no_place_time_or_track(record, gallery, way):
    here, gone = enroll(
        record,
        gallery,
        new_crop(1),
        new_crop(2, "b", PLACE, track=TRACK, captured_at=MOMENT),
    )
    keep(record, gallery, "q1", here, gone)
    assert {table for table, _ in traces_in(record)} >= {"crops", "tracks", "search_visits"}
    WAYS[way](record, gallery, gone)
    assert traces_in(record) == []
    left = desk_of(record).kept.open(gallery, WEEK, "q1")["visits"]
    assert [visit["crop_ids"] for visit in left["results"]] == [[here]]
    assert (left["uncertain"], left["removed"]) == ([], 1)
    # A search that was under way meanwhile does not bring it back.
    keep(record, gallery, "q2", here, gone)
    assert traces_in(record) == []
