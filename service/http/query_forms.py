"""Forms of queries and comparisons."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from model.calibration import Scoring
from service.errors import InvalidField
from service.gallery.labels import MAX_METADATA_BYTES, MAX_TEXT, checked_metadata
from service.http.fields import (
    MAX_VECTOR,
    Id,
    Label,
    Moment,
    Names,
    Texts,
    Track,
    read_vector,
    require_order,
    without_empty,
)
from service.http.forms import FrameForm, Images, SomeImagesForm
from service.index.filters import GroupBy, SearchFilter, pairs_of
from service.search.options import (
    MOST_ASKING,
    RERANK_DEPTH,
    Mode,
    OperatingPoint,
    Order,
    PairOperatingPoint,
    PairOptions,
    QueryOptions,
    QueryVector,
)

MOST_GALLERIES = 20
# Fields of a query in the audit log, besides its crops, its purpose and the keys of `metadata`.
AUDITED_FIELDS = {
    "cameras",
    "exclude_cameras",
    "camera",
    "camera_disjoint",
    "captured_after",
    "captured_at",
    "captured_before",
    "identities",
    "unnamed",
    "track",
}
# Fields of a kept search. Others are dropped: they may name a person, and forgetting would not find
# that name here.
KEPT_FIELDS = {
    "camera",
    "camera_disjoint",
    "cameras",
    "captured_after",
    "captured_at",
    "captured_before",
    "exclude_cameras",
    "group_by",
    "min_version",
    "mode",
    "operating_point",
    "order",
    "purpose",
    "rerank_depth",
    "scoring",
    "top_k",
    "track",
    "unnamed",
}
# The names of these dropped filters are kept: without them, the search cannot be repeated.
DROPPED_FILTERS = ("identities", "metadata")
# A version of a gallery.
Version = Annotated[int, Field(ge=0, le=2**63 - 1)]
JSON_OBJECT = BeforeValidator(lambda sent, info: checked_metadata(info.field_name, sent))
JSON_TEXT = WithJsonSchema({"type": "string", "maxLength": MAX_METADATA_BYTES})


class QueryForm(FrameForm):
    """One or several images, or `crop_id`, or `track`, or `vector`."""

    images: Images = Field([])
    instead = ("crop_id", "track", "vector")

    crop_id: Annotated[tuple[Id, ...], BeforeValidator(without_empty)] = Field(
        (), max_length=MOST_ASKING
    )
    """Query by this crop instead of images; repeat it to query by a mean of crops."""
    track: Track | None = None
    """Query by the crops of this track instead of images; `camera` selects one of several cameras
    that use its id."""
    vector: str | None = Field(None, max_length=MAX_VECTOR)
    """Query by a vector instead of images: a JSON array of numbers, or base64 of little-endian
    float32, as returned with include_vector or by /v1/embeddings."""
    embedding_fingerprint: Id | None = None
    """The embedder that made `vector`, as returned with it."""
    include_vector: bool = False
    """Also return the vector of each result."""
    mode: Mode = "multi_shot"
    """Images show one person (mean score), or get one answer each."""
    top_k: int = Field(10, ge=1, le=10_000)
    """Number of results, or of groups if grouped."""
    rerank_depth: int = Field(RERANK_DEPTH, ge=1, le=10_000)
    """Candidates that M-Net scores."""
    scoring: Scoring | None = None
    """Default: the artefact's; /v1/model lists the available ones."""
    group_by: GroupBy = "crop"
    """Return only the best crop of each identity or track."""
    order: Order = "neighbours"
    """Order of a list of crops: crops of one person together, or by score only."""
    operating_point: OperatingPoint = "far_1e-2"
    """The false-alarm rate of the verdict `match`."""
    cameras: Names = ()
    """Only these cameras; repeated or comma-separated."""
    exclude_cameras: Names = ()
    """Exclude these cameras."""
    captured_after: Moment | None = None
    """Only crops captured since this time."""
    captured_before: Moment | None = None
    """Only crops captured until this time."""
    identities: Texts = ()
    """Only crops of these identities; repeated."""
    unnamed: bool = False
    """Only crops without an identity."""
    metadata: Annotated[dict[str, Any], JSON_OBJECT, JSON_TEXT] | None = Field(
        None, examples=['{"shift": "night"}']
    )
    """A JSON object; only crops whose metadata has each of its keys with its value."""
    camera: Label | None = None
    """The camera that took the query images."""
    captured_at: Moment | None = None
    """When the query images were taken; results follow it too in a gallery with `time_evidence`."""
    camera_disjoint: bool = False
    """Exclude the query's cameras: `camera`, or those of the query's crops."""
    min_version: Version = 0
    """Wait until the gallery has reached at least this version."""
    purpose: str | None = Field(None, max_length=MAX_TEXT)
    """Reason for the query, such as a case number; stored in the audit log."""
    keep: bool = False
    """Keep the search; the answer then has a `query_id`."""
    keep_picture: bool = False
    """With `keep`: also keep the first usable image, and the names of the image files."""

    @model_validator(mode="after")
    def _require_consistency(self) -> Self:
        if self.captured_after and self.captured_before:
            require_order(self.captured_after, self.captured_before)
        sources = sum(bool(value) for value in (self.crop_id, self.track, self.vector))
        if sources > 1:
            raise InvalidField("crop_id, track, vector: more than one was sent; send one of them")
        if sources:
            # Without images there is one answer.
            self.mode = "multi_shot"
        if self.unnamed and self.identities:
            raise InvalidField("unnamed, identities: no crop passes both; send one or the other")
        if self.camera_disjoint and not (self.camera or self.crop_id or self.track):
            raise InvalidField("camera_disjoint: the camera of the images is unknown; send camera")
        if self.keep_picture and not self.keep:
            raise InvalidField("keep_picture: needs keep=true; send that too")
        return self

    def options(self) -> QueryOptions:
        """Return the typed options; raises `InvalidField` for a bad vector."""
        return QueryOptions(
            crop_ids=self.crop_id,
            track=self.track,
            vector=self._read_vector(),
            wanted=self._filter(),
            camera=self.camera,
            captured_at=self.captured_at,
            # A kept search may be printed in a case, where appearance alone counts.
            uses_times=not self.keep,
            camera_disjoint=self.camera_disjoint,
            mode=self.mode,
            top_k=self.top_k,
            rerank_depth=self.rerank_depth,
            scoring=self.scoring,
            group_by=self.group_by,
            order=self.order,
            operating_point=self.operating_point,
            include_vector=self.include_vector,
            keep_picture=self.keep_picture,
        )

    def kept_fields(self) -> dict[str, Any]:
        """Return the fields that are stored with a kept search."""
        request = self.model_dump(mode="json", include=KEPT_FIELDS, exclude_defaults=True)
        if left_out := [name for name in DROPPED_FILTERS if getattr(self, name)]:
            request["left_out"] = left_out
        return request

    def audited_filters(self) -> dict[str, Any]:
        filters = self.model_dump(mode="json", include=AUDITED_FIELDS, exclude_defaults=True)
        if self.metadata:
            # Its values may be personal.
            filters["metadata"] = sorted(self.metadata)
        return filters

    def _filter(self) -> SearchFilter:
        return SearchFilter(
            cameras=frozenset(self.cameras),
            exclude_cameras=frozenset(self.exclude_cameras),
            captured_after=self.captured_after,
            captured_before=self.captured_before,
            named=False if self.unnamed else None,
            identities=frozenset(self.identities),
            metadata=pairs_of(self.metadata) if self.metadata else frozenset(),
        )

    def _read_vector(self) -> QueryVector | None:
        if self.vector is None:
            return None
        if self.embedding_fingerprint is None:
            raise InvalidField(
                "embedding_fingerprint: is missing; send the one that was returned with the vector"
            )
        return QueryVector(read_vector(self.vector), self.embedding_fingerprint)


