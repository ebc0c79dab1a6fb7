"""The record of everything: its parts, over one database."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from service.errors import UnknownGallery
from service.record.calibrations import StoredCalibrations
from service.record.collections import RemoteIndexes
from service.record.crops import Crops
from service.record.database import Database, RecordPart
from service.record.desk import Cases, KeptQueries
from service.record.feeds import KEPT_CHANGES, OF_CROPS, ChangesLost, read_changes, read_feeds
from service.record.files import Snapshots, StrayFiles, UnneededFiles
from service.record.galleries import Galleries, Runtimes, deleted_name
from service.record.identities import IdentityChanges
from service.record.jobs import Jobs
from service.record.keys import Keys
from service.record.marks import Mark
from service.record.people import Groups, People
from service.record.replacing import give_up_restores
from service.record.staged import StagedVectors
from service.record.transaction import Change, Reader, batches

CROPS_AT_ONCE = 500


class History(RecordPart):
    """The changes of galleries, for an index that was stored and is to go on."""

    def begin(self, gallery_id: int) -> str:
        """Return the position of a gallery's newest change; raises `UnknownGallery`."""
        newest = read_feeds(self._reader).get(gallery_id)
        if newest is None:
            raise UnknownGallery(str(gallery_id))
        return f"{newest.seq} {newest.token.hex()}"

    def since(self, gallery_id: int, version: int, position: str) -> list[Change] | None:
        """Return the changes of a gallery's crops after a version.

        Args:
            version: that is known, at the position or later.
            position: from `begin`.

        Returns:
            None where they are not kept any more, or all crops were replaced meanwhile.
        """
        seq, token = position.split()
        after = Mark(int(seq), bytes.fromhex(token))
        asked = "SELECT version FROM galleries WHERE gallery_id = ? AND name IS NOT NULL"
        with self._database.read() as reader:
            newest = reader.value(asked, (gallery_id,))
            try:
                changes = read_changes(reader, gallery_id, after, KEPT_CHANGES)
            except ChangesLost:
                return None
        of_crops = [
            change for change in changes if change.kind in OF_CROPS and change.version > version
        ]
        if newest is None or newest < version:
            return None
        versions = [change.version for change in of_crops]
        is_whole = versions == list(range(version + 1, newest + 1))
        is_replaced = any(change.kind == "replaced" for change in of_crops)
        return of_crops if is_whole and not is_replaced else None


class Record:
    """The record of everything in a folder.

    Writes are durable once they return; each one that changes a gallery's crops raises its version
    in the same commit. Reads may be called from any thread.
    """

    def __init__(self, folder: Path) -> None:
        """Open the record, and finish what an earlier process began to remove."""
        self.database = Database(folder)
        self.galleries = Galleries(self.database)
        self.crops = Crops(self.database)
        self.staged = StagedVectors(self.database)
        self.history = History(self.database)
        self.jobs = Jobs(self.database)
        self.keys = Keys(self.database)
        self.people = People(self.database)
        self.groups = Groups(self.database)
        self.identities = IdentityChanges(self.database)
        self.kept = KeptQueries(self.database)
        self.cases = Cases(self.database)
        self.runtimes = Runtimes(self.database)
        self.snapshots = Snapshots(self.database)
        self.stray_files = StrayFiles(self.database)
        self.unneeded_files = UnneededFiles(self.database)
        self.calibrations = StoredCalibrations(self.database)
        self.remote_indexes = RemoteIndexes(self.database)
        self._delete_again()
        self.galleries.finish_deletions()
        give_up_restores(self.database, datetime.now(UTC))

    def _delete_again(self) -> None:
        """Delete crops and galleries that an older copy of the record has brought back."""
        deleted = self.database.deleted.read()
        newest = "SELECT 1 FROM tombstones WHERE crop_id = ?"
        if not deleted or Reader(self.database).value(newest, deleted[-1:]):
            return
        for gallery in self.galleries.all():
            if deleted_name(gallery) in deleted:
                self.galleries.delete(gallery.gallery_id)
                continue
            for crop_ids in batches(deleted, CROPS_AT_ONCE):
                if self.crops.by_id(gallery.gallery_id, crop_ids):
                    self.crops.remove(gallery.gallery_id, crop_ids)

    def close(self) -> None:
        """Close every connection and file."""
        self.database.close()
