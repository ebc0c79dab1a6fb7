"""Kept searches and cases as parts of the record: bounds, reviews, and when they are removed."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TypedDict

from service.errors import InvalidField
from service.record.engine import Reader, RecordPart, Transaction, batches, transact, transactional
from service.record.entries import Generation, find_generation, require_entry
from service.record.kept_queries import (
    CASE,
    FOUND_BY,
    KEPT_CASE,
    KEPT_KIND,
    KEPT_QUERY,
    Case,
    CaseEntry,
    KeptChanges,
    KeptQuery,
    Review,
    picture_key,
    read_kept,
)
from service.record.keys import below, key, last_text
from service.record.records import Picture

AT_ONCE = 200
# One case is one value of the record, and its export one file.
MOST_CASES = 1000
MOST_IN_CASE = 500
# Of a key without `admin`, so that others can begin cases too.
MOST_CASES_OF_KEY = MOST_CASES // 2


class CaseFields(TypedDict, total=False):
    """What to change of a case; what is left out stays."""

    name: str
    notes: str


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
        gone = read_kept(transaction, gallery_id, [last_text(own, oldest) for own, _ in found])
        changes.drop(*gone)
        new = new[: max(0, most - changes.kept)]
        for kept, picture in new:
            changes.count(kept=1)
            changes.put(kept, picture)
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
        changes = KeptChanges(transaction, gallery_id)
        found = read_kept(transaction, gallery_id, [query_id])
        if not found:
            return None
        reviews = {one: old for one, old in found[0].reviews.items() if one not in crop_ids}
        if review:
            reviews |= dict.fromkeys(_crops_there(transaction, at, crop_ids), review)
        return changes.change(found[0], reviews=reviews)

    @transactional
    def remove(self, transaction: Transaction, gallery_id: int, query_ids: Collection[str]) -> int:
        """Removes those of these searches that are there, from cases too; answers how many."""
        changes = KeptChanges(transaction, gallery_id)
        return changes.drop(*read_kept(transaction, gallery_id, query_ids))

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


class Cases(RecordPart):
    """The cases of galleries."""

    @transactional
    def create(
        self, transaction: Transaction, gallery_id: int, case: Case, most: int = MOST_CASES
    ) -> None:
        """Keeps a new case; raises `InvalidField` where gallery or key has as many as it may."""
        require_entry(transaction, gallery_id)
        changes = KeptChanges(transaction, gallery_id)
        own = _cases_of(transaction, gallery_id, case.key_id) if changes.cases >= most else []
        if changes.cases >= MOST_CASES or len(own) >= most:
            raise InvalidField(
                f"name: the gallery has {changes.cases:,} cases, {len(own)} of them of this key; "
                f"{MOST_CASES:,} are the most, and {MOST_CASES_OF_KEY} of a key without admin; "
                "export and delete closed ones"
            )
        changes.count(cases=1)
        changes.put_case(case)

    def get(self, gallery_id: int, case_id: str) -> Case | None:
        """One case; None where it is not there."""
        (body,) = self._reader.get([key(CASE, gallery_id, case_id)])
        return KEPT_CASE.validate_json(body) if body else None

    def page(self, gallery_id: int, before: str | None, limit: int) -> list[Case]:
        """Up to `limit` cases that are older than one; the newest first."""
        found = self._reader.below(key(CASE, gallery_id), limit, reverse=True, before=before)
        return [KEPT_CASE.validate_json(body) for _, body in found]

    def searches(
        self, gallery_id: int, case: Case, before: str | None, limit: int
    ) -> list[KeptQuery]:
        """Up to `limit` searches of a case that are older than one; the newest first."""
        ids = sorted(case.queries, reverse=True)
        older = [one for one in ids if before is None or one < before]
        return read_kept(self._reader, gallery_id, older[:limit])

    @transactional
    def change(
        self, transaction: Transaction, gallery_id: int, case_id: str, fields: CaseFields
    ) -> Case | None:
        """Changes a case's name or notes; None where it is not there."""
        changes = KeptChanges(transaction, gallery_id)
        case = changes.case(case_id)
        if case is None:
            return None
        return changes.put_case(replace(case, **fields, changed_at=datetime.now(UTC)))

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
        """Puts a search into a case, or changes its note; with None takes it out of the case.

        Args:
            most: searches in all cases of the case's key; None for any number.

        Returns:
            None where one of them is not there.
        """
        changes = KeptChanges(transaction, gallery_id)
        case = changes.case(case_id)
        found = read_kept(transaction, gallery_id, [query_id])
        if case is None or not found or (note is None and query_id not in case.queries):
            return None
        queries = dict(case.queries)
        cases = _without(found[0].cases, case_id)
        if note is None:
            del queries[query_id]
        else:
            before = queries.get(query_id)
            if before is None and most is not None and changes.kept >= most:
                _require_place(_cases_of(transaction, gallery_id, case.key_id), most)
            queries[query_id] = CaseEntry(before.added_at if before else datetime.now(UTC), note)
            cases = (*cases, case_id)
        if len(queries) > MOST_IN_CASE:
            raise InvalidField(
                f"query_id: the case holds {MOST_IN_CASE} searches, which is the most; begin "
                "another one"
            )
        changes.change(found[0], cases=cases)
        return changes.put_case(replace(case, queries=queries, changed_at=datetime.now(UTC)))

    @transactional
    def delete(
        self, transaction: Transaction, gallery_id: int, case_id: str, key_id: str | None = None
    ) -> int | None:
        """Deletes a case with the searches that no other case holds.

        Args:
            key_id: whose searches are deleted, the others' days count again; None for all.

        Returns:
            How many searches; None where there is no such case.
        """
        changes = KeptChanges(transaction, gallery_id)
        case = changes.case(case_id)
        if case is None:
            return None
        changes.drop_case(case_id)
        held = read_kept(transaction, gallery_id, case.queries.keys())
        deleted = []
        for kept in held:
            if kept.cases == (case_id,) and key_id in (None, kept.key_id):
                deleted.append(kept)
            else:
                changes.change(kept, cases=_without(kept.cases, case_id))
        return changes.drop(*deleted)


