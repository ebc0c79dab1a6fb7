"""Searches that are kept with their results, to be opened again and reviewed, and cases of them.

A search keeps ids of crops and their scores. Labels are read as it is opened, so that it shows
renames, and names no person that was forgotten.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import field, replace
from datetime import datetime
from typing import Any, Literal, NamedTuple, TypeAlias

from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass as stored_dataclass
from pydantic_core import from_json

from gmn_client.models import Verdict
from service.record.engine import (
    Reader,
    RecordPart,
    Scan,
    Transaction,
    batches,
    transact,
    transactional,
)
from service.record.entries import Generation, find_generation, require_entry
from service.record.keys import LOOKUP, below, key, last_text
from service.record.records import Picture

KEPT_KIND, FOUND_BY, COUNTS, PICTURE = "kept query", "kept query by", "kept queries", "kept picture"
CASE = "case"
# All of a gallery but for the pictures, which are only looked up.
OF_KEPT = (KEPT_KIND, FOUND_BY, COUNTS, CASE)
AT_ONCE = 200

Decision: TypeAlias = Literal["confirmed", "rejected"]


class KeptResult(NamedTuple):
    """One result without its labels; the scores are those of the answer."""

    crop_id: str
    cosine: float
    pair_logit: float | None
    probability: float | None
    verdict: Verdict | None


@stored_dataclass(frozen=True)
class Review:
    """What a person decided on a result: whether it shows the person that was searched for."""

    decision: Decision
    reviewed_at: datetime
    key_id: str


@stored_dataclass(frozen=True, kw_only=True)
class KeptQuery:
    """One search and its answer.

    Attributes:
        query_id: begins with its time, so that ids sort by it.
        key_id: the API key that asked.
        request: fields of the request that name no person.
        answer: the answer but for its results; JSON.
        results: best first.
        crop_id: of a search by a crop.
        content_type: of the kept picture; None where none is kept.
        reviews: by the crop's id.
        cases: those that hold it beyond its days.
    """

    query_id: str
    created_at: datetime
    key_id: str
    request: dict[str, Any]
    answer: dict[str, Any]
    results: list[KeptResult]
    crop_id: str | None = None
    content_type: str | None = None
    reviews: dict[str, Review] = field(default_factory=dict)
    cases: tuple[str, ...] = ()

    @property
    def shows(self) -> set[str]:
        """The crops that show whose search it is: with the last of them it is removed.

        These are the crop searched by, the confirmed ones, and a first result that is a `match`.
        """
        decided = {crop_id: one.decision for crop_id, one in self.reviews.items()}
        first = [one.crop_id for one in self.results[:1] if one.verdict == "match"]
        own = [self.crop_id] if self.crop_id else []
        confirmed = [one for one, decision in decided.items() if decision == "confirmed"]
        return {*own, *confirmed, *(one for one in first if decided.get(one) != "rejected")}

    def found_by(self, gallery_id: int) -> list[bytes]:
        """The keys without values that it is found by."""
        values = [("key", self.key_id), *(("crop", one) for one in self.shows)]
        values += [] if self.cases else [("days", "")]
        values += [("reviewed", "")] if self.reviews else []
        return [key(FOUND_BY, gallery_id, *one, self.query_id) for one in values]


class CaseEntry(NamedTuple):
    """A search in a case."""

    added_at: datetime
    note: str


@stored_dataclass(frozen=True, kw_only=True)
class Case:
    """Searches that are held together beyond their days; `queries` by their ids."""

    case_id: str
    name: str
    notes: str
    created_at: datetime
    changed_at: datetime
    key_id: str
    queries: dict[str, CaseEntry] = field(default_factory=dict)


KEPT_QUERY, KEPT_CASE = TypeAdapter(KeptQuery), TypeAdapter(Case)


class KeptChanges:
    """Changes of a gallery's kept searches within a transaction.

    Each counts itself under one key, so that of two at once the later one is made again.
    """

    def __init__(self, transaction: Transaction, gallery_id: int) -> None:
        self.transaction, self.gallery_id = transaction, gallery_id
        none = {"kept": 0, "cases": 0, "changes": 0}
        counts = none | (transaction.json(key(COUNTS, gallery_id)) or {})
        self.kept, self.cases, self._changes = (counts[name] for name in none)
        self._cases: dict[str, Case | None] = {}

    def get(self, query_ids: Collection[str]) -> list[KeptQuery]:
        """Those of these searches that are there."""
        return read_kept(self.transaction, self.gallery_id, query_ids)

    def case(self, case_id: str) -> Case | None:
        """A case as this transaction has changed it; None where it is not there."""
        if case_id not in self._cases:
            found = self.transaction.json(key(CASE, self.gallery_id, case_id))
            self._cases[case_id] = KEPT_CASE.validate_python(found) if found else None
        return self._cases[case_id]

    def put_case(self, case: Case) -> None:
        """Puts a case."""
        self._cases[case.case_id] = case
        own = key(CASE, self.gallery_id, case.case_id)
        self.transaction.put(own, KEPT_CASE.dump_json(case))

    def drop_case(self, case_id: str) -> None:
        """Removes a case, and leaves its searches."""
        self.cases -= 1
        self._cases[case_id] = None
        self.transaction.delete(key(CASE, self.gallery_id, case_id))
        self.transaction.removes = True

    def add(self, kept: KeptQuery, picture: bytes | None) -> None:
        """Puts a new search."""
        self.kept += 1
        self.put(kept, picture)

    def change(self, before: KeptQuery, **fields: Any) -> KeptQuery:
        """Changes fields of a search; answers it as it is then."""
        kept = replace(before, **fields)
        self.transaction.delete(*before.found_by(self.gallery_id))
        self.put(kept)
        return kept

    def drop(self, *dropped: KeptQuery) -> None:
        """Removes searches with their pictures, from cases too."""
        for kept in dropped:
            self.kept -= 1
            own = key(KEPT_KIND, self.gallery_id, kept.query_id)
            picture = picture_key(self.gallery_id, kept.query_id)
            self.transaction.delete(own, picture, *kept.found_by(self.gallery_id))
            self.transaction.removes = True
            for case in filter(None, map(self.case, kept.cases)):
                left = {one: entry for one, entry in case.queries.items() if one != kept.query_id}
                self.put_case(replace(case, queries=left))

    def finish(self) -> None:
        """Puts the counts."""
        counts = {"kept": self.kept, "cases": self.cases, "changes": self._changes + 1}
        self.transaction.put_json(key(COUNTS, self.gallery_id), counts)

    def put(self, kept: KeptQuery, picture: bytes | None = None) -> None:
        """Puts a search that is counted; with None its picture stays."""
        own = key(KEPT_KIND, self.gallery_id, kept.query_id)
        self.transaction.put(own, KEPT_QUERY.dump_json(kept, exclude_defaults=True))
        for one in kept.found_by(self.gallery_id):
            self.transaction.put(one, b"")
        if picture is not None:
            self.transaction.put(picture_key(self.gallery_id, kept.query_id), picture)


class KeptQueries(RecordPart):
    """The searches that are kept, and their reviews."""

    @transactional
    def keep(
        self,
        transaction: Transaction,
        gallery_id: int,
        searches: Sequence[tuple[KeptQuery, bytes | None]],
        most: int,
    ) -> tuple[list[str], int]:
        """Keeps searches with their pictures; the oldest of no case give place beyond `most`.

        Returns:
            The ids of those that are kept: none that has no place left beside cases, nor one of a
            person whose crops are gone meanwhile. And how many gave place.
        """
        # Guards the crops: of a forgotten person nothing is kept.
        require_entry(transaction, gallery_id)
        changes = KeptChanges(transaction, gallery_id)
        lost = _lost(transaction, gallery_id, [kept for kept, _ in searches])
        new = [one for one in searches if one[0] not in lost]
        oldest = key(FOUND_BY, gallery_id, "days", "")
        over = max(0, changes.kept + len(new) - most)
        found = transaction.below(oldest, over) if over else []
        # One that a recovery has left out is not there; its key goes too.
        transaction.delete(*(own for own, _ in found))
        gone = changes.get([last_text(own, oldest) for own, _ in found])
        changes.drop(*gone)
        new = new[: max(0, most - changes.kept)]
        for kept, picture in new:
            changes.add(kept, picture)
        changes.finish()
        return [kept.query_id for kept, _ in new], len(gone)

    def get(self, gallery_id: int, query_id: str) -> KeptQuery | None:
        """One search; None where it is not kept any more."""
        return next(iter(read_kept(self._reader, gallery_id, [query_id])), None)

    def page(
        self, gallery_id: int, before: str | None, limit: int, *found_by: str
    ) -> list[KeptQuery]:
        """Up to `limit` searches that are older than one; the newest first.

        Args:
            found_by: kind and value of a key without value; those of all keys without it.
        """
        prefix = key(FOUND_BY if found_by else KEPT_KIND, gallery_id, *found_by)
        found = self._reader.below(prefix, limit, reverse=True, before=before)
        return read_kept(self._reader, gallery_id, [last_text(own, prefix) for own, _ in found])

    def picture(self, gallery_id: int, query_id: str) -> Picture | None:
        """A search's picture; None where none is kept, or where it is removed meanwhile.

        Raises:
            ServiceError: it is missing, or not what was written.
        """
        own = key(KEPT_KIND, gallery_id, query_id), picture_key(gallery_id, query_id)
        body, content = self._reader.get(own)
        content_type = KEPT_QUERY.validate_json(body).content_type if body else None
        if content_type and content is None:
            raise self._engine.damage(f"the picture of search {query_id} is gone")
        return Picture(content, content_type) if content and content_type else None

    @transactional
    def review(
        self,
        transaction: Transaction,
        gallery_id: int,
        query_id: str,
        crop_ids: Sequence[str],
        review: Review | None,
    ) -> KeptQuery | None:
        """Reviews results of a search, or with None takes back; None where it is not kept.

        A crop that is gone is not reviewed: forgetting would not find the search by it.
        """
        at = Generation.searched(require_entry(transaction, gallery_id))
        there = crops_there(transaction, at, crop_ids)
        changes = KeptChanges(transaction, gallery_id)
        for kept in changes.get([query_id]):
            reviews = {one: old for one, old in kept.reviews.items() if one not in crop_ids}
            reviews |= dict.fromkeys(there, review) if review else {}
            kept = changes.change(kept, reviews=reviews)
            changes.finish()
            return kept
        return None

    @transactional
    def remove(self, transaction: Transaction, gallery_id: int, query_ids: Collection[str]) -> int:
        """Removes those of these searches that are there, from cases too; answers how many."""
        changes = KeptChanges(transaction, gallery_id)
        return _drop(changes, changes.get(query_ids))

    def due(self, gallery_id: int, before: datetime) -> list[str]:
        """Older searches of no case, and those whose person no crop shows any more."""
        kept = self._reader.every(below(key(KEPT_KIND, gallery_id)))
        searches = (KEPT_QUERY.validate_json(body) for _, body in kept)
        return [
            one.query_id
            for some in batches(searches, AT_ONCE)
            for one in _due(self._reader, gallery_id, some, before)
        ]

    def expire(self, gallery_id: int, query_ids: Sequence[str], before: datetime) -> int:
        """Removes those of these searches that are `due` still; answers how many."""
        return sum(
            transact(self._engine, _expire, gallery_id, some, before)
            for some in batches(query_ids, AT_ONCE)
        )


def read_kept(reader: Reader, gallery_id: int, query_ids: Collection[str]) -> list[KeptQuery]:
    """Those of these searches that are there, in the order of the ids."""
    bodies = reader.get([key(KEPT_KIND, gallery_id, one) for one in dict.fromkeys(query_ids)])
    return [KEPT_QUERY.validate_json(body) for body in bodies if body is not None]


def forget_kept(transaction: Transaction, gallery_id: int, crop_ids: Sequence[str]) -> list[str]:
    """Removes the searches of a person, whose crops these are; answers their ids."""
    changes = KeptChanges(transaction, gallery_id)
    if not changes.kept:
        return []
    prefixes = [key(FOUND_BY, gallery_id, "crop", one) for one in crop_ids]
    found = transaction.scan(*(Scan(*below(prefix)) for prefix in prefixes))
    pairs = zip(prefixes, found, strict=True)
    query_ids = {last_text(own, prefix) for prefix, keys in pairs for own, _ in keys}
    _drop(changes, changes.get(query_ids))
    return sorted(query_ids)


def picture_key(gallery_id: int, query_id: str) -> bytes:
    """Where a kept search's picture lies; it is only looked up."""
    return LOOKUP + key(PICTURE, gallery_id, query_id)


