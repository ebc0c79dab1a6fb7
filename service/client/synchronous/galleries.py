"""Calls on galleries, the identities in them, and their snapshots."""

from __future__ import annotations

from collections.abc import Iterator

from service.client.answers import Removal
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
from service.client.synchronous.sender import Sender


class GalleryCalls(Sender):
    """Galleries as a whole; where a call names none, the client's own."""

    def galleries(self) -> Iterator[Gallery]:
        """Every gallery that the key is for."""
        return self._pages(gallery_calls.page)

    def gallery(self, name: str | None = None) -> Gallery:
        """One gallery's description."""
        return self._send(gallery_calls.read(name or self.gallery_name))

    def create_gallery(
        self,
        name: str,
        *,
        retention_days: int | None = None,
        retention_from: RetentionFrom | None = None,
        calibration: CalibrationMode | None = None,
        recalibration: bool | None = None,
    ) -> Gallery:
        """Creates a gallery; one of that name is a `RequestRefused` with status 409.

        Args:
            name: letters, digits, dot, dash and underscore, 64 at most.
            retention_days: older crops are deleted; 0 keeps all.
            retention_from: whether a crop's age counts from its capture (or else its enrolment), or
                always from its enrolment.
            calibration: whether thresholds are fitted to the gallery's own unlabelled searches
                (`on`), stay as they are (`frozen`), or are the artefact's (`off`); `reset` drops
                what was learnt and begins anew.
            recalibration: an older name of `calibration`: True for `on`, False for `off`.
        """
        settings = gallery_calls.settings(
            retention_days, retention_from, calibration, recalibration
        )
        return self._send(gallery_calls.create(name, settings))

    def change_gallery(
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
        return self._send(gallery_calls.change(named, settings))

    def delete_gallery(self, name: str) -> Removal:
        """Deletes a gallery, every crop in it, and its snapshots; `default` cannot be deleted."""
        return self._send(gallery_calls.delete(name))

    def identities(self, gallery: str | None = None, *, query: str = "") -> Iterator[Identity]:
        """Identities that contain `query`, in any case, by name, fetched page by page."""
        name = gallery or self.gallery_name
        return self._pages(lambda cursor: gallery_calls.identities(name, cursor, query))

    def identity(self, identity: str, gallery: str | None = None) -> IdentityDetail:
        """How many crops one identity has, and which cameras took them."""
        return self._send(gallery_calls.identity(gallery or self.gallery_name, identity))

    def rename_identity(
        self, identity: str, new_identity: str, gallery: str | None = None
    ) -> Relabelling:
        """Renames an identity; where the new name is there already, merges the two."""
        name = gallery or self.gallery_name
        return self._send(gallery_calls.rename(name, identity, new_identity))

    def forget(self, identity: str, gallery: str | None = None) -> Forgetting:
        """Removes a person: every crop, vector and image, from every snapshot too."""
        return self._send(gallery_calls.forget(gallery or self.gallery_name, identity))

    def take_snapshot(self, gallery: str | None = None) -> Snapshot:
        """Copies a gallery as it is now, while it is served."""
        return self._send(gallery_calls.take_snapshot(gallery or self.gallery_name))

    def snapshots(self, gallery: str | None = None) -> Iterator[Snapshot]:
        """Every snapshot of a gallery, oldest first."""
        name = gallery or self.gallery_name
        return self._pages(lambda cursor: gallery_calls.snapshots(name, cursor))

    def snapshot(self, snapshot_id: str, gallery: str | None = None) -> Snapshot:
        """One snapshot."""
        return self._send(gallery_calls.snapshot(gallery or self.gallery_name, snapshot_id))

    def delete_snapshot(self, snapshot_id: str, gallery: str | None = None) -> None:
        """Removes a snapshot; the gallery stays as it is."""
        self._send(gallery_calls.delete_snapshot(gallery or self.gallery_name, snapshot_id))

    def restore_snapshot(self, snapshot_id: str, gallery: str | None = None) -> Restoration:
        """Makes a gallery what it was, but for what was deleted since.

        Raises:
            RequestRefused: status 409 for a damaged snapshot, which changes nothing.
        """
        return self._send(gallery_calls.restore(gallery or self.gallery_name, snapshot_id))
