"""A gallery learns travel times, learns them anew, and forgets them."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from service.gallery.enroll import ImageToEnroll
from service.record.values import ListFilter
from service.visits.learned_times import LEARNED_FOR_SECONDS
from service.visits.travel_times import FEWEST_MATCHES
from tests.service.conftest import running
from tests.service.test_search_calibration import draw

OPENED = datetime(2026, 3, 2, 8, tzinfo=UTC)
DAY = timedelta(days=1)
WALK = 120.0
MANY = FEWEST_MATCHES + 20


@pytest.fixture
def runtime(tiny_artefact, tmp_path, engine):
    with running(tiny_artefact, tmp_path) as opened:
        yield opened


def default(runtime):
    return runtime.galleries.get("default")


async def use_times(runtime, uses=True):
    await runtime.gallery_changes.change(default(runtime), {"time_evidence": uses})


async def walk(runtime, people, opened=OPENED):
    """Enroll people who pass the entrance, and the yard two minutes later."""
    random = np.random.default_rng(people[0])
    for shot, camera in enumerate(("entrance", "yard")):
        images = [
            ImageToEnroll(
                image=draw(person, shot),
                camera=camera,
                captured_at=opened + timedelta(seconds=number * 300.0 + shot * moment),
            )
            for number, (person, moment) in enumerate(
                zip(people, random.normal(WALK, 10.0, len(people)), strict=True)
            )
        ]
        await runtime.enrollment.enroll(default(runtime), images)


def at(runtime, seconds=0.0, **clocks):
    """Return the learner at a later time, which reads these clocks of cameras."""
    now = OPENED.timestamp() + seconds
    return replace(runtime.learner, now=lambda: now, read_clocks=lambda: clocks)


async def learn(runtime, seconds=0.0, **clocks):
    await at(runtime, seconds, **clocks).learn_if_due(default(runtime))
    return runtime.travel_times.of(default(runtime))


async def test_it_learns_once_there_is_enough_and_only_if_the_gallery_uses_times(runtime):
    await walk(runtime, range(MANY))
    assert await learn(runtime) is None
    await use_times(runtime)
    learned = await learn(runtime)
    assert learned.knows("entrance")
    assert learned.knows("yard")
    assert not learned.knows("garage")
    # Nothing has changed.
    assert (await learn(runtime, 60.0)).version == learned.version


async def test_switched_off_what_was_learned_is_deleted(runtime):
    await use_times(runtime)
    await walk(runtime, range(MANY))
    assert await learn(runtime)
    await use_times(runtime, False)
    assert runtime.travel_times.of(default(runtime)) is None
    await learn(runtime)
    gallery_id = default(runtime).gallery_id
    assert runtime.learner.tables.body(gallery_id) is None


async def test_other_processes_use_what_one_has_learned(runtime):
    await use_times(runtime)
    await walk(runtime, range(MANY))
    learned = await learn(runtime)
    runtime.travel_times.forget(default(runtime).gallery_id)
    runtime.travel_times.reload(default(runtime))
    again = runtime.travel_times.of(default(runtime))
    assert again.version == learned.version
    assert again.tables.keys() == learned.tables.keys()


async def test_deleted_crops_teach_no_more_after_a_day(runtime):
    await use_times(runtime)
    await walk(runtime, range(MANY))
    before = await learn(runtime)
    crops = runtime.record.crops.by_slot(default(runtime).gallery_id, range(1, 5))
    for crop in crops.values():
        await runtime.crop_deletions.forget_crop(default(runtime), crop.crop_id)
    assert (await learn(runtime, 60.0)).version == before.version
    assert (await learn(runtime, 2 * LEARNED_FOR_SECONDS)).version != before.version


async def test_an_emptied_gallery_unlearns_once(runtime):
    await use_times(runtime)
    await walk(runtime, range(MANY))
    assert await learn(runtime)
    await runtime.crop_deletions.forget_matching(default(runtime), ListFilter(), dry_run=False)
    assert await learn(runtime, 60.0) is None
    stored = runtime.travel_times.stored(default(runtime))
    assert await learn(runtime, 120.0) is None
    assert runtime.travel_times.stored(default(runtime)) == stored


async def test_a_camera_whose_clock_moved_is_silent_until_it_has_enough_new_matches(runtime):
    await use_times(runtime)
    await walk(runtime, range(MANY))
    assert (await learn(runtime, entrance=0.2, yard=0.1)).knows("yard")
    still = await learn(runtime, 60.0, entrance=0.9, yard=-3.0)
    assert still.knows("yard")
    moved = DAY.total_seconds()
    assert await learn(runtime, moved, entrance=0.2, yard=3600.0) is None
    # The crops from before the clock moved teach nothing.
    assert await learn(runtime, moved + 2 * LEARNED_FOR_SECONDS, yard=3600.0) is None
    await walk(runtime, range(200, 200 + MANY), OPENED + 2 * DAY)
    assert (await learn(runtime, moved + 60.0, yard=3600.0)).knows("yard")
