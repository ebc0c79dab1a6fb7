"""`/v1/galleries/{gallery}/crops` and `/identities`: enroll, list, read, change, delete, forget."""

from __future__ import annotations

from typing import Annotated

from fastapi import Header, Path, Query, Request, Response

from gmn_client.models import (
    ChangedCrop,
    ChangedCrops,
    Crop,
    Crops,
    EnrolledImage,
    Enrollment,
    ForgottenIdentity,
    Identities,
    IdentityDetail,
    IdentityOrder,
    Merges,
    Removal,
    RemovedCrops,
    RenamedIdentity,
    Sighted,
    SimilarIdentities,
    Tracks,
)
from service import forgetting
from service.errors import InvalidField
from service.gallery.browse import described_crops
from service.gallery.enroll import ImageToEnroll
from service.http.fields import Camera, Id, Label, Name, Text
from service.http.forms import (
    CURSOR_TEXT,
    CropFields,
    CropsChanges,
    CropsChosen,
    CropsQuery,
    EnrollForm,
    Form,
    Limit,
    Sent,
)
from service.http.guard import Admin, Deleter, Enroller, Searcher, guarded_router
from service.http.limits import FormRequest
from service.http.problems import answer_each, example, problems, write_list
from service.http.thumbnails import PICTURE, Width, answer_picture
from service.links import link_identities, link_identity, link_tracks
from service.ops.data_directory import failpoint
from service.watch.sightings import sight

router = guarded_router("/v1/galleries/{gallery}", "crops")
identity_router = guarded_router("/v1/galleries/{gallery}", "identities")
CropId = Annotated[Id, Path(description="A crop's id, as answered by the enrollment.")]
IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="A name for this request; repeated under this name, it happens once.",
    ),
]
# A page of crops with their vectors has this many at most.
MOST_VECTORS = 100
# Fields of a listing that the audit log contains.
NAMED = {"identity", "external_id", "include_vector"}


