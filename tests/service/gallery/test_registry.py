"""A record of one process: a change is applied by the process that commits it."""

import asyncio
import contextlib
import threading
from unittest.mock import Mock

import pytest

from service.errors import RequestConflict, UnknownGallery, VersionNotReached
from service.gallery import registry
from service.gallery.gallery import Gallery
from service.ops.threads import CALLER
from service.record.crops import Crops
from service.record.values import GallerySettings, RequestKey
from tests.service.gallery.new_crops import EMBEDDER, OTHER_EMBEDDER, new_crop
from tests.waiting import eventually

WAITED_SECONDS = 20


async def _enroll_while_the_device_is_busy(process, embedder):
    """Enroll a crop that is committed and cannot be shown yet.

    Returns:
        The enrolling task, and the event that sets the device free.
    """
    free = threading.Event()
    process.device.submit(lambda: free.wait(WAITED_SECONDS))

    def enroll(gallery_id):
        return process.record.crops.enroll(gallery_id, embedder, [new_crop(1)])

    change = process.galleries.change("enroll", process.gallery, enroll)
    enrolling = asyncio.ensure_future(change)
    async with asyncio.timeout(WAITED_SECONDS):
        while process.record.galleries.get(process.gallery.gallery_id).crops == 0:
            await asyncio.sleep(0.01)
    return enrolling, free


async def test_reads_of_one_caller_do_not_delay_those_of_another(process):
    order = []
    all_are_asked = threading.Event()

    def read():
        assert all_are_asked.wait(WAITED_SECONDS)
        order.append(CALLER.get())

    asked = []
    for caller, count in (("eve", 40), ("bob", 1)):
        CALLER.set(caller)
        asked += [asyncio.create_task(process.galleries.read(read)) for _ in range(count)]
    # Each of them queues its read in its first step.
    await asyncio.sleep(0)
    all_are_asked.set()
    await asyncio.gather(*asked)
    assert order.index("bob") < 10


async def test_who_has_caught_up_sees_what_was_committed_before_and_not_shown_yet(process):
    enrolling, free = await _enroll_while_the_device_is_busy(process, OTHER_EMBEDDER)
    catching_up = asyncio.ensure_future(process.galleries.catch_up())
    await asyncio.sleep(0.1)
    assert process.gallery.embedder == EMBEDDER
    free.set()
    await catching_up
    shown = process.gallery.embedder
    await enrolling
    assert shown == OTHER_EMBEDDER


def test_a_cancelled_enrolment_that_is_committed_is_shown(process):
    async def cancel():
        enrolling, free = await _enroll_while_the_device_is_busy(process, EMBEDDER)
        enrolling.cancel()
        await asyncio.gather(enrolling, return_exceptions=True)
        free.set()

    asyncio.run(cancel())
    eventually(lambda: len(process.found()) == 1)


