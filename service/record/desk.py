"""Kept searches with their reviews, and cases, which keep searches beyond their retention."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic_core import from_json

from gmn_client.models import (
    Case,
    CaseDetail,
    Cases,
    Decision,
    Page,
)
from service.errors import InvalidField, UnknownCase, UnknownQuery
from service.record.database import RecordPart, transactional
from service.record.galleries import require_entry
from service.record.keys import ApiKey
from service.record.schema import now_micros
from service.record.transaction import AMONG, Reader, Row, Transaction, all_of, settings_of
from service.record.values import MOST_CASES, MOST_CASES_OF_KEY, MOST_IN_CASE, Picture, new_crop_id

SEARCHES_AT_ONCE = 200
# Row numbers grow even if the clock, by which ids sort, is set back. The unary plus keeps SQLite
# from scanning the searches of all galleries.
OLDEST_FIRST = "ORDER BY +searches.rowid"
NEWEST_FIRST = f"{OLDEST_FIRST} DESC"
# Names of the values of each kept result, in their order.
RESULT_FIELDS = ("crop_id", "cosine", "pair_logit", "probability", "verdict")
# Paths of these values within a result, and within `results` for the first result.
OF_RESULT = {name: f"'$[{position}]'" for position, name in enumerate(RESULT_FIELDS)}
OF_FIRST = {name: f"'$[0][{position}]'" for position, name in enumerate(RESULT_FIELDS)}
# SQL conditions by the name of the property that searches are selected by.
FOUND_BY = {
    "key": "searches.key_id = ?",
    "case": "query_id IN (SELECT query_id FROM case_searches WHERE case_id = ?)",
    "reviewed": "? = '' AND query_id IN (SELECT query_id FROM reviews)",
}
# Tables beside `searches`, and columns of them. The first result has its current label.
BESIDE_SEARCHES = f"""
LEFT JOIN crops ON crops.gallery_id = searches.gallery_id
    AND crops.crop_id = results ->> {OF_FIRST["crop_id"]}
LEFT JOIN people ON people.person_id = crops.person_id
"""
OF_SEARCHES = f""",
request ->> '$.purpose' AS purpose,
answer ->> '$.verdict' AS verdict,
json_array_length(results) AS count,
iif(crops.crop_id IS NULL, NULL, json_object(
    'crop_id', crops.crop_id,
    'identity', people.name,
    'probability', results -> {OF_FIRST["probability"]}
)) AS best,
(SELECT json_group_array(case_id) FROM (
    SELECT case_id FROM case_searches WHERE case_searches.query_id = searches.query_id
    ORDER BY added_at
)) AS case_ids,
(SELECT count(*) FROM reviews
    WHERE reviews.query_id = searches.query_id AND decision = 'confirmed') AS confirmed,
(SELECT count(*) FROM reviews
    WHERE reviews.query_id = searches.query_id AND decision = 'rejected') AS rejected
"""
# The results of a search whose crops exist, best first, with their current labels.
BESIDE_RESULTS = f"""
JOIN searches USING (gallery_id)
JOIN json_each(searches.results) AS result
    ON crops.crop_id = result.value ->> {OF_RESULT["crop_id"]}
