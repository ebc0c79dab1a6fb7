"""What one process heard from cameras, and since when it listens without a gap."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from unittest.mock import AsyncMock, Mock

import pytest

from service.api_keys import LOCAL_ADMIN
from service.errors import InvalidField, StorageFailed
from service.watch.camera_contacts import CameraContacts
from service.watch.camera_health import note_heartbeat
from service.watch.tables.cameras import MOST_CAMERAS


class Clock:
    def __init__(self):
        self.now = datetime(2026, 3, 1, 12, tzinfo=UTC)

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def contacts(clock):
    return CameraContacts(clock)


def test_images_are_counted_until_they_are_taken(contacts, clock):
    contacts.count("door", "gate", is_usable=True, begins_track=True)
    began = clock.now
    clock.now += timedelta(seconds=5)
    contacts.count("door", "gate", is_usable=False, begins_track=False)
    contacts.count("door", None, is_usable=True, begins_track=True)
    contacts.count("yard", "gate", is_usable=True, begins_track=True)
    counts = contacts.take_counts()
    gate = counts["door"]["gate"]
    assert (gate.crops, gate.tracks, gate.refused) == (1, 1, 1)
    assert (gate.crop_at, gate.heard_at) == (began, clock.now)
    assert (counts["door"][""].crops, counts["yard"]["gate"].crops) == (1, 1)
    assert contacts.take_counts() == {}


def test_invented_names_of_one_key_are_counted_together(contacts):
    for number in range(MOST_CAMERAS + 5):
        contacts.count("door", f"camera {number}", is_usable=True, begins_track=True)
    counts = contacts.take_counts()["door"]
    assert len(counts) == MOST_CAMERAS + 1
    assert counts[""].crops == 5


def test_a_process_that_stood_still_or_could_not_write_listens_anew(contacts, clock):
    start = clock.now
    for seconds in (10, 60):
        clock.now += timedelta(seconds=seconds)
        assert contacts.listening_since(clock.now) == start
    clock.now += timedelta(seconds=61)
    assert contacts.listening_since(clock.now) == clock.now
    clock.now += timedelta(seconds=10)
    contacts.listen_anew()
    assert contacts.listening_since(clock.now) == clock.now


@pytest.mark.parametrize(
    ("error", "listens_anew"), [(StorageFailed("full"), True), (InvalidField("camera: no"), False)]
)
async def test_a_heartbeat_that_a_full_disk_refuses_makes_no_camera_silent(
    contacts, clock, error, listens_anew
):
    runtime = SimpleNamespace(
        watch=Mock(contacts=contacts),
        galleries=SimpleNamespace(write=AsyncMock(side_effect=error)),
    )
    start = clock.now
    clock.now += timedelta(seconds=30)
    with pytest.raises(type(error)):
        await note_heartbeat(runtime, LOCAL_ADMIN, "gate", {"state": "ok"})
    assert (contacts.listening_since(clock.now) > start) == listens_anew
