"""`/v1/galleries/{gallery}/snapshots`: copy a gallery while it is served, and restore it."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Response

from gmn_client.models import RestoredSnapshot, Snapshot, Snapshots
from service.http.guard import GalleryCall, guarded_router, needs
from service.http.problems import error_responses
from service.lifecycle import snapshots

router = guarded_router("/v1/galleries/{gallery}/snapshots", "snapshots")
SnapshotId = Annotated[str, Path(description="A snapshot's id.")]
Admin = Annotated[GalleryCall, needs("admin")]


@router.post("", status_code=201, responses=error_responses(404, 507))
async def take_snapshot(call: Admin, response: Response) -> Snapshot:
    """Takes a snapshot of the gallery while reads and writes continue."""
    taken = await snapshots.take_snapshot(call.runtime, call.gallery)
    response.headers["Location"] = (
        f"/v1/galleries/{call.gallery.name}/snapshots/{taken.snapshot_id}"
    )
    return Snapshot.model_validate(taken)


@router.get("", responses=error_responses(404))
async def list_snapshots(call: Admin) -> Snapshots:
    """Lists the snapshots of the gallery, oldest first."""
    found = await snapshots.list_snapshots(call.runtime, call.gallery)
    return Snapshots(results=[Snapshot.model_validate(one) for one in found])


@router.get("/{snapshot_id}", responses=error_responses(404))
async def read_snapshot(call: Admin, snapshot_id: SnapshotId) -> Snapshot:
    """Reads one snapshot."""
    found = await snapshots.find_snapshot(call.runtime, call.gallery, snapshot_id)
    return Snapshot.model_validate(found)


@router.delete("/{snapshot_id}", status_code=204, responses=error_responses(404, 507))
async def delete_snapshot(call: Admin, snapshot_id: SnapshotId) -> None:
    """Removes a snapshot."""
    await snapshots.delete_snapshot(call.runtime, call.gallery, snapshot_id)


@router.post("/{snapshot_id}/restore", responses=error_responses(404, 409, 507))
async def restore_snapshot(call: Admin, snapshot_id: SnapshotId) -> RestoredSnapshot:
    """Restores a snapshot; crops that were deleted since it was taken stay deleted.

    Every crop is checked first: a damaged snapshot is 409 and changes nothing.
    """
    return await snapshots.restore_snapshot(call.runtime, call.gallery, snapshot_id)
