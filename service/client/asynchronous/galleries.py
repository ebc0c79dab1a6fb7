"""Calls on galleries, the identities in them, and their snapshots."""

from __future__ import annotations

from collections.abc import AsyncIterator

from service.client.answers import Removal
from service.client.asynchronous.sender import AsyncSender
from service.client.calls import gallery_calls
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


class AsyncGalleryCalls(AsyncSender):
    """Galleries as a whole; where a call names none, the client's own."""

    def galleries(self) -> AsyncIterator[Gallery]:
        """Every gallery that the key is for."""
        return self._pages(gallery_calls.page)

    async def gallery(self, name: str | None = None) -> Gallery:
        """One gallery's description."""
        return await self._send(gallery_calls.read(name or self.gallery_name))

    async def create_gallery(
        self,
        name: str,
        *,
        retention_days: int | None = None,
        retention_from: RetentionFrom | None = None,
        calibration: CalibrationMode | None = None,
        recalibration: bool | None = None,
    ) -> Gallery:
        """Creates a gallery; one of that name is a `RequestRefused` with status 409."""
        settings = gallery_calls.settings(
            retention_days, retention_from, calibration, recalibration
        )
        return await self._send(gallery_calls.create(name, settings))

    async def change_gallery(
        self,
        name: str | None = None,
        *,
        retention_days: int | None = None,
        retention_from: RetentionFrom | None = None,
        calibration: CalibrationMode | None = None,
        recalibration: bool | None = None,
    ) -> Gallery:
        """Changes how a gallery is kept, see `create_gallery`; what is left out stays."""
        named = name or self.gallery_name
        settings = gallery_calls.settings(
            retention_days, retention_from, calibration, recalibration
        )
        return await self._send(gallery_calls.change(named, settings))

    async def delete_gallery(self, name: str) -> Removal:
        """Deletes a gallery, every crop in it, and its snapshots; `default` cannot be deleted."""
        return await self._send(gallery_calls.delete(name))

    def identities(self, gallery: str | None = None, *, query: str = "") -> AsyncIterator[Identity]:
        """Identities that contain `query`, in any case, by name, fetched page by page."""
        name = gallery or self.gallery_name
        return self._pages(lambda cursor: gallery_calls.identities(name, cursor, query))

    async def identity(self, identity: str, gallery: str | None = None) -> IdentityDetail:
        """How many crops one identity has, and which cameras took them."""
        return await self._send(gallery_calls.identity(gallery or self.gallery_name, identity))

    async def rename_identity(
        self, identity: str, new_identity: str, gallery: str | None = None
    ) -> Relabelling:
        """Renames an identity; where the new name is there already, merges the two."""
        name = gallery or self.gallery_name
        return await self._send(gallery_calls.rename(name, identity, new_identity))

    async def forget(self, identity: str, gallery: str | None = None) -> Forgetting:
        """Removes a person: every crop, vector and image, from every snapshot too."""
        return await self._send(gallery_calls.forget(gallery or self.gallery_name, identity))

    async def take_snapshot(self, gallery: str | None = None) -> Snapshot:
        """Copies a gallery as it is now, while it is served."""
        return await self._send(gallery_calls.take_snapshot(gallery or self.gallery_name))

    def snapshots(self, gallery: str | None = None) -> AsyncIterator[Snapshot]:
        """Every snapshot of a gallery, oldest first."""
        name = gallery or self.gallery_name
        return self._pages(lambda cursor: gallery_calls.snapshots(name, cursor))

    async def snapshot(self, snapshot_id: str, gallery: str | None = None) -> Snapshot:
        """One snapshot."""
        return await self._send(gallery_calls.snapshot(gallery or self.gallery_name, snapshot_id))

    async def delete_snapshot(self, snapshot_id: str, gallery: str | None = None) -> None:
        """Removes a snapshot; the gallery stays as it is."""
        await self._send(gallery_calls.delete_snapshot(gallery or self.gallery_name, snapshot_id))

    async def restore_snapshot(self, snapshot_id: str, gallery: str | None = None) -> Restoration:
        """Makes a gallery what it was, but for what was deleted since."""
        return await self._send(gallery_calls.restore(gallery or self.gallery_name, snapshot_id))
