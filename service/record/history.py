"""What changed in a gallery since a version, for an index that was stored and is to go on.

Redis keeps the changes of all galleries. In a file a gallery's changes are kept under its versions
from the first stored index on, and up to it once a newer one is stored.
"""

from __future__ import annotations

import secrets

from pydantic_core import from_json

from service.record.crop_changes import CHANGE
from service.record.engine import (
    Change,
    ChangesLost,
    ChangeStream,
    RecordPart,
    Scan,
    Transaction,
    transactional,
)
from service.record.entries import put_entry, read_entry, require_entry
from service.record.keys import key, last_number

OF_CROPS = ("added", "removed", "relabelled", "replaced")
CHANGES_AT_ONCE = 1000


class History(RecordPart):
    """The changes of galleries, by version."""

    @transactional
    def begin(self, transaction: Transaction, gallery_id: int) -> str:
        """Keeps changes from now on; answers the position that names this moment.

        It is for a record in a file. Another record with the same versions, such as an older copy
        that went on, does not know the position. Changes from before the last one are dropped: an
        index was stored there.
        """
        entry = require_entry(transaction, gallery_id)
        own = key(CHANGE, gallery_id, entry.version)
        first = key(CHANGE, gallery_id)
        kept = transaction.json(own)
        begun = entry.changes_from
        if kept is None or begun is None:
            # All crops were replaced, or none were kept: no older position leads here.
            kept = ["stored", [], secrets.token_hex(8)]
            begun = entry.version
            transaction.put_json(own, kept)
        last = key(CHANGE, gallery_id, begun)
        transaction.delete(*(old for old, _ in transaction.scan(Scan(first, last))[0]))
        entry.changes_from = entry.version
        put_entry(transaction, entry)
        return f"{entry.version} {kept[2]}"

    def since(self, gallery_id: int, version: int, position: str) -> list[Change] | None:
        """The changes of a gallery's crops after a version.

        Args:
            version: that is known, at the position or later.
            position: from `begin`; with Redis the record, its server and the number of a change
                that came no later than the version, separated by spaces.

        Returns:
            None where they are not kept any more, or all crops were replaced meanwhile.
        """
        entry = read_entry(self._reader, gallery_id)
        stream = self._engine.changes
        if entry is None or entry.version < version:
            return None
        if stream:
            kept = _of_stream(stream, gallery_id, position)
        else:
            kept = self._of_file(gallery_id, position)
        if kept is None:
            return None
        found = [one for one in kept if one.version > version]
        versions = range(version + 1, version + 1 + len(found))
        whole = [one.version for one in found] == list(versions)
        if not whole or version + len(found) < entry.version:
            return None
        return None if any(one.kind == "replaced" for one in found) else found

    def _of_file(self, gallery_id: int, position: str) -> list[Change] | None:
        begun, name = position.split()
        prefix = key(CHANGE, gallery_id)
        kept = self._reader.json(prefix + key(int(begun)))
        if kept is None or kept[2] != name:
            return None
        found = ((last_number(own), from_json(body)) for own, body in self._reader.below(prefix))
        return [
            Change(0, kind, gallery_id, number, tuple(rows)) for number, (kind, rows, _) in found
        ]


def _of_stream(stream: ChangeStream, gallery_id: int, position: str) -> list[Change] | None:
    epoch, server, sequence = position.split()
    if (epoch, server) != (stream.adopted, stream.server()):
        return None
    found: list[Change] = []
    try:
        while part := stream.after(int(sequence), CHANGES_AT_ONCE, 0.0):
            found += (one for one in part if one.gallery_id == gallery_id)
            sequence = str(part[-1].sequence)
    except ChangesLost:
        return None
    return [one for one in found if one.kind in OF_CROPS]