def _drop(changes: KeptChanges, kept: Sequence[KeptQuery]) -> int:
    if kept:
        changes.drop(*kept)
        changes.finish()
    return len(kept)


def _expire(
    transaction: Transaction, gallery_id: int, query_ids: Sequence[str], before: datetime
) -> int:
    require_entry(transaction, gallery_id)
    changes = KeptChanges(transaction, gallery_id)
    return _drop(changes, _due(transaction, gallery_id, changes.get(query_ids), before))


def _due(
    reader: Reader, gallery_id: int, searches: Sequence[KeptQuery], before: datetime
) -> list[KeptQuery]:
    lost = _lost(reader, gallery_id, searches)
    return [one for one in searches if one in lost or (one.created_at < before and not one.cases)]


def _lost(reader: Reader, gallery_id: int, searches: Sequence[KeptQuery]) -> list[KeptQuery]:
    """The searches that crops showed the person of, and none does any more."""
    at = find_generation(reader, gallery_id)
    asked = dict.fromkeys(crop_id for one in searches for crop_id in one.shows)
    there = crops_there(reader, at, asked)
    return [one for one in searches if one.shows and not one.shows & there.keys()]


def crops_there(reader: Reader, at: Generation, crop_ids: Collection[str]) -> Mapping[str, int]:
    """The rows of those of these crops that are there, by id."""
    found = reader.get([at.lookup("crop id", one) for one in crop_ids])
    pairs = zip(crop_ids, found, strict=True)
    return {one: from_json(body)[0] for one, body in pairs if body is not None}
