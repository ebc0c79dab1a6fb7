"""`/v1/people`: the boxes of the people on a photo, which is not kept."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from gmn_client.models import People, PersonBox
from service.errors import InvalidField, NoDetector
from service.gallery.labels import MAX_TEXT
from service.http.forms import Images, Sent, SomeImagesForm
from service.http.guard import guarded_router, needs
from service.http.problems import example, problems
from service.runtime import Call

router = guarded_router("/v1/people", "people")


class PhotoForm(SomeImagesForm):
    """A photo."""

    images: Images = Field(json_schema_extra={"minItems": 1, "maxItems": 1, "examples": [[""]]})
    purpose: str | None = Field(None, max_length=MAX_TEXT)
    """Reason for looking at the photo, such as a case number; stored in the audit log."""


@router.post("", responses=problems("no_detector") | {200: example("People")})
async def find_people(
    call: Annotated[Call, needs("query", "enroll")], form: Sent[PhotoForm]
) -> People:
    """Finds the people on a photo: their boxes, which a query or an enrollment takes as `boxes`.

    The photo is not stored. At most 128 people are returned, the most certain first; `number`
    counts them from left to right. A photo with
    more than 720 pixels in its longer or 576 in its shorter side is also looked at in up to six
    overlapping tiles, where small people are found. People that it misses look like absent ones:
    draw their boxes yourself.
    """
    runtime = call.runtime
    runtime.audit.require_room()
    images = form.read_images()
    if len(images) != 1:
        raise InvalidField(f"images: {len(images)} were sent; send one photo at a time")
    detector = runtime.people_detector
    if detector is None:
        raise NoDetector("OpenVINO or the detector's file is not installed")
    pipeline = runtime.model.pipeline
    cost = pipeline.cost_of_photo(images[0])
    runtime.admission.require_affordable(cost, "images", "a smaller photo")
    async with runtime.admission.admit(cost):
        width, height, people = await pipeline.detect_people(images[0], detector)
    runtime.audit.note_view("people", count=len(people), purpose=form.purpose or None)
    from_left = sorted(people, key=lambda person: person.x + person.width / 2)
    boxes = [
        PersonBox.model_construct(number=from_left.index(person) + 1, **person._asdict())
        for person in people
    ]
    return People(width=width, height=height, people=boxes)
