"""The audit log: append-only lines saying which key did what, without the name of any person.

Identities and external ids are written as keyed hashes. The key lies in a file beside the log;
without it the hashes mean nothing, so the log can be kept when people are forgotten.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import logging
import os
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, Literal

from model.crops.texts import nfc
from model.problems import InputProblem
from model.wording import counted
from service.errors import ServiceError, StorageFailed
from service.ops.data_directory import (
    MEBIBYTE,
    failpoint,
    give_up_reserve,
    left_for_deletions,
    sync,
)
from service.ops.numbered_lines import MAX_BYTES, CorruptLog, NumberedLog, newest_line
from service.ops.threads import CALLER, MonitoredThreadPool

log = logging.getLogger(__name__)
Phase = Literal["asked", "done", "failed"]
LOG_NAME = "audit.jsonl"
# This event is logged even if searches and views are not.
REFUSED = "refused"
KEY_NAME = "audit.key"
# The line of a search reaches the file within a second.
PAUSE_SECONDS = 0.5
RETRY_SECONDS = 5.0
# Searches and views are refused once lines could not be written for this time.
FAILING_SECONDS = 5.0
# The first refusal of an address is logged at once; further ones until the end of this time are
# counted in a single line.
REFUSAL_SECONDS = 60.0
MOST_REFUSED = 100
# Size limits of a line: for searches and views, and for deletions, which name up to 1,000 crops.
VIEW_BYTES = 8192
LINE_BYTES = 96 * 1024
# Least size limit of a line about one of many views.
SHORT_VIEW_BYTES = 1024
# Entries kept of each list in a line over its limit; no entries if the line is still too long.
SHOWN_ENTRIES = 10
# Limit of the lines waiting to be written; lines beyond it are only counted.
BUFFER_BYTES = 16 * 1024 * 1024
KEY_BYTES = 32
# Operations that free space or revoke access may use the reserved disk space.
FREEING = ("delete", "forget", "revoke")
# Fields written as keyed hashes, and fields omitted when empty.
HASHED = ("identity", "identities", "new_identity", "external_id")
OPTIONAL = {
    *(*HASHED, "gallery", "crop_ids", "query_id", "filters", "purpose"),
}
# Inherited by tasks and by the calls of thread pools, as `CALLER` is.
_request_id: ContextVar[str | None] = ContextVar("request_id", default=None)


def act_as(name: str, request_id: str | None = None) -> None:
    """Set the actor of audit lines in this context; its work also takes turns under this name.

    The name is a key's id, `loopback` for a local request without a key, or `uid:1000` for a
    command.
    """
    CALLER.set(name)
    _request_id.set(request_id)


class AuditLog(contextlib.AbstractContextManager["AuditLog"]):
    """The audit log of a data directory; the service and the commands append to it side by side.

    Args:
        max_bytes: size at which a new file is started.
        queries: log searches and views too.
        on_drop: called for each line that is only counted because too many are waiting.
        reserved_bytes: disk space that is kept free for deletions.

    Raises:
        InputProblem: the log or its key cannot be used.
    """

    def __init__(
        self,
        data_dir: Path,
        max_bytes: int = MAX_BYTES,
        queries: bool = True,
        on_drop: Callable[[], object] = lambda: None,
        reserved_bytes: int = 0,
    ) -> None:
        self.queries = queries
        self._on_drop = on_drop
        self._data_dir = data_dir
        self._reserved_bytes = reserved_bytes
        # One thread, because each line has the number after the previous one's.
        self.threads = MonitoredThreadPool(1, "audit log")
        path = data_dir / LOG_NAME
        try:
            self._key = _read_key(data_dir / KEY_NAME)
            self._file = NumberedLog(path, max_bytes)
        except OSError as error:
            raise InputProblem(
                f"{path}: the audit log cannot be written ({error.strerror}); name a data "
                "directory that this user may write, with --data-dir or GMN_DATA_DIR"
            ) from error
        except CorruptLog as error:
            raise InputProblem(
                f"{path}: {error}; move the file away and keep it, and a new one is begun"
            ) from error
        self._buffer: list[str] = []
        self._buffered_bytes = 0
        self._all_synced = True
        self._refused: dict[tuple[str, str, int], int] = {}
        self._counted_at = time.monotonic()
        self._dropped = 0
        # Why lines could not be written, and since when, by `time.monotonic`.
        self._failure: ServiceError | None = None
        self._failing_since = 0.0

    def record(
        self, event: str, phase: Phase = "done", durable: bool = True, **details: Any
    ) -> None:
        """Write a line and block until it would survive a power cut, unless `durable` is false.

        Args:
            event: verb and noun, such as `delete_crop`.
            details: further JSON fields: `gallery` (its name), `crop_ids`, their `count`, `filters`
                and `purpose` of a search. Fields named in `HASHED`, also within `filters`, are
                written as keyed hashes; no other field may be personal or secret.

        Raises:
            StorageFailed, RecordWaits: the line could not be written.
        """
        if event.startswith(FREEING) and phase == "asked":
            give_up_reserve(self._data_dir)
        line = self._format_line(event, phase, details, LINE_BYTES)
        failpoint("audit.before-line")
        self._file.append([line], durable)
        self._all_synced &= durable
        failpoint("audit.line-written")

    def note_view(self, event: str, **details: Any) -> None:
        """Log a search, a view or a refusal from the event loop, without waiting.

        `write_lines` writes the line. Until the file can be written, up to `BUFFER_BYTES` of lines
        wait in memory; the number of lines beyond that is logged with the next one.

        Raises:
            StorageFailed, RecordWaits: as `require_log`, except for a refusal; the search or view
                must not be answered.
        """
        self.note_views(event, [{}], **details)

    def note_views(self, event: str, views: Sequence[Mapping[str, Any]], **details: Any) -> None:
        """Log several searches or views, each of which has a line with further fields."""
        if not views or not (self.queries or event == REFUSED):
            return
        if event != REFUSED:
            self.require_log()
        # A request may have thousands of views: its long lists are hashed once.
        max_bytes = max(VIEW_BYTES // len(views), SHORT_VIEW_BYTES)
        fields = self._build_fields(event, "done", details, max_bytes)
        for view in views:
            line = json.dumps({**fields, **self._shorten(view, 0)})
            if self._buffered_bytes + len(line) <= BUFFER_BYTES:
                self._buffer.append(line)
                self._buffered_bytes += len(line)
            else:
                self._dropped += 1
                self._on_drop()

    def require_log(self) -> None:
        """Raise an error if searches and views could not be logged for seconds.

        Raises:
            StorageFailed: lines could not be written.
            RecordWaits: lines wait for a process that stands still.
        """
        if not self.queries:
            return
        if self._failure and time.monotonic() > self._failing_since + FAILING_SECONDS:
            # An error that is raised many times would grow by a traceback each time.
            raise type(self._failure)(self._failure.why)

    def require_room(self) -> None:
        """Raise an error if a search cannot be logged: searches stop before views do.

        Raises:
            StorageFailed, RecordWaits: as `require_log`; or the disk is read-only, or the disk or
                the buffer nearly full.
        """
        if not self.queries:
            return
        self.require_log()
        self._file.require_writable()
        if self._buffered_bytes > BUFFER_BYTES // 2:
            raise StorageFailed(
                "the audit log cannot be written, and nothing is searched without a line in it; "
                "free space in the data directory, or run gmn audit verify"
            )
        self._require_disk()

    @property
    def is_writable(self) -> bool:
        """False while searches are refused because they cannot be logged."""
        try:
            self.require_room()
        except ServiceError:
            return False
        return True

    def _require_disk(self) -> None:
        left = left_for_deletions(self._data_dir)
        if left < self._reserved_bytes * 3 // 4:
            raise StorageFailed(
                f"the disk of {self._data_dir} has {left // MEBIBYTE} MiB left, which are kept for "
                "deletions, and nothing is searched without a line in the audit log; free space "
                "there, delete crops, or lower GMN_RESERVED_DISK_BYTES"
            )

    def note_refusal(self, actor: str, address: str, status: int) -> None:
        """Log a 401 or 403: the first of an address at once, further ones as a count per minute."""
        refusal = (actor, address, status)
        if refusal not in self._refused and len(self._refused) >= MOST_REFUSED:
            refusal = ("unknown", "others", status)
        if refusal in self._refused:
            self._refused[refusal] += 1
            return
        self._refused[refusal] = 0
        self._buffer_refusal(refusal, 1)

    def _count_refused(self) -> None:
        for refusal, count in self._refused.items():
            if count:
                self._buffer_refusal(refusal, count)
        self._refused.clear()
        self._counted_at = time.monotonic()

    def _buffer_refusal(self, refusal: tuple[str, str, int], count: int) -> None:
        actor, address, status = refusal
        self.note_view(
            REFUSED, actor=actor, request_id=None, address=address, status=status, count=count
        )

    async def write_lines(self) -> None:
        while True:
            await asyncio.sleep(PAUSE_SECONDS)
            if time.monotonic() > self._counted_at + REFUSAL_SECONDS:
                self._count_refused()
            if not self._buffer and self._all_synced:
                continue
            try:
                self._require_disk()
                await self.threads.run(self.flush)
            except ServiceError as error:
                lines = counted(len(self._buffer), "line waits", "lines wait")
                log.error("audit log: %s: %s", lines, error.detail)
                await asyncio.sleep(RETRY_SECONDS)

    def flush(self) -> None:
        """Write the buffered lines, and sync them with those before.

        Raises:
            StorageFailed, RecordWaits: the lines could not be written; they stay buffered.
        """
        waiting = len(self._buffer)
        dropped = self._dropped
        lines = self._buffer[:waiting]
        if dropped:
            lines.append(self._format_line("dropped_lines", "done", {"count": dropped}, VIEW_BYTES))
        if lines or not self._all_synced:
            try:
                self._file.append(lines, durable=True)
            except ServiceError as error:
                if self._failure is None:
                    self._failing_since = time.monotonic()
                self._failure = error
                raise
            self._failure = None
            self._all_synced = True
        self._dropped -= dropped
        self._buffered_bytes -= sum(len(line) for line in lines[:waiting])
        del self._buffer[:waiting]

    def _format_line(
        self, event: str, phase: Phase, details: Mapping[str, Any], max_bytes: int
    ) -> str:
        return json.dumps(self._build_fields(event, phase, details, max_bytes))

    def _build_fields(
        self, event: str, phase: Phase, details: Mapping[str, Any], max_bytes: int
    ) -> dict[str, Any]:
        for entries in (max_bytes, SHOWN_ENTRIES, 0):
            line = {
                "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "event": event,
                "phase": phase,
                "actor": CALLER.get(),
                "request_id": _request_id.get(),
                **self._shorten(details, entries),
            }
            if len(json.dumps(line)) <= max_bytes:
                break
        return line

    def _shorten(self, fields: Mapping[str, Any], entries: int) -> dict[str, Any]:
        """Hash names and cut lists to `entries`; `shortened` gets each list's count and hash."""
        shown: dict[str, Any] = {}
        cut: dict[str, Any] = {}
        for name, value in fields.items():
            if not value and name in OPTIONAL:
                continue
            if name in HASHED:
                several = isinstance(value, list)
                value = [self.hashed(text) for text in value] if several else self.hashed(value)
            if name == "filters":
                value = self._shorten(value, entries)
            elif isinstance(value, list) and len(value) > entries:
                sha256 = hashlib.sha256(json.dumps(value).encode()).hexdigest()
                cut[name] = {"count": len(value), "sha256": sha256}
                value = value[:entries]
            shown[name] = value
        return {**shown, "shortened": cut} if cut else shown

    @contextlib.asynccontextmanager
    async def audited(self, event: str, **details: Any) -> AsyncIterator[dict[str, Any]]:
        """Wrap a destructive operation: an `asked` line is on the disk before the block runs.

        Fields that the block adds to the yielded dictionary are written to the line that follows
        it: `done`, or `failed` with the error's code. Use it inside a critical section, which a
        disconnecting client does not interrupt.

        Raises:
            StorageFailed, RecordWaits: the `asked` line could not be written; the block does not
                run.
        """
        await self.threads.run(self.record, event, "asked", **details)
        result: dict[str, Any] = {}
        phase: Phase = "failed"
        try:
            yield result
            phase = "done"
        except BaseException as error:
            code = error.code if isinstance(error, ServiceError) else type(error).__name__
            result["problem"] = code
            raise
        finally:
            await self.done(event, phase, True, **{**details, **result})

    async def note(self, event: str, **details: Any) -> None:
        """Write a line before an answer is sent.

        Raises:
            StorageFailed, RecordWaits: the line could not be written; nothing must be answered.
        """
        await self.threads.run(self.record, event, durable=False, **details)

    async def done(
        self, event: str, phase: Phase = "done", durable: bool = False, **details: Any
    ) -> None:
        try:
            await self.threads.run(self.record, event, phase, durable, **details)
        except ServiceError:
            # The operation has already happened, so its answer must not be an error.
            log.exception("audit log: %s %s could not be written", event, phase)

    def newest_line(self) -> int:
        """Return the number of all processes' newest line; 0 if there is none or it is damaged."""
        try:
            return newest_line(self._data_dir / LOG_NAME)
        except (OSError, CorruptLog):
            return 0

    def hashed(self, name: str) -> str:
        return hmac.digest(self._key, nfc(name).encode(), "sha256").hex()

    def __exit__(self, *_: object) -> None:
        self.threads.shutdown()
        try:
            self._count_refused()
            self.flush()
        except ServiceError as error:
            lines = counted(len(self._buffer), "line is", "lines are")
            log.error("audit log: %s lost: %s", lines, error.detail)
        finally:
            self._file.close()


def audit_files(data_dir: Path) -> list[Path]:
    return sorted(data_dir.glob("audit.*jsonl"))


def _read_key(path: Path) -> bytes:
    """Read the log's secret of `KEY_BYTES`, or create it; safe in several processes at once."""
    if not path.exists():
        with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.") as made:
            made.write(secrets.token_bytes(KEY_BYTES))
            made.flush()
            os.fsync(made.fileno())
            with contextlib.suppress(FileExistsError):
                os.link(made.name, path)
        sync(path.parent)
    key = path.read_bytes()
    if len(key) != KEY_BYTES:
        raise InputProblem(
            f"{path}: holds {len(key)} bytes where {KEY_BYTES} belong; restore it from a copy, or "
            "remove it: later lines of the audit log then hash names in another way"
        )
    return key
