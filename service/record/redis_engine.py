"""The record in Redis: values by key, one sorted set of the keys, and a stream of changes."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import redis
from redis import exceptions
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from model.problems import InputProblem
from service.errors import DamagedRedisRecord, RecordUnavailable, ServiceError, StorageFailed
from service.ops.commit_mark import LastCommitMark
from service.ops.health import heartbeat
from service.record.engine import Change, ChangesLost, Conflict, Scan, Transaction, another_format
from service.record.keys import packed, unpacked
from service.record.picture_folder import PictureFolder
from service.record.sqlite_engine import SqliteEngine

Argument = str | bytes | int | float
# Every commit may be sent again, as it carries an id that Redis remembers; so may every read.
RETRIES = 2
CLIENT_NAME = "gmn"
FORMAT = 5
# In the place of the format, while a restore has not ended.
FILLING = "0 (a restore was cut off: empty this Redis, and restore again)"
# Keys, pictures among them; and where the last of them end.
COPIED_AT_ONCE = 200
COPIED = b"end0"
KEPT_CHANGES = 100_000
TIMEOUT_SECONDS = 5.0
VALUES = b"gmn:v:"
STREAM = "gmn:changes"


class RedisEngine:
    """Implements `Engine`; several processes may hold one record."""

    def __init__(
        self,
        url: str,
        kept_changes: int = KEPT_CHANGES,
        timeout_seconds: float = TIMEOUT_SECONDS,
        mark: LastCommitMark | None = None,
    ) -> None:
        """Connects to nothing yet.

        Args:
            url: `redis://`, `rediss://` or `unix://`, with user and password where needed.
            kept_changes: about how many changes are kept for followers; one that missed more has
                to read everything again.
            timeout_seconds: how long a command may take, and a connection.
            mark: where it is noted which changes were acknowledged; None for nowhere.

        Raises:
            InputProblem: for a URL that cannot be used.
        """
        self.place = shown_url(url)
        self.outside: PictureFolder | None = None
        self.timeout_seconds = timeout_seconds
        self._epoch = ""
        self._kept_changes = kept_changes
        self._mark = mark
        # Its commands are sent as they are written; redis-py does not declare their types.
        self._client: Any
        try:
            self._client = redis.Redis.from_url(
                url,
                protocol=2,
                socket_timeout=timeout_seconds,
                socket_connect_timeout=timeout_seconds,
                socket_keepalive=True,
                health_check_interval=30,
                retry=Retry(ExponentialBackoff(cap=0.5, base=0.05), RETRIES),
                client_name=CLIENT_NAME,
            )
        except ValueError as error:
            raise InputProblem(
                f"GMN_REDIS_URL {self.place}: cannot be used ({error}); write it like "
                "redis://user:password@host:6379/0, rediss:// for TLS"
            ) from error
        folder = resources.files(__package__)
        self._scripts = {
            name: self._client.register_script((folder / f"{name}.lua").read_text("utf-8"))
            for name in ("scan", "commit", "changes", "copy")
        }

    @property
    def adopted(self) -> str:
        """The record's name, which commits are held against."""
        return self._epoch

    @property
    def changes(self) -> RedisEngine:
        """Its change stream, whose entries' ids are their numbers, so that a gap shows."""
        return self

    def command(self, *command: Argument) -> Any:
        """Answers one command that reads, or that changes nothing when it is sent twice."""
        return self._answer(self._client.execute_command, *command)

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of keys, of one moment."""
        found: list[bytes | None] = self.command("MGET", *(VALUES + packed(key) for key in keys))
        return found

    def scan(self, scans: Sequence[Scan]) -> list[list[tuple[bytes, bytes]]]:
        """The keys and values of each range."""
        arguments: list[Argument] = []
        for one in scans:
            arguments += (packed(one.start), packed(one.end), one.limit, int(one.reverse))
        found = self._answer(self._scripts["scan"], (), arguments)
        try:
            return [list(zip(map(unpacked, one[::2]), one[1::2], strict=True)) for one in found]
        except (IndexError, OverflowError) as error:
            raise self.damage("a key is not what was written") from error

    def commit(self, transaction: Transaction) -> None:
        """Makes a transaction's changes; they are on the disk when this returns."""
        changed = {packed(key): value for key, value in transaction.puts.items()}
        puts = [(key, value) for key, value in changed.items() if value is not None]
        deletes = [key for key, value in changed.items() if value is None]
        arguments: list[Argument] = [
            secrets.token_hex(16),
            self._epoch,
            self._kept_changes,
            int(transaction.removes),
            *(len(transaction.guards), len(puts), len(deletes), len(transaction.notes)),
        ]
        for key, guard in transaction.guards.items():
            arguments += (packed(key), int(guard is not None), guard or b"")
        for key, value in puts:
            arguments += (key, value)
        arguments += deletes
        for one in transaction.notes:
            rows = ",".join(map(str, one.row_ids))
            arguments += (one.kind, one.gallery_id, one.version, rows)
        answer = self._answer(self._scripts["commit"], (), arguments)
        if answer == b"conflict":
            raise Conflict
        if answer != b"done":
            raise self._another()

    def copy_to(self, path: Path) -> None:
        """Copies the record as it is at one moment into a new SQLite file, while it is written.

        Each key is read once, and again as often as a commit has changed it since, until one answer
        has all that are left: the copy is of the moment of that answer.

        Raises:
            RecordUnavailable: another copy was begun, or this one was held up for minutes.
        """
        name = secrets.token_hex(16)
        place = b""
        read = 0
        changed = 0
        with contextlib.closing(SqliteEngine(path)) as copy:
            while place != COPIED or read < changed:
                asked = [name, self._epoch, place, read, COPIED_AT_ONCE]
                found = self._answer(self._scripts["copy"], (), asked)
                if not found:
                    raise RecordUnavailable("another copy was begun, or a disk hung; begin again")
                place, changed, *entries = found
                pairs = zip(map(unpacked, entries[::2]), entries[1::2], strict=True)
                copy.commit(Transaction(copy, puts=dict(pairs)))
                read = min(read + COPIED_AT_ONCE, changed)
        self.command("DEL", "gmn:changed")

    def damage(self, what: str) -> ServiceError:
        """The error for something that is not what was written."""
        return DamagedRedisRecord(what)

    def require_same(self) -> None:
        """Raises `RecordUnavailable` where another record has taken this one's place."""
        if (self.command("GET", "gmn:epoch") or b"").decode() != self._epoch:
            raise self._another()

    def stored_bytes(self) -> int:
        """Bytes of memory that the server uses, for every database in it."""
        return int(self.command("INFO", "memory")["used_memory"])

    def now_ms(self) -> int:
        """The server's clock, in milliseconds."""
        seconds, microseconds = self.command("TIME")
        return int(seconds) * 1000 + int(microseconds) // 1000

    def last(self) -> int:
        """The newest change's number; 0 where nothing has happened."""
        newest = int(self.command("GET", "gmn:seq") or 0)
        self._acknowledge(newest)
        return newest

    def after(self, sequence: int, limit: int, wait_seconds: float) -> list[Change]:
        """Up to `limit` changes after one, waiting for the first; none where none came."""
        until = time.monotonic() + wait_seconds
        while True:
            found = self._changes_after(sequence, limit)
            left = until - time.monotonic()
            if found or left <= 0:
                return found
            # The socket would give up on an answer that takes longer.
            block_ms = max(1, int(min(left, self.timeout_seconds / 2) * 1000))
            self.command("XREAD", "COUNT", 1, "BLOCK", block_ms, "STREAMS", STREAM, f"{sequence}-0")

    def epoch(self) -> str:
        """A random name that the record got when it was begun; an emptied one gets another.

        Later commits are held against it.

        Raises:
            InputProblem: for a record of another format, for one that lacks acknowledged changes,
                and for another one than before.
        """
        self._require_acknowledged()
        # Of two processes that begin at once, one does.
        for name, value in (("gmn:format", FORMAT), ("gmn:epoch", secrets.token_hex(16))):
            # A full server refuses every SET.
            if self.command("GET", name) is None:
                self.command("SET", name, value, "NX")
        found = self.command("GET", "gmn:format").decode(errors="replace")
        if found != str(FORMAT):
            raise another_format(f"Redis at {self.place}", found, FORMAT)
        self._epoch = self.command("GET", "gmn:epoch").decode()
        return self._epoch

    def require_order(self, _: Callable[[], bool] = lambda: False, /) -> None:
        """Raises `InputProblem` where damage moved a key, so that others are not found."""
        ranges = (("-inf", "(0"), ("(0", "+inf"))
        if any(self.command("ZCOUNT", "gmn:order", *one) for one in ranges):
            raise InputProblem(
                f"Redis at {self.place}: the record's keys are not in order, its file is damaged; "
                "restore a backup"
            )

    def server(self) -> str:
        """Names the server's process: another one may hold an older copy of the same record."""
        return str(self.command("INFO", "server")["run_id"])

    def others_connected(self) -> bool:
        """Whether another process of this program has a connection to this database."""
        number = self.command("CLIENT ID")
        clients = {int(one["id"]): one for one in self.command("CLIENT LIST")}
        own = clients.pop(number)
        like = (own["db"], CLIENT_NAME)
        return any((one["db"], one["name"]) == like for one in clients.values())

    def moment(self) -> contextlib.nullcontext[RedisEngine]:
        """Itself: every read shows what other processes have written."""
        return contextlib.nullcontext(self)

    def close(self) -> None:
        """Closes every connection."""
        self._client.close()

    def _require_acknowledged(self) -> None:
        if self._mark is None:
            return
        record, noted = self._mark.read()
        found = (self.command("GET", "gmn:epoch") or b"").decode()
        if record not in ("", found):
            raise InputProblem(
                f"Redis at {self.place}: holds {'another' if found else 'no'} record, and the data "
                f"directory {self._mark.path.parent} belongs to the record {record[:8]}: Redis was "
                "emptied or replaced, or this is another database of it; name the right one in "
                "GMN_REDIS_URL, or restore a backup (gmn restore). To begin with what this Redis "
                f"holds, remove {self._mark.path}; snapshots that it does not know are then moved "
                "aside"
            )
        newest = int(self.command("GET", "gmn:seq") or 0)
        if newest < noted:
            raise InputProblem(
                f"Redis at {self.place}: holds changes up to {newest}, and {noted} were "
                "acknowledged: the end of its append-only file was cut off, or an older copy was "
                "put back; restore a backup (gmn restore) into an empty one. To go on with what "
                f"it holds, remove {self._mark.path}"
            )

    def _another(self) -> ServiceError:
        return RecordUnavailable(
            f"Redis at {self.place} holds another record than before: it was emptied or replaced; "
            "put its data back, or restart the service"
        )

    def _acknowledge(self, sequence: int) -> None:
        if self._mark is not None:
            self._mark.note(sequence, self._epoch)

    def _changes_after(self, sequence: int, limit: int) -> list[Change]:
        epoch, last, entries = self._answer(self._scripts["changes"], (), [sequence, limit])
        found = [_change(*entry) for entry in entries]
        newest = int(last)
        why = ""
        if (epoch or b"").decode() != self._epoch:
            why = "the record was emptied or replaced"
        elif newest < sequence:
            why = f"the record has {newest} changes and not {sequence}: it is an older copy"
        elif newest > sequence and (not found or found[0].sequence != sequence + 1):
            why = f"the changes after {sequence} are not kept any more"
        if why:
            raise ChangesLost(f"{why}; everything has to be read again")
        if found:
            self._acknowledge(found[-1].sequence)
        return found

    def _answer(self, ask: Callable[..., Any], *arguments: Any) -> Any:
        """What Redis answers; its errors are raised as errors of the service."""
        heartbeat()
        try:
            return ask(*arguments)
        except (exceptions.RedisError, OSError) as error:
            text = str(error)
            full = any(word in text for word in ("OOM ", "MISCONF "))
            if full or isinstance(error, exceptions.OutOfMemoryError):
                raise StorageFailed(
                    f"Redis at {self.place} could not take it ({error}); nothing was stored, raise "
                    "its maxmemory or free space on its disk, and send the request again"
                ) from error
            refused = isinstance(error, exceptions.ReadOnlyError | exceptions.NoPermissionError)
            passing = refused or text.startswith("BUSY")
            if isinstance(error, exceptions.ResponseError) and not passing:
                raise
            why = "does not allow it" if refused else "does not answer"
            raise RecordUnavailable(f"Redis at {self.place} {why} ({error})") from error


def shown_url(url: str) -> str:
    """A URL of Redis without user, password and options, fit for a message."""
    parts = urlsplit(url)
    place = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{place}{parts.path}"


def _change(entry_id: bytes, fields: Sequence[Any]) -> Change:
    texts = [field.decode() for field in fields]
    named: dict[str, Any] = dict(zip(texts[::2], texts[1::2], strict=True))
    rows = tuple(int(row) for row in named["rows"].split(",") if row)
    sequence = int(entry_id.partition(b"-")[0])
    return Change(sequence, named["kind"], int(named["gallery"]), int(named["version"]), rows)
