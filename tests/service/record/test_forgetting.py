"""A person who is forgotten takes the searches and alerts about it along, in the same commit."""

from service.record.deletions import read_deletions
from service.watch.tables.alerts import SightedPerson
from tests.service.gallery.new_crops import NOON, desk_of, enroll, forget, new_crop, watch_of
from tests.service.record.new_searches import kept_ids, new_search
from tests.service.record.test_cameras import arm


def see(record, gallery, slot):
    sighted = SightedPerson(
        kind="visit",
        slot=slot,
        first_seen=NOON,
        last_seen=NOON,
        crops=1,
        camera="gate",
        zone="door",
        key_id="door",
        track=None,
        captured_at=NOON,
        score=0.5,
        score_kind="",
        threshold=0.3,
        probability=0.9,
        needed=0.5,
        cohesion=None,
        calibration_version="a1",
        picture=None,
        own_alert=None,
    )
    return watch_of(record).alerts.note_visit(gallery, sighted).alert.alert_id


def test_searches_and_alerts_about_a_person_go_with_it_and_are_noted_as_deleted(record, gallery):
    ann, bea = enroll(record, gallery, new_crop(1, "Ann"), new_crop(2, "Bea"))
    arm(record, gallery)
    about_ann, about_bea = (see(record, gallery, slot) for slot in (1, 2))
    for_ann, for_bea = (new_search(crop_id, verdict="match") for crop_id in (ann, bea))
    desk = desk_of(record)
    desk.kept.keep(gallery, [for_ann, for_bea], 10)
    forgotten = forget(record, gallery, "Ann")
    assert (forgotten.crop_ids, forgotten.alerts) == ((ann,), 1)
    assert forgotten.kept_searches == {for_ann.query_id: []}
    assert kept_ids(record, gallery) == [for_bea.query_id]
    assert [alert.alert_id for alert in watch_of(record).alerts.page(9)] == [about_bea]
    noted = {(line.kind, line.id) for line in read_deletions(record.database.deletions.path)}
    assert {("crop", ann), ("alert", about_ann), ("search", for_ann.query_id)} <= noted
    assert not noted & {("alert", about_bea), ("search", for_bea.query_id)}
