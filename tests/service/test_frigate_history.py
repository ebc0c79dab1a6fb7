"""`gmn camera frigate --since`: from events that Frigate keeps to a gallery of a real service."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.camera.stand_in_frigate import (
    StandInEvent,
    StandInFrigate,
    events_of_a_week,
    serving_frigate,
)
from tests.outside import run_command
from tests.waiting import eventually

ROOT = Path(__file__).parents[2]
GALLERY = "sightings"


@pytest.fixture(scope="module")
def served(start):
    return start()


@pytest.fixture
def gallery(served, request):
    """Return a gallery with a retention."""
    return served.create(f"kept-{request.node.name[:40]}", retention_days=30)


@pytest.fixture
def frigate():
    """Yield a stand-in of Frigate, and its address."""
    stand_in = StandInFrigate()
    with serving_frigate(stand_in) as address:
        yield stand_in, address


def command(address, gallery, since="7d"):
    return [
        *(sys.executable, "-m", "gmn", "camera", "frigate"),
        *("--frigate", address, "--since", since, "--enroll", gallery),
    ]


def environment(served):
    url = str(served.http.base_url).rstrip("/")
    return os.environ | {"GMN_URL": url, "PYTHONPATH": str(ROOT)}


def walk(served, address, gallery, **options):
    return run_command(*command(address, gallery, **options), env=environment(served))


def enrolled(served, gallery):
    """Return how many crops each event has in a gallery."""
    with served.connect() as client:
        return Counter(crop.external_id for crop in client.crops(gallery=gallery))


@pytest.mark.promise("frigate-once")
@pytest.mark.timeout(600)
def test_a_walk_that_is_killed_twice_enrolls_each_event_once(served, gallery, frigate):
    stand_in, address = frigate
    stand_in.events = events_of_a_week()
    for seen in (50, 120):
        process = subprocess.Popen(
            command(address, gallery), env=environment(served), stderr=subprocess.DEVNULL
        )
        eventually(lambda seen=seen: stand_in.pictures >= seen)
        process.kill()
        process.wait()
    before = enrolled(served, gallery).total()
    assert 0 < before < 191
    ended = walk(served, address, gallery)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == (
        f"{gallery}: 200 events of people: {191 - before} crops enrolled, {before} there already, "
        "5 without a snapshot, 2 without a clean picture, 2 lower than 96 pixels.\n"
    )
    usable = {
        event.id
        for event in stand_in.events
        if event.has_clean and event.listed["has_snapshot"] and "data" not in event.fields
    }
    assert enrolled(served, gallery) == Counter(usable)


@pytest.mark.promise("frigate-once")
def test_a_person_who_was_named_is_not_enrolled_again(served, gallery, frigate):
    stand_in, address = frigate
    now = events_of_a_week(1)[0].seconds
    stand_in.events = [StandInEvent(number, now + number) for number in range(3)]
    assert "3 crops enrolled" in walk(served, address, gallery).stdout
    with served.connect() as client:
        client.change_crops(gallery, unnamed=True, new_identity="Ann")
    again = walk(served, address, gallery)
    assert "0 crops enrolled, 3 there already" in again.stdout
    with served.connect() as client:
        crops = list(client.crops(gallery=gallery))
    assert [(crop.identity, crop.track == crop.external_id) for crop in crops] == [
        ("Ann", True)
    ] * 3


def test_a_gallery_that_keeps_for_ever_is_refused(served, frigate):
    _, address = frigate
    forever = served.create("for-ever")
    refused = walk(served, address, forever)
    assert refused.returncode == 2
    assert "would keep everybody" in refused.stderr
    assert "--retention-days 30" in refused.stderr


def test_a_gallery_that_is_not_there_is_refused_with_the_command_that_makes_it(served, frigate):
    _, address = frigate
    refused = walk(served, address, "nosuch")
    assert refused.returncode == 2
    assert "gmn gallery create nosuch --retention-days 30" in refused.stderr


def test_a_service_that_goes_away_leaves_a_walk_that_can_be_repeated(start, frigate):
    stand_in, address = frigate
    away = start()
    gallery = away.create(GALLERY, retention_days=30)
    stand_in.events = events_of_a_week(40)
    stand_in.pause = 0.05
    process = subprocess.Popen(
        command(address, gallery), env=environment(away), stderr=subprocess.PIPE, text=True
    )
    eventually(lambda: stand_in.pictures > 20)
    away.kill()
    _, log = process.communicate()
    assert process.returncode == 2
    assert "the same command goes on where it stopped" in log
    assert "Traceback" not in log
