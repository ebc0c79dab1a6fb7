"""`/v1/model`: what is served."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query

from model.calibration import SCORINGS
from service.api.dependencies import RuntimeDep, refusals

router = APIRouter(prefix="/v1", tags=["model"])


@router.get("/model", responses=refusals())
async def describe_model(
    runtime: RuntimeDep,
    gallery_size: Annotated[
        int, Query(ge=1, description="Crops searched; thresholds of searches depend on it.")
    ] = 1000,
) -> dict[str, Any]:
    """The artefact's own description, and what it runs on."""
    description = runtime.description
    calibration = description.calibration
    points: dict[str, Any] = {
        name: calibration.operating_points(name, gallery_size) for name in SCORINGS
    }
    return description.model_dump(mode="json") | {
        "calibration_version": runtime.calibration_version,
        "device": str(runtime.networks.device),
        "dtype": str(runtime.networks.dtype).removeprefix("torch."),
        "operating_points": {"gallery_size": gallery_size} | points,
    }
