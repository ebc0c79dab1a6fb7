"""The best crops of a track: chosen by quality and distance, in any order, in one commit."""

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
from service.record import tracks
from service.record.crops import deleted_among
from service.record.deletions import DeletedCrops
from service.record.transaction import Reader
from service.record.values import GallerySettings
from tests.service.gallery.new_crops import EMBEDDER, listed, new_crop


def draw(*numbers, track="17", **labels):
    crops = []
    for number in numbers:
        drawing = np.random.default_rng(number)
        known = {"identity": None, "quality": float(drawing.uniform(20, 100)), **labels}
        crop = new_crop(number, track=track, **known)
        crops.append(replace(crop, vector=drawing.normal(size=8).astype(np.float32)))
    return crops


def enroll(record, gallery, crops, keep_best=3):
    return record.crops.enroll(gallery, EMBEDDER, crops, None, keep_best)


def images_of(record, gallery):
    return {crop.sha256 for crop in listed(record, gallery)}


def test_a_track_keeps_the_best_and_the_others_are_answered_as_not_kept(record, gallery):
    (sharp,) = draw(0, quality=90.0)
    (copy_of_it,) = draw(1, quality=89.0)
    (turned,) = draw(2, quality=50.0)
    copy_of_it = replace(copy_of_it, vector=sharp.vector * 2)
    answer = enroll(record, gallery, [copy_of_it, turned, sharp], keep_best=2)
    assert [image.kept for image in answer.landed] == [False, True, True]
    (slot,) = (crop.slot for crop in answer.added if crop.crop_id == sharp.record.crop_id)
    # A better picture comes: the worse of two like it gives way, for good.
    (better,) = draw(3, quality=100.0)
    better = replace(better, vector=sharp.vector)
    answer = enroll(record, gallery, [better], keep_best=2)
    assert answer.removal.crop_ids == (sharp.record.crop_id,)
    assert images_of(record, gallery) == {better.record.sha256, turned.record.sha256}
    deletions = DeletedCrops(record.database.deletions)
    removed = deleted_among(Reader(record.database), deletions, [sharp.record.crop_id])
    assert removed == {sharp.record.crop_id}
    file = record.crops.vector_file(record.galleries.get(gallery))
    assert not file.read([slot]).any()


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sets(st.integers(0, 60), min_size=1, max_size=20), st.integers(1, 6), st.randoms())
def test_the_same_crops_are_kept_in_any_order_and_sent_again_change_nothing(
    record, numbers, most, drawing
):
    kept = set()
    for _ in range(2):
        gallery = record.galleries.create(uuid4().hex, EMBEDDER, GallerySettings()).gallery_id
        shuffled = drawing.sample(sorted(numbers), len(numbers))
        enroll(record, gallery, draw(*shuffled), most)
        before = record.galleries.get(gallery)
        again = enroll(record, gallery, draw(*shuffled), most)
        assert record.galleries.get(gallery) == before
        assert sum(image.duplicate for image in again.landed) == min(most, len(numbers))
        assert all(image.kept == image.duplicate for image in again.landed)
        kept.add(frozenset(images_of(record, gallery)))
        record.galleries.delete(gallery)
    assert len(kept) == 1
    assert len(kept.pop()) == min(most, len(numbers))


def test_tracks_of_other_cameras_and_crops_without_a_track_are_left_alone(record, gallery):
    others = draw(*range(4), camera="west") + draw(*range(4, 8), track=None)
    enroll(record, gallery, others, keep_best=None)
    enroll(record, gallery, draw(*range(10, 20)), keep_best=1)
    enroll(record, gallery, draw(*range(20, 23), track=None), keep_best=1)
    assert record.galleries.get(gallery).crops == 4 + 4 + 1 + 3


@pytest.mark.parametrize("sent", ["18", None])
def test_crops_that_are_sent_again_without_their_track_do_not_cut_it(record, gallery, sent):
    enroll(record, gallery, draw(*range(6)), keep_best=None)
    again = draw(*range(3), track=sent)
    answer = enroll(record, gallery, [*again, *draw(7, track="18")], keep_best=1)
    assert answer.removal is None
    assert all(image.kept for image in answer.landed)
    assert record.galleries.get(gallery).crops == 7


def test_a_crop_with_a_name_gives_way_to_none_without(record, gallery):
    def names():
        return [person["identity"] for person in record.people.page(gallery, None, 9).results]

    enroll(record, gallery, draw(0, 1, identity="Ann", quality=21.0))
    answer = enroll(record, gallery, draw(*range(2, 9), quality=100.0), keep_best=2)
    assert not any(image.kept for image in answer.landed)
    assert names() == ["Ann"]
    # A person whose last crop gives way to a better one of the same name stays.
    better = draw(9, identity="Ann", quality=99.0)
    enroll(record, gallery, better, keep_best=1)
    assert images_of(record, gallery) == {better[0].record.sha256}
    assert names() == ["Ann"]
    assert record.galleries.get(gallery).identities == 1


def test_enrollments_that_are_committed_together_choose_among_all_of_them(record, gallery):
    enroll(record, gallery, draw(0))
    # While another program holds the record, the enrollments wait and become one commit.
    with (
        ThreadPoolExecutor(6) as threads,
        contextlib.closing(sqlite3.connect(record.database.path, isolation_level=None)) as other,
    ):
        other.execute("BEGIN IMMEDIATE")
        batches = [draw(*range(first, first + 4)) for first in range(1, 25, 4)]
        sent = [threads.submit(enroll, record, gallery, batch) for batch in batches]
        wait(sent, 0.5)
        other.execute("ROLLBACK")
        for enrolling in sent:
            enrolling.result()
    # Each of the three has its whole vector.
    assert len(list(record.crops.vectors(gallery))) == 3
    assert record.galleries.get(gallery).crops == 3
    assert record.galleries.get(gallery).next_slot > 4


def test_a_track_of_too_many_crops_is_refused_with_the_remedy(record, gallery, monkeypatch):
    monkeypatch.setattr(tracks, "MOST_OF_TRACK", 5)
    enroll(record, gallery, draw(*range(6)), keep_best=None)
    with pytest.raises(InvalidField, match="keep_best: track '17' has more than 5 crops"):
        enroll(record, gallery, draw(7))
    assert record.galleries.get(gallery).crops == 6
