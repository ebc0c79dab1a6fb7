"""Search galleries for a person; compare and embed images; describe the served model."""

from __future__ import annotations

import io
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from fastapi import Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from gmn_client.models import (
    Embedding,
    Embeddings,
    GalleriesAnswer,
    ModelInfo,
    PairScore,
    QueryAnswer,
    RefusedImage,
    SeparateAnswers,
    SeparateGalleriesAnswers,
)
from model.crops.decode import CropProblem
from model.permitted_use import BEYOND_COPYRIGHT, permitted_use, terms_of_use
from service.desk.kept_searches import SearchToKeep, keep_answers
from service.errors import AnswerTooLarge, InvalidField, UnusableImages, refused_image
from service.http.fields import MAX_ID
from service.http.forms import Sent, SomeImagesForm
from service.http.guard import Querier, Searcher, guarded_router
from service.http.limits import FormRequest
from service.http.problems import (
    JSON,
    answer_each,
    content,
    example,
    problems,
    write_list,
)
from service.http.query_forms import MOST_GALLERIES, GalleriesForm, PairForm, QueryForm
from service.runtime import Call, GalleryCall, Runtime
from service.search.query import AnsweredQuery, GalleriesQuery

router = guarded_router("/v1/galleries/{gallery}", "queries")
galleries_router = guarded_router("/v1", "queries")
model_router = guarded_router("/v1", "model")
comparison_router = guarded_router("/v1", "comparisons")
REFUSED = "With mode=separate: some images were refused."
# Problems of a query, of one gallery or of several.
QUERY_PROBLEMS = (
    "unknown_crop",
    "unknown_track",
    "needs_reindex",
    "answer_too_large",
    "version_not_reached",
    "index_unavailable",
)
# Longer rankings are serialised in a thread.
SHORT_RANKING = 25
# Results of one answer: as many as a search by one image may ask for.
MAX_RESULTS = 10_000


@router.post(
    "/queries",
    response_model=QueryAnswer | SeparateAnswers,
    responses=problems(*QUERY_PROBLEMS)
    | {
        200: {"description": "A ranking, or one for each image.", **example("QueryAnswer")},
        207: {"model": SeparateAnswers, "description": REFUSED},
    },
)
async def query_gallery(request: FormRequest, call: Searcher, form: Sent[QueryForm]) -> Response:
    """Searches a gallery for the person on the images and ranks its crops, with a verdict.

    Several images form one multi-shot query, scored by the mean over the images; unusable images
    are left out and named in `warnings`. With `mode=separate` each image gets its own answer. With
    `boxes` the query images are the crops in these boxes of the single image. Queries by `crop_id`
    or `track` leave out the crops they name; several crops are scored by the mean. With `vector`
    nothing is embedded.
    """
    name = call.gallery.name
    versions = {name: form.min_version} if form.min_version else {}
    queries = await answer_query(request, call, form, [name], versions)
    answered = [query for query in queries if isinstance(query, AnsweredQuery)]
    rankings = [query.answers[name] for query in answered]
    if form.keep:
        rankings = await _keep_answers(call, form, queries)
    note_searches(call.runtime, form, {name: rankings})
    remaining = iter(rankings)
    answers = [next(remaining) if isinstance(query, AnsweredQuery) else query for query in queries]
    if form.mode == "separate":
        return await answer_each(request, SeparateAnswers(results=answers))
    if form.include_vector or form.top_k > SHORT_RANKING:
        return await write_list(request, answers[0])
    return Response(answers[0].model_dump_json(), media_type=JSON)


async def _keep_answers(
    call: GalleryCall, form: QueryForm, queries: Sequence[AnsweredQuery | RefusedImage]
) -> list[QueryAnswer]:
    """Keep the answered ones of a form's queries, and return their answers."""
    keep_metadata = call.runtime.settings.keep_metadata
    files = await run_in_threadpool(form.describe_files, form.keep_picture, keep_metadata)
    searches = []
    for number, query in enumerate(queries):
        if isinstance(query, AnsweredQuery):
            own_files = [files[number]] if form.mode == "separate" else files
            searches.append(SearchToKeep(query, form.kept_fields(), own_files))
    return await keep_answers(call, searches, form.keep_picture)