LEFT JOIN people USING (person_id)
LEFT JOIN tracks ON tracks.gallery_id = crops.gallery_id AND tracks.slot = crops.slot
WHERE query_id = ? ORDER BY result.key
"""
COLUMNS_OF_RESULTS = """,
result.value AS result, result.key + 1 AS rank, people.name AS identity, track
"""
REVIEWED = """
JOIN searches USING (query_id)
LEFT JOIN crops ON crops.gallery_id = searches.gallery_id AND crops.crop_id = reviews.crop_id
LEFT JOIN people USING (person_id)
WHERE query_id = ? ORDER BY reviews.crop_id
"""
BESIDE_REVIEWS = """
JOIN searches USING (query_id)
JOIN crops ON crops.gallery_id = searches.gallery_id AND crops.crop_id = reviews.crop_id
LEFT JOIN people USING (person_id)
"""
OF_REVIEWS = """,
people.name AS identity, searches.content_type IS NOT NULL AS search_has_picture
"""
# The crops that identify the person searched for: those searched by, the confirmed ones, and a
# first result that is a `match` unless it was rejected.
IDENTIFYING = f"""
WITH these AS (
    SELECT * FROM searches WHERE query_id IN (SELECT value FROM json_each(:query_ids))
)
INSERT INTO shown (query_id, crop_id)
SELECT query_id, crop_id FROM these WHERE crop_id IS NOT NULL
UNION SELECT query_id, value FROM these, json_each(request, '$.crop_ids')
UNION SELECT query_id, reviews.crop_id FROM these JOIN reviews USING (query_id)
WHERE decision = 'confirmed'
UNION SELECT query_id, results ->> {OF_FIRST["crop_id"]} FROM these
WHERE results ->> {OF_FIRST["verdict"]} = 'match' AND NOT EXISTS (
    SELECT 1 FROM reviews WHERE reviews.query_id = these.query_id
    AND reviews.crop_id = results ->> {OF_FIRST["crop_id"]} AND decision = 'rejected'
)
"""
# The crops that identify the person searched for are all deleted.
IS_LOST = """
EXISTS (SELECT 1 FROM shown WHERE shown.query_id = searches.query_id) AND NOT EXISTS (
    SELECT 1 FROM shown JOIN crops USING (crop_id)
    WHERE shown.query_id = searches.query_id AND crops.gallery_id = searches.gallery_id
)
"""
# Cases are listed with the number of their searches, whose notes may be megabytes for each case.
COUNTED = """,
(SELECT count(*) FROM case_searches WHERE case_searches.case_id = cases.case_id) AS count,
(SELECT json_group_object(day, searches) FROM case_deletions
    WHERE case_deletions.case_id = cases.case_id) AS deleted_searches
