"""Repeats kept searches, whose verdicts of today may be other ones."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from gmn_client.models import OpenedSearch, QueryAnswer
from model.crops.frames import ImageFile
from service.desk.kept_searches import KEPT_RESULTS, read_search_picture
from service.errors import InvalidField
from service.http.query_forms import QueryForm
from service.http.routes.queries import note_searches
from service.runtime import GalleryCall
from service.search.query import AnsweredQuery, GalleriesQuery

REDUCED = (
    "the search was repeated by its kept picture, which is smaller than the one that was sent: the "
    "scores may differ a little"
)


async def repeat_search(call: GalleryCall, opened: OpenedSearch) -> QueryAnswer:
    """Search again as a kept search did, and return today's answer, best results first.

    The thresholds do not learn from it, and it is not kept. The audit log has it with the same
    purpose.

    Raises:
        InvalidField: not all of the search was kept.
        ServiceError: as for a query.
    """
    call.runtime.audit.require_room()
    form = _read_form(opened)
    images, warnings = await _read_images(call, opened)
    home = opened.request.get("gallery", call.gallery.name)
    call.caller.require_gallery(home)
    # Appearance alone counts in a kept search.
    options = replace(form.options(), uses_times=False)
    name = call.gallery.name
    query = GalleriesQuery([name], images, options, sample=False, home=home)
    answers = await call.runtime.search.answer(query)
    # Only queries with mode=separate have refused images and several answers.
    (answer,) = [found.answer for found in answers if isinstance(found, AnsweredQuery)]
    note_searches(call.runtime, form, {name: [answer]})
    return answer.model_copy(update={"warnings": [*answer.warnings, *warnings]})


async def is_judged_as_then(call: GalleryCall, then: QueryAnswer) -> bool:
    """Return whether a search with this answer would be judged by the same thresholds today.

    Raises:
        NeedsReindex, InvalidField: no loaded model makes the scores that the search was judged by.
    """
    gallery = call.gallery
    current = call.runtime.calibrations.current(gallery, then.scoring)
    identities = await call.runtime.galleries.read(gallery.index.identities)
    now = current.as_state(identities.total)
    if now.version != then.calibration.version or now.reason != then.calibration.reason:
        return False
    # Among few people the thresholds depend on how many people and crops there are.
    return now.reason != "few_identities" or gallery.version == then.gallery_version


def _read_form(opened: OpenedSearch) -> QueryForm:
    request = opened.request
    if left_out := request.get("left_out"):
        raise InvalidField(
            f"query_id: the search cannot be repeated, since {', '.join(left_out)} of it are not "
            "kept; search anew"
        )
    fields = {name: value for name, value in request.items() if name in QueryForm.model_fields}
    # `images` is their number here.
    for name in ("images", "mode", "group_by", "min_version"):
        fields.pop(name, None)
    if not request["images"] and not request.get("track"):
        fields["crop_id"] = request.get("crop_ids") or [opened.crop_id or ""]
    fields |= {"scoring": opened.answer.scoring, "order": "score", "top_k": KEPT_RESULTS}
    form = QueryForm.model_validate(fields)
    if not request["images"] and not form.crop_id and not form.track:
        raise InvalidField("query_id: a search by a vector cannot be repeated; search anew")
    return form


async def _read_images(
    call: GalleryCall, opened: OpenedSearch
) -> tuple[Sequence[ImageFile], list[str]]:
    """Return the picture to search by, if there was one, and what is to be known about it."""
    count = opened.request["images"]
    if count == 0:
        return [], []
    if count > 1:
        raise InvalidField(
            f"query_id: the search by {count} pictures cannot be repeated, since at most one is "
            "kept; search anew"
        )
    picture = await read_search_picture(call, opened.query_id)
    (file,) = opened.files
    digest = hashlib.sha256(picture.content).hexdigest()
    is_reduced = file.box is None and digest != file.sha256
    return [picture.content], [REDUCED] if is_reduced else []
