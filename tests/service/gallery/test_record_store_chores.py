"""Rules of the record for jobs, searches and calibrations."""

from __future__ import annotations

import pytest

from gmn_client.models import JobProblem
from service.record.calibrations import KEPT_SEARCHES
from service.record.values import GallerySettings, PublishedCalibration
from tests.service.gallery.new_crops import EMBEDDER, NOON, restore_crops
from tests.service.gallery.new_jobs import new_job


def test_a_jobs_problems_are_kept_once_each_and_counted(store, gallery):
    store.jobs.create(new_job("import", gallery, NOON))
    problems = [
        JobProblem(position=n, source=f"{n}.png", code="truncated", detail="cut off")
        for n in (3, 8, 9)
    ]
    store.jobs.update("import", "running", {}, problems[:2])
    store.jobs.update("import", "running", {}, problems[1:])
    assert store.jobs.get("import").problems == 3
    assert store.jobs.problems("import", 3, 9) == problems[1:]


def test_the_newest_searches_are_kept_oldest_first(reopen, store, gallery):
    kept = store.calibrations
    kept.add_searches(gallery, "mnet", [("a", b"\xff1"), ("b", b"2")])
    kept.add_searches(gallery, "cosine", [("a", b"other")])
    kept.add_searches(gallery, "mnet", [("c", b"3"), ("a", b"4")])
    again = reopen().calibrations
    assert again.searches(gallery, "mnet") == [b"2", b"3", b"4"]
    again.add_searches(gallery, "mnet", [(str(n), b"%d" % n) for n in range(KEPT_SEARCHES - 1)])
    rows = again.searches(gallery, "mnet")
    assert (len(rows), rows[0], rows[-1]) == (KEPT_SEARCHES, b"4", b"%d" % (KEPT_SEARCHES - 2))
    again.add_searches(gallery, "mnet", [(str(n), b"%d" % n) for n in range(1000)])
    assert again.searches(gallery, "mnet") == [b"%d" % n for n in range(1000)][-KEPT_SEARCHES:]
    assert again.searches(gallery, "cosine") == [b"other"]
    assert again.searches(gallery, "mnet:other") == []


def test_calibrations_of_the_withdrawn_scoring_are_dropped_at_the_next_fit(store, gallery):
    kept = store.calibrations
    with pytest.MonkeyPatch.context() as earlier:
        earlier.setattr("service.record.calibrations.WITHDRAWN_SUBJECTS", "")
        kept.add_searches(gallery, "fused:a", [("a", b"1")])
        assert kept.publish(gallery, "fused:a", "{}", 0)
        assert kept.publish(gallery, "mnet:a", "before", 0)
    assert list(kept.published(gallery)) == ["mnet:a"]
    assert kept.searches(gallery, "fused:a") == [b"1"]
    assert kept.publish(gallery, "mnet:a", "after", 1)
    assert (kept.searches(gallery, "fused:a"), kept.counted(gallery, "fused:a")) == ([], 0)


def test_a_calibration_is_published_after_the_version_it_was_made_from(reopen, store, gallery):
    kept = store.calibrations
    assert not kept.publish(gallery, "mnet", "too early", 1)
    assert kept.publish(gallery, "mnet", "größer", 0)
    assert not kept.publish(gallery, "mnet", "of another process", 0)
    assert kept.publish(gallery, "cosine", "c", 0)
    again = reopen().calibrations
    assert again.published(gallery)["mnet"] == PublishedCalibration(1, "größer")
    assert again.publish(gallery, "mnet", "1:next", 1)
    assert again.published(gallery) == {
        "mnet": PublishedCalibration(2, "1:next"),
        "cosine": PublishedCalibration(1, "c"),
    }


def test_what_a_gallery_learned_is_dropped_alone_and_goes_with_it(store, gallery):
    other = store.galleries.create("yard", EMBEDDER, GallerySettings()).gallery_id
    kept = store.calibrations
    for number in (gallery, other):
        kept.add_searches(number, "mnet", [("a", b"1")])
        kept.publish(number, "mnet", "{}", 0)
    store.galleries.change(gallery, {}, reset_calibration=True)
    assert store.galleries.get(gallery).version == 0
    assert (kept.searches(gallery, "mnet"), kept.published(gallery)) == ([], {})
    assert (kept.searches(other, "mnet"), len(kept.published(other))) == ([b"1"], 1)
    store.galleries.delete(other)
    assert (kept.searches(other, "mnet"), kept.published(other)) == ([], {})
    kept.add_searches(other, "mnet", [("a", b"1")])
    assert not kept.publish(other, "mnet", "{}", 0)


@pytest.mark.parametrize(
    ("changes", "reset", "left"),
    [
        ({"calibration": "off"}, False, 0),
        ({}, True, 0),
        ({"calibration": "frozen"}, False, 1),
        (None, False, 0),
    ],
    ids=["off", "reset", "frozen", "restore"],
)
def test_one_commit_changes_a_calibration_and_drops_what_goes_with_it(
    reopen, store, gallery, changes, reset, left
):
    store.calibrations.add_searches(gallery, "mnet", [("a", b"1")])
    store.calibrations.publish(gallery, "mnet", "{}", 0)
    if changes is None:
        restore_crops(store, gallery, [])
    else:
        store.galleries.change(gallery, changes, reset)
    again = reopen()
    assert len(again.calibrations.searches(gallery, "mnet")) == left
    assert len(again.calibrations.published(gallery)) == left
    setting = (changes or {}).get("calibration", "on")
    assert again.galleries.get(gallery).settings.calibration == setting


def test_a_calibration_is_published_only_where_what_it_was_fitted_to_counts(store, gallery):
    kept = store.calibrations
    entry = store.galleries.get(gallery)
    kept.add_searches(gallery, "mnet", [("a", b"1"), ("b", b"2")])
    fitted = (kept.counted(gallery, "mnet"), (entry.at, entry.side))
    store.galleries.change(gallery, {}, reset_calibration=True)
    assert not kept.publish(gallery, "mnet", "{}", 0, *fitted)
    restore_crops(store, gallery, [])
    assert not kept.publish(gallery, "mnet", "{}", 0, 0, fitted[1])
    store.galleries.change(gallery, {"calibration": "frozen"})
    assert not kept.publish(gallery, "mnet", "{}", 0)
    store.galleries.change(gallery, {"calibration": "on"})
    assert kept.publish(gallery, "mnet", "{}", 0)
