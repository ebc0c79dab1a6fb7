"""The keys that count now: those of the record store and those of `GMN_API_KEYS_FILE`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from model.problems import InputProblem
from service.errors import RecordUnavailable, Unauthorised
from service.http.callers import WHOEVER_IS_HERE, Caller
from service.http.key_file import KeyFile, read_key_file
from service.http.keys import find_key
from service.ops.pulse import Stage, WatchedPool
from service.record.key_records import ApiKey
from service.record.small_records import Keys

log = logging.getLogger(__name__)
SECONDS_BETWEEN_READINGS = 1.0
LONGEST_READING_SECONDS = 0.5
# A record that does not answer is given up after less.
READING_SECONDS = 45.0
NO_FILE = KeyFile((), ())


class KeyRing:
    """Tells who is calling; lives on the event loop, and reads keys on a thread of its own.

    A key that another process makes or revokes counts within a second; while the record does not
    answer, those that counted last go on to.

    Raises:
        InputProblem: where the file is wrong, or where no key protects an address that other
            machines reach.
    """

    def __init__(self, records: Keys, file: Path | None, loopback: bool) -> None:
        """Reads the keys for the first time; blocks.

        Args:
            records: of the record store.
            file: of further keys. Where one is named, a key is asked for, also if it is empty.
            loopback: whether only this machine reaches the service, which then asks for a key as
                soon as there is one.
        """
        self._records = records
        self._file = file
        self._loopback = loopback
        self._seen: tuple[int, ...] | None = None
        self._deployed = NO_FILE
        self._recorded: Sequence[ApiKey] | None = None
        self._keys: Mapping[str, ApiKey] = {}
        self._read_at = 0.0
        self._reading: asyncio.Future[None] | None = None
        self._reading_since = 0.0
        self._read()
        if self._deployed.problems:
            raise InputProblem(self._deployed.problems[0])
        if not self._keys and not loopback:
            raise InputProblem(
                "other machines can reach this address, and there is no API key, so that anyone "
                "could read and delete galleries; make a key with gmn keys create --scope admin, "
                "name a file of keys in GMN_API_KEYS_FILE, or serve on 127.0.0.1"
            )
        if not self._keys and file is None:
            log.warning(
                "there is no API key: every program on this machine may do everything; a proxy in "
                "front needs keys, so make one with gmn keys create"
            )
        self._reader = WatchedPool(1, "keys")

    @property
    def stage(self) -> Stage:
        """Its thread, for the watchdog."""
        return Stage("key reader", self._reader.silent_seconds, READING_SECONDS)

    async def caller(self, key: str | None, local: bool = True) -> Caller:
        """Who sends this key, or none.

        Args:
            key: as it was sent.
            local: whether the request comes from this machine itself and through no proxy.

        Raises:
            Unauthorised: where a key is asked for, and this is none that counts.
        """
        await self._refresh()
        if not self._keys and self._loopback and self._file is None:
            if local:
                return WHOEVER_IS_HERE
            raise Unauthorised(
                "this service has no key yet, and without one it answers this machine only; the "
                "request came through a proxy, or by HTTP/1.0 as a proxy's does: make a key with "
                "gmn keys create"
            )
        if key is None:
            raise Unauthorised(
                "this service asks for a key; send one as 'Authorization: Bearer <key>', or make "
                "one with gmn keys create"
            )
        found = find_key(key, self._keys)
        if found is None:
            raise Unauthorised(
                "this key is unknown here or was revoked; send another, or make one with "
                "gmn keys create"
            )
        if found.expires_at is not None and found.expires_at <= datetime.now(UTC):
            raise Unauthorised(
                f"the key {found.key_id} expired at {found.expires_at.isoformat()}; send another, "
                "or make one with gmn keys create"
            )
        return Caller.of(found)

    def close(self) -> None:
        """Ends the thread."""
        self._reader.shutdown()

    async def _refresh(self) -> None:
        if self._is_fresh():
            return
        if self._reading is None or self._reading.done():
            loop = asyncio.get_running_loop()
            self._reading = loop.run_in_executor(self._reader, self._read)
            self._reading_since = time.monotonic()
        # Where the record takes its time, the keys that counted last do until it answers.
        with contextlib.suppress(TimeoutError):
            left = self._reading_since + LONGEST_READING_SECONDS - time.monotonic()
            await asyncio.wait_for(asyncio.shield(self._reading), max(0.0, left))

    def _is_fresh(self) -> bool:
        return time.monotonic() - self._read_at < SECONDS_BETWEEN_READINGS

    def _read(self) -> None:
        began = time.monotonic()
        deployed = self._read_file()
        try:
            self._recorded = self._records.all()
        except RecordUnavailable as error:
            if self._recorded is None:
                raise
            log.error("keys could not be read again: %s", error.detail)
            began = time.monotonic()
        self._keys = {key.key_id: key for key in (*deployed.keys, *self._recorded)}
        self._read_at = began

    def _read_file(self) -> KeyFile:
        """The file's keys, read again where it has changed.

        Once the service runs, a wrong line is no key and the others count; a file that is gone has
        none. So an editor's slip locks out those whose lines it hits, and lets nobody in.
        """
        if self._file is None:
            return NO_FILE
        first = self._seen is None
        seen = _identity_of(self._file)
        if seen == self._seen:
            return self._deployed
        self._seen = seen
        try:
            self._deployed = read_key_file(self._file)
        except InputProblem as problem:
            if first:
                raise
            self._deployed = KeyFile((), (str(problem),))
        if not first:
            for wrong in self._deployed.problems:
                log.error("%s", wrong)
        return self._deployed


def _identity_of(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except OSError:
        return ()
    return (found.st_mtime_ns, found.st_size, found.st_ino)
