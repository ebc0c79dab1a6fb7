"""Kept searches with their reviews, and cases, which keep searches beyond their retention."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic_core import from_json

from gmn_client.models import (
    Case,
    CaseDetail,
    Cases,
    Decision,
    Page,
    RankedCrop,
)
from service.errors import InvalidField, UnknownCase, UnknownQuery
from service.record.database import Database, RecordPart, transactional
from service.record.deleted_rows import DeleteRows, rows_of
from service.record.galleries import require_entry
from service.record.keys import ApiKey
from service.record.schema import now_micros
from service.record.transaction import (
    Reader,
    Row,
    Transaction,
    all_of,
    settings_of,
    upsert,
)
from service.record.values import Picture, new_crop_id

# A case is loaded, and exported to one file, as a whole.
MOST_CASES = 1000
MOST_IN_CASE = 500
# Limit for keys without `admin`, so that others can create cases too.
MOST_CASES_OF_KEY = MOST_CASES // 2
SEARCHES_AT_ONCE = 200
# Numbers grow even if the clock, by which ids sort, is set back.
OLDEST_FIRST = "ORDER BY searches.number"
NEWEST_FIRST = f"{OLDEST_FIRST} DESC"
# Columns of a result besides its search. Its crop has the labels, which may change.
RESULT_COLUMNS = (
    "rank",
    "crop_id",
    "cosine",
    "pair_logit",
    "probability",
    "verdict",
    "likelihood_ratio",
)
# The lists of visits that a search for visits has.
VISIT_LISTS = ("results", "uncertain")
# SQL conditions by the name of the property that searches are selected by.
FOUND_BY = {
    "key": "searches.key_id = ?",
    "case": "query_id IN (SELECT query_id FROM case_searches WHERE case_id = ?)",
    "reviewed": "? = '' AND query_id IN (SELECT query_id FROM reviews)",
}
# Tables beside `searches`, and columns of them. The first result has its current label.
BESIDE_SEARCHES = """
LEFT JOIN search_results AS best ON best.query_id = searches.query_id AND best.rank = 1
LEFT JOIN crops ON crops.gallery_id = searches.gallery_id AND crops.crop_id = best.crop_id
LEFT JOIN people ON people.person_id = crops.person_id
"""
OF_SEARCHES = """,
(SELECT count(*) FROM search_results WHERE search_results.query_id = searches.query_id) AS count,
crops.crop_id AS best_crop_id, people.name AS best_identity, best.probability AS best_probability,
(SELECT count(*) FROM reviews
    WHERE reviews.query_id = searches.query_id AND decision = 'confirmed') AS confirmed,
(SELECT count(*) FROM reviews
    WHERE reviews.query_id = searches.query_id AND decision = 'rejected') AS rejected,
EXISTS (SELECT 1 FROM search_visits WHERE search_visits.query_id = searches.query_id) AS has_visits
"""
CASES_OF = """
SELECT query_id, case_id FROM case_searches WHERE {of_searches} ORDER BY added_at, case_id
"""
# The results of a search whose crops exist, best first, with their current labels.
BESIDE_RESULTS = """
JOIN searches USING (gallery_id)
JOIN search_results AS result
    ON result.query_id = searches.query_id AND result.crop_id = crops.crop_id
