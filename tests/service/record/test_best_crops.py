"""The best crops of a track: chosen by quality and distance, in any order, in one commit."""

from __future__ import annotations

import contextlib
import sqlite3
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from uuid import uuid4

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.errors import InvalidField
from service.record import best_crops
from service.record.record import Record
from service.record.values import CropFilter, GallerySettings
from tests.service.gallery.new_crops import EMBEDDER, new_crop


def draw(number: int, track: str | None = "17", **labels: object):
    """Draw a crop whose vector and quality follow from its number."""
    drawing = np.random.default_rng(number)
    labels = {"identity": None, "quality": float(drawing.uniform(20, 100))} | labels
    crop = new_crop(number, track=track, **labels)
    return replace(crop, vector=drawing.normal(size=8).astype(np.float32))


def draw_all(numbers):
    return [draw(number) for number in numbers]


def enroll(
    record: Record,
    gallery: int,
    crops,
    keep_best: int | None = 3,
    request=None,
):
    return record.crops.enroll(gallery, EMBEDDER, list(crops), request, keep_best)


def images_of(record: Record, gallery: int) -> set[str]:
    return {crop.sha256 for crop in record.crops.page(gallery, CropFilter()).crops}


def test_a_track_keeps_the_best_and_the_others_are_answered_as_not_kept(record, gallery):
    sharp = draw(0, quality=90.0)
    copy_of_it = replace(draw(1, quality=89.0), vector=sharp.vector * 2)
    turned = draw(2, quality=50.0)
    answer = enroll(record, gallery, [copy_of_it, turned, sharp], keep_best=2)
    assert [(image.kept, image.crop_id is None) for image in answer.landed] == [
        (False, True),
        (True, False),
        (True, False),
    ]
    (slot,) = (crop.row_id for crop in answer.added if crop.crop_id == sharp.record.crop_id)
    # A better picture comes: the worse of two like it gives way, for good.
    better = replace(draw(3, quality=100.0), vector=sharp.vector)
    answer = enroll(record, gallery, [better], keep_best=2)
    assert answer.removal is not None
    assert answer.removal.crop_ids == (sharp.record.crop_id,)
    assert answer.version == answer.removal.version
    assert images_of(record, gallery) == {better.record.sha256, turned.record.sha256}
    assert record.crops.removed_among(gallery, [sharp.record.crop_id]) == [sharp.record.crop_id]
    file = record.crops.vector_file(record.galleries.get(gallery))
    assert file is not None
    assert not file.read([slot]).any()


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.sets(
        st.integers(0, 60),
        min_size=1,
        max_size=20,
    ),
    st.integers(1, 6),
    st.randoms(),
)
def test_the_same_crops_are_kept_in_any_order_and_sent_again_change_nothing(
    record, numbers, most, drawing
):
    kept = set()
    for _ in range(2):
        gallery = record.galleries.create(uuid4().hex, EMBEDDER, GallerySettings()).gallery_id
        shuffled = drawing.sample(sorted(numbers), len(numbers))
        enroll(record, gallery, draw_all(shuffled), most)
        before = record.galleries.get(gallery)
        again = enroll(record, gallery, draw_all(shuffled), most)
        assert record.galleries.get(gallery) == before
        assert sum(image.duplicate for image in again.landed) == min(most, len(numbers))
        assert all(image.kept == image.duplicate for image in again.landed)
        kept.add(frozenset(images_of(record, gallery)))
        record.galleries.delete(gallery)
    assert len(kept) == 1
    assert len(kept.pop()) == min(most, len(numbers))


def test_tracks_of_other_cameras_and_crops_without_a_track_are_left_alone(record, gallery):
    others = [draw(n, camera="west") for n in range(4)]
    others += [draw(n, track=None) for n in range(4, 8)]
    enroll(record, gallery, others, keep_best=None)
    enroll(
        record,
        gallery,
        [draw(n) for n in range(10, 20)],
        keep_best=1,
    )
    enroll(
        record,
        gallery,
        [draw(n, track=None) for n in range(20, 23)],
        keep_best=1,
    )
    assert record.galleries.get(gallery).crops == 4 + 4 + 1 + 3


