"""Searches that are kept with their results, to be opened again and reviewed, and cases of them.

A search keeps ids of crops and their scores. Labels are read as it is opened, so that it shows
renames, and names no person that was forgotten.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import field
from datetime import date, datetime
from typing import Any, Literal, NamedTuple, TypeAlias, TypedDict

from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass as stored_dataclass

from gmn_client.models import Verdict

# One case is one value of the record, and its export one file.
MOST_CASES = 1000


MOST_IN_CASE = 500


# Of a key without `admin`, so that others can begin cases too.
MOST_CASES_OF_KEY = MOST_CASES // 2


class CaseFields(TypedDict, total=False):
    """What to change of a case; what is left out stays."""

    name: str
    notes: str


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


def count_by_case(searches: Sequence[KeptQuery]) -> dict[str, int]:
    """Return how many of these searches each case holds, by its id."""
    return Counter(case_id for search in searches for case_id in search.cases)
