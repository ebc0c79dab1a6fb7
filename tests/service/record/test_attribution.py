"""Alerts are about the person whom their nearest crop shows, whatever that crop is called later."""

import pytest

from service.record.values import ListFilter
from tests.service.gallery.new_crops import enroll, new_crop, watch_of
from tests.service.record.test_cameras import arm
from tests.service.record.test_forgetting import see


@pytest.fixture
def crop_id(record, gallery):
    """Return the id of the first of Ann's two crops; another crop shows Bea."""
    crops = (new_crop(1, "Ann"), new_crop(2, "Ann"), new_crop(3, "Bea"))
    arm(record, gallery)
    first, *_ = enroll(record, gallery, *crops)
    return first


@pytest.fixture
def alerts(record, gallery, crop_id):
    """Return the ids of an alert about Ann and of one about Bea."""
    return [see(record, gallery, slot) for slot in (1, 3)]


def _people_of(record, alerts):
    people = {alert.alert_id: alert.identity for alert in watch_of(record).alerts.page(9)}
    return [people[alert_id] for alert_id in alerts]


def test_an_alert_follows_its_crop_to_another_person(record, gallery, crop_id, alerts):
    for name in ("Cleo", "Bea", "Ann"):
        record.crops.change(gallery, ListFilter(crop_ids=frozenset([crop_id])), {"identity": name})
        assert _people_of(record, alerts) == [name, "Bea"]


@pytest.mark.parametrize("is_deleted", [False, True])
def test_alerts_follow_a_merge_and_its_end_also_without_their_crop(
    record, gallery, crop_id, alerts, is_deleted
):
    if is_deleted:
        record.crops.remove(gallery, [crop_id])
    merge_id = record.people.rename(gallery, "Ann", "Bea").merge_id
    assert _people_of(record, alerts) == ["Bea", "Bea"]
    record.people.undo_merge(gallery, merge_id)
    assert _people_of(record, alerts) == ["Ann", "Bea"]
