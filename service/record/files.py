"""Files of the data directory that the record does not need: noted until they are removed.

A note is made in the commit that makes a file useless, and before a file is written that no record
names yet. What has neither a note nor a record may be another record's, and is never removed.
"""

from __future__ import annotations

from collections.abc import Sequence

from service.record.engine import RecordPart, Transaction, below, key, last_text, transactional

UNNEEDED = key("unneeded file")


class UnneededFiles(RecordPart):
    """Files that can be removed, by their paths below the data directory."""

    def all(self) -> list[str]:
        """Every one that is noted."""
        return [last_text(own, UNNEEDED) for own, _ in self._reader.every(below(UNNEEDED))]

    @transactional
    def add(self, transaction: Transaction, paths: Sequence[str]) -> None:
        """Notes files that are about to be written: useless until a record names them."""
        note_unneeded(transaction, paths)

    @transactional
    def forget(self, transaction: Transaction, paths: Sequence[str]) -> None:
        """Notes that files are gone."""
        forget_unneeded(transaction, paths)


def note_unneeded(transaction: Transaction, paths: Sequence[str]) -> None:
    """Notes files that nothing names from this commit on."""
    for path in paths:
        transaction.put_json(UNNEEDED + key(path), 1)


def forget_unneeded(transaction: Transaction, paths: Sequence[str]) -> None:
    """Notes that files are gone, or that a record names them from this commit on."""
    transaction.delete(*(UNNEEDED + key(path) for path in paths))