@router.post(
    "/crops",
    status_code=201,
    response_model=Enrollment,
    responses=problems("needs_reindex", "request_conflict")
    | {
        201: example("Enrollment"),
        207: {"model": Enrollment, "description": "Some images landed, some did not."},
    },
)
async def enroll_crops(
    request: FormRequest,
    call: Enroller,
    form: Sent[EnrollForm],
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Enrolls images; stored crops survive a power cut and can be found from now on.

    With `boxes`, the crops in these boxes of the single image are enrolled; they are stored as PNG,
    and the image itself is not stored. For a duplicate, `crop_id` is null unless the key has the
    scope `query`, `delete` or `admin`. With `vector`, nothing is embedded and no picture is stored;
    a reindex reports these crops because it cannot embed them. Equal vectors are duplicates.

    With `keep_best`, only a few crops of each camera's track are kept: good pictures that differ.
    Others are deleted, for which the key also needs the scope `delete`, or answered with `kept:
    false`. A named crop never gives way to an unnamed one. With `watch`, for which the key also
    needs the scope `sight`, the crops are also compared with the armed lists of other galleries, as
    sightings. The gallery must then have `retention_days` or `retention_hours`.

    With an `Idempotency-Key`, the same request of an API key takes effect once within a day;
    repetitions get the first answer, with `Idempotent-Replayed: true`.
    """
    runtime = call.runtime
    gallery = call.gallery
    images = await request.parse(_read_images, form)
    computed = None
    if form.vector:
        computed = await runtime.pools.files.run(form.read_vectors)
    if not form.watch:
        for field in ("still", "zone"):
            if any(getattr(image, field) for image in images):
                raise InvalidField(
                    f"{field}: is for watch lists, and this enrollment is not compared with them; "
                    "leave it out, or send watch=true"
                )
    if form.keep_best is not None:
        call.caller.require("delete")
    if form.watch:
        call.caller.require("sight")
        if call.caller.gallery is not None:
            raise InvalidField(
                "watch: compares crops with other lists than their gallery, and this key is for "
                "this gallery only; leave it out, or send a key for every gallery"
            )
        # The crops show everybody who passes a camera.
        if gallery.settings.retention is None:
            raise InvalidField(
                f"watch: gallery {gallery.name!r} would keep everybody whom a camera sees, as it "
                "deletes no crops; set a retention, for example 30 days (PATCH "
                f"/v1/galleries/{gallery.name} retention_days=30), or enroll without watch"
            )
    failpoint("enroll.body-read")
    # Clients with different API keys may choose the same Idempotency-Key.
    name = idempotency_key and f"client:{call.caller.key_id}:{idempotency_key}"
    answer, embedded = await runtime.enrollment.enroll(
        gallery, images, name, computed, form.keep_best
    )
    if form.watch:
        sighted = await sight(
            runtime, call.caller, images, request.state.received, enrolled=embedded
        )
        answer = _add_warnings(answer, sighted)
    if not call.caller.may("query", "delete"):
        answer = _hide_known_ids(answer)
    response = await answer_each(request, answer, 201)
    if response.status_code == 201:
        # The operation takes one crop, or several as a list.
        crop_ids = [image.crop_id for image in answer.results]
        crop = f"/{crop_ids[0]}" if len(crop_ids) == 1 and crop_ids[0] else ""
        response.headers["Location"] = f"/v1/galleries/{gallery.name}/crops{crop}"
    if answer.replayed:
        response.headers["Idempotent-Replayed"] = "true"
    return response


def _read_images(form: EnrollForm) -> list[ImageToEnroll]:
    """Return the crops or vectors of a form with their labels."""
    return form.for_images(form.read_crops() or [None] * len(form.vector))


def _add_warnings(answer: Enrollment, sighted: Sighted) -> Enrollment:
    results = []
    for image, sighting in zip(answer.results, sighted.results, strict=True):
        if isinstance(image, EnrolledImage):
            warnings = list(image.warnings)
            if sighting.problem:
                warnings.append(f"not compared with the watch lists: {sighting.problem.detail}")
            else:
                warnings += [text for text in sighting.warnings if text not in warnings]
            image = image.model_copy(update={"warnings": warnings})
        results.append(image)
    return answer.model_copy(update={"results": results})


def _hide_known_ids(answer: Enrollment) -> Enrollment:
    # An existing crop may belong to another key.
    results = [
        image.model_copy(update={"crop_id": None})
        if isinstance(image, EnrolledImage) and image.duplicate
        else image
        for image in answer.results
    ]
    return answer.model_copy(update={"results": results})


@router.get("/crops", response_model=Crops)
async def list_crops(
    request: Request, call: Searcher, query: Annotated[CropsQuery, Query()]
) -> Response:
    """Lists crops; a page other than the last may have fewer than `limit`, even none.

    In order of capture, crops of unknown time are sorted by their time of enrollment.
    """
    wanted = query.filter()
    limit = min(query.limit, MOST_VECTORS) if query.include_vector else query.limit

    def read(gallery_id: int) -> Crops:
        stored = call.record.crops.page(gallery_id, wanted, query.cursor or "", limit, query.order)
        results = described_crops(
            call.runtime.record, call.gallery, stored.crops, query.include_vector
        )
        return Crops(results=results, next_cursor=stored.cursor)

    page = await call.read(read)
    filters = query.model_dump(include=NAMED, exclude_defaults=True)
    # Listing one identity's crops is a search by name.
    call.note_view("query" if filters else "list_crops", count=len(page.results), filters=filters)
    return await write_list(request, page)


@router.patch("/crops", responses=problems("crop_conflict"))
async def change_crops(call: Admin, form: Sent[CropsChanges]) -> ChangedCrops:
    """Changes the labels of all crops that pass a filter; omitted labels stay unchanged."""
    return await call.runtime.crop_changes.change_matching(
        call.gallery, form.filter(), form.changes(), form.dry_run
    )


@router.delete("/crops")
async def delete_crops(call: Admin, form: Sent[CropsChosen]) -> RemovedCrops:
    """Deletes all crops that pass a filter, with vectors and pictures."""
    return await call.runtime.crop_deletions.forget_matching(
        call.gallery, form.filter(), form.dry_run
    )


@router.get("/crops/{crop_id}")
async def read_crop(
    call: Searcher,
    crop_id: CropId,
    include_vector: Annotated[bool, Query(description="Answer the crop's vector too.")] = False,
) -> Crop:
    """Reads the labels and metadata of one crop."""
    crop = await call.runtime.browser.read_crop(call.gallery, crop_id, include_vector)
    filters = {"include_vector": True} if include_vector else {}
    call.note_view("read_crop", crop_ids=[crop_id], filters=filters)
    return crop


@router.patch("/crops/{crop_id}", responses=problems("crop_conflict"))
async def change_crop(call: Admin, crop_id: CropId, form: Sent[CropFields]) -> ChangedCrop:
    """Changes a crop's labels, or sets it aside; an empty label becomes unknown.

    An omitted field stays unchanged. No search, grouping or watch list finds a crop that is set
    aside, and thresholds are fitted without it; listings, exports and backups have it.
    """
    return await call.runtime.crop_changes.change_crop(call.gallery, crop_id, form.changes())


@router.delete("/crops/{crop_id}")
async def delete_crop(call: Deleter, crop_id: CropId) -> Removal:
    """Deletes one crop with its vector and picture; a second attempt answers 404."""
    return await call.runtime.crop_deletions.forget_crop(call.gallery, crop_id)


@router.get(
    "/crops/{crop_id}/image",
    response_class=Response,
    responses=problems("unknown_crop", "unknown_picture") | PICTURE,
)
async def read_crop_image(
    request: Request, call: Searcher, crop_id: CropId, width: Width = None
) -> Response:
    """Reads the stored image file, its type derived from its bytes; with `width` a small JPEG.

    The JPEG has an `ETag`, and an `If-None-Match` that contains it is answered with 304.
    """
    runtime = call.runtime
    gallery = call.gallery
    await runtime.browser.read_crop(gallery, crop_id)
    answer = await answer_picture(
        request, runtime, crop_id, width, lambda: runtime.browser.read_picture(gallery, crop_id)
    )
    call.note_view("view", crop_ids=[crop_id])
    return answer


# Maximum length of a cursor: a name and the number by which it is sorted.
MAX_PLACE = 512
Identity = Annotated[Label, Path(description="An identity, as enrolled.", examples=["0042"])]


class IdentityFields(Form):
    """An identity's new name."""

    new_identity: Name
    """The new name; an existing identity of that name is merged with."""


@router.get("/tracks")
async def list_tracks(
    call: Searcher,
    cursor: Annotated[
        str | None, Query(max_length=MAX_PLACE, pattern="^[^,]*,.", description=CURSOR_TEXT)
    ] = None,
    limit: Annotated[int, Query(ge=1, le=100, description="Tracks on one page.")] = 100,
    camera: Annotated[Camera | None, Query(description="Only of this camera.")] = None,
) -> Tracks:
    """Lists tracks by their ids; an id used by several cameras is a track of each.

    `cohesion` is the lowest cosine of a crop to the mean of the others: a low value suggests that
    the track switches from one person to another. With `camera`, a page may be empty. Name, move or
    delete a track by changing the crops that pass `track` and `camera`.
    """
    tracks = await call.read(call.record.tracks.page, cursor, limit, camera)
    page = link_tracks(call.gallery.name, tracks)
    filters = {"cameras": [camera]} if camera else {}
    call.note_view("list_tracks", count=len(page.results), filters=filters)
    return page


@identity_router.get("/identities")
async def list_identities(
    call: Searcher,
    cursor: Annotated[str | None, Query(max_length=MAX_PLACE, description=CURSOR_TEXT)] = None,
    limit: Limit = 100,
    query: Annotated[
        Text, Query(description="Only identities that contain this text, in any case.")
    ] = "",
    sort: Annotated[
        IdentityOrder,
        Query(
            description="In natural order (7 before 10), the last seen or enrolled first, or those "
            "with the most crops first."
        ),
    ] = "name",
) -> Identities:
    """Lists identities, by name unless `sort` selects another order; unnamed crops do not count.

    Each identity has the crop with its best picture: the sharpest and largest as measured on
    enrollment or, among crops that were not measured, the one with the largest file.
    """
    people = await call.read(call.record.people.page, cursor, limit, query, sort)
    page = link_identities(call.gallery.name, people)
    event = "query" if query else "list_identities"
    call.note_view(event, count=len(page.results), filters={"identity": query})
    return page


@identity_router.get("/identities/{identity:path}")
async def read_identity(call: Searcher, identity: Identity) -> IdentityDetail:
    """Reads the crops, cameras and times of an identity, and which crop shows it best."""
    person = await call.read(call.record.people.get, identity)
    call.note_view("query", count=1, filters={"identity": identity})
    shown = await call.read(call.runtime.desk.kept.count_shown, identity)
    return link_identity(call.gallery.name, person | shown)


@identity_router.get(
    "/similar",
    responses=problems(
        "unknown_identity",
        "needs_reindex",
        "queue_full",
        "device_full",
        "device_lost",
        "index_unavailable",
        "storage_failed",
    ),
)
async def list_similar(
    call: Searcher,
    identity: Annotated[Name, Query(description="The identity.")],
    limit: Annotated[int, Query(ge=1, le=100, description="How many at most.")] = 10,
) -> SimilarIdentities:
    """Lists identities that may be the same person as this one, most similar first.

    They are found by a search with its best crops, at most eight, among the named crops of others;
    probabilities and verdicts are those of this search.
    """
    call.runtime.audit.require_room()
    similar = await call.runtime.search.find_similar(call.gallery, identity, limit)
    call.note_view("query", count=len(similar.results), filters={"identity": identity})
    return similar


@identity_router.patch("/identities/{identity:path}")
async def rename_identity(
    call: Admin, identity: Identity, form: Sent[IdentityFields]
) -> RenamedIdentity:
    """Renames an identity, or merges it into an existing one."""
    return await call.runtime.crop_changes.relabel_identity(
        call.gallery, identity, form.new_identity
    )


@identity_router.delete("/identities/{identity:path}")
async def forget_identity(call: Admin, identity: Identity) -> ForgottenIdentity:
    """Forgets a person: deletes every crop, vector and image.

    The answer lists the removed data, and where and until when copies remain, such as exports.
    """
    return await forgetting.forget_identity(call.runtime, call.gallery, identity)


@identity_router.get("/merges")
async def list_merges(call: Searcher) -> Merges:
    """Lists the merges of identities in the last 30 days that can be undone, newest first."""
    merges = await call.read(call.record.people.merges)
    call.note_view("list_merges", count=len(merges))
    return Merges(results=merges)


@identity_router.post("/merges/{merge_id}/undo")
async def undo_merge(
    call: Admin, merge_id: Annotated[Id, Path(description="A merge's id, as its answer has it.")]
) -> RenamedIdentity:
    """Undoes a merge: its crops get their former identity back.

    Crops that have since been deleted or renamed stay as they are.
    """
    return await call.runtime.crop_changes.undo_merge(call.gallery, merge_id)
