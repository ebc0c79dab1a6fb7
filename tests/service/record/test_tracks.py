"""Tracks in the record: listed page by page with their cohesion, and spread for a search."""

import tracemalloc
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest

from tests.service.gallery.new_crops import NOON, counted_steps, enroll, new_crop

DIRECTIONS = np.eye(4, dtype=np.float32)


def tracked(number, track, direction=0, **labels):
    crop = new_crop(number, track=track, captured_at=NOON + timedelta(seconds=number), **labels)
    return replace(crop, vector=DIRECTIONS[direction] * (number + 1))


def test_tracks_are_listed_with_their_people_times_and_cohesion(record, gallery):
    crops = (
        tracked(0, "7", identity="Ann"),
        tracked(1, "7", identity=None),
        tracked(2, "7", direction=1, identity="Bob"),
        tracked(3, "8"),
    )
    enroll(record, gallery, *crops)
    first, second = record.tracks.page(gallery, None, 9).results
    assert (first["track"], first["crops"], first["identities"]) == ("7", 3, ["Ann", "Bob"])
    assert (first["first_seen"], first["last_seen"]) == (NOON, NOON + timedelta(seconds=2))
    # The third crop is perpendicular to the mean of the other two.
    assert first["cohesion"] == pytest.approx(0.0, abs=1e-6)
    assert second["cohesion"] is None


@pytest.mark.sqlite_alone
def test_an_id_of_many_cameras_is_listed_page_by_page_and_soon(record, gallery):
    cameras = [f"camera {number:04}" for number in range(3000)]
    crops = [tracked(place, "1", camera=camera) for place, camera in enumerate(cameras)]
    enroll(record, gallery, *crops, tracked(5000, "1", camera=None), tracked(5001, "2"))
    with counted_steps(record) as steps:
        page = record.tracks.page(gallery, None, 100)
    # Each pair of its cameras would take tens of millions.
    assert steps.thousands < 2_000
    found = [*page.results]
    while page.next_cursor is not None:
        assert len(page.results) == 100
        page = record.tracks.page(gallery, page.next_cursor, 100)
        found += page.results
    places = [(track["track"], track["camera"]) for track in found]
    assert places == [("1", camera) for camera in (None, *cameras)] + [("2", "east")]


def test_the_crops_that_ask_for_a_long_track_are_the_best_of_equal_parts_of_it(record, gallery):
    sharp = (number % 10 == 7 for number in range(100))
    enroll(
        record, gallery, *(tracked(n, "17", quality=float(best)) for n, best in enumerate(sharp))
    )
    # Slots begin at 1.
    assert record.tracks.spread(gallery, "17", "east", 10) == [8 + 10 * part for part in range(10)]
    assert len(record.tracks.spread(gallery, "17", "east", 32)) == 32
    assert record.tracks.spread(gallery, "17", "west", 10) == []


@pytest.mark.sqlite_alone
def test_a_list_of_tracks_reads_no_metadata(record, gallery):
    metadata = {"boxes": [{"x": number} for number in range(1_000)]}
    crops = [tracked(number, "7", metadata=metadata) for number in range(64)]
    enroll(record, gallery, *crops)
    tracemalloc.start()
    (track,) = record.tracks.page(gallery, None, 9).results
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert track["crops"] == 64
    assert peak < 2_000_000