def test_a_change_that_cannot_be_applied_is_read_from_the_record(process, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(Gallery, "apply", Mock(side_effect=MemoryError))
        ids = process.enroll(new_crop(1))
    assert [*process.found()] == ids
    assert process.gallery.version == 1
    ids += process.enroll(new_crop(2))
    assert process.found().keys() == {*ids}


def test_a_gallery_that_another_embedder_filled_for_a_moment_is_searched_in_its_new_file(process):
    process.remove(*process.enroll(new_crop(1)))
    crops = process.record.crops
    gallery_id = process.gallery.gallery_id

    def come_and_go(transaction):
        enroll = Crops.enroll.__wrapped__
        (image,) = enroll(crops, transaction, gallery_id, OTHER_EMBEDDER, [new_crop(2)]).landed
        Crops.remove.__wrapped__(crops, transaction, gallery_id, [image.crop_id])

    process.record.database.write(come_and_go)
    (newest,) = process.enroll(new_crop(3))
    assert [*process.found()] == [newest]
    columns = process.gallery.index.columns
    assert columns.vectors[columns.valid.nonzero()].tolist() == [[3.25] * 4]


@pytest.fixture
def reads(process, monkeypatch):
    """Let the next two reads of a gallery's columns fail, and return a list of all reads."""
    read = registry.read_columns
    calls = []

    def fail_twice(*args):
        calls.append(args)
        if len(calls) < 3:
            raise MemoryError
        return read(*args)

    monkeypatch.setattr(registry, "read_columns", fail_twice)
    return calls


def test_a_gallery_that_cannot_be_read_again_is_tried_until_it_can(process, monkeypatch, reads):
    ids = process.enroll(new_crop(1))
    reads.clear()
    with monkeypatch.context() as patched:
        patched.setattr(Gallery, "apply", Mock(side_effect=MemoryError))
        process.remove(*ids)
    assert len(reads) == 3
    assert process.found() == {}


async def test_a_new_gallery_that_cannot_be_read_is_tried_until_it_can(process, reads):
    await process.galleries.create("lobby", GallerySettings())
    assert len(reads) == 3
    assert "lobby" in [listed.name for listed in process.galleries.all()]


async def test_a_caller_who_waits_for_no_version_any_more_takes_no_memory(process, monkeypatch):
    monkeypatch.setattr(registry, "VERSION_WITHIN_SECONDS", 0.0)
    with pytest.raises(VersionNotReached):
        await process.galleries.wait_for_version(process.gallery, 1)
    assert process.galleries._waiting == {}


@contextlib.contextmanager
def _writers_wait(process):
    """Hold the record's lock, so that writes wait and are not committed."""
    held = threading.Event()
    free = threading.Event()

    def hold(_):
        held.set()
        assert free.wait(WAITED_SECONDS)

    holder = threading.Thread(target=process.record.database.write, args=(hold,))
    holder.start()
    assert held.wait(WAITED_SECONDS)
    try:
        yield
    finally:
        free.set()
        holder.join()


async def _begin(process, *crops, **said):
    """Begin to enroll crops, each by a request of its own, and return the tasks."""
    enrolling = []
    for crop in crops:
        enroll = process.galleries.enroll(process.gallery, EMBEDDER, [crop], **said)
        enrolling.append(asyncio.create_task(enroll))
        # It waits in line after its first step.
        await asyncio.sleep(0)
    return enrolling


async def test_enrollments_that_wait_are_one_change_which_every_answer_names(process):
    with _writers_wait(process):
        enrolling = await _begin(process, *(new_crop(number) for number in range(9)))
    outcomes = await asyncio.gather(*enrolling)
    # The first may be committed before the others came.
    assert process.gallery.version <= 2
    assert max(outcome.version for outcome in outcomes) == process.gallery.version
    ids = [crop_id for outcome in outcomes for crop_id in outcome.crop_ids]
    there = process.record.crops.by_id(process.gallery.gallery_id, ids)
    assert [there[crop_id].slot for crop_id in ids] == list(range(1, 10))


async def test_callers_take_turns_and_requests_of_one_caller_keep_their_order(process):
    with _writers_wait(process):
        first = await _begin(process, new_crop(0))
        await asyncio.sleep(0.1)
        CALLER.set("eve")
        of_eve = await _begin(process, *(new_crop(number) for number in range(1, 100)))
        CALLER.set("bob")
        of_bob = await _begin(process, new_crop(100), new_crop(101))
    outcomes = await asyncio.gather(*first, *of_eve, *of_bob)
    slots = [outcome.added[0].slot for outcome in outcomes]
    assert slots[:100] == sorted(slots[:100])
    assert slots[100] < slots[101] < 10


async def test_a_cancelled_enrollment_is_stored_and_leaves_those_that_wait_beside_it(process):
    with _writers_wait(process):
        enrolling = await _begin(process, *(new_crop(number) for number in range(4)))
        enrolling[0].cancel()
        enrolling[2].cancel()
        await asyncio.sleep(0)
    outcomes = await asyncio.gather(*enrolling, return_exceptions=True)
    cancelled = [isinstance(outcome, asyncio.CancelledError) for outcome in outcomes]
    assert cancelled == [True, False, True, False]
    assert process.record.galleries.get(process.gallery.gallery_id).crops == 4


async def test_an_enrollment_that_conflicts_fails_alone_among_those_that_wait(process):
    await asyncio.gather(*await _begin(process, new_crop(0), key=RequestKey("key", "digest")))
    with _writers_wait(process):
        enrolling = await _begin(process, new_crop(1))
        enrolling += await _begin(process, new_crop(2), key=RequestKey("key", "another"))
        enrolling += await _begin(process, new_crop(3))
    before, conflict, after = await asyncio.gather(*enrolling, return_exceptions=True)
    assert isinstance(conflict, RequestConflict)
    stored = process.record.crops.by_id(
        process.gallery.gallery_id, before.crop_ids + after.crop_ids
    )
    assert len(stored) == 2


async def test_an_enrollment_into_a_deleted_gallery_is_refused_by_its_name(process):
    gallery = process.gallery
    process.record.galleries.delete(gallery.gallery_id)
    with pytest.raises(UnknownGallery, match=gallery.name):
        await process.galleries.enroll(gallery, EMBEDDER, [new_crop(1)])