"""
IN_NO_CASE = "query_id NOT IN (SELECT query_id FROM case_searches)"
IS_DUE = f"(created_at < ? AND {IN_NO_CASE} OR {IS_LOST})"
ONLY_IN_CASE = """
SELECT query_id FROM case_searches JOIN searches USING (query_id) WHERE case_id = :case_id
AND (:key_id IS NULL OR key_id = :key_id)
AND query_id NOT IN (SELECT query_id FROM case_searches WHERE case_id != :case_id)
"""


class KeptQueries(RecordPart):
    """Kept searches and their reviews."""

    @transactional
    def keep(
        self,
        transaction: Transaction,
        gallery_id: int,
        searches: Sequence[tuple[Mapping[str, Any], bytes | None]],
        most: int,
    ) -> tuple[set[str], int]:
        """Store searches, beyond `most` in place of the oldest ones outside cases.

        Args:
            searches: columns of each search, except for its gallery, and its picture.

        Returns:
            The ids of the stored searches, and the number of deleted ones. A search is not stored
            if cases leave no room for it, or if the crops of its person have been deleted.
        """
        require_entry(transaction, gallery_id)
        for search, picture in searches:
            query_id = search["query_id"]
            transaction.insert("searches", {"gallery_id": gallery_id, **search})
            if picture is not None:
                transaction.insert("search_pictures", {"query_id": query_id, "content": picture})
        new = {search["query_id"] for search, _ in searches}
        find_identifying(transaction, new)
        select = "SELECT query_id FROM searches WHERE gallery_id = ?"
        lost = transaction.column(
            f"{select} AND query_id IN {AMONG} AND {IS_LOST}", (gallery_id, new)
        )
        drop_searches(transaction, gallery_id, lost)
        surplus = transaction.column(
            f"{select} AND {IN_NO_CASE} {OLDEST_FIRST} LIMIT ?",
            (gallery_id, max(0, _count_searches(transaction, gallery_id) - most)),
        )
        drop_searches(transaction, gallery_id, surplus)
        return new.difference(lost, surplus), len(set(surplus) - new)

    def page(
        self,
        gallery_id: int,
        kept_for: timedelta,
        before: str | None,
        limit: int,
        found_by: str = "key",
        value: str | None = None,
    ) -> Page[Row]:
        """Return up to `limit` searches older than `before`, newest first.

        Args:
            kept_for: time after which searches in no case are deleted.
            found_by: a key of `FOUND_BY`, and its value; None for all searches.
        """
        query_ids, cursor = self._find_newest(gallery_id, before, limit, found_by, value)
        searches = self._read(query_ids, kept_for)
        return Page(results=searches, next_cursor=cursor)

    def open(self, gallery_id: int, kept_for: timedelta, query_id: str) -> Row:
        """Return a search and its answer with current labels; raises `UnknownQuery`."""
        with self._database.read() as reader:
            require_search(reader, gallery_id, query_id)
            (search,) = self._read([query_id], kept_for)
            rows = reader.rows("crops", BESIDE_RESULTS, (query_id,), COLUMNS_OF_RESULTS)
            reviews = reader.rows("reviews", REVIEWED, (query_id,), ", people.name AS identity")
        results = [
            row | dict(zip(RESULT_FIELDS, from_json(row["result"]), strict=True)) for row in rows
        ]
        return search | {
            "answer": {**search["answer"], "results": results, "query_id": query_id},
            "removed": search["count"] - len(results),
            "reviews": reviews,
        }

    def result_ids(self, gallery_id: int, query_id: str) -> list[str]:
        """Return the ids of a search's kept results, best first; raises `UnknownQuery`."""
        search = require_search(self._reader, gallery_id, query_id)
        return [crop_id for crop_id, *_ in search["results"]]

    def reviews(
        self, gallery_id: int, before: str | None, limit: int, found_by: str, value: str | None
    ) -> Page[Row]:
        """Return the reviews of up to `limit` searches older than `before`, the newest first.

        Reviews of deleted crops are left out.
        """
        query_ids, cursor = self._find_newest(gallery_id, before, limit, found_by, value)
        order = f"{NEWEST_FIRST}, reviews.crop_id"
        clauses = f"{BESIDE_REVIEWS} WHERE query_id IN {AMONG} {order}"
        rows = self._reader.rows("reviews", clauses, (query_ids,), OF_REVIEWS)
        return Page(results=rows, next_cursor=cursor)

    def picture(self, gallery_id: int, query_id: str) -> Picture | None:
        """Return the picture of a search; None if it has none.

        Raises:
            UnknownQuery: there is no such search.
            DamagedRecord: the picture is missing or does not match its checksum.
        """
        with self._database.read() as reader:
            search = require_search(reader, gallery_id, query_id)
            picture = reader.row("search_pictures", "WHERE query_id = ?", (query_id,))
        if search["content_type"] is None:
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
        decision: Decision | None,
        caller: ApiKey,
    ) -> None:
        """Set, or with None remove, the reviews of results.

        Deleted crops are not reviewed: forgetting could not find the search through them.

        Raises:
            UnknownQuery: there is no such search.
            Forbidden: another key has decided, and this one has no `admin`.
        """
        require_search(transaction, gallery_id, query_id)
        delete = f"DELETE FROM reviews WHERE query_id = ? AND crop_id IN {AMONG} RETURNING key_id"
        for key_id in transaction.column(delete, (query_id, crop_ids)):
            caller.require_own(key_id)
        if decision:
            transaction.change(
                "INSERT INTO reviews (query_id, crop_id, decision, key_id, reviewed_at) "
                "SELECT ?, crop_id, ?, ?, ? FROM crops "
                f"WHERE gallery_id = ? AND crop_id IN {AMONG}",
                (query_id, decision, caller.key_id, now_micros(), gallery_id, crop_ids),
            )
        find_identifying(transaction, [query_id])

    @transactional
    def remove(self, transaction: Transaction, gallery_id: int, query_ids: Sequence[str]) -> int:
        return drop_searches(transaction, gallery_id, query_ids)

    def due(self, gallery_id: int, before: datetime) -> list[str]:
        statement = f"SELECT query_id FROM searches WHERE gallery_id = ? AND {IS_DUE} LIMIT ?"
        return self._reader.column(statement, (gallery_id, before, SEARCHES_AT_ONCE))

    def expire(self, gallery_id: int, before: datetime) -> int:
        """Delete searches outside cases from before a time, and those for a deleted person.

        Returns:
            The number of deleted searches.
        """
        expired = 0
        while count := self._expire_some(gallery_id, before):
            expired += count
        return expired

    def _find_newest(
        self, gallery_id: int, before: str | None, limit: int, found_by: str, value: str | None
    ) -> tuple[list[str], str | None]:
        conditions = {
            "searches.gallery_id = ?": gallery_id,
            "searches.rowid < ?": None if before is None else self._find_row(before),
        }
        wanted, values = all_of({**conditions, FOUND_BY[found_by]: value})
        query_ids = self._reader.column(
            f"SELECT query_id FROM searches WHERE {wanted} {NEWEST_FIRST} LIMIT ?",
            [*values, limit + 1],
        )
        return query_ids[:limit], query_ids[limit - 1] if len(query_ids) > limit else None

    def _find_row(self, query_id: str) -> int:
        row: int | None = self._reader.value(
            "SELECT rowid FROM searches WHERE query_id = ?", (query_id,)
        )
        if row is None:
            # The search was deleted since; those from before it have lower ids.
            statement = "SELECT max(rowid) + 1 FROM searches WHERE query_id < ?"
            row = self._reader.value(statement, (query_id,))
        return row or 0

    def _read(self, query_ids: Sequence[str], kept_for: timedelta) -> list[dict[str, Any]]:
        clauses = f"{BESIDE_SEARCHES} WHERE query_id IN {AMONG} {NEWEST_FIRST}"
        searches = self._reader.rows("searches", clauses, (query_ids,), OF_SEARCHES)
        for search in searches:
            search["expires_at"] = None if search["case_ids"] else search["created_at"] + kept_for
        return searches

    @transactional
    def _expire_some(self, transaction: Transaction, gallery_id: int, before: datetime) -> int:
        return drop_searches(transaction, gallery_id, self.due(gallery_id, before))


