"""Groups of crops without names, and the visits of people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Self

from fastapi import Path, Query, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import Field, model_validator

from gmn_client.models import (
    CropGroups,
    Job,
    PeopleCount,
    PersonVisits,
    QueryAnswer,
    RefusedImage,
    VisitsAnswer,
)
from service.desk.kept_searches import KEPT_VISITS, SearchToKeep, keep_answers
from service.errors import InvalidField
from service.http.fields import Id, Label, Moment, Names, require_order
from service.http.forms import GroupingForm, Sent
from service.http.guard import Admin, Querier, Searcher, guarded_router
from service.http.limits import FormRequest
from service.http.problems import problems
from service.http.query_forms import MOST_GALLERIES, GalleriesForm, QueryForm
from service.http.routes.jobs import answer_accepted
from service.http.routes.queries import (
    QUERY_PROBLEMS,
    answer_query,
    choose_galleries,
    note_searches,
)
from service.runtime import Call, GalleryCall
from service.search.query import AnsweredQuery
from service.visits.grouping import begin_grouping

router = guarded_router("/v1/galleries/{gallery}", "visits")
galleries_router = guarded_router("/v1", "visits")
EVERY_UNNAMED = GroupingForm()
MAY_BE_MORE = (
    "there may be more visits, because not every crop that may show the person was compared; "
    "search a shorter time"
)
# Number of crops that a search for visits compares with its tracks.
COMPARED_CROPS = 1000
# Twenty galleries then have as many results as one answer may have.
COMPARED_CROPS_OF_SEVERAL = 500
GroupId = Annotated[Id, Path(description="A group's id, as the list of groups has it.")]
Identity = Annotated[Label, Path(description="An identity, as enrolled.", examples=["0042"])]
After = Annotated[Moment | None, Query(description="Only crops captured since this time.")]
Before = Annotated[Moment | None, Query(description="Only crops captured until this time.")]


class VisitsFields(QueryForm):
    """The fields of a query, of which visits are made."""

    top_k: int = Field(COMPARED_CROPS, ge=1, le=10_000)
    """Number of crops most like the person whose tracks are looked at."""
    rerank_depth: int = Field(COMPARED_CROPS, ge=1, le=10_000)
    """Candidates that M-Net scores."""
    keep: bool = False
    """Keep the search with its visits; the answer then has `query_ids`."""

    @model_validator(mode="after")
    def _require_crops(self) -> Self:
        for name in ("mode", "group_by", "order", "include_vector"):
            if getattr(self, name) != QueryForm.model_fields[name].default:
                raise InvalidField(f"{name}: visits are made of all crops; leave it out")
        return self

    def kept_fields(self) -> dict[str, Any]:
        # The page opens a kept search as a query, whose defaults are other ones.
        return super().kept_fields() | {"top_k": self.top_k, "rerank_depth": self.rerank_depth}


class GalleriesVisitsFields(VisitsFields, GalleriesForm):
    """The fields of a query of several galleries, of which visits are made."""

    top_k: int = Field(COMPARED_CROPS_OF_SEVERAL, ge=1, le=10_000)
    """Number of crops of each gallery most like the person whose tracks are looked at."""
    rerank_depth: int = Field(COMPARED_CROPS_OF_SEVERAL, ge=1, le=10_000)
    """Candidates of each gallery that M-Net scores."""
    keep_in: Names = Field((), max_length=MOST_GALLERIES)
    """With `keep`: the galleries that keep the search; default: all that are searched."""

    def kept_fields(self) -> dict[str, Any]:
        home = {"gallery": self.gallery} if self.gallery else {}
        return super().kept_fields() | home


@router.post("/groups", status_code=202, responses=problems("needs_reindex"))
async def group_crops(
    call: Admin, response: Response, form: Sent[GroupingForm] = EVERY_UNNAMED
) -> Job:
    """Groups unnamed crops by person, as a job; more than 100,000 crops are answered with 422.

    Tracks are joined while the mean cosine of their crops says that they show one person. Tracks of
    one camera that overlap in time are never joined. No crop is changed.
    """
    job = await begin_grouping(call.runtime, call.gallery, form.filter(), call.caller.key_id)
    return answer_accepted(call, response, job)


@router.get("/groups")
async def list_groups(call: Searcher) -> CropGroups:
    """Lists the groups of the last grouping, without crops that were named or deleted since.

    Name a group by `PATCH …/crops` with its `crop_ids`.
    """
    groups = await call.read(call.runtime.groupings.get)
    call.note_view("list_groups", count=len(groups.results))
    return groups


@router.get("/groups/count")
async def count_people(
    call: Searcher, captured_after: After = None, captured_before: Before = None
) -> PeopleCount:
    """Counts the people of a time, with an interval that has the true number in nine of ten cases.

    People without a name are counted by the last grouping.
    """
    _require_order(captured_after, captured_before)
    count = await call.read(call.runtime.groupings.count_people, captured_after, captured_before)
    call.note_view("count_people", count=count.people)
    return count


@router.get("/groups/{group_id}/visits", responses=problems("unknown_group", "needs_reindex"))
async def list_group_visits(call: Searcher, group_id: GroupId) -> PersonVisits:
    """Lists where a group of unnamed crops was seen, over all cameras, in the order of time."""
    visits = await call.runtime.visits.of_group(call.gallery, group_id)
    call.note_view("visits", count=len(visits.results), filters={"group": group_id})
    return visits


@router.get(
    "/identities/{identity:path}/visits", responses=problems("unknown_identity", "needs_reindex")
)
async def list_identity_visits(
    call: Searcher,
    identity: Identity,
    captured_after: After = None,
    captured_before: Before = None,
) -> PersonVisits:
    """Lists where a person was seen, over all cameras, in the order of time.

    More than 10,000 crops of the person are answered with 422.
    """
    _require_order(captured_after, captured_before)
    visits = await call.runtime.visits.of_identity(
        call.gallery, identity, captured_after, captured_before
    )
    call.note_view("visits", count=len(visits.results), filters={"identity": identity})
    return visits


@router.post("/visits", responses=problems(*QUERY_PROBLEMS))
async def find_visits(
    request: FormRequest, call: Searcher, form: Sent[VisitsFields]
) -> VisitsAnswer:
    """Finds the visits of the person on the images: where and when the person was seen.

    It takes the fields of a query. A visit is one person at one camera: tracks with the verdict
    `match` that show one person and follow each other within five minutes. Tracks that are
    `uncertain` are listed apart. Several images are of one person. With `keep` the visits can be
    opened again as a kept search, and added to a case.
    """
    name = call.gallery.name
    versions = {name: form.min_version} if form.min_version else {}
    queries = await answer_query(request, call, form, [name], versions)
    return await _answer_visits(call, form, queries, name)


@galleries_router.post("/visits", responses=problems("unknown_gallery", *QUERY_PROBLEMS))
async def search_visits(
    request: FormRequest, call: Querier, form: Sent[GalleriesVisitsFields]
) -> VisitsAnswer:
    """Finds the visits of the person on the images in several galleries, each searched as alone.

    Each gallery is searched at an equal share of the false alarm rate. With `keep` each keeps the
    search with its own visits.
    """
    names = choose_galleries(call, form)
    if form.keep_in and not (form.keep and set(form.keep_in) <= set(names)):
        raise InvalidField("keep_in: needs keep=true, and names galleries that are searched")
    versions = form.min_versions or {}
    queries = await answer_query(request, call, form, names, versions, form.gallery)
    return await _answer_visits(call, form, queries, form.gallery, form.keep_in)


async def _answer_visits(
    call: Call,
    form: VisitsFields,
    queries: Sequence[AnsweredQuery | RefusedImage],
    home: str | None,
    keep_in: Sequence[str] = (),
) -> VisitsAnswer:
    """Answer with the visits that a query shows, and keep them if the form says so.

    Args:
        home: gallery of the crops that were searched by; None without such crops.
        keep_in: the galleries that keep them; empty for all that are searched.
    """
    # Only queries with mode=separate have refused images and several answers.
    (query,) = [query for query in queries if isinstance(query, AnsweredQuery)]
    runtime = call.runtime
    merged = query.merged(form.top_k, form.operating_point)
    answer = await runtime.visits.of_query(query, merged, form.top_k)
    rankings: Mapping[str, QueryAnswer] = query.answers
    if form.keep:
        kept = await _keep_visits(call, form, query, answer, home, keep_in or query.names)
        rankings = {**rankings, **kept}
    note_searches(runtime, form, {name: [ranking] for name, ranking in rankings.items()})
    warnings = dict.fromkeys(answer.warnings)
    for ranking in rankings.values():
        warnings |= dict.fromkeys(ranking.warnings)
    query_ids = {
        name: ranking.query_id for name, ranking in rankings.items() if ranking.query_id is not None
    }
    return answer.model_copy(update={"warnings": list(warnings), "query_ids": query_ids})


async def _keep_visits(
    call: Call,
    form: VisitsFields,
    query: AnsweredQuery,
    answer: VisitsAnswer,
    home: str | None,
    keep_in: Sequence[str],
) -> dict[str, QueryAnswer]:
    """Keep a search in some of its galleries, with the visits there; return their rankings."""
    find = call.runtime.galleries.find
    home_id = (await find(home)).gallery_id if home is not None else None
    request = form.kept_fields()
    if len(query.names) > 1:
        # Its thresholds were those of a share of the false alarm rate, so it cannot be repeated.
        request["left_out"] = [*request.get("left_out", ()), "galleries"]
    keep_metadata = call.runtime.settings.keep_metadata
    files = await run_in_threadpool(form.describe_files, form.keep_picture, keep_metadata)
    rankings: dict[str, QueryAnswer] = {}
    for name in keep_in:
        ranking = query.answers[name]
        gallery = await find(name)
        visits = [visit for visit in answer.results if visit.gallery == name]
        uncertain = [visit for visit in answer.uncertain if visit.gallery == name]
        cuts = _describe_cuts(len(visits) + len(uncertain), name in answer.incomplete)
        ranking = ranking.model_copy(update={"warnings": [*ranking.warnings, *cuts]})
        search = SearchToKeep(
            query=replace(query, answers={name: ranking}),
            request=request,
            files=files,
            crop_gallery=None if home == name else home_id,
            visits=(visits, uncertain),
        )
        gallery_call = GalleryCall(call.runtime, call.caller, gallery)
        (rankings[name],) = await keep_answers(gallery_call, [search], form.keep_picture)
    return rankings


def _describe_cuts(found: int, is_incomplete: bool) -> list[str]:
    """Return warnings of a kept search of whose visits some are missing.

    Args:
        found: number of visits and uncertain tracks.
    """
    warnings = [MAY_BE_MORE] if is_incomplete else []
    if found > KEPT_VISITS:
        warnings.append(
            f"{KEPT_VISITS} of {found:,} visits and uncertain tracks are kept, the newest ones and "
            "visits before uncertain tracks; search a shorter time"
        )
    return warnings


def _require_order(after: Moment | None, before: Moment | None) -> None:
    if after and before:
        require_order(after, before)
