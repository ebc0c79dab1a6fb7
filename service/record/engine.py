"""What a store has to offer below the rules: an ordered map whose commits are all or nothing.

Its keys sort as what they name does; its values carry a checksum.
"""

from __future__ import annotations

import functools
import itertools
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, Protocol, TypeVar

from pydantic_core import from_json, to_json

from model.problems import InputProblem
from service.errors import ServiceError
from service.record.keys import INDEX_KEYS, below, key, last_text, shown

if TYPE_CHECKING:
    from service.record.picture_folder import PictureFolder

Given = ParamSpec("Given")
Result = TypeVar("Result")
Item = TypeVar("Item")
ChangeKind = Literal[
    "gallery_created",
    "gallery_changed",
    "gallery_deleted",
    "calibration",
    "added",
    "removed",
    "relabelled",
    "replaced",
    "jobs",
    "keys",
]
# Of two processes that write one gallery at once, one commits and the other tries again.
ATTEMPTS = 100
KEYS_AT_ONCE = 500
# Pictures may be among them.
PUT_AT_ONCE = 200
# More keys than there are.
ALL = 2**62
CHECKSUM_BYTES = 4


def seal(own_key: bytes, body: bytes) -> bytes:
    """A body with a checksum of it and of its key before it."""
    return zlib.crc32(body, zlib.crc32(own_key)).to_bytes(CHECKSUM_BYTES, "big") + body


def another_format(place: str, found: int | str, read: int) -> InputProblem:
    """The error for a record of another format than the one that is read."""
    return InputProblem(
        f"{place}: has format version {found}, and this program reads {read}; serve it with the "
        "program version that wrote it"
    )


def batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Items in lists of so many, the last one shorter."""
    left = iter(items)
    while some := list(itertools.islice(left, size)):
        yield some


class Conflict(Exception):
    """A key that a commit depends on was changed by another process."""


class ChangesLost(ServiceError):
    """Changes that a follower has not seen cannot be read any more: it has to read everything."""

    code = "record_unavailable"


@dataclass(frozen=True)
class Change:
    """One committed change.

    Attributes:
        sequence: its number; the next change has the next one; 0 until it is committed.
        kind: what happened. `replaced` stands for a restore and for a reindex: every crop is to be
            read again. `gallery_changed` is of the gallery's record: settings, embedder, and what
            is being prepared.
        gallery_id: where; 0 for none.
        version: the gallery's, once this had happened.
        row_ids: the crops concerned; they may have changed or gone since.
    """

    sequence: int
    kind: ChangeKind
    gallery_id: int
    version: int
    row_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Scan:
    """A range of keys from `start` to before `end`, in order, or in the opposite one."""

    start: bytes
    end: bytes
    limit: int = ALL
    reverse: bool = False


class ChangeStream(Protocol):
    """The changes of a record that several processes share."""

    @property
    def adopted(self) -> str:
        """The record's name, which commits are held against."""

    def last(self) -> int:
        """The newest change's number; 0 where nothing has happened."""

    def after(self, sequence: int, limit: int, wait_seconds: float) -> list[Change]:
        """Up to `limit` changes after one, waiting for the first; none where none came.

        Raises:
            ChangesLost: some are kept no more, or the record is another one than at `epoch`.
            RecordUnavailable: the record does not answer.
        """

    def epoch(self) -> str:
        """The record's name, which commits need; raises `InputProblem` for an unusable one."""

    def server(self) -> str:
        """Names the server's process: another one may hold an older copy of the same record."""


class Engine(Protocol):
    """An ordered map of bytes; it is read from any thread, and written from one at a time."""

    outside: PictureFolder | None
    """Where pictures are kept, and beside Redis vectors; None where all lie in the record."""

    @property
    def changes(self) -> ChangeStream | None:
        """Its change stream; None where one process alone writes it."""

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of keys, of one moment."""

    def scan(self, scans: Sequence[Scan]) -> list[list[tuple[bytes, bytes]]]:
        """The keys and values of each range."""

    def commit(self, transaction: Transaction) -> None:
        """Makes a transaction's changes; they are on the disk when this returns.

        Raises:
            Conflict: a guarded key has another value; nothing was changed.
            StorageFailed: the store is full; nothing was changed.
            RecordUnavailable: it does not answer; the changes may have been made.
        """

    def damage(self, what: str) -> ServiceError:
        """The error for something that is not what was written."""

    def require_order(self, stopped: Callable[[], bool], /) -> None:
        """Raises an error where damage moved a key; ends once `stopped` is true."""

    def require_same(self) -> None:
        """Raises `RecordUnavailable` where another record has taken this one's place."""

    def stored_bytes(self) -> int:
        """Bytes of the file with its log, or those of memory that the store uses."""

    def now_ms(self) -> int:
        """The store's clock, which all processes share, in milliseconds."""

    def moment(self) -> AbstractContextManager[Engine]:
        """What to read it by for long, in one thread: as it is now, if only this process writes."""

    def copy_to(self, path: Path) -> None:
        """Copies the record as it is at one moment into a new SQLite file, also while written."""

    def close(self) -> None:
        """Closes every connection."""


