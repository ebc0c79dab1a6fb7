"""`/v1/pairs` and `/v1/embeddings`: images without a gallery."""

from __future__ import annotations

import io
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Form, Request, Response
from fastapi.concurrency import run_in_threadpool

from gmn_client.answers import Embedding, Embeddings, PairScore
from model.crops.decode import CropProblem
from service.errors import InvalidField, UnusableImages
from service.http.dependencies import (
    UNLISTED,
    Responses,
    RuntimeDep,
    TakesForm,
    read_images,
    refusals,
    write_results,
)
from service.http.forms import ImagesForm, PairFields, PairForm, merged
from service.http.problems import refused_image
from service.http.security import CallerDep, needs
from service.search.compare import compare

router = APIRouter(prefix="/v1", tags=["comparisons"])
NPY = "application/x-npy"
AS_ASKED: Responses = {
    200: {"content": {NPY: {}}, "description": "Asked for with Accept, an array (n, d)."},
    207: {"model": Embeddings, "description": "Some images were refused."},
}


@router.post(
    "/pairs",
    responses=refusals(400, 404, 409, 413, 415, 429),
    response_model_exclude_none=True,
    dependencies=[needs("query"), TakesForm],
)
async def compare_pair(
    runtime: RuntimeDep,
    caller: CallerDep,
    form: Annotated[PairForm, Form(media_type="multipart/form-data")],
    query: Annotated[PairFields, UNLISTED],
) -> PairScore:
    """Do two images show one person?

    Judged as a pair, or with `gallery` as a result of a search of that gallery.
    """
    images = await read_images(runtime, form.images)
    if len(images) != 2:
        raise InvalidField(f"images: {len(images)} were sent; a pair is exactly two")
    fields = merged(PairFields, form, query)
    if fields.gallery is not None:
        caller.require_gallery(fields.gallery)
    return await compare(runtime, images[0], images[1], fields.options())


@router.post(
    "/embeddings",
    response_model=Embeddings,
    responses=AS_ASKED | refusals(400, 413, 415, 429),
    dependencies=[needs("query"), TakesForm],
)
async def embed_images(
    request: Request,
    runtime: RuntimeDep,
    form: Annotated[ImagesForm, Form(media_type="multipart/form-data")],
) -> Response:
    """The features of images, as JSON or, with `Accept: application/x-npy`, as a NumPy file."""
    images = await read_images(runtime, form.images)
    with runtime.admission.places(len(images)):
        outcomes = await runtime.pipeline.embed(images)
    problems = [one if isinstance(one, CropProblem) else None for one in outcomes]
    as_array = NPY in request.headers.get("accept", "")
    # An array has no place for a problem, so that there one bad image refuses the request.
    if all(problems) or (as_array and any(problems)):
        raise UnusableImages(problems)
    if as_array:
        vectors = [one.vector for one in outcomes if not isinstance(one, CropProblem)]
        file = io.BytesIO()
        np.save(file, np.stack(vectors), allow_pickle=False)
        return Response(file.getvalue(), media_type=NPY)
    results = (
        refused_image(one)
        if isinstance(one, CropProblem)
        else Embedding(embedding=one.vector.tolist())
        for one in outcomes
    )
    body = await run_in_threadpool(
        lambda: write_results(
            (result.model_dump_json() for result in results),
            embedding_fingerprint=runtime.description.embedding_fingerprint,
            dimension=runtime.networks.dimension,
        )
    )
    status = 207 if any(problems) else 200
    return Response(body, media_type="application/json", status_code=status)
