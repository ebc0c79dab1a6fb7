"""`/v1/galleries/{gallery}/queries`: rank a gallery by likeness to one person."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import Request, Response
from pydantic import BeforeValidator, Field, WithJsonSchema

from gmn_client.models import QueryAnswer, RefusedImage, SeparateAnswers
from service.desk.searches import keep_answers
from service.errors import AnswerTooLarge
from service.gallery.enroll import checked_metadata
from service.http.forms import MULTIPART, FrameForm, Images
from service.http.guard import Searcher, guarded_router
from service.http.problems import JSON, Responses, answer_each, example, problems, write_list
from service.runtime import GalleryCall
from service.search.options import MAX_METADATA_BYTES, QueryOptions
from service.search.query import AnsweredQuery, run_query

router = guarded_router("/v1/galleries/{gallery}", "queries")
ANSWERED: Responses = {
    200: {
        "description": "A ranking, or one for each image.",
        **example("QueryAnswer"),
    },
    207: {
        "model": SeparateAnswers,
        "description": "With mode=separate: some images were refused.",
    },
}
OF_CAMERAS = {"cameras", "exclude_cameras", "camera", "camera_disjoint"}
FILTERS = OF_CAMERAS | {"captured_after", "captured_before", "identities", "unnamed"}
# A longer ranking is written result by result in a thread.
SHORT_RANKING = 100
# Results of one answer: as many as a search of one image may ask for.
MAX_RESULTS = 10_000


class QueryForm(QueryOptions, FrameForm):
    """One or several images, or `crop_id`, or `vector`."""

    images: Images = Field([])
    instead = ("crop_id", "vector")
    metadata: (
        Annotated[
            dict[str, Any],
            BeforeValidator(lambda sent: checked_metadata("metadata", sent)),
            WithJsonSchema({"type": "string", "maxLength": MAX_METADATA_BYTES}),
        ]
        | None
    ) = Field(None, examples=['{"shift": "night"}'])
    """A JSON object; only crops whose metadata has each of its keys with its value."""


@router.post(
    "/queries",
    response_model=QueryAnswer | SeparateAnswers,
    responses=ANSWERED
    | problems("unknown_crop", "needs_reindex", "answer_too_large")
    | problems("version_not_reached", "index_unavailable"),
)
async def query_gallery(
    request: Request, call: Searcher, form: Annotated[QueryForm, MULTIPART]
) -> Response:
    """Searches a gallery by images: ranks its crops by likeness to one person, with a verdict.

    Several images are one multi-shot query whose scores are means over the images; an image that
    cannot be used is left out, and `warnings` names it. With `mode=separate` each image has its own
    answer. With `boxes` the images are the crops in these boxes of the one image that is sent. By
    `crop_id` the crop itself is left out. By `vector` nothing is embedded.
    """
    runtime = call.runtime
    gallery = call.gallery
    runtime.audit.require_room()
    # Without a body nothing is received.
    began = getattr(request.state, "received", None)
    if form.min_version:
        await runtime.galleries.wait_for_version(gallery, form.min_version)
        # The wait for the version does not count as a stage of the query.
        began = None
    images = await form.read_crops(runtime.settings.max_images_per_request)
    separate = bool(images) and form.mode == "separate"
    if separate and len(images) * form.top_k > MAX_RESULTS:
        raise AnswerTooLarge(
            f"images, top_k: {len(images)} images with {form.top_k:,} results each are more "
            f"than the {MAX_RESULTS:,} results of one answer; send fewer images, or a smaller "
            "top_k"
        )
    answered = await run_query(runtime, gallery, images, form, call.caller.learn, began)
    queries = [query for query in answered if isinstance(query, AnsweredQuery)]
    rankings = [query.answer for query in queries]
    if form.keep:
        rankings = await keep_answers(call, form, queries)
    remaining = iter(rankings)
    answers = [next(remaining) if isinstance(query, AnsweredQuery) else query for query in answered]
    _note_searches(call, form, answers)
    if separate:
        response = await answer_each(request, SeparateAnswers(results=answers))
    elif form.include_vector or form.top_k > SHORT_RANKING:
        response = await write_list(answers[0])
    else:
        response = Response(answers[0].model_dump_json(), media_type=JSON)
    return response


def _note_searches(
    call: GalleryCall, form: QueryForm, answers: Sequence[QueryAnswer | RefusedImage]
) -> None:
    filters = form.model_dump(mode="json", include=FILTERS, exclude_defaults=True)
    # Values may be personal.
    filters |= {"metadata": sorted(form.metadata)} if form.metadata else {}
    for answer in answers:
        if isinstance(answer, QueryAnswer):
            call.runtime.audit.note_view(
                "query",
                gallery=call.gallery.name,
                crop_ids=[form.crop_id] if form.crop_id else [],
                count=len(answer.results),
                filters=filters,
                purpose=form.purpose or None,
                query_id=answer.query_id,
            )
