"""Rules of the record for calibrations and the searches that they are fitted to."""

from service.record.calibrations import KEPT_SEARCHES
from service.record.values import PublishedCalibration
from tests.service.gallery.new_crops import OTHER_EMBEDDER


def test_the_newest_searches_are_kept_oldest_first(record, gallery):
    kept = record.calibrations
    kept.add_searches(gallery, "mnet", [("a", b"\xff1"), ("b", b"2")])
    kept.add_searches(gallery, "cosine", [("a", b"other")])
    kept.add_searches(gallery, "mnet", [("c", b"3"), ("a", b"4")])
    assert kept.searches(gallery, "mnet") == [b"2", b"3", b"4"]
    kept.add_searches(gallery, "mnet", [(str(n), b"%d" % n) for n in range(1000)])
    assert kept.searches(gallery, "mnet") == [b"%d" % n for n in range(1000)][-KEPT_SEARCHES:]
    assert kept.searches(gallery, "cosine") == [b"other"]


def test_a_calibration_is_published_after_the_version_it_was_made_from(record, gallery):
    kept = record.calibrations
    assert not kept.publish(gallery, "mnet", "too early", 1)
    assert kept.publish(gallery, "mnet", "größer", 0)
    assert not kept.publish(gallery, "mnet", "of another process", 0)
    assert kept.publish(gallery, "cosine", "c", 0)
    assert kept.published(gallery)["mnet"] == PublishedCalibration(1, "größer")
    assert kept.publish(gallery, "mnet", "next", 1)
    assert kept.published(gallery) == {
        "mnet": PublishedCalibration(2, "next"),
        "cosine": PublishedCalibration(1, "c"),
    }


def test_a_calibration_is_published_only_where_what_it_was_fitted_to_counts(record, gallery):
    kept = record.calibrations
    entry = record.galleries.get(gallery)
    kept.add_searches(gallery, "mnet", [("a", b"1"), ("b", b"2")])
    fitted = (kept.counted(gallery, "mnet"), entry.generation)
    record.galleries.change(gallery, {}, reset_calibration=True)
    assert not kept.publish(gallery, "mnet", "{}", 0, *fitted)
    record.staged.begin(gallery, OTHER_EMBEDDER)
    record.staged.switch(gallery)
    assert not kept.publish(gallery, "mnet", "{}", 0, 0, fitted[1])
    record.galleries.change(gallery, {"calibration": "frozen"})
    assert not kept.publish(gallery, "mnet", "{}", 0)
    record.galleries.change(gallery, {"calibration": "on"})
    assert kept.publish(gallery, "mnet", "{}", 0)
