"""The change stream of a record that several processes share: what happened, in order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from service.errors import ServiceError

ChangeKind = Literal[
    "gallery_created",
    "gallery_changed",
    "gallery_deleted",
    "calibration",
    "added",
    "removed",
    "relabelled",
    "replaced",
    "jobs",
    "keys",
]
KINDS: tuple[ChangeKind, ...] = get_args(ChangeKind)


@dataclass(frozen=True)
class Change:
    """One committed change.

    Attributes:
        sequence: its number; the next change has the next one.
        kind: what happened. `replaced` stands for a restore and for a reindex: every crop is to be
            read again. `gallery_changed` is of the gallery's record: settings, embedder, and what
            is being prepared.
        gallery_id: where; 0 for none.
        version: the gallery's, once this had happened.
        row_ids: the crops concerned; they may have changed or gone since.
    """

    sequence: int
    kind: ChangeKind
    gallery_id: int
    version: int
    row_ids: tuple[int, ...] = ()


class ChangesLost(ServiceError):
    """Changes that a follower has not seen cannot be read any more: it has to read everything."""

    code = "record_unavailable"


def as_kind(text: str) -> ChangeKind:
    """A kind by its stored name.

    Raises:
        ChangesLost: for one that this program does not know, and so cannot follow.
    """
    if text not in KINDS:
        raise ChangesLost(
            f"the record has a change {text!r} that this program does not know; update it"
        )
    return text
