"""For every failpoint, what leads there; and whether the write has happened when it is passed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from uuid import uuid4

from tests.torture.operations import Caller
from tests.torture.world import World

LONG_AGO = "2001-01-01T00:00:00Z"


@dataclass(frozen=True)
class Scenario:
    """How a failpoint is reached.

    Attributes:
        act: calls of a client; the service dies meanwhile, or soon after.
        prepare: calls before, while the service is, or just was, without a failpoint.
        happened: whether the write has happened then; None where it may be either.
        passages: how many of them may be waited for.
        new_model: whether another model is served from then on.
    """

    act: Callable[[World, Caller], None]
    prepare: Callable[[World, Caller], None] | None = None
    happened: bool | None = None
    passages: int = 1
    new_model: bool = False


def _nothing(_: World, __: Caller) -> None:
    """Do nothing: the start is enough."""


def _fill(world: World, caller: Caller) -> None:
    """Two people, of whom a snapshot knows too."""
    for count in (3, 2):
        caller.enroll("lobby", count)
    caller.take_snapshot("lobby")


def _enroll(world: World, caller: Caller) -> None:
    caller.enroll("lobby", 4, key=uuid4().hex)


def _write_a_lot(world: World, caller: Caller) -> None:
    for _ in range(6):
        _fill(world, caller)
        _delete_crop(world, caller)
        _forget(world, caller)


def _someone(caller: Caller) -> tuple[str, list[int]]:
    own = caller.ledger.owned(caller.name, "lobby")
    identity = next(iter(own.values()))
    return identity, [number for number, name in own.items() if name == identity]


def _delete_crop(world: World, caller: Caller) -> None:
    caller.delete_crop(caller.ledger.crops[_someone(caller)[1][0]])


def _forget(world: World, caller: Caller) -> None:
    identity, numbers = _someone(caller)
    caller.forget("lobby", identity, numbers)


def _relabel(world: World, caller: Caller) -> None:
    identity, numbers = _someone(caller)
    caller.relabel("lobby", identity, caller.new_identity(), numbers)


def _create_gallery(world: World, caller: Caller) -> None:
    caller.create_gallery(f"made-{uuid4().hex[:8]}")


def _gallery_to_delete(world: World, caller: Caller) -> None:
    gallery = f"doomed-{uuid4().hex[:8]}"
    caller.create_gallery(gallery)
    caller.enroll(gallery, 2)
    caller.take_snapshot(gallery)


def _delete_gallery(world: World, caller: Caller) -> None:
    there = caller.ledger.galleries
    caller.delete_gallery(
        next(name for name in there if name.startswith("doomed-") and there[name])
    )


def _change_gallery(world: World, caller: Caller) -> None:
    caller.change_gallery("lobby", calibration="off")


def _gallery_to_expire(world: World, caller: Caller) -> None:
    gallery = f"old-{uuid4().hex[:8]}"
    caller.create_gallery(gallery)
    caller.enroll(gallery, 3, captured_at=LONG_AGO)


def _expire(world: World, caller: Caller) -> None:
    gallery = [name for name in caller.ledger.galleries if name.startswith("old-")][-1]
    numbers = [crop.number for crop in caller.ledger.crops.values() if crop.gallery == gallery]
    operation = caller.ledger.begin("expire", gallery, dict.fromkeys(numbers), deletes=True)
    caller.ledger.lose(operation, "housekeeping answers nobody")
    caller.change_gallery(gallery, retention_days="1")
    world.expiring.append(gallery)


def _snapshot(world: World, caller: Caller) -> None:
    caller.take_snapshot("lobby")


def _restore(world: World, caller: Caller) -> None:
    kept = [snapshot for snapshot in caller.ledger.snapshots if snapshot.gallery == "lobby"]
    caller.restore(kept[-1])


def _fill_and_change(world: World, caller: Caller) -> None:
    _fill(world, caller)
    _delete_crop(world, caller)
    caller.enroll("lobby", 2)


def _gallery_of_this_model(world: World, caller: Caller) -> None:
    gallery = f"former-{uuid4().hex[:8]}"
    caller.create_gallery(gallery)
    for count in (6, 5):
        caller.enroll(gallery, count)


def _reindex(world: World, caller: Caller) -> None:
    gallery = [name for name in caller.ledger.galleries if name.startswith("former-")][-1]
    caller.reindex(gallery)


def _import(world: World, caller: Caller) -> None:
    caller.import_archive("lobby", 20)


def _webhook(world: World, caller: Caller) -> None:
    _fill(world, caller)
    caller.create_webhook()


def _arm_until_soon(world: World, caller: Caller) -> None:
    """Let a list end by itself, which raises an alert that is sent."""
    caller.arm("lobby")


def _at_commit(write: str, happening: Scenario) -> dict[str, Scenario]:
    def at(step: str, happened: bool) -> tuple[str, Scenario]:
        return f"{write}.{step}", replace(happening, happened=happened)

    return dict([at("before-commit", False), at("committed", True), at("shown", True)])


_ENROLLING = partial(Scenario, _enroll)
_FORGETTING = Scenario(_forget, _fill)
_RESTORING = Scenario(_restore, _fill_and_change)
_REINDEXING = Scenario(_reindex, _gallery_of_this_model, new_model=True)
_IMPORTING = partial(Scenario, _import)
_STARTING = Scenario(_nothing, _fill)

SCENARIOS: Mapping[str, Scenario] = {
    "start.record-opened": _STARTING,
    "start.galleries-loaded": _STARTING,
    # Calibrations that are fitted beside the requests are followed too.
    "follower.changes-read": _ENROLLING(),
    "follower.changes-applied": _ENROLLING(),
    "enroll.body-read": _ENROLLING(happened=False),
    "enroll.embedded": _ENROLLING(happened=False),
    "enroll.pictures-kept": _ENROLLING(happened=False),
    "enroll.crop-written": _ENROLLING(happened=False, passages=4),
    **_at_commit("enroll", _ENROLLING()),
    "record.before-commit": Scenario(_write_a_lot, passages=30),
    "record.committed": Scenario(_write_a_lot, passages=30),
    "record.settled": Scenario(_write_a_lot, passages=30),
    **_at_commit("delete-crop", Scenario(_delete_crop, _fill)),
    **_at_commit("forget-identity", _FORGETTING),
    "forget-identity.before-snapshots": Scenario(_forget, _fill, happened=True),
    # Housekeeping for earlier deletions may reach the failpoint first; nothing is forgotten then.
    "snapshot-rewrite.begun": Scenario(_forget, _fill),
    "snapshot-rewrite.removed": Scenario(_forget, _fill),
    "snapshot-rewrite.written": Scenario(_forget, _fill),
    **{
        point: Scenario(_expire, _gallery_to_expire)
        for point in (
            "delete-expired.before-commit",
            "delete-expired.committed",
            "delete-expired.shown",
        )
    },
    **_at_commit("relabel", Scenario(_relabel, _fill)),
    **_at_commit("create-gallery", Scenario(_create_gallery)),
    **_at_commit("change-gallery", Scenario(_change_gallery)),
    **_at_commit("delete-gallery", Scenario(_delete_gallery, _gallery_to_delete)),
    "snapshot.written": Scenario(_snapshot, _fill),
    "snapshot.in-place": Scenario(_snapshot, _fill),
    "snapshot.registered": Scenario(_snapshot, _fill),
    "restore.file-read": Scenario(_restore, _fill_and_change, happened=False),
    "restore.crops-added": Scenario(_restore, _fill_and_change, happened=False),
    **_at_commit("restore", _RESTORING),
    "reindex.begun": _REINDEXING,
    "reindex.batch-embedded": _REINDEXING,
    "reindex.batch-kept": _REINDEXING,
    "reindex.switched": _REINDEXING,
    **_at_commit("reindex", _REINDEXING),
    "job.created": _IMPORTING(happened=True),
    "job.ended": _IMPORTING(happened=True),
    "import.archive-kept": _IMPORTING(happened=False),
    "import.unpacked": _IMPORTING(happened=True),
    "import.files-read": _IMPORTING(happened=True, passages=3),
    "import.batch-landed": _IMPORTING(happened=True, passages=3),
    "import.progress-noted": _IMPORTING(happened=True, passages=3),
    "job.files-removed": _IMPORTING(happened=True),
    # The end of a list is an alert, which is sent to the webhook.
    "watch.noted": Scenario(_arm_until_soon, _webhook),
    "webhook.sent": Scenario(_arm_until_soon, _webhook),
    "audit.before-line": Scenario(_write_a_lot, passages=12),
    "audit.line-written": Scenario(_write_a_lot, passages=12),
}