class StoredCases(RecordPart):
    """The cases of galleries; each method raises `UnknownCase` for a case that does not exist."""

    @transactional
    def create(
        self,
        transaction: Transaction,
        gallery_id: int,
        name: str,
        notes: str,
        key_id: str,
        most: int = MOST_CASES,
    ) -> CaseDetail:
        """Store a new case; raises `InvalidField` if the gallery or key has too many."""
        require_entry(transaction, gallery_id)
        statement = (
            "SELECT count(*), count(*) FILTER (WHERE key_id = ?) FROM cases WHERE gallery_id = ?"
        )
        ((cases, cases_of_key),) = transaction.tuples(statement, (key_id, gallery_id))
        if cases >= MOST_CASES or cases_of_key >= most:
            raise InvalidField(
                f"name: the gallery has {cases:,} cases, {cases_of_key} of them of this key; "
                f"{MOST_CASES:,} are the limit, and {MOST_CASES_OF_KEY} for a key without admin; "
                "export and delete closed ones"
            )
        case_id = new_crop_id()
        now = now_micros()
        transaction.insert(
            "cases",
            {
                "case_id": case_id,
                "gallery_id": gallery_id,
                "name": name,
                "notes": notes,
                "created_at": now,
                "changed_at": now,
                "key_id": key_id,
            },
        )
        return _read_case(transaction, gallery_id, case_id)

    def get(self, gallery_id: int, case_id: str) -> CaseDetail:
        with self._database.read() as reader:
            return _read_case(reader, gallery_id, case_id)

    def page(self, gallery_id: int, before: str | None, limit: int) -> Cases:
        wanted, values = all_of({"gallery_id = ?": gallery_id, "case_id < ?": before})
        clauses = f"{wanted} ORDER BY case_id DESC LIMIT ?"
        cases = _read_cases(self._reader, clauses, [*values, limit + 1])
        cursor = cases[limit - 1].case_id if len(cases) > limit else None
        return Cases(results=cases[:limit], next_cursor=cursor)

    @transactional
    def change(
        self, transaction: Transaction, gallery_id: int, case_id: str, fields: Mapping[str, str]
    ) -> CaseDetail:
        values = {**fields, "case_id": case_id, "changed_at": now_micros()}
        statement = f"UPDATE cases SET {settings_of(values)} WHERE case_id = :case_id"
        transaction.change(statement, values)
        return _read_case(transaction, gallery_id, case_id)

    @transactional
    def hold(
        self,
        transaction: Transaction,
        gallery_id: int,
        case_id: str,
        query_id: str,
        note: str | None,
        caller: ApiKey,
        most: int | None = None,
    ) -> CaseDetail:
        """Add a search to a case or change its note; None as `note` removes it from the case.

        Args:
            most: limit on the searches of one key in all cases; None for no limit.

        Raises:
            UnknownQuery: there is no such search, or the case does not hold it.
            Forbidden: an entry of another key's case would change, and this key has no `admin`.
        """
        case = _read_case(transaction, gallery_id, case_id)
        notes = {held.query_id: held.note for held in case.queries}
        if note is None or notes.get(query_id, note) != note:
            caller.require_own(case.key_id)
        search = require_search(transaction, gallery_id, query_id)
        if note is not None:
            if query_id not in notes:
                _require_room(transaction, case, search, most)
            changed = transaction.change(
                "UPDATE case_searches SET note = ? WHERE case_id = ? AND query_id = ?",
                (note, case_id, query_id),
            )
            if not changed:
                row = {
                    "case_id": case_id,
                    "query_id": query_id,
                    "added_at": now_micros(),
                    "note": note,
                }
                transaction.insert("case_searches", row)
        elif not transaction.change(
            "DELETE FROM case_searches WHERE case_id = ? AND query_id = ?", (case_id, query_id)
        ):
            raise UnknownQuery(require_entry(transaction, gallery_id).name, query_id)
        statement = "UPDATE cases SET changed_at = ? WHERE case_id = ?"
        transaction.change(statement, (now_micros(), case_id))
        return _read_case(transaction, gallery_id, case_id)

    @transactional
    def delete(
        self, transaction: Transaction, gallery_id: int, case_id: str, key_id: str | None = None
    ) -> int:
        """Delete a case and its searches that are in no other case; return their number.

        Args:
            key_id: delete only searches of this key and release the others; None deletes all.
        """
        _read_case(transaction, gallery_id, case_id)
        deleted = transaction.column(ONLY_IN_CASE, {"case_id": case_id, "key_id": key_id})
        transaction.change("DELETE FROM cases WHERE case_id = ?", (case_id,))
        return drop_searches(transaction, gallery_id, deleted)