LEFT JOIN people USING (person_id)
LEFT JOIN tracks ON tracks.gallery_id = crops.gallery_id AND tracks.slot = crops.slot
WHERE searches.query_id = ? ORDER BY rank
"""
COLUMNS_OF_RESULTS = """,
rank, cosine, pair_logit, probability, verdict, likelihood_ratio, people.name AS identity, track
"""
REVIEWED = """
JOIN searches USING (query_id)
LEFT JOIN crops ON crops.gallery_id = searches.gallery_id AND crops.crop_id = reviews.crop_id
LEFT JOIN people USING (person_id)
WHERE query_id = ? ORDER BY reviews.crop_id
"""
# The hashes of a crop: that of the file that was sent, and of the picture that is kept of it.
HASHES = "crops.sent_sha256, coalesce(crops.sha256, crops.sent_sha256) AS sha256"
OF_REVIEWED = f", people.name AS identity, {HASHES}"
BESIDE_REVIEWS = """
JOIN searches USING (query_id)
JOIN crops ON crops.gallery_id = searches.gallery_id AND crops.crop_id = reviews.crop_id
LEFT JOIN people USING (person_id)
"""
OF_REVIEWS = f""",
people.name AS identity, {HASHES}, searches.content_type IS NOT NULL AS search_has_picture
"""
OF_VISITS = f"""
SELECT crop_id, people.name, {HASHES} FROM crops LEFT JOIN people USING (person_id)
WHERE crops.gallery_id = ? AND {{of_crops}}
"""
# The results that identify the person searched for, unless they were rejected: the confirmed ones,
# and a first result that is a `match`.
IDENTIFYING = """
SELECT query_id, crop_id FROM reviews
WHERE {of_searches} AND decision = 'confirmed'
UNION SELECT query_id, crop_id FROM search_results
WHERE {of_searches} AND rank = 1 AND verdict = 'match'
"""
REJECTED = "SELECT query_id, crop_id FROM reviews WHERE {of_searches} AND decision = 'rejected'"
# The crops that identify the person searched for are all deleted.
IS_LOST = """
EXISTS (SELECT 1 FROM shown WHERE shown.query_id = searches.query_id) AND NOT EXISTS (
    SELECT 1 FROM shown JOIN crops USING (gallery_id, crop_id)
    WHERE shown.query_id = searches.query_id
)
"""
OF_IMPORT = """
WITH imported AS (
    SELECT crop_id FROM imported_crops JOIN crops USING (gallery_id, slot)
    WHERE gallery_id = :gallery_id AND job_id = :job_id
), of_gallery AS (
    SELECT query_id FROM searches WHERE gallery_id = :gallery_id
)
SELECT
    (SELECT count(DISTINCT crop_id) FROM imported JOIN reviews USING (crop_id)
        JOIN of_gallery USING (query_id)),
    (SELECT count(DISTINCT crop_id) FROM imported JOIN shown USING (crop_id)
        JOIN case_searches USING (query_id) WHERE shown.gallery_id = :gallery_id)