def test_a_track_that_is_sent_again_is_cut_to_the_crops_that_it_keeps_at_once(record, gallery):
    enroll(record, gallery, draw_all(range(12)), keep_best=None)
    enroll(record, gallery, [draw(n, track="18") for n in range(20, 24)], keep_best=None)
    answer = enroll(record, gallery, draw_all(range(12)), keep_best=3)
    assert answer.removal is not None
    assert (answer.removal.count, answer.version) == (9, answer.removal.version)
    assert [image.duplicate for image in answer.landed] == [image.kept for image in answer.landed]
    stored = {crop.crop_id for crop in record.crops.page(gallery, CropFilter()).crops}
    kept = {image.crop_id for image in answer.landed if image.kept}
    assert len(kept) == 3
    # Track 18 was not sent again.
    assert len(stored - kept) == 4
    other = record.galleries.create("other", EMBEDDER, GallerySettings()).gallery_id
    enroll(record, other, draw_all(range(12)), keep_best=3)
    assert images_of(record, other) < images_of(record, gallery)


@pytest.mark.parametrize("sent", ["18", None])
def test_crops_that_are_sent_again_without_their_track_do_not_cut_it(record, gallery, sent):
    enroll(record, gallery, draw_all(range(6)), keep_best=None)
    again = [draw(n, track=sent) for n in range(3)]
    answer = enroll(record, gallery, [*again, draw(7, track="18")], keep_best=1)
    assert answer.removal is None
    assert all(image.kept for image in answer.landed)
    assert record.galleries.get(gallery).crops == 7


def test_a_crop_with_a_name_gives_way_to_none_without(record, gallery):
    named = [
        draw(
            n,
            identity="Ann",
            quality=21.0,
        )
        for n in range(2)
    ]
    enroll(record, gallery, named)
    answer = enroll(
        record,
        gallery,
        [draw(n, quality=100.0) for n in range(2, 9)],
        keep_best=2,
    )
    assert not any(image.kept for image in answer.landed)
    assert [person.identity for person in record.people.page(gallery, None, 9).results] == ["Ann"]
    # A person whose last crop gives way to a better one of the same name stays.
    better = [draw(9, identity="Ann", quality=99.0)]
    enroll(record, gallery, better, keep_best=1)
    assert images_of(record, gallery) == {better[0].record.sha256}
    assert [person.identity for person in record.people.page(gallery, None, 9).results] == ["Ann"]
    assert record.galleries.get(gallery).identities == 1


def test_enrollments_that_are_committed_together_choose_among_all_of_them(record, gallery):
    enroll(record, gallery, [draw(0)])
    # While another program holds the record, the enrollments wait and become one commit.
    with (
        ThreadPoolExecutor(6) as threads,
        contextlib.closing(sqlite3.connect(record.database.path, isolation_level=None)) as other,
    ):
        other.execute("BEGIN IMMEDIATE")
        sent = [
            threads.submit(
                enroll,
                record,
                gallery,
                draw_all(range(first, first + 4)),
            )
            for first in range(1, 25, 4)
        ]
        wait(sent, 0.5)
        other.execute("ROLLBACK")
        for enrolling in sent:
            enrolling.result()
    # Each of the three has its whole vector.
    assert len(list(record.crops.vectors(gallery))) == 3
    assert record.galleries.get(gallery).crops == 3
    assert record.galleries.get(gallery).rows > 3


def test_a_track_of_too_many_crops_is_refused_with_the_remedy(record, gallery, monkeypatch):
    monkeypatch.setattr(best_crops, "MOST_OF_TRACK", 5)
    enroll(record, gallery, draw_all(range(6)), keep_best=None)
    with pytest.raises(InvalidField, match="keep_best: track '17' has more than 5 crops"):
        enroll(record, gallery, [draw(7)])
    assert record.galleries.get(gallery).crops == 6