def require_search(reader: Reader, gallery_id: int, query_id: str) -> Row:
    """Return the row of a search; raises `UnknownQuery`."""
    clauses = "WHERE gallery_id = ? AND query_id = ?"
    row = reader.row("searches", clauses, (gallery_id, query_id))
    if row is None:
        raise UnknownQuery(require_entry(reader, gallery_id).name, query_id)
    return row


def find_identifying(transaction: Transaction, query_ids: Collection[str]) -> None:
    """Note which crops identify the person of a search: it is deleted with the last of them."""
    transaction.change(f"DELETE FROM shown WHERE query_id IN {AMONG}", (query_ids,))
    transaction.change(IDENTIFYING, {"query_ids": query_ids})


def find_shown(reader: Reader, gallery_id: int, crop_ids: Sequence[str]) -> dict[str, list[str]]:
    """Return a gallery's searches for the person shown by these crops, by id, with their cases.

    Forgetting the person deletes these searches.
    """
    cases_by_search = reader.tuples(
        "SELECT query_id, json_group_array(DISTINCT case_id) FILTER (WHERE case_id IS NOT NULL) "
        "FROM shown JOIN searches USING (query_id) LEFT JOIN case_searches USING (query_id) "
        f"WHERE gallery_id = ? AND shown.crop_id IN {AMONG} GROUP BY query_id",
        (gallery_id, crop_ids),
    )
    return {query_id: from_json(case_ids) for query_id, case_ids in cases_by_search}


