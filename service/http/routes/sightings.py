"""`/v1/sightings`: crops from cameras, which are compared with the armed watch lists."""

from __future__ import annotations

from typing import Annotated

from fastapi import Request, Response

from gmn_client.models import Sighted
from service.http.forms import Sent, SightingForm
from service.http.guard import guarded_router, needs
from service.http.problems import Responses, answer_each, example
from service.runtime import Call
from service.watch.sightings import sight

router = guarded_router("/v1", "watch")
SIGHTED: Responses = {
    200: {"model": Sighted, "description": "With wait=true: the matches of each image."},
    202: example("Sighted"),
    207: {"model": Sighted, "description": "Some images were refused."},
}


@router.post("/sightings", status_code=202, response_model=Sighted, responses=SIGHTED)
async def send_sightings(
    request: Request,
    call: Annotated[Call, needs("sight")],
    form: Sent[SightingForm],
) -> Response:
    """Compares crops with the armed lists that the key may access; a match raises an alert.

    Crops are not stored. Up to eight crops of a track are compared; a track ends ten seconds after
    its last crop, or after a minute. The answer follows once alerts are written, and has the
    matches with `wait`. A repeated request extends the same visits and raises no second alert.
    """
    runtime = call.runtime
    crops = await form.read_crops()
    runtime.admission.require_affordable(
        runtime.model.pipeline.cost(crops),
        "boxes" if form.boxes else "images",
        "fewer or smaller ones",
    )
    images = form.for_images(crops)
    answer = await sight(runtime, call.caller, images, request.state.received, wait=form.wait)
    return await answer_each(request, answer, 200 if form.wait else 202)
