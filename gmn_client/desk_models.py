"""What goes over the wire of kept searches, their reviews, and cases."""

from __future__ import annotations

from typing import Any, Literal

from gmn_client.models import Moment, Page, QueryAnswer, SearchVerdict, WireModel

Decision = Literal["confirmed", "rejected"]


class BestResult(WireModel):
    """The first result under its name of now; null where its crop was deleted."""

    crop_id: str
    identity: str | None
    probability: float | None
    image_url: str


class KeptSearch(WireModel):
    """A search that is kept, to be opened again.

    `expires_at` is null while a case holds it. `key_id` is the API key that asked. `count` is of
    the kept results, at most 100. `image_url` is that of the query's picture, null where none is
    kept; `crop_id` is of a search by a crop. `confirmed` and `rejected` count the reviewed results.
    """

    query_id: str
    created_at: Moment
    expires_at: Moment | None
    key_id: str
    purpose: str | None
    verdict: SearchVerdict
    count: int
    best: BestResult | None
    image_url: str | None
    crop_id: str | None
    confirmed: int
    rejected: int
    case_ids: list[str]


class KeptSearches(Page[KeptSearch]):
    """One page of kept searches, the newest first."""


class ReviewedResult(WireModel):
    """A decision on one result: whether it shows the person that was searched for.

    `identity` is the crop's name of now; null also for a crop that was deleted.
    """

    crop_id: str
    decision: Decision
    identity: str | None
    reviewed_at: Moment
    key_id: str


class OpenedSearch(KeptSearch):
    """A kept search with its answer and reviews.

    `request` has the fields that were sent, but for those that name people, and the number of
    `images`, of which one is kept at most. Scores, verdicts and ranks of `answer` are those of the
    search, labels those of now; `removed` counts results whose crops were deleted since.
    """

    request: dict[str, Any]
    answer: QueryAnswer
    removed: int
    reviews: list[ReviewedResult]


class AnsweredReview(OpenedSearch):
    """The search after a review; `enrolled_crop_id` is the crop that its picture became."""

    enrolled_crop_id: str | None


class Review(WireModel):
    """A decision on a result of a kept search: a label for training.

    A `confirmed` crop and the search's picture show one person, whose name of now is `identity`; a
    `rejected` crop shows another person. `query_image_url` is null where no picture is kept.
    """

    query_id: str
    crop_id: str
    identity: str | None
    decision: Decision
    reviewed_at: Moment
    key_id: str
    query_image_url: str | None
    image_url: str


class Reviews(Page[Review]):
    """One page of reviews, those of the newest searches first; `limit` counts searches."""


class CaseSearch(WireModel):
    """A kept search in a case, and the note on it."""

    query_id: str
    note: str
    added_at: Moment


class Case(WireModel):
    """Kept searches that are held together beyond their days; `count` is how many."""

    case_id: str
    name: str
    notes: str
    created_at: Moment
    changed_at: Moment
    key_id: str
    count: int


class CaseDetail(Case):
    """A case with the ids of its searches and the notes on them, in the order they were added."""

    queries: list[CaseSearch]


class Cases(Page[Case]):
    """One page of cases, the newest first."""


class CaseRemoval(WireModel):
    """The number of kept searches that were deleted with the case."""

    removed: int
