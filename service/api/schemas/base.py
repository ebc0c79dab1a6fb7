"""What every answer is built on: moments, problems, and where a picture is."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, PlainSerializer

from service.calibrations import Reason, State


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


Moment = Annotated[datetime, PlainSerializer(_rfc3339, return_type=str)]
CROP_ID = "0198f2c6a1b27d1c3e5f9a0b4c6d8e2f"


class Schema(BaseModel):
    """Base of every answer."""

    model_config = ConfigDict(frozen=True, from_attributes=True)


class CalibrationOut(Schema):
    """What verdicts and probabilities are made by.

    `state`: `artefact`, its thresholds for the number of identities searched; `own`, fitted to this
    gallery's own unlabelled searches; `frozen`, as they were when searches stopped changing them;
    `off`, the artefact's, and no search is kept. `reason` says why they are the artefact's:
    `few_searches`, `few_identities`, `shallow_search` (a `rerank_depth` below the default); or that
    they are `extrapolated` to more than ten times as many or as few identities as the searches
    covered. `searches` counts those that they are fitted to, or that are kept before the first fit.
    Equal `version`s give equal verdicts. `date` is that of the fit.
    """

    state: State
    reason: Reason | None
    searches: int
    version: str | None
    date: Moment | None


class Problem(BaseModel):
    """An RFC 9457 problem document."""

    model_config = ConfigDict(
        frozen=True,
        extra="allow",
        json_schema_extra={
            "example": {
                "type": "urn:gmn:problem:unknown_gallery",
                "title": "Unknown gallery",
                "status": 404,
                "detail": "there is no gallery 'lobby'; create it with POST /v1/galleries or list "
                "those there are with GET /v1/galleries",
                "request_id": "5f0c2b7d9e1a4c38",
            }
        },
    )

    type: str
    title: str
    status: int
    detail: str
    request_id: str | None = None


class RefusedOut(Schema):
    """An image that could not be used."""

    problem: Problem


def write_results(results: Iterable[str], **fields: Any) -> bytes:
    """A list answer from its results in JSON; to be called in a thread.

    One native call for a large answer would hold the interpreter, and with it the event loop.
    """
    parts = [f"{json.dumps(name)}:{json.dumps(value)}" for name, value in fields.items()]
    return ("{" + ",".join([*parts, f'"results":[{",".join(results)}]']) + "}").encode()


def image_url(gallery: str, crop_id: str) -> str:
    """Where a crop's picture is, below the service's address."""
    return f"/v1/galleries/{gallery}/crops/{crop_id}/image"