class GalleriesForm(QueryForm):
    """One or several images, or `crop_id` or `track` with `gallery`, or `vector`."""

    galleries: Names = Field((), max_length=MOST_GALLERIES)
    """Repeated or comma-separated; default: all that the key may access."""
    gallery: Id | None = None
    """The gallery of `crop_id` or `track`."""
    min_versions: Annotated[dict[str, Version], JSON_OBJECT, JSON_TEXT] | None = Field(
        None, examples=['{"entrance": 12}']
    )
    """A JSON object; waits until each of these galleries has reached at least its version."""

    @model_validator(mode="after")
    def _require_fields_of_several(self) -> Self:
        if bool(self.crop_id or self.track) != bool(self.gallery):
            raise InvalidField(
                "gallery: needs crop_id or track, and they need it; send both or neither"
            )
        if self.min_version:
            raise InvalidField(
                "min_version: each gallery counts its own versions; send min_versions, such as "
                '{"entrance": 12}'
            )
        return self


class PairForm(SomeImagesForm):
    """Exactly two images."""

    images: Images = Field(json_schema_extra={"minItems": 2, "maxItems": 2, "examples": [["", ""]]})
    scoring: Scoring | None = None
    """Default: the artefact's; /v1/model lists the available ones."""
    operating_point: Literal[PairOperatingPoint, OperatingPoint] | None = None
    """pair_far_1e-3 by default, or with gallery far_1e-2."""
    gallery: Id | None = None
    """Judge like a search result of this gallery, by its calibration."""
    explain: bool = False
    """Also return the contribution of each region."""

    def options(self) -> PairOptions:
        return PairOptions(self.scoring, self.operating_point, self.gallery, self.explain)
