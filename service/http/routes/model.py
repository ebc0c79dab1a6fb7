"""`/v1/model`: what is served."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query

from gmn_client.models import ModelInfo
from service.http.forms import ModelQuery
from service.http.guard import Call, guarded_router, needs
from service.http.problems import error_responses

router = guarded_router("/v1", "model")


@router.get("/model", responses=error_responses())
async def read_model(
    call: Annotated[Call, needs("query")], asked: Annotated[ModelQuery, Query()]
) -> ModelInfo:
    """The artefact's name and description, and the runtime that computes it.

    Operating points are for a gallery of `gallery_size` crops.
    """
    runtime, model = call.runtime, call.runtime.model
    description = model.description
    provenance = description.provenance
    calibration = description.calibration
    points: dict[str, Any] = {
        name: calibration.operating_points(name, asked.gallery_size)
        for name in description.scorings
    }
    name, *previous = (one.name for one in runtime.models.values())
    described = description.model_dump(mode="json") | {
        "artefact": name,
        # An older artefact has no list of sources, but its recipe names them.
        "provenance": provenance.model_dump(mode="json")
        | {"sources": [one.model_dump(mode="json") for one in provenance.all_sources]},
        "previous": previous,
        "scorings": description.scorings,
        "default_scoring": description.default_scoring,
        "calibration_version": model.calibration_version,
        "device": str(model.networks.device),
        **model.runtime.model_dump(),
        "operating_points": {"gallery_size": asked.gallery_size} | points,
    }
    return ModelInfo.model_validate(described)
