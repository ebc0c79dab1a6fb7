"""What a store has to offer below the rules: an ordered map whose commits are all or nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from pydantic_core import from_json

from service.errors import ServiceError
from service.record.changes import Change, ChangeKind
from service.record.encoding import as_json, is_index, seal, unseal

Result = TypeVar("Result")
# Of two processes that write one gallery at once, one commits and the other tries again.
ATTEMPTS = 100
# More keys than there are.
ALL = 2**62


class Conflict(Exception):
    """A key that a commit depends on was changed by another process."""


@dataclass(frozen=True)
class Note:
    """An entry of the change stream, before it has a number."""

    kind: ChangeKind
    gallery_id: int = 0
    version: int = 0
    row_ids: tuple[int, ...] = ()


@dataclass
class Commit:
    """Changes that are made together or not at all.

    Attributes:
        guards: values that these keys have to have still; None for none.
        puts: values by key; None removes the key. The keys of indexes have an empty value.
        notes: for the change stream.
        removes: it removes what has to be gone, also from a full store, and from its log.
    """

    guards: dict[bytes, bytes | None] = field(default_factory=dict)
    puts: dict[bytes, bytes | None] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)
    removes: bool = False


@dataclass(frozen=True)
class Scan:
    """A range of keys from `start` to before `end`, in order, or in the opposite one."""

    start: bytes
    end: bytes
    limit: int = ALL
    reverse: bool = False


class ChangeStream(Protocol):
    """What happened to a record that several processes share, in order."""

    def last(self) -> int:
        """The newest change's number; 0 where nothing has happened."""

    def after(self, sequence: int, limit: int, wait_seconds: float) -> list[Change]:
        """Up to `limit` changes after one, waiting for the first; none where none came.

        Raises:
            ChangesLost: where some of them are kept no more, or where the record is another one
                than when `epoch` was asked last.
            RecordUnavailable: the record does not answer.
        """

    def epoch(self) -> str:
        """A random name that the record got when it was begun; an emptied one gets another."""

    def server(self) -> str:
        """Names the server's process: another one may hold an older copy of the same record."""


class Engine(Protocol):
    """An ordered map of bytes; it is read from any thread, and written from one at a time."""

    @property
    def place(self) -> str:
        """What it is called in messages."""

    @property
    def changes(self) -> ChangeStream | None:
        """Its change stream; None where one process alone writes it."""

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of keys, of one moment."""

    def scan(self, scans: Sequence[Scan]) -> list[list[tuple[bytes, bytes]]]:
        """The keys and values of each range."""

    def commit(self, commit: Commit) -> None:
        """Makes changes; they are on the disk when this returns.

        Raises:
            Conflict: a guarded key has another value; nothing was changed.
            StorageFailed: the store is full; nothing was changed.
            RecordUnavailable: it does not answer; the changes may have been made.
        """

    def damage(self, what: str) -> ServiceError:
        """The error for something that is not what was written."""

    def require_same(self) -> None:
        """Raises `RecordUnavailable` where another record has taken this one's place."""

    def now_ms(self) -> int:
        """The store's clock, which all processes share, in milliseconds."""

    def close(self) -> None:
        """Closes every connection."""


