"""`/v1/galleries/{gallery}/queries`: rank a gallery by likeness to one person."""

from __future__ import annotations

from typing import Annotated

from fastapi import Request, Response

from gmn_client.models import QueryAnswer, SeparateAnswers
from service.errors import AnswerTooLarge, InvalidField
from service.http.documented import Responses, example, problems
from service.http.forms import MULTIPART, QueryForm
from service.http.guard import GalleryCall, Searcher, guarded_router
from service.http.problems import JSON, answer_each, write_list
from service.search.query import query_by_crop, query_by_images, query_each

router = guarded_router("/v1/galleries/{gallery}", "queries")
STALE = {"GMN-Stale": "true"}
STALE_HEADER = {
    "GMN-Stale": {
        "description": "There where an answer is `stale`.",
        "schema": {"type": "string", "enum": ["true"]},
    }
}
ANSWERED: Responses = {
    200: {
        "description": "A ranking, or one for each image.",
        "headers": STALE_HEADER,
        **example("QueryAnswer"),
    },
    207: {
        "model": SeparateAnswers,
        "description": "With mode=separate: some images were refused.",
        "headers": STALE_HEADER,
    },
}
FILTERS = {
    "cameras",
    "exclude_cameras",
    "captured_after",
    "captured_before",
    "camera",
    "camera_disjoint",
}
# A longer ranking is written result by result in a thread.
SHORT_RANKING = 100
# Of one answer, as many as a search of one image may ask for.
MAX_RESULTS = 10_000


@router.post(
    "/queries",
    response_model=QueryAnswer | SeparateAnswers,
    responses=ANSWERED
    | problems("unknown_crop", "needs_reindex", "answer_too_large", "version_not_reached"),
)
async def query_gallery(
    request: Request, call: Searcher, form: Annotated[QueryForm, MULTIPART]
) -> Response:
    """Searches a gallery by images: ranks its crops by likeness to one person, with a verdict.

    Several images are one multi-shot query whose scores are means over the images; an image that
    cannot be used is left out, and `warnings` names it. With `mode=separate` each image has its own
    answer. By `crop_id` the crop itself is left out.
    """
    runtime, gallery = call.runtime, call.gallery
    await runtime.galleries.wait_for_version(gallery, form.min_version)
    if form.crop_id is not None:
        if form.images:
            raise InvalidField("crop_id: was sent with images; send one or the other")
        answer = await query_by_crop(runtime, gallery, form.crop_id, form)
    else:
        images = await form.read_images(runtime.settings.max_images_per_request)
        if form.mode == "separate":
            if len(images) * form.top_k > MAX_RESULTS:
                raise AnswerTooLarge(
                    f"images, top_k: {len(images)} images with {form.top_k:,} results each are "
                    f"more than the {MAX_RESULTS:,} results of one answer; send fewer images, or "
                    "a smaller top_k"
                )
            answers = await query_each(runtime, gallery, images, form, call.caller.learn)
            ranked = [one for one in answers.results if isinstance(one, QueryAnswer)]
            for one in ranked:
                _audit(call, form, one)
            response = answer_each(request, answers, body=await write_list(answers))
            if any(one.stale for one in ranked):
                response.headers.update(STALE)
            return response
        answer = await query_by_images(runtime, gallery, images, form, call.caller.learn)
    _audit(call, form, answer)
    short = len(answer.results) <= SHORT_RANKING
    body = answer.model_dump_json() if short else await write_list(answer)
    return Response(body, media_type=JSON, headers=STALE if answer.stale else None)


def _audit(call: GalleryCall, form: QueryForm, answer: QueryAnswer) -> None:
    call.runtime.audit.note_view(
        "query",
        gallery=call.gallery.name,
        crop_ids=[form.crop_id] if form.crop_id else [],
        count=len(answer.results),
        filters=form.model_dump(mode="json", include=FILTERS, exclude_defaults=True),
        purpose=form.purpose or None,
    )
