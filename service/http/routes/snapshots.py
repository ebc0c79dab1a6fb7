"""`/v1/galleries/{gallery}/snapshots`: copy a gallery while it is served, and restore it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Response

from gmn_client.models import RestoredSnapshot, Snapshot, Snapshots
from service.http.dependencies import GalleryName, RuntimeDep, refusals
from service.http.security import needs
from service.lifecycle import snapshot

router = APIRouter(prefix="/v1/galleries/{gallery}/snapshots", tags=["snapshots"])
SnapshotId = Annotated[str, Path(description="A snapshot's id.")]


@router.post("", status_code=201, responses=refusals(404, 507), dependencies=[needs("admin")])
async def take_snapshot(runtime: RuntimeDep, gallery: GalleryName, response: Response) -> Snapshot:
    """Copies the gallery as it is at this moment, while reads and writes go on."""
    taken = await snapshot.take_snapshot(runtime, gallery)
    response.headers["Location"] = f"/v1/galleries/{gallery}/snapshots/{taken.snapshot_id}"
    return Snapshot.model_validate(taken)


@router.get("", responses=refusals(404), dependencies=[needs("admin")])
async def list_snapshots(runtime: RuntimeDep, gallery: GalleryName) -> Snapshots:
    """Every snapshot of the gallery, oldest first."""
    found = await snapshot.list_snapshots(runtime, gallery)
    return Snapshots(results=[Snapshot.model_validate(one) for one in found])


@router.get("/{snapshot_id}", responses=refusals(404), dependencies=[needs("admin")])
async def read_snapshot(
    runtime: RuntimeDep, gallery: GalleryName, snapshot_id: SnapshotId
) -> Snapshot:
    """One snapshot."""
    found = await snapshot.find_snapshot(runtime, gallery, snapshot_id)
    return Snapshot.model_validate(found)


@router.delete(
    "/{snapshot_id}", status_code=204, responses=refusals(404, 507), dependencies=[needs("admin")]
)
async def delete_snapshot(
    runtime: RuntimeDep, gallery: GalleryName, snapshot_id: SnapshotId
) -> None:
    """Removes a snapshot."""
    await snapshot.delete_snapshot(runtime, gallery, snapshot_id)


@router.post(
    "/{snapshot_id}/restore", responses=refusals(404, 409, 507), dependencies=[needs("admin")]
)
async def restore_snapshot(
    runtime: RuntimeDep, gallery: GalleryName, snapshot_id: SnapshotId
) -> RestoredSnapshot:
    """Makes the gallery what it was; what was deleted since stays deleted.

    Every crop is checked first: a damaged snapshot is 409 and changes nothing.
    """
    return await snapshot.restore_snapshot(runtime, gallery, snapshot_id)