async def answer_query(
    request: FormRequest,
    call: Call,
    form: QueryForm,
    names: Sequence[str],
    versions: Mapping[str, int],
    home: str | None = None,
) -> list[AnsweredQuery | RefusedImage]:
    """Wait until galleries have reached their versions, then answer the query.

    Args:
        names, home: as in `GalleriesQuery`.
    """
    runtime = call.runtime
    runtime.audit.require_room()
    images = await request.parse(form.read_crops)
    rankings = len(names) * (len(images) if form.mode == "separate" else 1)
    if rankings * form.top_k > MAX_RESULTS:
        raise AnswerTooLarge(
            f"top_k: {rankings} rankings of {form.top_k:,} results each are more than the "
            f"{MAX_RESULTS:,} results of one answer; send a smaller top_k, or fewer images or "
            "galleries"
        )
    began = request.state.received
    for name, version in versions.items():
        await runtime.galleries.wait_for_version(await runtime.galleries.find(name), version)
        # Waiting for a version is not a stage of the query.
        began = time.perf_counter()
    query = GalleriesQuery(names, images, form.options(), call.caller.learn, began, home)
    queries = await runtime.search.answer(query)
    if runtime.tracing is not None:
        timings = [each.timing_ms for each in queries if isinstance(each, AnsweredQuery)]
        request.state.timing_ms = max(timings, key=lambda timing: timing.total, default=None)
    return queries


def note_searches(
    runtime: Runtime, form: QueryForm, answers: Mapping[str, Sequence[QueryAnswer]]
) -> None:
    filters = form.audited_filters()
    for gallery, rankings in answers.items():
        for ranking in rankings:
            runtime.metrics.verdicts.labels(ranking.verdict).inc()
        runtime.audit.note_views(
            "query",
            [{"count": len(answer.results), "query_id": answer.query_id} for answer in rankings],
            gallery=gallery,
            crop_ids=list(form.crop_id),
            filters=filters,
            purpose=form.purpose or None,
        )


@galleries_router.post(
    "/queries",
    response_model=GalleriesAnswer | SeparateGalleriesAnswers,
    responses=problems("unknown_gallery", *QUERY_PROBLEMS)
    | {207: {"model": SeparateGalleriesAnswers, "description": REFUSED}},
)
async def search_galleries(
    request: FormRequest, call: Querier, form: Sent[GalleriesForm]
) -> Response:
    """Searches several galleries for the person on the images; merges results by probability.

    Each gallery is searched as by a query of its own, at an equal share of the false alarm rate. A
    gallery that cannot be searched is reported with its problem; the others answer. With
    `mode=separate` each image gets its own answer.
    """
    if form.keep:
        raise InvalidField(
            "keep: a kept search belongs to one gallery; send the query to "
            "/v1/galleries/{gallery}/queries, or leave keep out"
        )
    runtime = call.runtime
    names = choose_galleries(call, form)
    versions = form.min_versions or {}
    answers: list[GalleriesAnswer | RefusedImage] = []
    searched: defaultdict[str, list[QueryAnswer]] = defaultdict(list)
    for query in await answer_query(request, call, form, names, versions, form.gallery):
        if isinstance(query, RefusedImage):
            answers.append(query)
            continue
        for name, answer in query.answers.items():
            searched[name].append(answer)
        for problem in query.problems.values():
            runtime.metrics.problems.labels(problem.code).inc()
        answers.append(query.merged(form.top_k, form.operating_point))
    note_searches(runtime, form, searched)
    if form.mode == "separate":
        return await answer_each(request, SeparateGalleriesAnswers(results=answers))
    return await write_list(request, answers[0])


def choose_galleries(call: Call, form: GalleriesForm) -> list[str]:
    """Return the galleries that a form searches, all of which the key may access.

    Raises:
        Forbidden: the form names another gallery.
        InvalidField: there are too many, or a version is named of one that is not searched.
    """
    caller = call.caller
    names = list(dict.fromkeys(form.galleries))
    if not names and caller.gallery:
        names = [caller.gallery]
    elif not names:
        names = [gallery.name for gallery in call.runtime.galleries.all()]
    for name in (*names, form.gallery or names[0]):
        caller.require_gallery(name)
    if len(names) > MOST_GALLERIES:
        raise InvalidField(
            f"galleries: {len(names)} would be searched, and {MOST_GALLERIES} are the most of one "
            "query; name fewer, or send several queries"
        )
    for name in form.min_versions or ():
        if name not in names:
            raise InvalidField(
                f"min_versions: gallery {name[:MAX_ID]!r} is not searched; add it to galleries, or "
                "leave its version out"
            )
    return names


