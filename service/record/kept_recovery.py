"""Kept searches and cases held against their checksums, and what is whole of them kept anew."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from service.errors import RecordUnavailable, ServiceError
from service.record.engine import Engine, Reader, Transaction, below, key, last_text, transact
from service.record.entries import readable
from service.record.kept_queries import (
    CASE,
    KEPT_CASE,
    KEPT_KIND,
    KEPT_QUERY,
    Case,
    KeptChanges,
    KeptQuery,
    picture_key,
)

AT_ONCE = 50


@dataclass(frozen=True)
class KeptFound:
    """A kept search or a case.

    Attributes:
        own_key: its key.
        found: None where it is damaged; a search with a damaged picture is without it.
        damage: what is not as it was written; None for nothing.
    """

    own_key: bytes
    found: KeptQuery | Case | None
    picture: bytes | None = None
    damage: str | None = None

    @property
    def whole(self) -> bool:
        """Whether it is a search that is as it was written."""
        return isinstance(self.found, KeptQuery) and self.damage is None


def checked_kept(engine: Engine, gallery_id: int) -> Iterator[KeptFound]:
    """A gallery's cases, then its kept searches with their pictures."""
    for own, body in readable(engine, below(key(CASE, gallery_id))):
        if isinstance(body, ServiceError):
            yield KeptFound(own, None, damage=body.why)
        else:
            yield KeptFound(own, KEPT_CASE.validate_json(body))
    for own, body in readable(engine, below(key(KEPT_KIND, gallery_id))):
        if isinstance(body, ServiceError):
            yield KeptFound(own, None, damage=body.why)
        else:
            yield _checked(Reader(engine), gallery_id, own, body)


def _checked(reader: Reader, gallery_id: int, own: bytes, body: bytes) -> KeptFound:
    kept = KEPT_QUERY.validate_json(body)
    name = f"the picture of search {kept.query_id}"
    picture, damage = _part(reader, picture_key(gallery_id, kept.query_id), name)
    if picture is None and kept.content_type:
        damage = damage or f"{name} is gone"
    cases = {one: _part(reader, key(CASE, gallery_id, one))[0] for one in kept.cases}
    known = tuple(one for one, found in cases.items() if found is not None)
    if known != kept.cases:
        damage = damage or f"a case of search {kept.query_id} is gone"
    if not damage or reader.get([own]) != [body]:
        # What is changed or removed meanwhile is no damage.
        return KeptFound(own, kept, picture)
    kept = replace(kept, cases=known, content_type=kept.content_type if picture else None)
    return KeptFound(own, kept, picture, damage)


def _part(reader: Reader, own: bytes, name: str = "") -> tuple[bytes | None, str | None]:
    """A body, and what is wrong with it."""
    try:
        return reader.get([own], [name])[0], None
    except RecordUnavailable:
        raise
    except ServiceError as error:
        return None, error.why


def mend_kept(engine: Engine, gallery_id: int) -> None:
    """Removes what is damaged of a gallery's kept searches and cases."""
    for one in checked_kept(engine, gallery_id):
        if one.damage:
            transact(engine, _mend, gallery_id, one)


def put_whole(engine: Engine, gallery_id: int, found: Iterable[KeptFound]) -> None:
    """Keeps in a new record what is whole of an old one."""
    left = iter(found)
    while some := list(itertools.islice(left, AT_ONCE)):
        transact(engine, _put, gallery_id, some)


def _mend(transaction: Transaction, gallery_id: int, one: KeptFound) -> None:
    changes = KeptChanges(transaction, gallery_id)
    transaction.delete(one.own_key)
    if isinstance(one.found, KeptQuery):
        if one.picture is None:
            transaction.delete(picture_key(gallery_id, one.found.query_id))
        changes.change(one.found)
    elif one.own_key.startswith(key(KEPT_KIND)):
        query_id = last_text(one.own_key, key(KEPT_KIND, gallery_id))
        transaction.delete(picture_key(gallery_id, query_id))
        changes.kept -= 1
    else:
        changes.cases -= 1
    changes.finish()


def _put(transaction: Transaction, gallery_id: int, some: Sequence[KeptFound]) -> None:
    changes = KeptChanges(transaction, gallery_id)
    for one in some:
        if isinstance(one.found, KeptQuery):
            changes.add(one.found, one.picture)
        elif one.found is not None:
            changes.cases += 1
            changes.put_case(one.found)
    changes.finish()