"""
# Cases are listed with the number of their searches, whose notes may be megabytes for each case.
COUNTED = """,
(SELECT count(*) FROM case_searches WHERE case_searches.case_id = cases.case_id) AS count
"""
COUNT_DELETIONS = upsert(
    "case_deletions",
    ("case_id", "day", "searches"),
    "SELECT case_id, ?, count(*) FROM case_searches WHERE {of_searches} GROUP BY case_id",
    "searches = case_deletions.searches + excluded.searches",
)
IN_NO_CASE = "query_id NOT IN (SELECT query_id FROM case_searches)"
IS_DUE = f"(created_at < ? AND {IN_NO_CASE} OR {IS_LOST})"
ONLY_IN_CASE = """
SELECT query_id FROM case_searches JOIN searches USING (query_id) WHERE case_id = :case_id
AND (CAST(:key_id AS TEXT) IS NULL OR key_id = :key_id)
AND query_id NOT IN (SELECT query_id FROM case_searches WHERE case_id != :case_id)
"""


@dataclass(frozen=True)
class NewSearch:
    """A search to keep.

    Attributes:
        columns: its columns in `searches`, except for the gallery.
        results: best first.
        picture: of the type in `columns`; None if none is kept.
        files: columns of `search_files`, of each picture that was sent.
        visits: the visits that it found, as `results` and `uncertain`; None if it was not a search
            for visits.
    """

    columns: Mapping[str, Any]
    results: Sequence[RankedCrop]
    picture: bytes | None
    files: Sequence[Mapping[str, Any]] = ()
    visits: Mapping[str, Any] | None = None

    @property
    def query_id(self) -> str:
        return str(self.columns["query_id"])


class KeptQueries(RecordPart):
    """Kept searches and their reviews."""

    @transactional
    def keep(
        self,
        transaction: Transaction,
        gallery_id: int,
        searches: Sequence[NewSearch],
        most: int,
    ) -> tuple[set[str], int]:
        """Store searches, beyond `most` in place of the oldest ones outside cases.

        Returns:
            The ids of the stored searches, and the number of deleted ones. A search is not stored
            if cases leave no room for it, or if the crops of its person have been deleted.
        """
        require_entry(transaction, gallery_id)
        newest = _newest_number(transaction, gallery_id)
        for number, search in enumerate(searches, newest + 1):
            row = {"gallery_id": gallery_id, "number": number, **search.columns}
            transaction.insert("searches", row)
            results = [
                {"query_id": search.query_id}
                | {name: getattr(result, name) for name in RESULT_COLUMNS}
                for result in search.results
            ]
            transaction.insert("search_results", *results)
            if search.picture is not None:
                picture = {"query_id": search.query_id, "content": search.picture}
                transaction.insert("search_pictures", picture)
            files = [
                {"query_id": search.query_id, "number": number, **file}
                for number, file in enumerate(search.files, 1)
            ]
            transaction.insert("search_files", *files)
            if search.visits is not None:
                # Crops may have been deleted since the search.
                visits = _without_deleted(transaction, gallery_id, search.visits)
                row = {"query_id": search.query_id, "visits": visits}
                transaction.insert("search_visits", row)
                _index_visits(transaction, search.query_id, visits)
        new = {search.query_id for search in searches}
        find_identifying(transaction, new)
        select = "SELECT query_id FROM searches WHERE gallery_id = ?"
        lost = transaction.column(
            f"{select} AND {transaction.dialect.among('query_id')} AND {IS_LOST}", (gallery_id, new)
        )
        drop_searches(transaction, lost)
        surplus = transaction.column(
            f"{select} AND {IN_NO_CASE} {OLDEST_FIRST} LIMIT ?",
            (gallery_id, max(0, _count_searches(transaction, gallery_id) - most)),
        )
        drop_searches(transaction, surplus)
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
            results = reader.rows("crops", BESIDE_RESULTS, (query_id,), COLUMNS_OF_RESULTS)
            reviews = reader.rows("reviews", REVIEWED, (query_id,), OF_REVIEWED)
            files = reader.rows("search_files", "WHERE query_id = ? ORDER BY number", (query_id,))
            visits = _read_visits(reader, gallery_id, query_id)
        return search | {
            "files": [_with_digests(file) for file in files],
            "answer": {**search["answer"], "results": results, "query_id": query_id},
            "removed": search["count"] - len(results),
            "reviews": [_with_digests(review) for review in reviews],
            "visits": visits,
        }

    def result_ids(self, gallery_id: int, query_id: str) -> list[str]:
        """Return the ids of a search's kept results, best first; raises `UnknownQuery`."""
        require_search(self._reader, gallery_id, query_id)
        statement = "SELECT crop_id FROM search_results WHERE query_id = ? ORDER BY rank"
        return self._reader.column(statement, (query_id,))

    def reviews(
        self, gallery_id: int, before: str | None, limit: int, found_by: str, value: str | None
    ) -> Page[Row]:
        """Return the reviews of up to `limit` searches older than `before`, the newest first.

        Reviews of deleted crops are left out.
        """
        query_ids, cursor = self._find_newest(gallery_id, before, limit, found_by, value)
        order = f"{NEWEST_FIRST}, reviews.crop_id"
        clauses = f"{BESIDE_REVIEWS} WHERE {self._reader.dialect.among('query_id')} {order}"
        rows = self._reader.rows("reviews", clauses, (query_ids,), OF_REVIEWS)
        return Page(results=[_with_digests(row) for row in rows], next_cursor=cursor)

    def picture(self, gallery_id: int, query_id: str) -> Picture | None:
        """Return the picture of a search; None if it has none.

        Raises:
            UnknownQuery: there is no such search.
            DamagedRecord: the picture is missing.
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
        of_crops = transaction.dialect.among("crop_id")
        delete = f"DELETE FROM reviews WHERE query_id = ? AND {of_crops} RETURNING key_id"
        for (key_id,) in transaction.change_returning(delete, (query_id, crop_ids)):
            caller.require_own(key_id)
        if decision:
            transaction.change(
                "INSERT INTO reviews "
                "(query_id, crop_id, decision, key_id, key_note, reviewed_at) "
                "SELECT ?, crop_id, ?, ?, ?, ? FROM crops "
                f"WHERE gallery_id = ? AND {of_crops}",
                (
                    *(query_id, decision, caller.key_id, caller.note, now_micros()),
                    *(gallery_id, crop_ids),
                ),
            )
        find_identifying(transaction, [query_id])

    def count_shown(self, gallery_id: int, identity: str) -> dict[str, Any]:
        """Count the searches for a person, and those of each case, as `IdentityDetail` has them."""
        with self._database.read() as reader:
            crop_ids = reader.column(
                "SELECT crop_id FROM crops JOIN people USING (gallery_id, person_id) "
                "WHERE gallery_id = ? AND name = ?",
                (gallery_id, identity),
            )
            searches = find_shown(reader, gallery_id, crop_ids)
        return {"kept_searches": len(searches), "cases": count_by_case(searches)}

    def count_imported(self, gallery_id: int, job_id: str) -> tuple[int, int]:
        """Count the crops of an import that were reviewed, and that searches of cases show."""
        values = {"gallery_id": gallery_id, "job_id": job_id}
        (counts,) = self._reader.tuples(OF_IMPORT, values)
        return counts

    @transactional
    def remove(self, transaction: Transaction, gallery_id: int, query_ids: Sequence[str]) -> int:
        those = transaction.dialect.among("query_id")
        own = f"SELECT query_id FROM searches WHERE gallery_id = ? AND {those}"
        return drop_searches(transaction, transaction.column(own, (gallery_id, query_ids)))

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
        number = None if before is None else self._find_number(gallery_id, before)
        conditions = {"searches.gallery_id = ?": gallery_id, "searches.number < ?": number}
        wanted, values = all_of({**conditions, FOUND_BY[found_by]: value})
        query_ids = self._reader.column(
            f"SELECT query_id FROM searches WHERE {wanted} {NEWEST_FIRST} LIMIT ?",
            [*values, limit + 1],
        )
        return query_ids[:limit], query_ids[limit - 1] if len(query_ids) > limit else None

    def _find_number(self, gallery_id: int, query_id: str) -> int:
        of_search = "SELECT number FROM searches WHERE gallery_id = ? AND query_id = ?"
        number: int | None = self._reader.value(of_search, (gallery_id, query_id))
        if number is None:
            # The search was deleted since; those from before it have lower ids.
            statement = "SELECT max(number) + 1 FROM searches WHERE gallery_id = ? AND query_id < ?"
            number = self._reader.value(statement, (gallery_id, query_id))
        return number or 0

    def _read(self, query_ids: Sequence[str], kept_for: timedelta) -> list[dict[str, Any]]:
        dialect = self._reader.dialect
        of_searches = dialect.among("searches.query_id")
        clauses = f"{BESIDE_SEARCHES} WHERE {of_searches} {NEWEST_FIRST}"
        searches = self._reader.rows("searches", clauses, (query_ids,), OF_SEARCHES)
        cases: dict[str, list[str]] = defaultdict(list)
        cases_of = CASES_OF.format(of_searches=dialect.among("query_id"))
        for query_id, case_id in self._reader.tuples(cases_of, (query_ids,)):
            cases[query_id].append(case_id)
        for search in searches:
            search["case_ids"] = cases[search["query_id"]]
            search["expires_at"] = None if search["case_ids"] else search["created_at"] + kept_for
            search["purpose"] = search["request"].get("purpose")
            search["verdict"] = search["answer"].get("verdict")
            search["kind"] = "visits" if search["has_visits"] else "query"
            search["best"] = None
            if search["best_crop_id"] is not None:
                search["best"] = {
                    "crop_id": search["best_crop_id"],
                    "identity": search["best_identity"],
                    "probability": search["best_probability"],
                }
        return searches

    @transactional
    def _expire_some(self, transaction: Transaction, gallery_id: int, before: datetime) -> int:
        return drop_searches(transaction, self.due(gallery_id, before))


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
        return drop_searches(transaction, deleted)


class DeskTables:
    """Kept searches and cases in a record."""

    def __init__(self, database: Database) -> None:
        self.kept = KeptQueries(database)
        self.cases = StoredCases(database)


def require_search(reader: Reader, gallery_id: int, query_id: str) -> Row:
    """Return the row of a search; raises `UnknownQuery`."""
    clauses = "WHERE gallery_id = ? AND query_id = ?"
    row = reader.row("searches", clauses, (gallery_id, query_id))
    if row is None:
        raise UnknownQuery(require_entry(reader, gallery_id).name, query_id)
    return row


def find_identifying(transaction: Transaction, query_ids: Collection[str]) -> None:
    """Note which crops identify the person of a search: it is deleted with the last of them.

    They are the crops that were searched by, those of `IDENTIFYING`, and those of all visits.
    """
    of_searches = transaction.dialect.among("query_id", ":query_ids")
    values = {"query_ids": query_ids}
    transaction.change(f"DELETE FROM shown WHERE {of_searches}", values)
    found = set(transaction.tuples(IDENTIFYING.format(of_searches=of_searches), values))
    for row in transaction.rows("search_visits", f"WHERE {of_searches}", values):
        for visit in row["visits"]["results"]:
            found.update((row["query_id"], crop_id) for crop_id in visit["crop_ids"])
    found.difference_update(transaction.tuples(REJECTED.format(of_searches=of_searches), values))

    searches = transaction.rows("searches", f"WHERE {of_searches}", values)
    galleries = {search["query_id"]: search["gallery_id"] for search in searches}
    # The gallery of each crop, by search and crop.
    shown = {(query_id, crop_id): galleries[query_id] for query_id, crop_id in found}
    for search in searches:
        searched_by = search["request"].get("crop_ids") or [search["crop_id"]]
        for crop_id in filter(None, searched_by):
            gallery_id = search["crop_gallery"] or search["gallery_id"]
            shown[search["query_id"], crop_id] = gallery_id
    rows = [
        {"query_id": query_id, "crop_id": crop_id, "gallery_id": gallery_id}
        for (query_id, crop_id), gallery_id in sorted(shown.items())
    ]
    transaction.insert("shown", *rows)


def find_shown(reader: Reader, gallery_id: int, crop_ids: Sequence[str]) -> dict[str, list[str]]:
    """Return the searches for the person shown by these crops, by id, with their cases.

    Forgetting the person deletes these searches, which may be of other galleries too.

    Args:
        gallery_id: the gallery of the crops.
    """
    case_ids = reader.dialect.gathered("DISTINCT case_id", "case_id IS NOT NULL")
    cases_by_search = reader.tuples(
        f"SELECT query_id, {case_ids} "
        "FROM shown LEFT JOIN case_searches USING (query_id) "
        f"WHERE gallery_id = ? AND {reader.dialect.among('shown.crop_id')} GROUP BY query_id",
        (gallery_id, crop_ids),
    )
    return {query_id: from_json(cases) for query_id, cases in cases_by_search}


def forget_visits(transaction: Transaction, gallery_id: int, crop_ids: Collection[str]) -> None:
    """Remove deleted crops from the visits of kept searches, and visits of which none is left.

    A visit has the camera, the times and the tracks of its crops.
    """
    among = transaction.dialect.among
    query_ids = transaction.column(
        "SELECT DISTINCT query_id FROM visit_crops JOIN searches USING (query_id) "
        f"WHERE gallery_id = ? AND {among('visit_crops.crop_id')}",
        (gallery_id, crop_ids),
    )
    gone = set(crop_ids)
    for row in transaction.rows("search_visits", f"WHERE {among('query_id')}", (query_ids,)):
        _put_visits(transaction, row["query_id"], _without_crops(row["visits"], gone))


def index_visits(transaction: Transaction) -> None:
    """Fill the table of the crops of visits, from which format 1 did not remove deleted ones."""
    statement = "SELECT query_id, gallery_id FROM search_visits JOIN searches USING (query_id)"
    for query_id, gallery_id in transaction.tuples(statement):
        (row,) = transaction.rows("search_visits", "WHERE query_id = ?", (query_id,))
        left = _without_deleted(transaction, gallery_id, row["visits"])
        _put_visits(transaction, query_id, left)


def count_by_case(searches: Mapping[str, Sequence[str]]) -> dict[str, int]:
    return Counter(case_id for cases in searches.values() for case_id in cases)


def drop_searches(transaction: Transaction, query_ids: Sequence[str]) -> int:
    """Delete searches, count them in their cases, and return how many were deleted."""
    if not query_ids:
        return 0
    today = datetime.now(UTC).date().isoformat()
    of_searches = transaction.dialect.among("query_id")
    transaction.change(COUNT_DELETIONS.format(of_searches=of_searches), (today, query_ids))
    transaction.change(
        "UPDATE cases SET changed_at = ? WHERE case_id IN "
        f"(SELECT case_id FROM case_searches WHERE {of_searches})",
        (now_micros(), query_ids),
    )
    return transaction.change(f"DELETE FROM searches WHERE {of_searches}", (query_ids,))


DELETED_ROWS: Mapping[str, DeleteRows] = {
    "search": drop_searches,
    "case": rows_of("cases", "case_id"),
}


def _read_visits(reader: Reader, gallery_id: int, query_id: str) -> Row | None:
    """Return the visits of a search with current names; None if it was not a search for visits."""
    row = reader.row("search_visits", "WHERE query_id = ?", (query_id,))
    if row is None:
        return None
    crop_ids = _crops_of(row["visits"])
    statement = OF_VISITS.format(of_crops=reader.dialect.among("crop_id"))
    crops = {
        crop_id: (identity, sent_sha256.hex(), sha256.hex())
        for crop_id, identity, sent_sha256, sha256 in reader.tuples(
            statement, (gallery_id, sorted(crop_ids))
        )
    }
    opened = _without_crops(row["visits"], crop_ids.difference(crops))
    for name in VISIT_LISTS:
        for visit in opened[name]:
            identities = [crops[crop_id][0] for crop_id in visit["crop_ids"]]
            best = crops[visit["crop_ids"][0]]
            visit["identity"] = next((name for name in identities if name is not None), None)
            visit["sent_sha256"] = best[1]
            visit["sha256"] = best[2]
    return opened


def _crops_of(visits: Mapping[str, Any]) -> set[str]:
    return {
        crop_id for name in VISIT_LISTS for visit in visits[name] for crop_id in visit["crop_ids"]
    }


def _without_crops(visits: Mapping[str, Any], gone: Collection[str]) -> Row:
    """Return visits without some crops, and the number of those of which none is left."""
    left: Row = {**{name: [] for name in VISIT_LISTS}, "removed": visits.get("removed", 0)}
    for name in VISIT_LISTS:
        for visit in visits[name]:
            crop_ids = [crop_id for crop_id in visit["crop_ids"] if crop_id not in gone]
            if crop_ids:
                left[name].append(visit | {"crop_ids": crop_ids})
            else:
                left["removed"] += 1
    return left


def _without_deleted(reader: Reader, gallery_id: int, visits: Mapping[str, Any]) -> Row:
    crop_ids = _crops_of(visits)
    of_crops = reader.dialect.among("crop_id")
    statement = f"SELECT crop_id FROM crops WHERE gallery_id = ? AND {of_crops}"
    present = reader.column(statement, (gallery_id, sorted(crop_ids)))
    return _without_crops(visits, crop_ids.difference(present))


def _put_visits(transaction: Transaction, query_id: str, visits: Row) -> None:
    transaction.change("UPDATE search_visits SET visits = ? WHERE query_id = ?", (visits, query_id))
    transaction.change("DELETE FROM visit_crops WHERE query_id = ?", (query_id,))
    _index_visits(transaction, query_id, visits)


def _index_visits(transaction: Transaction, query_id: str, visits: Mapping[str, Any]) -> None:
    rows = [{"query_id": query_id, "crop_id": crop_id} for crop_id in sorted(_crops_of(visits))]
    transaction.insert("visit_crops", *rows)


def _with_digests(row: Row) -> Row:
    sent = row["sent_sha256"]
    kept = row["sha256"] or sent
    return row | {"sent_sha256": sent and sent.hex(), "sha256": kept and kept.hex()}


def _newest_number(reader: Reader, gallery_id: int) -> int:
    statement = "SELECT coalesce(max(number), 0) FROM searches WHERE gallery_id = ?"
    return int(reader.value(statement, (gallery_id,)))


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
    deletions: dict[str, dict[str, int]] = defaultdict(dict)
    case_ids = [row["case_id"] for row in rows]
    statement = (
        f"SELECT case_id, day, searches FROM case_deletions WHERE {reader.dialect.among('case_id')}"
    )
    for case_id, day, searches in reader.tuples(statement, (case_ids,)):
        deletions[case_id][day] = searches
    return [
        Case.model_validate(row | {"deleted_searches": deletions[row["case_id"]]}) for row in rows
    ]