def _cases_of(transaction: Transaction, gallery_id: int, key_id: str) -> list[Case]:
    found = transaction.below(key(CASE, gallery_id))
    cases = [KEPT_CASE.validate_json(body) for _, body in found]
    return [case for case in cases if case.key_id == key_id]


def _require_place(cases: Sequence[Case], most: int) -> None:
    held = sum(len(case.queries) for case in cases)
    if held >= most:
        raise InvalidField(
            f"query_id: the cases of this key hold {held:,} searches, and half of "
            "GMN_KEPT_QUERIES is the most of a key without admin; export and delete closed cases"
        )


def _without(cases: Collection[str], case_id: str) -> tuple[str, ...]:
    return tuple(one for one in cases if one != case_id)


def _expire(
    transaction: Transaction, gallery_id: int, query_ids: Sequence[str], before: datetime
) -> int:
    require_entry(transaction, gallery_id)
    changes = KeptChanges(transaction, gallery_id)
    found = read_kept(transaction, gallery_id, query_ids)
    return changes.drop(*_due(transaction, gallery_id, found, before))


def _due(
    reader: Reader, gallery_id: int, searches: Sequence[KeptQuery], before: datetime
) -> list[KeptQuery]:
    lost = _lost(reader, gallery_id, searches)
    return [one for one in searches if one in lost or (one.created_at < before and not one.cases)]


def _lost(reader: Reader, gallery_id: int, searches: Sequence[KeptQuery]) -> list[KeptQuery]:
    """The searches that crops showed the person of, and none does any more."""
    at = find_generation(reader, gallery_id)
    asked = dict.fromkeys(crop_id for one in searches for crop_id in one.shows)
    there = set(_crops_there(reader, at, asked))
    return [one for one in searches if one.shows and one.shows.isdisjoint(there)]


def _crops_there(reader: Reader, at: Generation, crop_ids: Collection[str]) -> list[str]:
    found = reader.get([at.lookup("crop id", one) for one in crop_ids])
    return [one for one, body in zip(crop_ids, found, strict=True) if body is not None]