def drop_searches(transaction: Transaction, gallery_id: int, query_ids: Sequence[str]) -> int:
    if not query_ids:
        return 0
    transaction.limit_batch(len(query_ids))
    values = (gallery_id, query_ids)
    today = datetime.now(UTC).date().isoformat()
    transaction.change(
        "INSERT INTO case_deletions (case_id, day, searches) SELECT case_id, ?, count(*) "
        "FROM case_searches JOIN searches USING (query_id) "
        f"WHERE gallery_id = ? AND query_id IN {AMONG} GROUP BY case_id "
        "ON CONFLICT DO UPDATE SET searches = searches + excluded.searches",
        (today, *values),
    )
    transaction.change(
        "UPDATE cases SET changed_at = ? WHERE gallery_id = ? AND case_id IN "
        f"(SELECT case_id FROM case_searches WHERE query_id IN {AMONG})",
        (now_micros(), *values),
    )
    delete = f"DELETE FROM searches WHERE gallery_id = ? AND query_id IN {AMONG}"
    return transaction.change(delete, values)


def _count_searches(reader: Reader, gallery_id: int) -> int:
    statement = "SELECT count(*) FROM searches WHERE gallery_id = ?"
    return int(reader.value(statement, (gallery_id,)))


def _require_room(reader: Reader, case: CaseDetail, search: Row, most: int | None) -> None:
    gallery_id = search["gallery_id"]
    # Any key may add its searches to a case, so the key of the case does not count.
    count = reader.value(
        "SELECT count(*) FROM searches WHERE gallery_id = ? AND key_id = ? AND query_id != ? "
        "AND query_id IN (SELECT query_id FROM case_searches)",
        (gallery_id, search["key_id"], search["query_id"]),
    )
    if most is not None and count >= most and _count_searches(reader, gallery_id) >= most:
        raise InvalidField(
            f"query_id: cases hold {count:,} searches of its key, and half of GMN_KEPT_QUERIES is "
            "the limit for a key without admin; export and delete closed cases"
        )
    if case.count >= MOST_IN_CASE:
        raise InvalidField(
            f"query_id: the case holds {MOST_IN_CASE} searches, which is the limit; "
            "create another one"
        )


def _read_case(reader: Reader, gallery_id: int, case_id: str) -> CaseDetail:
    cases = _read_cases(reader, "gallery_id = ? AND case_id = ?", (gallery_id, case_id))
    if not cases:
        raise UnknownCase(require_entry(reader, gallery_id).name, case_id)
    searches = reader.rows(
        "case_searches", "WHERE case_id = ? ORDER BY added_at, query_id", (case_id,)
    )
    return CaseDetail.model_validate(dict(cases[0]) | {"queries": searches})


def _read_cases(reader: Reader, wanted: str, values: Sequence[Any]) -> list[Case]:
    rows = reader.rows("cases", f"WHERE {wanted}", values, COUNTED)
    return [Case.model_validate(row) for row in rows]
