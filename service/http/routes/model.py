"""`/v1/model`, `/v1/pairs` and `/v1/embeddings`: the served model, and images without a gallery."""

from __future__ import annotations

import io
from typing import Annotated, Any

import numpy as np
from fastapi import Query, Request, Response
from pydantic import Field

from gmn_client.models import Embedding, Embeddings, ModelInfo, PairScore
from model.crops.decode import CropProblem
from service.errors import InvalidField, UnusableImages, refused_image
from service.http.forms import MULTIPART, Images, SomeImagesForm
from service.http.guard import guarded_router, needs
from service.http.problems import Responses, content, example, problems, write_list
from service.runtime import Call
from service.search.options import PairOptions
from service.search.pairs import compare

router = guarded_router("/v1", "model")
comparison_router = guarded_router("/v1", "comparisons")
Querier = Annotated[Call, needs("query")]
CropsSearched = Annotated[
    int,
    Query(ge=1, le=10**9, description="Crops searched; thresholds of searches depend on it."),
]
NPY = "application/x-npy"
PAIR: Responses = {200: example("PairScore")}
SOME_REFUSED: Responses = {207: {"model": Embeddings, "description": "Some images were refused."}}


class PairForm(PairOptions, SomeImagesForm):
    """Exactly two images."""

    images: Images = Field(json_schema_extra={"minItems": 2, "maxItems": 2, "examples": [["", ""]]})


@router.get("/model")
async def read_model(call: Querier, gallery_size: CropsSearched = 1000) -> ModelInfo:
    """Reads the artefact's name and description, and the runtime that computes it.

    Operating points are for a gallery of `gallery_size` crops.
    """
    runtime = call.runtime
    model = runtime.model
    description = model.description
    provenance = description.provenance
    points: dict[str, Any] = {"gallery_size": gallery_size}
    for scoring in description.scorings:
        points[scoring] = description.calibration.operating_points(scoring, gallery_size)
    name, *previous = (loaded.name for loaded in runtime.models.values())
    described = description.model_dump(mode="json") | {
        "artefact": name,
        # An older artefact has no list of sources, but its recipe names them.
        "provenance": provenance.model_dump(mode="json")
        | {"sources": [source.model_dump(mode="json") for source in provenance.all_sources]},
        "previous": previous,
        "scorings": description.scorings,
        "default_scoring": description.default_scoring,
        "calibration_version": model.calibration_version,
        "device": model.networks.device,
        **model.runtime.model_dump(),
        "operating_points": points,
    }
    return ModelInfo.model_validate(described)


@comparison_router.post(
    "/pairs",
    responses=PAIR | problems("unknown_gallery", "needs_reindex"),
    response_model_exclude_none=True,
)
async def compare_pair(call: Querier, form: Annotated[PairForm, MULTIPART]) -> PairScore:
    """Compares two images: cosine, M-Net's logit, probability and verdict.

    The verdict is that of a pair, or with `gallery` that of a result of a search in it.
    """
    images = await form.read_images(call.runtime.settings.max_images_per_request)
    if len(images) != 2:
        raise InvalidField(f"images: {len(images)} were sent; a pair is exactly two")
    if form.gallery is not None:
        call.caller.require_gallery(form.gallery)
    return await compare(call.runtime, images[0], images[1], form)


@comparison_router.post(
    "/embeddings",
    response_model=Embeddings,
    responses=content(NPY, "Asked for with Accept, an array (n, d).") | SOME_REFUSED,
)
async def embed_images(
    request: Request, call: Querier, form: Annotated[SomeImagesForm, MULTIPART]
) -> Response:
    """Computes the features of images: JSON, or a NumPy file with `Accept: application/x-npy`."""
    runtime = call.runtime
    images = await form.read_images(runtime.settings.max_images_per_request)
    pipeline = runtime.model.pipeline
    cost = pipeline.cost(images)
    runtime.admission.require_affordable(cost, "images", "fewer or smaller images")
    async with runtime.admission.admit(cost):
        outcomes = await pipeline.embed(images)
    problems = [image if isinstance(image, CropProblem) else None for image in outcomes]
    as_array = NPY in request.headers.get("accept", "")
    # An array has no place for a problem, so that there one bad image refuses the request.
    if all(problems) or (as_array and any(problems)):
        raise UnusableImages(problems)
    if as_array:
        vectors = [image.vector for image in outcomes if not isinstance(image, CropProblem)]
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
    return await write_list(answer, 207 if any(problems) else 200)