class Reader:
    """Reads bodies, and checks that each is what was written."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def get(self, keys: Sequence[bytes], named: Sequence[str] = ()) -> list[bytes | None]:
        """The bodies of keys; None for those that are not there.

        Args:
            keys: in any order.
            named: what an error calls each; the keys themselves by default.

        Raises:
            ServiceError: one of them is not what was written.
        """
        values = self._values(keys) if keys else []
        names = named or [""] * len(keys)
        return [self.body(*one) for one in zip(keys, values, names, strict=True)]

    def _values(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return self.engine.get(keys)

    def json(self, key: bytes) -> Any:
        """The plain data under a key; None where it is not there."""
        return as_data(self.get([key])[0])

    def scan(self, *scans: Scan) -> list[list[tuple[bytes, bytes]]]:
        """Keys and bodies of ranges; the body of an index's key is empty."""
        return [
            [(key, self.body(key, value) or b"") for key, value in found]
            for found in self.engine.scan(scans)
        ]

    def every(
        self, bounds: tuple[bytes, bytes], at_once: int = 500
    ) -> Iterator[tuple[bytes, bytes]]:
        """All of a range, read in batches; what is written meanwhile may be among it or not."""
        start, end = bounds
        while found := self.scan(Scan(start, end, at_once))[0]:
            yield from found
            start = found[-1][0] + b"\0"

    def body(self, key: bytes, value: bytes | None, named: str = "") -> bytes | None:
        """What was sealed under a key."""
        # A damaged page of SQLite may give another type than was written.
        if not (isinstance(key, bytes) and isinstance(value, bytes | None)):
            raise self.engine.damage("a key or its value is not what was written")
        if value is None or (not value and is_index(key)):
            return value
        body = unseal(key, value)
        if body is None:
            raise self.engine.damage(f"{named or shown(key)} is not what was written")
        return body


class Transaction(Reader):
    """Reads, and changes that are committed together.

    What it reads by `json` has to be unchanged when it commits. Other reads are not guarded: the
    rules read what every change of the others changes too, such as a gallery's entry, by `json`.
    A scan does not see the transaction's own changes.
    """

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.commit = Commit()
        self._read: dict[bytes, bytes | None] = {}

    def _values(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Values as this transaction has left them."""
        puts = self.commit.puts
        unknown = [key for key in dict.fromkeys(keys) if key not in puts and key not in self._read]
        if unknown:
            self._read |= dict(zip(unknown, self.engine.get(unknown), strict=True))
        return [puts[key] if key in puts else self._read[key] for key in keys]

    def json(self, key: bytes) -> Any:
        """The plain data under a key, which have to be the same still when this is committed."""
        found = super().json(key)
        if key in self._read:
            self.commit.guards[key] = self._read[key]
        return found

    def put(self, key: bytes, body: bytes) -> None:
        """Puts a body under a key."""
        self.commit.puts[key] = seal(key, body)

    def put_index(self, key: bytes) -> None:
        """Puts an index's key."""
        self.commit.puts[key] = b""

    def put_json(self, key: bytes, body: Any) -> None:
        """Puts plain data under a key."""
        self.put(key, as_json(body))

    def delete(self, *keys: bytes) -> None:
        """Removes keys."""
        for key in keys:
            self.commit.puts[key] = None

    def note(
        self, kind: ChangeKind, gallery_id: int = 0, version: int = 0, rows: Sequence[int] = ()
    ) -> None:
        """Adds an entry to the change stream."""
        self.commit.notes.append(Note(kind, gallery_id, version, tuple(rows)))


def transact(engine: Engine, rule: Callable[[Transaction], Result]) -> Result:
    """Runs a rule and commits what it changes; runs it again where another process was first.

    Args:
        engine: the store.
        rule: reads and changes by the transaction alone, so that it can be run again.
    """
    for attempt in range(ATTEMPTS):
        transaction = Transaction(engine)
        try:
            result = rule(transaction)
        except ServiceError:
            # What was not found may be missing because the store was emptied.
            engine.require_same()
            raise
        if not (transaction.commit.puts or transaction.commit.notes):
            return result
        try:
            engine.commit(transaction.commit)
        except Conflict:
            if attempt + 1 == ATTEMPTS:
                raise
            continue
        return result
    raise AssertionError


def as_data(body: bytes | None) -> Any:
    """The plain data of a body; None for none."""
    return None if body is None else from_json(body)


def shown(key: bytes) -> str:
    """A key as a message names it: `crop 1/0/24`."""
    kind, *parts = (part.decode(errors="replace") for part in key.removeprefix(b"!").split(b"\0"))
    return f"{kind} {'/'.join(part.lstrip('0') or '0' for part in parts if part)}"
