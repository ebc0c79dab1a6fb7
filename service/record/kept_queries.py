"""Searches that are kept with their results, to be opened again and reviewed, and cases of them.

A search keeps ids of crops and their scores. Labels are read as it is opened, so that it shows
renames, and names no person that was forgotten.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import field, replace
from datetime import UTC, date, datetime
from typing import Any, Literal, NamedTuple, TypeAlias

from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass as stored_dataclass

from gmn_client.models import Verdict
from service.record.engine import Reader, Scan, Transaction
from service.record.keys import LOOKUP, below, key, last_text

KEPT_KIND = "kept query"
FOUND_BY = "kept query by"
COUNTS = "kept queries"
PICTURE = "kept picture"
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
    """Searches that are held together beyond their days.

    Attributes:
        queries: by their ids.
        deleted_searches: how many of its searches were deleted, by day in UTC.
    """

    case_id: str
    name: str
    notes: str
    created_at: datetime
    changed_at: datetime
    key_id: str
    queries: dict[str, CaseEntry] = field(default_factory=dict)
    deleted_searches: dict[date, int] = field(default_factory=dict)


KEPT_QUERY = TypeAdapter(KeptQuery)
KEPT_CASE = TypeAdapter(Case)


class KeptChanges:
    """Changes of a gallery's kept searches within a transaction, begun before these are read.

    Each counts itself under one key, so that of two at once the later one is made again.
    """

    def __init__(self, transaction: Transaction, gallery_id: int) -> None:
        self.transaction = transaction
        self.gallery_id = gallery_id
        none = {"kept": 0, "cases": 0, "changes": 0}
        counts = none | (transaction.json(key(COUNTS, gallery_id)) or {})
        self.kept, self.cases, self._changes = (counts[name] for name in none)
        self._cases: dict[str, Case | None] = {}

    def case(self, case_id: str) -> Case | None:
        """A case as this transaction has changed it; None where it is not there."""
        if case_id not in self._cases:
            found = self.transaction.json(key(CASE, self.gallery_id, case_id))
            self._cases[case_id] = KEPT_CASE.validate_python(found) if found else None
        return self._cases[case_id]

    def count(self, kept: int = 0, cases: int = 0) -> None:
        """Counts so many searches and cases more."""
        self.kept += kept
        self.cases += cases
        counts = {"kept": self.kept, "cases": self.cases, "changes": self._changes + 1}
        self.transaction.put_json(key(COUNTS, self.gallery_id), counts)

    def put_case(self, case: Case) -> Case:
        """Puts a case, and answers it."""
        self.count()
        self._cases[case.case_id] = case
        own = key(CASE, self.gallery_id, case.case_id)
        self.transaction.put(own, KEPT_CASE.dump_json(case))
        return case

    def drop_case(self, case_id: str) -> None:
        """Removes a case, and leaves its searches."""
        self.count(cases=-1)
        self._cases[case_id] = None
        self.transaction.delete(key(CASE, self.gallery_id, case_id))
        self.transaction.removes = True

    def change(self, before: KeptQuery, **fields: Any) -> KeptQuery:
        """Changes fields of a search; answers it as it is then."""
        kept = replace(before, **fields)
        self.transaction.delete(*before.found_by(self.gallery_id))
        self.put(kept)
        return kept

    def drop(self, *dropped: KeptQuery) -> int:
        """Remove searches with their pictures, also from cases, and return how many."""
        now = datetime.now(UTC)
        for kept in dropped:
            self.count(kept=-1)
            own = key(KEPT_KIND, self.gallery_id, kept.query_id)
            picture = picture_key(self.gallery_id, kept.query_id)
            self.transaction.delete(own, picture, *kept.found_by(self.gallery_id))
            self.transaction.removes = True
            for case in filter(None, map(self.case, kept.cases)):
                left = {one: entry for one, entry in case.queries.items() if one != kept.query_id}
                deleted = Counter(case.deleted_searches)
                deleted[now.date()] += 1
                self.put_case(replace(case, queries=left, deleted_searches=deleted, changed_at=now))
        return len(dropped)

    def put(self, kept: KeptQuery, picture: bytes | None = None) -> None:
        """Puts a search that is counted; with None its picture stays."""
        self.count()
        own = key(KEPT_KIND, self.gallery_id, kept.query_id)
        self.transaction.put(own, KEPT_QUERY.dump_json(kept, exclude_defaults=True))
        for one in kept.found_by(self.gallery_id):
            self.transaction.put(one, b"")
        if picture is not None:
            self.transaction.put(picture_key(self.gallery_id, kept.query_id), picture)


def read_kept(reader: Reader, gallery_id: int, query_ids: Collection[str]) -> list[KeptQuery]:
    """Those of these searches that are there, in the order of the ids."""
    bodies = reader.get([key(KEPT_KIND, gallery_id, one) for one in dict.fromkeys(query_ids)])
    return [KEPT_QUERY.validate_json(body) for body in bodies if body is not None]


def find_shown(reader: Reader, gallery_id: int, crop_ids: Sequence[str]) -> list[KeptQuery]:
    """Read the searches for a person whose crops these are; forgetting the person removes them."""
    prefixes = [key(FOUND_BY, gallery_id, "crop", one) for one in crop_ids]
    found = reader.scan(*(Scan(*below(prefix)) for prefix in prefixes))
    pairs = zip(prefixes, found, strict=True)
    query_ids = {last_text(own, prefix) for prefix, keys in pairs for own, _ in keys}
    return read_kept(reader, gallery_id, sorted(query_ids))


def forget_kept(
    transaction: Transaction, gallery_id: int, crop_ids: Sequence[str]
) -> list[KeptQuery]:
    """Remove the searches for a person whose crops these are, and return them."""
    changes = KeptChanges(transaction, gallery_id)
    if not changes.kept:
        return []
    searches = find_shown(transaction, gallery_id, crop_ids)
    changes.drop(*searches)
    return searches


def count_by_case(searches: Sequence[KeptQuery]) -> dict[str, int]:
    """Return how many of these searches each case holds, by its id."""
    return Counter(case_id for search in searches for case_id in search.cases)


def picture_key(gallery_id: int, query_id: str) -> bytes:
    """Where a kept search's picture lies; it is only looked up."""
    return LOOKUP + key(PICTURE, gallery_id, query_id)
