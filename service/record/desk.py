"""Kept searches with their reviews, and cases, which keep searches beyond their retention."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime

from pydantic import TypeAdapter
from pydantic_core import from_json, to_json

from service.errors import InvalidField
from service.record.database import RecordPart, transactional
from service.record.galleries import require_entry
from service.record.schema import (
    CASE_DELETIONS,
    CASE_SEARCHES,
    CASES,
    REVIEWS,
    SEARCH_PICTURES,
    SEARCHES,
    SHOWN,
    as_micros,
    as_moment,
)
from service.record.transaction import AMONG, Reader, Transaction, all_of, as_json, batches
from service.record.values import (
    MOST_CASES,
    MOST_CASES_OF_KEY,
    MOST_IN_CASE,
    Case,
    CaseEntry,
    CaseFields,
    KeptQuery,
    KeptResult,
    Picture,
    Review,
)

RESULTS = TypeAdapter(list[KeptResult])
SEARCHES_AT_ONCE = 200
# SQL conditions by the name of the property that searches are selected by.
FOUND_BY = {
    "key": "key_id = ?",
    "crop": "query_id IN (SELECT query_id FROM shown WHERE crop_id = ?)",
    "reviewed": "? = '' AND query_id IN (SELECT query_id FROM reviews)",
    "days": "? = '' AND query_id NOT IN (SELECT query_id FROM case_searches)",
}


class KeptQueries(RecordPart):
    """Kept searches and their reviews."""

    @transactional
    def keep(
        self,
        transaction: Transaction,
        gallery_id: int,
        searches: Sequence[tuple[KeptQuery, bytes | None]],
        most: int,
    ) -> tuple[list[str], int]:
        """Store searches with their pictures; beyond `most`, the oldest outside cases are deleted.

        Returns:
            The ids of the stored searches, and the number of deleted ones. A search is not stored
            if cases leave no room for it, or if the crops of its person have been deleted.
        """
        require_entry(transaction, gallery_id)
        lost = _lost(transaction, gallery_id, [search for search, _ in searches])
        new = [(search, picture) for search, picture in searches if search not in lost]
        count = _count(transaction, gallery_id)
        oldest = transaction.execute(
            "SELECT query_id FROM searches WHERE gallery_id = ? AND "
            "query_id NOT IN (SELECT query_id FROM case_searches) ORDER BY query_id LIMIT ?",
            (gallery_id, max(0, count + len(new) - most)),
        )
        removed = drop_searches(transaction, gallery_id, [query_id for (query_id,) in oldest])
        new = new[: max(0, most - count + removed)]
        for search, picture in new:
            _insert(transaction, gallery_id, search, picture)
        return [search.query_id for search, _ in new], removed

    def get(self, gallery_id: int, query_id: str) -> KeptQuery | None:
        return next(iter(read_searches(self._reader, gallery_id, [query_id])), None)

    def page(
        self, gallery_id: int, before: str | None, limit: int, *found_by: str
    ) -> list[KeptQuery]:
        """Return up to `limit` searches older than `before`, newest first.

        Args:
            found_by: a key of `FOUND_BY` and its value; empty for all searches.
        """
        conditions: dict[str, str | int | None] = {
            "gallery_id = ?": gallery_id,
            "query_id < ?": before,
        }
        if found_by:
            conditions[FOUND_BY[found_by[0]]] = found_by[1]
        wanted, values = all_of(conditions)
        rows = self._reader.execute(
            f"SELECT query_id FROM searches WHERE {wanted} ORDER BY query_id DESC LIMIT ?",
            [*values, limit],
        )
        return read_searches(self._reader, gallery_id, [query_id for (query_id,) in rows])

    def picture(self, gallery_id: int, query_id: str) -> Picture | None:
        """Return the picture of a search; None if it has none or does not exist.

        Raises:
            DamagedRecord: the picture is missing or does not match its checksum.
        """
        with self._database.read() as reader:
            of_search = (gallery_id, query_id)
            search = reader.row(SEARCHES, "WHERE gallery_id = ? AND query_id = ?", of_search)
            picture = reader.row(SEARCH_PICTURES, "WHERE query_id = ?", (query_id,))
        if search is None or search["content_type"] is None:
            return None
        if picture is None:
            raise self._database.damage(f"the picture of search {query_id} is gone")
        return Picture(picture["content"], search["content_type"])

    @transactional
    def review(
        self,
        transaction: Transaction,
        gallery_id: int,
        query_id: str,
        crop_ids: Sequence[str],
        review: Review | None,
    ) -> KeptQuery | None:
        """Set, or with None remove, the reviews of results; return None if there is no such search.

        Deleted crops are not reviewed: forgetting could not find the search through them.
        """
        require_entry(transaction, gallery_id)
        if not read_searches(transaction, gallery_id, [query_id]):
            return None
        transaction.change_many(
            "DELETE FROM reviews WHERE query_id = ? AND crop_id = ?",
            [(query_id, crop_id) for crop_id in crop_ids],
        )
        if review:
            values = {
                "decision": review.decision,
                "key_id": review.key_id,
                "reviewed_at": as_micros(review.reviewed_at),
            }
            present = _existing_crops(transaction, gallery_id, crop_ids)
            reviewed = [{"query_id": query_id, "crop_id": crop_id, **values} for crop_id in present]
            transaction.insert(REVIEWS, *reviewed)
        (search,) = read_searches(transaction, gallery_id, [query_id])
        transaction.change("DELETE FROM shown WHERE query_id = ?", (query_id,))
        _insert_shown(transaction, search)
        return search

    @transactional
    def remove(self, transaction: Transaction, gallery_id: int, query_ids: Collection[str]) -> int:
        """Delete the existing ones of these searches, also from cases; return their number."""
        return drop_searches(transaction, gallery_id, query_ids)

    def due(self, gallery_id: int, before: datetime) -> list[str]:
        """Return old searches outside cases, and searches for a person who has no crops left."""
        due: list[str] = []
        last = ""
        statement = (
            "SELECT query_id FROM searches WHERE gallery_id = ? AND query_id > ? "
            "ORDER BY query_id LIMIT ?"
        )
        while True:
            rows = self._reader.execute(statement, (gallery_id, last, SEARCHES_AT_ONCE))
            if not rows:
                return due
            query_ids = [query_id for (query_id,) in rows]
            due += _due(self._reader, gallery_id, query_ids, before)
            last = query_ids[-1]

    def expire(self, gallery_id: int, query_ids: Sequence[str], before: datetime) -> int:
        """Delete those of these searches that are still `due`; return their number."""
        parts = batches(query_ids, SEARCHES_AT_ONCE)
        return sum(self._expire(gallery_id, batch, before) for batch in parts)

    @transactional
    def _expire(
        self, transaction: Transaction, gallery_id: int, query_ids: Sequence[str], before: datetime
    ) -> int:
        require_entry(transaction, gallery_id)
        due = _due(transaction, gallery_id, query_ids, before)
        return drop_searches(transaction, gallery_id, due)


class Cases(RecordPart):
    """The cases of galleries."""

    @transactional
    def create(
        self, transaction: Transaction, gallery_id: int, case: Case, most: int = MOST_CASES
    ) -> None:
        """Store a new case; raises `InvalidField` if the gallery or key has too many."""
        require_entry(transaction, gallery_id)
        statement = "SELECT count(*) FROM cases WHERE gallery_id = ?"
        cases = transaction.value(statement, (gallery_id,))
        cases_of_key = transaction.value(f"{statement} AND key_id = ?", (gallery_id, case.key_id))
        if cases >= MOST_CASES or cases_of_key >= most:
            raise InvalidField(
                f"name: the gallery has {cases:,} cases, {cases_of_key} of them of this key; "
                f"{MOST_CASES:,} are the limit, and {MOST_CASES_OF_KEY} for a key without admin; "
                "export and delete closed ones"
            )
        transaction.insert(
            CASES,
            {
                "case_id": case.case_id,
                "gallery_id": gallery_id,
                "name": case.name,
                "notes": case.notes,
                "created_at": as_micros(case.created_at),
                "changed_at": as_micros(case.changed_at),
                "key_id": case.key_id,
            },
        )

    def get(self, gallery_id: int, case_id: str) -> Case | None:
        return _read_case(self._reader, gallery_id, case_id)

    def page(self, gallery_id: int, before: str | None, limit: int) -> list[Case]:
        """Return up to `limit` cases older than `before`, newest first."""
        older = "WHERE gallery_id = ? AND (? IS NULL OR case_id < ?) ORDER BY case_id DESC LIMIT ?"
        rows = self._reader.rows(CASES, older, (gallery_id, before, before, limit))
        return [_as_case(self._reader, row) for row in rows]

    def searches(
        self, gallery_id: int, case: Case, before: str | None, limit: int
    ) -> list[KeptQuery]:
        """Return up to `limit` searches of a case older than `before`, newest first."""
        query_ids = sorted(case.queries, reverse=True)
        older = [query_id for query_id in query_ids if before is None or query_id < before]
        return read_searches(self._reader, gallery_id, older[:limit])

    @transactional
    def change(
        self, transaction: Transaction, gallery_id: int, case_id: str, fields: CaseFields
    ) -> Case | None:
        """Change the name or notes of a case; return None if it does not exist."""
        case = _read_case(transaction, gallery_id, case_id)
        if case is None:
            return None
        changed = replace(case, **fields, changed_at=datetime.now(UTC))
        transaction.change(
            "UPDATE cases SET name = ?, notes = ?, changed_at = ? WHERE case_id = ?",
            (changed.name, changed.notes, as_micros(changed.changed_at), case_id),
        )
        return changed

    @transactional
    def hold(
        self,
        transaction: Transaction,
        gallery_id: int,
        case_id: str,
        query_id: str,
        note: str | None,
        most: int | None = None,
    ) -> Case | None:
        """Add a search to a case or change its note; None as `note` removes it from the case.

        Args:
            most: limit on the searches in all cases of the case's key; None for no limit.

        Returns:
            The case; None if the case or the search does not exist.
        """
        case = _read_case(transaction, gallery_id, case_id)
        searches = read_searches(transaction, gallery_id, [query_id])
        if case is None or not searches or (note is None and query_id not in case.queries):
            return None
        ids = (case_id, query_id)
        if note is None:
            statement = "DELETE FROM case_searches WHERE case_id = ? AND query_id = ?"
            transaction.change(statement, ids)
        elif query_id in case.queries:
            statement = "UPDATE case_searches SET note = ? WHERE case_id = ? AND query_id = ?"
            transaction.change(statement, (note, *ids))
        else:
            _require_room(transaction, gallery_id, case, most)
            added = {"case_id": case_id, "query_id": query_id, "note": note}
            now = as_micros(datetime.now(UTC))
            transaction.insert(CASE_SEARCHES, {**added, "added_at": now})
        _update_changed_at(transaction, case_id)
        return _read_case(transaction, gallery_id, case_id)

    @transactional
    def delete(
        self, transaction: Transaction, gallery_id: int, case_id: str, key_id: str | None = None
    ) -> int | None:
        """Delete a case and its searches that are in no other case.

        Args:
            key_id: delete only searches of this key and release the others; None deletes all.

        Returns:
            The number of deleted searches, or None if there is no such case.
        """
        case = _read_case(transaction, gallery_id, case_id)
        if case is None:
            return None
        searches = read_searches(transaction, gallery_id, case.queries)
        transaction.removes = True
        transaction.change("DELETE FROM cases WHERE case_id = ?", (case_id,))
        only_here = [search for search in searches if search.cases == (case_id,)]
        deleted = [search.query_id for search in only_here if key_id in (None, search.key_id)]
        return drop_searches(transaction, gallery_id, deleted)


def read_searches(reader: Reader, gallery_id: int, query_ids: Collection[str]) -> list[KeptQuery]:
    clauses = f"WHERE gallery_id = ? AND query_id IN {AMONG}"
    rows = reader.rows(SEARCHES, clauses, (gallery_id, as_json(query_ids)))
    rows_by_id = {row["query_id"]: row for row in rows}
    clauses_by_search = f"WHERE query_id IN {AMONG}"
    ids = (as_json(rows_by_id),)
    reviews: defaultdict[str, dict[str, Review]] = defaultdict(dict)
    for row in reader.rows(REVIEWS, clauses_by_search, ids):
        review = Review(row["decision"], as_moment(row["reviewed_at"]), row["key_id"])
        reviews[row["query_id"]][row["crop_id"]] = review
    cases: defaultdict[str, list[str]] = defaultdict(list)
    for row in reader.rows(CASE_SEARCHES, f"{clauses_by_search} ORDER BY added_at", ids):
        cases[row["query_id"]].append(row["case_id"])
    return [
        _as_search(rows_by_id[query_id], reviews[query_id], cases[query_id])
        for query_id in dict.fromkeys(query_ids)
        if query_id in rows_by_id
    ]


def find_shown(reader: Reader, crop_ids: Sequence[str]) -> dict[str, list[str]]:
    """Return searches for the person shown by these crops, by id, each with its cases.

    Forgetting the person deletes these searches.
    """
    shown = reader.rows(SHOWN, f"WHERE crop_id IN {AMONG}", (as_json(crop_ids),))
    searches: dict[str, list[str]] = {row["query_id"]: [] for row in shown}
    for row in reader.rows(CASE_SEARCHES, f"WHERE query_id IN {AMONG}", (as_json(searches),)):
        searches[row["query_id"]].append(row["case_id"])
    return searches


def _count(reader: Reader, gallery_id: int) -> int:
    statement = "SELECT count(*) FROM searches WHERE gallery_id = ?"
    return int(reader.value(statement, (gallery_id,)))


def _insert(
    transaction: Transaction, gallery_id: int, search: KeptQuery, picture: bytes | None
) -> None:
    transaction.insert(
        SEARCHES,
        {
            "query_id": search.query_id,
            "gallery_id": gallery_id,
            "key_id": search.key_id,
            "created_at": as_micros(search.created_at),
            "request": to_json(search.request).decode(),
            "answer": to_json(search.answer).decode(),
            "results": to_json(search.results).decode(),
            "crop_id": search.crop_id,
            "content_type": search.content_type,
        },
    )
    _insert_shown(transaction, search)
    if picture is not None:
        transaction.insert(SEARCH_PICTURES, {"query_id": search.query_id, "content": picture})


def _insert_shown(transaction: Transaction, search: KeptQuery) -> None:
    shown = [{"query_id": search.query_id, "crop_id": crop_id} for crop_id in search.shows]
    transaction.insert(SHOWN, *shown)


def drop_searches(transaction: Transaction, gallery_id: int, query_ids: Collection[str]) -> int:
    if not query_ids:
        return 0
    transaction.removes = True
    values = (gallery_id, as_json(query_ids))
    counts = transaction.tuples(
        "SELECT case_id, count(*) FROM case_searches JOIN searches USING (query_id) "
        f"WHERE gallery_id = ? AND query_id IN {AMONG} GROUP BY case_id",
        values,
    )
    today = datetime.now(UTC).date().isoformat()
    for case_id, searches in counts:
        transaction.change(
            "INSERT INTO case_deletions (case_id, day, searches) VALUES (?, ?, ?) "
            "ON CONFLICT DO UPDATE SET searches = searches + excluded.searches",
            (case_id, today, searches),
        )
        _update_changed_at(transaction, case_id)
    delete = f"DELETE FROM searches WHERE gallery_id = ? AND query_id IN {AMONG}"
    return transaction.change(delete, values)


def _update_changed_at(transaction: Transaction, case_id: str) -> None:
    now = as_micros(datetime.now(UTC))
    transaction.change("UPDATE cases SET changed_at = ? WHERE case_id = ?", (now, case_id))


def _due(reader: Reader, gallery_id: int, query_ids: Sequence[str], before: datetime) -> list[str]:
    searches = read_searches(reader, gallery_id, query_ids)
    lost = _lost(reader, gallery_id, searches)
    return [
        search.query_id
        for search in searches
        if search in lost or (search.created_at < before and not search.cases)
    ]


def _lost(reader: Reader, gallery_id: int, searches: Sequence[KeptQuery]) -> list[KeptQuery]:
    crop_ids = dict.fromkeys(crop_id for search in searches for crop_id in search.shows)
    present = set(_existing_crops(reader, gallery_id, crop_ids))
    return [search for search in searches if search.shows and search.shows.isdisjoint(present)]


def _existing_crops(reader: Reader, gallery_id: int, crop_ids: Collection[str]) -> list[str]:
    statement = f"SELECT crop_id FROM crops WHERE gallery_id = ? AND crop_id IN {AMONG}"
    values = (gallery_id, as_json(crop_ids))
    present = {crop_id for (crop_id,) in reader.execute(statement, values)}
    return [crop_id for crop_id in dict.fromkeys(crop_ids) if crop_id in present]


def _require_room(reader: Reader, gallery_id: int, case: Case, most: int | None) -> None:
    count = reader.value(
        "SELECT count(*) FROM case_searches JOIN cases USING (case_id) "
        "WHERE gallery_id = ? AND key_id = ?",
        (gallery_id, case.key_id),
    )
    if most is not None and count >= most and _count(reader, gallery_id) >= most:
        raise InvalidField(
            f"query_id: the cases of this key hold {count:,} searches, and half of "
            "GMN_KEPT_QUERIES is the limit for a key without admin; export and delete closed cases"
        )
    if len(case.queries) >= MOST_IN_CASE:
        raise InvalidField(
            f"query_id: the case holds {MOST_IN_CASE} searches, which is the limit; "
            "create another one"
        )


def _read_case(reader: Reader, gallery_id: int, case_id: str) -> Case | None:
    row = reader.row(CASES, "WHERE gallery_id = ? AND case_id = ?", (gallery_id, case_id))
    return _as_case(reader, row) if row else None


def _as_case(reader: Reader, row: sqlite3.Row) -> Case:
    of_case = (row["case_id"],)
    entries = reader.rows(CASE_SEARCHES, "WHERE case_id = ? ORDER BY added_at, query_id", of_case)
    deleted = reader.rows(CASE_DELETIONS, "WHERE case_id = ? ORDER BY day", of_case)
    return Case(
        case_id=row["case_id"],
        name=row["name"],
        notes=row["notes"],
        created_at=as_moment(row["created_at"]),
        changed_at=as_moment(row["changed_at"]),
        key_id=row["key_id"],
        queries={
            search["query_id"]: CaseEntry(as_moment(search["added_at"]), search["note"])
            for search in entries
        },
        deleted_searches={date.fromisoformat(day["day"]): day["searches"] for day in deleted},
    )


def _as_search(row: sqlite3.Row, reviews: dict[str, Review], cases: Sequence[str]) -> KeptQuery:
    return KeptQuery(
        query_id=row["query_id"],
        created_at=as_moment(row["created_at"]),
        key_id=row["key_id"],
        request=from_json(row["request"]),
        answer=from_json(row["answer"]),
        results=RESULTS.validate_json(row["results"]),
        crop_id=row["crop_id"],
        content_type=row["content_type"],
        reviews=reviews,
        cases=tuple(cases),
    )
