"""For every failpoint, what leads there; and whether the write has happened when it is passed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from uuid import uuid4

from tests.torture.ledger import bearers
from tests.torture.operations import Caller

LONG_AGO = "2001-01-01T00:00:00Z"
# A write has not happened before its commit, and has from then on.
STEPS = {"before-commit": False, "committed": True, "shown": True}


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

    act: Callable[[Caller], object]
    prepare: Callable[[Caller], object] | None = None
    happened: bool | None = None
    passages: int = 1
    new_model: bool = False


def _fill(caller):
    """Enroll two people, whom an export has too."""
    for count in (3, 2):
        caller.enroll("lobby", count)
    caller.make_export("lobby")


def _write_a_lot(caller):
    """Make at least 32 commits."""
    for _ in range(8):
        _fill(caller)
        _delete_crop(caller)
        _forget(caller)


def _someone(caller):
    own = caller.ledger.owned(caller.name, "lobby")
    identity = next(iter(own.values()))
    return identity, bearers(own, identity)


def _delete_crop(caller):
    caller.delete_crop(caller.ledger.crops[_someone(caller)[1][0]])


def _forget(caller):
    caller.forget("lobby", *_someone(caller))


def _relabel(caller):
    identity, numbers = _someone(caller)
    caller.relabel("lobby", identity, caller.new_identity(), numbers)


def _new_gallery(caller, prefix="made"):
    gallery = f"{prefix}-{uuid4().hex[:8]}"
    caller.create_gallery(gallery)
    return gallery


def _newest(caller, prefix):
    return [name for name in caller.ledger.galleries if name.startswith(prefix)][-1]


def _gallery_to_delete(caller):
    gallery = _new_gallery(caller, "doomed")
    caller.enroll(gallery, 2)
    caller.make_export(gallery)


def _expire(caller):
    gallery = _newest(caller, "old-")
    numbers = [crop.number for crop in caller.ledger.crops.values() if crop.gallery == gallery]
    operation = caller.ledger.begin("expire", gallery, dict.fromkeys(numbers), deletes=True)
    caller.ledger.lose(operation, "housekeeping answers nobody")
    caller.change_gallery(gallery, retention_days="1")
    caller.ledger.expiring.append(gallery)


def _gallery_of_this_model(caller):
    gallery = _new_gallery(caller, "former")
    for count in (6, 5):
        caller.enroll(gallery, count)


def _webhook(caller):
    _fill(caller)
    caller.create_webhook()


def _at_commit(write, happening):
    return {
        f"{write}.{step}": replace(happening, happened=happened) for step, happened in STEPS.items()
    }


_ENROLLING = partial(Scenario, lambda caller: caller.enroll("lobby", 4, key=uuid4().hex))
_FORGETTING = Scenario(_forget, _fill)
_EXPORTING = Scenario(lambda caller: caller.make_export("lobby"), _fill)
_REINDEXING = Scenario(
    lambda caller: caller.reindex(_newest(caller, "former-")),
    _gallery_of_this_model,
    new_model=True,
)
# Progress is noted after four batches of eight crops.
_IMPORTING = partial(Scenario, lambda caller: caller.import_archive("lobby", 70))
# The start is enough.
_STARTING = Scenario(lambda _: None, _fill)
_EXPIRING = Scenario(
    _expire, lambda caller: caller.enroll(_new_gallery(caller, "old"), 3, captured_at=LONG_AGO)
)
# A list that ends by itself raises an alert, which is sent to the webhook.
_WATCHING = Scenario(lambda caller: caller.arm("lobby"), _webhook)

SCENARIOS = {
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
    "forget-identity.before-jobs": replace(_FORGETTING, happened=True),
    **{f"delete-expired.{step}": _EXPIRING for step in STEPS},
    **_at_commit("relabel", Scenario(_relabel, _fill)),
    **_at_commit("create-gallery", Scenario(_new_gallery)),
    **_at_commit(
        "change-gallery", Scenario(lambda caller: caller.change_gallery("lobby", calibration="off"))
    ),
    **_at_commit(
        "delete-gallery",
        Scenario(
            lambda caller: caller.delete_gallery(_newest(caller, "doomed-")), _gallery_to_delete
        ),
    ),
    "export.written": _EXPORTING,
    "export.in-place": _EXPORTING,
    "delete-export.renamed": _EXPORTING,
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
    "watch.noted": _WATCHING,
    "webhook.sent": _WATCHING,
    "audit.before-line": Scenario(_write_a_lot, passages=12),
    "audit.line-written": Scenario(_write_a_lot, passages=12),
}
