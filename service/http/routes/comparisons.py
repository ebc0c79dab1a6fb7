"""`/v1/pairs` and `/v1/embeddings`: images without a gallery."""

from __future__ import annotations

import io
from typing import Annotated, Any

import numpy as np
from fastapi import Request, Response

from gmn_client.models import Embedding, Embeddings, PairScore
from model.crops.decode import CropProblem
from service.errors import InvalidField, UnusableImages, refused_image
from service.http.answers import answer_list
from service.http.forms import MULTIPART, ImagesForm, PairForm
from service.http.guard import Call, guarded_router, needs
from service.http.problems import error_responses
from service.search.pairs import compare

router = guarded_router("/v1", "comparisons")
NPY = "application/x-npy"
AS_ASKED: dict[int | str, dict[str, Any]] = {
    200: {"content": {NPY: {}}, "description": "Asked for with Accept, an array (n, d)."},
    207: {"model": Embeddings, "description": "Some images were refused."},
}


@router.post(
    "/pairs",
    responses=error_responses(400, 404, 409, 413, 415, 429),
    response_model_exclude_none=True,
)
async def compare_pair(
    call: Annotated[Call, needs("query")], form: Annotated[PairForm, MULTIPART]
) -> PairScore:
    """Compares two images: cosine, M-Net's logit, probability and verdict.

    The verdict is that of a pair, or with `gallery` that of a result of a search in it.
    """
    images = await form.read_images(call.runtime.settings.max_images_per_request)
    if len(images) != 2:
        raise InvalidField(f"images: {len(images)} were sent; a pair is exactly two")
    if form.gallery is not None:
        call.caller.require_gallery(form.gallery)
    return await compare(call.runtime, images[0], images[1], form)


@router.post(
    "/embeddings",
    response_model=Embeddings,
    responses=AS_ASKED | error_responses(400, 413, 415, 429),
)
async def embed_images(
    request: Request,
    call: Annotated[Call, needs("query")],
    form: Annotated[ImagesForm, MULTIPART],
) -> Response:
    """Computes features: as JSON, or as a NumPy file with `Accept: application/x-npy`."""
    runtime = call.runtime
    images = await form.read_images(runtime.settings.max_images_per_request)
    with runtime.admission.image_slots(len(images)):
        outcomes = await runtime.model.pipeline.embed(images)
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
    return await answer_list(
        results,
        status=207 if any(problems) else 200,
        embedding_fingerprint=runtime.model.description.embedding_fingerprint,
        dimension=runtime.model.networks.dimension,
    )
