"""The options of a query and of a pair."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from model.arrays import Floats
from model.calibration import Scoring
from service.index.filters import EVERY_CROP, GroupBy, SearchFilter

Order = Literal["neighbours", "score"]
Mode = Literal["multi_shot", "separate"]
OperatingPoint = Literal["far_1e-1", "far_1e-2", "far_1e-3"]
PairOperatingPoint = Literal["pair_far_1e-2", "pair_far_1e-3", "pair_far_1e-4"]
# Shallower searches are judged by the artefact's calibration, and their scores are not stored.
RERANK_DEPTH = 100
# Limit on the crops of one query.
MOST_ASKING = 32


@dataclass(frozen=True)
class QueryVector:
    """A vector `(d,)` to search by, and the fingerprint of the embedder that made it."""

    vector: Floats
    embedder: str


@dataclass(frozen=True, kw_only=True)
class QueryOptions:
    """Options of a query, by images unless one of the first four fields has a value.

    Attributes:
        crop_ids: search by these crops, at most `MOST_ASKING`; several by the mean of their scores.
        track: search by the crops of this track, in `camera` if that has a value.
        identity: search by the best crops of this identity.
        vector: search by this vector.
        wanted: the crops that may be results.
        camera: camera that took the query images, or in which the track is.
        captured_at: time of capture of the query images.
        uses_times: results also follow the times of capture, in a gallery that has learned them.
        camera_disjoint: exclude the cameras of the query: `camera`, or those of the query's crops.
        mode: images show one person, or each is a query of its own.
        top_k: number of results, or of groups if grouped.
        rerank_depth: number of candidates that M-Net scores.
        scoring: None for the artefact's default.
        keep_picture: prepare the first usable image to be kept.
    """

    crop_ids: tuple[str, ...] = ()
    track: str | None = None
    identity: str | None = None
    vector: QueryVector | None = None
    wanted: SearchFilter = EVERY_CROP
    camera: str | None = None
    captured_at: datetime | None = None
    uses_times: bool = False
    camera_disjoint: bool = False
    mode: Mode = "multi_shot"
    top_k: int = 10
    rerank_depth: int = RERANK_DEPTH
    scoring: Scoring | None = None
    group_by: GroupBy = "crop"
    order: Order = "neighbours"
    operating_point: OperatingPoint = "far_1e-2"
    include_vector: bool = False
    keep_picture: bool = False


@dataclass(frozen=True)
class PairOptions:
    """Options of a comparison of two images.

    Attributes:
        scoring: None for the artefact's default.
        operating_point: `pair_far_1e-3` by default, or with a gallery `far_1e-2`.
        gallery: judge like a search result of this gallery, by its calibration.
        explain: also return the contribution of each region.
    """

    scoring: Scoring | None = None
    operating_point: PairOperatingPoint | OperatingPoint | None = None
    gallery: str | None = None
    explain: bool = False
