"""Calls on galleries, the identities in them, and their snapshots."""

from __future__ import annotations

from collections.abc import Mapping

from service.client.answers import Page, Removal
from service.client.calls.call import Call, given, path_to
from service.client.gallery_answers import (
    CalibrationMode,
    Forgetting,
    Gallery,
    Identity,
    IdentityDetail,
    Relabelling,
    Restoration,
    RetentionFrom,
    Snapshot,
)

IDENTITIES_PER_PAGE = 1000
Settings = Mapping[str, str | int | bool | None]


def page(cursor: str | None) -> Call[Page[Gallery]]:
    """One page of the galleries."""
    params: dict[str, str | int] = {"cursor": cursor} if cursor else {}
    return Call("GET", path_to("galleries"), Page[Gallery], params=params)


def read(gallery: str) -> Call[Gallery]:
    """One gallery's description."""
    return Call("GET", path_to("galleries", gallery), Gallery)


def settings(
    retention_days: int | None,
    retention_from: RetentionFrom | None,
    calibration: CalibrationMode | None,
    recalibration: bool | None,
) -> Settings:
    """The settings of a gallery as they are sent; None is left out."""
    return {
        "retention_days": retention_days,
        "retention_from": retention_from,
        "calibration": calibration,
        "recalibration": recalibration,
    }


def create(name: str, settings: Settings) -> Call[Gallery]:
    """Creates a gallery."""
    return Call("POST", path_to("galleries"), Gallery, fields=given({"name": name, **settings}))


def change(gallery: str, settings: Settings) -> Call[Gallery]:
    """Changes how a gallery is kept."""
    return Call("PATCH", path_to("galleries", gallery), Gallery, fields=given({**settings}))


def delete(gallery: str) -> Call[Removal]:
    """Deletes a gallery and all that is in it."""
    return Call("DELETE", path_to("galleries", gallery), Removal, long=True)


def identities(gallery: str, cursor: str | None, query: str = "") -> Call[Page[Identity]]:
    """One page of a gallery's identities."""
    params: dict[str, str | int] = {"limit": IDENTITIES_PER_PAGE}
    if query:
        params["query"] = query
    if cursor is not None:
        params["cursor"] = cursor
    return Call("GET", path_to("galleries", gallery, "identities"), Page[Identity], params=params)


def identity(gallery: str, name: str) -> Call[IdentityDetail]:
    """One identity with its cameras."""
    return Call("GET", path_to("galleries", gallery, "identities", name), IdentityDetail)


def rename(gallery: str, identity: str, new_identity: str) -> Call[Relabelling]:
    """Renames an identity, or merges it into one that is there."""
    return Call(
        "PATCH",
        path_to("galleries", gallery, "identities", identity),
        Relabelling,
        fields={"new_identity": new_identity},
    )


def forget(gallery: str, identity: str) -> Call[Forgetting]:
    """Removes a person, from the snapshots too."""
    path = path_to("galleries", gallery, "identities", identity)
    return Call("DELETE", path, Forgetting, long=True)


def take_snapshot(gallery: str) -> Call[Snapshot]:
    """Copies a gallery as it is now."""
    return Call("POST", path_to("galleries", gallery, "snapshots"), Snapshot, long=True)


def snapshots(gallery: str, cursor: str | None) -> Call[Page[Snapshot]]:
    """One page of a gallery's snapshots."""
    params: dict[str, str | int] = {"cursor": cursor} if cursor else {}
    return Call("GET", path_to("galleries", gallery, "snapshots"), Page[Snapshot], params=params)


def snapshot(gallery: str, snapshot_id: str) -> Call[Snapshot]:
    """One snapshot."""
    return Call("GET", path_to("galleries", gallery, "snapshots", snapshot_id), Snapshot)


def delete_snapshot(gallery: str, snapshot_id: str) -> Call[bytes]:
    """Removes a snapshot; the answer is empty."""
    return Call("DELETE", path_to("galleries", gallery, "snapshots", snapshot_id), bytes)


def restore(gallery: str, snapshot_id: str) -> Call[Restoration]:
    """Makes a gallery what it was."""
    path = path_to("galleries", gallery, "snapshots", snapshot_id, "restore")
    return Call("POST", path, Restoration, long=True)
