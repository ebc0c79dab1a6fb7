"""What the record in Redis promises beyond any store: of several processes, and of lost answers."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import numpy as np
import pytest

from service.errors import GalleryConflict, RecordUnavailable, UnknownGallery
from service.record import galleries, identity_changes, replacing
from service.record.keys import KINDS
from service.record.record import Record, open_redis
from service.record.transaction import Change
from service.record.values import ArchivedCrop, CropFilter, GallerySettings
from tests.service.gallery.new_crops import EMBEDDER, NOON, OTHER_EMBEDDER, new_crop
from tests.service.gallery.new_jobs import new_job
from tests.service.redis_server import LosingProxy, redis_server
from tests.waiting import eventually


@pytest.fixture
def opened(redis_record):
    """Opens stores on one emptied Redis."""
    redis_record.ask("FLUSHALL")
    with contextlib.ExitStack() as held:

        def open_store(**more) -> Record:
            return held.enter_context(contextlib.closing(open_redis(redis_record.url, **more)))

        yield open_store


@pytest.fixture
def store(opened):
    return opened()


@pytest.fixture
def gallery(store):
    return _create(store)


def _create(store, name: str = "lobby") -> int:
    return store.galleries.create(name, EMBEDDER, GallerySettings()).gallery_id


def _identities(store, gallery: int) -> dict[str, str | None]:
    return {
        one.crop_id: one.identity
        for one in store.crops.page(gallery, CropFilter(), limit=9999).crops
    }


def _crop_keys(server) -> list[bytes]:
    return server.ask("KEYS", b"gmn:v:" + KINDS[b"crop"] + b"*")


def test_two_processes_write_one_gallery_and_nothing_is_lost(opened, store, gallery):
    def write(number: int) -> tuple[list[int], dict[str, str]]:
        own = opened()
        versions = []
        kept = {}
        for step in range(40):
            first = number * 1000 + step * 3
            enrolment = own.crops.enroll(
                gallery, EMBEDDER, [new_crop(first, str(number)), new_crop(first + 1, str(number))]
            )
            versions.append(enrolment.version)
            gone, stays = (one.crop_id for one in enrolment.landed)
            versions.append(own.crops.remove(gallery, [gone]).version)
            kept[stays] = str(number)
        renamed = own.identities.rename(gallery, str(number), f"new {number}")
        assert len(renamed.labels) == 40
        return [*versions, renamed.version], dict.fromkeys(kept, f"new {number}")

    with ThreadPoolExecutor(2) as pool:
        (first, kept), (second, also_kept) = pool.map(write, (1, 2))
    assert sorted(first + second) == list(range(1, 163))
    assert _identities(store, gallery) == kept | also_kept
    changes = store.changes.after(0, 999, 0)
    assert [one.sequence for one in changes] == list(range(1, len(changes) + 1))
    assert [one.version for one in changes] == list(range(163))
    assert store.changes.last() == len(changes)


def test_a_follower_holds_what_the_record_holds(store, gallery):
    for number in range(30):
        landed = store.crops.enroll(gallery, EMBEDDER, [new_crop(number, str(number % 4))]).landed
        if number % 3 == 0:
            store.crops.remove(gallery, [landed[0].crop_id])
        if number == 20:
            store.identities.rename(gallery, "1", "one")
    held = {}
    for change in store.changes.after(0, 999, 0):
        for row in change.row_ids:
            held.pop(row, None)
        held |= {one.label.row_id: one for one in store.crops.indexed(gallery, change.row_ids)}
    recorded = list(store.crops.vectors(gallery))
    assert [held[row].label for row in sorted(held)] == [one.label for one in recorded]


def test_after_kill_9_of_redis_every_acknowledged_write_is_there_and_no_half():
    with redis_server() as server, contextlib.closing(open_redis(server.url)) as store:
        gallery = _create(store)
        acknowledged = []
        ended = threading.Event()

        def write(number: int) -> None:
            for step in itertools.count():
                crops = [
                    new_crop(number * 10**6 + step * 10 + one, f"{number} {step}")
                    for one in range(5)
                ]
                with contextlib.suppress(RecordUnavailable):
                    store.crops.enroll(gallery, EMBEDDER, crops)
                    acknowledged.append(f"{number} {step}")
                if ended.is_set():
                    return

        writers = [threading.Thread(target=write, args=(number,)) for number in (1, 2)]
        for writer in writers:
            writer.start()
        for _ in range(3):
            time.sleep(0.3)
            server.kill()
            time.sleep(0.05)
            server.start()
        time.sleep(0.2)
        ended.set()
        for writer in writers:
            writer.join(60)
        found = {one.identity: one.crops for one in store.people.page(gallery, "", 99999)}
        assert len(acknowledged) > 10
        assert set(acknowledged) <= set(found)
        assert set(found.values()) == {5}
        assert store.galleries.get(gallery).version == len(found)
        added = [one for one in store.changes.after(0, 99999, 0) if one.kind == "added"]
        assert [one.version for one in added] == list(range(1, len(found) + 1))


def _forget(store, gallery, identity):
    removal = store.identities.forget(gallery, identity)
    assert removal is not None, "what was forgotten already was to be forgotten again"
    return removal.version


def test_a_write_whose_answer_was_lost_happens_once(redis_record, store, gallery):
    proxy = LosingProxy(redis_record.port)
    through = open_redis(f"redis://127.0.0.1:{proxy.port}/0")
    # So that Redis knows the scripts, and the first answer is that of the write.
    _create(through, "tried")
    through.crops.remove(gallery, [_enroll_one(through, gallery, 1)])
    writes = [
        lambda: through.crops.enroll(gallery, EMBEDDER, [new_crop(2, "b")]).version,
        lambda: _forget(through, gallery, "b"),
        lambda: _create(through, "once"),
    ]
    answers = []
    for number, write in enumerate(writes, 1):
        proxy.lose_answers(1)
        answers.append(write())
        assert proxy.lost == number
    assert answers == [3, 4, gallery + 2]
    assert store.galleries.get(gallery).version == 4
    assert [one.name for one in store.galleries.all()] == ["lobby", "once", "tried"]
    with pytest.raises(GalleryConflict):
        _create(through, "once")
    through.close()
    proxy.close()


def test_a_redis_that_is_gone_is_unavailable_and_one_that_is_back_is_not():
    with redis_server() as server, contextlib.closing(open_redis(server.url)) as store:
        gallery = _create(store)
        server.kill()
        with pytest.raises(RecordUnavailable, match=str(server.port)) as refused:
            store.crops.enroll(gallery, EMBEDDER, [new_crop(1)])
        assert refused.value.retry_after_s > 0
        with pytest.raises(RecordUnavailable):
            store.galleries.all()
        server.start()
        assert store.crops.enroll(gallery, EMBEDDER, [new_crop(1)]).version == 1


def test_a_copy_has_every_change_that_was_made_until_it_was_read(monkeypatch, store, gallery):
    monkeypatch.setattr(replacing, "CROPS_PER_READ", 7)
    random = np.random.default_rng(5)
    for first in range(0, 60, 20):
        crops = [new_crop(first + one, str(one % 5)) for one in range(20)]
        store.crops.enroll(gallery, EMBEDDER, crops)
    fresh = itertools.count(1000)
    found: dict[str, ArchivedCrop] = {}
    with store.crops.archive(gallery) as archive:
        for number, one in enumerate(archive.crops):
            found[one.record.crop_id] = one
            if number % 5 == 0 and number < 100:
                live = list(_identities(store, gallery))
                store.crops.remove(gallery, [str(one) for one in random.choice(live, 2)])
                old, new = (str(one) for one in random.integers(0, 6, 2))
                store.identities.rename(gallery, old, new)
                store.crops.enroll(gallery, EMBEDDER, [new_crop(next(fresh), new)])
    removed = store.crops.removed_among(gallery, list(found))
    there = {name: one.record.identity for name, one in found.items() if name not in removed}
    assert there == _identities(store, gallery)
    for one in found.values():
        number = one.record.metadata["number"]
        assert one.picture == b"image %d" % number
        assert one.vector.tolist() == [number + 0.25] * 4


def test_a_copy_of_a_gallery_that_is_written_without_a_pause_ends(
    monkeypatch, redis_record, store, gallery
):
    monkeypatch.setattr(replacing, "FOLLOWED_FOR_SECONDS", 0.5)
    store.crops.enroll(gallery, EMBEDDER, [new_crop(number, "Ann") for number in range(5)])
    names = itertools.cycle(["Eve", "Ann"])

    def rename_once(*_) -> list[Change]:
        old = next(iter(_identities(store, gallery).values()))
        store.identities.rename(gallery, old, next(names) if old == "Ann" else "Ann")
        return after(*_)

    after = store.engine.after
    monkeypatch.setattr(store.engine, "after", rename_once)
    with store.crops.archive(gallery) as archive:
        assert len({one.record.crop_id for one in archive.crops}) == 5


@pytest.mark.parametrize("replaced", ["reindexed", "restored", "deleted"])
def test_a_copy_of_a_gallery_that_is_replaced_is_given_up(store, gallery, replaced):
    store.crops.enroll(gallery, EMBEDDER, [new_crop(1)])
    with store.crops.archive(gallery) as archive:
        if replaced == "reindexed":
            store.staged.begin(gallery, OTHER_EMBEDDER)
            (row,) = (one.row_id for one in store.staged.missing(gallery, 0, 9))
            store.staged.add(gallery, [(row, np.zeros(4, np.float32))])
            assert store.staged.switch(gallery) is not None
        elif replaced == "restored":
            store.crops.replace(gallery, OTHER_EMBEDDER, [])
        else:
            store.galleries.delete(gallery)
        expected = UnknownGallery if replaced == "deleted" else RecordUnavailable
        with pytest.raises(expected):
            list(archive.crops)


def test_what_is_removed_while_a_gallery_is_restored_stays_removed(
    monkeypatch, opened, store, gallery
):
    monkeypatch.setattr(replacing, "CROPS_PER_PART", 1)
    crops = [new_crop(number) for number in range(3)]
    landed = store.crops.enroll(gallery, EMBEDDER, crops).landed
    with store.crops.archive(gallery) as archive:
        kept = list(archive.crops)

    def while_another_process_removes():
        yield from kept
        removing = opened().crops
        removing.remove(gallery, [landed[1].crop_id])
        yield dataclasses.replace(
            kept[0], record=dataclasses.replace(kept[0].record, crop_id="last")
        )

    assert store.crops.replace(gallery, EMBEDDER, while_another_process_removes()) == 3
    assert list(_identities(store, gallery)) == [landed[0].crop_id, landed[2].crop_id, "last"]
    assert store.galleries.get(gallery).identities == 1


def test_a_restore_that_died_leaves_nothing_and_one_that_was_given_up_changes_nothing(
    monkeypatch, redis_record, opened, store, gallery
):
    store.crops.enroll(gallery, EMBEDDER, [new_crop(number) for number in range(3)])
    with store.crops.archive(gallery) as archive:
        kept = list(archive.crops)
    monkeypatch.setattr(replacing, "KEPT_MS", 50)
    monkeypatch.setattr(replacing, "CROPS_PER_PART", 1)

    def slow():
        yield kept[0]
        yield kept[1]
        time.sleep(0.1)
        # Another process starts, and takes it for one that died.
        opened()
        yield kept[2]

    with pytest.raises(RecordUnavailable, match="begin again"):
        store.crops.replace(gallery, EMBEDDER, slow())
    assert store.galleries.get(gallery).version == 1
    assert len(_crop_keys(redis_record)) == len(_identities(store, gallery)) == 3


def test_what_a_process_that_died_began_to_remove_is_removed_by_the_next(
    monkeypatch, redis_record, opened, store, gallery
):
    store.crops.enroll(gallery, EMBEDDER, [new_crop(number) for number in range(3)])
    # As delete does, without what comes after its first step.
    monkeypatch.setattr(galleries, "collect_garbage", lambda _: None)
    store.galleries.delete(gallery)
    assert len(_crop_keys(redis_record)) == 3
    opened()
    assert _crop_keys(redis_record) == []


def test_a_large_identity_is_renamed_and_removed_at_once(store, gallery):
    for first in (0, 150, 300):
        crops = [new_crop(first + one, "crowd") for one in range(150)]
        store.crops.enroll(gallery, EMBEDDER, crops)
    renamed = store.identities.rename(gallery, "crowd", "many")
    assert (len(renamed.labels), renamed.merge_id, renamed.version) == (450, None, 4)
    older = store.crops.remove_older(gallery, NOON + timedelta(days=1), 220)
    assert (len(older.row_ids), older.version) == (220, 5)
    rest = store.identities.forget(gallery, "many")
    assert (len(set(rest.crop_ids)), rest.version) == (230, 6)
    assert list(rest.row_ids) == sorted(rest.row_ids)


PARTS = {
    "rename": (
        lambda store, gallery: store.identities.rename(gallery, "crowd", "new"),
        {"new": 250},
    ),
    "merge": (
        lambda store, gallery: store.identities.rename(gallery, "crowd", "other"),
        {"other": 251},
    ),
    "forget": (lambda store, gallery: store.identities.forget(gallery, "crowd"), {}),
    "undo": (
        lambda store, gallery: store.identities.undo_merge(
            gallery, store.identities.rename(gallery, "crowd", "other").merge_id
        ),
        {"crowd": 250},
    ),
}


@pytest.fixture
def crowd(store, gallery, monkeypatch):
    """A gallery with an identity of 250 crops, where a commit changes 100."""
    monkeypatch.setattr(identity_changes, "CROPS_AT_ONCE", 100)
    store.crops.enroll(gallery, EMBEDDER, [new_crop(one, "crowd") for one in range(250)])
    store.crops.enroll(gallery, EMBEDDER, [new_crop(999, "other")])
    return gallery


def _counts(store, gallery: int) -> dict[str, int]:
    counts = Counter(_identities(store, gallery).values())
    assert counts == {one.identity: one.crops for one in store.people.page(gallery, "", 9)}
    return counts


@pytest.mark.parametrize("change", PARTS)
def test_a_large_identity_is_changed_in_commits_of_a_bounded_size(
    store, crowd, monkeypatch, change
):
    act, expected = PARTS[change]
    sizes = []
    commit = store.engine.commit

    def measured(transaction):
        sizes.append(len(transaction.puts))
        commit(transaction)

    monkeypatch.setattr(store.engine, "commit", measured)
    assert act(store, crowd).count == 250
    # A crop takes up to 12 keys: its record, its id, and what it is found by before and after.
    assert len(sizes) >= 3
    assert max(sizes) < 12 * 100
    assert _counts(store, crowd) == {"other": 1, **expected}


@pytest.mark.parametrize("change", PARTS)
@pytest.mark.parametrize("by", ["another process", "another change"])
def test_a_change_of_an_identity_that_was_cut_off_is_finished(
    opened, store, crowd, monkeypatch, change, by
):
    act, expected = PARTS[change]
    step = identity_changes._step
    steps = itertools.count()

    def killed(transaction, *args):
        done = step(transaction, *args)
        if done is not None and next(steps) == (4 if change == "undo" else 1):
            raise KeyboardInterrupt
        return done

    monkeypatch.setattr(identity_changes, "_step", killed)
    with pytest.raises(KeyboardInterrupt):
        act(store, crowd)
    monkeypatch.setattr(identity_changes, "_step", step)
    assert 0 < _counts(store, crowd).get("crowd", 0) < 250
    # Enrolled since, under a name that is being changed: it is not concerned.
    store.crops.enroll(crowd, EMBEDDER, [new_crop(1000, "crowd" if change != "undo" else "other")])
    late = {"other": 2} if change == "undo" else {"crowd": 1}
    if by == "another process":
        opened().close()
    else:
        store.identities.rename(crowd, "nobody", "somebody")
    assert _counts(store, crowd) == {"other": 1, **expected, **late}
    # A merge that was undone is not listed any more.
    assert len(store.identities.merges(crowd)) == (change == "merge")


def test_a_restore_brings_nobody_back_whose_forgetting_was_cut_off(store, crowd, monkeypatch):
    with store.crops.archive(crowd) as archive:
        copy = list(archive.crops)
    step = identity_changes._step

    def killed(transaction, *args):
        done = step(transaction, *args)
        if done is None or not done.begun:
            raise KeyboardInterrupt
        return done

    monkeypatch.setattr(identity_changes, "_step", killed)
    with pytest.raises(KeyboardInterrupt):
        store.identities.forget(crowd, "crowd")
    monkeypatch.setattr(identity_changes, "_step", step)
    store.crops.replace(crowd, EMBEDDER, copy)
    assert _counts(store, crowd) == {"other": 1}


def test_a_job_is_claimed_by_one_process(opened, store, gallery):
    for number in range(20):
        store.jobs.create(new_job(f"job {number:02}", gallery))

    def work(worker: str) -> list[str]:
        own = opened()
        done = []
        while job := own.jobs.claim(worker, 30):
            done.append(job.job_id)
            own.jobs.update(job.job_id, "done", {}, worker=worker)
        return done

    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(work, ("one", "other"))
    assert sorted(one + other) == [f"job {number:02}" for number in range(20)]


def test_a_job_that_is_worked_on_keeps_its_lease(store, gallery):
    store.jobs.create(new_job("import", gallery))
    store.jobs.claim("one", 0.5)
    until = time.monotonic() + 1.0
    while time.monotonic() < until:
        store.jobs.update("import", "running", {}, worker="one")
        assert store.jobs.claim("two", 30) is None
    eventually(lambda: store.jobs.claim("two", 30))


def _enroll_one(store, gallery: int, number: int) -> str:
    return store.crops.enroll(gallery, EMBEDDER, [new_crop(number)]).landed[0].crop_id
