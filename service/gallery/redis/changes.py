"""The stream of changes in Redis; each entry's id is its number, so that a gap shows."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from model.problems import InputProblem
from service.gallery.changes import Change, ChangesLost, as_kind
from service.gallery.redis.database import Database
from service.gallery.redis.record_format import adopt_record
from service.high_water import HighWaterMark

STREAM = "gmn:changes"


class RedisChanges:
    """Implements `ChangeRecords`."""

    def __init__(self, database: Database, mark: HighWaterMark | None = None) -> None:
        self._database = database
        self._mark = mark

    def require_acknowledged(self) -> None:
        """Refuses a record that lacks changes which were acknowledged.

        Raises:
            InputProblem: naming what to do.
        """
        if self._mark is None:
            return
        noted, newest = self._mark.read(self._database.epoch), self._newest()
        if newest < noted:
            raise InputProblem(
                f"Redis at {self._database.place}: holds changes up to {newest}, and {noted} were "
                "acknowledged: the end of its append-only file was cut off, or an older copy was "
                "put back; stop Redis and restore its files from a whole copy. To go on with what "
                f"it holds, remove {self._mark.path}"
            )

    def last(self) -> int:
        """The newest change's number; 0 where nothing has happened."""
        newest = self._newest()
        self._note(newest)
        return newest

    def _newest(self) -> int:
        return int(self._database.command("GET", "gmn:seq") or 0)

    def _note(self, sequence: int) -> None:
        # Where Redis answers before it has synced, what it shows may yet be lost.
        if self._mark is not None and not self._database.waits_for_disk:
            self._mark.note(sequence, self._database.epoch)

    def after(self, sequence: int, limit: int, wait_seconds: float) -> list[Change]:
        """Up to `limit` changes after one, waiting for the first; none where none came."""
        until = time.monotonic() + wait_seconds
        while True:
            found = self._read(sequence, limit)
            left = until - time.monotonic()
            if found or left <= 0:
                return found
            # The socket would give up on an answer that takes longer.
            block_ms = max(1, int(min(left, self._database.timeout_seconds / 2) * 1000))
            self._database.command(
                "XREAD", "COUNT", 1, "BLOCK", block_ms, "STREAMS", STREAM, f"{sequence}-0"
            )

    def epoch(self) -> str:
        """A random name that the record got when it was begun; an emptied one gets another."""
        return adopt_record(self._database)

    def server(self) -> str:
        """Names the server's process: another one may hold an older copy of the same record."""
        return str(self._database.command("INFO", "server")["run_id"])

    def _read(self, sequence: int, limit: int) -> list[Change]:
        epoch, newest, entries = self._database.read("changes", sequence, limit)
        if epoch is None or epoch.decode() != self._database.epoch:
            raise ChangesLost("the record was emptied or replaced; everything has to be read again")
        if int(newest) < sequence:
            raise ChangesLost(
                f"the record has {int(newest)} changes and not {sequence}: it is an older copy, "
                "and everything has to be read again"
            )
        found = [_change(*entry) for entry in entries]
        if int(newest) > sequence and (not found or found[0].sequence != sequence + 1):
            raise ChangesLost(
                f"the changes after {sequence} are not kept any more; everything has to be read "
                "again"
            )
        if found:
            self._note(found[-1].sequence)
        return found


def _change(entry_id: bytes, fields: Sequence[Any]) -> Change:
    texts = [field.decode() for field in fields]
    named = dict(zip(texts[::2], texts[1::2], strict=True))
    rows = tuple(int(row) for row in named["rows"].split(",") if row)
    return Change(
        int(entry_id.partition(b"-")[0]),
        as_kind(named["kind"]),
        int(named["gallery"]),
        int(named["version"]),
        rows,
    )