NPY = "application/x-npy"


@model_router.get("/model")
async def read_model(
    call: Querier,
    gallery_size: Annotated[
        int,
        Query(ge=1, le=10**9, description="Crops searched; thresholds of searches depend on it."),
    ] = 1000,
) -> ModelInfo:
    """Describes the served artefact and the runtime that computes it.

    Operating points are given for a gallery of `gallery_size` crops.
    """
    runtime = call.runtime
    model = runtime.model
    description = model.description
    fitted = description.calibration.scorings
    points: dict[str, Any] = {
        scoring: fitted[scoring].operating_points(gallery_size) for scoring in description.scorings
    }
    name, *previous = (loaded.name for loaded in runtime.models.values())
    described = description.model_dump(mode="json")
    described["provenance"]["terms"] = terms_of_use(description.provenance)
    described |= {
        "artefact": name,
        "permitted_use": permitted_use(description.provenance)._asdict()
        | {"beyond_copyright": BEYOND_COPYRIGHT},
        "previous": previous,
        "scorings": description.scorings,
        "default_scoring": description.default_scoring,
        "calibration_version": model.calibration_version,
        "device": model.networks.device,
        "people_detector": runtime.people_detector and runtime.people_detector.name,
        "runtime": model.runtime.runtime,
        "dtype": model.runtime.dtype,
        "crops_per_second": model.runtime.crops_per_cpu_second,
        "operating_points": {"gallery_size": gallery_size, **points},
    }
    return ModelInfo.model_validate(described)


@comparison_router.post(
    "/pairs",
    responses=problems("unknown_gallery", "needs_reindex") | {200: example("PairScore")},
    response_model_exclude_none=True,
)
async def compare_pair(call: Querier, form: Sent[PairForm]) -> PairScore:
    """Compares two images: cosine, M-Net logit, probability and verdict.

    The verdict is that of a pair or, with `gallery`, that of a search result in the gallery.
    """
    images = form.read_images()
    if len(images) != 2:
        raise InvalidField(f"images: {len(images)} were sent; a pair is exactly two")
    if form.gallery is not None:
        call.caller.require_gallery(form.gallery)
    return await call.runtime.pairs.compare(images[0], images[1], form.options())


@comparison_router.post(
    "/embeddings",
    response_model=Embeddings,
    responses=content(NPY, "If Accept names it: an array (n, d).")
    | {207: {"model": Embeddings, "description": "Some images were refused."}},
)
async def embed_images(request: Request, call: Querier, form: Sent[SomeImagesForm]) -> Response:
    """Computes the features of images, as JSON or NumPy file (`Accept: application/x-npy`)."""
    runtime = call.runtime
    images = form.read_images()
    pipeline = runtime.model.pipeline
    cost = pipeline.cost(images)
    runtime.admission.require_affordable(cost, "images", "fewer or smaller images")
    async with runtime.admission.admit(cost):
        outcomes = await pipeline.embed(images)
    if NPY in request.headers.get("accept", ""):
        vectors = [image.vector for image in outcomes if not isinstance(image, CropProblem)]
        # An array has no place for a problem, so one bad image refuses the request.
        if len(vectors) < len(outcomes):
            raise UnusableImages(outcomes)
        file = io.BytesIO()
        np.save(file, np.stack(vectors), allow_pickle=False)
        return Response(file.getvalue(), media_type=NPY)
    answer = Embeddings(
        embedding_fingerprint=runtime.model.description.embedding_fingerprint,
        dimension=runtime.model.networks.dimension,
        results=[
            refused_image(image)
            if isinstance(image, CropProblem)
            else Embedding.model_construct(embedding=image.vector.tolist())
            for image in outcomes
        ],
    )
    return await answer_each(request, answer)