@dataclass
class Reader:
    """Reads bodies, and checks that each is what was written."""

    engine: Engine

    def get(self, keys: Sequence[bytes], named: Sequence[str] = ()) -> list[bytes | None]:
        """The bodies of keys; None for those that are not there.

        Raises:
            ServiceError: one of them is not what was written; it is `named` so, or by its key.
        """
        values = self.engine.get(keys) if keys else []
        names = named or itertools.repeat("")
        return [self.body(*one) for one in zip(keys, values, names, strict=False)]

    def json(self, key: bytes) -> Any:
        """The plain data under a key; None where it is not there."""
        (body,) = self.get([key])
        return None if body is None else from_json(body)

    def scan(self, *scans: Scan) -> list[list[tuple[bytes, bytes]]]:
        """Keys and bodies of ranges; the body of an index's key is empty."""
        found = self.engine.scan(scans) if scans else []
        return [[(key, self.body(key, value) or b"") for key, value in one] for one in found]

    def below(
        self, prefix: bytes, limit: int = ALL, reverse: bool = False, before: str | None = None
    ) -> list[tuple[bytes, bytes]]:
        """Keys and bodies of what begins with a prefix, and comes before a part."""
        start, end = below(prefix)
        end = end if before is None else prefix + key(before)
        return self.scan(Scan(start, end, limit, reverse))[0]

    def named(self, prefix: bytes) -> Iterator[tuple[str, bytes]]:
        """The texts that are the only part after a prefix, with the bodies; as `every`."""
        for own, body in self.every(below(prefix)):
            yield last_text(own, prefix), body

    def every(self, bounds: tuple[bytes, bytes]) -> Iterator[tuple[bytes, bytes]]:
        """All of a range, read in batches; what is written meanwhile may be among it or not."""
        start, end = bounds
        while found := self.scan(Scan(start, end, KEYS_AT_ONCE))[0]:
            yield from found
            start = found[-1][0] + b"\0"

    def body(self, key: bytes, value: bytes | None, named: str = "") -> bytes | None:
        """What was sealed under a key."""
        # A damaged page of SQLite may give another type than was written.
        if not (isinstance(key, bytes) and isinstance(value, bytes | None)):
            raise self.engine.damage("a key or its value is not what was written")
        if value is None or (not value and key.startswith(INDEX_KEYS)):
            return value
        body = value[CHECKSUM_BYTES:]
        if seal(key, body) != value:
            raise self.engine.damage(f"{named or shown(key)} is not what was written")
        return body


@dataclass
class Transaction(Reader):
    """Reads, and changes that are committed together; no read sees the changes.

    What it reads by `json` has to be unchanged when it commits. Other reads are not guarded: the
    rules read what every change of the others changes too, such as a gallery's entry, by `json`.

    Attributes:
        guards: values that these keys have to have still; None for none.
        puts: values by key; None removes the key. The keys of indexes have an empty value.
        notes: for the change stream.
        removes: it removes what has to be gone, also from a full store, and from its log.
    """

    guards: dict[bytes, bytes | None] = field(default_factory=dict)
    puts: dict[bytes, bytes | None] = field(default_factory=dict)
    notes: list[Change] = field(default_factory=list)
    removes: bool = False

    def json(self, key: bytes) -> Any:
        """The plain data under a key, which have to be the same still when this is committed."""
        (value,) = self.engine.get([key])
        # Where it was read before and has changed since, the commit is refused.
        self.guards.setdefault(key, value)
        body = self.body(key, value)
        return None if body is None else from_json(body)

    def put(self, key: bytes, body: bytes) -> None:
        """Puts a body under a key; an index's key has none."""
        self.puts[key] = seal(key, body) if body or not key.startswith(INDEX_KEYS) else b""

    def put_json(self, key: bytes, body: Any) -> None:
        """Puts plain data, dataclasses or times under a key."""
        self.put(key, to_json(body))

    def delete(self, *keys: bytes) -> None:
        """Removes keys."""
        self.puts |= dict.fromkeys(keys)

    def note(
        self, kind: ChangeKind, gallery_id: int = 0, version: int = 0, rows: Sequence[int] = ()
    ) -> None:
        """Adds an entry to the change stream."""
        self.notes.append(Change(0, kind, gallery_id, version, tuple(rows)))


def transact(
    engine: Engine,
    rule: Callable[Concatenate[Transaction, Given], Result],
    *args: Given.args,
    **kwargs: Given.kwargs,
) -> Result:
    """Runs a rule and commits what it changes; runs it again where another process was first.

    The rule reads and changes by the transaction alone, so that it can be run again.
    """
    for attempts_left in reversed(range(ATTEMPTS)):
        transaction = Transaction(engine)
        try:
            result = rule(transaction, *args, **kwargs)
        except ServiceError:
            # What was not found may be missing because the store was emptied.
            engine.require_same()
            raise
        try:
            if transaction.puts or transaction.notes:
                engine.commit(transaction)
            break
        except Conflict:
            if not attempts_left:
                raise
    return result


def put_all(engine: Engine, entries: Iterable[tuple[bytes, bytes]]) -> None:
    """Puts bodies by key, in several commits."""
    for some in batches(entries, PUT_AT_ONCE):
        transact(engine, _put_all, some)


def _put_all(transaction: Transaction, entries: Sequence[tuple[bytes, bytes]]) -> None:
    for own, body in entries:
        transaction.put(own, body)


class RecordPart:
    """Reads and rules of one kind of thing in a record."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._reader = engine, Reader(engine)


Part = TypeVar("Part", bound=RecordPart)


def transactional(
    rule: Callable[Concatenate[Part, Transaction, Given], Result],
) -> Callable[Concatenate[Part, Given], Result]:
    """Makes a method a transaction, as `transact` does; callers leave out its `transaction`."""

    @functools.wraps(rule)
    def run(self: Part, /, *args: Given.args, **kwargs: Given.kwargs) -> Result:
        return transact(self._engine, functools.partial(rule, self), *args, **kwargs)

    return run
