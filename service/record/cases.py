"""Cases: kept searches that are held together, with notes, beyond their days."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from datetime import UTC, datetime
from typing import TypedDict

from service.errors import InvalidField
from service.record.engine import RecordPart, Transaction, transactional
from service.record.entries import require_entry
from service.record.kept_queries import (
    CASE,
    KEPT_CASE,
    Case,
    CaseEntry,
    KeptChanges,
    KeptQuery,
    read_kept,
)
from service.record.keys import key

# One case is one value of the record, and its export one file.
MOST_CASES, MOST_IN_CASE = 1000, 500


class CaseFields(TypedDict, total=False):
    """What to change of a case; what is left out stays."""

    name: str
    notes: str


class Cases(RecordPart):
    """The cases of galleries."""

    @transactional
    def create(self, transaction: Transaction, gallery_id: int, case: Case) -> None:
        """Keeps a new case; raises `InvalidField` where a gallery has as many as it may."""
        require_entry(transaction, gallery_id)
        changes = KeptChanges(transaction, gallery_id)
        if changes.cases >= MOST_CASES:
            raise InvalidField(
                f"name: the gallery has {MOST_CASES:,} cases, which is the most; export and delete "
                "closed ones"
            )
        changes.cases += 1
        changes.put_case(case)
        changes.finish()

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
        return _put(changes, replace(case, **fields))

    @transactional
    def hold(
        self,
        transaction: Transaction,
        gallery_id: int,
        case_id: str,
        query_id: str,
        note: str | None,
    ) -> Case | None:
        """Puts a search into a case, or changes its note; with None takes it out of the case.

        Returns:
            None where one of them is not there.
        """
        changes = KeptChanges(transaction, gallery_id)
        case, found = changes.case(case_id), changes.get([query_id])
        if case is None or not found or (note is None and query_id not in case.queries):
            return None
        queries, cases = dict(case.queries), _without(found[0].cases, case_id)
        if note is None:
            del queries[query_id]
        else:
            before = queries.get(query_id)
            queries[query_id] = CaseEntry(before.added_at if before else datetime.now(UTC), note)
            cases = (*cases, case_id)
        if len(queries) > MOST_IN_CASE:
            raise InvalidField(
                f"query_id: the case holds {MOST_IN_CASE} searches, which is the most; begin "
                "another one"
            )
        changes.change(found[0], cases=cases)
        return _put(changes, replace(case, queries=queries))

    @transactional
    def delete(self, transaction: Transaction, gallery_id: int, case_id: str) -> int | None:
        """Deletes a case with the searches that no other case holds.

        Returns:
            How many searches; None where there is no such case.
        """
        changes = KeptChanges(transaction, gallery_id)
        case = changes.case(case_id)
        if case is None:
            return None
        changes.drop_case(case_id)
        held = changes.get(case.queries.keys())
        for kept in held:
            if kept.cases != (case_id,):
                changes.change(kept, cases=_without(kept.cases, case_id))
        alone = [kept for kept in held if kept.cases == (case_id,)]
        changes.drop(*alone)
        changes.finish()
        return len(alone)


def _put(changes: KeptChanges, case: Case) -> Case:
    case = replace(case, changed_at=datetime.now(UTC))
    changes.put_case(case)
    changes.finish()
    return case


def _without(cases: Collection[str], case_id: str) -> tuple[str, ...]:
    return tuple(one for one in cases if one != case_id)
