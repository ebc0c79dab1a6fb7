"""The content of galleries: crops, identities, snapshots, and a gallery's own description."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

from gmn_client.wire import Moment, Page, RefusedImage, Scoring, Verdict, WireModel, absent

CalibrationSource = Literal["artefact", "own", "frozen", "off"]
CalibrationReason = Literal[
    "not_fitted", "few_identities", "few_scored", "shallow_search", "extrapolated"
]
CropOrder = Literal["enrolled", "captured", "-captured"]
RetentionFrom = Literal["captured", "enrolled"]
IdentityOrder = Literal["name", "last_seen", "crops"]
Pixels = Annotated[int, Field(ge=-1_000_000, le=1_000_000)]


class Box(BaseModel):
    """The box of one person in a frame, in pixels; `x` and `y` are of its left upper corner."""

    model_config = ConfigDict(extra="forbid")

    x: Pixels
    y: Pixels
    width: Pixels
    height: Pixels


class EnrolledImage(WireModel):
    """An image that is in the gallery; with `duplicate` it was there before, as `crop_id`.

    The `crop_id` of a duplicate is null for a key that has none of `query`, `delete` and `admin`.
    """

    problem: ClassVar[None] = None

    crop_id: str | None
    identity: str | None
    camera: str | None
    duplicate: bool
    warnings: list[str]


class Enrollment(WireModel):
    """One entry per image, in order."""

    # None where no image landed: that answer is a problem document, which has no version.
    # A factory, since the schema would show a default.
    gallery_version: int | SkipJsonSchema[None] = Field(default_factory=lambda: None)
    results: list[EnrolledImage | RefusedImage]
    # Sent as the header Idempotent-Replayed: the request happened before, with this answer.
    replayed: SkipJsonSchema[bool] = Field(default=False, exclude=True)


class Crop(WireModel):
    """A stored crop; its picture is at `image_url`, `sha256` is of the file that was sent.

    `vector`, with the `embedding_fingerprint` of its embedder, is there with `include_vector`, but
    of a crop that is removed at this moment.
    """

    crop_id: str
    identity: str | None
    camera: str | None
    captured_at: Moment | None
    external_id: str | None
    metadata: Mapping[str, Any] | None
    sha256: str
    content_type: str | None
    created_at: Moment
    image_url: str | None
    vector: list[float] | None = Field(default=None, exclude_if=absent)
    embedding_fingerprint: str | None = Field(default=None, exclude_if=absent)


class Crops(Page[Crop]):
    """One page of crops; one that is not the last may have fewer than `limit`, also none."""


class Removal(WireModel):
    """The number of removed crops; from `gallery_version` on they are never returned again."""

    gallery_version: int
    removed: int


class RemovedCrops(Removal):
    """How many crops passed the filter, and how many were removed: none by a `dry_run`."""

    matched: int


class ChangedCrops(WireModel):
    """How many crops passed the filter, and how many are others from `gallery_version` on.

    None change by a `dry_run`, nor crops that were so before.
    """

    gallery_version: int
    matched: int
    changed: int


class GalleryRemoval(WireModel):
    """The number of crops that were deleted with the gallery."""

    removed: int


class CalibrationState(WireModel):
    """The calibration behind verdicts and probabilities.

    `state`: `artefact`, its thresholds for the number of identities searched; `own`, fitted to this
    gallery; `frozen`, fitted, and no longer changed; `off`, the artefact's, and no search is kept.
    `basis` is one sentence for people: the basis of the thresholds. `reason` is why they are the
    artefact's: `not_fitted` (the first fit comes a few seconds after the 18th named identity),
    `few_identities` (the search covers fewer than 18), `few_scored` (it scored fewer than nine
    identities), `shallow_search` (a `rerank_depth` below the default); or that they are
    `extrapolated` to more than ten times as many identities as the fit covered. `identities` and
    `crops` are the numbers that the gallery held at the fit to its named crops, 0 without such a
    fit; `searches` is the number that the fit uses, or that is kept before the first fit. Equal
    `version`s give equal verdicts; null where no loaded model answers. `date` is that of the fit.
    """

    # A pair's answer leaves out null.
    model_config = ConfigDict(json_schema_serialization_defaults_required=False)

    state: CalibrationSource
    reason: CalibrationReason | None = None
    basis: str = ""
    identities: int = 0
    crops: int = 0
    searches: int = 0
    version: str | None = None
    date: Moment | None = None


class GalleryCalibration(CalibrationState):
    """The calibration of a search of a whole gallery, by the default `scoring`.

    `scorings` has that of each scoring which the gallery's artefact offers.
    """

    scoring: Scoring
    scorings: dict[Scoring, CalibrationState]


class Gallery(WireModel):
    """A gallery: its size, its settings, and whether it can be searched.

    `version` grows with every change; a query's `min_version` refers to it. `state` is
    `previous_model` where the model before answers for it and `needs_reindex` where no loaded one
    does. `recall` is the measured share of the true nearest that its index finds, null where the
    index is exact. `index_bytes` are of the vectors in memory, `image_bytes` of the kept images.
    Crops older than `retention_days` are deleted, counted from `retention_from`; null keeps all.
    """

    name: str
    crops: int
    identities: int
    embedding_fingerprint: str
    version: int
    index_kind: str
    dtype: str
    index_bytes: int
    image_bytes: int
    recall: float | None
    state: Literal["ready", "previous_model", "needs_reindex"]
    retention_days: int | None
    retention_from: RetentionFrom
    calibration: GalleryCalibration
    created_at: Moment


class Galleries(Page[Gallery]):
    """Every gallery; `audit_queries`: whether searches and views are in the audit log."""

    audit_queries: bool


class Identity(WireModel):
    """The number of crops of one identity, and of the cameras that took them.

    `crop_id` has its best picture, whose file is at `image_url`, null where none is kept.
    `last_seen` is the last capture of a crop, or enrollment where the time of capture is unknown.
    """

    identity: str
    crops: int
    cameras: int
    crop_id: str
    image_url: str | None
    last_seen: Moment


class Identities(Page[Identity]):
    """One page of identities, in the order of their names unless another one was asked for."""


class IdentityDetail(WireModel):
    """The number of crops of one identity, and the cameras that took them; see `Identity`.

    Forgetting the identity deletes `kept_searches` searches; `cases` counts them by case.
    """

    identity: str
    crops: int
    cameras: list[str]
    crop_id: str
    image_url: str | None
    first_seen: Moment
    last_seen: Moment
    kept_searches: int = 0
    cases: dict[str, int] = Field(default_factory=dict)


class SimilarIdentity(WireModel):
    """An identity that may be the same person: the result of a search by another one's best crops.

    `crop_id` is its crop with the highest score; `probability` and `verdict` are of that.
    """

    identity: str
    probability: float
    verdict: Verdict
    crop_id: str
    image_url: str
    crops: int


class SimilarIdentities(Page[SimilarIdentity]):
    """The most alike first."""


class RenamedIdentity(WireModel):
    """The number of crops with the new name; `merged` where others had it before.

    A merge can be undone for 30 days under its `merge_id`, null for none.
    """

    gallery_version: int
    identity: str
    changed: int
    merged: bool
    merge_id: str | None = None


class Merge(WireModel):
    """Two identities that were made one: `crops` of `identity` became crops of `into`."""

    merge_id: str
    identity: str
    into: str
    crops: int
    merged_at: Moment
    undo_until: Moment


class Merges(Page[Merge]):
    """The merges of the last 30 days, newest first."""


class ChangedCrop(WireModel):
    """A crop as it is known from `gallery_version` on."""

    gallery_version: int
    crop: Crop


class Remainder(WireModel):
    """A trace of a forgotten person that is still kept: where, what, and until when."""

    where: str
    what: str
    until: str


class ForgottenIdentity(Removal):
    """The removed data of a person, `snapshots` by their ids, and the remaining copies.

    `kept_searches` counts the searches whose picture showed the person; `cases` counts them by the
    id of the case that held them.
    """

    snapshots: dict[str, int]
    kept_searches: int = 0
    cases: dict[str, int] = Field(default_factory=dict)
    remaining: list[Remainder]


class Snapshot(WireModel):
    """A copy of a gallery as of `version`; `sha256` is over its crops' checksums."""

    snapshot_id: str
    version: int
    embedding_fingerprint: str
    crops: int
    bytes: int
    sha256: str
    created_at: Moment


class Snapshots(Page[Snapshot]):
    """Every snapshot of a gallery, oldest first."""


class RestoredSnapshot(WireModel):
    """The content of a gallery after a restore."""

    gallery_version: int
    snapshot_id: str
    crops: int
